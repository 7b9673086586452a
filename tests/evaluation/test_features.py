"""Distances between images in a classifier's features, against closed forms; the files that keep the classifier."""

import os
import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from ebm_lab.cli.compose import compose_config
from ebm_lab.core import files
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.random import subset
from ebm_lab.core.registry import build
from ebm_lab.distributions.principal_mixture import MixtureSettings, principal_mixture
from ebm_lab.evaluation.feature_fid import FeatureFID
from ebm_lab.evaluation.fid import FID, fids
from ebm_lab.statistics.frechet import feature_distance, frechet_distance, moments, polynomial_mmd2, subset_mmd2
from tests.helpers import Points, covariance, exact_sample

QUICK = ["evaluation.feature_fid.network.steps=20", "evaluation.feature_fid.mixture.iterations=3"]


@pytest.fixture(scope="module")
def digits():
    from ebm_lab.datasets.digits import Digits

    return Digits(val=0.15, test=0.15, seed=0, classes=None)


def feature_fid(data, folder, *overrides) -> FeatureFID:
    values = compose_config(["evaluation=[feature_fid]", *overrides])["evaluation"]["feature_fid"]
    return build("evaluation", values, "evaluation.feature_fid", dataset=data, output_dir=str(folder))


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    evaluation = feature_fid(digits, tmp_path_factory.mktemp("features"))
    evaluation.prepare()
    return evaluation


def view_of(data, samples, **more):
    """An evaluation's view of a run that drew `samples`."""
    generator = torch.Generator().manual_seed(0)
    view = EvalView(lambda x: x.sum(), data, "test", object(), len(samples), 1, generator, **more)  # pyright: ignore
    view.__dict__["trajectory"] = [(0, samples)]
    return view


# the distances


def test_frechet_distance_of_commuting_covariances():
    """|m - m'|^2 + sum (sqrt a_i - sqrt b_i)^2 for covariances of the same eigenvectors."""
    q, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    a, b = torch.tensor([1.0, 2.0, 3.0, 0.5]).double(), torch.tensor([4.0, 1.0, 0.3, 0.1]).double()
    m = torch.tensor([1.0, -2.0, 0.0, 0.5]).double()
    found = frechet_distance(m, q * a @ q.T, torch.zeros(4).double(), q * b @ q.T)
    assert found == pytest.approx(float(m.square().sum() + (a.sqrt() - b.sqrt()).square().sum()), abs=1e-10)


def test_frechet_distance_of_covariances_that_do_not_commute(generator):
    """With C' = T C T, T symmetric and positive: T is the optimal map, and tr (C C')^(1/2) = tr(T C)."""
    c, t, m = covariance(5, generator), covariance(5, generator), torch.randn(5, generator=generator).double()
    assert float((c @ t - t @ c).abs().max()) > 0.1
    expected = m.square().sum() + c.trace() + (t @ c @ t).trace() - 2 * (t @ c).trace()
    for first, second in ((c, t @ c @ t), (t @ c @ t, c)):
        found = frechet_distance(m, first, torch.zeros(5).double(), second)
        assert found == pytest.approx(float(expected), abs=1e-10)


def test_feature_distance_is_that_of_the_fitted_moments(generator):
    """Points of moments that are exact: mean and (1/n) covariance; the unbiased one is n / (n - 1) times it."""
    n, m, c, t = 50, torch.randn(3, generator=generator).double(), covariance(3, generator), covariance(3, generator)
    x, y = exact_sample(m, c, n, generator), exact_sample(torch.zeros(3).double(), t @ c @ t, n, generator)
    assert torch.allclose(moments(x)[1], c * n / (n - 1), atol=1e-12)
    spread = c.trace() + (t @ c @ t).trace() - 2 * (t @ c).trace()
    assert feature_distance(x, y) == pytest.approx(float(m.square().sum() + n / (n - 1) * spread), abs=1e-10)


def test_fewer_points_than_dimensions_do_no_harm(generator):
    """Singular covariances: of a cloud with itself 0, shifted |shift|^2, against itself doubled tr C."""
    x = torch.randn(4, 30, generator=generator).double()
    assert feature_distance(x, x) == pytest.approx(0.0, abs=1e-5)  # the root of a float error of 1e-15 times 30
    assert feature_distance(x, x + 0.5) == pytest.approx(30 * 0.25, abs=1e-5)
    _, c = moments(x)
    zero = torch.zeros(30).double()
    assert frechet_distance(zero, c, zero, 4 * c) == pytest.approx(float(c.trace()), abs=1e-5)


def third_moments(m):
    """E[x_i x_j x_k] of N(m, I)."""
    eye = torch.eye(len(m)).double()
    mixed = torch.einsum("i,jk->ijk", m, eye)
    return torch.einsum("i,j,k->ijk", m, m, m) + mixed + mixed.permute(1, 0, 2) + mixed.permute(1, 2, 0)


def mean_kernel(a, b):
    """E (x . y / d + 1)^3 of x ~ N(a, I) and y ~ N(b, I), independent: the binomial expansion, term by term."""
    d, eye = len(a), torch.eye(len(a)).double()
    second = ((eye + a.outer(a)) * (eye + b.outer(b))).sum()
    return (third_moments(a) * third_moments(b)).sum() / d**3 + 3 * second / d**2 + 3 * a @ b / d + 1


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_kernel_distance_is_unbiased(shift, generator):
    """The mean over 200 repetitions lies within 4 standard errors of the closed form, 0 under the null; a biased
    estimate (the diagonals counted) is too large by about (E k(x, x) - E k(x, x')) 2 / n = 1, twenty times that."""
    a, b = torch.zeros(2).double(), torch.tensor([shift, -shift]).double()
    expected = float(mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b))
    draw = lambda m, n: m + torch.randn(n, 2, generator=generator, dtype=torch.float64)  # noqa: E731
    values = torch.tensor([polynomial_mmd2(draw(a, 30), draw(b, 40)) for _ in range(200)])
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / 200**0.5
    assert (expected == pytest.approx(0, abs=1e-12)) if shift == 0 else expected > 0.5


def test_the_mathematics_is_that_of_torchmetrics(generator):
    """Both distances, against a well-kept library's."""
    from torchmetrics.image.kid import poly_mmd

    x, y = torch.randn(40, 6, generator=generator).double(), 1 + torch.randn(40, 6, generator=generator).double()
    assert polynomial_mmd2(x, y) == pytest.approx(float(poly_mmd(x, y)), abs=1e-10)


def test_subsets_of_everything_are_everything(generator):
    x, y = torch.randn(20, 3, generator=generator), torch.randn(20, 3, generator=generator)
    mean, deviation = subset_mmd2(x, y, 5, 100, generator)
    assert mean == pytest.approx(polynomial_mmd2(x.double(), y.double()), abs=1e-10)
    assert deviation == pytest.approx(0, abs=1e-10)
    mean, deviation = subset_mmd2(x, y, 400, 10, generator)  # unbiased again: the mean over subsets is the whole
    assert abs(mean - polynomial_mmd2(x.double(), y.double())) < 4 * deviation / 400**0.5


# the features


def test_the_classifier_knows_the_digits_and_its_features_are_standardised(trained, digits):
    (net, _), notes = trained.prepare()
    assert net.accuracy(digits.test, digits.labels["test"]) > 0.94 and not notes
    z = net.features(digits.train)
    assert z.dtype == torch.float64 and float(z.mean(0).abs().max()) < 1e-4
    assert float(z.var(0).mean()) == pytest.approx(1, abs=1e-4)


def test_feature_fid_of_real_images_is_near_its_floor_and_grows_with_noise(trained, digits):
    """Validation images in place of samples: the same law as the floor's test images. Noise of growing size makes every
    one of the numbers grow; the mixture of Gaussians lies between the floor and noise."""
    found = []
    for level in (0.0, 0.2, 0.4, 0.8, 1.6):
        noise = torch.randn(digits.val.shape, generator=torch.Generator().manual_seed(3))
        found.append(trained(view_of(digits, digits.val + level * noise)).metrics)
    real = found[0]
    assert 0.5 < real["feature_fid"] / real["feature_fid_floor"] < 2
    assert abs(real["feature_kid"]) < 4 * real["feature_kid_std"]
    for name in ("feature_fid", "feature_kid"):
        values = [metrics[name] for metrics in found]
        assert all(a < b for a, b in pairwise(values)), values
    assert found[-1]["feature_fid"] > 5 * real["feature_fid_floor"]
    assert real["feature_fid_floor"] < real["feature_fid_mixture"] < real["feature_fid_noise"]
    assert real["feature_kid_floor"] < real["feature_kid_mixture"] < real["feature_kid_noise"]
    for name in ("feature_density", "feature_coverage"):
        values = [metrics[name] for metrics in found]
        assert all(a >= b for a, b in pairwise(values)) and values[-1] < 0.3 * values[0], values
        assert abs(real[name] - real[f"{name}_floor"]) < 0.1 > real[f"{name}_noise"]


def test_the_number_names_its_count_its_clamping_and_its_weights(trained, digits):
    """No more samples than there are held-out images, for the floor is taken at the same number; pixels are clamped."""
    many = torch.cat([digits.train[:400]] * 2)
    report = trained(view_of(digits, many, averaged=False))
    assert report.metrics["feature_samples"] == len(digits.test) < len(many)
    assert "270 samples of the raw weights, clamped to [-1, 1]" in report.notes[0]
    white = 2 * (digits.val > 0).float() - 1
    outside = trained(view_of(digits, 3 * white)).metrics
    assert outside["feature_fid"] == pytest.approx(trained(view_of(digits, white)).metrics["feature_fid"], rel=1e-9)


def test_two_samples_are_enough_and_one_is_refused(trained, digits):
    report = trained(view_of(digits, digits.val[:2]))
    assert all(value == value and abs(value) < 1e9 for value in report.metrics.values())
    assert "two images" in str(trained.applies(view_of(digits, digits.val[:1])))


@pytest.mark.parametrize("what", ["no sampler", "points", "no labels"])
def test_what_it_says_nothing_about(trained, digits, what):
    view = view_of(digits if what == "no sampler" else Points(torch.zeros(4, 1, 8, 8), (-1.0, 1.0)), digits.val)
    if what == "points":
        view = view_of(Points(torch.zeros(4, 2)), digits.val)
    if what == "no sampler":
        view.sampler = None
    assert ("no sampler" if what == "no sampler" else "not labelled images") in str(trained.applies(view))


# the baseline


def test_the_mixture_has_the_moments_of_the_data(digits, tmp_path):
    """Each step of EM gives the mixture the data's mean and covariance on the components, the ridge added."""
    settings = MixtureSettings(components=3, dimensions=6, iterations=5, ridge=1e-3, seed=0)
    mixture, kept = principal_mixture(digits, settings, tmp_path)
    assert kept.made
    x = digits.train.flatten(1).double()
    assert torch.allclose(mixture.mean, x.mean(0), atol=1e-6)
    values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
    law, w = mixture.law, mixture.law.weights[:, None]
    assert torch.allclose((w * law.means).sum(0), torch.zeros(6).double(), atol=1e-5)
    total = (w[..., None] * (law.covariances + law.means[:, :, None] * law.means[:, None, :])).sum(0)
    assert torch.allclose(total, torch.diag(values.flip(0)[:6]) + 1e-3 * torch.eye(6).double(), atol=1e-5)
    inside = (mixture.basis @ vectors.flip(1)[:, :6]).square().sum()  # the same subspace: 6 unit vectors within it
    assert float(inside) == pytest.approx(6, abs=1e-6)
    samples = mixture.sample(2000, torch.Generator().manual_seed(0))
    assert samples.shape == (2000, 1, 8, 8) and float(samples.abs().max()) <= 1
    free = replace(mixture, bounds=(-9.0, 9.0)).sample(20_000, torch.Generator().manual_seed(0)).flatten(1).double()
    error = (x @ mixture.basis.T @ mixture.basis).std(0) / 20_000**0.5
    assert ((free.mean(0) - x.mean(0)).abs() < 5 * error + 1e-3).all()
    u = mixture.law.sample(20_000, torch.Generator().manual_seed(0))
    assert torch.allclose(u.var(0), total.diagonal(), rtol=4 * (2 / 20_000) ** 0.5 * 1.5)


# the files


def test_a_file_is_found_again_and_a_changed_setting_makes_another(digits, tmp_path):
    first = feature_fid(digits, tmp_path, *QUICK)
    (net, mixture), notes = first.prepare()
    assert len(notes) == 2 and "classifier trained in" in notes[0] and "mixture of Gaussians fitted in" in notes[1]
    (again, same), notes = feature_fid(digits, tmp_path, *QUICK).prepare()
    assert not notes and torch.equal(net.features(digits.test), again.features(digits.test))
    assert torch.equal(mixture.law.means, same.law.means)
    assert len(list((tmp_path / "features").iterdir())) == 2
    (other, _), notes = feature_fid(digits, tmp_path, *QUICK, "evaluation.feature_fid.network.seed=1").prepare()
    assert len(notes) == 1 and not torch.equal(net.features(digits.test), other.features(digits.test))
    _, notes = feature_fid(digits, tmp_path, *QUICK, "evaluation.feature_fid.mixture.components=4").prepare()
    assert len(notes) == 1 and len(list((tmp_path / "features").iterdir())) == 4


def test_other_data_make_another_file(digits, tmp_path):
    """Another split of the same size, and the same images with one label changed."""
    from ebm_lab.datasets.digits import Digits

    feature_fid(digits, tmp_path, *QUICK).prepare()
    relabelled = Digits(val=0.15, test=0.15, seed=0, classes=None)
    assert relabelled.labels
    relabelled.labels["train"][0] = (relabelled.labels["train"][0] + 1) % 10
    for data in (Digits(val=0.15, test=0.15, seed=1, classes=None), relabelled):
        _, notes = feature_fid(data, tmp_path, *QUICK).prepare()
        assert len(notes) == 2


def test_training_gives_the_same_bits_again(digits, tmp_path):
    """Whatever torch's global generator has been used for."""
    found = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(feature_fid(digits, tmp_path / str(seed), *QUICK).prepare()[0][0].features(digits.test))
    assert torch.equal(*found)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


@pytest.mark.parametrize("fault", ["truncated", "empty", "foreign", "pickled code", "another identity"])
def test_a_file_that_cannot_be_trusted_is_made_anew_and_told(fault, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    identity, made = {"seed": 0, "channels": [1, 2]}, []

    def make():
        made.append(1)
        return {"x": torch.arange(1000.0)}

    path = files.cache(tmp_path, "net", identity, make).path
    whole = path.read_bytes()
    if fault == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "foreign":
        torch.save([1, 2], path)
    elif fault == "pickled code":
        path.write_bytes(pickle.dumps(Trap(), protocol=2))
    else:
        torch.save({"identity": "{}", "content": {"x": torch.zeros(3)}}, path)
    kept = files.cache(tmp_path, "net", identity, make)
    assert len(made) == 2 and kept.made and torch.equal(kept.content["x"], torch.arange(1000.0))
    assert len(kept.notes) == 1 and "\n" not in kept.notes[0] and "recomputed" in kept.notes[0]
    assert not (tmp_path / "sprung").exists()
    assert not files.cache(tmp_path, "net", identity, make).made and not list(tmp_path.glob("*.tmp"))


def test_a_write_that_breaks_off_leaves_no_file(tmp_path, monkeypatch):
    def broken(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(UserError, match=r"net_.*\.pt: can't be written \(No space left on device\)"):
        files.cache(tmp_path, "net", {}, dict)
    assert not list(tmp_path.glob("*.pt"))


# the command


def test_the_command_trains_once_and_says_how_good_it_is(tmp_path, capsys):
    from ebm_lab.cli.features import features

    arguments = ["dataset=digits", "threads=1", f"output_dir={tmp_path}", *QUICK]
    features(arguments)
    out = capsys.readouterr().out
    assert "classifier trained in" in out and "accuracy on digits: val 0." in out
    features(arguments)
    out = capsys.readouterr().out
    assert "trained" not in out and f"found under {tmp_path / 'features'}" in out


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["dataset=two_moons"], "dataset=two_moons: the data are not labelled images"),
        (["dataset=digits", "objective=dsm"], "objective=dsm: does not concern the features; allowed: dataset"),
        (["dataset=digits", "evaluation.feature_fid.network.width=0"], "network.width=0: should be greater than 0"),
        (["dataset=digits", "+evaluation.feature_fid.mixture.k=3"], "mixture.k=3: unknown key; allowed: components"),
    ],
)
def test_mistakes_are_one_line(arguments, complaint, tmp_path):
    from ebm_lab.cli.features import features

    with pytest.raises(UserError) as error:
        features([*arguments, f"output_dir={tmp_path}"])
    assert complaint in str(error.value) and "\n" not in str(error.value)


# the Frechet Inception distance itself


class Flat(nn.Module):
    """A stand-in for Inception: the first pixels of the first channel, in float64."""

    num_features = 3

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        return x[:, 0].flatten(1)[:, :3].double()


def test_fid_is_the_closed_form_in_whatever_features(generator):
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, one, other = (torch.rand(n, 1, 4, 4, generator=generator) * 2 - 1 for n in (90, 50, 60))
    other = 0.5 * other - 0.9  # partly out of bounds: clamped
    found = fids(FrechetInceptionDistance(Flat(), reset_real_features=False), real, [one, other], (-1.0, 1.0), 32)
    pixels = [((x.clamp(-1, 1) + 1) / 2 * 255).round()[:, 0].flatten(1)[:, :3] for x in (real, one, other)]
    for value, z in zip(found, pixels[1:], strict=True):
        assert value == pytest.approx(feature_distance(z, pixels[0]), rel=1e-6)


def test_fid_on_a_view_names_its_floor(digits, monkeypatch):
    from torchmetrics.image.fid import FrechetInceptionDistance

    fid = FID(weights="auto", reference=300, batch_size=64)
    monkeypatch.setattr(fid, "_metric", lambda: FrechetInceptionDistance(Flat(), reset_real_features=False))
    report = fid(view_of(digits, digits.val[:100]))
    assert report.metrics["fid_samples"] == 100 and report.metrics["fid_reference"] == 300
    z = [((x + 1) / 2 * 255).round()[:, 0].flatten(1)[:, :3] for x in (digits.val[:100], subset(digits.test, 100))]
    real = ((subset(digits.train, 300) + 1) / 2 * 255).round()[:, 0].flatten(1)[:, :3]
    for name, cloud in zip(("fid", "fid_floor"), z, strict=True):
        assert report.metrics[name] == pytest.approx(feature_distance(cloud, real), rel=1e-6, abs=1e-6)


def test_fid_says_what_it_needs_and_fetches_nothing(digits, tmp_path, monkeypatch):
    import ebm_lab.evaluation.fid as module

    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    view, path = view_of(digits, digits.val), tmp_path / "inception.pth"
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    fid = FID(weights=str(path), reference=10, batch_size=4)
    missing = str(fid.applies(view))
    assert "pip install 'ebm_lab[fid]'" in missing and str(path) in missing and "\n" not in missing
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    assert f"needs Inception's weights at {path}" in str(fid.applies(view))
    path.write_bytes(pickle.dumps(Trap(), protocol=2))
    assert "can't be read as weights" in str(fid.applies(view)) and not (tmp_path / "sprung").exists()
    torch.save({"weight": torch.zeros(1)}, path)
    assert fid.applies(view) is None
    assert Path(torch.hub.get_dir()) in FID(weights="auto", reference=10, batch_size=4).weights.parents
    assert "not grey or colour images" in str(fid.applies(view_of(Points(torch.zeros(4, 2)), digits.val)))
