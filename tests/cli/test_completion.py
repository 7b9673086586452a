"""The shell completes commands, groups and options: Hydra does it for settings, the lab for its own commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_lab.cli import commands

ROOT = Path(__file__).resolve().parents[2]
LAB = "import sys; sys.argv[0] = 'ebm-lab'; from ebm_lab.cli.commands import lab; lab()"
PROGRAMS = {"python train.py": [str(ROOT / "train.py")], "ebm-lab train": ["-c", LAB]}


@pytest.mark.parametrize("program", PROGRAMS)
def test_options_are_completed(program):
    command = [sys.executable, *PROGRAMS[program], "-sc", "query=bash"]
    env = {**os.environ, "COMP_LINE": f"{program} dataset=two_moons objective=ds", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["objective=dsm", "objective=dsm_cv"], done.stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ebm-lab sa", ["sample"]),
        ("ebm-lab ", [*commands.COMMANDS]),
        ("ebm-lab report o", []),
        ("ebm-lab sample", ["sample"]),
    ],
)
def test_commands_are_completed(line, offered, capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr(sys, "argv", ["ebm-lab", "-sc", "query=bash"])
    monkeypatch.setattr(commands, "train", lambda: pytest.fail("the line is not Hydra's"))
    commands.lab()
    assert capsys.readouterr().out.split() == offered


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself_offers_the_options(tmp_path):
    """The line that the guide gives, in a shell whose `ebm-lab` is this one."""
    program = tmp_path / "ebm-lab"
    program.write_text(f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(ROOT)!r})\n{LAB}\n")
    program.chmod(0o755)
    words = "ebm-lab train objective=ds"
    typed = f"COMP_LINE={words!r}; COMP_POINT={len(words)}; COMP_WORDS=({words}); COMP_CWORD=2"
    script = f'eval "$(ebm-lab -sc install=bash)"; {typed}; hydra_bash_completion; echo "${{COMPREPLY[@]}}"'
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["objective=dsm", "objective=dsm_cv"], done.stderr
