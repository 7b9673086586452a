"""`compile=auto`: what a step does is counted, without a trace, and decides once for a run and its resumes."""

import pytest
import torch
from torch import nn

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.interfaces import Batch, Loss, Objective
from ebm_lab.runs.assemble import assemble
from ebm_lab.training.compile import policy as worth
from ebm_lab.training.compile.policy import LEAST, Work, pays_from, settle, work
from tests.runs.test_resume import lines, same, state
from tests.training.test_compiled import POINTS, SERVED, run


class Own(Objective):
    """A loss of the weight alone, after what `also` does."""

    def __init__(self, also=lambda x: None) -> None:
        super().__init__(nn.Linear(3, 3, bias=False))
        self.also, self.count = also, 0

    def forward(self, batch):
        with torch.no_grad():
            self.also(batch.x)
        return Loss(self.energy.weight.sum(), {}, 1)


BATCH = Batch(torch.zeros(1000, 3))
MEGABYTES = 1000 * 3 * 4 / 1e6


@pytest.mark.parametrize(
    "also, calls, megabytes",
    [
        (lambda x: x.exp(), 1, MEGABYTES),
        (lambda x: [x.exp() for _ in range(5)], 5, 5 * MEGABYTES),
        (lambda x: x.double().mul_(2), 2, 4 * MEGABYTES),
        (lambda x: x[:10].T.contiguous(), 1, 10 * 3 * 4 / 1e6),  # two views, and a copy
        (lambda x: x @ torch.ones(3, 500), 2, 3 * 500 * 4 / 1e6),  # a product is counted, its result is not
    ],
)
def test_operations_and_what_they_write_are_counted_as_by_hand(also, calls, megabytes):
    bare, more = work(Own(), BATCH), work(Own(also), BATCH)
    assert more.calls - bare.calls == calls
    assert more.megabytes - bare.megabytes == pytest.approx(megabytes, rel=1e-6, abs=1e-9)


def test_twice_the_chain_steps_are_twice_the_chain_s_operations():
    def calls(steps):
        built = assemble(compose_config([*POINTS, "logger=none", "objective=mle", f"sampler.steps={steps}"]))[0]
        return work(built.state.objective, built.batches(1)[0]).calls

    one, two, three = (calls(n) for n in (20, 40, 60))
    assert three - two == two - one > 20 * 10


@pytest.mark.parametrize("name", SERVED)
def test_counting_leaves_no_trace(name, tmp_path, monkeypatch):
    """A run whose step was counted has the bits of one whose step was not."""
    straight = run(tmp_path, "a", "steps=4", "compile=off", *SERVED[name])
    seen = []
    monkeypatch.setattr(worth, "LEAST", 4)
    monkeypatch.setattr(worth, "pays_from", lambda counted: seen.append(counted) or 5.0)
    counted = run(tmp_path, "b", "steps=4", "compile=auto", *SERVED[name])
    assert len(seen) == 1 and seen[0].calls > 20
    same(state(straight.path), state(counted.path))
    assert lines(straight.path) == lines(counted.path)


def test_more_work_a_step_pays_sooner_and_more_to_compile_later():
    """As it is for images of 28 x 28 beside points; and of two steps that write as much, the one of fewer parts."""
    assert pays_from(Work(100, 400.0)) < pays_from(Work(100, 20.0)) < pays_from(Work(100, 1.0))
    assert pays_from(Work(100, 400.0)) < pays_from(Work(1000, 400.0))


@pytest.mark.parametrize(
    "steps, given, settled",
    [(999, "auto", "off"), (1000, "auto", "on"), (5, "on", "on"), (9999, "off", "off"), (5, True, "on")],
)
def test_auto_is_settled_by_steps_and_work_and_kept_for_resuming(steps, given, settled, monkeypatch):
    config = compose_config([*POINTS, "logger=none", "objective=dsm"]) | {"steps": steps, "compile": given}
    monkeypatch.setattr(worth, "pays_from", lambda counted: 1000.0)
    built, resolved = assemble(config)
    assert resolved["compile"] == settled and (built.compiled is not None) == (settled == "on")
    monkeypatch.setattr(worth, "pays_from", lambda counted: 1.0 if settled == "off" else 1e9)
    again, twice = assemble(resolved)
    assert twice["compile"] == settled and (again.compiled is not None) == (settled == "on")


def test_auto_leaves_a_step_that_is_no_fixed_graph_alone():
    def count(x):
        objective.count += 1

    objective = Own(count)
    assert not settle("auto", 10**9, objective, lambda: BATCH) and objective.count == 0
    assert settle("auto", 10**9, Own(), lambda: BATCH)


def test_a_short_run_is_not_even_looked_at(monkeypatch):
    def batch():
        looked.append(True)
        return BATCH

    looked = []
    monkeypatch.setattr(worth, "pays_from", lambda counted: 1.0)
    assert not settle("auto", LEAST - 1, Own(), batch) and not looked
    assert settle("auto", LEAST, Own(), batch) and looked
