"""Energies with labels: marginal, logits and conditioned energy against each other and against Bayes' theorem."""

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.derived import Guided
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad, score
from ebm_lab.core.interfaces import Energy
from ebm_lab.core.registry import parse
from ebm_lab.models.labelled import FiLM, class_count
from tests.helpers import Points


def labelled(name, condition, *, base="none", seed=0, generator=None):
    torch.manual_seed(seed)
    images = not name.endswith("mlp")
    x = torch.rand(90, 1, 8, 8) if images else torch.randn(90, 2)
    data = Points(x, (0.0, 1.0) if images else None)
    data.labels = dict.fromkeys(("train", "val", "test"), torch.arange(90) % 3)
    values = compose_config([f"dataset={'digits' if images else 'two_moons'}", f"energy={name}"])["energy"]
    small = {"channels": [4, 8]} if images else {"hidden": [16, 16]}
    chosen = {"condition": condition} if condition else {}
    energy = parse("energy", {**values, **small, **chosen, "base": base}).build(dataset=data).double()
    return energy, x[:5].double()


def stirred(energy):
    """The energy with every parameter moved, so that nothing that begins at zero stays there."""
    with torch.no_grad():
        for p in energy.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return energy


KINDS = [(n, c) for n in ("labelled_mlp", "labelled_conv", "labelled_resnet") for c in ("logits", "embedding")]


@pytest.mark.parametrize(("name", "condition"), KINDS)
def test_marginal_logits_and_conditioned_energy_agree(name, condition):
    energy, x = labelled(name, condition)
    stirred(energy)
    logits = energy.logits(x)
    assert logits.shape == (5, 3) and float(logits.detach().softmax(1).std(1).min()) > 1e-3
    torch.testing.assert_close(energy(x), -logits.logsumexp(1))
    for y in (torch.tensor([0, 1, 2, 1, 0]), torch.full((5,), 2)):
        torch.testing.assert_close(energy.given(y=y)(x), -logits.gather(1, y[:, None])[:, 0])
        torch.testing.assert_close(energy(x, y), energy.given(y=y)(x))
    torch.testing.assert_close(energy.class_scores(x).log_softmax(1), logits.log_softmax(1))


@pytest.mark.parametrize(("name", "condition"), KINDS)
def test_the_marginal_s_score_is_the_posterior_mean_of_the_classes_scores(name, condition):
    """grad log p(x) = sum_y p(y | x) grad log p(x | y): theory of the log of a sum."""
    energy, x = labelled(name, condition)
    stirred(energy)
    weights = energy.logits(x).softmax(1)
    each = [score(energy.given(y=torch.full((5,), y)), x) for y in range(3)]
    mean = sum(weights[:, y].view(-1, *[1] * (x.ndim - 1)) * s for y, s in enumerate(each))
    torch.testing.assert_close(score(energy, x), mean)


def test_the_energy_of_three_logits_in_closed_form():
    """f = (.5 x, .3 - .2 x^2, .1 x - 1) at x = .7: E = -1.1110247, gradient -.1337665."""

    class Three(Energy):
        def logits(self, x, sigma=None):
            return torch.cat([0.5 * x, 0.3 - 0.2 * x**2, 0.1 * x - 1], 1)

        def forward(self, x, y=None):
            return -self.logits(x).logsumexp(1)

    e, grad = energy_and_grad(Three(), torch.tensor([[0.7]]).double())
    assert float(e) == pytest.approx(-1.1110247, abs=5e-8) and float(grad) == pytest.approx(-0.1337665, abs=5e-8)


@pytest.mark.parametrize("condition", ["logits", "embedding"])
@pytest.mark.parametrize("base", ["gaussian", "mixture"])
def test_with_a_base_the_marginal_begins_at_it(condition, base):
    energy, x = labelled("labelled_mlp", condition, base=base)
    far = torch.cat([x, 5 * x])
    torch.testing.assert_close(energy(far), -energy.base.log_prob(far), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(energy.logits(far).softmax(1), torch.full((10, 3), 1 / 3).double())


def test_film_shifts_and_scales_the_channels_of_each_row_s_class():
    film = FiLM(2, 3)
    h = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(film(h, torch.tensor([0, 1, 1, 0])), h)
    with torch.no_grad():
        film.table.copy_(torch.arange(12.0).view(2, 6))
    scale, shift = torch.tensor([6.0, 7.0, 8.0]), torch.tensor([9.0, 10.0, 11.0])
    expected = (1 + scale)[:, None, None] * h[1] + shift[:, None, None]
    torch.testing.assert_close(film(h, torch.tensor([0, 1, 1, 0]))[1], expected)


def with_labels(train, test=(0, 1), names=None):
    data = Points(torch.randn(len(train), 2))
    data.labels = {"train": torch.tensor(train), "val": torch.tensor([0]), "test": torch.tensor(test)}
    data.class_names = names
    return data


def test_classes_are_counted_over_all_splits():
    assert class_count(with_labels([0, 1, 2, 2])) == 3


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (with_labels([0, 1, -1]), "the labels of 'train' must be whole numbers from 0, and hold -1"),
        (with_labels([0.5, 1.0]), "the labels of 'train' must be whole numbers from 0"),
        (with_labels([0, 1, 1], (0, 2)), "class 2 has no training point; leave it out, for example by dataset.classes"),
        (with_labels([0, 1, 1], names=["a", "b", "c"]), "class 'c' has no training point"),
        (with_labels([0, 1, 3], names=["a", "b", "c"]), "there are 3 class names, and a label 3: allowed are 0 to 2"),
        (with_labels([0, 0], (0, 0)), "all training points are of one class"),
        (Points(torch.randn(3, 2)), "the data have no class labels"),
    ],
)
def test_labels_that_number_no_classes_are_refused_in_one_line(data, line):
    with pytest.raises(UserError) as error:
        class_count(data)
    assert line in str(error.value) and "\n" not in str(error.value)


def levelled(name):
    energy, x = labelled(name, None)
    return stirred(energy), x


@pytest.mark.parametrize("name", ["labelled_noise_mlp", "labelled_noise_conv"])
def test_classes_at_every_level_agree_with_the_marginal_there(name):
    energy, x = levelled(name)
    for sigma in (None, energy.ladder.sigma_max, torch.linspace(0.1, 1.0, 5).double()):
        logits, y = energy.logits(x, sigma), torch.tensor([0, 1, 2, 1, 0])
        torch.testing.assert_close(energy.given(sigma=sigma)(x), -logits.logsumexp(1))
        torch.testing.assert_close(energy.given(y=y, sigma=sigma)(x), -logits.gather(1, y[:, None])[:, 0])
        weights = logits.softmax(1)
        assert float(weights.detach().std(1).min()) > 1e-4
        each = [energy.given(y=torch.tensor(c), sigma=sigma) for c in range(3)]
        mean = sum(weights[:, c].view(-1, *[1] * (x.ndim - 1)) * score(e, x) for c, e in enumerate(each))
        torch.testing.assert_close(score(energy.given(sigma=sigma), x), mean)


@pytest.mark.parametrize("name", ["labelled_mlp", "labelled_noise_mlp"])
def test_guidance_adds_the_log_posterior_of_the_class(name):
    energy, x = labelled(name, "logits") if name == "labelled_mlp" else levelled(name)
    stirred(energy)
    guided, y = Guided(energy, torch.tensor(1), 1.7), torch.tensor(1)
    expected = energy.given(y=y)(x) - 1.7 * energy.logits(x).log_softmax(1)[:, 1]
    torch.testing.assert_close(guided(x), expected)
    torch.testing.assert_close(guided.score(x), -energy_and_grad(guided, x)[1])
    if name == "labelled_noise_mlp":
        sigma = energy.ladder.sigma_max
        expected = energy.given(y=y, sigma=sigma)(x) - 1.7 * energy.logits(x, sigma).log_softmax(1)[:, 1]
        torch.testing.assert_close(guided.given(sigma=sigma)(x), expected)
        torch.testing.assert_close(guided.score(x, sigma), score(guided.given(sigma=sigma), x))
        assert guided.ladder is energy.ladder
