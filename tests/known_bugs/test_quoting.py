"""Kind: a value that the shell hands over and Hydra refuses, or reads as something other than what was typed."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.runs.assemble import assemble
from tests import commands
from tests.cli.test_cli import call

ROOT = Path(__file__).resolve().parent.parent.parent

REFUSED = [
    *(
        "a=b",
        "a,b",
        "über",
        "/data/Müller/x",
        "日本",
        "run[1]",
        "run(1)",
        "run{1}",
        "a#b",
        "a&b",
        "a;b",
        "a!b",
        "a<b>c",
    ),
    *(
        "a`b",
        "it's",
        'say "hi"',
        "'a' and 'b'",
        '"a',
        "(1)x",
        "a b=c",
        "x~y",
        "~user",
        "–x",
        "a^b",
        "key=value,x",
        "]x[",
    ),
    *("a=b\\", 'a\\"b=\\', "a=${b}", "$(date)", "${x", "a\tb=c", "a=b ", " a=b"),
]
"""Texts that no override can hold without quotes."""


def complaint(*overrides):
    with pytest.raises(UserError) as refused:
        compose_config(overrides)
    text = str(refused.value)
    assert "\n" not in text
    return text


def pasted(line):
    """The argument that a message offers, as a shell would hand it over."""
    return shlex.split(line[line.index("'output_dir=") :])[0]


@pytest.mark.parametrize("value", REFUSED)
def test_the_offered_quoting_gives_the_value_that_was_typed(value):
    line = complaint(f"output_dir={value}")
    assert line.startswith(f"output_dir={value.replace(chr(9), chr(92) + 't')}: ")
    assert compose_config([pasted(line)])["output_dir"] == value


def test_the_offered_quoting_passes_through_a_real_shell(tmp_path):
    data = tmp_path / "it's a=b, [1].npy"
    np.save(data, np.random.default_rng(0).normal(size=(60, 2)))
    line = complaint("dataset=array", f"dataset.path={data}")
    argument = line[line.index("'dataset.path=") :]
    shown = subprocess.run(["sh", "-c", f"printf %s {argument}"], capture_output=True, text=True, check=True).stdout
    assert compose_config(["dataset=array", shown])["dataset"]["path"] == str(data)


@pytest.mark.parametrize(
    "value, offered", [("[a=b]", ["a=b"]), ("[ä, b]", ["ä", "b"]), ("[it's,007]", ["it's", "007"])]
)
def test_a_list_is_offered_with_quotes_around_each_element(value, offered):
    line = complaint(f"logger.tags={value}")
    argument = shlex.split(line[line.index("'logger.tags=") :])[0]
    assert compose_config([argument])["logger"]["tags"] == offered


def test_a_home_directory_that_no_shell_expanded_is_offered_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert "output_dir=/home/me/x;" in complaint("output_dir=~/x")
    assert "output_dir=/home/me;" in complaint("output_dir=~")


@pytest.mark.parametrize(
    "overrides, offered",
    [
        (["objective", "dsm"], "objective=dsm"),
        (["objective", "=", "dsm"], "objective=dsm"),
        (["objective=", "dsm"], "objective=dsm"),
        (["objective", "=dsm"], "objective=dsm"),
        (["objective:dsm"], "objective=dsm"),
        (["objective==dsm"], "objective=dsm"),
        (["dsm"], "objective=dsm"),
        (["two_moons"], "dataset=two_moons"),
        (["--objective=dsm"], "objective=dsm"),
        (["–objective=dsm"], "objective=dsm"),
        (["objective=dsm,", "seed=1"], "objective=dsm"),
        (["objective=dsm;"], "objective=dsm"),
        (["objective=“dsm”"], "objective=dsm"),
        (["objective=‘dsm’"], "objective=dsm"),
        (["output_dir=“my runs”"], "'output_dir=my runs'"),
        (["objective=dsm seed=1"], "objective=dsm seed=1"),
        (["energy.hidden=(64,64)"], "'energy.hidden=[64,64]'"),
        (["seed=1\r"], "seed=1"),
        (["output-dir=x"], "output_dir=x"),
        (["objective"], "objective=<option>"),
        (["+seed=3"], "without the '+'"),
        (["=3"], "can't be a key"),
        ([""], "an empty argument"),
        (["steps=[3"], "bracket is not closed"),
        (["output_dir="], "has no value"),
        (["resume="], "has no value"),
        (["~output_dir"], "can't be left out"),
        (["output_dir=${HOME}/x"], "${oc.env:HOME}"),
    ],
)
def test_what_is_no_setting_is_told_with_what_was_meant(overrides, offered):
    line = complaint(*overrides)
    assert line.startswith((overrides[0].rstrip("\r") or "''").lstrip("+")) or line.startswith(overrides[0])
    assert offered in line.partition(": ")[2]


def test_several_values_without_m_are_told_apart_from_a_list_and_from_a_comma():
    assert "add -m" in complaint("objective=dsm,ssm") and '"' not in complaint("objective=dsm,ssm")
    assert "add -m" in complaint("seed=choice(1,2)")
    assert "add -m" in complaint("steps=range(1,3)")
    assert "'evaluation=[mmd,ais]'" in complaint("evaluation=mmd,ais")
    assert "'energy.hidden=[64,64]'" in complaint("energy=mlp", "dataset=two_moons", "energy.hidden=64,64")


TYPED = [
    *("12345", "007", "1e5", "12e4567", "1_000", "1.50", "0x10", "-3", "true", "False", "null", "nan", "inf", ".5"),
    *("1e400", "0", "00"),
]


@pytest.mark.parametrize("text", TYPED)
def test_a_number_for_a_text_is_the_text_that_was_typed(text):
    keys = ("output_dir", "dataset.path", "logger.project", "device")
    config = compose_config(["dataset=array", *(f"{key}={text}" for key in keys)])
    found = (config["output_dir"], config["dataset"]["path"], config["logger"]["project"], config["device"])
    assert found == (text,) * 4
    assert config["logger"]["directory"] == text, "what refers to it is the same text"


def test_null_stays_null_where_it_is_allowed():
    config = compose_config(["logger.group=null", "resume=null", "max_seconds=null"])
    assert config["logger"]["group"] is config["resume"] is config["max_seconds"] is None
    assert compose_config(["logger.group=12"])["logger"]["group"] == "12"


def test_numbers_in_a_list_of_texts_are_the_texts_that_were_typed():
    tags = compose_config(["logger.tags=[1, 007, true, 1e5, a, '2', null]"])["logger"]["tags"]
    assert tags == ["1", "007", "true", "1e5", "a", "2", "null"]


def test_a_number_for_a_number_stays_one():
    config = compose_config(["objective=dsm", "objective.sigma=1", "steps=7", "optim.lr=1e-3", "max_seconds=5"])
    found = (config["objective"]["sigma"], config["steps"], config["optim"]["lr"], config["max_seconds"])
    assert found == (1, 7, 1e-3, 5) and all(not isinstance(f, str) for f in found)
    assert compose_config(["objective=dsm", "objective.sigma=auto"])["objective"]["sigma"] == "auto"
    assert compose_config(["compile=true"])["compile"] is True


def test_an_own_component_s_text_and_number_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "own_typed.py").write_text(
        "import torch\nfrom ebm_lab import register\nfrom ebm_lab.core.interfaces import Dataset\n\n\n"
        '@register("dataset", "own_typed")\nclass Own(Dataset):\n'
        "    def __init__(self, *, key: int, file: str) -> None:\n"
        "        self.train = self.val = self.test = torch.randn(40, 2)\n"
    )
    folder = tmp_path / "own" / "dataset"
    folder.mkdir(parents=True)
    (folder / "7.yaml").write_text("name: own_typed\nkey: ???\nfile: x\n")
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ["plugins=[own_typed]", "dataset=7", "dataset.key=3", "dataset.file=007", "energy=mlp"]
    found = compose_config(overrides, tmp_path / "own")["dataset"]
    assert found == {"name": "own_typed", "key": 3, "file": "007"}


def test_a_sweep_keeps_what_was_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("1e5", "007"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(60, 2)))
        (tmp_path / f"{name}.npy").rename(tmp_path / name)
    arguments = ["-m", "dataset=array", "dataset.path=1e5,007", "output_dir=12e4", "evaluation=[]", "objective=dsm"]
    status, _ = call(arguments, monkeypatch, capsys)
    paths = [yaml.safe_load(f.read_text())["dataset"]["path"] for f in tmp_path.glob("12e4/runs/*/config.yaml")]
    refused = [json.loads(f.read_text()).get("message") for f in tmp_path.glob("12e4/sweeps/*/jobs/*.json")]
    assert sorted(Path(p).name for p in paths) == [] and len(refused) == 2, "a name without an ending is no format"
    assert {re.search(r"dataset.path=(\w+)", m)[1] for m in refused} == {"1e5", "007"} and status == 1


def test_what_is_typed_reaches_the_run():
    config = compose_config(
        ["dataset=two_moons", "objective=ssm", "dataset.train=100", "logger=none", "output_dir=1e5", "steps=2"]
    )
    trainer, resolved = assemble(config)
    assert config["output_dir"] == "1e5" and resolved["output_dir"] == str(Path("1e5").absolute())
    assert trainer.schedule.steps == 2


@pytest.mark.parametrize("value", ["a=b", "über", "x,y"])
def test_the_command_line_says_so_with_status_2(value, tmp_path):
    done = commands.run("train.py", f"output_dir={value}", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"'output_dir=\"{value}\"'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_choice_of_nothing_is_taken_where_nothing_is_the_default():
    default = compose_config([])
    for group in ("experiment", "debug", "sweep"):
        assert compose_config([f"{group}=null"]) == default
    assert "did you mean 'none'?" in complaint("recipe=null")
