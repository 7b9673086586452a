"""Make the C library keep freed memory for the next training step.

By default glibc returns large blocks to the system as soon as they are freed. A training step that allocates them again
then waits for every page to be zeroed, which takes up to half of the time of a convolution's step. With the settings
made here, blocks of up to 128 MiB come from the heap, and the heap does not shrink (mallopt(3): M_MMAP_THRESHOLD,
M_TRIM_THRESHOLD). Larger blocks, such as a data set, are still returned.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE = 128 * 2**20
SMALLER = 32 * 2**20
"""Threshold for a glibc that does not accept LARGE."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; return whether that was possible.

    Does nothing if the C library is not glibc, or if the environment configures glibc (`MALLOC_*`, `GLIBC_TUNABLES`).
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    if not sys.platform.startswith("linux") or "glibc" not in _libc_version():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        (mallopt(M_MMAP_THRESHOLD, LARGE) or mallopt(M_MMAP_THRESHOLD, SMALLER)) and mallopt(M_TRIM_THRESHOLD, -1)
    )


def _libc_version() -> str:
    """Return a name such as 'glibc 2.36', or '' if the C library is not glibc."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""
