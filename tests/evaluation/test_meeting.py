"""Meeting times of coupled chains whose law is known."""

import pytest
import torch

from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.evaluation.meeting import Meeting, distance_bound, survival
from tests.evaluation.test_evaluation import view
from tests.helpers import Points
from tests.objectives.test_unbiased_cd import normal, objective_of


class Meets(Sampler):
    """Both chains draw from N(0, 1), the same point with probability q; with q = None neither ever moves."""

    steps = 1

    def __init__(self, q):
        self.q = q

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        return Chain(x, {}, {}, 0)

    def couple(self, energy, x, y, state, *, generator):
        if self.q is None:
            return Chain(x, {}, {}, 0), y
        new, other = (torch.empty_like(x).normal_(generator=generator) for _ in range(2))
        same = torch.empty_like(x[:, 0]).uniform_(generator=generator) < self.q
        return Chain(new, {}, {}, 0), torch.where(same[:, None], new, other)


def report_of(objective, points, moves=200):
    seen = view(objective.energy, Points(points))
    seen.objective = objective
    evaluation = Meeting(points=10_000, moves=moves)
    assert evaluation.applies(seen) is None
    return evaluation(seen)


def test_chains_that_stay_where_they_are_meet_at_once(generator):
    """X_1 = X_0 = Y_0, so that tau = 1, and the chains' law is at no distance from that of one more move."""
    x = torch.randn(50, 1, generator=generator).double()
    report = report_of(objective_of(normal(), generator, x, Meets(None)), x)
    assert report.metrics == {"meeting_mean": 1, "meeting_mean_se": 0, "meeting_unmet": 0, "meeting_bound": 0}
    assert "meeting" in report.images


def test_chains_that_accept_one_proposal_for_both_meet_at_the_second_move(generator):
    """The model is the law of the proposals: each is accepted, X_1 is new, and X_2 = Y_1."""
    x = torch.randn(60, 1, generator=generator).double()
    objective = objective_of(normal(), generator, x, Meets(None), refresh=1)
    objective.energy = lambda_energy(objective.start)
    assert report_of(objective, x).metrics["meeting_mean"] == 2
    assert torch.equal(objective.meeting_times(x, 1, generator), torch.full((60,), 2.0).double()), "cut off at one move"


def lambda_energy(law):
    class Of(torch.nn.Module):
        def forward(self, x):
            return -law.log_prob(x)

    return Of()


@pytest.mark.parametrize("q", [0.3, 0.7])
def test_geometric_meeting_times(q, generator):
    """tau - 1 is geometric: mean 1 + 1 / q, P(tau > t) = (1 - q)^(t - 1), and the bound at t is (1 - q)^t / q."""
    n = 10_000
    x = torch.randn(n, 1, generator=generator).double()
    objective = objective_of(normal(), generator, x, Meets(q), burn_in=2, max_moves=4)
    report = report_of(objective, x)
    spread = (1 - q) ** 0.5 / q
    assert report.metrics["meeting_mean"] == pytest.approx(1 + 1 / q, abs=5 * spread / n**0.5)
    assert report.metrics["meeting_mean_se"] == pytest.approx(spread / n**0.5, rel=0.1)
    cut = (1 - q) ** 3
    assert report.metrics["meeting_unmet"] == pytest.approx(cut, abs=5 * (cut * (1 - cut) / n) ** 0.5)
    assert report.metrics["meeting_bound"] == pytest.approx((1 - q) ** 2 / q, abs=5 * spread / n**0.5)
    assert report.notes == []


def test_the_bound_is_the_published_one_at_lag_one():
    """E max(0, ceil((tau - L - t) / L)) at L = 1, and the sum of P(tau > t + j) over j >= 1."""
    tau = torch.tensor([1.0, 2.0, 5.0, 5.0])
    expected = [sum(max(0, int(v) - 1 - t) for v in tau) / 4 for t in range(7)]
    assert distance_bound(tau, 6).tolist() == pytest.approx(expected)
    apart = survival(tau, 6)
    assert apart.tolist() == pytest.approx([1, 0.75, 0.5, 0.5, 0.5, 0, 0])
    assert distance_bound(tau, 6)[0] == pytest.approx(float(apart[1:].sum()))


def test_pairs_that_never_meet_are_said_and_have_no_bound(generator):
    x = torch.randn(40, 1, generator=generator).double()
    report = report_of(objective_of(normal(), generator, x, Meets(0.0), max_moves=3), x, moves=6)
    assert report.metrics["meeting_unmet"] == 1 and report.metrics["meeting_mean"] == 7
    assert "meeting_bound" not in report.metrics and "lower bound" in report.notes[0]


def test_they_are_the_times_of_training_and_leave_its_state_alone(generator):
    x = torch.randn(200, 1, generator=generator).double()
    objective = objective_of(normal(), torch.Generator().manual_seed(3), x, refresh=1)
    objective.negatives(x)  # creates the sampler's state
    state, before = {k: v.clone() for k, v in objective.sampler_state.items()}, objective.generator.get_state()
    tau = objective.meeting_times(x, objective.max_moves, torch.Generator().manual_seed(5))
    assert torch.equal(before, objective.generator.get_state())
    assert state.keys() == objective.sampler_state.keys()
    assert all(torch.equal(state[k], v) for k, v in objective.sampler_state.items())
    objective.generator.manual_seed(5)
    metrics = objective.negatives(x).metrics
    assert float(tau.mean()) == pytest.approx(float(metrics["meeting_time"])) and float(tau.std()) > 0


def test_an_objective_without_pairs_has_no_meeting_times(generator):
    data = Points(torch.randn(9, 2, generator=generator))
    assert "no coupled chains" in str(Meeting(points=9, moves=9).applies(view(lambda x: x.sum(1), data)))
