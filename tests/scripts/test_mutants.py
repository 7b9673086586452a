"""The script that breaks equations: what it finds, what it leaves out, and which tests it calls."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    return loaded("mutants")


@pytest.fixture(scope="module")
def kinds():
    return loaded("mutations")


def loaded(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        return importlib.import_module(name)


BREAKS = {
    "a + b": "a - b",
    "a - b": "a + b",
    "-a": "+a",
    "a / 2": "a / 1",
    "a ** 2": "a ** 1",
    "0.5": "1.0",
    "x.sqrt()": "x.clone()",
    "torch.sqrt(x)": "(lambda x: x)(x)",
    "math.log(n)": "(lambda x: x)(n)",
    "e.detach().mean()": "e.detach().median()",
    "x.median()": "x.mean()",
    "x.var(1)": "x.var(1, correction=0)",
    "x.std()": "x.std(correction=0)",
    "x.T.cov(correction=0)": "x.T.cov()",
    "max(a, b)": "min(a, b)",
    "x.amin(0)": "x.amax(0)",
    "x.clamp_max(0)": "x.clamp_min(0)",
    "torch.maximum(a, b)": "torch.minimum(a, b)",
    "near.any(0)": "near.all(0)",
    "a < b": "a > b",
    "a >= b": "a <= b",
    "a == b": "a != b",
    "a and b": "a or b",
}
LEFT = ["a * b", "a / 3", "2.0", "not a", "x.mean(1)", "x.log_prob(y)", "a is None", "torch.logsumexp(x, dim=0)"]


@pytest.mark.parametrize("before, after", [*BREAKS.items(), *((same, None) for same in LEFT)])
def test_each_mutation(kinds, before, after):
    node = ast.parse(before, mode="eval").body
    assert (kinds.change(node) is not None) == (after is not None)
    assert ast.unparse(node) == (after or before)


def test_what_cannot_matter_is_left_alone(kinds):
    """Axes, lines for the user and functions that draw; a sum of numbers is arithmetic, a sum along an axis is not."""
    lines = [
        "def report(x):",
        '    say(f"{x - 1} of {x ** 2}")',
        "    return x.quantile(q, -1) + torch.cat(parts, dim=-1)",
        "def plot(axes, x):",
        "    axes.plot(x - 1)",
        "def picture(x):",
        "    def draw(f): f.plot(x - 1)",
        "    return pictures.figure(draw, 6 - 1)",
        "def total(x): return sum(a - b for a, b in x), x.sum(-1)",
    ]
    assert [(line, what) for line, what, _ in kinds.mutated("\n".join(lines))] == [(3, "+ to -"), (9, "- to +")]


def test_one_change_per_mutant_and_none_in_shapes(script, tmp_path, monkeypatch):
    lines = [
        "def f(x, y):",
        '    """a - b"""',
        "    x += y",
        "    return 0.5 * x[-1].view(-1, y - 1) + y.repeat(1, *[1] * (x.ndim - 1)) / 2",
    ]
    (tmp_path / "m.py").write_text("\n".join(lines))
    monkeypatch.setattr(script, "ROOT", tmp_path)
    found = [*script.mutations("m.py")]
    assert sorted((m.line, m.what) for m in found) == [
        (3, "+ to -"),
        (4, "+ to -"),
        (4, "/ 2 to / 1"),
        (4, "0.5 to 1.0"),
    ]
    whole = ast.unparse(ast.parse((tmp_path / "m.py").read_text())).splitlines()
    for mutant in found:
        assert sum(a != b for a, b in zip(mutant.source.splitlines(), whole, strict=True)) == 1


def test_the_nearest_tests_come_first(script):
    assert script.tests_of("ebm_lab/objectives/dsm.py")[0] == "tests/objectives/test_dsm.py"
    assert "tests/scripts/test_theory.py" in script.tests_of("ebm_lab/objectives/dsm.py")
    assert script.tests_of("ebm_lab/samplers/_metropolis.py")[0] == "tests/samplers/test_metropolis.py"


def test_what_is_called_equivalent_still_stands_in_the_source(script):
    for file, piece in script.EQUIVALENT:
        assert piece in (ROOT / file).read_text(), (file, piece)


def test_a_sample_is_so_many_of_them_in_their_order_and_the_same_for_the_same_seed(script):
    every = [script.Mutant("a.py", i, "-a to a", "", "") for i in range(50)]
    few = script.some(every, 10, 0)
    lines = [m.line for m in few]
    assert len(few) == 10 and lines == sorted(set(lines)) and few == script.some(every, 10, 0)
    assert few != script.some(every, 10, 1) and script.some(every, None, 0) == script.some(every, 50, 0) == every


def test_evaluations_and_the_statistics_behind_them_are_among_the_targets_and_have_tests(script):
    files = script.chosen("all")
    assert {f"ebm_lab/evaluation/{p.name}" for p in (ROOT / "ebm_lab/evaluation").glob("[a-z]*.py")} <= set(files)
    wanted = "models/perceptron statistics/diagnostics evaluation/_annealed_importance statistics/stein"
    wanted += " training/compile/step training/ema"
    assert {f"ebm_lab/{name}.py" for name in wanted.split()} <= set(files)
    assert [file for file in files if not script.tests_of(file)] == []
    assert "tests/known_bugs/test_breaks_let_through.py" in script.tests_of("ebm_lab/statistics/diagnostics.py")
