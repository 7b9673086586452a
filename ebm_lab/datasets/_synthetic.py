"""Data sets drawn from a law with a known density."""

from torch import Tensor

from ebm_lab.core.interfaces import Dataset, Distribution
from ebm_lab.core.random import stream


class Synthetic(Dataset):
    """`train` training points, and `held_out` points each for validation and test, drawn from `law` in float64 and
    stored in float32. Each split has its own random stream, from (seed, "<name>/<split>")."""

    def __init__(self, law: Distribution, name: str, train: int, held_out: int, seed: int) -> None:
        self.law: Distribution = law
        sizes = {"train": train, "val": held_out, "test": held_out}
        splits = {split: law.sample(n, stream(seed, f"{name}/{split}")) for split, n in sizes.items()}
        self.precise = splits["train"], splits["val"], splits["test"]
        self.train, self.val, self.test = (split.float() for split in self.precise)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute the log density in nats, (B, *shape) -> (B,), in float64 on the CPU; differentiable in x if the law's
        is."""
        return self.law.log_prob(x.cpu().double()).to(x.device)
