"""Adaptive cubature of exp(-E) over the plane or the line, however narrow, wide, skewed or far apart its modes are.

    Z = integral of exp(-E(c + A sinh u)) |det A| prod_i cosh(u_i) du,    |sinh u_i| <= REACH

The frame c, A comes from the data's medians and quartiles, along the principal axes where the coordinates are
correlated, so that u covers all scales from far below the data's own to ten million times as much. A cell of u-space is
integrated by the Gauss-Lobatto rule of 5^d nodes, which has nodes on the cell's border, so that no edge of a density
is missed there. Let g be the relative difference to the same rule with Simpson's along one axis. The error along this
axis is estimated as g (of fourth order in the width), or as K g^2 (of eighth order) if halving the width has reduced g
as it does for smooth E. The cells with the largest errors are halved, all at once, each along its worse axis.

A rule whose nodes miss all mass would report no error. The density at known points (the data, a coarse scan, a descent
from each local minimum of the scan, points beside small cells in large ones) is therefore compared with that at the
nodes of their cell. A point much likelier than all nodes gives the cell an error of its density times the cell's
volume, until the cells are small enough to resolve it. A mode that all these points miss is not found.
"""

import itertools
import math
from functools import partial

import torch
from torch import Tensor

from ebm_lab.core.functional import EnergyFn, evaluate, in_parts
from ebm_lab.distributions._frame import frame_of

CELLS = 13
"""Cells of the first mesh along each axis, in addition to one for the outermost decade at either end."""
SCAN = {1: 4001, 2: 201}
"""Points of the scan along each axis, by dimension."""
MINIMA, HALVINGS = 32, 34
"""How many local minima the descent starts from, and how often it halves its step."""
KNOWN = 4096
"""Rows of the data at which the density is evaluated."""
TOLERANCE = 2e-6
FAST, K = 8, 20
"""FAST: the least factor by which halving reduces g where E is smooth (16 in the limit); K: the factor of g^2, for
which .07 would suffice at a Gaussian's top."""


class NoIntegral(ArithmeticError):
    """The energy is nan or -inf somewhere, or +inf wherever it was evaluated."""


class Cubature:
    """The integral of exp(-E) by at most about `budget` evaluations of E; raises NoIntegral.

    `log_z`, `bound` and `change` are in nats. The N cells, including those that were split: `low`, `width` (N, d) in u;
    `logs` (N, 5^d): log density at the nodes; `size` (N,): log of the integral; `gap` (N, d): log of its differences to
    the lower rules; `smooth` (N, d): whether halving reduced them fast; `swing` (N, d): how much the log density varies
    along each axis; `axis` (N,): the axis of the split; `child` (N,): the first of the two halves, -1 for a leaf;
    `outer` (N,): whether in the outermost decade."""

    @torch.no_grad()
    def __init__(self, energy: EnergyFn, data: Tensor, budget: int, tolerance: float = TOLERANCE) -> None:
        self.energy, self.frame, self.used = energy, frame_of(data), 0
        self.d = d = data.shape[1]
        self.nodes, self.rule, self.lower = (t.to(data.device) for t in _rules(d))
        self.least, self.eps = math.inf, 0.0
        self._first_mesh()
        self._compare(self.frame.u(data[:: -(-len(data) // KNOWN)]))
        self._scan(self.frame.u(torch.stack([data.double().mean(0), torch.zeros_like(data[0]).double()])))
        self._refine(budget, tolerance)

    def _density(self, u: Tensor) -> Tensor:
        """Compute log of exp(-E) |dx / du| at u (N, d), (N,)."""
        x = self.frame.x(u)
        raw = in_parts(partial(evaluate, self.energy), x, 65_536)
        e = raw.double()
        self.used += len(e)
        bad = e.isnan() | (e == -torch.inf)
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise NoIntegral(f"the energy is {float(e[i])} at x = {[float(f'{v:.4g}') for v in x[i].tolist()]}")
        self.least, self.eps = min(self.least, float(e.min())), torch.finfo(raw.dtype).eps
        return self.frame.log_volume(u) - e

    def _first_mesh(self) -> None:
        """Build the first mesh."""
        edges = []
        for reach in self.frame.reach.tolist():
            inner = torch.linspace(math.log(10) - reach, reach - math.log(10), CELLS + 1, dtype=torch.float64)
            ends = torch.tensor([-reach, reach], dtype=torch.float64)
            edges.append(torch.cat([ends[:1], inner, ends[1:]]).to(self.frame.centre))
        self.edges = edges
        self.low = torch.cartesian_prod(*[e[:-1] for e in edges]).view(-1, self.d)
        self.width = torch.cartesian_prod(*[e.diff() for e in edges]).view(-1, self.d)
        at = torch.cartesian_prod(*[torch.arange(CELLS + 2)] * self.d).view(-1, self.d).to(self.low.device)
        self.outer = ((at == 0) | (at == CELLS + 1)).any(1)
        self.child = torch.full_like(self.outer, -1, dtype=torch.long)
        self.logs, self.size, self.gap, self.swing = self._measure(self.low, self.width)
        self.smooth, self.axis = torch.zeros_like(self.gap, dtype=torch.bool), torch.zeros_like(self.child)
        self.known_u, self.known = self.low[:0], self.size[:0]
        self.known_cell, self.seen = self.child[:0], torch.full_like(self.size, -torch.inf)

    def _measure(self, low: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute `logs`, `size`, `gap` and `swing` of cells (N, d)."""
        u = low[:, None] + width[:, None] * self.nodes
        logs = self._density(u.flatten(0, 1)).view(len(low), -1)
        top = logs.amax(1, keepdim=True).nan_to_num(neginf=0.0)
        p, volume = (logs - top).exp(), top + width.log().sum(1, keepdim=True)
        whole = (p @ self.rule)[:, None]
        lines = (logs - top).clamp_min(-1e9).view(-1, *[5] * self.d)
        swings = [(lines.amax(i) - lines.amin(i)).reshape(len(low), -1).amax(1) for i in range(1, 1 + self.d)]
        gap = volume + (whole - p @ self.lower).abs().log()
        return logs, (volume + whole.log())[:, 0], gap, torch.stack(swings, 1)

    def _compare(self, u: Tensor, log_p: Tensor | None = None) -> None:
        """Compare the log density (M,) of points u (M, d) with that at the nodes of their cells."""
        cell = self._locate(u)
        inside = cell >= 0
        u, cell = u[inside], cell[inside]
        log_p = self._density(u) if log_p is None else log_p[inside]
        self.known_u, self.known = torch.cat([self.known_u, u]), torch.cat([self.known, log_p])
        self.known_cell = torch.cat([self.known_cell, cell])
        self.seen.scatter_reduce_(0, cell, log_p, "amax")

    def _locate(self, u: Tensor) -> Tensor:
        """Return the leaf that holds each of u (M, d), (M,); -1 outside."""
        places = [torch.searchsorted(e, u[:, i].contiguous(), right=True) - 1 for i, e in enumerate(self.edges)]
        inside = torch.stack([(p >= 0) & (p < CELLS + 2) for p in places]).all(0)
        cell = sum(p.clamp(0, CELLS + 1) * (CELLS + 2) ** (self.d - 1 - i) for i, p in enumerate(places))
        assert isinstance(cell, Tensor)
        while bool((self.child[cell] >= 0).any()):
            cell = self._child_at(cell, u)
        return torch.where(inside, cell, -1)

    def _child_at(self, cell: Tensor, u: Tensor) -> Tensor:
        """Return the child of `cell` that holds u if it has children, else `cell`."""
        axis = self.axis[cell].unsqueeze(1)
        middle = (self.low[cell] + self.width[cell] / 2).gather(1, axis)
        upper = (u.gather(1, axis) >= middle).squeeze(1).long()
        return torch.where(self.child[cell] >= 0, self.child[cell] + upper, cell)

    def _scan(self, starts: Tensor) -> None:
        """Scan everywhere coarsely, then descend by halving steps from `starts` (S, d) and from the lowest local minima
        of the energy."""
        n, reach = SCAN[self.d], self.frame.scanned
        axes = [torch.linspace(-r, r, n, dtype=torch.float64, device=reach.device) for r in reach.tolist()]
        u = torch.cartesian_prod(*axes).view(-1, self.d)
        log_p = self._density(u)
        self._compare(u, log_p)
        pool = torch.nn.functional.max_pool1d if self.d == 1 else torch.nn.functional.max_pool2d
        height = self._minus_energy(u, log_p).view(1, *[n] * self.d)
        at = ((height == pool(height, 3, 1, 1)) & height.isfinite()).flatten().nonzero().flatten()
        near = height.flatten()[at] - 1e-9 * u[at].norm(dim=1)  # among equals, those nearest to the data
        best = torch.cat([starts, u[at[near.argsort(descending=True)[:MINIMA]]]]).clamp(-reach, reach)
        around = torch.tensor(list(itertools.product((0.0, -1.0, 1.0), repeat=self.d))).to(u)
        step = 2 * reach / (n - 1)
        for _ in range(HALVINGS):
            step = step / 2
            tried = (best[:, None] + step * around).clamp(-reach, reach)
            log_p = self._density(tried.flatten(0, 1))
            self._compare(tried.flatten(0, 1), log_p)
            which = self._minus_energy(tried.flatten(0, 1), log_p).view(len(best), -1).argmax(1)
            best = tried[torch.arange(len(best)), which]

    def _minus_energy(self, u: Tensor, log_p: Tensor) -> Tensor:
        """Compute -E at u (N, d), (N,): modes are sought without the volume, which grows outward."""
        return log_p - self.frame.log_volume(u)

    def _errors(self) -> tuple[Tensor, Tensor]:
        """Return (log of each cell's error, -inf if it was split; the axis along which to split it), (N,) each."""
        gap = torch.where(self.gap == -torch.inf, -1e300, self.gap)
        by_axis = torch.where(self.smooth, gap + (gap + math.log(K) - self.size[:, None]).clamp_max(0), gap)
        unseen = self.seen > self.logs.amax(1) + 1
        error = torch.where(unseen, self.seen + self.width.log().sum(1), torch.logsumexp(by_axis, 1))
        # Where the nodes miss the mass, the axis along which the log density varies most leads to it.
        axis = torch.where(unseen[:, None], self.swing, by_axis).argmax(1)
        return torch.where(self.child < 0, error, -torch.inf), axis

    def _refine(self, budget: int, tolerance: float) -> None:
        """Split the cells that hold nine tenths of the error until it is small, and check beside small cells again."""
        looked = 0
        while True:
            errors, axes = self._errors()
            total = torch.logsumexp(self.size[self.child < 0], 0)
            self.log_z = float(total)
            self.bound = float((torch.logsumexp(errors, 0) - total).exp()) if self.log_z > -math.inf else math.inf
            if self.bound <= max(tolerance, 8 * self.rounding) or self.used >= budget:
                if looked == len(self.child):
                    break
                looked = len(self.child)
                self._check_beside(total + math.log(tolerance) - math.log(len(self.child)))
                continue
            order = errors.argsort(descending=True)
            share = (errors[order] - errors.max()).exp().cumsum(0)
            few = int((share < 0.9 * share[-1]).sum()) + 1
            room = max(1, (budget - self.used) // (2 * len(self.nodes)))
            worst = order[: min(few, room)]
            self.axis[worst] = axes[worst]
            self._split(worst)
        if not math.isfinite(self.log_z):
            raise NoIntegral("exp(-E) is 0 wherever it was evaluated")
        self.bound += self.rounding

    def _split(self, cells: Tensor) -> None:
        along = torch.nn.functional.one_hot(self.axis[cells], self.d).bool()
        width = torch.where(along, self.width[cells] / 2, self.width[cells])
        low = torch.stack([self.low[cells], self.low[cells] + torch.where(along, width, 0)], 1).flatten(0, 1)
        logs, size, gap, swing = self._measure(low, width.repeat_interleave(2, 0))
        both = torch.logsumexp(gap.view(-1, 2, self.d), 1)
        smooth = torch.where(along, both < self.gap[cells] - math.log(FAST), self.smooth[cells])
        new = torch.arange(len(low), device=low.device) + len(self.child)
        self.child[cells] = new[::2]
        kept = {"width": width, "smooth": smooth, "outer": self.outer[cells]}
        more = {"low": low, "logs": logs, "size": size, "gap": gap, "swing": swing, "child": torch.full_like(new, -1)}
        more |= {"axis": torch.zeros_like(new)} | {name: value.repeat_interleave(2, 0) for name, value in kept.items()}
        for name, value in more.items():
            setattr(self, name, torch.cat([getattr(self, name), value]))
        self.known_cell = self._child_at(self.known_cell, self.known_u)
        self.seen = torch.full_like(self.size, -torch.inf).scatter_reduce_(0, self.known_cell, self.known, "amax")

    def _check_beside(self, least: Tensor) -> None:
        """Evaluate the density just outside leaves with a log integral above `least` and a much larger neighbour."""
        leaves = ((self.child < 0) & (self.size > least)).nonzero().flatten()
        around = torch.tensor([s for s in itertools.product((-1.0, 0.0, 1.0), repeat=self.d) if any(s)]).to(self.low)
        middle, reach = self.low[leaves] + self.width[leaves] / 2, 0.6 * self.width[leaves]
        u = (middle[:, None] + reach[:, None] * around).flatten(0, 1)
        own, there = leaves.repeat_interleave(len(around)), self._locate(u)
        jump = (there >= 0) & (self.width[there] > 3 * self.width[own]).any(1)
        if bool(jump.any()):
            self._compare(u[jump])

    @property
    def rounding(self) -> float:
        """The rounding error of the energy, in nats."""
        return self.eps * abs(self.least) if math.isfinite(self.least) else 0.0

    @property
    def change(self) -> float:
        """What the outermost decade of the reach adds to log Z, nats."""
        inner = torch.logsumexp(self.size[(self.child < 0) & ~self.outer], 0)
        return max(0.0, self.log_z - float(inner.clamp_min(-1e300)))

    def law(self) -> tuple[Tensor, Tensor]:
        """Return (nodes (N, d), log of their weights (N,), which sum to 1) of exp(-E) / Z."""
        leaf = self.child < 0
        u = (self.low[leaf][:, None] + self.width[leaf][:, None] * self.nodes).flatten(0, 1)
        logs = self.logs[leaf] + self.width[leaf].log().sum(1, keepdim=True) + self.rule.log()
        return self.frame.x(u), logs.flatten() - self.log_z


def _rules(d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (nodes (5^d, d) in [0, 1], Gauss-Lobatto weights (5^d,), weights (5^d, d) of the rules with Simpson's
    along one axis); the weights of each rule sum to 1."""
    inner = (3 / 7) ** 0.5
    t = torch.tensor([-1, -inner, 0, inner, 1], dtype=torch.float64)
    full = torch.tensor([9, 49, 64, 49, 9], dtype=torch.float64) / 180
    lower = torch.tensor([1, 0, 4, 0, 1], dtype=torch.float64) / 6
    nodes = torch.cartesian_prod(*[(t + 1) / 2] * d).view(-1, d)
    rules = [[lower if i == j else full for i in range(d)] for j in range(d)]
    gauss, *lowers = (torch.cartesian_prod(*r).view(-1, d).prod(1) for r in ([full] * d, *rules))
    return nodes, gauss, torch.stack(lowers, 1)
