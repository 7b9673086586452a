"""What a user types: mistakes get one clear line, exit status 2, and no run directory; components of their own work."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ebm_lab
from ebm_lab.cli import tools
from ebm_lab.cli.compose import GROUPS, compose_config, config_dir, options
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.cli.main import main
from ebm_lab.core.registry import names
from ebm_lab.evaluation.mmd import MMD
from ebm_lab.runs.assemble import assemble
from tests import commands
from tests.cli.test_recipes import FOR_BITS
from tests.datasets.test_datasets_real import DUMPS, save, write_cifar, write_idx, write_wine
from tests.exhaustive import cases, exhaustive

ROOT = Path(__file__).resolve().parents[2]
TINY = ["steps=3", "logger=none", "samples=4", "sample_steps=10", "batch_size=16", "threads=1"]
FEW = ["dataset.train=500", "dataset.held_out=200"]
DOWN = ["annealed_langevin", "dpm_solver", "edm", "predictor_corrector", "probability_flow"]

MISTAKES = [
    ("objective=dmx", "objective=dmx: no such option; allowed: .*dsm.*; did you mean 'dsm'?"),
    ("objectiv=dsm", "objectiv=dsm: unknown key; allowed: .*; did you mean 'objective'?"),
    ("objective=dsm objective.sgima=1", "objective.sgima=1: unknown key; .*; did you mean 'objective.sigma'?"),
    ("stepz=3", "stepz=3: unknown key; allowed: .*; did you mean 'steps'?"),
    ("+foo=1", "foo=1: unknown key; allowed: .*batch_size"),
    ("+objective.foo=1", "objective.foo=1: unknown key; allowed: "),
    ("objective=dsm objective.sigma=abc", "objective.sigma=abc: should be a valid number or should be 'auto'"),
    ("objective=dsm objective.sigma=-1", "objective.sigma=-1: should be greater than 0"),
    ("objective=dsm objective.sigma=nan", "objective.sigma=nan: should be a finite number"),
    ("objective=dsm objective.sigma=inf", "objective.sigma=inf: should be a finite number"),
    ("objective=nce objective.noise_ratio=0", "objective.noise_ratio=0: should be greater than 0"),
    ("objective=pcd objective.restart=1.5", "objective.restart=1.5: should be less than or equal to 1"),
    ("sampler.step_size=-0.1", "sampler.step_size=-0.1: should be greater than 0"),
    ("seed=1.5", "seed=1.5: should be a valid integer"),
    ("steps=-3", "steps=-3: should be greater than or equal to 0"),
    ("ema=1.5", "ema=1.5: must be less than 1"),
    ("max_train=0", "max_train=0: should be greater than 0"),
    ("dataset=two_moons energy=conv", "energy=conv: needs images .C, H, W., and the data set's samples have shape"),
    ("sampler=none", "objective 'pcd' needs a sampler"),
    ("sampler=null", "sampler=null: must be one of .*langevin"),
    ("~sampler", "~sampler: must be one of .*langevin"),
    ("device=cuda", "device=cuda: this machine has no such device; allowed here: auto, cpu"),
    ("device=tpu", "device=tpu: not an option; allowed: auto, cpu, cuda"),
    ("dataset=array", "dataset.path: missing"),
    ("dataset=array dataset.path=/nope.npy", "dataset.path=/nope.npy: no such file"),
    ("resume=/tmp", "resume=/tmp: not a run directory, it has no config.yaml"),
    ("resume=/nope", "resume=/nope: no such directory"),
    ("init_from=/tmp", "init_from=/tmp: not a run directory"),
    ("plugins=[nope]", "plugins=.nope.: no module of that name"),
    ("evaluation=[foo]", "evaluation=foo: no such option; allowed: .*likelihood"),
    ("evaluation.likelihood.cells=0", "evaluation.likelihood.cells=0: should be greater than 0"),
    ("recipe=foo", "recipe=foo: no such option; allowed: "),
    ("logger=wandb logger.mode=x", "logger.mode=x: should be 'auto', 'online', 'offline' or 'disabled'"),
    ("steps=[", "steps=.: can't be read as key=value"),
    ("batch_size=5000", "objective.buffer_size=1000: must be at least batch_size=5000"),
    ("dataset=two_moons objective=multi_dsm energy=mlp", "objective 'multi_dsm' needs a model of many noise levels"),
    ("dataset=two_moons energy=noise_conv", "energy=noise_conv: needs images .C, H, W., and the data set's samples"),
    (
        "energy=score_unet",
        "objective 'pcd' needs an energy, and energy 'score_unet' is a score network, .* energy=noise",
    ),
    ("objective=nce energy=score_unet", "objective 'nce' needs an energy, and energy 'score_unet' is a score network"),
    ("objective=multi_dsm energy=score_unet sampler=mala", "sampler 'mala' needs an energy.*sampler=annealed_langevin"),
    ("objective=dsm sampler=annealed_langevin", "sampler 'annealed_langevin' needs a model of many noise levels"),
    (
        "energy=noise sampler=probability_flow",
        "objective 'pcd' trains with chains that stay at .*=adjusted_mclmc, barker, hmc, langevin",
    ),
    ("objective=multi_dsm energy=score_unet objective.time_weight=1", "objective.time_weight=1: needs an energy"),
    ("objective=multi_dsm energy.sigma_min=99", "energy.sigma_min=99: must be less than energy.sigma_max="),
    ("objective=multi_dsm energy.sigma_max=x", "energy.sigma_max=x: should be a valid number or should be 'auto'"),
    ("objective=multi_dsm sample_temperature=0.5", "sample_temperature=0.5: sampler 'annealed_langevin' goes down"),
    ("recipe=null", "recipe=null: no such option; allowed: .*none"),
    ("recipe=multi_dsm_noise", "recipe=multi_dsm_noise: no such option; allowed: .*points/multi_dsm"),
    ("recipe=points/foo", "recipe=points/foo: no such option; allowed: .*points/dsm"),
    ("domain=foo", "domain=foo: no such option; allowed: auto, discrete, images, points"),
    ("domain=null", "domain=null: must be one of auto, discrete, images, points"),
    ("sampler=same", "sampler=same: no such option; allowed: .*mala"),
    ("evaluation_sampler=hmcc", "evaluation_sampler=hmcc: no such option; allowed: .*hmc.*; did you mean 'hmc'?"),
    ("evaluation_sampler=null", "evaluation_sampler=null: must be one of .*same"),
    ("evaluation_sampler.leapfrog=3", "evaluation_sampler.leapfrog=3: unknown key, for .* evaluation_sampler=hmc"),
    ("objective.generative=dsm", "objective.generative=dsm: unknown key; allowed in objective: .*buffer_size"),
    ("optim.players.net.lr=1e-4", "optim.players=net: not an option; allowed: energy"),
    ("optim.players.energy.lr=x", "optim.players.energy.lr=x: "),
    ("architecture=foo", "architecture=foo: no such option; allowed: conv, mlp"),
    ("architecture=null", "architecture=null: must be one of conv, mlp"),
    ("output_dir=/proc/x", "output_dir=/proc/x: can't make a run directory there"),
]


def call(arguments, monkeypatch, capsys):
    """(exit status, stderr) of `train.py` with these arguments, in this process."""
    tiny = [a for a in TINY if not any(b.split("=")[0] == a.split("=")[0] for b in arguments)]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *tiny])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="the case device=cuda is a mistake only where there is none")
@pytest.mark.parametrize("arguments, line", MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, err = call(arguments.split(), monkeypatch, capsys)
    assert status == 2
    lines = [text for text in err.splitlines() if text]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert re.search(line.replace("?", r"\?"), lines[0]), lines[0]
    assert not list(tmp_path.rglob("runs"))


def test_a_mistake_in_a_real_process_has_no_traceback(tmp_path):
    done = commands.run("train.py", "objective=dsm", "objective.sgima=1", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_is_a_manual_page(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    main()
    text = capsys.readouterr().out
    for group in GROUPS:
        assert f"    {group}\n" in text
        assert all(option in text for option in options(group))
    root = yaml.safe_load((config_dir() / "train.yaml").read_text())
    for key in root.keys() - {"defaults", "hydra"}:
        assert f"    {key}=" in text, f"{key} lacks its comment in train.yaml"
    assert text.count("    python train.py") >= 4


def data_on_disk(dataset, root):
    """Overrides that keep a data set small: those that read files get some in the right format."""
    at = [f"dataset.root={root}", "dataset.val=3", "evaluation=[samples,mmd]"]
    if dataset in ("mnist", "fashion_mnist", "binary_mnist"):
        write_idx(root / {"fashion_mnist": "FashionMNIST"}.get(dataset, "MNIST") / "raw")
        return at
    if dataset == "cifar10":
        write_cifar(root / "cifar-10-batches-py", DUMPS["bytes, protocol 2"])
        return at
    if dataset == "wine":
        write_wine(root, np.random.default_rng(0).normal(size=(60, 12)).round(3))
        return at[:1]
    if dataset == "image_folder":
        for i in range(12):
            save(np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8), root / f"{i}.png")
        return [f"dataset.path={root}", "dataset.size=8", *at[2:]]
    if dataset == "array":
        (root / "x.csv").write_text("\n".join(f"{i},{i * i % 7}" for i in range(100)))
        return [f"dataset.path={root / 'x.csv'}"]
    inside = ("digits", "binary_digits", "wine_cultivars", "breast_cancer")
    return [] if dataset in inside else [*FEW, "evaluation.density.cells=40"]


def two_runs(root):
    """The setting of energy=composed for two runs of the Gaussian data set."""
    own = ["dataset=gaussian", *data_on_disk("gaussian", root), "energy=gaussian", "objective=ssm", *TINY]
    own.append(f"output_dir={root / 'parts'}")
    return f"energy.runs=[{','.join(str(ebm_lab.train([*own, f'seed={s}'], quiet=True).path) for s in (0, 1))}]"


def of_bits(group, option):
    """Overrides for an option that serves discrete data; None for another."""
    bits = ["dataset=random_bits", *FEW]
    if (group, option) == ("domain", "discrete") or option in FOR_BITS:
        return bits
    if option == "discrete/jem":
        return ["dataset=binary_digits", "objective=jem"]
    if option.startswith("discrete/"):
        coupled = ["energy=rbm", "sampler=block_gibbs"] if option == "discrete/unbiased_cd" else []
        return [*bits, *coupled, f"objective={option.partition('/')[2]}"]
    if group in ("energy", "sampler"):
        needs = getattr(names(group).get(option), "needs", ())
        if any(need.feature in ("discrete", "binary") for need in needs):
            own = ["dataset=potts", *FEW] if option == "potts" else bits
            return [*own, *(["energy=rbm"] if option == "block_gibbs" else [])]
    return None


FOR_IMAGES = [o for o in options("recipe") if o.startswith("images/")]


@pytest.mark.parametrize("recipe", cases(FOR_IMAGES, ["images/pcd", "images/dsm"]))
def test_an_objective_takes_its_recipe_for_images(recipe):
    chosen = [f"objective={recipe.partition('/')[2]}"]
    assert compose_config(chosen) == compose_config([*chosen, f"recipe={recipe}"])


RECIPES = {o.partition("/")[2] for o in options("recipe") if o.startswith("points/")}
"""Objectives that have a recipe for points."""


def trained_by(group, option):
    """Is this option that of another case? A recipe for images is what its objective takes by default."""
    return group == "recipe" and option.startswith("images/")


OPTIONS = [(g, o) for g in GROUPS for o in options(g) if not trained_by(g, o)]
REPRESENTATIVE = {
    "objective": ("dsm", "coopnets", "jem", "ratio_matching"),
    "sampler": ("langevin", "nuts", "predictor_corrector", "gwg"),
    "energy": ("conv", "composed", "labelled_mlp", "rbm", "score_mlp"),
    "dataset": ("two_moons", "digits", "mnist", "array", "image_folder", "ising"),
    "evaluation": ("likelihood", "mmd", "chains"),
    "experiment": ("ssm_wine",),
    "recipe": ("none", "points/pcd", "discrete/pcd"),
}
"""Of each kind: points, images, bits, labels and levels, and data that are read from files."""
TRAINED = [(g, o) for g, o in OPTIONS if g not in REPRESENTATIVE or o in REPRESENTATIVE[g]]


def test_representatives_are_options():
    assert sum(map(len, REPRESENTATIVE.values())) == len([o for o in TRAINED if o[0] in REPRESENTATIVE])


@pytest.mark.slow
@pytest.mark.parametrize("group, option", cases(OPTIONS, TRAINED))
def test_every_option_of_every_group_composes_and_takes_3_steps(group, option, tmp_path):
    if group == "dataset":
        overrides = data_on_disk(option, tmp_path)
    elif bits := of_bits(group, option):
        overrides = bits
    elif group == "experiment":
        dataset = compose_config([f"experiment={option}"])["dataset"]["name"]
        fewer = {"wine": ["energy.points=9"], "cifar10": ["energy.channels=[8,16]"]}  # a GPU's network is too slow here
        overrides = [*data_on_disk(dataset, tmp_path), *fewer.get(dataset, [])]
    elif group == "sampler" and option in ("none", "svgd"):
        overrides = ["objective=dsm"]
    elif group == "energy":
        flat = option in ("mlp", "gaussian", "noise_mlp", "score_mlp")
        points = ["dataset=gaussian", *data_on_disk("gaussian", tmp_path)] if flat else []
        if option == "composed":
            points = ["dataset=gaussian", *data_on_disk("gaussian", tmp_path), two_runs(tmp_path)]
        overrides = [*points, *(["objective=multi_dsm"] if "score" in option else [])]
    elif group == "sampler" and option in (*DOWN, "recovery_descent"):
        overrides = ["objective=multi_dsm"]
    elif group == "recipe" and "/" in option:
        domain, objective = option.split("/")
        overrides = [f"objective={objective}", *(["dataset=two_moons", *FEW] if domain == "points" else [])]
    elif option == "points" or (group, option) == ("architecture", "mlp"):
        overrides = ["dataset=two_moons", *data_on_disk("two_moons", tmp_path)]
    elif group == "experiment" and option.startswith("fashion"):
        overrides = data_on_disk("fashion_mnist", tmp_path)
    else:
        overrides = []
    choice = f"{group}=[{option}]" if group == "evaluation" else f"{group}={option}"
    tiny = [t for t in TINY if not t.startswith(f"{group}=")]
    tiny += ["objective.fit_steps=20"] if option.endswith("fce") else []  # of the flow before training
    if group in ("energy", "sampler", "logger", "optim", "guard", "domain", "architecture"):
        tiny += ["evaluation=[samples,density]"]  # the others are run for objectives and data sets
    result = ebm_lab.train([choice, *overrides, *tiny, f"output_dir={tmp_path}"], quiet=True)
    assert result.status == "finished" and result.summary["step"] == 3


ON_POINTS = [
    (o, d)
    for o in options("objective")
    for d in ("two_moons", "gaussian")
    if o not in FOR_BITS and (d != "two_moons" or o not in RECIPES)
]


@pytest.mark.slow
@pytest.mark.parametrize("objective, dataset", cases(ON_POINTS, [("jem", "gaussian"), ("nce", "gaussian")]))
def test_objectives_run_on_every_kind_of_points(objective, dataset, tmp_path):
    """Digits, and two moons by a recipe, are cases of the test above."""
    overrides = [f"objective={objective}", f"dataset={dataset}", *data_on_disk(dataset, tmp_path), *TINY]
    overrides = [*overrides, f"output_dir={tmp_path}"]
    if (objective, dataset) == ("jem", "gaussian"):  # which has no classes
        with pytest.raises(ebm_lab.UserError, match="needs class labels, and the data has none"):
            ebm_lab.train(overrides, quiet=True)
        return
    assert ebm_lab.train(overrides, quiet=True).status == "finished"


def test_debug_overfit_fits_one_batch(tmp_path):
    overrides = ["debug=overfit", "objective=dsm", "dataset=two_moons", f"output_dir={tmp_path}", "evaluation=[]"]
    result = ebm_lab.train(overrides, quiet=True)
    losses = [json.loads(line)["loss"] for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    assert len(result.dataset.train) == 64
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]


def test_recipes_yield_to_the_command_line():
    default = compose_config(["objective=pcd", "dataset=digits"])
    assert default["batch_size"] == 64 and compose_config(["batch_size=7"])["batch_size"] == 7
    assert compose_config(["dataset=two_moons"])["energy"]["name"] == "mlp"
    assert compose_config(["dataset=two_moons", "energy=gaussian"])["energy"]["name"] == "gaussian"
    written = yaml.safe_load((config_dir() / "train.yaml").read_text())
    bare = compose_config(["recipe=none"])
    assert bare["batch_size"] == written["batch_size"] != default["batch_size"]


def test_short_runs_are_sampled_as_they_are_trained():
    """As many steps from noise as in training, cold, whatever the sampler's steps are set to."""
    for overrides in (["dataset=two_moons"], ["dataset=two_moons", "sampler=langevin"], ["dataset=digits"]):
        config = compose_config(["objective=mle_short", *overrides])
        sampler = config["sampler"]
        assert config["objective"]["name"] == "mle" and config["sample_steps"] == sampler["steps"] < 100
        assert sampler.get("temperature", 1.0) < 1 or sampler.get("noise_scale", 1.0) < 1
        assert compose_config(["objective=mle_short", *overrides, "sampler.steps=7"])["sample_steps"] == 7
    mala, langevin = (
        compose_config(["objective=mle_short", "dataset=two_moons", f"sampler={s}"])["sampler"]
        for s in ("mala", "langevin")
    )
    assert mala["temperature"] == langevin["noise_scale"] ** 2
    assert mala["step_size"] == langevin["step_size"] * langevin["noise_scale"]


def test_an_energy_of_the_wrong_shape_is_one_line(tmp_path, monkeypatch):
    """A user's energy that returns (B, 1), and one that can't take the data's shape."""
    plugin(tmp_path, monkeypatch, "shapes_plugin", SHAPES)
    config = compose_config([*TINY, "objective=dsm", "dataset=two_moons"])
    config["energy"] = {"name": "column"}
    config["plugins"] = ["shapes_plugin"]
    with pytest.raises(ebm_lab.UserError, match=r"returned shape \(2, 1\) for a batch of 2; it must return one value"):
        assemble(config)
    config["energy"] = {"name": "wide"}
    with pytest.raises(
        ebm_lab.UserError, match=r"energy=wide: can't take samples of shape \(2,\) from dataset=two_moons"
    ):
        assemble(config)


SHAPES = """
from torch import nn
from ebm_lab import register

@register("energy", "column")
class Column(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)

@register("energy", "wide")
class Wide(nn.Linear):
    def __init__(self):
        super().__init__(5, 1)
"""

RING = '''
import torch
from ebm_lab import register
from ebm_lab.core.interfaces import Dataset

@register("dataset", "ring")
class Ring(Dataset):
    """n points around a circle."""

    def __init__(self, *, n: int, radius: float) -> None:
        t = torch.linspace(0, 6.28, n)
        x = radius * torch.stack([t.cos(), t.sin()], 1)
        self.train, self.val, self.test = x[::2], x[1::4], x[3::4]
'''


def plugin(tmp_path, monkeypatch, name, text):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_component_of_one_s_own(tmp_path, monkeypatch):
    """The README's ten lines, run in a process of their own; and the run loads only with the plugin named."""
    plugin(tmp_path, monkeypatch, "my_module", RING)
    (tmp_path / "my_configs" / "dataset").mkdir(parents=True)
    (tmp_path / "my_configs" / "dataset" / "mine.yaml").write_text("name: ring\nn: 400\nradius: 2.0\n")
    arguments = [
        "--config-dir",
        "my_configs",
        "plugins=[my_module]",
        "dataset=mine",
        "energy=mlp",
        "objective=dsm",
        *TINY,
    ]
    done = commands.run("train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / done.stdout.strip().splitlines()[-1]
    with pytest.raises(ebm_lab.UserError, match="dataset=ring: not an option"):
        ebm_lab.load_run(path)
    loaded = ebm_lab.load_run(path, plugins=["my_module"])
    assert len(loaded.dataset.train) == 200
    result = ebm_lab.train([*arguments[2:], f"output_dir={tmp_path}"], config_dir=tmp_path / "my_configs", quiet=True)
    assert result.status == "finished"


@exhaustive
def test_scripts_work_on_a_run_directory(tmp_path):
    result = ebm_lab.train(["dataset=digits", *TINY, f"output_dir={tmp_path}"], quiet=True)
    done = commands.run("scripts/sample.py", f"run={result.path}", "n=9", "steps=20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.load(result.path / "samples" / "samples.npy").shape == (9, 1, 8, 8)
    assert (result.path / "samples" / "samples.png").is_file()
    done = commands.run("scripts/evaluate.py", f"run={result.path}", "samples=20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((result.path / "evaluation" / "evaluation.json").read_text())
    assert {"mmd2", "confident_share", "e_data"} <= record.keys()
    assert "1 and 2 dimensions" in record["left_out"]["likelihood"] and not record["failed"]
    wrong = commands.run("scripts/evaluate.py", "run=/nope", "smaples=3", cwd=tmp_path)
    assert wrong.returncode == 2 and "did you mean 'samples'?" in wrong.stderr and "Traceback" not in wrong.stderr


def test_an_objective_of_many_levels_brings_its_energy_and_its_sampler():
    """What the data set suggests yields to the objective, and both to the command line."""
    for dataset, family in (("digits", "conv"), ("two_moons", "mlp")):
        config = compose_config([f"dataset={dataset}", "objective=multi_dsm"])
        assert config["energy"]["name"] == f"noise_{family}" and config["sampler"]["name"] == "annealed_langevin"
        recipe = compose_config([f"dataset={dataset}", "objective=multi_dsm", f"energy=noise_{family}"])
        assert recipe == config
    config = compose_config(["objective=multi_dsm", "energy=noise_unet", "sampler=probability_flow", "steps=7"])
    assert [config[g]["name"] for g in ("energy", "sampler")] == ["noise_unet", "probability_flow"]
    assert config["steps"] == 7 and "architecture" not in config


@pytest.mark.slow
@pytest.mark.parametrize(
    "energy, sampler",
    cases(
        [(e, s) for e in ("noise_mlp", "score_mlp") for s in DOWN],
        [("score_mlp", "probability_flow")],
    ),
)
def test_a_run_of_many_levels_is_sampled_and_evaluated_afterwards(energy, sampler, tmp_path):
    overrides = ["dataset=two_moons", "objective=multi_dsm", f"energy={energy}", f"sampler={sampler}"]
    small = ["dataset.train=500", "dataset.held_out=100", "energy.hidden=[8]", "evaluation.flow_likelihood.steps=4"]
    result = ebm_lab.train([*overrides, *small, *TINY, f"output_dir={tmp_path}"], quiet=True)
    left_out = [line.split("'")[1] for line in result.summary["said"] if line.startswith("evaluation '")]
    assert ("likelihood" in left_out) == (energy == "score_mlp") and "flow_nll_gap" in result.summary
    assert ("nll" in result.summary) == (energy == "noise_mlp")
    tools.sample(run=str(result.path), n=9, device="cpu")
    samples = np.load(result.path / "samples" / "samples.npy")
    assert samples.shape == (9, 2) and np.isfinite(samples).all()
    with pytest.raises(ebm_lab.UserError, match=f"steps=3: sampler '{sampler}' goes down the model's noise levels by"):
        tools.sample(run=str(result.path), steps=3, device="cpu")
    evaluate(run=str(result.path), samples=20, device="cpu")
    record = json.loads((result.path / "evaluation" / "evaluation.json").read_text())
    assert {"flow_nll", "mmd2"} <= record.keys()


def test_the_evaluations_of_a_run_can_be_chosen_and_set(tmp_path, capsys):
    """Numbers do not depend on which other evaluations are done; a setting can be changed; typos are told."""
    overrides = ["dataset=two_moons", "objective=dsm", "evaluation=[samples]", *FEW]
    run = str(ebm_lab.train([*overrides, *TINY, f"output_dir={tmp_path}"], quiet=True).path)
    file = Path(run) / "evaluation" / "evaluation.json"

    def record(**more):
        evaluate(run=run, device="cpu", samples=20, **more)
        return json.loads(file.read_text())

    both, alone = record(evaluation="samples,mmd"), record(evaluation="mmd")
    assert both["mmd2"] == alone["mmd2"] and "e_data" in both and "e_data" not in alone
    assert "mmd2" not in record(evaluation="own")
    changed = record(evaluation="mmd", overrides={"evaluation.mmd.points": 30})
    assert changed["mmd2"] != alone["mmd2"]
    for arguments, line in (
        (["evaluation=mdm"], "did you mean 'mmd'"),
        (["evaluation=mmd", "evaluation.mmd.pionts=3"], "evaluation.mmd.pionts=3: unknown key.*did you mean 'points'"),
        (["evaluation=mmd", "evaluation.samples.shown=3"], "evaluation=samples: not an option; allowed: mmd"),
        (["mmd.points=3"], "mmd.points=3: unknown key"),
    ):
        with pytest.raises(SystemExit) as stop:
            tools.main(evaluate, [f"run={run}", *arguments])
        assert stop.value.code == 2 and re.search(line, capsys.readouterr().err)


def test_an_evaluation_that_fails_stops_no_other(tmp_path, monkeypatch):
    overrides = ["dataset=two_moons", *FEW, "objective=dsm", "evaluation=[samples,mmd]", *TINY]
    run = str(ebm_lab.train([*overrides, f"output_dir={tmp_path}"], quiet=True).path)

    def fail(self, view):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(MMD, "__call__", fail)
    with pytest.raises(ebm_lab.UserError, match="could not be done: mmd"):
        evaluate(run=run, device="cpu", samples=20, evaluation="mmd,samples")
    record = json.loads((Path(run) / "evaluation" / "evaluation.json").read_text())
    assert record["failed"] == {"mmd": "RuntimeError: no such luck"} and "e_data" in record


@pytest.mark.slow
def test_a_sweep_gives_each_job_its_own_run(tmp_path):
    arguments = ["-m", "objective=dsm,pcd", "dataset=two_moons", *FEW, *TINY, "evaluation=[]"]
    done = commands.run("train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 2
