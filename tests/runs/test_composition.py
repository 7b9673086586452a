"""Composed runs against truth: raw densities by quadrature, closed forms, and every refusal in one line."""

import csv
import json
import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.cli.combine import _yaml, compose
from ebm_lab.cli.tools import main
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import evaluate
from ebm_lab.core.maps import Composed, Monotone
from ebm_lab.core.transforms import Affine
from ebm_lab.distributions.quadrature import cubature_log_z
from ebm_lab.models.level_product import LEVELS_LINE
from ebm_lab.models.levels import NoiseEnergy, ScoreNetwork
from ebm_lab.runs.composed_samples import check_sampler, draw, sampler_values
from ebm_lab.runs.composition import compose_runs
from tests.helpers import Points, gaussian_energy

QUICK = ["steps=30", "logger=none", "evaluation=[]", "threads=1", "optim.lr=0.05", "energy=gaussian", "objective=ssm"]
LAWS = {
    "standardized": ((100.0, -3.0), ((25.0, 0.3), (0.3, 0.01)), ["dataset.scaling=standardize", "preprocess=none"]),
    "whitened": ((103.0, -3.1), ((16.0, -0.2), (-0.2, 0.02)), ["dataset.scaling=none", "preprocess=whiten"]),
    "warped": ((98.0, -2.9), ((30.0, 0.1), (0.1, 0.01)), ["dataset.scaling=standardize", "preprocess=warp"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs on tables of one raw space, each in coordinates of its own."""
    found, folder = {}, tmp_path_factory.mktemp("composed")
    for name, (mean, cov, more) in LAWS.items():
        g = np.random.default_rng(0)
        x = g.multivariate_normal((0.0, 0.0), cov, 800)
        if name == "warped":  # heavy tails, which a linear map would keep
            x /= np.sqrt(g.chisquare(4, (800, 1)) / 4)
        np.save(folder / f"{name}.npy", mean + x)
        values = [f"dataset.path={folder / f'{name}.npy'}", f"output_dir={folder}", *more]
        found[name] = ebm_lab.train([*QUICK, "dataset=array", *values], quiet=True).path
    return found


RAW = torch.cartesian_prod(torch.linspace(70, 130, 241), torch.linspace(-4.2, -1.8, 241)).double()
CELL = 60 / 240 * 2.4 / 240


@pytest.mark.parametrize("names", [("standardized", "whitened"), ("standardized", "warped"), ("warped", "whitened")])
@pytest.mark.parametrize("op, weights", [("product", (1, 0.5)), ("negation", (1, -0.2)), ("mixture", (3, 1))])
def test_runs_in_other_coordinates_compose_as_their_raw_densities_do(runs, names, op, weights):
    """At raw points E_raw is that of the raw densities but for one number, and log Z is that of their integral."""
    loaded = [ebm_lab.load_run(runs[name]) for name in names]
    if (names[0], op) == ("warped", "negation"):  # a Gaussian in an asinh has heavier tails than a Gaussian
        with pytest.raises(UserError, match="the law has no integral, .* allowed: no negative weight of these runs$"):
            compose_runs(loaded, op, weights)
        return
    made, transform = compose_runs(loaded, op, weights), loaded[0].dataset.transform
    assert all(run.dataset.transform.is_linear == (name != "warped") for name, run in zip(names, loaded, strict=True))
    x = transform.forward(RAW)
    with torch.no_grad():
        found = -evaluate(made.model, x.float()).double() + transform.log_det_at(x)
    logs = torch.stack([run.log_prob(RAW).values for run in loaded])
    w = torch.tensor(weights).double()
    wanted = (w[:, None] * logs).sum(0) if op != "mixture" else torch.logsumexp(logs + (w / w.sum()).log()[:, None], 0)
    near = wanted > wanted.max() - 15
    ratio = (found - wanted)[near]
    assert near.sum() > 500 and float(ratio.std()) < 1e-3, float(ratio.std())
    offset = 0.0 if op == "mixture" else -sum(v * run.log_z.value for v, run in zip(weights, loaded, strict=True))
    assert float(ratio.mean()) + offset == pytest.approx(0, abs=2e-3)
    quadrature = cubature_log_z(made.model, made.points, 200).value
    on_grid = float(torch.logsumexp(found, 0)) + math.log(CELL)  # heavy tails of a mixture reach beyond it
    assert quadrature == pytest.approx(0 if op == "mixture" else on_grid, abs=1e-3 if op == "mixture" else 5e-3)


def test_the_command_writes_samples_of_the_product_of_two_gaussians(runs, tmp_path, capsys):
    """Precisions add in raw units; the mean of the samples within five standard errors."""
    names = ("standardized", "whitened")
    out = f"out={tmp_path / 'c'}"
    main(compose, [f"runs=[{runs[names[0]]},{runs[names[1]]}]", "n=400", "steps=300", "weights=[1,.5]", out])
    said, facts = capsys.readouterr().out, json.loads((tmp_path / "c" / "summary.json").read_text())
    laws = []
    for name in names:
        run = ebm_lab.load_run(runs[name])
        p = run.log_prob(RAW).values.softmax(0)[:, None]
        mean = (p * RAW).sum(0)
        laws.append((mean, torch.linalg.inv((p * (RAW - mean)).T @ (RAW - mean))))
    precision = laws[0][1] + 0.5 * laws[1][1]
    mean = torch.linalg.solve(precision, laws[0][1] @ laws[0][0] + 0.5 * laws[1][1] @ laws[1][0])
    std = torch.linalg.inv(precision).diagonal().sqrt()
    with (tmp_path / "c" / "samples.csv").open() as file:
        rows = torch.tensor([[float(v) for v in row] for row in list(csv.reader(file))[1:]]).double()
    assert rows.shape == (400, 2) and float(((rows.mean(0) - mean) / (std / 20)).abs().max()) < 5
    assert torch.allclose(rows.std(0), std, rtol=0.2) and (tmp_path / "c" / "samples.png").stat().st_size > 1000
    assert facts["weights"] == [1, 0.5] and facts["log_z_error_bound"] < 1e-3 and facts["op"] == "product"
    torch.testing.assert_close(torch.tensor(facts["law_mean"]).double(), mean, rtol=0, atol=float(std.max()) / 50)
    assert "by mala" in said and "log Z" in said and str(tmp_path / "c") in said


def test_a_mixture_of_far_modes_has_the_weights_shares(runs, tmp_path, capsys):
    """Chains begin at the runs' samples, for they do not cross; the table says where each log Z comes from."""
    far = fake(gaussian_energy(torch.tensor([60.0]), torch.tensor([[1.0]])).float(), mean=60.0)
    near = fake(gaussian_energy(torch.tensor([0.0]), torch.tensor([[4.0]])).float())
    made = compose_runs([near, far], "mixture", [1, 3])
    x = draw(made, _yaml("mala"), 2000, 50, torch.Generator().manual_seed(0)).x
    assert float((x > 30).float().mean()) == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / 2000) ** 0.5)
    both = f"runs=[{runs['whitened']},{runs['standardized']}]"
    main(compose, [both, "op=mixture", "n=20", "steps=10", "weights=[1,3]", f"out={tmp_path}"])
    said = capsys.readouterr().out
    assert said.count(" formula") == 2 and "from the runs' samples" in said


class Power(torch.nn.Module):
    """k log(1 + x^2) / 2 on the line: exp(-E) has an integral for k > 1."""

    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x):
        return self.k * torch.log1p(x[:, 0] ** 2) / 2


def test_a_quotient_of_power_laws_has_an_integral_while_it_falls_faster_than_1_over_x():
    """Powers 4 - 4 t > 1, so that t must be below 3/4; a product of two with powers 0.4 each has none."""
    with pytest.raises(UserError) as caught:
        compose_runs([fake(Power(4.0)), fake(Power(1.0))], "negation", [1, -4])
    assert float(str(caught.value).split("of at most ")[1].split()[0]) == pytest.approx(0.75, abs=0.011)
    with pytest.raises(
        UserError, match=r"^weights=\[0.2, 0.1\]: the law has no integral, .*; allowed: larger weights$"
    ):
        compose_runs([fake(Power(3.0)), fake(Power(3.0))], "product", [0.2, 0.1])


@pytest.mark.slow
def test_images_compose_to_a_grid(tmp_path, capsys):
    more = ["dataset=digits", "energy=conv", "energy.channels=[2,2]", "objective=dsm", "steps=2", "batch_size=8"]
    run = ebm_lab.train([*more, "logger=none", "evaluation=[]", "threads=1", f"output_dir={tmp_path}"], quiet=True).path
    main(compose, [f"runs=[{run},{run}]", "n=4", "steps=20", f"out={tmp_path / 'c'}"])
    assert np.load(tmp_path / "c" / "samples.npy").shape == (4, 1, 8, 8) and (tmp_path / "c" / "samples.png").is_file()
    assert not (tmp_path / "c" / "samples.csv").exists() and "log Z            not known" in capsys.readouterr().out


class Blurred(NoiseEnergy):
    """N(mean, scale^2) blurred exactly: the base alone."""

    def correction(self, u, sigma):
        return u.new_zeros(len(u))


class BlurredScore(ScoreNetwork):
    """The score of the same law."""

    def correction(self, u, sigma):
        return torch.zeros_like(u)


class Shaped(Points):
    """Points of the mean and scale asked for, to the last digit."""

    def __init__(self, x, mean, scale):
        super().__init__(x)
        self.mean, self.scale = mean, scale


def fake(energy, mean=0.0, scale=1.0, transform=None, d=1, name="a") -> Any:
    """A run as composition sees it, whose samples are those of N(mean, scale^2 I)."""
    x = mean + scale * torch.randn(500, d, generator=torch.Generator().manual_seed(1))
    data = Shaped(x, torch.full((d,), mean), scale)
    data.transform = transform or Affine(torch.zeros(d), torch.ones(d))

    def sample(n, generator, raw):
        return mean + scale * torch.randn(n, d, generator=generator)

    built = energy(data, 0.1, 10.0, 8) if isinstance(energy, type) else energy
    log_z = SimpleNamespace(value=0.0 if built is None else quadrature(built, x), error=0.0, source="quadrature")
    config = {"dataset": {"name": "x"}, "preprocess": "none", "sampler": {"name": "annealed_langevin"}}
    about = {"path": name, "config": config, "log_z": log_z, "sampler": object(), "sample": sample}
    return SimpleNamespace(energy=built, dataset=data, **about)


def quadrature(energy, x):
    return 0.0 if isinstance(energy, ScoreNetwork) or x.shape[1] > 2 else cubature_log_z(energy, x, 100).value


GRID = torch.linspace(-40, 40, 40_001, dtype=torch.float64)[:, None]


def variance(energy):
    with torch.no_grad():
        p = (-evaluate(energy.double(), GRID)).softmax(0)
    return float((p * GRID[:, 0] ** 2).sum())


@pytest.mark.parametrize("t, blurred, summed", [(0.1, 0.6, 0.55), (1.0, 1.5, 1.0), (5.0, 5.5, 3.0)])
def test_levels_do_not_compose(t, blurred, summed):
    """Two N(0, 1): the product, of variance 1/2, blurred has 1/2 + t; the summed energies at that level (1 + t) / 2."""
    made = compose_runs([fake(Blurred), fake(Blurred)], "product")
    product = compose_runs([fake(gaussian_energy(torch.zeros(1), torch.ones(1, 1))) for _ in range(2)], "product")
    assert variance(product.model) + t == pytest.approx(blurred, abs=1e-6)
    assert variance(made.model.given(sigma=t**0.5)) == pytest.approx(summed, abs=1e-4)  # type: ignore
    assert made.notes == [LEVELS_LINE]


@pytest.mark.parametrize("kind, name", [(Blurred, None), (Blurred, "annealed_langevin"), (BlurredScore, None)])
def test_chains_at_each_level_reach_the_product_at_the_lowest(kind, name):
    """N(0, 1)^1 N(1, 1)^1 at sigma_min = 0.1: mean 1/2, variance 1.01 / 2; ULA's steps of 0.06 bias it by less."""
    runs = [fake(kind), fake(kind, mean=1.0)]
    made = compose_runs(runs, "product")
    values = sampler_values(runs, made, name, _yaml)  # type: ignore
    drawn = draw(made, values, 4000, 400, torch.Generator().manual_seed(0))
    assert drawn.sampler == ("mala" if kind is Blurred and name is None else "annealed_langevin")
    assert float(drawn.x.mean()) == pytest.approx(0.5, abs=5 * (0.505 / 4000) ** 0.5)
    assert float(drawn.x.var()) == pytest.approx(0.505, abs=5 * 0.505 * (2 / 4000) ** 0.5 + 0.01)


def test_levels_in_other_units_are_levels_of_the_first():
    """z = (raw - 1) / 2: the second run's sigma is half of x's, and its law in x is N(1, 4) with its exact constant."""
    other = fake(Blurred, transform=Affine(torch.ones(1), torch.tensor([2.0])))
    made = compose_runs([fake(Blurred), other], "product")
    x, sigma = torch.linspace(-3, 3, 7)[:, None], 0.8
    laws = [torch.distributions.Normal(m, (s * s + sigma**2) ** 0.5) for m, s in ((0.0, 1.0), (1.0, 2.0))]
    wanted = -sum(law.log_prob(x[:, 0]) for law in laws)
    torch.testing.assert_close(made.model.given(sigma=sigma)(x), wanted, rtol=1e-5, atol=1e-5)  # type: ignore
    scored = compose_runs([fake(BlurredScore), fake(BlurredScore, transform=other.dataset.transform)], "product")
    torch.testing.assert_close(scored.model.score(x, sigma), made.model.score(x, sigma), rtol=1e-5, atol=1e-5)  # type: ignore
    assert made.model.ladder.sigma_min == pytest.approx(0.2) and made.model.ladder.sigma_max == 10  # type: ignore


def plane(precision, **more) -> Any:
    return fake(gaussian_energy(torch.zeros(2), torch.tensor(precision)).float(), d=2, **more)


WIDE, NARROW = ((0.1, 0.0), (0.0, 0.1)), ((1.0, 0.0), (0.0, 0.2))


def test_a_quotient_has_an_integral_up_to_the_weight_that_is_named():
    """Precisions 1 and 0.2 less a times 0.1: a must be below 2."""
    narrow, wide = plane(NARROW, name="narrow"), plane(WIDE, name="wide")
    compose_runs([narrow, wide], "negation", [1, -1.9])
    with pytest.raises(UserError) as caught:
        compose_runs([narrow, wide], "negation", [1, -4])
    said = str(caught.value)
    assert said.startswith("weights=[1.0, -4.0]: the law has no integral, for its energy falls or hardly grows along ")
    assert "of 136 rays" in said and "\n" not in said
    most = float(said.split("allowed: negative weights of at most ")[1].split()[0])
    assert most == pytest.approx(0.5, abs=0.011)
    compose_runs([narrow, wide], "negation", [1, -4 * most * 0.99])
    with pytest.raises(UserError, match="allowed: no negative weight of these runs$"):
        compose_runs([wide, plane(((1.0, 0.0), (0.0, 1e9)))], "negation", [1, -1])


def images(bounds=(0.0, 1.0), **more) -> Any:
    data = Points(torch.rand(9, 1, 4, 4), bounds)
    data.transform = Affine(torch.zeros(()), torch.tensor(more.pop("unit", 1.0)))
    config = {"dataset": {"name": "x", "scaling": more.pop("scaling", "unit")}, "preprocess": "none"}
    return SimpleNamespace(path="pictures", dataset=data, energy=None, config=config)


LOGARITHM = Composed((Monotone("log"),))
ANISOTROPIC = Affine(torch.zeros(2), torch.tensor([1.0, 2.0]))
REFUSALS = {
    "one run": (lambda: [plane(WIDE)], "product", None, "runs: 1 given; a composition takes two or more"),
    "weights": (lambda: [plane(WIDE)] * 2, "product", [1], r"weights=\[1.0\]: 1 weights for 2 runs; give one for each"),
    "sign": (
        lambda: [plane(WIDE)] * 2,
        "product",
        [1, -1],
        r"weights=\[1.0, -1.0\]: op=product takes positive weights; op=negation takes negative ones",
    ),
    "zero": (lambda: [plane(WIDE)] * 2, "mixture", [1, 0], r"weights=\[1.0, 0.0\]: op=mixture takes positive weights$"),
    "no weights": (
        lambda: [plane(WIDE)] * 2,
        "negation",
        None,
        "weights=null: op=negation needs a weight for each run",
    ),
    "no negative": (
        lambda: [plane(WIDE)] * 2,
        "negation",
        [1, 1],
        r"weights=\[1.0, 1.0\]: op=negation takes at least one positive and one negative weight",
    ),
    "shapes": (
        lambda: [plane(WIDE), fake(Blurred, name="b")],
        "product",
        None,
        r"run=a and run=b: can't be composed: their samples have shapes \(2,\) and \(1,\)",
    ),
    "images and points": (
        lambda: [images(), SimpleNamespace(path="b", dataset=Points(torch.rand(9, 1, 4, 4)))],
        "product",
        None,
        "run=pictures and run=b: can't be composed, for the data of one are images and those of the other points",
    ),
    "scalings": (
        lambda: [images(), images((-1.0, 1.0), unit=0.5, scaling="symmetric")],
        "product",
        None,
        r"run=pictures and run=pictures: can't be composed, for their pixels are scaled differently, to \(0.0, 1.0\) "
        r"by preprocess=none scaling=unit and to \(-1.0, 1.0\) by preprocess=none scaling=symmetric",
    ),
    "mixture of scores": (
        lambda: [fake(Blurred), fake(BlurredScore, name="s")],
        "mixture",
        None,
        "op=mixture: needs energies and their log Z, and run=s is a score network; allowed for it: op=product",
    ),
    "negation of scores": (
        lambda: [fake(Blurred), fake(BlurredScore, name="s")],
        "negation",
        [1, -0.1],
        "op=negation: needs energies, to see that the law has a Z, and run=s is a score network; allowed for it: op=",
    ),
    "a score beside one level": (
        lambda: [fake(gaussian_energy(torch.zeros(1), torch.ones(1, 1)).float()), fake(BlurredScore, name="s")],
        "product",
        None,
        "runs: run=s is a score network of many noise levels, and run=a an energy of one: allowed: all of many levels",
    ),
    "levels apart": (
        lambda: [fake(Blurred), fake(Blurred, transform=Affine(torch.zeros(1), torch.tensor([1e4])))],
        "product",
        None,
        "runs: their noise levels do not overlap, 0.1 to 10 and 1e[+]03 to 1e[+]05 in the first run's units: choose",
    ),
    "levels of other shape": (
        lambda: [fake(Blurred, d=2), fake(Blurred, d=2, transform=ANISOTROPIC, name="b")],
        "product",
        None,
        "run=a and run=b: noise levels compose where coordinates differ by a shift and one scale",
    ),
    "outside a map": (
        lambda: [plane(WIDE, transform=LOGARITHM), plane(WIDE, name="b")],
        "product",
        None,
        "run=a and run=b: can't be composed, for data of the second lie where the first one's map .* is not defined",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_has_no_meaning_is_refused_in_one_line(name):
    make, op, weights, line = REFUSALS[name]
    with pytest.raises(UserError, match=f"^{line}") as caught:
        compose_runs(make(), op, weights)
    assert "\n" not in str(caught.value)


SAMPLERS = {
    "diffusion": (
        Blurred,
        {"name": "probability_flow"},
        "sampler=probability_flow: follows the diffusion, and the lev",
    ),
    "score": (
        BlurredScore,
        {"name": "hmc"},
        "sampler=hmc: a product of score networks has no energy; allowed: anneale",
    ),
    "denoise": (
        Blurred,
        {"name": "annealed_langevin", "denoise": True},
        "sampler.denoise=true: Tweedie's formula is f",
    ),
    "levels": (
        None,
        {"name": "annealed_langevin"},
        "sampler=annealed_langevin: goes down noise levels, which this com",
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_that_does_not_suit_is_refused_in_one_line(name):
    kind, values, line = SAMPLERS[name]
    made = compose_runs([plane(WIDE), plane(WIDE)] if kind is None else [fake(kind), fake(kind)], "product")
    with pytest.raises(UserError, match=f"^{line}") as caught:
        check_sampler(made, values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("weights=[1,x]", r"error: weights=\[1.0, 'x'\]: must be numbers, one for each run, as weights=\[1,-0.5\]"),
        ("op=sum", "error: op=sum: should be 'product', 'mixture' or 'negation'"),
        ("sampler=hmd", "error: sampler=hmd: not an option; allowed: .*; did you mean 'hmc'?"),
        ("energy.x=1", "error: energy.x=1: unknown key; write a sampler's setting as sampler.<key>=<value>"),
        ("sampler.stepz=1", "error: sampler.stepz=1: unknown key; .*; did you mean 'steps'?"),
        ("op=negation weights=[1,-.99]", r"error: weights=\[1.0, -0.99\]: the law has no integral"),
    ],
)
def test_the_command_says_mistakes_in_one_line(runs, arguments, line, tmp_path, capsys):
    both = f"runs=[{runs['standardized']},{runs['whitened']}]"
    with pytest.raises(SystemExit) as ended:
        main(compose, [both, f"out={tmp_path / 'none'}", *arguments.split()])
    (said,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and re.match(line, said), said


def test_an_energy_without_parameters_is_not_trained(monkeypatch):
    from ebm_lab.cli.compose import compose_config
    from ebm_lab.energies.gaussian import Gaussian
    from ebm_lab.runs.assemble import assemble

    before = Gaussian.__init__

    def still(self, dataset, *, width: float):
        before(self, dataset, width=width)
        self.requires_grad_(False)

    monkeypatch.setattr(Gaussian, "__init__", still)
    line = (
        "^energy=gaussian: it has no trainable parameter; choose another energy, or compose trained runs with scripts/c"
    )
    with pytest.raises(UserError, match=line):
        assemble(compose_config(["dataset=two_moons", "energy=gaussian", "objective=dsm", "logger=none"]))
