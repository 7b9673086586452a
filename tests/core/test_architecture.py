"""The floors of the house: imports point down, and each outside library stays in its place."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = (
    *("core", "statistics", "distributions", "models"),
    ("datasets", "energies", "objectives", "samplers", "evaluation", "loggers"),
    *("training", "runs", "reports", "cli"),
)
"""The packages from the lowest up; those on one floor don't import each other."""
FLOOR = {name: i for i, floor in enumerate(ORDER) for name in ([floor] if isinstance(floor, str) else floor)}
FILES = sorted((ROOT / "ebm_lab").rglob("*.py"))


def place(parts):
    return parts[1].removesuffix(".py")


def imports(path, everywhere=True):
    """(module, at top level?) for each import of a file."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in top


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    here = place(path.relative_to(ROOT).parts)
    for module, top in imports(path):
        parts = module.split(".")
        if parts[0] == "ebm_lab" and len(parts) > 1 and here not in ("__init__", "renamed"):
            there = parts[1]
            assert FLOOR[there] < FLOOR[here] or there == here, f"{here} imports {module}"
        if parts[0] in ("hydra", "omegaconf"):
            assert here == "cli", f"{module} is for the edge only"
        if parts[0] == "wandb":
            assert path.stem == "wandb" and not top, "wandb is imported when it is used"
        if parts[0] in ("sklearn", "matplotlib", "torchvision", "zuko", "jinja2"):
            lazy = path.stem == "estimator"  # a class that inherits from scikit-learn's, imported on first use
            assert not top or lazy, f"{module} is slow to import: import it where it is used"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_functional_differentiates_an_energy(path):
    if path.name != "functional.py":
        assert "autograd.grad" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small_and_open_with_what_they_are(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    assert ast.get_docstring(ast.parse(text)), "a file opens with its equation or its purpose"


def test_importing_the_package_has_no_side_effect():
    """No torch setting changes, and nothing heavy is loaded."""
    import subprocess
    import sys

    heavy = ("torch", "hydra", "wandb", "sklearn", "matplotlib")
    code = f"import sys, ebm_lab; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
