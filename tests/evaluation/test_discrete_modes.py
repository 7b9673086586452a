"""The patterns that samples hit, and the couplings that an Ising energy has learnt, against counts by hand."""

import math

import pytest
import torch

from ebm_lab.core.eval_view import EvalView, reason_against
from ebm_lab.core.registry import build
from ebm_lab.energies.ising import Ising
from ebm_lab.evaluation._patterns import nearest, true_shares
from ebm_lab.evaluation._shares import kl, total_variation
from ebm_lab.evaluation.ising_rmse import IsingRMSE, compared
from ebm_lab.evaluation.modes import Modes
from tests.helpers import Discrete, Drift, Points


def bars(flip=0.05, size=4):
    values = {"name": "bars_and_stripes", "size": size, "flip": flip, "train": 500, "held_out": 300, "seed": 0}
    return build("dataset", values)


def view(data, energy=lambda x: x.flatten(1).sum(1) * 0, samples=None):
    seen = EvalView(energy, data, "test", None, 64, 10, torch.Generator().manual_seed(1))
    if samples is not None:
        seen.sampler, seen.count = Drift(), len(samples)
        vars(seen)["trajectory"] = [(0, samples)]
    return seen


def flipped(x, *places):
    x = x.clone().flatten(1)
    x[:, list(places)] = 1 - x[:, list(places)]
    return x.view(-1, 1, 4, 4)


def test_samples_are_counted_by_their_nearest_pattern():
    """Of ten samples five are pattern 3, two pattern 8, one is pattern 20 with a bit flipped, and two are two flips
    away from pattern 3: two patterns are found, three hit, 0.7 exact and 0.8 near."""
    data = bars()
    s = data.patterns
    x = torch.cat([s[[3] * 5], s[[8] * 2], flipped(s[[20]], 6), flipped(s[[3] * 2], 0, 5)])
    m = Modes(radius=3.0, cells=10)(view(data, samples=x)).metrics
    w = torch.zeros(30).double()
    w[[3, 8, 20]] = torch.tensor([0.7, 0.2, 0.1]).double()
    torch.testing.assert_close(nearest(x, s).mean(0), w)
    assert m["modes"] == 30 and m["modes_found"] == 2
    assert [m["modes_hit"], m["modes_exact"], m["modes_quality"]] == pytest.approx([3 / 30, 0.7, 0.8], abs=1e-12)
    truth = true_shares(view(data), s)
    assert truth is not None
    assert m["modes_kl"] == pytest.approx(kl(w, truth)) and m["modes_tv"] == pytest.approx(total_variation(w, truth))
    assert {f"modes_{k}_real" for k in ("found", "hit", "exact", "quality", "kl", "tv")} <= m.keys()


def test_ties_are_split():
    s = torch.tensor([[0.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).view(3, 1, 2, 2)
    x = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0]]).view(3, 1, 2, 2)
    assert nearest(x, s).tolist() == [[0.5, 0.5, 0], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]


def test_true_shares_are_those_of_the_law():
    """Without flips the patterns' own probabilities; with flips those of many draws, within 4 standard errors."""
    plain = bars(flip=0.0)
    torch.testing.assert_close(true_shares(view(plain), plain.patterns), plain.pattern_probabilities)
    noisy = bars(flip=0.15)
    truth, n = true_shares(view(noisy), noisy.patterns), 40_000
    drawn = nearest(noisy.law.sample(n, torch.Generator().manual_seed(3)), noisy.patterns)
    assert truth is not None and float(truth.sum()) == pytest.approx(1, abs=1e-12)
    error = drawn.std(0) / n**0.5
    assert bool(((drawn.mean(0) - truth).abs() < 4 * error).all())
    assert float((truth - noisy.pattern_probabilities).abs().max()) > 1e-3, "the flips count"


def test_the_model_s_own_shares_are_a_sum_over_all_points():
    """The data's law as the model: no divergence, and the patterns' whole probability; uniform bits: 30 / 2^16."""
    data = bars()
    m = Modes(radius=3.0, cells=10)(view(data, lambda x: -data.log_prob(x))).metrics
    assert [m["modes_density_kl"], m["modes_density_tv"]] == pytest.approx([0, 0], abs=1e-12)
    assert m["modes_density_exact"] == pytest.approx(float(data.log_prob(data.patterns).exp().sum()), abs=1e-12)
    m = Modes(radius=3.0, cells=10)(view(data)).metrics
    assert m["modes_density_exact"] == pytest.approx(30 / 2**16, abs=1e-15) and "modes_hit" not in m


def test_which_data_have_patterns():
    assert reason_against(Modes(radius=3.0, cells=10), view(bars())) is None
    line = reason_against(Modes(radius=3.0, cells=10), view(Discrete(torch.eye(30))))
    assert line == "the data are no mixture with known modes"


def chain_of_three():
    true, learnt = torch.zeros(2, 3, 3).double()
    for matrix, entries in ((true, {(0, 1): 0.2, (1, 2): -0.1}), (learnt, {(0, 1): 0.15, (1, 2): -0.04, (0, 2): 0.06})):
        for (i, j), value in entries.items():
            matrix[i, j] = matrix[j, i] = value
    return true, learnt


def test_couplings_against_a_hand_computation():
    """Errors 0.05, 0.06 and 0.06, each twice, over 9 entries; the threshold is 0.05."""
    true, learnt = chain_of_three()
    rmse = math.sqrt(2 * (0.05**2 + 0.06**2 + 0.06**2) / 9)
    m = compared(learnt, true)
    assert m["ising_rmse"] == pytest.approx(rmse) and m["ising_neg_log_rmse"] == pytest.approx(-math.log(rmse))
    assert [m["ising_edges_found"], m["ising_edges_false"]] == [0.5, 1.0]
    assert [m["ising_edge_mean"], m["ising_edge_mean_true"]] == pytest.approx([(0.15 + 0.04) / 2, 0.15])
    perfect = compared(true, true)
    assert perfect["ising_rmse"] == 0 and "ising_neg_log_rmse" not in perfect and perfect["ising_edges_found"] == 1
    whole = torch.ones(3, 3).double() - torch.eye(3)
    assert "ising_edges_false" not in compared(whole, whole)


def test_couplings_of_an_energy_and_who_is_left_out():
    data = Discrete((torch.rand(20, 3) < 0.5).float())
    energy, (true, learnt) = Ising(data, l1=0.0, support=None), chain_of_three()
    with torch.no_grad():
        energy.couplings.copy_(learnt)
    evaluation = IsingRMSE()
    assert reason_against(evaluation, view(data, energy)) == (
        "the data have no known couplings, as those of dataset=ising"
    )
    data.couplings = true  # type: ignore[attr-defined]
    report = evaluation(view(data, energy))
    assert reason_against(evaluation, view(data, energy)) is None and evaluation.silent
    assert (
        report.metrics == pytest.approx(compared(learnt, true), rel=1e-6) and report.images["couplings"].shape[0] == 3
    )
    assert reason_against(evaluation, view(data)) == "the energy has no matrix of couplings, as energy=ising has"
    data.couplings = 0 * true  # type: ignore[attr-defined]
    assert reason_against(evaluation, view(data, energy)) == "the true couplings are all 0"
    points = Points(torch.randn(9, 3))
    points.couplings = true  # type: ignore[attr-defined]
    assert "no bits" in str(reason_against(evaluation, view(points, energy)))
