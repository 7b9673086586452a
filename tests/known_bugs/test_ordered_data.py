"""The kind: the first rows of data that may be stored in order, by class or by size, stand for all of them."""

import ast
from pathlib import Path

import pytest
import torch

import ebm_lab
from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import row_order, subset
from ebm_lab.core.registry import build
from ebm_lab.distributions.bandwidth import distinct
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.distributions.noise import fit_noise
from ebm_lab.evaluation.ais import fit_base
from ebm_lab.evaluation.c2st import C2ST
from ebm_lab.evaluation.classifier import Classifier
from ebm_lab.evaluation.ksd import KSD
from ebm_lab.evaluation.longrun import LongRun
from ebm_lab.evaluation.mmd import MMD
from ebm_lab.evaluation.modes import Modes
from ebm_lab.evaluation.prdc import PRDC
from ebm_lab.evaluation.samples import Samples
from ebm_lab.evaluation.sm_loss import ScoreMatchingLoss
from ebm_lab.models.ladder import largest_distance

MIXTURE = GaussianMixture(
    torch.tensor([0.5, 0.5]).double(), torch.tensor([[-4.0, 0.0], [4.0, 0.0]]).double(), torch.ones(2, 1).double()
)
N = 6000


def draw(n, seed):
    return MIXTURE.sample(n, torch.Generator().manual_seed(seed)).float()


class Ordered(Dataset):
    """Two modes, one after the other in each split."""

    def __init__(self, arrange):
        self.train, self.val, self.test = (arrange(draw(N, seed)) for seed in (1, 2, 3))
        self.mixture = MIXTURE


def by_mode(x):
    return x[x[:, 0].argsort()]


def energy(x):
    return -MIXTURE.log_prob(x.double()).float()


def view(arrange, count=300):
    """Of samples that are perfect: fresh draws of the same law."""
    seen = EvalView(energy, Ordered(arrange), "test", object(), count, 1, torch.Generator().manual_seed(0))  # pyright: ignore
    vars(seen)["trajectory"] = [(0, draw(count, 8)), (1, draw(count, 9))]
    return seen


def numbers(evaluation, arrange=by_mode):
    return evaluation(view(arrange)).metrics


def test_a_subset_is_drawn_always_alike_and_leaves_few_rows_as_they_are():
    x, y = torch.arange(1000.0)[:, None], torch.arange(1000)
    part = subset(x, 100)
    assert torch.equal(part, subset(x, 100)) and len(part.unique()) == 100
    assert torch.equal(part[:, 0].long(), subset(y, 100)), "labels stay with their points"
    assert abs(float(part.mean()) - 499.5) < 4 * 288.7 / 100**0.5, "100 of 0 .. 999, within 4 standard errors"
    assert subset(x, 1000) is x and subset(x, 2000) is x and row_order(5).sort().values.tolist() == [0, 1, 2, 3, 4]
    before = torch.random.get_rng_state()
    subset(x, 10)
    assert torch.equal(before, torch.random.get_rng_state())


def test_mmd_of_perfect_samples_and_of_real_data_is_near_zero():
    found = numbers(MMD(widths=[0.5, 1.0], points=300))
    assert abs(found["mmd2"]) < 4 * found["mmd2_floor_std"] > abs(found["mmd2_floor"])
    assert found["mmd2_p"] > 1e-2


def test_c2st_can_not_tell_perfect_samples_from_data():
    """0.5 within 4 standard errors of 600 guesses."""
    found = numbers(C2ST(width=0.5, ridge=0.3, folds=5, permutations=10, points=300))
    for name in ("c2st_accuracy", "c2st_accuracy_floor"):
        assert abs(found[name] - 0.5) < 4 * 0.5 / 600**0.5, name


def test_prdc_sees_both_modes_in_the_data():
    found = numbers(PRDC(neighbours=5, points=300))
    assert min(found[f"prdc_{n}{s}"] for n in ("precision", "recall") for s in ("", "_real")) > 0.85


def test_the_real_modes_have_their_weights():
    """Both are hit, and the weights of 300 points are within 4 standard errors of one half."""
    found = numbers(Modes(radius=3.0, cells=50))
    assert found["modes_hit_real"] == 1.0 and found["modes_tv_real"] < 4 * 0.5 / 300**0.5


def test_ksd_and_score_losses_do_not_hang_on_the_order_of_the_rows():
    """Ordered against as they were drawn: means over other points, within 4 standard errors or 15 %."""
    ksd = KSD(widths=[1.0], points=300, bootstraps=10)
    floors = [numbers(ksd, arrange)["ksd2_samples_floor"] for arrange in (by_mode, lambda x: x)]
    assert floors[0] == pytest.approx(floors[1], rel=0.15), "the kernel's width is the median distance of both modes"
    loss = ScoreMatchingLoss(exact_dim=4, projections=1, points=500)
    ordered, random = (numbers(loss, arrange) for arrange in (by_mode, lambda x: x))
    assert abs(ordered["sm_loss"] - random["sm_loss"]) < 4 * 2**0.5 * ordered["sm_loss_se"]
    assert ordered["sm_loss_noise"] == pytest.approx(random["sm_loss_noise"], rel=0.3)


def test_the_energy_of_the_data_is_that_of_all():
    """More than 4,096 held-out points, of an energy that rises with x: 0 on average, -3.5 in the first mode."""
    seen = view(by_mode)
    seen.energy = lambda x: x[:, 0]
    report = Samples(shown=10, frames=3)(seen)
    assert abs(report.metrics["e_data"]) < 4 * 17**0.5 / 4096**0.5


def test_the_reference_of_long_runs_has_both_modes():
    kernel = {"name": "langevin", "steps": 1, "step_size": 0.1, "noise_scale": 1.0, "clip_grad": None}
    kernel = build("sampler", kernel, scale=1.0)
    longrun = LongRun(multiples=[1], chains=100, max_steps=1, tolerance=1.0, widths=[1.0], kernel=kernel)
    data, _ = longrun._reference(view(by_mode))
    assert abs(float(data[:, 0].mean())) < 4 * 17**0.5 / 1000**0.5


def test_a_classifier_knows_all_classes():
    x, y = torch.randn(400, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) // 100
    model = Classifier(confident=0.5, hidden=4, points=100, passes=100)._fit(x, y)
    assert model.classes_.tolist() == [0, 1, 2, 3]
    again, other = (Classifier(confident=0.9, hidden=h, points=100, passes=100)._fit(x.clone(), y) for h in (4, 5))
    assert again is model and other is not model, "the same data and settings are fitted once a process"
    assert Classifier(confident=0.5, hidden=4, points=100, passes=100)._fit(x + 1, y) is not model


def test_the_largest_distance_is_that_between_the_modes():
    assert largest_distance(by_mode(draw(N, 1)), points=1000) > 9
    assert largest_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])) == 5.0


def test_the_rows_that_a_bandwidth_is_chosen_by_are_of_both_modes():
    assert abs(float((distinct(by_mode(draw(N, 1)), 500)[:, 0] > 0).float().mean()) - 0.5) < 4 * 0.5 / 500**0.5


def test_the_base_of_annealed_importance_sampling_and_a_mixture_s_noise_cover_both_modes(generator):
    """More rows than the 20,000 and 10,000 that they look at; the variance along x is 1 + 4^2."""
    x = by_mode(draw(50_000, 1))
    data = Ordered(by_mode)
    data.train = x
    factor = fit_base(energy, data, "covariance", 1e-6).factor
    assert float((factor @ factor.T)[0, 0]) == pytest.approx(17, rel=0.05)
    noise = fit_noise("mixture", x, 2, 1.0, 0.0, generator)
    assert isinstance(noise, GaussianMixture)
    assert sorted(noise.means[:, 0].tolist()) == pytest.approx([-4.0, 4.0], abs=0.1)


def first_rows(path):
    """Slices [:n] and [-n:] of a split of a data set, in the source."""
    splits = {"held_out", "train", "val", "test", "outside", "held"}
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice)):
            continue
        inner = {getattr(n, "attr", getattr(n, "id", None)) for n in ast.walk(node.value)}
        low, high = node.slice.lower, node.slice.upper
        one = isinstance(high, ast.Constant) and high.value in (1, 2)
        end = (low is None and high is not None) or isinstance(low, ast.UnaryOp)
        if inner & splits and end and not one:
            yield f"{path.name}:{node.lineno}: {ast.unparse(node)}"


def test_no_evaluation_takes_the_first_rows_of_a_split():
    """One row or two, to try something out, are no sample of the data; `max_train` says that it takes the first."""
    root = Path(ebm_lab.__file__).parent
    parts = ("evaluation", "core", "compare", "objectives", "energies", "training")
    files = [p for part in parts for p in sorted((root / part).rglob("*.py"))]
    assert len(files) > 80 and [line for p in files for line in first_rows(p)] == []
