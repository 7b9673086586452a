"""The laws of scripts/sampling.py: their draws, energies and standardised statistics belong together."""

import pytest

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad
from scripts import sampling
from scripts.sampling import SAMPLERS, chosen, measure, per_thousand, shown, table
from scripts.sampling_laws import LAWS, Cell


@pytest.mark.parametrize("name", LAWS)
def test_statistics_have_mean_0_and_std_1_and_the_energy_is_the_draws(name, generator):
    """50,000 draws, 4.5 standard errors (a hundred statistics in all); E[x . grad E] = d is Stein's identity."""
    law, n = LAWS[name], 50_000
    x = law.draw(n, generator)
    t = law.statistics(x)
    assert (t.mean(0).abs() < 4.5 / n**0.5).all()
    assert ((t.square().mean(0) - 1).abs() < 4.5 * t.square().std(0) / n**0.5).all()
    product = (x * energy_and_grad(law.energy, x)[1]).sum(1)
    assert abs(float(product.mean()) - x.shape[1]) < 4.5 * float(product.std()) / n**0.5


def test_few_effective_samples_are_a_bound():
    cell = Cell(ess=32.0, chains=16, gradients=1000, bias=0.1, step_size=0.1, acceptance=0.9)
    assert per_thousand(cell) == (4.0, True) and shown(cell) == "< 4"
    assert per_thousand(cell._replace(ess=160.0)) == (10.0, False)


@pytest.mark.parametrize("name", ["langevin", "mala", "hmc"])
def test_gradients_are_counted_as_longer_calls_take_them(name):
    """Calls of one step: 1, 1 and 5 gradients each."""
    cell = measure(name, "two modes", 50, 8)
    assert 50 <= cell.gradients < 55 and (name != "hmc" or cell.gradients % 5 == 0)


def test_samplers_of_blackjax_need_that_library(monkeypatch, capsys):
    monkeypatch.setattr(sampling, "INSTALLED", False)
    assert chosen("all") == list(SAMPLERS)
    assert "blackjax is not installed" in capsys.readouterr().out
    assert chosen("mala,hmc") == ["mala", "hmc"]
    with pytest.raises(UserError, match=r"samplers=blackjax.nuts: needs the package blackjax"):
        chosen("mala,blackjax.nuts")
    with pytest.raises(UserError, match="samplers=blackjax.nut: .*did you mean 'blackjax.nuts'"):
        chosen("blackjax.nut")


def test_rows_of_blackjax_follow_the_labs_own():
    cell = Cell(ess=6400.0, chains=64, gradients=1000, bias=0.1, step_size=0.1, acceptance=0.9)
    found = {(name, title): cell for name in ("blackjax.mala", "nuts", "mala") for title in LAWS}
    rows = table(found, shown).split("\n")[2:]
    assert [row.split("`")[1] for row in rows] == ["mala", "blackjax.mala", "nuts"]
    assert rows[0].endswith("| 100 | 100 | 100 | 100 | 100 |")
