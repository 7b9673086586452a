"""The notebooks run from the first cell to the last, and show outputs that hold nothing of the machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exhaustive import cases

ROOT = Path(__file__).resolve().parents[2]
BRIEF = {
    "first_model": "STEPS = 3",
    "own_component": "STEPS = 3",
    "ood_detection": "STEPS = 3",
    "labels_and_composition": "STEPS = 3\nPOINT_STEPS = 3\nSAMPLES = 2",
}
"""What the test writes in the place of each notebook's first code cell, which has the tag `parameters`."""
HERE = re.compile(r"/(tmp|home|root|work|Users|var)/|\d{4}-\d\d-\d\d_\d\d-\d\d")
"""A path of a machine, or the time in a run's name."""


def code(name):
    cells = json.loads((ROOT / "docs" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_every_notebook_is_tested():
    assert {p.stem for p in (ROOT / "docs" / "notebooks").glob("*.ipynb")} == BRIEF.keys()


@pytest.mark.parametrize("name", BRIEF)
def test_outputs_are_stored_small_and_free_of_the_machine(name):
    cells = code(name)
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1)), "each cell is executed, in order"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {o["output_type"] for o in outputs} == {"stream", "execute_result"}, "no cell fails"
    for output in outputs:
        data = output.get("data", {})
        assert not HERE.search("".join(output.get("text", [])) + "".join(data.get("text/plain", [])))
        assert len(data.get("image/png", "")) < 100_000
    assert any("image/png" in o.get("data", {}) for o in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(BRIEF, ["first_model"]))
def test_a_notebook_runs(name, tmp_path):
    first, *others = code(name)
    assert first["metadata"]["tags"] == ["parameters"]
    names = [re.findall(r"^(\w+) = ", text, re.MULTILINE) for text in ("".join(first["source"]), BRIEF[name])]
    assert names[0] == names[1]
    program = tmp_path / "program.py"
    program.write_text("\n".join([BRIEF[name], *("".join(c["source"]) for c in others)]), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
