"""energy=composed: the energies of runs as that of another run, against the energies themselves."""

import math

import pytest
import torch

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad, score_and_curvature

OWN = ["logger=none", "threads=1", "evaluation=[]", "dataset=two_moons", "dataset.train=300", "dataset.held_out=60"]
AT = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Runs on one data set: one in its own coordinates, one in whitened ones, and one with a small perceptron."""
    folder = tmp_path_factory.mktemp("parts")
    quick = [*OWN, "steps=40", "objective=ssm", "optim.lr=0.05", f"output_dir={folder}"]
    made = [
        ["energy=gaussian", "preprocess=none"],
        ["energy=gaussian", "preprocess=whiten", "seed=1"],
        ["energy=mlp", "energy.hidden=[8]", "preprocess=none", "optim.lr=0.01"],
    ]
    return [ebm_lab.train([*quick, *more], quiet=True).path for more in made]


def composed(parts, tmp_path, *more, op="product", weights="null", steps=0):
    runs = f"energy.runs=[{','.join(map(str, parts))}]"
    own = [*OWN, "energy=composed", runs, f"energy.op={op}", f"energy.weights={weights}", "preprocess=none"]
    return ebm_lab.train([*own, "objective=ssm", f"steps={steps}", f"output_dir={tmp_path}", *more], quiet=True).path


@pytest.mark.parametrize("op, weights", [("product", [1.0, 0.5]), ("negation", [1.0, -0.2]), ("mixture", [3.0, 1.0])])
def test_it_has_the_densities_of_the_composition(parts, tmp_path, op, weights):
    """log p at raw points is the sum of the runs' own, up to a constant; of a mixture it is the log, without one."""
    run = ebm_lab.load_run(composed(parts[:2], tmp_path, op=op, weights=weights))
    logs = torch.stack([ebm_lab.load_run(path).log_prob(AT).values for path in parts[:2]])
    w = torch.tensor(weights).double()
    wanted = w @ logs if op != "mixture" else torch.logsumexp(logs + (w / w.sum()).log()[:, None], 0)
    found = run.log_prob(AT).values
    offset = (found - wanted).mean() if op != "mixture" else 0.0
    torch.testing.assert_close(found - offset, wanted, atol=2e-3, rtol=0)
    assert run.step == 0 and run.summary["status"] == "finished"


def test_its_derivatives_are_those_of_autograd(parts, tmp_path):
    """Gradient and curvature by the parts' formulas, against a plain function without any."""
    energy = ebm_lab.load_run(composed([parts[0], parts[2]], tmp_path)).energy
    e, grad = energy_and_grad(energy, AT)
    plain = energy_and_grad(lambda x: energy(x), AT)
    torch.testing.assert_close((e, grad), plain)
    v = torch.randn(2, *AT.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (score_and_curvature(one, AT, v) for one in (energy, lambda x: energy(x)))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_training_goes_on_from_the_composition_and_resumes_with_its_bits(parts, tmp_path):
    """The loss falls from that of the composition; stopped at 20 and resumed to 40 it has the bits of 40 at once."""
    whole = composed(parts, tmp_path / "a", "checkpoint_every=20", steps=40)
    half = composed(parts, tmp_path / "b", "checkpoint_every=20", "max_seconds=1e-9", steps=40)
    resumed = ebm_lab.train([f"resume={half}", "max_seconds=null"], quiet=True)
    one, other = (ebm_lab.load_run(path) for path in (whole, resumed.path))
    assert one.step == other.step == 40
    torch.testing.assert_close(one.energy(AT), other.energy(AT), atol=0, rtol=0)
    start = ebm_lab.load_run(composed(parts, tmp_path / "c")).energy
    assert float((one.energy(AT) - start(AT)).detach().std()) > 1e-2


def test_the_run_is_sampled_and_finds_its_parts_from_anywhere(parts, tmp_path, monkeypatch):
    """Two Gaussians' product is a Gaussian, whose precisions add; paths are kept as absolute ones."""
    monkeypatch.chdir(parts[0].parent)
    run = ebm_lab.load_run(composed([path.name for path in parts[:2]], tmp_path))
    monkeypatch.chdir(tmp_path)
    again = ebm_lab.load_run(run.path)
    x = again.sample(4000, torch.Generator().manual_seed(0))
    precision = 0.0
    for path in parts[:2]:
        grid = torch.cartesian_prod(*(torch.linspace(-8, 8, 161).double(),) * 2)
        p = ebm_lab.load_run(path).log_prob(grid).values.softmax(0)[:, None]
        mean = (p * grid).sum(0)
        precision = precision + torch.linalg.inv((p * (grid - mean)).T @ (grid - mean))
    std = torch.linalg.inv(precision).diagonal().sqrt()
    torch.testing.assert_close(x.double().std(0), std, rtol=8 / math.sqrt(2 * 4000), atol=0)


@pytest.mark.parametrize(
    "more, says",
    [
        (["energy.runs=[nowhere,elsewhere]"], "nowhere"),
        (["energy.runs=[one]"], "energy.runs"),
        (["energy.weights=[1]"], "weights=\\[1.0\\]: 1 weights for 2 runs"),
        (["energy.op=sum"], "energy.op=sum"),
        (["dataset=gaussian_50d", "dataset.train=200", "dataset.held_out=50"], "energy.runs: the samples of"),
    ],
)
def test_what_does_not_compose_is_one_line(parts, tmp_path, more, says):
    with pytest.raises(UserError, match=says) as refused:
        composed(parts[:2], tmp_path, *more)
    assert "\n" not in str(refused.value) and not (tmp_path / "runs").exists()


def test_models_of_many_levels_are_refused(tmp_path):
    tiny = ["objective=multi_dsm", "steps=3", f"output_dir={tmp_path}"]
    levels = ebm_lab.train([*OWN, *tiny], quiet=True).path
    with pytest.raises(UserError, match="is a model of many noise levels: compose it by scripts/compose.py"):
        composed([levels, levels], tmp_path)
