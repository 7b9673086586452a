"""The lower bound for loops of torch's own operations: only the gradients. A compiler, which fuses operations, may go
below it.

    silu'(h) = sig(h) (1 + h (1 - sig(h)))
    grad_x E:  d <- w_L;  d <- (d * silu'(h_l)) W_l  for l = L-1 .. 1;  grad_x E = d / scale + u / (scale c^2)

by hand for the perceptron, with the faster of torch's matrix products, by autograd for other networks, convolutions in
the faster memory layout. A step's floor is the number of gradient passes that its objective needs times the cost of
one: k passes in x and one in the parameters over data and negatives together for objectives with chains, and for the
others as many passes in the parameters as they take gradients of a batch. No noise is drawn, nothing is clipped or
updated.
"""

import torch
from torch import Tensor, nn

from ebm_lab.models.products import linear
from scripts.benchmark.nets import PlainConv, PlainMLP
from scripts.benchmark.plain import freeze
from scripts.benchmark.timing import Work

silu_backward = torch.ops.aten.silu_backward


class Passes:
    """The gradients of a network by autograd."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def input_gradient(self, x: Tensor) -> Tensor:
        with freeze(self.net):
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.net(x).sum(), x)[0]

    def parameter_gradient(self, x: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(self.net(x).mean(), list(self.net.parameters())))


class HandMade(Passes):
    """The gradients of the perceptron, written by hand."""

    def __init__(self, net: PlainMLP) -> None:
        super().__init__(net)
        layers = [m for m in net.net if isinstance(m, nn.Linear)]
        self.weights, self.biases = [m.weight.detach() for m in layers], [m.bias.detach() for m in layers]
        self.turned = [w.T.contiguous() for w in self.weights]
        self.mean, self.scale, self.pull = net.mean, net.scale, 2 * net.weight

    def hidden(self, u: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the input of each layer, and the output of each hidden one before its activation."""
        into, before = [u], []
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            before.append(linear(into[-1], w, b))
            into.append(nn.functional.silu(before[-1]))
        return into, before

    @torch.no_grad()
    def input_gradient(self, x: Tensor) -> Tensor:
        u = (x - self.mean).div_(self.scale)
        _, before = self.hidden(u)
        d = self.weights[-1].expand(len(x), -1)
        for w, h in zip(reversed(self.turned[:-1]), reversed(before), strict=True):
            d = linear(silu_backward(d, h), w)
        return u.mul_(self.pull).add_(d).div_(self.scale)

    @torch.no_grad()
    def parameter_gradient(self, x: Tensor) -> list[Tensor]:
        """Compute the gradient of the mean energy in the parameters."""
        into, before = self.hidden((x - self.mean).div_(self.scale))
        d = torch.full((len(x), 1), 1 / len(x))
        found: list[Tensor] = []
        for i in reversed(range(len(self.weights))):
            found += [d.sum(0), d.T @ into[i]]
            if i:
                d = silu_backward(linear(d, self.turned[i]), before[i - 1])
        return found[::-1]


def passes(net: nn.Module) -> Passes:
    """Return hand-written gradients for the perceptron, else those of autograd in the layout for convolutions."""
    if isinstance(net, PlainMLP) and _is_perceptron(net):
        return HandMade(net)
    return Passes(net.to(memory_format=torch.channels_last) if isinstance(net, PlainConv) else net)


def _is_perceptron(net: PlainMLP) -> bool:
    return all(isinstance(m, nn.Linear | nn.SiLU) for m in net.net)


def sampler_floor(net: nn.Module, x: Tensor, gradients: int) -> Work:
    """Compute as many gradients in x as a call of the sampler takes per chain."""
    by = passes(net)

    def work() -> None:
        for _ in range(gradients):
            by.input_gradient(x)

    return work


def step_floor(net: nn.Module, x: Tensor, gradients: int, chain_steps: int) -> Work:
    """Compute `gradients` passes over a batch x, of which `chain_steps` are in x."""
    by = passes(net)
    both = torch.cat([x, x])

    def work() -> None:
        for _ in range(chain_steps):
            by.input_gradient(x)
        if chain_steps:
            by.parameter_gradient(both)
        else:
            for _ in range(gradients):
                by.parameter_gradient(x)

    return work
