"""The study of discrete models: its runs compose, its bars are of its runs, and its page can be written."""

import sys

import pytest

from ebm_lab.cli.compose import compose_config
from tests.cli.test_presets import script

sys.modules.setdefault("tables_of_runs", script("tables_of_runs"))
sys.modules["discrete_speed"] = script("discrete_speed")
study = script("discrete")
RUNS = [(n, g, r) for n, s in study.STUDIES.items() for g in s.groups for r in s.rows]


def test_every_bar_is_of_a_run_of_the_study():
    for bar in study.BARS:
        own = study.STUDIES[bar.study]
        assert bar.group in own.groups and bar.row in own.rows and bar.metric in own.metrics, bar


@pytest.mark.parametrize("name, group, kind", RUNS)
def test_every_run_composes_for_discrete_data(name, group, kind):
    own = study.STUDIES[name]
    choices = f"{own.groups[group]} {own.rows[kind]} evaluation=[{own.evaluation}] {study.QUIET}"
    config = compose_config(choices.split())
    assert config["sampler"]["name"] in ("gwg", "block_gibbs")


def test_the_page_is_written_from_runs_and_measurements():
    """One run that reaches its bar and one that misses it, and a row of each measurement."""
    done = [
        {"study": "random", "group": "12 bits", "row": row, "seed": 0, "kl_forward": kl, "train_cpu_seconds": 9}
        for row, kl in (("pseudo_likelihood", 0.011), ("score_entropy", 0.2))
    ]
    speed = {"version": "0.16.0", "rows": [{"work": "a sweep", "size": "4 x 3", "ratio": 0.5, "low": 0.4, "high": 0.6}]}
    mixing = [{"sigma": 0.1, "sampler": "gwg", "flips": 1234.0, "ess_magnetisation": 56.0, "ess_energy": 78.0}]
    page = study.LAB.render(study.TEMPLATE, done, measured={"speed": speed, "mixing": mixing})
    assert "| **pseudo_likelihood** | 0.0110 | 9 | 1 |" in page
    assert "1 of 2 are met" in page and "- score_entropy:" in page and "where at most 0.05 was asked for" in page
    assert "| a sweep | 4 x 3 | **0.500** | 0.400 to 0.600 |" in page
    assert "| 0.1 | gwg | 1234 | 56 | 78 |" in page
    assert "Couplings of an Ising model" not in page
