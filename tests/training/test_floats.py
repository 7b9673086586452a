"""Numbers too small for full precision, in a process of its own: the setting lasts as long as a thread."""

import subprocess
import sys

CODE = """
import sys, torch
from ebm_lab.training.floats import flush_denormals
can = flush_denormals() if sys.argv[1] == "flush" else None
torch.set_num_threads(2)
x = torch.full((4_000_000,), 1e-30)
small = x * 1e-10
print(can, int((small == 0).sum()), bool((x * 1e-7 > 0).all()), bool((small.double() ** 2 >= 0).all()))
"""


def zeros(how: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True).stdout.split()


def test_denormal_products_are_0_in_all_threads_and_others_are_kept():
    assert zeros("leave")[1:] == ["0", "True", "True"]
    can, count, *others = zeros("flush")
    assert count == ("4000000" if can == "True" else "0") and others == ["True", "True"]
