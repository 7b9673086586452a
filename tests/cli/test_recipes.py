"""The grammar of the config: recipes by domain, domains that follow from the data, components inside components."""

import sys
from pathlib import Path

import pytest
import yaml

import ebm_lab
from ebm_lab.cli import grammar, recipes
from ebm_lab.cli.compose import DOMAINS, compose_config, compose_run, config_dir, options
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import names
from tests import commands

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(f for d in DOMAINS for f in (config_dir() / "recipe" / d).glob("*.yaml"))

OWN = """
import torch
from ebm_lab import register
from ebm_lab.core.interfaces import Dataset
from ebm_lab.objectives.dsm import DSM

built = []


@register("dataset", "own_things")
class OwnThings(Dataset):
    def __init__(self, *, n: int, images: bool) -> None:
        built.append(n)
        x = torch.rand(n, *((1, 8, 8) if images else (2,)), generator=torch.Generator().manual_seed(0))
        self.bounds = (0.0, 1.0) if images else None
        self.train, self.val, self.test = x[::2], x[1::4], x[3::4]


@register("objective", "own_dsm")
class OwnDSM(DSM):
    pass
"""
TINY = ["steps=2", "logger=none", "evaluation=[]", "batch_size=8", "threads=1"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of one's own, importable, and a way to put YAMLs into a config directory beside it."""
    (tmp_path / "own_recipes.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_recipes", raising=False)

    def put(name, text):
        file = tmp_path / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return tmp_path / "own"

    put("dataset/points_of_mine.yaml", "{name: own_things, n: 64, images: false}")
    put("dataset/images_of_mine.yaml", "{name: own_things, n: 64, images: true}")
    return put


def recipe(folder, text, *overrides):
    """What points/ssm would compose if its file held `text`."""
    file = folder("recipe/points/own_dsm.yaml", text)
    file.joinpath("objective").mkdir(exist_ok=True)
    folder("objective/own_dsm.yaml", "{name: own_dsm, sigma: 0.1, antithetic: true, control_variate: false}")
    return compose_config(["plugins=[own_recipes]", "dataset=two_moons", "objective=own_dsm", *overrides], file)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_condition_of_a_recipe_names_an_option_and_every_value_a_setting(file):
    """A section whose condition can't hold, or whose keys no component has, would be dropped in silence or refused."""
    objective = yaml.safe_load((config_dir() / "objective" / f"{file.stem}.yaml").read_text())
    for condition, section in [({}, recipes.read(file)), *recipes.sections(file, recipes.read(file))]:
        for slot, allowed in condition.items():
            assert set(allowed) <= set(options(grammar.group_of(slot)))
        for group in {"energy", "sampler", "optim"} & section.keys():
            for option in condition[group]:
                known = yaml.safe_load((config_dir() / group / f"{option}.yaml").read_text())
                players = section[group].get("players", {}).values() if group == "optim" else ()
                for values in ({k: v for k, v in section[group].items() if k != "players" or not players}, *players):
                    assert values.keys() <= known.keys(), (file, condition)
        own = dict(section.get("objective", {}))
        nested = {f"objective.{key}": own.pop(key) for key in [*own] if f"objective.{key}" in grammar.SLOTS}
        for slot, values in nested.items():
            for option in condition[slot]:
                known = yaml.safe_load((config_dir() / grammar.group_of(slot) / f"{option}.yaml").read_text())
                assert values.keys() <= known.keys(), (file, condition)
        assert own.keys() <= objective.keys()


UNTRIED_ON_IMAGES = {"ksd", "min_velocity", "tre", "unbiased_cd", "drl", "cdrl", "dual_sm", "energy_matching"}
"""No settings have been looked for; a run says that its settings are the defaults."""


FOR_BITS = {"pseudo_likelihood", "ratio_matching", "score_entropy", "concrete_score"}
"""Objectives of discrete data alone."""


def needs_numbers(objective):
    """Whether an objective needs real numbers; dsm_cv is dsm."""
    part = names("objective")[objective.removesuffix("_cv").removesuffix("_short")]
    return any(need.role == "dataset" and need.feature == "continuous" for need in part.needs)  # pyright: ignore


def test_every_objective_has_a_recipe_for_each_domain_that_it_serves():
    every = set(options("objective"))
    numbers = {o for o in every - FOR_BITS if needs_numbers(o)}
    served = {
        "points": every - FOR_BITS,
        "images": every - FOR_BITS - UNTRIED_ON_IMAGES,
        "discrete": every - numbers,
    }
    for domain, objectives in served.items():
        assert {f.stem for f in FILES if f.parent.name == domain} == objectives
    assert set(recipes.FIXED) <= names("energy").keys()


def test_the_files_values_are_those_that_are_composed():
    """By hand, from recipe/points/mle.yaml and recipe/images/pcd.yaml."""
    mle = compose_config(["objective=mle", "dataset=two_moons"])
    assert (mle["steps"], mle["sampler"]["steps"], mle["optim"]["beta1"], mle["objective"]["refresh"]) == (
        2000,
        20,
        0.0,
        30,
    )
    other = compose_config(["objective=mle", "dataset=two_moons", "sampler=hmc", "optim=sgd"])
    assert (other["steps"], other["sampler"]["steps"], other["optim"]["lr"]) == (2000, 2, 0.01)
    rates = {e: compose_config([f"energy={e}"])["optim"]["lr"] for e in ("conv", "resnet")}
    assert rates == {"conv": 0.003, "resnet": 0.001}


def test_option_then_recipe_then_experiment_then_what_is_typed(own):
    folder = own("experiment/mine.yaml", "# @package _global_\nobjective:\n  refresh: 5\nsteps: 55\n")
    base = ["objective=mle", "dataset=two_moons"]
    values = [
        [config["steps"], config["objective"]["refresh"], config["samples"]]
        for config in (
            compose_config([*base, "recipe=none"], folder),
            compose_config(base, folder),
            compose_config([*base, "experiment=mine"], folder),
            compose_config([*base, "experiment=mine", "steps=7"], folder),
        )
    ]
    assert values == [[3000, 0, 200], [2000, 30, 500], [55, 5, 500], [7, 5, 500]]


def test_another_network_has_the_recipe_of_its_domain_and_a_fixed_family_has_none():
    resnet, conv = (compose_config(["objective=dsm", f"energy={e}"]) for e in ("resnet", "conv"))
    assert resnet["objective"] == conv["objective"] and resnet["energy"]["confine_shape"] == "covariance"
    gaussian = ["objective=ssm", "dataset=gaussian"]
    assert compose_config(gaussian) == compose_config([*gaussian, "recipe=none"])


@pytest.mark.parametrize("before, now", [("pcd_mlp", "points/pcd"), ("multi_dsm_noise_unet", "images/multi_dsm")])
def test_a_recipe_by_its_earlier_name_is_the_new_one_and_a_line_says_so(before, now):
    config, notes = compose_run([f"recipe={before}"])
    assert config == compose_config([f"recipe={now}"]) != compose_config([])
    assert notes == [f"recipe={before}: is called recipe={now} now"]


def test_conditions_are_joined_nested_and_offer_alternatives(own):
    text = """
steps: 1
when:
  sampler=mala|hmc:
    steps: 2
    energy=mlp: {steps: 3}
  sampler=hmc, energy=dkef|mlp: {steps: 4}
  sampler=langevin, energy=dkef: {steps: 5}
"""
    steps = {s: recipe(own, text, f"sampler={s}")["steps"] for s in ("mala", "hmc", "langevin")}
    assert steps == {"mala": 3, "hmc": 4, "langevin": 1}
    assert recipe(own, text, "energy=conv")["steps"] == 2


def test_a_recipe_chooses_options_which_yield_to_experiments_and_to_the_command_line(own):
    text = "choose: {sampler: hmc, evaluation_sampler: mala}\nwhen:\n  sampler=hmc: {sampler: {leapfrog: 9}}\n"
    config = recipe(own, text)
    assert config["sampler"]["leapfrog"] == 9 and config["evaluation_sampler"]["name"] == "mala"
    assert recipe(own, text, "sampler=langevin")["sampler"]["name"] == "langevin"
    own("experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /sampler: mala\n")
    assert recipe(own, text, "experiment=mine")["sampler"]["name"] == "mala"


@pytest.mark.parametrize(
    "text, line",
    [
        ("when: {smapler=mala: {steps: 1}}", "when: 'smapler=mala': there is no group of that name"),
        ("when: {mala: {steps: 1}}", "when: 'mala' must be of the form <group>=<option>: {<key>: <value>}"),
        ("when: {sampler=mala: 3}", "when: 'sampler=mala' must be of the form"),
        ("when: [3]", "must be of the form <group>=<option>"),
        ("choose: hmc", "choose=hmc: must be of the form {<group>: <option>}"),
        ("choose: {sampler: hcm}", "sampler=hcm: no such option"),
        ("defaults: [x]", "a recipe chooses options by 'choose:"),
        ("- 3", "must hold keys with values"),
        ("steps: [", "can't be read as YAML"),
        ("stepz: 3", "stepz=3: unknown key"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(own, text, line):
    from ebm_lab.runs.assemble import assemble

    with pytest.raises(UserError) as refused:
        assemble(recipe(own, text))
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_an_own_data_set_needs_no_more_than_its_name_and_values(own):
    """Domain, energy, sampler and recipe follow from what it is; it is built once for that, however often composed."""
    folder = own("objective/none", "")
    base = ["plugins=[own_recipes]", "objective=pcd"]
    for kind, energy, sampler, steps in (("points", "mlp", "mala", 2500), ("images", "conv", "langevin", 1500)):
        config = compose_config([*base, f"dataset={kind}_of_mine"], folder)
        assert (config["energy"]["name"], config["sampler"]["name"], config["steps"]) == (energy, sampler, steps)
    before = len(sys.modules["own_recipes"].built)
    config = compose_config([*base, "dataset=points_of_mine", "sampler.target_acceptance=0.7"], folder)
    assert config["sampler"]["target_acceptance"] == 0.7
    assert len(sys.modules["own_recipes"].built) == before
    typed = compose_config([*base, "dataset=points_of_mine", "domain=images", "energy=mlp"], folder)
    assert (typed["sampler"]["name"], typed["steps"]) == ("langevin", 1500)


def test_yamls_that_name_an_architecture_go_on_working(own):
    """As the README of earlier versions had them."""
    old = (
        "defaults:\n  - override /architecture@_global_.architecture: mlp\n  - override /energy@_global_.energy: mlp\n"
        "  - override /sampler@_global_.sampler: mala\nname: own_things\nn: 64\nimages: false\n"
    )
    folder = own("dataset/old.yaml", old)
    base = ["plugins=[own_recipes]", "objective=multi_dsm"]
    assert compose_config([*base, "dataset=old"], folder) == compose_config([*base, "dataset=points_of_mine"], folder)
    own("experiment/old.yaml", "# @package _global_\ndefaults:\n  - override /architecture: mlp\n")
    points = compose_config([*base, "dataset=images_of_mine", "experiment=old"], folder)
    assert points["energy"]["name"] == "noise_mlp"
    assert compose_config(["architecture=mlp"]) == compose_config(["domain=points"])


def test_recipes_of_one_s_own(own):
    folder = own("recipe/mine.yaml", "# @package _global_\nsteps: 7\n")
    assert compose_config(["recipe=mine"], folder)["steps"] == 7
    own("recipe/mine.yaml", "steps: 7\nwhen:\n  optim=adam: {optim: {lr: 0.5}}\n")
    assert compose_config(["recipe=mine"], folder)["optim"]["lr"] == 0.5
    own("objective/own_dsm.yaml", "{name: own_dsm, sigma: 0.1, antithetic: true, control_variate: false}")
    own("recipe/own_dsm_mlp.yaml", "# @package _global_\nsteps: 8\n")
    own("recipe/sampler/mala_own_dsm_mlp.yaml", "# @package sampler\nsteps: 9\n")
    config = compose_config(["objective=own_dsm", "dataset=two_moons"], folder)
    assert (config["steps"], config["sampler"]["steps"]) == (8, 9), "names of earlier versions"
    own("recipe/points/own_dsm.yaml", "steps: 10\n")
    assert compose_config(["objective=own_dsm", "dataset=two_moons"], folder)["steps"] == 10


def test_a_pair_that_nothing_was_tuned_for_trains_and_says_so(own, capsys, tmp_path):
    folder = own("objective/own_dsm.yaml", "{name: own_dsm, sigma: 0.1, antithetic: true, control_variate: false}")
    line = "recipe: nothing was tuned for objective=own_dsm on domain=points; its settings are the defaults\n"
    overrides = ["plugins=[own_recipes]", "objective=own_dsm", "dataset=points_of_mine", *TINY]
    assert ebm_lab.train([*overrides, f"output_dir={tmp_path}"], config_dir=folder).status == "finished"
    assert line in capsys.readouterr().out
    assert compose_run([*overrides, "recipe=none"], folder)[1] == []
    assert compose_run(["objective=dsm"])[1] == []


def test_the_evaluation_sampler_is_a_choice_of_its_own():
    typed = ["evaluation_sampler.leapfrog=7", "evaluation_sampler=hmc"]
    config = compose_config(typed)
    assert config["evaluation_sampler"]["name"] == "hmc" and config["evaluation_sampler"]["leapfrog"] == 7
    assert config["sampler"] == compose_config([])["sampler"]
    assert compose_config(["evaluation_sampler=same"]) == compose_config(
        []
    ) and "evaluation_sampler" not in compose_config([])


def test_a_run_with_an_evaluation_sampler_in_its_config_loads_and_trains(tmp_path):
    overrides = ["evaluation_sampler=mala", "dataset=two_moons", "objective=dsm", *TINY, f"output_dir={tmp_path}"]
    run = ebm_lab.train(overrides, quiet=True).path
    assert yaml.safe_load((run / "config.yaml").read_text())["evaluation_sampler"]["name"] == "mala"
    assert ebm_lab.load_run(run).energy is not None


def test_words_of_hydra_are_put_in_and_taken_out_again():
    known = {"sampler": ["hmc"], "objective": ["dsm"], "law": []}
    typed = ["objective.generative=dsm,pcd", "evaluation.ais.transition=hmc", "evaluation_sampler.kernel=hmc"]
    typed += ["dataset.labels=0.1", "dataset.labels_per_class=5,10", "optim.players.net.lr=1"]
    words = grammar.rewritten(typed, known.get)
    assert words == [
        "objective@objective.generative=dsm,pcd",
        "sampler@evaluation.ais.transition=hmc",
        "sampler@evaluation_sampler.kernel=hmc",
        *(f"++{override}" for override in typed[3:]),
    ]
    assert [grammar.as_written(w) for w in words] == typed
    same = ["objective.net=mlp", "objective.generative.sigma=.1", "objective.generative=[1]", "~evaluation_sampler"]
    assert grammar.rewritten(same, known.get) == same, "no laws to choose from; a value; a list"


@pytest.fixture
def half(own):
    """An objective with another one inside it, as jem.yaml would be."""
    folder = own(
        "objective/half.yaml", "defaults:\n  - /objective@generative: pcd\n  - _self_\nname: half\nweight: 1.0\n"
    )
    own("recipe/points/half.yaml", "when:\n  objective.generative=dsm: {objective: {generative: {sigma: 0.2}}}\n")
    return folder


def test_a_component_inside_a_component_is_chosen_by_its_place(half):
    base = ["dataset=two_moons", "objective=half"]
    assert compose_config(base, half)["objective"]["generative"]["name"] == "pcd"
    for words in (
        ["objective.generative.antithetic=false", "objective.generative=dsm", *base],
        [*base, "objective.generative=dsm", "objective.generative.antithetic=false"],
    ):
        inner = compose_config(words, half)["objective"]["generative"]
        assert (inner["name"], inner["sigma"], inner["antithetic"]) == ("dsm", 0.2, False)


@pytest.mark.parametrize(
    "words, line",
    [
        ("objective.generative=dmx", r"objective.generative=dmx: no such option; .*did you mean 'dsm'\?"),
        ("objective.generative.sgima=1", "objective.generative.sgima=1: unknown key"),
        ("objective.generative=dsm,pcd", "objective.generative=dsm,pcd: several values are a sweep"),
        ("objective=dsm objective.generative=dsm", "objective.generative=dsm: unknown key"),
    ],
)
def test_lines_about_a_component_inside_another_speak_as_people_write(half, words, line):
    chosen = [] if words.startswith("objective=") else ["objective=half"]
    with pytest.raises(UserError, match=line) as refused:
        compose_config(["dataset=two_moons", *chosen, *words.split()], half)
    assert "@" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.slow
def test_each_job_of_a_sweep_has_the_recipe_of_its_own_choices(own, tmp_path):
    folder = own("objective/none", "")
    words = [
        "-m",
        "objective=dsm,pcd",
        "dataset=points_of_mine",
        "plugins=[own_recipes]",
        "evaluation_sampler=mala,hmc",
    ]
    done = commands.run("train.py", *words, *TINY[:3], "threads=1", f"--config-dir={folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    configs = [yaml.safe_load(f.read_text()) for f in sorted(tmp_path.glob("outputs/runs/*/config.yaml"))]
    found = {
        (c["objective"]["name"], c["evaluation_sampler"]["name"], c["batch_size"], c["sampler"]["name"])
        for c in configs
    }
    assert found == {(o, e, b, "mala") for o, b in (("dsm", 512), ("pcd", 256)) for e in ("mala", "hmc")}


@pytest.mark.slow
def test_the_config_that_is_printed_is_the_one_that_runs(tmp_path):
    words = ["objective=dsm", "dataset=two_moons", "logger=none", "evaluation_sampler=hmc", "--cfg", "job"]
    done = commands.run("train.py", *words, cwd=tmp_path)
    printed = yaml.safe_load(done.stdout)
    assert done.returncode == 0
    config = compose_config(words[:4])
    assert {k: printed[k] for k in config} == config
    assert printed["batch_size"] == 512


def test_a_sweep_looks_at_a_data_set_once_unless_it_sweeps_over_data_sets(own):
    from ebm_lab.cli.compose import GROUPS
    from ebm_lab.cli.settle import Source, settle

    source = Source(config_dir(), [own("objective/none", "")])
    words = ["plugins=[own_recipes]", "objective=dsm,pcd"]
    one = settle(source, ["dataset=images_of_mine", *words], GROUPS, sweep=True)
    several = settle(source, ["dataset=images_of_mine,points_of_mine", *words], GROUPS, sweep=True)
    assert one.overrides[0] == "domain=images" and one.recipe is None
    assert not any(o.startswith("domain=") for o in several.overrides)
