"""Random streams: one generator per purpose, each a pure function of (seed, purpose, index).

No component draws from torch's global generator, so the number of draws for one purpose never affects another.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor


def seed_of(seed: int, purpose: str, index: int = 0) -> int:
    """Return a 63-bit seed for (seed, purpose, index), the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator for `purpose`; `index` distinguishes steps, epochs or ranks."""
    return torch.Generator(device).manual_seed(seed_of(seed, purpose, index))


def seed_from(generator: Generator) -> int:
    """Draw a 31-bit seed, for library code that takes no generator."""
    return int(torch.randint(2**31, (), generator=generator, device=generator.device))


_global = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device` for the body, and restore their states after it.

    For library code that can draw only from these, such as a layer's initial weights. One thread at a time.
    """
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    with _global, torch.random.fork_rng(devices=cuda, device_type="cuda"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every other device as well
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


def with_noise(x: Tensor, std: float, generator: Generator) -> Tensor:
    """Return x + std * N(0, I), (B, *shape) -> (B, *shape). If std is 0, return x itself and draw nothing."""
    return x + std * torch.empty_like(x).normal_(generator=generator) if std else x


def row_order(total: int) -> Tensor:
    """Return a fixed random order of `total` rows, (total,), the same on every machine."""
    return torch.randperm(total, generator=stream(0, "rows"))


def subset(x: Tensor, n: int) -> Tensor:
    """Return n random rows of x (N, *shape), the same ones every time, or x itself if it has at most n.

    They are not the first n, because rows may be stored in some order, such as by class. Tensors of equal length get
    the same rows, so that labels stay with their points. No other random stream is affected.
    """
    return x if len(x) <= n else x[row_order(len(x))[:n].to(x.device)]
