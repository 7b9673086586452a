"""The lab from Python: `fit`, the estimator, what a notebook shows, and what `dir` lists."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.fit import written
from ebm_lab.core.errors import UserError
from tests.exhaustive import exhaustive

FAST = ("energy.hidden=[8]", "batch_size=64", "threads=1", "preprocess=none")
MEAN, STD = np.array([1.0, -2.0]), np.array([0.5, 3.0])


def points(n, seed=0):
    return np.random.default_rng(seed).normal(MEAN, STD, (n, 2))


def log_normal(x):
    z = (x - MEAN) / STD
    return -0.5 * (z**2).sum(1) - np.log(2 * np.pi) - np.log(STD).sum()


def test_the_package_shows_what_it_has_without_importing_heavy_libraries():
    code = "import sys, ebm_lab; print(*dir(ebm_lab)); print('sklearn' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, loaded = done.stdout.splitlines()
    public = [name for name in names.split() if not name.startswith("_")]
    assert public == ["EBMDensity", "UserError", "fit", "load_run", "register", "train"] and loaded == "False False"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return ebm_lab.fit(
        torch.from_numpy(points(300)),
        "dsm",
        steps=20,
        samples=20,
        sample_steps=10,
        optim={"lr": 0.002},
        evaluation=["likelihood"],
        dataset={"val": 0.2, "seed": 3},
        output_dir=tmp_path_factory.mktemp("fit"),
        overrides=FAST,
    )


@pytest.mark.slow
def test_fit_trains_on_the_rows_with_the_settings_and_returns_the_run(fitted):
    assert fitted.config["optim"]["lr"] == 0.002 and fitted.config["objective"]["name"] == "dsm" and fitted.step == 20
    assert fitted.config["dataset"]["val"] == 0.2 and len(fitted.dataset.val) == 60
    assert fitted.config["logger"] == {"name": "none"}, "nothing goes to a service that was not asked for"
    rows = torch.cat([fitted.dataset.train, fitted.dataset.val, fitted.dataset.test])
    raw = fitted.dataset.transform.inverse(rows.double()).sort(0).values
    assert torch.allclose(raw, torch.from_numpy(np.sort(points(300), 0)), atol=1e-5)
    again = ebm_lab.load_run(fitted.path)
    assert torch.equal(again.energy(rows), fitted.energy(rows)), "the run finds its rows again"


@pytest.mark.slow
def test_a_run_shows_its_choices_metrics_and_a_picture(fitted):
    text, page = repr(fitted), fitted._repr_html_()
    assert "objective=dsm" in text and "finished at step 20" in text and "nll " in text and str(fitted.path) in text
    assert page.count("<img ") == 1 and "data:image/png;base64,iVBOR" in page
    nll, error = fitted.summary["nll_above_gaussian"], fitted.summary["nll_above_gaussian_se"]
    assert f"<td>{nll:.4g} ± {error:.2g}</td>" in page and "<LoadedRun" not in page, "texts are escaped"


def test_settings_are_written_as_on_the_command_line():
    given = {"objective": "dsm", "recipe": "points/pcd", "compile": None, "optim": {"lr": 1e-4, "schedule": "a b"}}
    found = list(written({**given, "logger": ["wandb", "csv"], "channels_last": True, "output_dir": "/a b"}))
    assert found[:4] == ["objective=dsm", "recipe=points/pcd", "compile=null", "optim.lr=0.0001"]
    assert found[4:6] == ['optim.schedule="a b"', 'logger=["wandb","csv"]']
    assert found[6:] == ["channels_last=true", 'output_dir="/a b"']
    assert list(compose_config(found[5:6])["logger"]) == ["wandb", "csv"]


class Frame:
    """A data frame as far as `fit` uses it."""

    columns = ["height", "weight"]

    def to_numpy(self):
        return points(60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("x", "y", "names", "labelled"),
    [
        (Frame(), None, ["height", "weight"], False),
        (points(60).tolist(), None, None, False),
        (points(60), np.arange(60) % 3, None, True),
        (points(60)[:, 0], None, None, False),
    ],
    ids=["frame", "list", "labels", "numbers"],
)
def test_fit_takes_a_frame_a_list_labels_or_numbers(x, y, names, labelled, tmp_path):
    settings = {"energy": "labelled_mlp", "overrides": ("objective.generative=dsm", *FAST)}
    run = ebm_lab.fit(
        x,
        "dsm" if y is None else "jem",
        y=y,
        steps=2,
        evaluation=[],
        output_dir=tmp_path,
        **({"overrides": FAST} if y is None else settings),
    )
    assert run.dataset.column_names == names and (run.dataset.labels is not None) == labelled
    assert run.dataset.event_shape == ((1,) if np.ndim(x) == 1 and names is None else (2,))


@pytest.mark.parametrize(
    ("x", "more", "said"),
    [
        (points(50), {"y": [1, 2]}, r"y: has shape \(2,\); it must be one label for each of the 50 rows of x"),
        (np.zeros((0, 2)), {}, r"x: has shape \(0, 2\); it must have rows"),
        ([[1, 2], [3]], {}, "x: no array can be made of it"),
        (points(50), {"objective": "ncee"}, "objective=ncee: no such option; .*did you mean 'nce'"),
        (points(50), {"stepps": 3}, "stepps=3: .*did you mean 'steps'"),
        (np.full((50, 2), np.nan), {}, "nan"),
    ],
)
def test_a_mistake_is_one_line(x, more, said, tmp_path):
    with pytest.raises(UserError, match=said) as caught:
        ebm_lab.fit(x, output_dir=tmp_path, **more)
    assert len(str(caught.value).splitlines()) == 1 and not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
def test_score_samples_of_a_gaussian_energy_is_the_log_density_of_the_law():
    """Exact score matching of a Gaussian energy reaches the Gaussian fitted to the points, off by 1 / sqrt(n)."""
    x, new = points(8000), points(500, seed=1)
    settings = ("optim.lr=0.02", "optim.schedule=cosine", "threads=1", "early_stopping=off")
    model = ebm_lab.EBMDensity("sm", energy="gaussian", steps=600, overrides=settings, random_state=0).fit(x)
    found = model.score_samples(new)
    assert model.log_z_.source == "formula" and np.abs(found - log_normal(new)).max() < 0.2
    assert np.abs(found - log_normal(new)).mean() < 0.03 and model.score(new) == pytest.approx(found.mean())
    drawn = model.sample(2000, random_state=5)
    assert np.all(np.abs(drawn.mean(0) - MEAN) < 0.15 * STD) and np.all(np.abs(drawn.std(0) / STD - 1) < 0.1)


def mass(model, cells, d):
    """The integral of the model's density over fifteen standard deviations of the data, on a grid in raw units."""
    mean, std = np.resize(MEAN, d), np.resize(STD, d)
    axes = [np.linspace(m - 15 * s, m + 15 * s, cells) for m, s in zip(mean, std, strict=True)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d)
    return np.exp(model.score_samples(nodes)).sum() * np.prod([a[1] - a[0] for a in axes])


@pytest.mark.slow
def test_the_density_of_a_network_integrates_to_one_by_quadrature_and_by_annealed_importance_sampling():
    flat = ebm_lab.EBMDensity("nce", steps=30, overrides=FAST, random_state=0).fit(points(400))
    assert flat.log_z_.source == "quadrature" and mass(flat, 301, 2) == pytest.approx(1.0, abs=2e-3)
    x = np.random.default_rng(2).normal(np.resize(MEAN, 3), np.resize(STD, 3), (400, 3))
    deep = ebm_lab.EBMDensity("nce", steps=30, overrides=FAST, random_state=0).fit(x)
    assert deep.log_z_.source == "ais", "NCE's learnt log Z is no normaliser"
    assert np.log(mass(deep, 61, 3)) == pytest.approx(0.0, abs=5 * deep.log_z_.error + 0.01)


@pytest.fixture(scope="module")
def estimator():
    return ebm_lab.EBMDensity("dsm", steps=3, overrides=FAST, random_state=1).fit(points(60))


@pytest.mark.slow
def test_an_estimator_survives_pickling_and_cloning(estimator):
    from sklearn.base import clone

    again = pickle.loads(pickle.dumps(estimator))
    new = points(7, seed=3)
    assert np.array_equal(again.score_samples(new), estimator.score_samples(new))
    assert np.array_equal(again.sample(3, random_state=2), estimator.sample(3, random_state=2))
    assert not np.array_equal(estimator.sample(3, random_state=3), estimator.sample(3, random_state=2))
    assert clone(estimator).get_params() == estimator.get_params() and not hasattr(clone(estimator), "run_")


@pytest.mark.slow
def test_a_mistake_in_an_estimator_is_a_value_error():
    with pytest.raises(ValueError, match="objective=ncee: no such option"):
        ebm_lab.EBMDensity("ncee").fit(points(60))


SMALL = (
    *FAST,
    "batch_size=16",
    "ema=0",
    "evaluation=[ais]",
    "evaluation.ais.chains=2",
    "evaluation.ais.temperatures=10",
    "evaluation.ais.schedule=linear",
)
EXCEPTIONS: dict[str, str] = {}
"""scikit-learn's checks that the estimator can't pass, with the reasons."""


@exhaustive
def test_the_estimator_passes_scikit_learns_checks():
    from sklearn.utils.estimator_checks import check_estimator

    model = ebm_lab.EBMDensity("dsm", steps=2, overrides=SMALL, random_state=0)
    found = check_estimator(model, on_skip=None, on_fail=None)
    failed = {row["check_name"]: row["exception"] for row in found if row["status"] == "failed"}
    assert failed.keys() == EXCEPTIONS.keys(), failed
    assert len(found) > 30
