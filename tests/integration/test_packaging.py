"""The package outside its clone: configs travel inside the wheel, and the console command does what train.py does."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_wheel_works_far_from_the_clone(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    inside = {str(p.relative_to(ROOT / "configs")) for p in (ROOT / "configs").rglob("*.yaml")}
    travelled = tmp_path / "site" / "ebm_lab" / "configs"
    assert {str(p.relative_to(travelled)) for p in travelled.rglob("*.yaml")} == inside
    entry = (next((tmp_path / "site").glob("*.dist-info")) / "entry_points.txt").read_text()
    assert "ebm-lab = ebm_lab.cli.commands:lab" in entry

    assert (tmp_path / "site" / "ebm_lab" / "reports" / "compare" / "templates" / "page.html").is_file()

    away = tmp_path / "away"
    away.mkdir()
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ebm_lab.cli.commands import lab; lab()"
    arguments = ["train", "objective=dsm", "dataset=two_moons", "steps=3", "logger=none", "evaluation=[likelihood]"]
    arguments += ["dataset.train=300", "dataset.held_out=100"]
    command = [sys.executable, "-c", code, str(tmp_path / "site"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=away)
    assert done.returncode == 0, done.stderr
    (run,) = (away / "outputs" / "runs").iterdir()
    assert done.stdout.strip().splitlines()[-1] == str(run.relative_to(away))


def test_a_clone_finds_its_own_configs():
    from ebm_lab.cli.compose import config_dir

    assert config_dir() == ROOT / "configs"


def test_one_console_command_leads_to_all_others(capsys, monkeypatch):
    from ebm_lab.cli import commands

    def told(*argv):
        monkeypatch.setattr(sys, "argv", ["ebm-lab", *argv])
        try:
            commands.lab()
        except SystemExit as end:
            return end.code, capsys.readouterr()
        return 0, capsys.readouterr()

    status, said = told()
    assert status == 0 and all(f"    {name} " in said.out for name in commands.COMMANDS)
    for name in commands.COMMANDS.keys() - {"train"}:
        status, said = told(name, "--help")
        assert status == 0 and said.out.startswith(f"{name}: "), name
    status, said = told("trian")
    assert status == 2 and "command=trian: not an option" in said.err and "did you mean 'train'?" in said.err
    for argv in (["train", "objective=dsm", "--help"], ["objective=dsm", "--help"]):
        status, said = told(*argv)
        assert status == 0 and said.out.startswith("objective=dsm")
