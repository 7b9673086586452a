"""The kind: a part of training that ignores a setting, keeps what is stale or takes another's part, and still learns.

Each is compared with its definition by hand: one step of an optimiser, one batch, one window, one view.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.eval_view import Report
from ebm_lab.core.interfaces import Batch, Chain, Loss, Sampler
from ebm_lab.distributions.flow import Flow
from ebm_lab.models.levels import NoiseLevels
from ebm_lab.objectives._contrastive import Contrastive
from ebm_lab.objectives.pcd import PCD
from ebm_lab.runs.assemble import assemble
from ebm_lab.samplers.langevin import Langevin
from ebm_lab.samplers.mala import MALA
from ebm_lab.samplers.tempering import Tempering
from ebm_lab.samplers.underdamped import Underdamped
from ebm_lab.training import costs as clocks
from ebm_lab.training.batches import Batches
from ebm_lab.training.costs import Clock, Counters
from ebm_lab.training.ema import EMA
from ebm_lab.training.gradients import Gradients
from ebm_lab.training.guard import Guard, noise_distance, noise_nll
from ebm_lab.training.meter import Meter
from ebm_lab.training.optim.adam import Adam
from ebm_lab.training.optim.sgd import SGD
from ebm_lab.training.optimiser import norm_names, step_all
from tests.helpers import Drift, Points, gaussian_energy
from tests.models.test_levels import gaussian_model

TINY = ["objective=nce", "dataset=two_moons", "dataset.train=200", "dataset.held_out=60", "energy.hidden=[8]"]
TINY += ["logger=none", "batch_size=16", "steps=10", "samples=20", "sample_steps=30", "ema=0.9"]


def trainer(*more, evaluations="likelihood"):
    return assemble(compose_config([*TINY, f"evaluation=[{evaluations}]", *more]))[0]


# --- data ---------------------------------------------------------------------------------------------------------


def test_batches_are_the_next_points_with_their_own_labels_in_another_order_each_epoch():
    data = Points(torch.arange(12.0).view(12, 1))
    data.labels = {"train": 100 + torch.arange(12)}
    batches = Batches(data, 6, seed=3, parts=2)
    epochs = []
    for epoch in range(3):
        seen = [part for step in (2 * epoch + 1, 2 * epoch + 2) for part in batches(step)]
        assert [len(part.x) for part in seen] == [3] * 4
        assert all(torch.equal(part.y, 100 + part.x[:, 0].long()) for part in seen)
        epochs.append(torch.cat([part.x[:, 0] for part in seen]).tolist())
        assert sorted(epochs[-1]) == list(range(12))
    assert len({tuple(e) for e in epochs}) == 3
    again, other = (torch.cat([Batches(data, 12, seed=s).indices(1)]).tolist() for s in (3, 4))
    assert again == epochs[0] and other != again
    shares = [Batches(data, 6, 3, 1, share, 3)(5)[0].x for share in range(3)]
    assert torch.equal(torch.cat(shares), Batches(data, 6, 3)(5)[0].x)


# --- optimisers ---------------------------------------------------------------------------------------------------

PLAIN = {"lr": 0.1, "weight_decay": 0.0, "schedule": "constant", "warmup": 0, "clip": None}


def parameter(value, grad):
    p = nn.Parameter(torch.tensor(value))
    p.grad = torch.tensor(grad)
    return p


def test_sgd_s_step_by_hand():
    """v <- momentum v + g + decay theta; theta <- theta - lr v, lr the schedule's at this very step."""
    p = parameter([2.0], [1.0])
    sgd = SGD([p], 100, momentum=0.5, **{**PLAIN, "weight_decay": 0.1, "warmup": 4})
    v, theta = 0.0, 2.0
    for step in (1, 2, 5):
        p.grad = torch.tensor([1.0])
        assert float(sgd.step(step)) == 1.0 and p.grad is None
        v = 0.5 * v + 1.0 + 0.1 * theta
        theta -= 0.1 * min(1.0, step / 4) * v
        assert float(p.detach()) == pytest.approx(theta, rel=1e-6)


def test_adam_s_step_by_hand():
    """Decoupled decay: theta <- (1 - lr decay) theta - lr m_hat / (sqrt(v_hat) + 1e-8), in its warm-up too."""
    p = parameter([2.0], [1.0])
    adam = Adam([p], 100, beta1=0.8, beta2=0.95, **{**PLAIN, "weight_decay": 0.3, "warmup": 4})
    m = v = 0.0
    theta = 2.0
    for step, g in ((1, 1.0), (2, -3.0), (3, 0.5)):
        p.grad = torch.tensor([g])
        adam.step(step)
        m, v, lr = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g, 0.1 * step / 4
        hat = m / (1 - 0.8**step), v / (1 - 0.95**step)
        theta = (1 - lr * 0.3) * theta - lr * hat[0] / (math.sqrt(hat[1]) + 1e-8)
        assert float(p.detach()) == pytest.approx(theta, rel=1e-5)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_gradients_are_clipped_together_and_their_norm_is_told(kind):
    """|(3, 4)| = 5 over both parameters, cut to 1: SGD moves by lr times (0.6, 0.8)."""
    extra = {"momentum": 0.0} if kind is SGD else {"beta1": 0.0, "beta2": 0.0}
    pair = [parameter([0.0], [3.0]), parameter([0.0], [4.0])]
    optimiser = kind(pair, 10, **extra, **{**PLAIN, "clip": 1.0})
    seen = []
    optimiser.optimiser.register_step_pre_hook(lambda *_: seen.extend(float(p.grad) for p in pair))
    assert float(optimiser.step(1)) == pytest.approx(5.0)
    assert seen == pytest.approx([0.6, 0.8], rel=1e-5)
    if kind is SGD:
        assert [float(p.detach()) for p in pair] == pytest.approx([-0.06, -0.08], rel=1e-5)


def test_a_loaded_optimiser_has_the_base_rate_that_was_saved():
    """A rollback halves it; a resumed run goes on with the half."""
    one, two = (SGD([parameter([0.0], [1.0])], 10, momentum=0.0, **PLAIN) for _ in range(2))
    one.base /= 2
    two.load_state_dict(one.state_dict())
    assert two.rate(3) == pytest.approx(0.05)


def test_each_player_has_its_own_step_and_norm():
    players = {n: SGD([parameter([0.0], [g])], 10, momentum=0.0, **PLAIN) for n, g in (("a", 1.0), ("b", 2.0))}
    norms = step_all(players, 1)
    assert {k: float(v) for k, v in norms.items()} == {"grad_norm_a": 1.0, "grad_norm_b": 2.0}
    assert [float(p.parameters[0].detach()) for p in players.values()] == pytest.approx([-0.1, -0.2])
    assert norm_names({"a": players["a"]}) == ["grad_norm"]


# --- averages -----------------------------------------------------------------------------------------------------


def test_the_average_is_loaded_by_value_and_reaches_its_decay():
    p, q = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([9.0]))
    one, two = EMA([p], 0.5), EMA([q], 0.5)
    two.load_state_dict(one.state_dict())
    assert float(two.average[0]) == 1.0
    p.data.fill_(3.0)
    one.update(1000)
    assert float(one.average[0]) == pytest.approx(2.0) and float(two.average[0]) == 1.0
    assert one.rate(1) == pytest.approx(1 - 2 / 11) and one.rate(10**6) == 0.5


def test_the_meter_keeps_values_and_not_tensors_and_begins_anew_when_cleared():
    meter, value = Meter(), torch.tensor(1.0)
    meter.add({"a": value})
    value.fill_(5.0)
    meter.add({"a": value})
    assert meter.means() == {"a": 3.0}
    meter.clear()
    meter.add({"b": torch.tensor(7.0)})
    assert meter.means() == {"b": 7.0}
    other = Meter()
    other.load_state_dict(meter.state_dict())
    assert other.means() == {"b": 7.0}


# --- costs --------------------------------------------------------------------------------------------------------


def test_the_clock_tells_training_from_start_up_and_evaluation(monkeypatch):
    """3 s of start-up, 10 of training, 4 of evaluation, 6 more of training; a CPU-second for each two of them."""
    now = [100.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(clocks.time, "process_time", lambda: now[0] / 2)
    clock, counters = Clock(), Counters()
    clock.start(counters, 3.0, 1.5)
    now[0] += 10
    counters.step = 5
    with clock.evaluating(counters):
        now[0] += 4
    now[0] += 6
    counters.step = 8
    assert clock.rate(counters) == pytest.approx(8 / 16), "steps per second of training alone"
    assert (counters.seconds, counters.cpu_seconds) == pytest.approx((23, 11.5))
    assert (counters.eval_seconds, counters.eval_cpu_seconds) == pytest.approx((4, 2))
    assert counters.train_cpu_seconds == pytest.approx(8.0)
    now[0] += 2
    counters.step = 9
    assert clock.rate(counters) == pytest.approx(0.5), "a window begins where the last one ended"


class Mean(nn.Module):
    """The mean of theta x over a batch."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch):
        value = (self.theta * batch.x).mean()
        return Loss(value, {"loss": value.detach()}, 10)


@pytest.mark.parametrize("world", [1, 3])
def test_parts_of_a_batch_have_the_gradient_metrics_and_cost_of_the_whole(world):
    objective = Mean()
    processes = SimpleNamespace(average_gradients=lambda parameters: None, world=world)
    gradients = Gradients(objective, processes, "float32")
    parts = [Batch(torch.tensor([1.0, 3.0])), Batch(torch.tensor([5.0, 9.0]))]
    metrics, evals = gradients(parts)
    assert float(objective.theta.grad) == 4.5 and float(metrics["loss"]) == 9.0 and evals == 20 * world
    objective.theta.grad = None
    metrics, evals = gradients(parts[:1])
    assert float(objective.theta.grad) == 2.0 and float(metrics["loss"]) == 4.0 and evals == 10 * world


# --- the guard ----------------------------------------------------------------------------------------------------


def guard(data, cold=False, tempered=False, **more):
    settings = {"enabled": True, "rollbacks": 2, "growth": 10.0, "nats": 5.0, "chain_distance": 4.0, "acceptance": 0.1}
    return Guard(data, cold, tempered, **{**settings, **more})


def test_the_guard_s_limits_by_hand(generator):
    """Growth 10 times the larger of 5 nats + 3 dimensions and the median size; chains 4 times the noise's distance."""
    data = Points(torch.randn(100, 3, generator=generator))
    g = guard(data)
    assert not g.check_window({"gap": -79.0, "loss": 79.0}) and {t.kind for t in g.check_window({"loss": 81.0})} == {
        "loss"
    }
    for i, size in enumerate((20.0, 10.0, 1000.0)):
        g.record_window({"gap": size}, i)
    assert not g.check_window({"gap": -199.0}) and g.check_window({"gap": -201.0})[0].kind == "gap"
    assert not g.check_window({"loss": -1e9}), "losses are judged upward only"
    data.__class__ = type("Far", (Points,), {"start": SimpleNamespace(sample=lambda n, g: 3 * data.scale * torch.ones(
        n, 3) + data.mean)})  # fmt: skip
    assert noise_distance(data) == pytest.approx(3.0, rel=1e-5)
    far = guard(data)
    assert (
        not far.check_window({"chain_distance": 11.9})
        and far.check_window({"chain_distance": 12.1})[0].kind == "chains"
    )


def test_acceptance_must_be_low_three_windows_in_a_row(generator):
    g = guard(Points(torch.randn(100, 3, generator=generator)))
    low, fine = {"acceptance": 0.05}, {"acceptance": 0.5}
    for window in (low, low, fine, low, low):
        assert not g.check_window(window)
        g.record_window(window, 1)
    assert [t.kind for t in g.check_window(low)] == ["acceptance"]
    assert not guard(Points(torch.randn(9, 3)), cold=True, acceptance=0.1)._is_low({"acceptance": 0.0})


def test_a_checkpoint_is_good_after_a_whole_window_below_a_third_of_the_limits(generator):
    g = guard(Points(torch.randn(100, 3, generator=generator)))
    g.record_window({"loss": 1.0}, 10)
    g.candidate = 15  # saved within the window from 10 to 20
    assert not g.record_window({"loss": 1.0}, 20), "part of that window came before it"
    assert not g.record_window({"loss": 30.0}, 30), "30 is below the limit of 80 and above a third of it"
    assert g.record_window({"loss": 1.0}, 40) and g.candidate is None


def test_the_model_is_weighed_against_noise_on_the_test_points(generator):
    data = Points(torch.randn(100, 3, generator=generator).double())
    data.test = data.test + 9
    expected = torch.distributions.Normal(data.mean, data.scale).log_prob(data.test).sum(1).mean()
    assert noise_nll(data) == pytest.approx(-float(expected), rel=1e-6)
    g = guard(data)
    assert not g.check_final({"nll": noise_nll(data) + 7.9}) and g.check_final({"nll": noise_nll(data) + 8.1})
    assert not guard(data, tempered=True).check_final({"nll": 1e9})


# --- what evaluations are shown -----------------------------------------------------------------------------------


def test_a_run_s_view_has_its_settings():
    made = trainer("sample_temperature=0.5", evaluations="")
    made.state.objective.log_z.data.fill_(1.25)
    view = made.evaluations.view("val", made.state.step)
    assert (view.count, view.steps, view.temperature, view.learnt_log_z) == (20, 30, 0.5, 1.25)
    data = made.evaluations.dataset
    assert view.held_out is data.val and made.evaluations.view("test", 0).held_out is data.test
    assert view.sampler is made.evaluations.sampler and view.energy is made.state.objective.energy
    assert view.chains is None


def test_an_evaluation_s_random_numbers_depend_on_seed_split_step_and_its_own_name():
    seen = {}

    class Draws:
        def applies(self, view):
            return None

        def __call__(self, view):
            return Report({"drawn": float(torch.rand((), generator=view.generator))})

    def drawn(name, split="val", step=3, seed=0):
        made = trainer(f"seed={seed}", evaluations="")
        made.evaluations.evaluators, made.state.costs.step = {"a": Draws(), "b": Draws()}, step
        return made.evaluations.report(name, made.evaluations.view(split, made.state.step)).metrics["drawn"]

    seen = [drawn("a"), drawn("b"), drawn("a", "test"), drawn("a", step=4), drawn("a", seed=1)]
    assert len(set(seen)) == 5 and drawn("a") == seen[0]


def test_evaluations_see_the_averaged_weights_and_training_goes_on_with_the_raw_ones():
    made, seen = trainer(evaluations=""), []

    class Weights:
        def applies(self, view):
            seen.append([p.detach().clone() for p in view.energy.parameters()])
            return "seen"

    made.evaluations.evaluators = {"w": Weights()}
    for step in range(1, 6):
        made._train_step(step)
    raw = [p.detach().clone() for p in made.state.objective.energy.parameters()]
    made.evaluate("val")
    average = {id(p): a for p, a in zip(made.state.ema.parameters, made.state.ema.average, strict=True)}
    for p, before, shown in zip(made.state.objective.energy.parameters(), raw, seen[0], strict=True):
        assert torch.equal(p, before) and torch.equal(shown, average[id(p)]) and not torch.equal(shown, before)


def test_the_best_checkpoint_is_the_one_of_the_least_nll(monkeypatch):
    made, saved = trainer(evaluations=""), []
    monkeypatch.setattr(made, "save", lambda best=False, candidate=False: saved.append(made.state.costs.step))
    values = iter([3.0, 2.0, 2.5, 1.0])
    monkeypatch.setattr(made, "evaluate", lambda split: {"nll": next(values), "mmd2": 0.0, "split": split})
    for step in (1, 2, 3, 4):
        made.state.costs.step = step
        assert made._validate()["val/split"] == "val"
    assert saved == [1, 2, 4] and (made.state.costs.best, made.state.costs.best_step) == (1.0, 4)


# --- chains -------------------------------------------------------------------------------------------------------


class Kept(Sampler):
    """Adds 1 to every coordinate and to its state; remembers whether it was asked to be differentiable."""

    steps = 4
    reparameterised = True

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        count = state.get("count", torch.zeros(())) + 1
        return Chain(x + 1.0, {"count": count}, {"acceptance": torch.tensor(0.5)}, 7)


class FromData(Contrastive):
    def negatives(self, x):
        return self.advance(x, self.refresh)

    refresh = 0


def contrastive(data, generator, **more):
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    return FromData(energy, Kept(), data, generator, **{"data_noise": 0.0, "energy_l2": 0.0, **more})


def test_what_the_sampler_adapts_goes_on_from_call_to_call_and_its_cost_is_counted(generator):
    data = Points(3 + 2 * torch.randn(500, 2, generator=generator).double())
    objective = contrastive(data, generator, energy_l2=0.5)
    for count in (1, 2, 3):
        loss = objective(Batch(data.train))
        assert float(objective.sampler_state["count"]) == count
    e_pos, e_neg = (0.5 * x.square().sum(1) for x in (data.train, data.train + 1))
    gap = float(e_pos.mean() - e_neg.mean())
    l2 = 0.5 * float(e_pos.square().mean() + e_neg.square().mean())
    assert float(loss.metrics["gap"]) == pytest.approx(gap) and float(loss.value.detach()) == pytest.approx(gap + l2)
    assert loss.grad_evals == 7 + 2 * 500
    distance = (data.train + 1 - data.mean).square().sum(1).mean().sqrt() / (data.scale * 2**0.5)
    assert float(loss.metrics["chain_distance"]) == pytest.approx(float(distance))


def test_data_noise_of_chains_is_in_units_of_the_data_s_scale(generator):
    data = Points(100 * torch.randn(2000, 2, generator=generator).double())
    objective, seen = contrastive(data, generator, data_noise=0.3), []
    objective.negatives = lambda x: seen.append(x) or Chain(x, {}, {}, 0)
    objective(Batch(torch.zeros(4000, 2).double()))
    assert float(seen[0].std()) == pytest.approx(0.3 * data.scale, rel=0.04)


LENGTHS = {
    "cnce": (
        ["objective.width_min=0.2", "objective.width_max=0.4"],
        lambda o: (o.kernel.narrow, o.kernel.wide),
        (0.2, 0.4),
    ),
    "mpf": (
        ["objective.width_min=0.2", "objective.width_max=0.4"],
        lambda o: (o.kernel.narrow, o.kernel.wide),
        (0.2, 0.4),
    ),
    "ed": (["objective.blur=0.7"], lambda o: (o.blur,), (0.7,)),
    "fdssm": (["objective.step=0.05"], lambda o: (o.step,), (0.05,)),
    "min_velocity": (["objective.step=0.05"], lambda o: (o.step,), (0.05,)),
    "ksd": ([], lambda o: (), ()),
    "nce": ([], lambda o: (), ()),
    "fce": (["objective.fit_steps=1"], lambda o: (), ()),
    "lsd": ([], lambda o: (), ()),
    "sm": ([], lambda o: (), ()),
    "ssm": ([], lambda o: (), ()),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_and_noise_of_an_objective_are_in_units_of_the_data_s_scale(name, monkeypatch):
    """On data whose scale is not 1: what is added to a batch has std data_noise * scale, and so have all lengths."""
    more, lengths, expected = LENGTHS[name]
    data = ["dataset=gaussian", "dataset.dim=2", "dataset.std_min=40", "dataset.std_max=60", "energy=mlp"]
    made = trainer(*data, "preprocess=none", f"objective={name}", "objective.data_noise=0.3", *more, evaluations="")
    scale, seen = made.evaluations.dataset.scale, []
    assert scale > 30
    assert lengths(made.state.objective) == pytest.approx(tuple(scale * v for v in expected))
    module = "cnce" if name == "mpf" else name
    monkeypatch.setattr(f"ebm_lab.objectives.{module}.with_noise", lambda x, std, g: seen.append(std) or x)
    made._train_step(1)
    assert seen == pytest.approx([0.3 * scale])


def test_refreshing_tells_the_mean_acceptance_of_all_its_proposals(generator, monkeypatch):
    answers = iter([torch.tensor([True, True]), torch.tensor([False, False]), torch.tensor([True, True])])
    monkeypatch.setattr("ebm_lab.objectives._contrastive.independence_step", lambda e, x, q, g: (x, next(answers)))
    objective = contrastive(Points(torch.randn(50, 2).double()), generator)
    objective.refresh = 3
    assert float(objective(Batch(torch.zeros(2, 2).double())).metrics["refreshed"]) == pytest.approx(2 / 3)


def test_the_contrast_s_gradient_does_not_run_through_the_chain(generator):
    """Chains that depend on theta differentiably: the gradient is that at fixed ends."""
    from ebm_lab.objectives._contrastive import contrast

    theta = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 2, generator=generator).double()
    e_pos, e_neg = contrast(lambda y: theta * y.square().sum(1), x, theta * x)
    (grad,) = torch.autograd.grad(e_pos.mean() - e_neg.mean(), theta)
    square = x.square().sum(1).mean()
    torch.testing.assert_close(grad, square - 4 * square)


def test_pcd_ages_its_chains_by_the_sampler_s_steps_draws_distinct_ones_and_refreshes(generator, monkeypatch):
    data = Points(torch.randn(50, 2, generator=generator).double())
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    settings = {"buffer_size": 40, "restart": 0.0, "refresh": 3, "data_noise": 0.0, "energy_l2": 0.0}
    settings["conditional"] = False
    pcd, asked = PCD(energy, Kept(), data, generator, 30, **settings), []
    advance = pcd.advance
    monkeypatch.setattr(pcd, "advance", lambda x, *how: asked.append((x, how[0])) or advance(x, *how))
    before = pcd.buffer.x.clone()
    pcd(Batch(data.train[:30]))
    assert asked[0][1] == 3 and len(asked[0][0].unique(dim=0)) == 30
    assert sorted(pcd.buffer.age.tolist()) == [0] * 10 + [4] * 30 and pcd.chains() is pcd.buffer.x
    pcd(Batch(data.train[:30]))
    assert not torch.equal(asked[0][0], before[:30]) and int(pcd.buffer.age.sum()) == 240
    assert pcd.buffer.age.max() == 8 and pcd.buffer.age.min() in (0, 4), "others are drawn the second time"


def test_short_gradients_are_not_lengthened_to_the_clip():
    """|grad| = 3 and 0.5 against a clip of 1: one is cut to 1, the other stays."""
    sampler = Langevin(1.0, steps=1, step_size=1.0, noise_scale=0.0, clip_grad=1.0)
    x = torch.tensor([[3.0, 0.0], [0.0, 0.5]]).double()
    found = sampler(lambda y: 0.5 * y.square().sum(1), x, {}, generator=torch.Generator())
    torch.testing.assert_close(found.x, torch.tensor([[2.5, 0.0], [0.0, 0.25]]).double())
    assert Langevin(1.0, steps=5, step_size=1.0, noise_scale=0.0, clip_grad=None)(
        lambda y: 0.5 * y.square().sum(1), x, {}, generator=torch.Generator()
    ).grad_evals == 10  # fmt: skip


def test_a_warm_up_of_three_proposals_adapts_in_three_and_not_in_the_fourth(generator):
    fixed = {"step_size": 0.5, "target_acceptance": 0.6, "adapt_rate": 0.1, "temperature": 1.0}
    sampler = MALA(1.0, steps=1, mass="diagonal", warmup=3, **fixed)
    x, state, sizes, widths = torch.randn(50, 2, generator=generator).double(), {}, [], []
    for _ in range(5):
        x, state, _, _ = sampler(lambda y: y.square().sum(1), x, state, generator=generator)
        sizes.append(float(state["log_eps"]))
        widths.append(float(state["var"][0]))
    assert len(set(sizes)) == len(set(widths)) == 3 and sizes[2:] == sizes[2:3] * 3 and widths[2:] == widths[2:3] * 3


def test_hot_replicas_turns_and_trips_are_kept_from_call_to_call(generator):
    settings = {"steps": 3, "replicas": 3, "max_temperature": 9.0, "step_size": 0.5, "target_acceptance": None}
    sampler, x = Tempering(2.0, **settings, adapt_rate=0.1), torch.randn(200, 2, generator=generator).double()

    def energy(y):
        return 0.5 * y.square().sum(1)

    first = sampler(energy, x, {}, generator=generator)
    torch.testing.assert_close(first.state["log_eps"].exp().double(), torch.tensor([1.0, 3.0**0.5, 3.0]).double())
    assert int(first.state["turn"]) == 3 and first.grad_evals == 4 * 3 * 200
    assert first.state["was_hot"][-1].all() and not first.state["was_hot"][0].any()
    hot = first.state["hot"]
    kept, other = (
        sampler(energy, first.x, {**first.state, "hot": h}, generator=torch.Generator().manual_seed(1))
        for h in (hot, hot + 1)
    )
    assert int(kept.state["turn"]) == 6 and not torch.equal(kept.state["hot"], other.state["hot"])
    state = first.state
    for _ in range(30):
        chain = sampler(energy, x, state, generator=generator)
        x, state = chain.x, chain.state
    trips = [float(sampler(energy, x, state, generator=generator).metrics["round_trips"]) for _ in range(20)]
    assert sum(trips) > 0
    assert float(state["hot"][-1].var()) == pytest.approx(9.0, rel=0.4), "the hottest has the variance T"


def test_velocities_are_kept_and_forgotten_by_the_friction_of_a_step(generator):
    """Without forces v <- c v + sqrt(1 - c^2) z, c = exp(-friction step_size), over all steps of two calls."""
    sampler = Underdamped(5.0, steps=1, step_size=0.2, friction=1.5, temperature=1.0)
    x, v = torch.zeros(40_000, 1).double(), torch.full((40_000, 1), 10.0).double()
    c = math.exp(-0.3)
    for call in (1, 2):
        chain = sampler(lambda y: 0 * y.sum(1), x, {"v": v}, generator=generator)
        x, v = chain.x, chain.state["v"]
        assert float(v.mean()) == pytest.approx(10 * c**call, abs=0.03)
        assert float(v.var()) == pytest.approx(1 - c ** (2 * call), rel=0.04)


def test_underdamped_acceptance_is_that_of_the_work_over_the_temperature(generator, monkeypatch):
    """Work of 2 nats at T = 4 is accepted with probability exp(-1/2)."""
    from ebm_lab.samplers import underdamped

    baoab = underdamped.baoab
    monkeypatch.setattr(underdamped, "baoab", lambda *a: (baoab(*a)[0], torch.full((9,), 2.0)))
    sampler = Underdamped(1.0, steps=1, step_size=0.1, friction=1.0, temperature=4.0)
    chain = sampler(lambda y: y.square().sum(1), torch.zeros(9, 2), {}, generator=generator)
    assert float(chain.metrics["acceptance"]) == pytest.approx(math.exp(-0.5))


def test_level_samplers_begin_at_the_model_s_prior(generator):
    from ebm_lab.samplers.annealed_langevin import AnnealedLangevin

    model, data, m = gaussian_model(generator)
    assert isinstance(model, NoiseLevels)
    sampler = AnnealedLangevin(steps=2, step_size=0.5, noise_scale=1.0, denoise=False)
    x = sampler.start(model).sample(20_000, generator)
    torch.testing.assert_close(x.mean(0), m, atol=0.2, rtol=0)
    assert float(x.std(0).mean()) == pytest.approx(math.hypot(5.0, data.scale), rel=0.03)
    assert Drift().start(model) is None


# --- the flow -----------------------------------------------------------------------------------------------------


def test_a_flow_is_fitted_to_nine_tenths_with_noise_and_judged_on_the_rest(generator, monkeypatch):
    """Of 20 points, 0 and 10 are held out and never seen; what is seen has noise of the given std; the rate falls from
    3e-3 along half a cosine."""
    seen, rates, flow = [], [], Flow.__new__(Flow)
    nn.Module.__init__(flow)
    flow.spread = torch.ones(1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self):
            return SimpleNamespace(log_prob=lambda x: seen.append(x.detach()) or (self.w * x).sum(1))

    flow.net = Net()
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *a, **k: rates.append(adam(*a, **k)) or rates[0])
    steps = []
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: steps.append(rates[0].param_groups[0]["lr"]))
    u = 100.0 * torch.arange(20.0).view(20, 1)
    flow._fit(u, torch.full((1,), 2.0), generator, 40, 64)
    *fitted, judged = seen
    nearest = [(x / 100).round().flatten() for x in fitted]
    assert not any(set(n.tolist()) & {0.0, 10.0} for n in nearest) and len(fitted) == 40
    noise = torch.cat([x.flatten() - 100 * n for x, n in zip(fitted, nearest, strict=True)])
    assert float(noise.std()) == pytest.approx(2.0, rel=0.15)
    assert (judged / 100).round().flatten().tolist() == [0.0, 10.0]
    assert steps[0] == pytest.approx(3e-3) and steps[20] == pytest.approx(1.5e-3) and steps[-1] < 1e-5
