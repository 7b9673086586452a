"""The order of the training data, and bits drawn anew, as a pure function of (seed, step)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_lab.core.interfaces import Batch, Dataset
from ebm_lab.core.random import stream


class Batches:
    """Return the batch of a training step: `batches(step)`, with steps counted from 1.

    The points form an endless sequence of shuffled epochs, and each batch takes the next `size` of them; a batch may
    span two epochs. It is divided into `among` equal shares, one per process; the call returns the share with index
    `share`, divided into `parts` equal parts.
    """

    def __init__(self, dataset: Dataset, size: int, seed: int, parts: int = 1, share: int = 0, among: int = 1) -> None:
        self.x, self.y = dataset.train, dataset.labels["train"] if dataset.labels else None
        if dataset.given_labels is not None:
            self.y = dataset.given_labels
        self.p, self.size, self.seed = dataset.bit_probabilities, size, seed
        self.parts, self.share, self.among = parts, share, among
        self._orders: dict[int, Tensor] = {}

    def __call__(self, step: int) -> list[Batch]:
        rows = self._parts(self.indices(step))
        x = [self.x[i] for i in rows] if self.p is None else self._drawn(self.p, rows, step)
        return [Batch(part, None if self.y is None else self.y[i]) for part, i in zip(x, rows, strict=True)]

    def _parts(self, whole: Tensor) -> tuple[Tensor, ...]:
        return whole.chunk(self.among)[self.share].chunk(self.parts)

    def _drawn(self, p: Tensor, rows: Sequence[Tensor], step: int) -> list[Tensor]:
        """Draw the bits of these parts of the batch; the draw of a whole batch does not depend on its division."""
        u = torch.rand(self.size, *p.shape[1:], generator=stream(self.seed, "bits", step)).to(p.device)
        return [(v < p[i]).to(p) for v, i in zip(self._parts(u), rows, strict=True)]

    def indices(self, step: int) -> Tensor:
        """Return the row numbers of batch `step`, (size,)."""
        n, begin, end = len(self.x), (step - 1) * self.size, step * self.size
        epochs = range(begin // n, (end - 1) // n + 1)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e) for e in epochs}
        parts = [self._orders[e][max(0, begin - e * n) : min(n, end - e * n)] for e in epochs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.x), generator=stream(self.seed, "data", epoch)).to(self.x.device)
