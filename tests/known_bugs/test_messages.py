"""Kind: a mistake whose message did not name the way out, or was no message but a traceback."""

import re
import sys

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.evaluate import roster
from ebm_lab.cli.main import main
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build, names
from ebm_lab.core.settings import check
from ebm_lab.runs.assemble import assemble
from ebm_lab.runs.load import load_run
from tests.cli.test_cli import call
from tests.helpers import Points, faults_of

OWN = """
import torch
from ebm_lab import register
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.eval_view import Report


@register("dataset", "own_points")
class OwnPoints(Dataset):
    def __init__(self, *, n: int) -> None:
        x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
        self.train, self.val, self.test = x[::2], x[1::4], x[3::4]


@register("evaluation", "own_numbers")
class OwnNumbers:
    def __init__(self, *, k: int) -> None:
        self.k = k

    def applies(self, view):
        return None

    def __call__(self, view):
        return Report({"own_k": float(self.k)}, {}, [])
"""
QUICK = ["steps=2", "logger=none", "evaluation=[]", "batch_size=8", "threads=1", "objective=ssm"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A directory with a module of one's own, importable, and a way to put YAMLs beside it."""
    (tmp_path / "own_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_of_mine", raising=False)  # that of another test, in its own directory

    def put(name, text):
        file = tmp_path / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return tmp_path / "own"

    put("dataset/mine.yaml", "{name: own_points, n: 64}")
    return put


def complaint(overrides, folder=None):
    with pytest.raises(UserError) as refused:
        assemble(compose_config(overrides, folder))
    text = str(refused.value)
    assert "\n" not in text
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, names_it",
    [
        ("dataset.path=x.npy", "dataset=array"),
        ("dataset.key=x", "dataset=array"),
        ("dataset.size=3", "belongs to dataset=...image_folder"),
        ("dataset.root=/data", "belongs to dataset=...cifar10, fashion_mnist, mnist, wine"),
        ("dataset.noise=1", "dataset=rings or dataset=spirals or dataset=two_moons"),
        ("objective.sigma=0.1", "objective=dsm"),
        ("objective=ssm objective.buffer_size=9", "objective=pcd"),
        ("sampler.leapfrog=3", "sampler=hmc"),
        ("sampler=none sampler.step_size=1", "belongs to sampler=adjusted_mclmc, ...langevin...hmc...nuts"),
        ("optim.momentum=0.9", "optim=sgd"),
        ("logger=none logger.project=x", "logger=wandb"),
        ("energy.blocks=2", "belongs to energy=...resnet"),
        ("+objective.sigma=0.1", "objective=dsm"),
        ("++dataset.size=3", "belongs to dataset=...image_folder"),
        ("lr=1", "'optim.lr'"),
        ("sigma=1", "'objective.sigma', which belongs to objective=dsm"),
        ("OUTPUT_DIR=x", "'output_dir'"),
        ("evaluation.ais.chains=9", "add it: 'evaluation=[likelihood,...,density,...ais]'"),
        ("evaluation.mmd=3", "evaluation.<name>.<key>=<value>"),
        ("plugins=hidden", "write plugins=[hidden]"),
        ("logger.tags=x logger=wandb", "unknown"),
        ("plugins=[hidden.py]", "write plugins=[hidden]"),
        ("plugins=[./a/hidden.py]", "write plugins=[a.hidden]"),
        ("energy=mlp dataset=two_moons energy.hidden=64", "write energy.hidden=[64]"),
        ("energy.hidden=[64]", "write energy.hidden=64"),
        ("steps=1e3", "write steps=1000"),
        ("objective.name=dsm", "objective=dsm"),
        ("dataset=x.npy", "dataset=array dataset.path=x.npy"),
        ("dataset=/tmp", "dataset=image_folder dataset.path=/tmp"),
        ("objective=multi_dsm dataset=bars_and_stripes", "multi_dsm: needs real numbers"),
        ("objective=tre dataset=bars_and_stripes", "tre: needs real numbers"),
        ("objective=jem dataset=bars_and_stripes", "needs class labels"),
        ("dataset=a/b", "dataset=a/b: no such option; allowed: array"),
        ("hydra/sweeper=ax", "pip install hydra-ax-sweeper; allowed: basic, optuna"),
        ("hydra/sweeper=nope", "allowed: basic"),
        ("hydra/launcher=ray", "pip install hydra-ray-launcher; allowed: basic"),
    ],
)
def test_a_setting_that_is_not_there_is_told_where_it_is(overrides, names_it):
    if "unknown" in names_it:  # a list that was given as a text, refused by the component and not by the config
        with pytest.raises(UserError, match=r"write logger.tags=\[x\]"):
            build("logger", compose_config(overrides.split())["logger"], info=None)
        return
    in_order = ".*".join(re.escape(part) for part in names_it.split("..."))  # "..." is any text, so lists may grow
    assert re.search(in_order, complaint([*QUICK[:1], *overrides.split()]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "energy, instead",
    [
        ("conv", "mlp"),
        ("resnet", "mlp"),
        ("noise_conv", "noise_mlp"),
        ("noise_unet", "noise_mlp"),
        ("score_unet", "score_mlp"),
    ],
)
def test_an_energy_for_images_names_the_one_for_points(energy, instead, monkeypatch):
    monkeypatch.setattr("ebm_lab.runs.compatibility.FEW", 99)  # other tests register energies of their own
    objective = "ssm" if energy in ("conv", "resnet") else "multi_dsm"
    line = complaint(["dataset=two_moons", "dataset.train=50", f"energy={energy}", f"objective={objective}"])
    assert instead in re.findall(r"\w+", line.split("choose energy=")[1]), line
    few = ["dataset.train=50", "dataset.held_out=20"]
    assemble(compose_config(["dataset=two_moons", *few, f"energy={instead}", f"objective={objective}", *QUICK[:-1]]))


@pytest.mark.slow
def test_what_is_named_for_own_points_and_many_levels_works(own):
    own_points = ["plugins=[own_of_mine]", "dataset=mine", "objective=multi_dsm", *QUICK[:-1]]
    folder = own("objective/none", "")
    assert "choose energy=noise_mlp" in complaint([*own_points, "energy=mlp"], folder)
    assert "energy=noise_mlp" in complaint([*own_points, "domain=images"], folder)
    assemble(compose_config([*own_points, "energy=noise_mlp"], folder))
    assemble(compose_config([*own_points, "architecture=mlp"], folder))
    assert compose_config(own_points, folder)["energy"]["name"] == "noise_mlp", "what the data are is looked at"


def test_images_are_still_told_of_the_energy_that_suits_them():
    images = Points(torch.rand(8, 1, 4, 4))
    (line,) = faults_of(images, energy="conv", objective="multi_dsm")
    assert "choose energy=noise_conv, noise_mlp or noise_unet, or another objective" in line


def test_an_own_evaluation_without_its_package_line_is_told_the_line(own, tmp_path, monkeypatch, capsys):
    folder = own("evaluation/mine.yaml", "name: own_numbers\nk: 3\n")
    overrides = ["plugins=[own_of_mine]", "dataset=mine", "energy=mlp", *QUICK]
    line = complaint([*overrides, "evaluation=mine"], folder)
    assert line == "evaluation=own_numbers: the first line of its YAML has to be: # @package evaluation.own_numbers"
    monkeypatch.chdir(tmp_path)
    status, err = call([*overrides, "evaluation=[mmd,mine]", "--config-dir", "own"], monkeypatch, capsys)
    assert (status, err) == (2, f"error: {line}\n")
    own("evaluation/mine.yaml", "# @package evaluation.own_numbers\nname: own_numbers\nk: 3\n")
    done = ebm_lab.train([*overrides, "evaluation=mine", f"output_dir={tmp_path}"], config_dir=folder, quiet=True)
    assert done.summary["own_k"] == 3


@pytest.mark.parametrize("group", ["experiment", "recipe", "debug"])
def test_a_preset_without_its_package_line_is_refused_and_not_ignored(own, group):
    folder = own(f"{group}/mine.yaml", "steps: 7\n")
    assert "# @package _global_" in complaint([f"{group}=mine"], folder)
    own(f"{group}/mine.yaml", "# @package _global_\nsteps: 7\n")
    assert compose_config([f"{group}=mine"], folder)["steps"] == 7


def test_a_preset_that_chooses_by_a_plain_key_is_told_the_defaults_line(own):
    folder = own("experiment/mine.yaml", "# @package _global_\ndataset: two_moons\n")
    assert "- override /dataset: two_moons" in complaint(["experiment=mine"], folder)
    own("experiment/mine.yaml", "# @package _global_\ndefaults:\n  - /dataset: two_moons\n")
    assert "- override /dataset: <option>" in complaint(["experiment=mine"], folder)


@pytest.mark.parametrize(
    "text, line",
    [
        ("name: [own\nn: 3", "broken.yaml: line 2 can't be read as YAML"),
        ("n: 3", "dataset.name=None: must be the name of a registered dataset"),
        ("- 1\n- 2", "dataset=[1, 2]: must be the settings of a registered dataset"),
        (
            "{name: array, path: 123, key: null, label: null, classes: null, dequantise: false, space: auto, "
            "scaling: none, val: 0.1, test: 0.1, seed: 0}",
            'write dataset.path="123"',
        ),
    ],
)
def test_a_broken_yaml_of_one_s_own_is_one_line(own, text, line):
    assert line in complaint(["dataset=broken"], own("dataset/broken.yaml", text))


def test_a_run_made_with_plugins_names_them_when_they_are_missing(own, tmp_path, monkeypatch):
    folder = own("evaluation/mine.yaml", "# @package evaluation.own_numbers\nname: own_numbers\nk: 3\n")
    overrides = ["plugins=[own_of_mine]", "dataset=mine", "energy=mlp", *QUICK, f"output_dir={tmp_path}"]
    run = ebm_lab.train(overrides, config_dir=folder, quiet=True).path
    for kind, name in (("dataset", "own_points"), ("evaluation", "own_numbers")):
        monkeypatch.delitem(names(kind), name)
    monkeypatch.delitem(sys.modules, "own_of_mine")
    with pytest.raises(UserError, match=r"dataset=own_points: .*plugins=\[own_of_mine\]") as refused:
        load_run(run)
    assert "\n" not in str(refused.value)
    assert load_run(run, plugins=["own_of_mine"]).dataset.event_shape == (2,)


def test_a_component_that_no_plugin_brought_names_no_plugin(own, tmp_path):
    with pytest.raises(UserError, match="sampler=nope: not an option") as refused:
        build("sampler", {"name": "nope"})
    assert "plugins" not in str(refused.value)


def test_evaluations_may_stand_in_brackets_as_they_do_for_training():
    assert list(roster({}, "[mmd, ksd]", {})) == ["mmd", "ksd"]


def test_a_setting_in_another_form_is_told_the_form():
    def target(*, many: list[int], one: int, text: str, either: float | str) -> None: ...

    good = {"many": [1], "one": 1, "text": "a", "either": 1.0}
    for change, written in (
        ({"many": 3}, "write many=[3]"),
        ({"one": [3]}, "write one=3"),
        ({"one": 3.0}, "write one=3"),
        ({"text": 3}, 'write text="3"'),
        ({"text": True}, 'write text="True"'),
    ):
        with pytest.raises(UserError) as refused:
            check(target, {**good, **change}, "")
        assert str(refused.value).endswith(written)
    with pytest.raises(UserError, match="one=1.5: should be a valid integer$|fractional"):
        check(target, {**good, "one": 1.5}, "")


# The command line's options.

ORDERS = [
    ["--config-dir", "own", "OVERRIDES"],
    ["OVERRIDES", "--config-dir", "own"],
    ["dataset=mine", "--config-dir", "own", "REST"],
    ["dataset=mine", "--config-dir=own", "REST"],
    ["REST", "-cd", "own", "dataset=mine"],
]


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_options_may_stand_anywhere(order, own, tmp_path, monkeypatch, capsys):
    own("dataset/mine.yaml", "{name: own_points, n: 64}")
    rest = ["plugins=[own_of_mine]", "energy=mlp", "evaluation=[]", "objective=ssm", "batch_size=8", "output_dir=out"]
    whole = {"OVERRIDES": ["dataset=mine", *rest], "REST": rest}
    monkeypatch.chdir(tmp_path)
    status, err = call([w for word in order for w in whole.get(word, [word])], monkeypatch, capsys)
    assert (status, err) == (0, "")
    assert len(list(tmp_path.glob("out/runs/*_own_points_s0"))) == 1


@pytest.mark.slow
def test_a_sweep_s_option_may_stand_in_the_middle(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(64, 2)))
    monkeypatch.chdir(tmp_path)
    rest = ["dataset=array", "dataset.path=x.npy", "evaluation=[]", "objective=ssm", "batch_size=8", "output_dir=out"]
    status, err = call(["seed=0,1", "-m", *rest], monkeypatch, capsys)
    assert (status, err) == (0, "") and len(list(tmp_path.glob("out/runs/*"))) == 2


def test_the_config_can_be_printed_from_anywhere(tmp_path, monkeypatch, capsys):
    printed = []
    for order in (["--cfg", "job", "seed=7"], ["seed=7", "-c", "job"], ["seed=7", "--cfg=job", "steps=3"]):
        monkeypatch.setattr(sys, "argv", ["train.py", *order])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        printed.append(capsys.readouterr().out)
    assert all("seed: 7" in text for text in printed)


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("seed=1 --config-dir /nope steps=2", "--config-dir=/nope: no such directory"),
        ("seed=1 --config-dir -m", "--config-dir: needs a value"),
        ("--cfg jobs seed=1", "--cfg=jobs: not an option; allowed: all, hydra, job; did you mean 'job'?"),
        ("seed=1 --multi", "--multi: unknown option; allowed: .*did you mean '--multirun'?"),
        ("--objective dsm", "--objective: unknown option; allowed: .*settings as key=value: objective=dsm\n"),
        ("--batch-size 32 seed=1", "--batch-size: unknown option; allowed: .*settings as key=value: batch_size=32\n"),
        ("seed=1 --objective", "--objective: unknown option; allowed: .*settings as key=value"),
        ("--objective=dsm", "--objective=dsm: not a setting; a setting has no dashes before it: objective=dsm"),
        ("seed=0,1 –m", "–m: unknown option; write -m"),
        ("seed=1 —help", "—help: unknown option; write --help"),
        ("-x", "-x: unknown option"),
        ("--config-d /tmp", "--config-d: unknown option; .*did you mean '--config-dir'?"),
    ],
)
def test_an_unknown_option_is_one_line(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, err = call(arguments.split(), monkeypatch, capsys)
    assert status == 2 and err.count("\n") == 1 and err.startswith("error: "), err
    assert re.search(line.replace("?", r"\?"), err), err
    assert not list(tmp_path.iterdir())


def test_the_last_of_two_values_counts():
    assert compose_config(["seed=1", "seed=2"])["seed"] == 2
    assert compose_config(["objective=dsm", "objective=ssm"])["objective"]["name"] == "ssm"
