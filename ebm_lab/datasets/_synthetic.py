"""Data sets drawn from a law with a known density. The components of a Gaussian mixture are their classes."""

from torch import Tensor

from ebm_lab.core.interfaces import Dataset, Distribution
from ebm_lab.core.random import stream
from ebm_lab.distributions.mixture import mixture_of


class Synthetic(Dataset):
    """`train` training points, and `held_out` points each for validation and test, drawn from `law` in float64 and
    stored in float32. Each split has its own random stream, from (seed, "<name>/<split>")."""

    def __init__(self, law: Distribution, name: str, train: int, held_out: int, seed: int) -> None:
        self.law: Distribution = law
        sizes = {"train": train, "val": held_out, "test": held_out}
        streams = {split: stream(seed, f"{name}/{split}") for split in sizes}
        mixture = mixture_of(self)
        if mixture is None:
            splits = {split: law.sample(n, streams[split]) for split, n in sizes.items()}
        else:
            drawn = {split: mixture.labelled(n, streams[split]) for split, n in sizes.items()}
            splits, self.labels = {s: x for s, (x, _) in drawn.items()}, {s: y for s, (_, y) in drawn.items()}
            self.class_names = [f"component {k}" for k in range(len(mixture.weights))]
        self.precise = splits["train"], splits["val"], splits["test"]
        self.train, self.val, self.test = (split.float() for split in self.precise)

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute the log density in nats, (B, *shape) -> (B,), in float64 on the CPU; differentiable in x if the law's
        is."""
        return self.law.log_prob(x.cpu().double()).to(x.device)

    def class_log_prob(self, x: Tensor) -> Tensor | None:
        """Compute log p(y | x) in nats for each component of a mixture, (B, *shape) -> (B, K), in float64; None for
        other laws."""
        mixture = mixture_of(self)
        return None if mixture is None else mixture.responsibilities(x.cpu().double()).log().to(x.device)
