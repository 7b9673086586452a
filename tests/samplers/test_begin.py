"""Every sampler's state: it has its final form before the first step, and is saved and taken up again bit for bit."""

import io

import pytest
import torch
from torch import Tensor

from ebm_lab.cli.compose import compose_config, options
from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.interfaces import Sampler
from ebm_lab.core.registry import build
from ebm_lab.distributions.start import noise_like, start_law
from tests.energies.test_discrete import bits, known_rbm
from tests.helpers import Discrete, Drift, Points
from tests.models.test_levels import gaussian_model

NAMES = [name for name in options("sampler") if name != "none"]


def case(name: str, **settings) -> tuple[Sampler, torch.nn.Module, Tensor]:
    """(sampler, energy, chains) of the sampler's own YAML; a model of many levels is an energy too. Samplers of
    discrete data have an RBM on four bits."""
    generator = torch.Generator().manual_seed(0)
    values = {**compose_config([f"sampler={name}"])["sampler"], **settings}
    x = bits(6, 4).double()
    sampler = build("sampler", values, "sampler", scale=1.5, dataset=Discrete(x))
    assert isinstance(sampler, Sampler)
    if any(need.feature == "discrete" for need in sampler.needs):
        return sampler, known_rbm(), x
    return sampler, gaussian_model(generator)[0], torch.randn(6, 2, generator=generator).double()


def run(sampler, energy, x, state, calls, seed=3, generator=None):
    generator = generator or torch.Generator().manual_seed(seed)
    for _ in range(calls):
        x, state, _, _ = sampler(energy, x, state, generator=generator)
    return x, state, generator


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def cases():
    return [(name, {}) for name in NAMES] + [
        (n, {"mass": "diagonal", "warmup": w})
        for n in ("mala", "hmc", "barker", "adjusted_mclmc", "nuts")
        for w in (None, 7)
    ]


every = pytest.mark.parametrize(
    "name, settings", cases(), ids=lambda v: v if isinstance(v, str) else str(sorted(v.items()))
)


@every
def test_a_state_has_its_final_form_before_the_first_step(name, settings):
    sampler, energy, x = case(name, **settings)
    begun = sampler.begin(energy, x, torch.Generator().manual_seed(3))
    assert type(begun) is dict and all(isinstance(value, Tensor) for value in begun.values())
    _, after, _ = run(sampler, energy, x, begun, 2)
    assert list(begun) == list(after)
    assert [(v.shape, v.dtype) for v in begun.values()] == [(v.shape, v.dtype) for v in after.values()]


@every
def test_a_call_from_a_begun_state_is_the_call_from_an_empty_one(name, settings):
    sampler, energy, x = case(name, **settings)
    x_empty, state_empty, _ = run(sampler, energy, x, {}, 3)
    generator = torch.Generator().manual_seed(3)
    begun = sampler.begin(energy, x, generator)
    x_begun, state_begun, _ = run(sampler, energy, x, begun, 3, generator=generator)
    assert torch.equal(x_empty, x_begun) and equal(state_empty, state_begun)


@every
def test_a_chain_taken_up_from_a_file_goes_on_as_if_unbroken(name, settings):
    sampler, energy, x = case(name, **settings)
    whole, whole_state, _ = run(sampler, energy, x, {}, 4)
    half, state, generator = run(sampler, energy, x, {}, 2)
    file = io.BytesIO()
    torch.save({"x": half, "state": state, "generator": generator.get_state()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    generator = torch.Generator()
    generator.set_state(saved["generator"])
    end, end_state, _ = run(sampler, energy, saved["x"], saved["state"], 2, generator=generator)
    assert torch.equal(whole, end) and equal(whole_state, end_state)


@pytest.mark.parametrize("name", ["underdamped", "tempering", "mclmc", "replica_exchange", "gibbs"])
def test_a_batch_of_another_size_begins_what_belongs_to_each_chain(name):
    sampler, energy, x = case(name)
    _, state, generator = run(sampler, energy, x, {}, 1)
    few, after, _ = run(sampler, energy, x[:4], state, 1, generator=generator)
    assert few.shape == x[:4].shape and list(after) == list(state)


# --- where chains begin -------------------------------------------------------------------------------------------


class Own(Points):
    """A data set that says where chains begin."""

    @property
    def start(self):
        return noise_like(Points(self.train + 100))


class Older(Drift):
    """A plugin's sampler of before: `start` is given the data set too."""

    def start(self, energy, dataset):  # pyright: ignore[reportIncompatibleMethodOverride]
        return noise_like(Points(dataset.train - 100))


def middle(sampler, data):
    view = EvalView(lambda x: x.sum(1), data, "test", sampler, 50, 3, torch.Generator().manual_seed(0))
    view.start = start_law(data)
    return float(view.trajectory[0][1].mean())


def test_chains_begin_where_the_sampler_says_else_the_data_set_else_at_noise_like_the_data(generator):
    x = torch.randn(200, 2, generator=generator)
    assert middle(Drift(), Points(x)) == pytest.approx(0, abs=1)
    assert middle(Drift(), Own(x)) == pytest.approx(100, abs=1)
    assert middle(Older(), Own(x)) == pytest.approx(-100, abs=1)
