"""Modules by their old names: a plugin of before still finds what it imports."""

import importlib
import sys
from pathlib import Path

import pytest

from ebm_lab.renamed import RENAMED
from tests import commands

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("old", RENAMED)
def test_a_module_of_before_is_the_one_of_today(old):
    with pytest.warns(FutureWarning, match=f"ebm_lab.{old} is now ebm_lab.{RENAMED[old]}"):
        sys.modules.pop(f"ebm_lab.{old}", None)
        found = importlib.import_module(f"ebm_lab.{old}")
    today = importlib.import_module(f"ebm_lab.{RENAMED[old]}")
    assert found is today and today.__name__ == f"ebm_lab.{RENAMED[old]}" == today.__spec__.name
    sys.modules.pop(f"ebm_lab.{old}", None)


PLUGIN = """
from ebm_lab.core.distributions import IsotropicGaussian
from ebm_lab.core.interfaces import Energy
from ebm_lab.core.levels import NoiseEnergy
from ebm_lab.core.registry import register
from ebm_lab.core.view import EvalView, Report

@register("evaluation", "count_rows")
class CountRows:
    def __init__(self): ...
    def applies(self, view: EvalView): return None
    def __call__(self, view: EvalView): return Report({"rows": float(len(view.held_out))})
"""


@pytest.mark.slow
def test_a_plugin_of_before_trains_and_is_told_where_its_imports_are_now(tmp_path):
    (tmp_path / "old_plugin.py").write_text(PLUGIN, encoding="utf-8")
    words = ["plugins=[old_plugin]", "objective=dsm", "dataset=two_moons", "dataset.train=300", "dataset.held_out=123"]
    words += ["steps=2", "logger=none", "+evaluation.count_rows.name=count_rows"]
    done = commands.run("train.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ebm_lab.core.view is now ebm_lab.core.eval_view" in done.stderr
    assert "rows" in done.stdout and "123" in done.stdout
