"""Kind: the terminal or the locale has another encoding than a text, a name or a path that the lab reads or prints."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ebm_lab
from tests.exhaustive import cases, exhaustive

ROOT = Path(ebm_lab.__file__).resolve().parent.parent
SHORT = [
    "dataset=gaussian", "dataset.train=300", "dataset.held_out=100", "objective=dsm", "objective.sigma=0.1",
    "energy=mlp", "energy.hidden=[8]", "steps=4", "batch_size=32", "samples=8", "sample_steps=2",
    "evaluation=[samples]", "logger=none",
]  # fmt: skip
NAME = "Läufe — 模型 ∫"
TERMINALS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "ascii, strict": {"PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "LC_ALL=C": {"LC_ALL": "C"},
    "LANG=C": {"LANG": "C", "LC_ALL": "", "PYTHONCOERCECLOCALE": "0"},
    "LC_ALL=C without UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}

MAIN = ("ascii, strict", "LC_ALL=C without UTF-8")


def command(script, *arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments], capture_output=True, cwd=cwd, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1")


@pytest.mark.slow
@pytest.mark.parametrize("terminal", cases(TERMINALS, ["LC_ALL=C without UTF-8"]))
def test_a_run_under_a_path_of_any_letters_ends_well_on_any_terminal(terminal, tmp_path):
    settings = TERMINALS[terminal]
    folder = tmp_path / NAME
    folder.mkdir()
    status, said, problem = command("train.py", *SHORT, f'output_dir="{folder}"', cwd=tmp_path, **settings)
    assert status == 0, problem
    assert "finished" in said
    run = next((folder / "runs").iterdir())
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"
    loaded = ebm_lab.load_run(run)  # in this process, which has UTF-8
    assert Path(loaded.config["output_dir"]) == folder
    if terminal not in MAIN:
        return
    for script, arguments in (
        ("sample.py", [f"run={run}", "n=4", "steps=2"]),
        ("evaluate.py", [f"run={run}", "evaluation=own"]),
        ("report.py", [f"outputs={folder}"]),
    ):
        status, _, problem = command(f"scripts/{script}", *arguments, cwd=tmp_path, **settings)
        assert status == 0, problem


@pytest.mark.slow
@pytest.mark.parametrize("terminal", cases(["ascii", "LC_ALL=C without UTF-8"], ["ascii"]))
def test_a_mistake_with_foreign_letters_is_one_line(terminal, tmp_path):
    settings = TERMINALS[terminal]
    for script, wrong in (("train.py", 'objective="dsm–é"'), ("scripts/sample.py", f"run={NAME}")):
        status, _, problem = command(script, wrong, cwd=tmp_path, **settings)
        assert status == 2
        assert len(problem.splitlines()) == 1 and problem.startswith("error: ")


@pytest.mark.slow
def test_a_working_tree_with_foreign_names_ends_no_run(tmp_path):
    """Git prints the names of changed files as they are, if it is told to."""
    (tmp_path / "é").write_text("")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for line in (["init", "-q"], ["config", "core.quotepath", "false"], ["add", "é"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *line], cwd=tmp_path, check=True)
    (tmp_path / "é").write_text("changed")
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    status, _, problem = command("train.py", *SHORT, cwd=tmp_path, **settings)
    assert status == 0, problem
    summary = json.loads(next(tmp_path.glob("outputs/runs/*/summary.json")).read_text(encoding="utf-8"))
    assert summary["git_commit"].endswith("+")


@pytest.mark.slow
def test_a_config_with_foreign_letters_in_a_comment_is_read_by_any_locale(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\n# Größe — 模型\nseed: 7\n"
    (tmp_path / "mine" / "experiment" / "small.yaml").write_text(text, encoding="utf-8")
    settings = TERMINALS["LC_ALL=C without UTF-8"]
    status, _, problem = command(
        "train.py", "--config-dir", "mine", *SHORT, "experiment=small", cwd=tmp_path, **settings
    )
    assert status == 0, problem
    config = yaml.safe_load(next(tmp_path.glob("outputs/runs/*/config.yaml")).read_text(encoding="utf-8"))
    assert config["seed"] == 7


@exhaustive
def test_a_sweep_under_such_a_path_ends_well(tmp_path):
    folder = tmp_path / NAME
    settings = TERMINALS["LC_ALL=C without UTF-8"]
    status, _, problem = command(
        "train.py", *SHORT, f'output_dir="{folder}"', "seed=1,2", "-m", cwd=tmp_path, **settings
    )
    assert status == 0, problem
    (sweep,) = (folder / "sweeps").iterdir()
    status, _, problem = command("scripts/sweep.py", f"resume={sweep}", cwd=tmp_path, **settings)
    assert status == 0, problem


FILES = sorted([*(ROOT / "ebm_lab").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), ROOT / "train.py"])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_text_file_is_opened_with_its_encoding(path):
    """Without one Python takes the locale's, and a file that is written here can't be read elsewhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func).rpartition(".")[0]
        modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        binary = any(isinstance(mode, str) and "b" in mode and len(mode) < 5 for mode in modes)
        if name in ("read_text", "write_text") or (name == "open" and not binary and owner not in NOT_TEXT):
            assert any(k.arg == "encoding" for k in node.keywords), f"line {node.lineno}: {ast.unparse(node)}"


NOT_TEXT = ("Image", "RunDir", "os", "webbrowser")
