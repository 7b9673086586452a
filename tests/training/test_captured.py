"""A step as a CUDA graph, with a recorder that needs no card: it keeps what CUDA's keeps, and runs it when launched."""

import copy

import pytest
import torch

from ebm_lab.core.interfaces import ALL_PLAYERS
from ebm_lab.training.compile import captured
from ebm_lab.training.compile.captured import Captured
from ebm_lab.training.compile.step import CompiledSteps
from tests.training.test_compiled import DECAY, POINTS, SERVED, adams, distance, trainer


@pytest.fixture
def recordings(monkeypatch):
    """Record on the CPU: nothing runs before the launch, and each launch overwrites the outputs of the one before."""
    made = []

    def record(function, warm):
        warm()
        made.append(out := Outputs(function))
        return out.launch, out

    monkeypatch.setattr(captured, "record", record)
    return made


class Outputs(list):
    """The outputs of a recorded function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def launch(self):
        found = self.function()
        if not self:
            self.extend(t.clone() for t in found)
        for kept, new in zip(self, found, strict=True):
            kept.copy_(new)


def count(total, x):
    total.add_(x)
    return [total * 2]


def test_inputs_that_persist_change_in_place_and_the_others_are_copied(recordings):
    total = torch.zeros(3)
    graph = Captured(count, [total, torch.ones(3)], 1)
    assert torch.equal(total, torch.zeros(3)), "recording runs nothing"
    x = torch.full((3,), 5.0)
    (first,) = graph(total, x)
    (second,) = graph(total, torch.ones(3))
    assert torch.equal(total, torch.full((3,), 6.0)) and torch.equal(x, torch.full((3,), 5.0))
    assert torch.equal(first, torch.full((3,), 10.0)), "the next launch must not change it"
    assert torch.equal(second, torch.full((3,), 12.0)) and len(recordings) == 1


def test_a_persistent_input_at_another_place_is_recorded_again(recordings):
    graph = Captured(count, [torch.zeros(3), torch.ones(3)], 1)
    elsewhere = torch.full((3,), 7.0)
    graph(elsewhere, torch.ones(3))
    assert torch.equal(elsewhere, torch.full((3,), 8.0)) and len(recordings) == 2


@pytest.mark.parametrize("name", ["dsm", "pcd", pytest.param("mala", marks=pytest.mark.slow)])
def test_captured_steps_are_the_eager_ones_also_after_a_checkpoint(name, recordings):
    """The traced operations run one by one, so that they differ from the eager step by a reordered sum or two."""
    overrides = [*POINTS, *SERVED[name], DECAY]
    eager, fast = trainer(*overrides, compiling=False), trainer(*overrides, compiling=False)
    state = fast.state
    fast.compiled = CompiledSteps(state.objective, state.optimisers, state.ema, fast.say, capture=True)
    for made in (eager, fast):
        made._train_step(1)
    for step in range(2, 8):
        if step == 5:
            fast.state.restore(copy.deepcopy(eager.state.content()))
        for made in (eager, fast):
            made._train_step(step)
        assert distance([s[0] for s in adams(fast)], [s[0] for s in adams(eager)]) < 1e-5
        assert distance(fast.state.ema.average, eager.state.ema.average) < 1e-5
        assert torch.equal(fast.state.generator.get_state(), eager.state.generator.get_state())
    assert fast.compiled.steps[ALL_PLAYERS].refused is None
    assert len(recordings) == 2, "at first, and after the checkpoint, whose state of Adam lies elsewhere"
