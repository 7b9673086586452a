"""Early stopping: its measure by hand, that watching changes nothing, and that the best weights are taken where a model
learns its few training points by heart."""

import json
import math

import pytest
import torch
import yaml

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch, Loss, Objective
from ebm_lab.distributions.base import BaseLaw, MixtureBase
from ebm_lab.runs.load import load_run
from ebm_lab.training.early_stopping import PATIENCE, EarlyStopping, contrast_with_base
from tests.exhaustive import exhaustive
from tests.helpers import Points
from tests.runs.test_resume import same, state

FEW = [
    *("dataset=gaussian", "dataset.dim=12", "dataset.train=100", "dataset.held_out=2000", "energy=mlp", "logger=none"),
    *("energy.hidden=[64]", "objective=dsm", "objective.sigma=0.3", "batch_size=50", "evaluation=[likelihood]"),
    *("eval_every=50", "log_every=50", "checkpoint_every=50", "optim.lr=0.01", "compile=off"),
]


class Told(Objective):
    """An objective whose loss on a point x is `weight` x, plus noise of its own."""

    def __init__(self, generator):
        super().__init__(torch.nn.Linear(1, 1))
        self.generator, self.weight = generator, 1.0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch: Batch) -> Loss:
        self.seen += 1
        noise = torch.randn(len(batch.x), generator=self.generator)
        return Loss((self.weight * batch.x[:, 0] + noise).mean(), {}, 0)


@pytest.fixture
def watched(generator):
    told = Told(generator)
    return told, EarlyStopping(told, Points(torch.randn(300, 1, generator=generator).abs() + 1), generator, seed=3)


def test_the_rise_is_that_of_a_paired_t_statistic(watched):
    """d_i = 2 - 1 and so on, by hand; the noise is the same each time and cancels."""
    told, watch = watched
    watch.best = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    rise = watch.rise(torch.tensor([2.0, 2.0, 5.0, 5.0]).double())  # d = 1, 0, 2, 1: mean 1, std sqrt(2/3)
    assert rise == pytest.approx(1 / math.sqrt(2 / 3 / 4))
    assert watch.rise(watch.best) == 0 and watch.rise(watch.best + 1) == math.inf
    watch.best = None
    first = watch.losses()
    told.weight = 2.0
    x = torch.stack([batch.x.double().mean() for batch in watch.batches])
    assert torch.allclose(watch.losses() - first, x, atol=1e-6)


def test_looking_changes_neither_the_random_stream_nor_what_the_objective_keeps(watched, generator):
    told, watch = watched
    before = generator.get_state()
    told.train()
    watch.look()
    assert torch.equal(generator.get_state(), before) and told.seen == 0 and told.training


def test_it_is_over_after_rises_in_a_row(watched):
    told, watch = watched
    seen = []
    for weight in (3.0, 1.0, 2.0, 2.0, 0.9, 2.0, 2.0, 2.0, 2.0):
        told.weight = weight
        watch.look()
        seen.append((watch.rises, watch.over))
    assert [rises for rises, _ in seen] == [0, 0, 1, 2, 0, 1, 2, 3, 4] and PATIENCE == 4
    assert [over for _, over in seen] == 8 * [False] + [True]


def test_a_loss_that_turns_back_does_not_end_the_run(watched, generator):
    """Five values above the best, the last two of them lower than the third; it is over where they rise beyond it,
    also after a checkpoint."""
    told, watch = watched
    seen = []
    for weight in (1.0, 2.0, 3.0, 4.0, 3.5, 3.9, 4.1):
        told.weight = weight
        watch.look()
        seen.append(watch.over)
        state = watch.state_dict()
        watch = EarlyStopping(told, Points(watch.held_out), generator, seed=3)
        watch.load_state_dict(state)
        assert watch.over is seen[-1]
    assert seen == 6 * [False] + [True]


def test_what_an_earlier_row_rose_to_is_forgotten(watched):
    told, watch = watched
    for weight in (1.0, 9.0, 0.9, 2.0, 2.1, 2.2, 2.3):
        told.weight = weight
        watch.look()
    assert watch.rises == PATIENCE and watch.over


class Corrected(torch.nn.Module):
    """E = -log base + f, with f(x) = `slope` x_1 + `step` where x_1 > 0 and a constant."""

    def __init__(self, base):
        super().__init__()
        self.base, self.slope, self.step, self.constant = BaseLaw(base), 0.0, 0.0, 0.0

    def forward(self, x):
        return -self.base.log_prob(x) + self.slope * x[:, 0] + self.step * (x[:, 0] > 0) + self.constant


def test_the_contrast_with_the_base_is_two_log_two_less_twice_the_jensen_shannon_divergence():
    """For base N(0, 1), data N(1, 1) and the exact f = 1/2 - x, by quadrature: least of all f + c t, and blind to a
    constant in f."""
    x = torch.linspace(-12, 12, 24_001).double()
    base, data = (torch.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (0.0, 1.0))
    middle, h = (base + data) / 2, 24 / 24_000
    js = float(sum((p * (p / middle).log()).sum() for p in (base, data))) * h / 2
    g = torch.Generator().manual_seed(0)
    z = torch.randn(400_000, generator=g, dtype=torch.float64)
    f = lambda x: 0.5 - x  # noqa: E731
    found = contrast_with_base(f(z + 1), f(z), 16)
    assert abs(float(found.mean()) - (2 * math.log(2) - 2 * js)) < 4 * float(found.std()) / 4
    moved = contrast_with_base(f(z + 1) + 300, f(z) + 300, 16)
    assert torch.allclose(moved, found, atol=1e-9)
    for slope in (0.9, 1.1):
        assert contrast_with_base(slope * f(z + 1), slope * f(z), 16).mean() > found.mean()
    assert contrast_with_base(0 * z, 0 * z, 4).tolist() == pytest.approx([2 * math.log(2)] * 4)


def test_the_contrast_sees_weights_of_modes_that_a_score_does_not(generator):
    """Two modes 20 apart with the weights .5 and .5 as the base has them, and a model with .38 and .62 (step .5): its
    loss lies above that of f = 0 by about Var(f) / 4."""
    means, var = torch.tensor([[-10.0], [10.0]]), torch.ones(2, 1)
    base = MixtureBase((1,), torch.ones(2), means, torch.ones(2, 1, 1), var)
    told = Told(generator)
    told.energy = Corrected(base)
    points = Points(base.sample(20_000, generator))
    watch = EarlyStopping(told, points, generator, seed=0)
    assert watch.metric == "base_contrast"
    watch.look()
    told.energy.constant = 50.0
    assert abs(watch.rise(watch.losses())) < 1e-6 or float((watch.losses() - watch.best).abs().max()) < 1e-9
    told.energy.step = 0.5
    assert watch.rise(watch.losses()) > 3
    assert float((watch.losses() - watch.best).mean()) == pytest.approx(0.5**2 / 4 / 4, rel=0.25)


def test_the_base_is_given_up_only_for_a_step_that_is_surely_better(generator):
    """Data from the base itself, so that no f is better. f = a x for small a of either sign: the lower of the two
    losses is below that of the base by chance, and not the best. With data 1 to the right, f = -a x is."""
    base = MixtureBase((1,), torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1), torch.ones(1, 1))
    for shift, slopes in ((0.0, ()), (1.0, (-0.02, -0.2))):
        told = Told(generator)
        told.energy = Corrected(base)
        watch = EarlyStopping(told, Points(base.sample(4000, generator) + shift), generator, seed=0)
        watch.look()
        assert watch.is_best, "the base"
        first, lower, best = watch.best.clone(), False, []
        for slope in (0.02, -0.02, -0.2):
            told.energy.slope = slope
            lower |= watch.look() < float(first.mean())
            best += [slope] if watch.is_best else []
            restored = EarlyStopping(told, Points(watch.held_out), generator, seed=0)
            restored.load_state_dict(watch.state_dict())
            assert restored.beats_base(watch.best) == watch.beats_base(watch.best) == bool(best)
        assert lower and tuple(best) == slopes
        assert torch.equal(watch.best, first) == (not slopes)


@exhaustive
def test_chains_that_learn_few_points_by_heart_end_at_the_base_or_better(tmp_path):
    """100 points in 12 dimensions: pcd has no loss of its own that tells, but its energy has a base."""
    own = [o for o in FEW if not o.startswith("objective")]
    told = [*own, "objective=pcd", "energy.base=gaussian", "optim.weight_decay=0", "steps=1000"]
    runs = {
        how: ebm_lab.train([*told, f"early_stopping={how}", f"output_dir={tmp_path / how}"], quiet=True)
        for how in ("auto", "off")
    }
    ends = {how: run.summary.get("nll_above_base", math.inf) for how, run in runs.items()}  # inf: it lost the base
    assert ends["auto"] <= 3 * runs["auto"].summary["nll_above_base_se"] and ends["off"] > 0.3, ends


def losses(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["val/loss"] for line in lines if "val/loss" in line}


@pytest.mark.slow
def test_of_few_points_the_best_weights_are_kept(tmp_path):
    """100 points in 12 dimensions: the run ends early, its weights are those of the lowest held-out loss, and they are
    nearer the truth than those that all steps lead to; until it ends it takes the same steps as a run unwatched."""
    common = [*FEW, "steps=3000"]
    on = ebm_lab.train([*common, f"output_dir={tmp_path / 'on'}"], quiet=True)
    off = ebm_lab.train([*common, "early_stopping=off", f"output_dir={tmp_path / 'off'}"], quiet=True)
    assert on.summary["ended_by"] == "early_stopping" and on.summary["status"] == "finished"
    seen = losses(on.path)
    lowest = min(seen, key=lambda step: seen[step])
    assert on.summary["step"] == on.summary["best_step"] == lowest < 3000
    x = load_run(on.path).dataset.test
    gap = {}
    for name, run in (("on", on), ("off", off)):
        known = load_run(run.path)
        error = known.energy.score(x) - known.dataset.score(x)
        gap[name] = float(error.square().sum(1).mean())
    assert gap["on"] < 0.5 * gap["off"]
    windows = [[json.loads(line) for line in (r.path / "metrics.jsonl").read_text().splitlines()] for r in (on, off)]
    for mine, plain in zip(*windows, strict=False):
        assert mine["step"] == plain["step"] and mine["loss"] == plain["loss"]


def test_a_run_that_is_not_surely_better_ends_as_its_base(tmp_path, capsys):
    """Data of a Gaussian, whose fit is the base: training can add nothing, and no step counts as better."""
    few = ["dataset=gaussian", "dataset.dim=3", "dataset.train=2000", "dataset.held_out=2000", "objective=nce"]
    own = ["energy=mlp", "energy.hidden=[16]", "energy.base=gaussian", "steps=200", "checkpoint_every=50"]
    out = ["evaluation=[likelihood]", "logger=none", "compile=off", f"output_dir={tmp_path}"]
    summary = ebm_lab.train([*few, *own, *out]).summary
    assert summary["step"] == summary["best_step"] == 0 and summary["nll_above_base"] == pytest.approx(0, abs=1e-6)
    assert "not surely lower at step 200 than that of the base; the run ends with the weights of step 0" in (
        "".join(capsys.readouterr())
    )


def test_stopped_and_resumed_it_ends_as_one_that_never_stopped(tmp_path):
    part = ebm_lab.train([*FEW, "steps=120", "optim.schedule=constant", f"output_dir={tmp_path / 'b'}"], quiet=True)
    straight = [*FEW, "steps=200", "optim.schedule=constant", f"output_dir={tmp_path / 'c'}"]
    whole = ebm_lab.train(straight, quiet=True)
    resumed = ebm_lab.train([f"resume={part.path}", "steps=200"], quiet=True)
    same(state(whole.path)["early_stopping"], state(resumed.path)["early_stopping"])
    same(state(whole.path)["objective"], state(resumed.path)["objective"])


@pytest.mark.parametrize(
    ("overrides", "chosen"),
    [
        (["objective=nce"], "on"),
        (["objective=nce", "dataset.dim=2"], "off"),
        (["objective=nce", "dataset.dim=2", "early_stopping=on"], "on"),
        (["objective=nce", "early_stopping=off"], "off"),
        (["objective=pcd"], "off"),
        (["objective=pcd", "dataset.dim=2", "energy.base=gaussian"], "on"),
    ],
)
def test_auto_watches_points_of_more_than_two_dimensions_where_the_loss_can_tell(tmp_path, overrides, chosen):
    own = [o for o in FEW if not o.startswith(("objective", "optim.lr"))]
    run = ebm_lab.train([*own, "steps=1", *overrides, f"output_dir={tmp_path}"], quiet=True)
    assert yaml.safe_load((run.path / "config.yaml").read_text())["early_stopping"] == chosen


def test_a_loss_that_does_not_tell_is_refused(tmp_path):
    own = [o for o in FEW if not o.startswith("objective")]
    with pytest.raises(UserError, match="early_stopping=on: the loss of objective 'cd' does not tell"):
        ebm_lab.train([*own, "objective=cd", "early_stopping=on", f"output_dir={tmp_path}"], quiet=True)
