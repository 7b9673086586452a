"""Bits through the same lab: a discrete data set, an energy with conditional laws, block Gibbs chains, the same pcd."""

import itertools

import pytest
import torch
from torch import nn

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import evaluate
from ebm_lab.core.interfaces import Chain, Dataset, Energy, Sampler
from ebm_lab.core.registry import register
from ebm_lab.runs.assemble import assemble
from ebm_lab.runs.load import load_run
from ebm_lab.runs.train import train
from tests.exhaustive import cases

STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
PATTERNS = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])


class FairBits:
    """Coins: they can be drawn, and have no `log_prob`."""

    def sample(self, n, generator):
        return torch.bernoulli(torch.full((n, 6), 0.5), generator=generator)


@register("dataset", "test_bits")
class Bits(Dataset):
    """One of two patterns of six bits, each bit turned with probability 0.1."""

    offers = frozenset({"discrete", "binary"})
    start = FairBits()

    def __init__(self, *, n: int) -> None:
        g = torch.Generator().manual_seed(0)
        x = PATTERNS[torch.randint(2, (n,), generator=g)]
        x = (x + torch.bernoulli(torch.full_like(x, 0.1), generator=g)) % 2
        self.train, self.val, self.test = x[::2], x[1::4], x[3::4]

    def log_prob(self, x):
        turned = (x[:, None] != PATTERNS).sum(2)
        return (0.5 * 0.1**turned * 0.9 ** (6 - turned)).sum(1).log()


@register("energy", "test_rbm")
class RBM(Energy):
    """E(x) = -b . x - sum_j softplus(c_j + W_j . x): hidden bits are summed out; given them the x are independent."""

    offers = frozenset({"energy", "conditionals"})
    needs = (Need("dataset", "binary"),)

    def __init__(self, dataset, *, hidden: int) -> None:
        super().__init__()
        self.w = nn.Parameter(0.1 * torch.randn(hidden, dataset.mean.numel()))
        self.b, self.c = nn.Parameter(torch.zeros(dataset.mean.numel())), nn.Parameter(torch.zeros(hidden))

    def forward(self, x):
        return -(x @ self.b) - nn.functional.softplus(x @ self.w.T + self.c).sum(1)

    def sweep(self, x, draw):
        return draw(torch.sigmoid(draw(torch.sigmoid(x @ self.w.T + self.c)) @ self.w + self.b))


@register("sampler", "test_block_gibbs")
class BlockGibbs(Sampler):
    """`steps` exact sweeps."""

    offers = frozenset({"stationary", "exact"})
    needs = (Need("energy", "conditionals"), Need("dataset", "discrete"))

    def __init__(self, *, steps: int) -> None:
        self.steps = steps

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        def draw(p):
            return (torch.empty_like(p).uniform_(generator=generator) < p).to(p)

        with torch.no_grad():
            for _ in range(self.steps):
                x = energy.sweep(x, draw)
        return Chain(x, {}, {}, 0)


def bits(tmp_path, steps=1500, **changes):
    base = ["objective=pcd", "dataset=two_moons", "recipe=none", "batch_size=64", "objective.buffer_size=256"]
    base += ["objective.restart=0", "optim.lr=0.02", "evaluation=[]", "logger=none", f"steps={steps}", "log_every=500"]
    config = compose_config([*base, f"output_dir={tmp_path}"])
    own = {"dataset": {"name": "test_bits", "n": 8000}, "energy": {"name": "test_rbm", "hidden": 8}}
    return {**config, **own, "sampler": {"name": "test_block_gibbs", "steps": 2}, **changes}


def test_a_sweep_leaves_the_law_as_it_is():
    """Exactly: the transition matrix of 64 states, put together from its probabilities, keeps exp(-E) / Z."""
    torch.manual_seed(0)
    rbm = RBM(Bits(n=100), hidden=3).double()
    nn.init.normal_(rbm.w), nn.init.normal_(rbm.b), nn.init.normal_(rbm.c)
    x, hidden = STATES.double(), torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).double()

    def law(p, values):  # the probability of each row of `values` under independent bits
        return (p[:, None] * values + (1 - p[:, None]) * (1 - values)).prod(2)

    up = law(torch.sigmoid(x @ rbm.w.T + rbm.c), hidden)
    move = up @ law(torch.sigmoid(hidden @ rbm.w + rbm.b), x)
    p = torch.softmax(-rbm(x), 0)
    torch.testing.assert_close(p @ move, p, rtol=1e-12, atol=1e-15)


def test_the_same_pcd_learns_bits(tmp_path):
    """KL(p_data || p_model) over all 64 states. 4,000 rows leave about 63 / (2 * 4000) = .008 nats to chance."""
    result = train(bits(tmp_path), quiet=True)
    truth = result.dataset.log_prob(STATES).double()
    model = torch.log_softmax(-evaluate(result.energy, STATES).detach().double(), 0)
    assert result.status == "finished"
    kl = float((truth.exp() * (truth - model)).sum())
    assert 0 <= kl < 0.05
    assert float((truth.exp() * (truth + 6 * torch.log(torch.tensor(2.0)))).sum()) > 0.5, "coins are far from them"


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"sampler": {"name": "test_block_gibbs", "steps": 2}, "energy": None},
            "draws each coordinate given the others",
        ),
        ({"dataset": None}, "needs zeros and ones"),
    ],
)
def test_what_does_not_fit_bits_is_told(changes, words, tmp_path):
    config = compose_config(["objective=pcd", "dataset=two_moons", "logger=none", f"output_dir={tmp_path}"])
    changes = {key: config[key] if value is None else value for key, value in changes.items()}
    with pytest.raises(UserError, match=words):
        assemble(bits(tmp_path, **changes))


@pytest.mark.parametrize(
    "objective", cases(["pseudo_likelihood", "score_entropy", "mpf", "ed", "nce"], ["pseudo_likelihood", "nce"])
)
def test_methods_without_chains_learn_a_law_of_six_bits(objective, tmp_path):
    """KL(truth || model) over all 64 states falls from .5 nats of independent bits; 100,000 rows leave about .0003 to
    chance."""
    run = train(
        compose_config(
            [
                *(
                    "dataset=random_bits",
                    "dataset.bits=6",
                    "dataset.train=100000",
                    f"objective={objective}",
                    "steps=600",
                ),
                *("evaluation=[likelihood]", "logger=none", "threads=1", "compile=off", f"output_dir={tmp_path}"),
            ]
        ),
        quiet=True,
    )
    assert run.summary["kl_forward"] < 0.03
    assert run.summary["nll_gap_base"] > 0.1
    log_p = load_run(run.path).log_prob(torch.tensor([[0.0, 1, 0, 1, 1, 0]]))
    assert log_p.log_z.source == "enumeration" and log_p.log_z.value == pytest.approx(run.summary["log_z"], abs=1e-6)


@pytest.mark.parametrize(
    "choice",
    [
        ["objective=pseudo_likelihood"],
        ["objective=pcd", "energy=rbm", "sampler=block_gibbs"],
        ["objective=pseudo_likelihood", "energy=ising", "energy.support=0.05"],
        ["objective=nce"],
    ],
    ids=lambda choice: " ".join(choice),
)
def test_a_run_on_a_table_of_bits_draws_bits_when_the_table_is_gone(choice, tmp_path):
    """Two columns that agree and one on its own: of 400 samples nearly all agree there too."""
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(400, 2, generator=g) < 0.5).int()
    rows = torch.stack([x[:, 0], x[:, 0], x[:, 1]], 1)
    table = tmp_path / "bits.csv"
    table.write_text("p,q,r\n" + "".join(",".join(map(str, row)) + "\n" for row in rows.tolist()))
    own = [f"dataset.path={table}", "dataset=array", *choice, "steps=1500", "batch_size=100", "evaluation=[]"]
    run = train(compose_config([*own, "logger=none", "compile=off", f"output_dir={tmp_path}"]), quiet=True)
    assert any("so they are bits" in line for line in run.dataset.notes)
    table.unlink()
    drawn = load_run(run.path, data="kept").sample(400, torch.Generator().manual_seed(1), steps=200)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert float((drawn[:, 0] == drawn[:, 1]).double().mean()) > 0.9
