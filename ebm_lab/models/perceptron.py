"""Hand-written derivatives of a perceptron in its input, and the parameters' gradients of these.

    f(u) = w . a_n + c,    a_l = act(h_l),    h_l = W_l a_{l-1} + b_l,    a_0 = u
    grad f = p_0:          p_n = w,           p_{l-1} = W_l' (p_l act'(h_l))
    sum_k v_k' Hess f v_k = sum_l p_l . act''(h_l) sum_k tau_lk^2,    tau_lk = W_l t_{l-1,k},  t_lk = act'(h_l) tau_lk

with t_0k = v_k. Automatic differentiation gives the same numbers, at two to three times the cost when it differentiates
its own backward pass, because it splits the activation's derivative into many small operations. With cotangents
F of f, P of grad f and C of the curvature, the parameters' gradient is that of

    S = F f + w . mu_n,    mu_0 = P,    m_l = W_l mu_{l-1},    mu_l = act'(h_l) m_l + C act''(h_l) sum_k tau_lk^2

since mu is the derivative of a along P, plus C times its second derivatives along v. The adjoint of mu_l in S is p_l,
which is already known, so one more forward pass (mu) and one backward pass (the adjoints of a and t) suffice.

Barak A. Pearlmutter, Fast Exact Multiplication by the Hessian, 1994 (the derivative of a gradient along a direction).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ebm_lab.models.curved import SiLU
from ebm_lab.models.products import linear, outer

Slopes = Callable[[Tensor, bool], tuple[Tensor, Tensor, Tensor, Tensor | None]]
"""(h, third) -> act, act', act'' and, if `third`, act''' at h, whose memory may be used for them."""


def _silu(h: Tensor, third: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Compute a = h s, s = sigmoid(h):  a' = s + a (1 - s),  a'' = (1 - s) (2 a' - a),  a''' = (2 - 3 s) a'' - (1 - s)
    a'."""
    s = h.sigmoid()
    a = h.mul_(s)
    a1 = torch.lerp(a, s.new_ones(()), s)
    v = s - 1 if third else s.sub_(1)
    a2 = torch.sub(a, a1, alpha=2).mul_(v)
    return a, a1, a2, torch.rsub(s, 2, alpha=3).mul_(a2).addcmul_(v, a1) if third else None


def _softplus(h: Tensor, third: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    s = h.sigmoid()
    r = s - s * s
    return nn.functional.softplus(h), s, r, r * (1 - 2 * s) if third else None


def _tanh(h: Tensor, third: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    t = h.tanh()
    s = 1 - t * t
    return t, s, -2 * t * s, s * (6 * t * t - 2) if third else None


def _gelu(h: Tensor, third: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Compute h Phi(h), with phi' = -h phi."""
    q = h * h
    phi, whole = (-0.5 * q).exp() / (2 * torch.pi) ** 0.5, 0.5 * (1 + (h * 0.5**0.5).erf())
    return h * whole, whole + h * phi, phi * (2 - q), phi * h * (q - 4) if third else None


_aten = torch.ops.aten
SMOOTH: dict[type[nn.Module], Slopes] = {
    nn.SiLU: _silu,
    SiLU: _silu,
    nn.Softplus: _softplus,
    nn.Tanh: _tanh,
    nn.GELU: _gelu,
}
BACK: dict[type[nn.Module], Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    nn.SiLU: lambda p, h, a: _aten.silu_backward(p, h),
    SiLU: lambda p, h, a: _aten.silu_backward(p, h),
    nn.Softplus: lambda p, h, a: _aten.softplus_backward(p, h, 1, 20),
    nn.Tanh: lambda p, h, a: _aten.tanh_backward(p, a),
    nn.GELU: lambda p, h, a: _aten.gelu_backward(p, h),
    nn.ReLU: lambda p, h, a: _aten.threshold_backward(p, a, 0),
    nn.LeakyReLU: lambda p, h, a: _aten.leaky_relu_backward(p, h, 0.01, False),
}
"""p act'(h) in one pass over memory, from h and a = act(h)."""
USUAL = {kind: kind().extra_repr() for kind in BACK}
"""The `extra_repr` of each activation with torch's default settings."""


class Perceptron(NamedTuple):
    """Linear layers with the activation `act` between them; the last layer has one output."""

    weights: list[Tensor]
    biases: list[Tensor]
    act: nn.Module

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Compute f(u), (B,), and grad f, (B, d), for u (B, d); self must be `detached`."""
        *weights, last = self.weights
        *biases, shift = self.biases
        act, back, layers, a = self.act.forward, BACK[type(self.act)], [], u
        for weight, bias in zip(weights, biases, strict=True):
            h = linear(a, weight, bias)
            a = act(h)
            layers.append((weight, h, a))
        p = last.expand(len(u), -1)
        for weight, h, a in reversed(layers):
            p = linear(back(p, h, a), weight.T)
        return torch.addmm(shift, layers[-1][2], last.T).squeeze(1), p

    def detached(self) -> "Perceptron":
        return Perceptron([w.detach() for w in self.weights], [b.detach() for b in self.biases], self.act)

    def derivatives(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute f(u), (B,), grad f, (B, d), and sum_k v_k' Hess f v_k, (B,), for u (B, d) and v (K, B, d), K = 0
        allowed; differentiable in the parameters, once, and not in u or v."""
        params = [p for pair in zip(self.weights, self.biases, strict=True) for p in pair]
        return Derivatives.apply(SMOOTH[type(self.act)], u, v, *params)  # pyright: ignore[reportReturnType]


def perceptron(net: nn.Sequential, smooth: bool) -> Perceptron | None:
    """Return `net` as a Perceptron, or None if it is anything else, or if `smooth` and act''' is not known here."""
    modules = list(net)
    acts, layers = modules[1::2], [m for m in modules[::2] if type(m) is nn.Linear and m.bias is not None]
    known = SMOOTH if smooth else BACK
    if len(layers) != len(acts) + 1 or not acts or any(type(a) is not type(acts[0]) for a in acts):
        return None
    if type(acts[0]) not in known or any(a.extra_repr() != USUAL[type(a)] for a in acts):
        return None
    return Perceptron([m.weight for m in layers], [m.bias for m in layers], acts[0])


class Layer(NamedTuple):
    """The tensors of hidden layer l saved for the backward pass; the last two are None for K = 0."""

    stack: Tensor
    """a_{l-1}, then t_{l-1,k}: (1 + K, B, i)."""
    tau: Tensor
    s1: Tensor
    s2: Tensor
    """act' and act'' at h_l."""
    g: Tensor
    bend: Tensor
    """p_l act' and p_l act''."""
    bend_2: Tensor | None
    """p_l act'''."""
    spread: Tensor | None
    """sum_k tau_lk^2."""


class Derivatives(torch.autograd.Function):
    """(f, grad f, curvature) as in the header."""

    @staticmethod
    def forward(ctx: Any, slopes: Slopes, u: Tensor, v: Tensor, *params: Tensor) -> tuple:
        weights, biases, k = params[:-2:2], params[1:-2:2], len(v)
        stack, below = torch.cat([u[None], v]) if k else u[None], []
        for weight, bias in zip(weights, biases, strict=True):
            before = linear(stack.flatten(0, 1), weight, None if k else bias).view(k + 1, len(u), -1)
            if k:
                before[0] += bias
            a, s1, s2, s3 = slopes(before[0], k > 0)
            below.append((stack, before[1:], s1, s2, s3))
            stack = torch.cat([a[None], s1 * before[1:]]) if k else a[None]
        p, curvature, layers = params[-2].expand(len(u), -1), u.new_zeros(len(u)), []
        for weight, (inputs, tau, s1, s2, s3) in zip(reversed(weights), reversed(below), strict=True):
            g, bend, bend_2, spread = p * s1, p * s2 if k else s2.mul_(p), None, None
            if s3 is not None:
                spread, bend_2 = tau.square().sum(0), p * s3
                curvature = curvature + (bend * spread).sum(1)
            layers.append(Layer(inputs, tau, s1, s2, g, bend, bend_2, spread))
            p = linear(g, weight.T)
        ctx.save_for_backward(*params, stack[0], *(part for layer in reversed(layers) for part in layer))
        ctx.set_materialize_grads(False)
        return torch.addmm(params[-1], stack[0], params[-2].T).squeeze(1), p, curvature

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        f_bar, p_bar, c_bar = cotangents
        n = len(ctx.needs_input_grad) - 3
        saved = ctx.saved_tensors  # read once: under a checkpoint, each access computes them again
        params, end, kept = saved[:n], saved[n], saved[n + 1 :]
        width = len(Layer._fields)
        layers = [(w, Layer(*kept[width * i : width * (i + 1)])) for i, w in enumerate(params[:-2:2])]
        c = None if c_bar is None or layers[0][1].spread is None else c_bar[:, None]
        mu, moved = torch.zeros_like(layers[0][1].stack[0]) if p_bar is None else p_bar, []
        for weight, layer in layers:
            m, pull = linear(mu, weight), None if c is None or layer.spread is None else c * layer.spread
            moved.append((mu, m, pull))
            mu = layer.s1 * m
            if pull is not None:
                mu.addcmul_(layer.s2, pull)
        last = mu.sum(0, keepdim=True) if f_bar is None else mu.sum(0, keepdim=True) + f_bar[None] @ end
        grads: list[Tensor | None] = [None if f_bar is None else f_bar.sum(0, keepdim=True), last]
        z, r = None if f_bar is None else f_bar[:, None] * params[-2], None
        for (weight, layer), (mu, m, pull) in zip(reversed(layers), reversed(moved), strict=True):
            rows = y = m.mul_(layer.bend)
            if z is not None:
                y.addcmul_(layer.s1, z)
            if c is not None:
                y.addcmul_(layer.bend_2, pull)
                rho = (2 * c * layer.bend) * layer.tau
                if r is not None:
                    y.addcmul_(layer.s2, (r * layer.tau).sum(0))
                    rho.addcmul_(layer.s1, r)
                rows = torch.cat([y[None], rho]).flatten(0, 1)
            grads += [y.sum(0), outer(rows, layer.stack.flatten(0, 1)[: len(rows)]).add_(outer(layer.g, mu))]
            if len(grads) < n:
                back = linear(rows, weight.T).view(-1, *mu.shape)
                z, r = back[0], back[1:] if c is not None else None
        return None, None, None, *grads[::-1]
