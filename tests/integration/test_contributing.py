"""What CONTRIBUTING.md shows is run as it stands there: five components, in two files each."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def written(tmp_path):
    """The module and the YAMLs, as a reader would save them."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "my_module.py").write_text("\n\n".join(blocks), encoding="utf-8")
    files = re.findall(r"```yaml\n# (my_configs/\S+)\n(.*?)```", TEXT, re.DOTALL)
    assert len(files) == 5
    for name, content in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_the_examples_work_together(written):
    choice = ["dataset=laplace", "energy=two_layers", "objective=absolute_dsm", "sampler=random_walk"]
    more = ["evaluation=[likelihood,tail]", "steps=20", "samples=50", "sample_steps=40", "logger=none"]
    command = [sys.executable, str(ROOT / "train.py"), "--config-dir", "my_configs", "plugins=[my_module]"]
    done = subprocess.run([*command, *choice, *more], cwd=written, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tail_excess" in done.stdout and "nll_gap" in done.stdout
    assert "nothing was tuned for objective=absolute_dsm on domain=points" in done.stdout


def test_the_map_names_every_package(written):
    packages = {p.name for p in (ROOT / "ebm_lab").iterdir() if (p / "__init__.py").is_file()}
    assert packages == set(re.findall(r"(\w+)/", TEXT.split("## The map")[1].split("A run's way")[0])) & packages
