"""What the C library does with freed memory.

glibc gives large blocks back to the system as soon as they are free, and a training step that asks for them again has
every page zeroed anew: up to half of the time of a convolution's step. Here blocks of up to 128 MiB come from the
heap, and the heap keeps what it has (mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD). Larger ones, such as a data set
that was read, still go back.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE = 128 * 2**20
SMALLER = 32 * 2**20
"""What a glibc that refuses LARGE allows."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; whether it will. Not where glibc is not the C library, and not where the
    environment sets it up in its own way (`MALLOC_*`, `GLIBC_TUNABLES`)."""
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    if not sys.platform.startswith("linux") or "glibc" not in _libc_version():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        (mallopt(M_MMAP_THRESHOLD, LARGE) or mallopt(M_MMAP_THRESHOLD, SMALLER)) and mallopt(M_TRIM_THRESHOLD, -1)
    )


def _libc_version() -> str:
    """'glibc 2.36', or '' where there is none."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""
