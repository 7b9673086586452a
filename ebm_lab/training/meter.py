"""Running means of the training metrics, kept on the device and read once per log interval."""

import torch
from torch import Tensor

from ebm_lab.training.distributed import Processes


class Meter:
    """Sums 0-d tensors by name; its state travels in the checkpoint, so a resumed run logs the same numbers."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: list[Tensor] = []
        self.count = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        values = list(metrics.values())
        if not self.count:
            self.names, self.sums = list(metrics), [v.detach().clone() for v in values]
        else:
            torch._foreach_add_(self.sums, values)
        self.count += 1

    def means(self, processes: Processes = Processes()) -> dict[str, float]:  # noqa: B008 (it has no state)
        """The means since the last `clear`, over `processes`, read from the device in one go. NaN and inf stay what
        they are."""
        if not self.count:
            return {}
        means = processes.mean((torch.stack([s.double() for s in self.sums]) / self.count).cpu())
        return dict(zip(self.names, means.tolist(), strict=True))

    def clear(self) -> None:
        self.count = 0

    def state_dict(self) -> dict:
        return {"names": self.names, "sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.names, self.sums, self.count = list(state["names"]), list(state["sums"]), state["count"]
