"""Kind: a file or folder of the working directory bears the name of a module that the lab or a library imports."""

import subprocess
import sys
from pathlib import Path

import pytest

import ebm_lab
from tests.exhaustive import exhaustive

ROOT = Path(ebm_lab.__file__).resolve().parent.parent
SHORT = [
    "dataset=gaussian", "dataset.train=300", "dataset.held_out=100", "objective=dsm", "energy=mlp", "energy.hidden=[8]",
    "steps=4", "batch_size=32", "samples=8", "sample_steps=2", "evaluation=[samples]", "logger=none",
]  # fmt: skip
NAMES = ("queue", "numbers", "yaml", "random", "signal", "types", "token", "torch", "numpy", "hydra", "rich", "sklearn")
FOLDERS = ("ebm_lab", "configs", "hydra_plugins", "omegaconf", "matplotlib", "PIL", "logging", "json")
HOSTILE = "raise SystemExit('a file of the user was imported: ' + __name__)\n"


def command(script, *arguments, cwd):
    return subprocess.run([sys.executable, ROOT / script, *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def crowded(tmp_path):
    """A working directory whose every file would end the run if it were imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(HOSTILE)
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(HOSTILE)
        (tmp_path / name / "train.yaml").write_text("dataset: nonsense\n")
    (tmp_path / "hydra_plugins" / "__init__.py").unlink()  # Hydra searches a folder of this name for plugins
    (tmp_path / "hydra_plugins" / "theirs.py").write_text(HOSTILE)
    return tmp_path


@pytest.mark.slow
def test_a_crowded_directory_ends_no_command(crowded):
    done = command("train.py", *SHORT, cwd=crowded)
    assert done.returncode == 0, done.stderr
    run = done.stdout.split()[-1]
    for script, arguments in (
        ("sample.py", [f"run={run}", "n=4", "steps=2"]),
        ("evaluate.py", [f"run={run}", "evaluation=own"]),
        ("report.py", ["outputs"]),
    ):
        done = command(f"scripts/{script}", *arguments, cwd=crowded)
        assert done.returncode == 0, done.stderr


@exhaustive
def test_a_comparison_runs_its_cases_in_a_crowded_directory(crowded):
    arguments = ["objectives=dsm", "datasets=gaussian", "seeds=0", "unit=steps", "budget=4", "evaluate=samples"]
    small = "dataset.train=300 dataset.held_out=100 energy=mlp energy.hidden=[8] samples=4 sample_steps=2"
    done = command("scripts/compare.py", *arguments, f"overrides={small}", "out=compared", cwd=crowded)
    assert done.returncode == 0, done.stderr
    assert "finished" in (crowded / "compared" / "comparison.csv").read_text()
    logs = [log.read_text() for log in (crowded / "compared").rglob("log.txt")]
    assert logs and not any("a file of the user" in log for log in logs)


@exhaustive
def test_a_plugin_of_the_directory_is_imported_with_its_neighbours(tmp_path):
    (tmp_path / "mine.py").write_text("import neighbour\nneighbour.tell()\n")
    (tmp_path / "neighbour.py").write_text("def tell():\n    open('told', 'w').close()\n")
    (tmp_path / "queue.py").write_text(HOSTILE)
    done = command("train.py", *SHORT, "plugins=[mine]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "told").unlink()
    run = done.stdout.split()[-1]
    for script, more in (("sample.py", "n=4"), ("evaluate.py", "evaluation=samples")):
        done = command(f"scripts/{script}", f"run={run}", more, "plugins=[mine]", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (tmp_path / "told").unlink()


@pytest.mark.parametrize("name", ["queue", "sys", "yaml", "numpy", "ebm_lab"])
def test_a_plugin_that_bears_the_name_of_another_module_is_refused_in_one_line(name, tmp_path, monkeypatch):
    (tmp_path / f"{name}.py").write_text("register = None\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # as in a notebook: Python has imported its own long ago
    with pytest.raises(ebm_lab.UserError) as error:
        ebm_lab.train([*SHORT, f"plugins=[{name}]"])
    assert str(error.value).startswith(f"plugins=[{name}]: ")
    assert f"{name}.py here; rename yours" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_line_refuses_such_a_plugin_before_training(tmp_path):
    (tmp_path / "queue.py").write_text("")
    done = command("train.py", *SHORT, "plugins=[queue]", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: plugins=[queue]: Python finds ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_python_s_search_path_keeps_the_working_directory_last(tmp_path):
    (tmp_path / "look.py").write_text("import os, sys\nopen('path', 'w').write(repr([os.getcwd(), sys.path]))\n")
    done = command("train.py", *SHORT, "plugins=[look]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    here, path = eval((tmp_path / "path").read_text())
    assert path[-1] == here and path.count(here) == 1
