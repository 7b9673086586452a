"""The one place that differentiates an energy with respect to its input.

Sign convention, everywhere: p(x) = exp(-E(x)) / Z, so low energy is likely, and score(x) = grad_x log p = -grad_x E.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebm_lab.core.errors import UserError
from ebm_lab.core.twice import mixed_precision, twice

EnergyFn = Callable[[Tensor], Tensor]
GradientFn = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x (B, *shape) -> E(x), (B,), and grad_x E(x), (B, *shape), detached."""


class KnowsDerivatives(nn.Module):
    """An energy that may have formulas for its derivatives, which are faster than automatic differentiation."""

    def gradient(self) -> GradientFn | None:
        """Return a formula for the gradient, valid until the parameters change, or None if there is none."""
        return None

    def derivatives(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return E(x), (B,), grad_x E, (B, *shape), and sum_k v_k' (Hess E) v_k, (B,), for v (K, B, *shape), K = 0
        allowed. The results can be differentiated once in the parameters, and not in x or v. None if there is no
        formula."""
        return None

    def log_odds(self, x: Tensor) -> Tensor | None:
        """Return E(x) - E(x^m) for every change m of one site of discrete x, (B, M), with its graph (core/discrete.py);
        None if there is no formula that is faster than the M energies."""
        return None

    def penalty(self) -> Tensor | None:
        """Return what training adds to every loss for the parameters themselves, 0-d; None if nothing."""
        return None

    def exact_log_z(self) -> Tensor | None:
        """Return log Z = log of the integral of exp(-E), in nats, if there is a formula for it, else None."""
        return None

    def rows(self, index: Tensor) -> "KnowsDerivatives":
        """Return the energy bound to rows `index` (n,) of its batch; itself if it is bound to no batch."""
        return self


def _formulas(energy: EnergyFn) -> KnowsDerivatives | None:
    """Return the energy if its formulas may be used. In mixed precision they may not."""
    return energy if isinstance(energy, KnowsDerivatives) and not mixed_precision() else None


@torch.no_grad()
def known_log_z(energy: EnergyFn) -> Tensor | None:
    """Return log Z in nats, 0-d, if the energy has a formula for it, else None."""
    return energy.exact_log_z() if isinstance(energy, KnowsDerivatives) else None


def known_log_odds(energy: EnergyFn, x: Tensor) -> Tensor | None:
    """Return E(x) - E(x^m) of every change of one site, (B, M), if the energy has a formula for it, else None."""
    return energy.log_odds(x) if isinstance(energy, KnowsDerivatives) else None


def penalty_of(energy: EnergyFn) -> Tensor | None:
    """Return the penalty on the parameters of an energy, 0-d, if it has one, else None."""
    return energy.penalty() if isinstance(energy, KnowsDerivatives) else None


def _derivatives(energy: EnergyFn, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    known = None if x.requires_grad else _formulas(energy)
    with torch.enable_grad():
        return None if known is None else known.derivatives(x, v)


def evaluate(energy: EnergyFn, x: Tensor) -> Tensor:
    """Compute E(x), (B, *shape) -> (B,); raise UserError if the energy returns any other shape, such as (B, 1)."""
    e = energy(x)
    if e.shape != x.shape[:1]:
        raise UserError(
            f"energy '{type(energy).__name__}' returned shape {tuple(e.shape)} for a batch of {x.shape[0]}; "
            f"it must return one value per sample, shape ({x.shape[0]},)"
        )
    return e


def rows_of(energy: EnergyFn, index: Callable[[], Tensor]) -> EnergyFn:
    """Return the energy bound to the rows index() of its batch. If it is bound to no batch, return it without calling
    index."""
    bound = isinstance(energy, KnowsDerivatives) and type(energy).rows is not KnowsDerivatives.rows
    return energy.rows(index()) if bound else energy


def stacked(energy: EnergyFn, *xs: Tensor) -> tuple[Tensor, ...]:
    """Compute E of several batches of the same rows in one forward pass. Each batch is (B, *shape), or (k B, *shape)
    with row i + B j belonging to row i of the first; the energies returned are (B,) or (k B,)."""
    both = torch.cat(xs)

    def index() -> Tensor:
        return torch.arange(len(both), device=both.device) % len(xs[0])

    return evaluate(rows_of(energy, index), both).split([len(x) for x in xs])


def in_parts(f: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """Compute f of the rows of x, (B, ...) -> (B, ...), `size` rows at a time, to need memory for one part only. An
    energy bound to a batch is bound to the rows of each part."""

    def part(i: int) -> Tensor:
        here = x[i : i + size]
        return rows_of(f, lambda: torch.arange(i, i + len(here), device=x.device))(here)

    return torch.cat([part(i) for i in range(0, max(len(x), 1), size)])


def energy_and_grad(energy: EnergyFn, x: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Compute E(x), (B,), and grad_x E(x), (B, *shape). They are detached unless `create_graph`, which keeps the graph
    to the parameters, and to x if x requires a gradient."""
    if not create_graph:
        return gradient_of(energy)(x)
    known = _derivatives(energy, x, x.new_empty(0, *x.shape))
    return _by_autograd(energy, x, create_graph=True) if known is None else known[:2]


def gradient_of(energy: EnergyFn) -> GradientFn:
    """Return x -> energy_and_grad(energy, x), valid until the parameters change; build it once for many x."""
    known = _formulas(energy)
    return (known and known.gradient()) or partial(_by_autograd, energy)


def _by_autograd(energy: EnergyFn, x: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = x if create_graph and x.requires_grad else x.detach().requires_grad_(True)
        with twice(create_graph):
            e = evaluate(energy, leaf)
        (grad,) = torch.autograd.grad(e.sum(), leaf, create_graph=create_graph)
    return (e, grad) if create_graph else (e.detach(), grad)


def score(energy: EnergyFn, x: Tensor, create_graph: bool = False) -> Tensor:
    """Compute grad_x log p(x) = -grad_x E(x), (B, *shape) -> (B, *shape), in nats per data unit."""
    return -energy_and_grad(energy, x, create_graph)[1]


def score_and_product(energy: EnergyFn, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute (E(x), s, (grad_x s) v): energy (B,), score and Jacobian-vector product (B, *shape), with their graph.

    grad_x s = -Hess E is symmetric, so the product is the gradient of s . v.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        e, grad = energy_and_grad(energy, leaf, create_graph=True)
        (product,) = torch.autograd.grad(-(grad * v).sum(), leaf, create_graph=True)
    return e, -grad, product


def score_and_curvature(energy: EnergyFn, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute (E(x), s, sum_k v_k' (grad_x s) v_k): (B,), (B, *shape) and (B,), with a graph to the parameters, for
    directions v (K, B, *shape)."""
    known = _derivatives(energy, x, v)
    if known is not None:
        e, grad, curvature = known
        return e, -grad, -curvature
    n, every = len(x), x.repeat(len(v), *[1] * (x.ndim - 1))
    energy = rows_of(energy, lambda: torch.arange(len(every), device=x.device) % n)
    e, s, product = score_and_product(energy, every, v.reshape(every.shape))
    return e[:n], s[:n], flat_sum(v.reshape(every.shape) * product).view(len(v), n).sum(0)


def score_and_trace(energy: EnergyFn, x: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute (E(x), s, tr grad_x s): energy (B,), score (B, *shape) and exact trace (B,), with their graph.

    The d diagonal entries of grad_x s = -Hess E are computed `chunk` at a time. If chunk < d, each chunk is computed
    again in the backward pass instead of being stored: memory for one chunk, at up to twice the time.
    """
    d = x[0].numel()
    known = _derivatives(energy, x, _basis(x, 0, min(chunk, d)))
    if known is not None:
        e, grad, first = known
        return e, -grad, -torch.stack([first, *_chunks(lambda v: _curvature(energy, x, v), x, chunk, chunk)]).sum(0)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        e, grad = _for_many_rows(energy, leaf)
        if chunk >= d:
            return e, -grad, -_diagonal_sum(grad, leaf, _basis(x, 0, d))

        def part(v: Tensor) -> Tensor:
            fresh = x.detach().requires_grad_(True)
            return _diagonal_sum(_for_many_rows(energy, fresh)[1], fresh, v)

        return e, -grad, -torch.stack(_chunks(part, x, 0, chunk)).sum(0)


def _chunks(part: Callable[[Tensor], Tensor], x: Tensor, first: int, chunk: int) -> list[Tensor]:
    """Compute part(v) for unit vectors v, `chunk` at a time from dimension `first` on; each is computed again in the
    backward pass."""

    def at(i: int) -> Tensor:
        return part(_basis(x, i, i + chunk))

    dimensions = range(first, x[0].numel(), chunk)
    return [checkpoint(at, i, use_reentrant=False, preserve_rng_state=False) for i in dimensions]


def _curvature(energy: EnergyFn, x: Tensor, v: Tensor) -> Tensor:
    known = _derivatives(energy, x, v)
    assert known is not None, "score_and_trace has checked that there is a formula"
    return known[2]


def _for_many_rows(energy: EnergyFn, leaf: Tensor) -> tuple[Tensor, Tensor]:
    """Compute E and its gradient by operations that a batch of backward passes at once can take."""
    with twice(None):
        return energy_and_grad(energy, leaf, create_graph=True)


def _diagonal_sum(grad: Tensor, leaf: Tensor, v: Tensor) -> Tensor:
    """Sum over unit vectors v_i of d grad_i / d leaf_i, (B,), by one batch of Hessian-vector products."""
    (rows,) = torch.autograd.grad(grad, leaf, v, create_graph=True, is_grads_batched=True)
    return (rows * v).flatten(2).sum((0, 2))


def _basis(x: Tensor, first: int, last: int) -> Tensor:
    """Return unit vectors e_first .. e_{last - 1} at each point of x (B, *shape): (last - first, B, *shape)."""
    rows = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)[first:last]
    return rows.view(-1, 1, *x.shape[1:]).expand(-1, *x.shape)


def level_gradients(
    energy: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute E(x, sigma), (B,), grad_x E, (B, *shape), and dE / d log sigma, (B,), with their graph; sigma (B,)."""
    with torch.enable_grad():
        leaf, log_sigma = x.detach().requires_grad_(True), sigma.detach().log().requires_grad_(True)
        e = evaluate(lambda y: energy(y, log_sigma.exp()), leaf)
        grad, rate = torch.autograd.grad(e.sum(), (leaf, log_sigma), create_graph=True)
    return e, grad, rate


def divergence(
    field: Callable[[Tensor], Tensor], x: Tensor, v: Tensor | None = None, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute (field(x), div field(x)), (B, *shape) and (B,), detached unless `create_graph`, which keeps the graph to
    the parameters; the output of `field` must have a graph to x.

    Without v it is exact, in d backward passes. With v, E[v v'] = I, it is Hutchinson's unbiased estimate
    v' (grad field) v, in one.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        value = field(leaf)
        if v is not None:
            (product,) = torch.autograd.grad((value * v).sum(), leaf, create_graph=create_graph)
            return value if create_graph else value.detach(), flat_sum(product * v)
        flat, trace = value.flatten(1), torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), leaf, retain_graph=True, create_graph=create_graph)
            trace = trace + row.flatten(1)[:, i]
    return value if create_graph else value.detach(), trace


def flat_sum(x: Tensor) -> Tensor:
    """Sum over everything but the batch: (B, *shape) -> (B,)."""
    return x.flatten(1).sum(1)


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Reshape values (B,) or (1,) to broadcast against x (B, *shape)."""
    return values.view(-1, *[1] * (x.ndim - 1))


@contextmanager
def frozen(energy: EnergyFn) -> Iterator[None]:
    """Put modules in eval mode and turn off the parameters' gradients for the body, as sampling needs; restore both
    after."""
    if not isinstance(energy, nn.Module):
        yield
        return
    modes = [(m, m.training) for m in energy.modules()]
    wanted = [p for p in energy.parameters() if p.requires_grad]
    energy.eval()
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p in wanted:
            p.requires_grad_(True)
