"""The package outside its clone: configs travel inside the wheel, and the console command does what train.py does."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import ebm_lab

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packed(folder):
    """Build the wheel and return what it holds, unpacked."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, check=True, capture_output=True, text=True, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_what_a_run_needs(tmp_path):
    site = packed(tmp_path)
    for source, there in (("configs", "ebm_lab/configs"), ("ebm_lab", "ebm_lab"), ("hydra_plugins", "hydra_plugins")):
        files = {p.relative_to(ROOT / source) for p in (ROOT / source).rglob("*") if p.is_file()}
        files = {p for p in files if "__pycache__" not in p.parts}
        assert files <= {p.relative_to(site / there) for p in (site / there).rglob("*")}, source
    assert (site / "ebm_lab" / "py.typed").is_file() and (site / "ebm_lab" / "cli" / "templates").is_dir()
    (info,) = site.glob("*.dist-info")
    assert "ebm-lab = ebm_lab.cli.commands:lab" in (info / "entry_points.txt").read_text()
    assert f"Version: {ebm_lab.__version__}\n" in (info / "METADATA").read_text()


def test_the_version_stands_in_one_place():
    project = PROJECT["project"]
    assert project["dynamic"] == ["version"] and "version" not in project
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ebm_lab.__version__


def test_the_extra_all_has_every_extra_for_users():
    extras = PROJECT["project"]["optional-dependencies"]
    listed = re.search(r"\[(.*)\]", extras["all"][0])
    assert listed and set(listed[1].split(",")) == extras.keys() - {"all", "dev", "bench", "docs", "notebooks"}


def test_the_workflows_test_what_the_project_allows():
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    matrix = tests["jobs"]["fast"]["strategy"]["matrix"]
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14" and matrix["python"] == ["3.11", "3.12", "3.13"]
    floors = dict(d.split(">=") for d in PROJECT["project"]["dependencies"] if d.startswith("torch"))
    oldest = " ".join(f"{name}=={floor}.*" for name, floor in floors.items())
    assert oldest in [row["pins"] for row in matrix["include"] if row["torch"] == "oldest"]


@pytest.mark.slow
def test_a_wheel_works_far_from_the_clone(tmp_path):
    site = packed(tmp_path)
    away = tmp_path / "away"
    away.mkdir()
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ebm_lab.cli.commands import lab; lab()"
    arguments = ["train", "objective=dsm", "dataset=two_moons", "steps=3", "logger=none", "evaluation=[likelihood]"]
    arguments += ["dataset.train=300", "dataset.held_out=100"]
    command = [sys.executable, "-c", code, str(site), *arguments]
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
