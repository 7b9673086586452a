"""Two players with turns and optimisers of their own, an objective within an objective, a sampler of evaluations."""

import io

import pytest
import torch
from zuko.flows import NSF

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.derived import Tempered
from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.runs.assemble import assemble
from tests.exhaustive import cases
from tests.integration import methods  # noqa: F401 (registers)
from tests.runs.test_resume import same

POINTS = [
    "dataset=gaussian",
    "energy=gaussian",
    "logger=none",
    "batch_size=64",
    "samples=20",
    "sample_steps=6",
    "log_every=3",
]
CHAINS = ["sampler=langevin", "sampler.steps=3", "sampler.step_size=0.3", "sampler.noise_scale=1.0"]


def config(name, steps=20, settings=(), **objective):
    plain = compose_config(
        [*POINTS, *(settings or CHAINS), f"steps={steps}", "checkpoint_every=4", "eval_every=1000", *settings]
    )
    return {**plain, "objective": {"name": name, **objective}}


def cooperative(**more):
    made = config("test_cooperative", rounds=5, eps=0.5, **more)
    return {**made, "optim": {**made["optim"], "players": {"net": {"lr": 0.02, "clip": None}}}}


def test_each_turn_moves_its_player_alone_by_its_own_optimiser():
    trainer, _ = assemble(cooperative())
    optimisers, seen = trainer.state.optimisers, []
    assert optimisers["net"].base == 0.02 != optimisers["energy"].base and optimisers["net"].clip is None
    for step in range(1, 13):
        before = {name: [p.detach().clone() for p in o.parameters] for name, o in optimisers.items()}
        trainer._train_step(step)
        seen.append(
            [n for n, o in optimisers.items() if any(map(lambda p, q: not p.equal(q), o.parameters, before[n]))]
        )
    assert seen == 2 * [*5 * [["net"]], ["energy"]]


def test_the_model_is_on_its_own_scale_and_its_chains_begin_at_the_generator():
    trainer, _ = assemble(cooperative())
    view, objective = trainer.evaluations.view("val", 0), trainer.state.objective
    assert isinstance(view.energy, Tempered) and view.energy.temperature == 0.5
    x = view.dataset.val[:5]
    assert torch.equal(view.energy(x), objective.energy(x) / 0.5) and view.origin is objective.net
    with torch.no_grad():
        objective.net.mean += 1000.0
    assert float(view.trajectory[0][1].mean()) > 900


def steps(trainer, last):
    """Train up to step `last`."""
    for step in range(trainer.state.step + 1, last + 1):
        trainer._train_step(step)


def saved(trainer):
    """The state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(trainer.state.content(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


ADAPTING = ["sampler=mala", "sampler.steps=3", "sampler.adapt_rate=0.05"]


def objective(name, *settings):
    """An objective of the lab with two players, the second of them small."""
    small = [] if name == "fce" else ["objective.hidden=[16]"]
    return compose_config([f"objective={name}", *POINTS, "steps=20", *small, *settings])


METHODS = {
    "cooperative": cooperative,
    "cooperative, adapting": lambda: cooperative(settings=ADAPTING),
    "lsd": lambda: objective("lsd", "objective.critic_steps=2"),
    "fce": lambda: objective("fce", "objective.fit_steps=5", "objective.energy_steps=2"),
    "f_ebm": lambda: objective("f_ebm", *CHAINS, "objective.buffer_size=64"),
    "vera": lambda: objective("vera"),
    "coopnets": lambda: objective("coopnets", *ADAPTING),
    "nested": lambda: config("test_nested", penalty=0.01),
    "nested, adapting": lambda: config("test_nested", penalty=0.01, settings=ADAPTING),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(METHODS, ["cooperative, adapting", "lsd", "nested, adapting"]))
def test_stop_at_9_resume_to_20_equals_20_straight(name):
    straight, first, second = (assemble(METHODS[name]())[0] for _ in range(3))
    steps(straight, 20)
    steps(first, 9)
    second.state.restore(saved(first))
    steps(second, 20)
    same(saved(straight), saved(second))


def test_what_a_nested_sampler_adapts_is_in_the_checkpoint():
    trainer, _ = assemble(METHODS["nested, adapting"]())
    steps(trainer, 3)
    content = saved(trainer)["objective"]
    assert set(content["generative._extra_state"]) == {"log_eps", "age"} and content["_extra_state"] == {}
    view = trainer.evaluations.view("val", 3)
    assert view.chains is trainer.state.objective.generative.buffer.x and view.chain_labels.shape == (128,)
    assert isinstance(trainer.state.objective.chains(), Batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(METHODS, ["cooperative"]))
def test_compiled_turns_equal_eager_ones(name, monkeypatch):
    """A graph for each turn; 12 steps of Adam at lr <= .02 carry on the rounding of float32. The flow of fce is a small
    one, since a large one takes minutes to compile."""
    smaller = {"transforms": 1, "passes": 2, "hidden_features": (8,), "bins": 3}
    monkeypatch.setattr("zuko.flows.NSF", lambda d, **settings: NSF(d, **smaller))
    eager, fast = (assemble({**METHODS[name](), "compile": how})[0] for how in ("off", "on"))
    told = []
    fast.say = told.append
    for trainer in (eager, fast):
        steps(trainer, 14)
    assert not told
    turns = len({eager.state.objective.turn(step) for step in range(1, 13)})
    assert len(fast.compiled.steps) == turns and all(s.graph is not None for s in fast.compiled.steps.values())
    for one, other in zip(fast.state.ema.parameters, eager.state.ema.parameters, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
    for one, other in zip(fast.state.ema.average, eager.state.ema.average, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


LEVELS = ["energy=noise_mlp", "energy.hidden=[16]", "energy.levels=4", "energy.sigma_max=2.0", "energy.sigma_min=0.2"]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_evaluations_descend_the_levels_while_training_stays_at_one(temperature):
    """Recovery likelihood trains by short tethered chains; a sampler of evaluations goes down the levels."""
    plain = config("test_recovery", settings=[*LEVELS, "sampler=langevin"], steps=5)
    down = compose_config([*POINTS[:1], *LEVELS, "objective=multi_dsm", "sampler=annealed_langevin"])["sampler"]
    made = {**plain, "objective": {"name": "test_recovery", "steps": 5}, "evaluation_sampler": down}
    if temperature != 1:
        with pytest.raises(UserError, match="evaluation_sampler 'annealed_langevin' goes down many noise levels"):
            assemble({**made, "sample_temperature": temperature})
        return
    trainer, _ = assemble(made)
    steps(trainer, 5)
    view = trainer.evaluations.view("val", 5)
    assert view.trajectory[-1][0] == view.sampler.total(view.energy) == 4 * down["steps"]
    energy, x = trainer.state.objective.energy, view.dataset.val
    assert float(view.chain_metrics["chain_sigma"]) == pytest.approx(0.2)
    assert torch.equal(energy(x), energy(x, sigma=0.2)) and torch.equal(energy.at(0.7)(x), energy(x, sigma=0.7))


def test_a_sampler_of_evaluations_that_the_model_cannot_serve_is_refused():
    made = config("test_nested", penalty=0.01)
    down = compose_config(["dataset=gaussian", *LEVELS, "objective=multi_dsm", "sampler=annealed_langevin"])["sampler"]
    with pytest.raises(UserError, match="evaluation_sampler 'annealed_langevin' needs a model of many noise levels"):
        assemble({**made, "evaluation_sampler": down})
    trainer, _ = assemble({**made, "evaluation_sampler": {"name": "none"}})
    assert trainer.evaluations.sampler is trainer.state.objective.generative.sampler
