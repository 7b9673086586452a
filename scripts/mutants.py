"""Flip every sign and every factor 1/2 in the equations, one at a time, and see whether the tests notice.

    python scripts/mutants.py files=all jobs=2 [timeout=300]
    python scripts/mutants.py files=ebm_lab/objectives/dsm.py,ebm_lab/core/metropolis.py jobs=1
    python scripts/mutants.py files=all list=true           # what would be tried, and how many

A mutant is one change of one file in a copy of the project: a + b to a - b and back (+= and -= too), -a to a, 0.5 to
1.0, a / 2 to a / 1. Against it run the fast tests that reach the file by imports, nearest first, until one fails. A
mutant that no test notices has survived; exit status 1 where fewer than 95 % were killed. What is left out, and why,
stands in SKIPPED_CALLS and EQUIVALENT.
"""

import ast
import copy
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from pydantic import PositiveFloat, PositiveInt

from ebm_lab.cli.tools import main
from ebm_lab.core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (
    "ebm_lab/objectives/*.py",
    "ebm_lab/samplers/*.py",
    *(f"ebm_lab/core/{name}.py" for name in ("contrastive", "distributions", "kernels", "metropolis", "perceptron")),
    "ebm_lab/training/compiled.py",
    "ebm_lab/training/worth.py",
)
BAR = 0.95

SKIPPED_CALLS = ("view", "reshape", "expand", "repeat", "flatten", "sum", "mean", "chunk", "split", "size", "range")
"""Arithmetic inside these calls, and inside subscripts, is shapes, axes and indices: a wrong one raises."""

EQUIVALENT: dict[tuple[str, str], str] = {
    ("ebm_lab/objectives/ed.py", "y = x + self.blur * torch.empty_like(x).normal_"): "the noise's law is symmetric",
    ("ebm_lab/objectives/ed.py", "y + self.blur * around"): "the noise's law is symmetric",
    ("ebm_lab/core/distributions.py", "noise.normal_"): "the noise's law is symmetric",
    ("ebm_lab/core/distributions.py", "z.normal_"): "the noise's law is symmetric",
    ("ebm_lab/objectives/cnce.py", "x + shift, 0.0)[0] for shift in (-v, v)"): "both signs are taken",
}
"""(file, a piece of the line): why a change there leaves what is computed as it is."""


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    what: str
    text: str
    source: str
    """The whole mutated file."""


def mutants(*, files: str, jobs: PositiveInt = 1, timeout: PositiveFloat = 300.0, list: bool = False) -> None:
    """Mutate `files` (comma-separated, or all) and run the tests; see the top of this file."""
    found = [m for file in chosen(files) for m in mutations(file)]
    print(f"{len(found)} mutants in {len({m.file for m in found})} files")
    if list:
        for m in found:
            print(f"{m.file}:{m.line}  {m.what:<12}  {m.text}  [{', '.join(tests_of(m.file))}]")
        return
    trees: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory() as scratch:
        for job in range(jobs):
            trees.put(plant(Path(scratch) / str(job)))
        sound(sorted({m.file for m in found}), trees)
        began = time.perf_counter()
        with ThreadPoolExecutor(jobs) as pool:
            killed = [
                told(m, by) for m, by in zip(found, pool.map(lambda m: attack(m, trees, timeout), found), strict=True)
            ]
    seconds = time.perf_counter() - began
    share = sum(killed) / max(1, len(killed))
    print(f"{sum(killed)} of {len(killed)} killed, {100 * share:.1f} %; {seconds:.0f} s with {jobs} process(es)")
    if share < BAR:
        sys.exit(1)


def chosen(files: str) -> list[str]:
    if files == "all":
        paths = [p for pattern in TARGETS for p in ROOT.glob(pattern)]
        return sorted(str(p.relative_to(ROOT)) for p in paths if p.name != "__init__.py")
    names = files.split(",")
    for name in names:
        if not (ROOT / name).is_file():
            raise UserError(f"files={name}: no such file in {ROOT.name}")
    return names


def mutations(file: str) -> Iterator[Mutant]:
    """All mutants of a file, in its order."""
    text = (ROOT / file).read_text()
    tree, lines = ast.parse(text), text.splitlines()
    left_out = shapes(tree)
    for index, node in enumerate(ast.walk(tree)):
        what = change(copy.copy(node))
        if what is None or id(node) in left_out or not isinstance(node, ast.expr | ast.stmt):
            continue
        line = lines[node.lineno - 1].strip()
        if any(f == file and piece in line for f, piece in EQUIVALENT):
            continue
        twin = copy.deepcopy(tree)
        change([*ast.walk(twin)][index])
        yield Mutant(file, node.lineno, what, line, ast.unparse(ast.fix_missing_locations(twin)))


def change(node: ast.AST) -> str | None:
    """Mutate a node in place, and say how; None where there is nothing to mutate."""
    if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        plus = isinstance(node.op, ast.Add)
        node.op = ast.Sub() if plus else ast.Add()
        return "+ to -" if plus else "- to +"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
        return "-a to a"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _is(node.right, 2):
        node.right = ast.Constant(1)
        return "/ 2 to / 1"
    if isinstance(node, ast.Constant) and _is(node, 0.5):
        node.value = 1.0
        return "0.5 to 1.0"
    return None


def _is(node: ast.AST, value: float) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == value


def shapes(tree: ast.AST) -> set[int]:
    """Ids of the nodes within subscripts and the calls of SKIPPED_CALLS, and of [1] * (n - 1) lists."""
    found: set[int] = set()
    for node in ast.walk(tree):
        inside: list[ast.AST] = []
        if isinstance(node, ast.Subscript):
            inside = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            inside = [*node.args] if name in SKIPPED_CALLS else []
        elif isinstance(node, ast.BinOp) and isinstance(node.left, ast.List):
            inside = [node.right]
        found |= {id(n) for part in inside for n in ast.walk(part)}
    return found


@functools.cache
def imported(path: Path) -> set[str]:
    """The project's files that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = {name.replace(".", "/") + ".py" for name in names if name.startswith(("ebm_lab.", "tests."))}
    return {f for f in files if (ROOT / f).is_file()}


@functools.cache
def tests_of(file: str) -> list[str]:
    """Test files that reach `file` by imports, its own first, then the nearest."""
    distance: dict[str, int] = {}
    for test in sorted((ROOT / "tests").glob("test_*.py")):
        seen, front, steps = set(), {str(test.relative_to(ROOT))}, 0
        while front and file not in front:
            seen |= front
            front, steps = {f for g in front for f in imported(ROOT / g)} - seen, steps + 1
        if file in front:
            distance[str(test.relative_to(ROOT))] = steps
    own = f"tests/test_{Path(file).stem}.py"
    return sorted(distance, key=lambda test: (test != own, distance[test], test))


def plant(folder: Path) -> Path:
    """A copy of the project."""
    for name in ("ebm_lab", "tests", "configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "train.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def run(tree: Path, tests: list[str], timeout: float) -> str | None:
    """None where the tests pass; else what failed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        "--tb=no",
        *tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"no end within {timeout:g} s"
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].split(" ", 1)[1] if failed else f"exit status {done.returncode}"


def sound(files: Iterable[str], trees: "Queue[Path]") -> None:
    """The tests that reach the files must pass before anything is changed."""
    tests: set[str] = set()
    for file in files:
        reached = tests_of(file)
        tests.update(reached)
        if not reached:
            print(f"{file}: no test imports it", file=sys.stderr)
    tree = trees.get()
    trees.put(tree)
    if tests and (problem := run(tree, sorted(tests), timeout=3600)) is not None:
        raise UserError(f"the tests fail as they are: {problem}")


def attack(mutant: Mutant, trees: "Queue[Path]", timeout: float) -> str | None:
    """What killed the mutant, or None."""
    tests = tests_of(mutant.file)
    if not tests:
        return None
    tree = trees.get()
    target = tree / mutant.file
    try:
        target.write_text(mutant.source)
        return run(tree, tests, timeout)
    finally:
        shutil.copy(ROOT / mutant.file, target)
        trees.put(tree)


def told(mutant: Mutant, by: str | None) -> bool:
    fate = f"killed by {by}" if by else "SURVIVED"
    print(f"{mutant.file}:{mutant.line}  {mutant.what:<10}  {mutant.text}  {fate}", flush=True)
    return by is not None


if __name__ == "__main__":
    main(mutants)
