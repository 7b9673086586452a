"""Components offer what they say, ask in one place, and a run that does not fit is told so before it is built."""

import ast
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core import registry
from ebm_lab.core.choice import Nested
from ebm_lab.core.composed import Product
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import FEATURES, Child, Need, Part, features_of, keep
from ebm_lab.core.functional import evaluate
from ebm_lab.core.interfaces import Energy, Objective, Sampler
from ebm_lab.core.registry import build, names, parse
from ebm_lab.models.layers import Activation
from ebm_lab.models.levels import data_score
from ebm_lab.runs.compatibility import check_fit, faults
from tests.helpers import Points, faults_of, gaussian_energy

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    ("core/features.py", "isinstance Part"): "the one place: a plugin's component need not declare anything",
    ("core/features.py", "getattr has_energy"): "the one place: a module of 0.1 that is no Part",
    ("core/choice.py", "issubclass Part"): "a registered function declares nothing before it is built",
    ("core/choice.py", "isinstance Nested"): "reads an annotation",
    ("core/choice.py", "isinstance Choice"): "tells a nested choice from a value",
    ("core/eval_view.py", "isinstance Evaluation"): "a plugin's evaluation need not be a Part",
    ("runs/compatibility.py", "issubclass Part"): "the one place",
    ("runs/compatibility.py", "issubclass Objective"): "the one place",
    ("core/functional.py", "isinstance KnowsDerivatives"): "an energy may be any function, which has no formulas",
    ("distributions/mixture.py", "isinstance GaussianMixture"): "a law, not a component",
    ("evaluation/critic.py", "isinstance ScoreCritic"): "one of two kinds of a value, not a component",
    ("distributions/pushed.py", "isinstance Gaussian"): "a law, not a component",
    ("distributions/base.py", "getattr base"): "an energy may be any function, which has no base",
    ("core/derived.py", "isinstance KnowsDerivatives"): "an energy may be any function, which has no formulas",
    ("core/composed.py", "isinstance KnowsDerivatives"): "a trained energy may be any module, which has no formulas",
    ("core/model.py", "isinstance KnowsDerivatives"): "an energy may be any function, which is bound to no batch",
    ("core/model.py", "isinstance Derived"): "finds what within an energy is bound to the batch",
    ("datasets/_preprocessed.py", "isinstance Warp"): "a map of coordinates, not a component",
    ("evaluation/_raw_units.py", "isinstance Affine"): "a map of coordinates, not a component",
    ("evaluation/_extras.py", "getattr couplings"): "what one data set knows, for a picture or a number",
    ("evaluation/_extras.py", "getattr patterns"): "what one data set knows, for a picture or a number",
    ("evaluation/_extras.py", "getattr points"): "what one data set knows, for a picture or a number",
    ("evaluation/_extras.py", "getattr matrix"): "what one energy knows, for a picture or a number",
    ("evaluation/_extras.py", "getattr w"): "what one energy knows, for a picture or a number",
    ("runs/data_record.py", "isinstance Affine"): "a map of coordinates, not a component",
    ("runs/composition.py", "isinstance KeptData"): "a record in place of data that are gone, not a component",
    ("runs/loaded.py", "isinstance Affine"): "a map of coordinates, not a component",
    ("training/evaluations.py", "isinstance Batch"): "chains with labels, or without",
    ("training/nested.py", "isinstance Objective"): "finds the objectives inside an objective",
    ("core/places.py", "isinstance Location"): "reads an annotation",
    ("core/streams.py", "isinstance SafeStream"): "an output stream",
    ("loggers/console.py", "isinstance SafeStream"): "an output stream",
    ("training/trainer.py", "isinstance Failure"): "the kinds of an evaluation's report",
    ("training/distributed.py", "isinstance UserError"): "an error",
    ("runs/train.py", "isinstance Terminated"): "an error",
    ("runs/parts.py", "getattr chosen"): "the energy may be any nn.Module",
    ("runs/parts.py", "getattr resolved"): "the energy may be any nn.Module",
    ("runs/parts.py", "getattr notes"): "the energy may be any nn.Module",
    ("runs/known_data.py", "getattr start"): "whether a plugin's data set begins chains in its own way",
    ("training/checkpoint.py", "getattr scale"): "any module inside an energy",
}
OTHERS = {"__file__", "origin", "is_animated", "__metadata__", "__doc__", "__name__", "__module__", "__qualname__"}


def type_tests():
    """(file, test) for each test of the type or of an attribute of one of the lab's own objects."""
    folders = ("reports", "cli")
    files = [p for p in (ROOT / "ebm_lab").rglob("*.py") if p.relative_to(ROOT / "ebm_lab").parts[0] not in folders]
    trees = {p.relative_to(ROOT / "ebm_lab").as_posix(): ast.parse(p.read_text()) for p in files}
    own = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1):
                continue
            asked = node.args[1]
            if node.func.id in ("isinstance", "issubclass"):
                mine = [n.id for n in ast.walk(asked) if isinstance(n, ast.Name) and n.id in own]
                yield from ((file, f"{node.func.id} {name}") for name in mine)
            if node.func.id in ("getattr", "hasattr") and isinstance(asked, ast.Constant) and asked.value not in OTHERS:
                yield file, f"{node.func.id} {asked.value}"


def test_what_a_component_can_do_is_asked_in_one_place():
    assert set(type_tests()) == ALLOWED.keys(), set(type_tests()) ^ ALLOWED.keys()


def own(kind):
    return [name for name, part in names(kind).items() if part.__module__.startswith("ebm_lab.")]


@pytest.mark.parametrize("kind", ["energy", "sampler", "objective", "dataset", "evaluation"])
def test_every_component_declares_known_features(kind):
    for name in own(kind):
        part: Any = names(kind)[name]
        assert issubclass(part, Part) and part.offers <= FEATURES.get(kind, {}).keys(), name
        assert all(need.feature in FEATURES[need.role] for need in part.needs), name


def test_every_evaluation_says_why_it_is_left_out():
    assert all(need.why for name in own("evaluation") for need in vars(names("evaluation")[name]).get("needs", ()))


def choice_of(kind, name, data, **changes):
    runs = ["energy.runs=[a,b]"] if name == "composed" else []
    values = compose_config([f"dataset={data}", f"{kind}={name}", *runs])[kind]
    return parse(kind, {**values, **changes})


def two_perceptrons(data, *of):
    """A product of two energies, in the place of two runs'."""
    return Product([choice_of("energy", "mlp", "two_moons").build(dataset=data) for _ in range(2)], [1.0, 0.5]), []


def energy_and_points(name, **changes):
    part: Any = names("energy")[name]
    images = Need("dataset", "images") in part.needs
    choice = choice_of("energy", name, "digits" if images else "two_moons", **changes)
    x = torch.rand(60, 1, 8, 8) if images else torch.randn(60, 2)
    data = Points(x, (0.0, 1.0) if images else None)
    if Need("dataset", "classes") in part.needs:
        data.labels = dict.fromkeys(("train", "val", "test"), torch.arange(len(x)) % 3)
    few = {"points": 10} if name == "dkef" else {}
    choice = parse("energy", {"name": name, **choice.settings, **few})
    model = choice.build(dataset=data, compose=two_perceptrons).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return choice, model.eval(), x[:3].double()


@pytest.mark.parametrize("name", own("energy"))
def test_a_model_offers_what_it_declares(name):
    """Against central differences: the energy's for the score, at each level too, and the score's for `smooth`."""
    torch.manual_seed(0)
    choice, model, x = energy_and_points(name)
    offers, v, h = choice.offers, torch.randn_like(x), 1e-5
    assert offers == features_of(model) and "score" in offers
    along = (data_score(model, x) * v).flatten(1).sum(1)
    if "energy" in offers:
        with torch.no_grad():
            drop = evaluate(model, x - h * v) - evaluate(model, x + h * v)
        torch.testing.assert_close(along, drop / (2 * h), rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(UserError):
            model(x)
    if "levels" in offers:
        low, high = model.ladder.sigma_min, model.ladder.sigma_max
        torch.testing.assert_close(model.score(x), model.score(x, low))
        assert model.score(x, high).shape == x.shape and not torch.allclose(model.score(x, high), model.score(x, low))
        if "energy" in offers:
            drop = (model.energy(x - h * v, high) - model.energy(x + h * v, high)) / (2 * h)
            torch.testing.assert_close((model.score(x, high) * v).flatten(1).sum(1), drop, rtol=1e-5, atol=1e-6)
    assert "smooth" in offers
    leaf = x.clone().requires_grad_()
    (bend,) = torch.autograd.grad((data_score(model, leaf, create_graph=True) * v).sum(), leaf)
    change = (data_score(model, x + h * v) - data_score(model, x - h * v)) / (2 * h)
    torch.testing.assert_close((bend * v).flatten(1).sum(1), (change * v).flatten(1).sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", get_args(Activation))
def test_a_kinked_activation_is_declared_as_it_is_found(activation):
    for name in ("mlp", "conv", "noise_mlp", "score_mlp"):
        choice, model, _ = energy_and_points(name, activation=activation)
        assert choice.offers == features_of(model)
        assert ("smooth" in features_of(model)) == (activation not in ("relu", "leaky_relu"))


def for_discrete(kind, name):
    """Whether it serves discrete data alone."""
    return any(need == Need("dataset", "discrete") for need in names(kind)[name].needs)  # pyright: ignore


def coarse(name):
    """The sampler with steps so coarse that a bias shows, which do not adapt."""
    values = choice_of("sampler", name, "two_moons").settings
    fixed = {"target_acceptance": None, "adapt_rate": 0.0}
    settled = {key: value for key, value in fixed.items() if key in values}
    return build("sampler", {"name": name, **values, "step_size": 1.0, "steps": 5, **settled}, scale=1.0)


KEEPING = [n for n in own("sampler") if "stationary" in names("sampler")[n].offers and not for_discrete("sampler", n)]  # pyright: ignore
"""Those of discrete data: tests/samplers/test_discrete.py."""


@pytest.mark.parametrize("name", [n for n in KEEPING if "exact" in names("sampler")[n].offers] + ["langevin"])  # pyright: ignore
def test_an_exact_sampler_keeps_a_gaussian_at_any_step(name, generator):
    """From exact draws the squares keep their mean, 1, within 4 standard errors; those of Langevin do not."""
    energy, n = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()), 20_000
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x = coarse(name)(energy, x, {}, generator=generator).x
    off = abs(float(x.square().mean()) - 1) / (2 / (2 * n)) ** 0.5
    assert off < 4 if name != "langevin" else off > 10


@pytest.mark.parametrize("name", [n for n in KEEPING if "reparameterised" in names("sampler")[n].offers])  # pyright: ignore
def test_a_reparameterised_chain_passes_gradients_from_its_end_to_its_start(name):
    """Against central differences with the same noise, where a double well bends the path."""

    def energy(y):
        return (y.square() - 1).square().sum(1) / 4

    def end(y):
        noise = torch.Generator().manual_seed(3)
        values = choice_of("sampler", name, "two_moons").settings
        chain = build("sampler", {"name": name, **values, "step_size": 0.3, "steps": 4}, scale=1.0)
        return chain(energy, y, {}, generator=noise, differentiable=True).x

    x, h = torch.tensor([[0.3, -0.8]]).double().requires_grad_(), 1e-6
    (slope,) = torch.autograd.grad(end(x).sum(), x)
    for i in range(2):
        step = h * torch.eye(2).double()[i]
        change = float((end(x + step) - end(x - step)).detach().sum()) / (2 * h)
        assert float(slope[0, i]) == pytest.approx(change, rel=1e-5)


POINTS, IMAGES = Points(torch.randn(9, 2)), Points(torch.rand(9, 1, 8, 8), (0.0, 1.0))
LEVELS = "objective 'multi_dsm' needs a model of many noise levels, and energy 'mlp' has none: choose energy=noise_mlp"
NO_ENERGY = "and energy 'score_mlp' is a score network, which has none: choose energy=noise_mlp, or "
TABLE: list[tuple[dict[str, Any], list[str]]] = [
    ({"energy": "mlp", "objective": "pcd", "sampler": "langevin"}, []),
    ({"energy": "mlp", "objective": "dsm"}, []),
    ({"energy": "noise_mlp", "objective": "pcd", "sampler": "mala"}, []),
    ({"energy": "score_mlp", "objective": "multi_dsm", "sampler": "probability_flow"}, []),
    ({"energy": "noise_mlp", "objective": ("multi_dsm", {"time_weight": 0.1}), "sampler": "langevin"}, []),
    ({"energy": "mlp", "objective": "multi_dsm"}, [LEVELS + ", or another objective"]),
    ({"energy": "score_mlp", "objective": "nce"}, ["objective 'nce' needs an energy, " + NO_ENERGY + "objective=mult"]),
    (
        {"energy": "score_mlp", "objective": "multi_dsm", "sampler": "hmc"},
        ["sampler 'hmc' needs an energy, " + NO_ENERGY + "sampler=annealed_langevin, dpm_solver, edm, predictor_"],
    ),
    (
        {"energy": "noise_mlp", "objective": "pcd", "sampler": "probability_flow"},
        [
            "objective 'pcd' trains with chains that stay at one energy, and sampler 'probability_flow' goes down many "
            "noise levels: choose sampler=adjusted_mclmc, barker, hmc, langevin, mala, mclmc, nuts, tempering or "
            "underdamped"
        ],
    ),
    ({"energy": ("mlp", {"activation": "relu"}), "objective": "pcd", "sampler": "langevin"}, []),
    (
        {"energy": ("mlp", {"activation": "relu"}), "objective": "ssm"},
        ["objective 'ssm' differentiates the score, and energy 'mlp' has an activation without a second derivative: "],
    ),
    (
        {"energy": "mlp", "objective": ("cd", {"neglected_term": 0.5}), "sampler": "mala"},
        ["objective.neglected_term=0.5: needs differentiable chains, and sampler 'mala' has none: choose sampler=lan"],
    ),
    ({"energy": "mlp", "objective": ("cd", {"neglected_term": 0.0}), "sampler": "mala"}, []),
    (
        {"energy": "conv", "objective": "dsm"},
        ["energy=conv: needs images (C, H, W), and the data set's samples have shape (2,): choose "],
    ),
]


@pytest.mark.parametrize("run, lines", TABLE, ids=[str(run) for run, _ in TABLE])
def test_what_does_not_fit_is_said_with_what_would(run, lines):
    found = faults_of(POINTS, **run)
    assert len(found) == len(lines), found
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True)), found


def test_the_options_suit_the_data():
    (line,) = faults_of(IMAGES, energy="conv", objective="multi_dsm")
    assert "choose energy=noise_conv, noise_mlp or noise_unet, or another objective" in line


def test_a_temperature_asks_for_one_law():
    (line,) = faults_of(POINTS, temperature=0.5, energy="noise_mlp", objective="multi_dsm", sampler="annealed_langevin")
    assert line.startswith("sample_temperature=0.5: sampler 'annealed_langevin' goes down many noise levels")


def test_data_know_what_they_are():
    labelled = Points(torch.rand(9, 1, 8, 8))
    labelled.labels = {"train": torch.zeros(9)}
    assert features_of(POINTS) == {"continuous"}
    assert features_of(labelled) == {"continuous", "images", "classes"}


@pytest.fixture
def nested(monkeypatch):
    """Components with components inside: an objective with another one, an evaluation and a sampler with a sampler."""

    class Half(Objective):
        def __init__(self, energy, *, generative: Annotated[Any, Nested("objective")], weight: float) -> None:
            super().__init__(energy)
            self.generative, self.weight = generative, weight

        @classmethod
        def sampled(cls, **settings):
            return keep("energy", "score", "smooth")

        def forward(self, batch):
            raise NotImplementedError

    class Descent(Sampler):
        needs = (Need("energy", "levels"),)
        offers = frozenset()

        def __init__(self, *, inner: Annotated[Any, Nested("sampler")]) -> None:
            self.inner, self.steps = inner, inner.steps

        @classmethod
        def children_of(cls, **settings):
            stays = {"stationary": "each level has one law to keep"}
            return (Child("inner", must=stays, sees=keep("energy", "score", "smooth"), wiring={"scale": 7.0}),)

        def __call__(self, energy, x, state, *, generator, differentiable=False):
            raise NotImplementedError

    monkeypatch.setitem(registry._registered["objective"], "half", Half)
    monkeypatch.setitem(registry._registered["sampler"], "descent", Descent)


LANGEVIN = {"name": "langevin", "steps": 3, "step_size": 0.1, "noise_scale": 1.0, "clip_grad": None}
FLOW = {"name": "probability_flow", "steps": 2, "denoise": True}


def test_a_nested_choice_is_checked_built_first_and_wired_by_its_parent(nested):
    choice = parse("sampler", {"name": "descent", "inner": LANGEVIN})
    sampler = choice.build(scale=1.0)
    assert sampler.steps == 3 and sampler.inner.eps == pytest.approx(0.7)
    with pytest.raises(UserError, match=r"^sampler.inner.steps=0: should be greater than 0$"):
        parse("sampler", {"name": "descent", "inner": {**LANGEVIN, "steps": 0}})
    with pytest.raises(UserError, match=r"^sampler.inner.name=foo|foo"):
        parse("sampler", {"name": "descent", "inner": {"name": "foo"}})
    with pytest.raises(UserError, match="^sampler.inner=3: must be the settings of a registered sampler"):
        parse("sampler", {"name": "descent", "inner": 3})


def run_of(energy, objective, sampler=None):
    parts = {"energy": parse("energy", energy), "objective": parse("objective", objective)}
    return parts | ({"sampler": parse("sampler", sampler)} if sampler else {})


def energy_values(name, data="two_moons"):
    return {"name": name, **choice_of("energy", name, data).settings}


def half(name):
    return {
        "name": "half",
        "weight": 1.0,
        "generative": {"name": name, **choice_of("objective", name, "two_moons").settings},
    }


def test_the_needs_of_a_nested_choice_are_its_parents(nested):
    """JEM with any half: its half's needs are asked of the energy and of the sampler, by the half's own path."""
    mlp, noise = energy_values("mlp"), energy_values("noise_mlp")
    assert not list(faults(run_of(mlp, half("pcd"), LANGEVIN), POINTS))
    assert not list(faults(run_of(noise, half("multi_dsm"), LANGEVIN), POINTS))
    (line,) = faults(run_of(mlp, half("multi_dsm"), LANGEVIN), POINTS)
    assert line.startswith("objective.generative 'multi_dsm' needs a model of many noise levels, and energy 'mlp' has")
    line = next(iter(faults(run_of(noise, half("pcd"), FLOW), POINTS)))
    assert line.startswith("objective.generative 'pcd' trains with chains that stay at one energy")


def test_a_sampler_is_asked_for_what_the_objective_leaves_of_the_energy(nested):
    """The half keeps no levels: a descent through them can't train with it, though the energy has them."""
    run = run_of(energy_values("noise_mlp"), half("pcd"), {"name": "descent", "inner": LANGEVIN})
    lines = list(faults(run, POINTS))
    assert any(line.startswith("sampler 'descent' needs a model of many noise levels, and what obj") for line in lines)


def test_a_parent_asks_features_of_its_child(nested):
    run = run_of(energy_values("noise_mlp"), half("multi_dsm"), {"name": "descent", "inner": FLOW})
    line = next(line for line in faults(run, POINTS) if "must be" in line)
    assert line.startswith(
        "sampler.inner.name=probability_flow: must be adjusted_mclmc, barker, hmc, langevin, mala, mclmc, nuts, "
    )
    with pytest.raises(UserError):
        check_fit(run, POINTS)


def test_declarations_of_an_earlier_version_are_read():
    class Old(Sampler):
        needs = "levels"  # pyright: ignore
        kernel = False
        reparameterised = True

        def __call__(self, energy, x, state, *, generator, differentiable=False):
            raise NotImplementedError

    class Younger(Old):
        kernel = True

    class Network(Energy):
        has_energy = False

        def forward(self, x):
            raise NotImplementedError

    class Bare(torch.nn.Module):
        has_energy = False

    assert Old.needs == (Need("energy", "levels"),) and Old.offers == {"reparameterised"}
    assert Younger.offers == {"reparameterised", "stationary"} and Younger.needs == Old.needs
    assert features_of(Network()) == features_of(Bare()) == {"score", "smooth"}
    assert features_of(lambda x: x.sum(1)) == {"energy", "score", "smooth"}


def test_a_function_is_asked_once_it_is_built(monkeypatch):
    """A registered function says nothing of what it makes until it has made it."""

    def made(dataset, *, hidden: list[int]):
        return torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.ReLU())

    monkeypatch.setitem(registry._registered["energy"], "made", made)
    assert not faults_of(POINTS, energy="made", objective="multi_dsm")
    (line,) = faults_of(POINTS, {"energy": made(POINTS, hidden=[])}, energy="made", objective="multi_dsm")
    assert "needs a model of many noise levels, and energy 'made' has none" in line
