"""Hand-written derivatives of a perceptron whose layers are scaled and shifted for each sample, by a noise level.

    f(u) = w . a_n + c,    a_l = act(h_l),    h_l = gamma_l o_l + beta_l,    o_l = W_l a_{l-1} + b_l,    a_0 = u
    df/dbeta_l = q_l,    df/dgamma_l = q_l o_l,    grad f = p_0:    p_n = w,  q_l = p_l act'(h_l),
                                                                    p_{l-1} = W_l' (gamma_l q_l)

As in models/perceptron.py, with cotangents F of f, P of grad f, G of df/dgamma and B of df/dbeta, the parameters'
gradient is that of

    S = F f + w . mu_n,    mu_0 = P,  mu_l = act'(h_l) k_l,  k_l = gamma_l m_l + G_l o_l + B_l,  m_l = W_l mu_{l-1}

since mu is the derivative of a along (P, G, B). The adjoints in S of mu_l and k_l are p_l and q_l, which are known;
that of h_l is y_l = act'(h_l) z_l + p_l act''(h_l) k_l, with z_n = F w and z_{l-1} = W_l' (gamma_l y_l + G_l q_l).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebm_lab.models.perceptron import Slopes
from ebm_lab.models.products import linear, outer


def derivatives(
    slopes: Slopes, u: Tensor, film: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], whole: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute f, (B,), its gradient in u, (B, d), and, if `whole`, its gradient in film, (B, n), for u (B, d).

    film: gamma_1, beta_1, gamma_2, ..., side by side, (B, n). Differentiable once, in film, weights and biases, and not
    in u.
    """
    params = [p for pair in zip(weights, biases, strict=True) for p in pair]
    f, grad, *rest = cast(Any, _Derivatives.apply(slopes, whole, u, film, *params))
    return f, grad, rest[0] if whole else None


class _Layer(NamedTuple):
    """The tensors of hidden layer l saved for the backward pass."""

    weight: Tensor
    below: Tensor
    """a_{l-1}, (B, i)."""
    o: Tensor
    s1: Tensor
    """act' at h_l."""
    bend: Tensor
    """p_l act'' at h_l."""
    q: Tensor
    g: Tensor
    """gamma_l q_l."""


def _pairs(film: Tensor | None, weights: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor] | tuple[None, None]]:
    """Return views of the two parts of each layer, in `film` (B, n)."""
    if film is None:
        yield from [(None, None)] * len(weights)
        return
    parts = film.split([len(w) for w in weights for _ in range(2)], 1)
    yield from zip(parts[::2], parts[1::2], strict=True)


class _Derivatives(torch.autograd.Function):
    """What `derivatives` returns, as in the header."""

    @staticmethod
    def forward(ctx: Any, slopes: Slopes, whole: bool, u: Tensor, film: Tensor, *params: Tensor) -> tuple:
        *weights, w = params[::2]
        *biases, c = params[1::2]
        a, below, layers = u, [], []
        for weight, bias, (gamma, beta) in zip(weights, biases, _pairs(film, weights), strict=True):
            o = linear(a, weight, bias)
            after, s1, s2, _ = slopes(torch.addcmul(beta, gamma, o), False)  # type: ignore
            below.append((weight, gamma, a, o, s1, s2))
            a = after
        p = w.expand(len(u), -1)
        for weight, gamma, before, o, s1, s2 in reversed(below):
            q = p * s1
            g = gamma * q
            layers.append(_Layer(weight, before, o, s1, s2.mul_(p), q, g))
            p = linear(g, weight.T)
        layers.reverse()
        ctx.save_for_backward(film, w, a, *(part for layer in layers for part in layer))
        ctx.set_materialize_grads(False)
        f = torch.addmm(c, a, w.T).squeeze(1)
        return (f, p, torch.cat([t for at in layers for t in (at.q * at.o, at.q)], 1)) if whole else (f, p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        f_bar, p_bar, film_bar = (*cotangents, None)[:3]
        film, w, end, *kept = ctx.saved_tensors  # read once: under a checkpoint, each access computes them again
        width = len(_Layer._fields)
        layers = [_Layer(*kept[i : i + width]) for i in range(0, len(kept), width)]
        weights = [layer.weight for layer in layers]
        mu, moved = torch.zeros_like(layers[0].below) if p_bar is None else p_bar, []
        pairs = zip(layers, _pairs(film, weights), _pairs(film_bar, weights), strict=True)
        for layer, (gamma, _), (along_gamma, along_beta) in pairs:
            m = linear(mu, layer.weight)
            k = gamma * m  # type: ignore
            if along_gamma is not None:
                k.addcmul_(along_gamma, layer.o).add_(cast(Tensor, along_beta))
            moved.append((mu, m, k, gamma, along_gamma))
            mu = layer.s1 * k
        last = mu.sum(0, keepdim=True)
        grads: list[Tensor | None] = [None if f_bar is None else f_bar.sum(0, keepdim=True)]
        grads.append(last if f_bar is None else last + f_bar[None] @ end)
        z, pull = None if f_bar is None else f_bar[:, None] * w, torch.empty_like(film)
        steps = [*zip(layers, moved, _pairs(pull, weights), strict=True)]
        for layer, (mu, m, k, gamma, along_gamma), (to_gamma, to_beta) in reversed(steps):
            y = torch.mul(k, layer.bend, out=to_beta)
            if z is not None:
                y.addcmul_(layer.s1, z)
            torch.mul(m, layer.q, out=to_gamma).addcmul_(y, layer.o)
            t = gamma * y
            if along_gamma is not None:
                t.addcmul_(along_gamma, layer.q)
            grads += [t.sum(0), outer(t, layer.below).add_(outer(layer.g, mu))]
            z = linear(t, layer.weight.T) if layer is not layers[0] else None
        return None, None, None, pull, *grads[::-1]
