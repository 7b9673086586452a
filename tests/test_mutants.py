"""The script that flips signs and halves: what it finds, what it leaves out, and which tests it calls."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mutants_script", ROOT / "scripts" / "mutants.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "before, after",
    [
        ("a + b", "a - b"),
        ("a - b", "a + b"),
        ("-a", "+a"),
        ("a / 2", "a / 1"),
        ("0.5", "1.0"),
        ("a * b", None),
        ("a / 3", None),
        ("2.0", None),
        ("not a", None),
    ],
)
def test_each_mutation(script, before, after):
    node = ast.parse(before, mode="eval").body
    assert (script.change(node) is not None) == (after is not None)
    assert ast.unparse(node) == (after or before)


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
    assert script.tests_of("ebm_lab/objectives/dsm.py")[0] == "tests/test_dsm.py"
    assert "tests/test_theory.py" in script.tests_of("ebm_lab/objectives/dsm.py")
    assert script.tests_of("ebm_lab/core/metropolis.py")[0] == "tests/test_metropolis.py"


def test_what_is_called_equivalent_still_stands_in_the_source(script):
    for file, piece in script.EQUIVALENT:
        assert piece in (ROOT / file).read_text(), (file, piece)
