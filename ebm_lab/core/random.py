"""Random streams: one generator per purpose, each a pure function of (seed, purpose, index).

No component draws from torch's global generator, so how often one purpose draws never changes another.
"""

import hashlib

import torch


def seed_of(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for (seed, purpose, index), the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for `purpose`; `index` tells apart steps, epochs or ranks."""
    return torch.Generator(device).manual_seed(seed_of(seed, purpose, index))
