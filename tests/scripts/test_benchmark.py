"""The benchmark: its statistics on made-up times, and that its contestants do the same work and do it right."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad
from ebm_lab.energies.mlp import MLP
from ebm_lab.loggers.files import Files
from ebm_lab.objectives.cnce import conditional_nce
from ebm_lab.objectives.dsm import denoising_score_matching
from ebm_lab.objectives.ed import energy_discrepancy
from ebm_lab.objectives.fdssm import finite_difference_ssm
from ebm_lab.objectives.mpf import minimum_probability_flow
from ebm_lab.objectives.nce import noise_contrastive_estimation
from ebm_lab.objectives.sm import implicit_score_matching
from ebm_lab.objectives.ssm import sliced_score_matching
from scripts.benchmark import compiling, plain, plain_losses, rounding, runner
from scripts.benchmark.cases import COUNTS, NOT_RACED, filled, sampler_cases, step_cases
from scripts.benchmark.command import benchmark, chosen, counted
from scripts.benchmark.field import contestants, images_file, job
from scripts.benchmark.floor import HandMade
from scripts.benchmark.forked import Apart, alone
from scripts.benchmark.gap import better, fitted, gap, lab, step_cost
from scripts.benchmark.growth import slope
from scripts.benchmark.loop import overhead
from scripts.benchmark.nets import plain as plain_net
from scripts.benchmark.ours import build
from scripts.benchmark.process import high_water
from scripts.benchmark.targets import misses
from scripts.benchmark.timing import calibrate, median_interval, race, rank, rotated, timed
from scripts.benchmark.whole import publish
from tests.exhaustive import cases, exhaustive

ROOT = Path(__file__).resolve().parents[2]


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

    def blocks(self, name: str, seconds):
        """As a contestant of a race."""
        return lambda repeats: timed(self.work(name, seconds), repeats, self)


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
    race({name: clock.blocks(name, lambda: 1.0) for name in "abc"}, "a", 6, 0.5)
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

    field = {name: clock.blocks(name, seconds(f)) for name, f in (("slow", 1.5), ("same", 1.0), ("reference", 1.0))}
    result = race(field, "reference", 31, 0.02)
    spread = result.seconds["cpu"]["reference"]
    assert max(spread) > 3 * min(spread)
    slow, same = result.ratio("slow", "cpu"), result.ratio("same", "cpu")
    assert slow.low < 1.5 < slow.high and slow.low > 1.3
    assert same.low < 1.0 < same.high
    assert result.ratio("reference", "wall").middle == 1.0


def test_blocks_are_long_enough_for_the_clock():
    clock = Clock()
    block_of = clock.blocks("a", lambda: 3e-4)
    repeats = calibrate(block_of, 0.02)
    assert 0.02 <= repeats * 3e-4 <= 0.05
    assert block_of(repeats)[0] == pytest.approx(3e-4)


@pytest.mark.parametrize("call", range(1, 6))
def test_what_is_done_once_does_not_make_blocks_short(call):
    """A compiler that runs for a second in one of the first calls."""
    clock = Clock()
    repeats = calibrate(clock.blocks("a", lambda: 1.0 if len(clock.log) == call else 3e-4), 0.02)
    assert 0.02 <= repeats * 3e-4 <= 0.05


@pytest.mark.slow
def test_a_contestant_apart_has_a_process_and_its_memory_to_itself():
    with Apart(_holding) as first, Apart(_holding) as second:
        told = [a.told() for a in (first, second)]
        assert len({os.getpid(), *(t["process"] for t in told)}) == 3
        cpu, wall = first(1000)
        assert 0 < cpu < 0.1 and 0 < wall < 1.0
        assert [a.ask(_held) for a in (first, second)] == [1000, 0]
    assert not first.process.is_alive() and first.process.exitcode == 0


def _holding():
    held = []
    return lambda: held.append(bytes(1)), {"process": os.getpid()}


def _held(work):
    return len(work.__closure__[0].cell_contents)


@pytest.mark.slow
def test_a_contestant_apart_owes_nothing_to_what_this_process_did():
    """A step that is traced, as for compiling or counting, starts autograd's threads on torch 2.11, which from then on
    refuses every backward pass in a child of that process. A contestant is no child of it, and has one thread until it
    asks for more."""
    from torch.fx.experimental.proxy_tensor import make_fx

    make_fx(_gradient, tracing_mode="fake")(torch.ones(3))
    torch.set_num_threads(2)
    told = alone(_differentiated)
    assert told == {"gradient": [2.0, 2.0, 2.0], "threads": 1, "parent": told["parent"]}
    assert told["parent"] != os.getpid()


def _gradient(x):
    x = x.detach().requires_grad_()
    x.square().sum().backward()
    return x.grad


def _differentiated():
    gradient = _gradient(torch.ones(3)).tolist()
    return {"gradient": gradient, "threads": torch.get_num_threads(), "parent": os.getppid()}


@pytest.mark.slow
def test_two_threads_live_in_processes_apart(tmp_path):
    """In a fresh process: a race that hung, as where a pool of threads did not live through a fork, is ended."""
    code = (
        "from scripts.benchmark import cases, runner; from ebm_lab.cli.compose import compose_config\n"
        "case = next(c for c in cases.sampler_cases() if c.name.startswith('langevin, perceptron'))\n"
        "runner.races('samplers', compose_config, 2, [2], print, [case])"
    )
    told = tmp_path / "told"
    with told.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file, start_new_session=True)
    try:
        process.wait(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "2 threads  langevin, perceptron" in told.read_text()


@pytest.mark.slow
def test_what_fails_in_a_process_apart_is_told():
    with pytest.raises(UserError, match="key=1: must be 2"):
        alone(_fail)
    with pytest.raises(RuntimeError, match="ended with status 7"):
        alone(partial(os._exit, 7))
    assert alone(partial(max, 2, 5)) == 5


def _fail():
    raise UserError("key=1: must be 2")


@exhaustive
def test_only_the_lab_s_contestants_keep_freed_memory(images, monkeypatch):
    """One race on images from end to end; the setting is told by what it was asked for."""
    case = next(c for c in step_cases() if c.name.startswith("mpf, conv"))
    asked = []
    monkeypatch.setattr(runner, "keep_freed_memory", lambda: asked.append(True))
    for name, kept in (("ours", 1), ("ours compiled", 1), ("plain", 0), ("plain, memory kept", 1), ("floor", 0)):
        asked.clear()
        work, told = runner.enter(name, case, compose_config, 1, images, [])
        assert (len(asked), told["absent"], callable(work)) == (kept, {}, True), name
    record = runner.one(case, compose_config, 2, 1, images, [])
    assert set(record["results"]) == {"ours", "ours compiled", "plain", "plain, memory kept", "floor"}
    assert record["gradients"] == 2 and sum(record["profile"].values()) <= 1


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return images_file(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("what", ["cd, perceptron 2-", "cd, conv", "langevin, Gaussian in 10-D, 100"])
def test_the_reference_has_our_energy(what, images):
    """In plain torch; values and gradients to float32 rounding."""
    case = next(c for c in (*step_cases(), *sampler_cases()) if c.name.startswith(what))
    trainer = build(compose_config, filled(case.overrides, images), 1)
    energy, x = trainer.state.objective.energy, torch.randn(16, *trainer.evaluations.dataset.mean.shape)
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


def test_the_reference_has_one_loss_of_many_levels_for_an_energy_and_its_score(images):
    """E = |x|^2 / 2 (1 + sigma^2) is the truth for N(0, I) data; on the same draws as a score, its gradient."""
    score = lambda x, sigma: -x / _wide(1 + sigma**2, x)  # noqa: E731
    energy = lambda x, sigma: 0.5 * (x**2).flatten(1).sum(1) / (1 + sigma**2)  # noqa: E731
    x = torch.randn(50_000, 2, generator=torch.Generator().manual_seed(1))
    values = []
    for loss in (
        plain_losses.multi_dsm(nn.Identity(), energy, 0.5, 2.0),
        plain_losses.multi_dsm_of_score(nn.Identity(), score, 0.5, 2.0),
    ):
        torch.manual_seed(0)
        values.append(loss(x).item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    known = math.log((1 + 2.0**2) / (1 + 0.5**2)) / 2 / math.log(4)  # the mean over ln sigma of sigma^2 / (1 + sigma^2)
    assert values[0] == pytest.approx(1 - known, abs=0.02)


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
    net = plain_net(build(compose_config, case.overrides, 1).state.objective.energy)
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


SINGLE = [c for c in step_cases() if c.what != "multi_dsm" and c.name[:20] != "sm, perceptron 64-12"]
"""Steps on one energy, not one per noise level; without the one whose second derivatives are taken in chunks, each of
which evaluates its points anew."""
SMALL = [c for c in SINGLE if "perceptron 2-" in c.where]
DRAWN = [c for c in sampler_cases() if "perceptron 2-" in c.where]


@pytest.mark.parametrize("case", cases([*SINGLE, *DRAWN], [*SMALL, *DRAWN], lambda c: c.name))
def test_contestants_send_equally_many_points_through_the_network(case, images, monkeypatch):
    """ours and the reference, exactly: of a perceptron by its first layer, of convolutions by all of them. What an
    energy knows of its own derivatives calls no layer, and is switched off."""
    seen = {}
    for shortcut in ("gradient", "derivatives"):
        monkeypatch.setattr(MLP, shortcut, lambda *_: None, raising=False)
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
    assert {*COUNTS, *NOT_RACED} == {
        path.stem for path in (Path(ebm_lab.__file__).parent / "objectives").glob("[!_]*.py")
    }


def test_a_peer_leaves_torch_as_it_was():
    peers = pytest.importorskip("scripts.benchmark.peers")
    before = torch.get_float32_matmul_precision()
    for name in peers.versions():
        peers.quietly_import(peers.PEERS[name] + (".core.base_trainer" if name == "torchebm" else ""))
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("case", [c for c in (*SMALL, *DRAWN) if c.what in ("cd", "pcd", "dsm", "ssm", "hmc")], ids=str)
def test_peers_run_where_they_are_installed(case, images):
    from scripts.benchmark.peers import versions

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


@pytest.mark.parametrize("content", ["not json", "[]", "{}"])
def test_a_folder_with_something_else_is_refused(tmp_path, content):
    (tmp_path / "benchmark.json").write_text(content)
    with pytest.raises(UserError, match="choose another folder"):
        benchmark(only="startup", out=str(tmp_path))


def test_parts_come_in_their_order():
    assert chosen("steps, samplers") == ["samplers", "steps"]
    assert counted("1") == [1]


@pytest.mark.slow
def test_the_price_of_compiling_is_told_cold_and_warm(monkeypatch):
    """A step of known cost each way, with a compiler of known cost in a process of its own."""
    seconds, cold = {compiling.OFF: 0.003, compiling.ON: 0.001}, [True]

    def burn(until):
        began = time.process_time()
        while time.process_time() - began < until:
            pass

    def stepping(how):
        calls = []

        def work():
            calls.append(how)
            if how == compiling.ON and len(calls) == 2:
                code = f"import time\nwhile time.process_time() < {0.6 if cold.pop() else 0.2}: pass"
                subprocess.run([sys.executable, "-c", code], check=True)
                cold.append(False)
            burn(seconds[how])

        return work

    class Here:
        """What `Apart` does, in this process."""

        def __init__(self, make):
            self.work, self.second = make()

        def __enter__(self):
            return self

        def __exit__(self, *problem):
            pass

        def told(self):
            return self.second

        def __call__(self, repeats):
            return timed(self.work, repeats)

    monkeypatch.setattr(compiling, "Apart", Here)
    monkeypatch.setattr(compiling, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(compiling, "primed", lambda cache: (None, None))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.setattr(compiling, "CHOICES", {"c": ()})
    monkeypatch.setattr(compiling.ours, "build", lambda compose, overrides, threads: overrides[-1])
    monkeypatch.setattr(compiling.ours, "stepping", stepping)
    (r,) = compiling.costs(compose_config, lambda line: None)
    assert r["eager"] == pytest.approx(0.003, rel=0.2) and r["compiled"] == pytest.approx(0.001, rel=0.2)
    assert 0.5 < r["cold"] < 0.9 and 0.15 < r["warm"] < 0.4
    assert r["even"]["cold"] == pytest.approx(r["cold"] / (r["eager"] - r["compiled"]))


@pytest.mark.parametrize(
    "steps, runs, eager, compiled, picks, over",
    [
        (4000, 1, 8.0, 16.0, "eager", 0.0),
        (9000, 1, 18.0, 21.0, "compiled", 21 / 18 - 1),
        (24000, 1, 48.0, 36.0, "compiled", 0.0),
        (4000, 5, 40.0, 20.0 + 12.0 + 4 * 1.5, "compiled", 0.0),
    ],
)
def test_what_auto_costs_is_the_sum_of_steps_and_compiling(steps, runs, eager, compiled, picks, over):
    """Steps of 2 and 1 ms, compiling for 12 and 1.5 s."""
    row = compiling.policy(COMPILED, steps, 512, True, runs)
    assert (row["eager"], row["compiled"], row["over"]) == pytest.approx((eager, compiled, over), abs=1e-9)
    assert row["picks"] == picks and row["auto_from"] == 8000
    assert (row["early"], row["missed"]) == pytest.approx((20.0 / 16.0 - 1, 0.0))


def test_the_rule_is_no_more_than_a_twentieth_worse_in_the_cases_of_the_page():
    recorded = json.loads((ROOT / "docs" / "benchmark.json").read_text(encoding="utf-8"))["parts"]
    costs = {record["name"]: record for record in recorded["compile"]["results"]}
    plans = recorded["policy"]["results"]
    rows = [compiling.policy(costs[r["name"]], r["steps"], r["numbers"], r["gradients"], r["runs"]) for r in plans]
    assert rows == plans and {r["name"] for r in rows} == set(costs) == set(compiling.CHOICES)
    assert max(r["over"] for r in rows) <= 0.05 and max(r["early"] for r in rows) <= 0.05


def test_the_policy_needs_measured_costs(tmp_path):
    with pytest.raises(UserError, match="only=compile,policy"):
        benchmark(only="policy", out=str(tmp_path))


def test_bfloat16_s_error_is_that_of_one_gradient_beside_the_other():
    r = rounding.error(compose_config, "dsm", "two_moons")
    assert 2**-12 < r["error"] <= r["most"] < 0.1 and not r["refused"]
    assert rounding.relative(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)


def test_a_job_says_what_the_config_says(images):
    case = next(c for c in step_cases() if c.name.startswith("pcd, perceptron 2-"))
    trainer = build(compose_config, case.overrides, 1)
    told = job(case, trainer)
    assert (told.steps, told.counts["buffer_size"]) == (10, 1000)
    assert told.eps == pytest.approx(0.1 * trainer.evaluations.dataset.scale)
    start = told.start(100_000)
    assert float(start.std(0).mean()) == pytest.approx(trainer.evaluations.dataset.scale, rel=0.02)


def test_the_slope_of_a_power_law_is_its_power():
    """In the upper half: what a fixed cost hides below does not count."""
    values = (1, 10, 100, 1000, 10_000, 100_000)
    assert slope(values, [3.0 * v**1.2 for v in values]) == pytest.approx(1.2)
    assert slope(values, [1e-3 + (v if v >= 1000 else 0) for v in values]) == pytest.approx(1.0, abs=1e-6)


SHORT = ["objective=ssm", "dataset=two_moons", "logger=none", "evaluation=[]", "device=cpu", "threads=1"]


class Truth(nn.Module):
    """The data's own density as an energy, off by a constant and tilted."""

    def __init__(self, dataset, tilt=0.0) -> None:
        super().__init__()
        self.dataset, self.tilt = dataset, tilt

    def forward(self, x):
        return 3.0 - self.dataset.log_prob(x) + self.tilt * (x * x).sum(1)


def test_the_truth_has_no_gap_and_a_tilted_truth_has_the_divergence():
    """The gap of p exp(-t |x|^2) / Z is log E_p exp(-t |x|^2) + t E_p |x|^2, to the two splits' own errors."""
    dataset = build(compose_config, ["dataset=eight_gaussians", "objective=sm"], 1).evaluations.dataset
    assert gap(Truth(dataset), dataset)["gap"] == pytest.approx(0.0, abs=1e-3)
    square, t = (dataset.test**2).sum(1), 0.2
    known = math.log(float((-t * (dataset.train**2).sum(1).double()).exp().mean())) + t * float(square.mean())
    sampling = t * float(square.std()) * (2 / len(square)) ** 0.5
    assert gap(Truth(dataset, t), dataset)["gap"] == pytest.approx(known, abs=4 * sampling)
    assert known > 4 * sampling


def test_a_run_of_the_lab_stays_within_its_budget(monkeypatch):
    """A pilot that believes a step to cost a fifth of what it does: what took longer is run again with fewer steps."""
    asked = []

    def fitted(compose, choice, steps):
        asked.append(steps)
        return {"cpu": 0.01 * steps, "gap": 0.1}

    monkeypatch.setattr("scripts.benchmark.gap.step_cost", lambda *_: 0.002)
    monkeypatch.setattr("scripts.benchmark.gap.fitted", fitted)
    assert lab(compose_config, "two_moons", "ssm", 0, 1.0)["cpu"] <= 1.0
    assert asked == pytest.approx([475, 95], abs=1)  # .95 of what the budget is believed to buy, and of what it buys


@pytest.mark.slow
def test_a_run_of_the_lab_tells_the_gap_that_train_py_tells(tmp_path):
    assert step_cost(compose_config, SHORT) > 0
    result = fitted(compose_config, SHORT, 30)
    own = ["steps=30", "optim.warmup=3", "evaluation=likelihood", f"output_dir={tmp_path}"]
    known = ebm_lab.train([*(s for s in SHORT if s != "evaluation=[]"), *own], quiet=True).summary["nll_gap"]
    assert result["steps"] == 30 and result["cpu"] > 0 and result["gap"] == pytest.approx(known, abs=1e-4)


def test_the_better_peer_has_the_smaller_gap_or_as_small_a_one_sooner():
    slow, quick = {"gap": 0.100, "cpu": 9.0}, {"gap": 0.104, "cpu": 5.0}
    assert better({"a": slow, "b": quick}) == "b"
    assert better({"a": slow, "b": {**quick, "gap": 0.11}}) == "a"
    assert better({"a": {"gap": math.nan, "cpu": 1.0}, "b": quick}) == "b"


@pytest.mark.slow
def test_what_the_loop_does_beside_its_steps_is_charged_to_the_loop(tmp_path, monkeypatch):
    """A log line that burns 200 ms of CPU time makes `fit` as much longer and leaves the steps as they are."""
    extra = ["objective=ssm", "dataset=two_moons", "energy.hidden=[8]", "batch_size=8", "checkpoint_every=20"]
    extra += ["log_every=10", "dataset.train=500"]

    def run(folder):
        blocks = overhead(build(compose_config, [*extra, f"output_dir={folder}"], 1), folder, 4)
        assert all(steps > 0.2 * (20 * 1e-4) for _, steps in blocks)  # 20 steps of some tenths of a millisecond
        return [whole - steps for whole, steps in blocks]

    usual, write = run(tmp_path / "usual"), Files.scalars

    def slow(self, values, step):
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        write(self, values, step)

    monkeypatch.setattr(Files, "scalars", slow)
    slowed = run(tmp_path / "slow")
    assert len(usual) == 4 and min(usual) > 0
    assert 0.3 < sorted(slowed)[1] - sorted(usual)[1] < 0.6  # two log lines a block


@exhaustive
def test_the_high_water_mark_rises_with_what_is_held():
    before = high_water()
    held = torch.ones(int(max(3e8, 1.5e6 * before) // 4))
    assert high_water() - before > 0.3 * held.numel() * 4 / 1e6 or high_water() > held.numel() * 4 / 1e6


def _record(what, where, kind="steps", **ratios):
    def result(middle):
        ratio = {"middle": middle, "low": middle - 0.02, "high": middle + 0.02}
        return {clock: {"seconds": middle * 1e-3, "ratio": ratio} for clock in ("cpu", "wall")}

    return {
        "kind": kind,
        "what": what,
        "where": where,
        "threads": 1,
        "chains": 256,
        "steps": 10,
        "results": {"plain": result(1.0), **{name.replace("_", " "): result(r) for name, r in ratios.items()}},
        "against": {"ours": {"torchebm": {"middle": 1.1, "low": 1.05, "high": 1.2}}} if "torchebm" in ratios else {},
        "absent": {"ebmkit": "has no such loss"},
        "profile": {"aten::addmm": 0.5},
    }


def test_misses_are_found_and_only_they():
    records = [
        _record("ssm", "perceptron 2-128-128-1", ours=0.9, ours_compiled=0.5),
        _record("cd", "perceptron 2-128-128-1", ours=0.9),
        _record("mpf", "perceptron 2-128-128-1", ours=1.08),
        _record("ed", "perceptron 2-128-128-1", ours=1.06),
        _record("nce", "perceptron 2-128-128-1", ours=1.0, torchebm=0.9),
    ]
    gaps = {"dataset": "d", "objective": "o", "best": "p", "peers": {"p": {"gap": 0.1}}}
    parts = {
        "steps": {"results": records},
        "levels": {
            "results": [
                _record("multi_dsm", "U-Net as score, images", "levels", ours=0.5, ours_compiled=0.4),
                _record("multi_dsm", "U-Net as energy, images", "levels", ours=1.2, ours_compiled=0.7),
            ]
        },
        "startup": {"results": {"startup_seconds": 5.5}},
        "loop": {"results": [{"name": "l", "overhead": {"middle": 1.02}}]},
        "growth": {"results": [{"what": "k", "slope": {"ours": 1.3}}]},
        "gap": {"results": [{**gaps, "ours": {"equal": {"gap": 0.05}, "half": {"gap": math.nan}}}]},
    }
    found = [(m.case.split(",")[0], m.target) for m in misses(parts)]
    assert found == [
        ("ssm", "at most 0.55, not compiled"),
        ("cd", "at most 0.80"),
        ("cd", "at most 0.65, not compiled"),
        ("mpf", "lower bound at most 1.05"),
        ("nce", "at most 0.70, not compiled"),
        ("nce", "not slower than torchebm"),
        ("multi_dsm", "at most 1.00, not compiled"),
        ("levels", "at most 2.2 steps of the score"),
        ("start-up to the first step", "at most 3 s"),
        ("growth with k", "slope at most 1.1"),
        ("gap", "below p's 0.100 nats at half the CPU time"),
    ]


def test_the_page_and_the_picture_hold_what_was_measured(tmp_path):
    machine = {"processor": "P", "cores": "2 cores", "torch": "2", "commit": "abc", "peers": {}}
    part = {"command": "python scripts/benchmark.py", "machine": machine, "minutes": 1.0, "rounds": 31}
    races = [_record("ssm", "perceptron 2-128-128-1", ours=0.9, ours_compiled=0.5, torchebm=1.2, floor=0.3)]
    growth = {"what": "k", "unit": "u", "values": [1, 10], "seconds": {"ours": [0.001, 0.01]}, "slope": {"ours": 1.0}}
    gaps = {
        "dataset": "two_moons",
        "objective": "ssm",
        "best": "torchebm",
        "peers": {"torchebm": {"gap": 0.25, "cpu": 3.0, "log_z_change": 1.0}},
        "ours": {"equal": {"gap": 0.125, "cpu": 2.9}, "half": {"gap": math.inf, "cpu": 1.4}},
    }
    record = {
        "parts": {
            "steps": {**part, "results": races},
            "levels": {
                **part,
                "results": [
                    _record("multi_dsm", "U-Net as score, images", "levels", ours=0.5),
                    _record("multi_dsm", "U-Net as energy, images", "levels", ours=0.8),
                ],
            },
            "compile": {**part, "results": [COMPILED]},
            "policy": {**part, "results": [compiling.policy(COMPILED, 4000, 512, True, 5)]},
            "bfloat16": {
                **part,
                "results": [{"dataset": "d", "objective": "o", "error": 0.0123, "most": 2.5, "refused": True}],
            },
            "loop": {**part, "results": [{"name": "l", "step": 0.002, "overhead": _interval(1.01)}]},
            "startup": {
                **part,
                "results": {"startup_seconds": 4.5, "startup_cpu_seconds": 3.5, "runs": {"startup_seconds": [4.5] * 3}},
            },
            "memory": {**part, "results": [{"name": "m", "megabytes": {"ours": {"before": 100.0, "peak": 150.0}}}]},
            "growth": {**part, "results": [growth]},
            "gap": {**part, "results": [gaps]},
        },
        "left_out": {"sm, images": "too long"},
    }
    files = publish(record, tmp_path)
    text = files[2].read_text()
    for told in (
        "0.90 (0.88 to 0.92) | 0.50 (0.48 to 0.52) | 1.20 (1.18 to 1.22) | 0.30",
        "| 0.30 (0.28 to 0.32) | 3.00 |",
        "## One training step at many noise levels, 1 thread, CPU time",
        "| multi_dsm, U-Net as energy, images | 1 | 1,250 | 0.80 (0.78 to 0.82) |",
        "U-Net as an energy costs 1.60 of its steps",
        "0.250 in 3.0 s, no Z |  | 0.125 in 2.9 s | inf in 1.4 s",
        "| l | 2.00 | 1.0100 (1.0090 to 1.0110) |",
        "| c | 2.00 | 1.00 | 12.0 | 12,000 | 1.5 | 1,500 |",
        "| c | 5 x 4,000 | 40.0 | 38.0 | compiled | 0.0 |",
        "| c | 8,000 | 25.0 | 0 |",
        "| d | `o` | 1.2 (250) | refused |",
        "4.50 s of wall time, with 3.50 s of CPU time over all threads",
        "| m | 150 (+50) |  |  |  |",
        "| k (u) | 1 to 10 | 1, 10 | 1.00 |  |",
        "- sm, images: too long",
        "- ebmkit: has no such loss (`ssm`, `multi_dsm`)",
        "| gap, ssm, two_moons | below torchebm's 0.250 nats at half the CPU time | inf nats |",
    ):
        assert told in text, told
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    assert files[1].stat().st_size > 10_000


COMPILED = {"name": "c", "eager": 2e-3, "compiled": 1e-3, "cold": 12.0, "warm": 1.5}
COMPILED |= {"even": {"cold": 12000.0, "warm": 1500.0}}


def _interval(middle):
    return {"middle": middle, "low": middle - 0.001, "high": middle + 0.001}
