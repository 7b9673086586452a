"""What becomes of freed memory: counted by the system, in processes of their own."""

import os
import subprocess
import sys

import pytest

from ebm_lab.training.memory import _libc_version
from tests.exhaustive import exhaustive

CODE = """
import resource, sys, torch
from ebm_lab.training.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
megabytes = int(sys.argv[2])
def use():
    torch.ones(megabytes * 2**20 // 4)
for _ in range(30): use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): use()
print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""

glibc = pytest.mark.skipif("glibc" not in _libc_version(), reason="another C library")


def faults(how: str, megabytes: int, **environment: str) -> tuple[str, float]:
    """Pages that the system gives anew for each use of a block."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE, how, str(megabytes)], env=clean | environment, capture_output=True, text=True
    )
    kept, count = done.stdout.split()
    return kept, float(count)


@exhaustive
@glibc
def test_large_blocks_are_used_again_and_the_largest_given_back():
    page = os.sysconf("SC_PAGE_SIZE")
    usual, kept = faults("leave", 48), faults("keep", 48)
    assert usual[1] > 0.4 * 48 * 2**20 / page / 512 and kept == ("True", pytest.approx(0, abs=2))
    assert faults("keep", 256)[1] > 0.4 * 256 * 2**20 / page / 512  # a page may be a huge one, of 512


@glibc
def test_what_the_environment_says_of_memory_stands():
    assert faults("keep", 48, MALLOC_ARENA_MAX="4")[0] == "False"


def test_another_c_library_is_left_alone(monkeypatch):
    from ebm_lab.training import memory

    for name in [n for n in os.environ if n.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(memory, "_libc_version", lambda: "")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *_: pytest.fail("asked a library"))
    assert memory.keep_freed_memory() is False
