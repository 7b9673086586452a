"""Kind: a hint names a path, and neither the shell nor Hydra reads the path back as it is."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.sweep import record, show
from ebm_lab.core.shell import override, pasteable
from ebm_lab.training.trainer import Trainer
from tests.exhaustive import cases

ROOT = Path(ebm_lab.__file__).resolve().parent.parent
SHORT = [
    "dataset=gaussian", "dataset.train=300", "dataset.held_out=100", "objective=dsm", "energy=mlp", "energy.hidden=[8]",
    "steps=6", "batch_size=32", "evaluation=[]", "logger=none",
]  # fmt: skip
NAMES = [
    "plain/run-1.0+x", "a b", " lead and trail ", "it's", 'say "x"', "a=b", "a,b", "[1]", "{x}", "(x)",
    "é—模型", "$HOME", "${x}", "a${b", "\\${x}", "back\\slash", "end\\", "a\\'b", "a\\\\'b", "~/x", "#h",
    "a:b", ":cat:", "a;b", "a&b", "a|b", "*", "?", "!x", "`id`", "%", "tab\tx", "new\nline", "100",
    "1e5", "null", "true", "-x", "--help", "+x", "<a>", "a@b",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_hydra_reads_every_name_back(name):
    assert compose_config([override("output_dir", name)])["output_dir"] == name


@pytest.mark.parametrize("name", NAMES)
def test_the_shell_hands_every_name_over(name):
    tell = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))'"
    word = override("resume", name)
    done = subprocess.run(["sh", "-c", pasteable(tell, word, name)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [word, name]


def test_a_plain_path_is_shown_without_quotes():
    assert (
        pasteable("python train.py", override("resume", "outputs/runs/a-1"))
        == "python train.py resume=outputs/runs/a-1"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(["it's a, [b]=${c} é", ":cat: \\ $HOME"], ["it's a, [b]=${c} é"]))
def test_the_hint_of_an_interrupted_run_can_be_pasted(name, tmp_path, monkeypatch, capsys):
    def interrupt(trainer):
        signal.raise_signal(signal.SIGINT)
        return real(trainer)

    real = Trainer.fit
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", interrupt)
        result = ebm_lab.train([*SHORT, override("output_dir", tmp_path / name)])
    assert result.status == "interrupted"
    hint = next(line for line in capsys.readouterr().out.splitlines() if "continue with: " in line)
    pasted = hint.partition("continue with: ")[2].replace("python train.py", f"{sys.executable} {ROOT / 'train.py'}", 1)
    done = subprocess.run(["sh", "-c", pasted], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((result.path / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"


def test_the_hint_of_an_unfinished_sweep_can_be_pasted(tmp_path, capsys):
    folder = tmp_path / "it's a, [b]"
    record(folder, 0, ["seed=1"], status="interrupted", exit=130)
    show(folder)
    hint = capsys.readouterr().out.partition("continue with: python scripts/sweep.py ")[2]
    tell = f"{sys.executable} -c 'import sys; print(sys.argv[1])' {hint}"
    done = subprocess.run(["sh", "-c", tell], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == f"resume={folder}"


def test_the_command_of_a_run_can_be_pasted(tmp_path, monkeypatch):
    arguments = ["train.py", "output_dir='a b'", "energy.hidden=[8]"]
    monkeypatch.setattr(sys, "argv", arguments)
    said = ebm_lab.train([*SHORT, f"output_dir={tmp_path}"], quiet=True).summary["command"]
    tell = f"set -- {said}; printf '%s\\n' \"$@\""
    assert subprocess.run(["sh", "-c", tell], capture_output=True, text=True).stdout.splitlines() == arguments
