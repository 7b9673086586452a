"""The benchmark: its statistics on made-up times, and that its contestants do the same work and do it right."""

import math

import pytest
import torch
from torch import nn

from ebm_lab.benchmark import plain, plain_losses
from ebm_lab.benchmark.cases import COUNTS, sampler_cases, step_cases
from ebm_lab.benchmark.field import contestants, images_file, job
from ebm_lab.benchmark.floor import HandMade
from ebm_lab.benchmark.nets import plain as plain_net
from ebm_lab.benchmark.ours import build
from ebm_lab.benchmark.timing import calibrate, median_interval, race, rank, rotated, timed
from ebm_lab.cli.benchmark import benchmark, chosen, counted
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad
from ebm_lab.core.registry import names
from ebm_lab.objectives.cnce import conditional_nce
from ebm_lab.objectives.dsm import denoising_score_matching
from ebm_lab.objectives.ed import energy_discrepancy
from ebm_lab.objectives.fdssm import finite_difference_ssm
from ebm_lab.objectives.mpf import minimum_probability_flow
from ebm_lab.objectives.nce import noise_contrastive_estimation
from ebm_lab.objectives.sm import implicit_score_matching
from ebm_lab.objectives.ssm import sliced_score_matching


class Clock:
    """A made-up clock, which only work moves."""

    def __init__(self) -> None:
        self.t = 0.0
        self.log: list[str] = []

    def __call__(self) -> tuple[float, float]:
        return self.t, self.t

    def work(self, name: str, seconds):
        def do() -> None:
            self.log.append(name)
            self.t += seconds()

        return do


def test_the_interval_covers_the_median_as_often_as_it_says():
    """Of a skewed law, for which a mean with its standard error would miss."""
    n, trials = 31, 4000
    k = rank(n)
    exact = 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
    assert k == 10 and 0.95 <= exact <= 0.98
    x = torch.randn(trials, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    found = [median_interval(row) for row in x.tolist()]
    share = sum(i.low <= 1.0 <= i.high for i in found) / trials
    assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / trials)


def test_too_few_rounds_have_no_interval():
    assert [rank(n) for n in (1, 5, 6, 8, 9)] == [0, 0, 1, 1, 2]
    few = median_interval([1.0, 2.0, 3.0])
    assert (few.low, few.middle, few.high) == (-math.inf, 2.0, math.inf)


def test_everyone_has_every_place_equally_often():
    clock = Clock()
    field = {name: clock.work(name, lambda: 1.0) for name in "abc"}
    race(field, "a", 6, 0.5, clock)
    rounds = [clock.log[-18:][i : i + 3] for i in range(0, 18, 3)]
    assert rounds == [rotated("abc", turn) for turn in range(6)]
    assert all(sorted(r[place] for r in rounds) == list("aabbcc") for place in range(3))


def test_a_slow_contestant_is_seen_as_slow_on_a_machine_that_drifts():
    """Times with 5 % noise each, on a machine whose speed changes tenfold during the race: 1.5 stays 1.5, 1 stays 1."""
    clock, generator = Clock(), torch.Generator().manual_seed(0)

    def seconds(factor):
        def draw():
            noise = float(torch.randn((), generator=generator))
            return factor * 1e-3 * (1 + clock.t) * math.exp(0.05 * noise)

        return draw

    field = {name: clock.work(name, seconds(f)) for name, f in (("slow", 1.5), ("same", 1.0), ("reference", 1.0))}
    result = race(field, "reference", 31, 0.02, clock)
    spread = result.seconds["cpu"]["reference"]
    assert max(spread) > 3 * min(spread)
    slow, same = result.ratio("slow", "cpu"), result.ratio("same", "cpu")
    assert slow.low < 1.5 < slow.high and slow.low > 1.3
    assert same.low < 1.0 < same.high
    assert result.ratio("reference", "wall").middle == 1.0


def test_blocks_are_long_enough_for_the_clock():
    clock = Clock()
    work = clock.work("a", lambda: 3e-4)
    repeats = calibrate(work, 0.02, clock)
    cpu, _ = timed(work, repeats, clock)
    assert 0.02 <= repeats * 3e-4 <= 0.05
    assert cpu == pytest.approx(3e-4)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return images_file(tmp_path_factory.mktemp("images"))


def _filled(case, images):
    return [o.replace("{images}", images) for o in case.overrides]


@pytest.mark.parametrize("what", ["cd, perceptron 2-", "cd, conv", "langevin, Gaussian in 10-D, 100"])
def test_the_reference_has_our_energy(what, images):
    """In plain torch; values and gradients to float32 rounding."""
    case = next(c for c in (*step_cases(), *sampler_cases()) if c.name.startswith(what))
    trainer = build(compose_config, _filled(case, images), 1)
    energy, x = trainer.objective.energy, torch.randn(16, *trainer.dataset.mean.shape)
    ours, theirs = energy_and_grad(energy, x), energy_and_grad(plain_net(energy), x)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Bowl(nn.Module):
    """E = a |x|^2 / 2 + b cos(x) summed: smooth, with known scores; weights to differentiate in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.tensor(0.4))

    def forward(self, x):
        return (0.5 * self.a * x**2 + self.b * x.cos()).flatten(1).sum(1)


def _draws(shape, count=1):
    """What a loss draws first, from torch's own generator at seed 0."""
    torch.manual_seed(0)
    return [torch.randn(shape) for _ in range(count)]


def _wide(v, x):
    return v.view(-1, *[1] * (x.ndim - 1))


def _dsm(net, x):
    return plain_losses.dsm(net, 0.3), denoising_score_matching(net, x, _draws(x.shape)[0], 0.3)[0]


def _ssm(net, x):
    torch.manual_seed(0)
    v = torch.randint(0, 2, x.shape).to(x) * 2 - 1
    return plain_losses.ssm(net), sliced_score_matching(net, x, v, True)[0]


def _sm(net, x):
    return plain_losses.sm(net), implicit_score_matching(net, x, 16)[0]


def _fdssm(net, x):
    (z,) = _draws(x.shape)
    v = 0.2 * z / _wide((z**2).flatten(1).sum(1).sqrt(), z)
    return plain_losses.fdssm(net, 0.2), finite_difference_ssm(net, x, v, False)[0]


def _pairs(x):
    torch.manual_seed(0)
    x = x.repeat(3, *[1] * (x.ndim - 1))
    width = 0.1 * (2.0 / 0.1) ** torch.rand(len(x))
    return x, x + _wide(width, x) * torch.randn_like(x)


def _cnce(net, x):
    return plain_losses.cnce(net, 3, 0.1, 2.0), conditional_nce(net, *_pairs(x), 0.0)[0]


def _mpf(net, x):
    return plain_losses.mpf(net, 3, 0.1, 2.0), minimum_probability_flow(net, *_pairs(x), 0.0)[0]


def _ed(net, x):
    torch.manual_seed(0)
    y = x + 0.5 * torch.randn_like(x)
    around = y + 0.5 * torch.randn(4, *x.shape)
    return plain_losses.ed(net, 0.5, 4, 1.0), energy_discrepancy(net, x, around, 1.0)[0]


def _nce(net, x):
    law, log_z = plain_losses.GaussianNoise(x), nn.Parameter(torch.tensor(0.7))
    torch.manual_seed(0)
    values = noise_contrastive_estimation(net, log_z, x, law.sample(2 * len(x)), law)[0]
    return plain_losses.nce(net, log_z, law, 2), values


@pytest.mark.parametrize("pair", [_dsm, _ssm, _sm, _fdssm, _cnce, _mpf, _ed, _nce])
@pytest.mark.parametrize("shape", [(32, 2), (32, 1, 2, 3)])
def test_the_reference_minimises_the_same_loss(pair, shape):
    """On the same draws: value and gradient in the parameters, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        net, x = Bowl(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
        loss, ours = pair(net, x)
        torch.manual_seed(0)
        theirs = loss(x)
        for a, b in zip(
            *([v, *torch.autograd.grad(v, list(net.parameters()))] for v in (ours.mean(), theirs)), strict=True
        ):
            torch.testing.assert_close(a, b)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_noise_of_the_reference_is_the_gaussian_fit():
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[2.0, 0.3, 0.0], [0.0, 1.0, 0.4], [0.0, 0.0, 0.5]]
    )
    law = plain_losses.GaussianNoise(x)
    covariance = x.T.cov() + 1e-3 * x.var(0).mean() * torch.eye(3)
    known = torch.distributions.MultivariateNormal(x.mean(0), covariance)
    torch.testing.assert_close(law.log_prob(x), known.log_prob(x), rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    s = law.sample(100_000)
    assert ((s.T.cov() - covariance).abs() < 5 * (2 / 100_000) ** 0.5 * covariance.diagonal().max()).all()


class Normal(nn.Module):
    def forward(self, x):
        return 0.5 * (x**2).flatten(1).sum(1)


@pytest.mark.parametrize("what", ["langevin", "mala", "hmc"])
def test_the_samplers_of_the_reference_keep_the_law(what):
    """Chains that begin in N(0, 1), or in the law that a Langevin step of this size keeps, stay there: the variance of
    60,000 numbers, whose standard error is var sqrt(2 / n). HMC with an angle that is no fraction of a turn."""
    torch.manual_seed(0)
    n, eps = 20_000, 0.9
    std = (1 - eps**2 / 4) ** -0.5 if what == "langevin" else 1.0
    x = std * torch.randn(n, 1, 3)
    end = {
        "langevin": lambda: plain.langevin(Normal(), x, 10, eps),
        "mala": lambda: plain.mala(Normal(), x, 10, eps),
        "hmc": lambda: plain.hmc(Normal(), x, 10, 3, eps),
    }[what]()
    assert abs(float(end.var()) - std**2) < 4 * std**2 * (2 / (3 * n)) ** 0.5
    assert float((end != x).float().mean()) > 0.95  # and they do move


def test_the_floor_is_the_gradient():
    """By hand and by autograd, in x and in the parameters."""
    case = next(c for c in step_cases() if c.name.startswith("cd, perceptron 64-"))
    net = plain_net(build(compose_config, case.overrides, 1).objective.energy)
    x, hand = torch.randn(32, 64), HandMade(net)
    torch.testing.assert_close(hand.input_gradient(x), energy_and_grad(net, x)[1], rtol=1e-4, atol=1e-5)
    known = torch.autograd.grad(net(x).mean(), list(net.parameters()))
    for mine, theirs in zip(hand.parameter_gradient(x), known, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


class Counter:
    """How many points pass through a network's first linear or convolutional layer."""

    def __init__(self) -> None:
        self.points = 0

    def __call__(self, module, arguments, result) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d) and (module.weight.shape[1] in (2, 64) or module.weight.ndim == 4):
            self.points += len(arguments[0])


SMALL = [c for c in step_cases() if "perceptron 2-" in c.where and c.what != "multi_dsm"]
DRAWN = [c for c in sampler_cases() if "perceptron 2-" in c.where]


@pytest.mark.parametrize("case", [*SMALL, *DRAWN], ids=lambda c: c.what)
def test_contestants_send_equally_many_points_through_the_network(case, images):
    """ours and the reference, exactly: 2-128-128-1, so that only the first layer has two inputs."""
    seen = {}
    for name in ("ours", "plain"):
        found = contestants(case, compose_config, 1, images, [], only=name)
        if name == "ours" and case.kind == "samplers":
            found.work[name]()  # a sampler that adapts has begun
        counter = Counter()
        hook = nn.modules.module.register_module_forward_hook(counter)
        try:
            found.work[name]()
        finally:
            hook.remove()
        seen[name] = counter.points
    assert seen["ours"] == seen["plain"] > 0


def test_every_objective_takes_part():
    """One that is added is to be raced too, or left out by name with a reason."""
    assert set(COUNTS) == set(names("objective"))


def test_a_peer_leaves_torch_as_it_was():
    peers = pytest.importorskip("ebm_lab.benchmark.peers")
    before = torch.get_float32_matmul_precision()
    for name in peers.versions():
        peers.quietly_import(peers.PEERS[name] + (".core.base_trainer" if name == "torchebm" else ""))
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("case", [c for c in (*SMALL, *DRAWN) if c.what in ("cd", "pcd", "dsm", "ssm", "hmc")], ids=str)
def test_peers_run_where_they_are_installed(case, images):
    from ebm_lab.benchmark.peers import versions

    if not versions():
        pytest.skip("pip install -e '.[bench]'")
    for peer in versions():
        found = contestants(case, compose_config, 1, images, [peer], only=peer)
        assert set(found.work) | set(found.absent) == {peer}
        for work in found.work.values():
            work()


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"only": "stepx"}, "only=stepx"),
        ({"only": ","}, "only=,"),
        ({"threads": "0"}, "threads=0"),
        ({"threads": "two"}, "threads=two"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, told):
    with pytest.raises(UserError, match=told) as problem:
        benchmark(**arguments)
    assert "\n" not in str(problem.value)


def test_parts_come_in_their_order():
    assert chosen("steps, samplers") == ["samplers", "steps"]
    assert counted("1") == [1]


def test_a_job_says_what_the_config_says(images):
    case = next(c for c in step_cases() if c.name.startswith("pcd, perceptron 2-"))
    trainer = build(compose_config, case.overrides, 1)
    told = job(case, trainer)
    assert (told.steps, told.counts["buffer_size"]) == (10, 1000)
    assert told.eps == pytest.approx(0.1 * trainer.dataset.scale)
    start = told.start(100_000)
    assert float(start.std(0).mean()) == pytest.approx(trainer.dataset.scale, rel=0.02)
