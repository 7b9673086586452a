"""Running means of the training metrics, kept on the device and read once per log interval."""

import torch
from torch import Tensor

from ebm_lab.training.distributed import Processes


class Meter:
    """Sum 0-d tensors by name, with a count per name, since steps may report different metrics.

    The state is saved in checkpoints, so that a resumed run logs the same numbers.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        """Number of values in each sum; empty after `clear`."""

    @property
    def names(self) -> list[str]:
        """Names of the metrics in the present window, or in the last one if nothing was added since `clear`."""
        return list(self.sums)

    def add(self, metrics: dict[str, Tensor]) -> None:
        if not self.counts:
            self.sums = {}
        known = [name for name in metrics if name in self.sums]
        if known:
            torch._foreach_add_([self.sums[name] for name in known], [metrics[name] for name in known])
        for name, value in metrics.items():
            if name not in self.sums:
                self.sums[name] = value.detach().clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self, processes: Processes = Processes()) -> dict[str, float]:  # noqa: B008 (the default has no state)
        """Return the means since the last `clear`, over `processes`, in one transfer from the device.

        NaN and inf are kept. All processes must have added the same names in the same order.
        """
        if not self.counts:
            return {}
        sums = torch.stack([self.sums[name].double() for name in self.counts]).cpu()
        means = processes.mean(sums / torch.tensor(list(self.counts.values()), dtype=torch.float64))
        return dict(zip(self.counts, means.tolist(), strict=True))

    def clear(self) -> None:
        self.counts = {}

    def state_dict(self) -> dict:
        """Return the state as copies: `add` changes the sums in place."""
        return {
            "names": self.names,
            "sums": [value.clone() for value in self.sums.values()],
            "counts": [self.counts.get(name, 0) for name in self.names],
        }

    def load_state_dict(self, state: dict) -> None:
        """Load a state. Old checkpoints hold one `count` for all names instead of `counts`."""
        names = list(state["names"])
        counts = state["counts"] if "counts" in state else [state["count"]] * len(names)
        self.sums = {name: value.clone() for name, value in zip(names, state["sums"], strict=True)}
        self.counts = {name: count for name, count in zip(names, counts, strict=True) if count}
