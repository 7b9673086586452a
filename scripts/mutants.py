"""Change the equations in small ways, one at a time, and check whether a test fails.

    python scripts/mutants.py files=all jobs=2 sample=1000 [seed=0] [timeout=300]
    python scripts/mutants.py files=ebm_lab/objectives/dsm.py,ebm_lab/samplers/_metropolis.py jobs=1
    python scripts/mutants.py files=all list=true           # only list the mutants

A mutant is one change of one file in a copy of the project: a sign, a factor 2, a missing root, a mean for a median
(scripts/mutations.py names them all). The fast tests that reach the file by imports run against it, nearest first, till
one fails. A mutant for which no test fails has survived; the exit status is 1 if fewer than 95 % were killed. `sample`
takes this many mutants at random, by `seed`. mutations.py lists what is never changed, EQUIVALENT what changes nothing.
"""

import ast
import functools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from mutations import mutated
from pydantic import PositiveFloat, PositiveInt

from ebm_lab.cli.tools import main
from ebm_lab.core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (
    "ebm_lab/objectives/*.py",
    "ebm_lab/samplers/*.py",
    "ebm_lab/evaluation/*.py",
    "ebm_lab/statistics/*.py",
    *(f"ebm_lab/distributions/{name}.py" for name in ("elementary", "flow")),
    *(
        f"ebm_lab/models/{name}.py"
        for name in ("perceptron", "conditioned_perceptron", "conditioning", "players", "probability_flow", "recovery")
    ),
    *(
        f"ebm_lab/training/{name}.py"
        for name in ("compile/step", "compile/passes", "compile/policy", "ema", "gradients", "meter")
    ),
)
BAR = 0.95

EQUIVALENT: dict[tuple[str, str], str] = {
    ("ebm_lab/objectives/ed.py", "y = x + self.blur * torch.empty_like(x).normal_"): "the noise's law is symmetric",
    ("ebm_lab/objectives/ed.py", "y + self.blur * around"): "the noise's law is symmetric",
    ("ebm_lab/objectives/drl.py", "x = batch.x + per_sample(low"): "the noise's law is symmetric",
    ("ebm_lab/objectives/drl.py", "seen = x + per_sample(gap"): "the noise's law is symmetric",
    ("ebm_lab/objectives/cdrl.py", "per_sample(s, h) * torch.empty_like"): "the noise's law is symmetric",
    ("ebm_lab/distributions/elementary.py", "noise.normal_"): "the noise's law is symmetric",
    ("ebm_lab/distributions/elementary.py", "z.normal_"): "the noise's law is symmetric",
    ("ebm_lab/objectives/coopnets.py", "torch.empty_like(z).normal_"): "the noise's law is symmetric",
    ("ebm_lab/objectives/vera.py", "proposals = z + eta * e"): "the noise's law is symmetric",
    ("ebm_lab/objectives/vera.py", "start.log_prob(x)) - math.log(2)"): "a constant of the log weights cancels",
    ("ebm_lab/models/players.py", "self(z) + self.std() * e"): "the noise's law is symmetric",
    ("ebm_lab/objectives/cnce.py", "x + shift, 0.0)[0] for shift in (-v, v)"): "both signs are taken",
}
"""By file and piece of a line: why a change there does not change the result."""


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    what: str
    text: str
    source: str
    """The whole mutated file."""


def mutants(
    *,
    files: str,
    jobs: PositiveInt = 1,
    sample: PositiveInt | None = None,
    seed: int = 0,
    timeout: PositiveFloat = 300.0,
    list: bool = False,
) -> None:
    """Mutate `files` (comma-separated, or all) and run the tests; see the top of this file."""
    every = [m for file in chosen(files) for m in mutations(file)]
    found = some(every, sample, seed)
    print(f"{len(found)} of {len(every)} mutants in {len({m.file for m in found})} files")
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
    for file in sorted({m.file for m in found}):
        own = [k for m, k in zip(found, killed, strict=True) if m.file == file]
        print(f"{file}: {sum(own)} of {len(own)} killed")
    share = sum(killed) / max(1, len(killed))
    print(f"{sum(killed)} of {len(killed)} killed, {100 * share:.1f} %; {seconds:.0f} s with {jobs} process(es)")
    if share < BAR:
        sys.exit(1)


def some(every: Sequence[Mutant], sample: int | None, seed: int) -> Sequence[Mutant]:
    """Take `sample` mutants at random, in their order; all of them if there are not more."""
    if sample is None or sample >= len(every):
        return every
    return [every[i] for i in sorted(random.Random(seed).sample(range(len(every)), sample))]


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
    """Yield all mutants of a file, in the order of its lines."""
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = text.splitlines()
    for number, what, source in mutated(text):
        line = lines[number - 1].strip()
        if not any(f == file and piece in line for f, piece in EQUIVALENT):
            yield Mutant(file, number, what, line, source)


@functools.cache
def imported(path: Path) -> set[str]:
    """Return the project's files that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = {name.replace(".", "/") + ".py" for name in names if name.startswith(("ebm_lab.", "scripts.", "tests."))}
    return {f for f in files if (ROOT / f).is_file()}


@functools.cache
def tests_of(file: str) -> list[str]:
    """List the test files that reach `file` by imports, its own first, then the nearest."""
    distance: dict[str, int] = {}
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        seen, front, steps = set(), {str(test.relative_to(ROOT))}, 0
        while front and file not in front:
            seen |= front
            front, steps = {f for g in front for f in imported(ROOT / g)} - seen, steps + 1
        if file in front:
            distance[str(test.relative_to(ROOT))] = steps
    own = f"test_{Path(file).stem.strip('_')}.py"
    return sorted(distance, key=lambda test: (Path(test).name != own, distance[test], test))


def plant(folder: Path) -> Path:
    """Copy the project into `folder`."""
    for name in ("ebm_lab", "tests", "configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "train.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def run(tree: Path, tests: list[str], timeout: float) -> str | None:
    """Run the tests; return None if they pass, else what failed."""
    options = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-m"]
    command = [sys.executable, *options, "not slow", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"not finished within {timeout:g} s"
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].split(" ", 1)[1] if failed else f"exit status {done.returncode}"


def sound(files: Iterable[str], trees: "Queue[Path]") -> None:
    """Check that the tests which reach the files pass before anything is changed."""
    tests: set[str] = set()
    for file in files:
        reached = tests_of(file)
        tests.update(reached)
        if not reached:
            print(f"{file}: no test imports it", file=sys.stderr)
    tree = trees.get()
    trees.put(tree)
    if tests and (problem := run(tree, sorted(tests), timeout=3600)) is not None:
        raise UserError(f"the tests fail before any change: {problem}")


def attack(mutant: Mutant, trees: "Queue[Path]", timeout: float) -> str | None:
    """Run the tests against a mutant; return what killed it, or None."""
    tests = tests_of(mutant.file)
    if not tests:
        return None
    tree = trees.get()
    target = tree / mutant.file
    try:
        target.write_text(mutant.source, encoding="utf-8")
        near, far = tests[:3], tests[3:]  # the nearest kill most mutants, and collecting the others takes seconds
        return run(tree, near, timeout) or (run(tree, far, timeout) if far else None)
    finally:
        shutil.copy(ROOT / mutant.file, target)
        trees.put(tree)


def told(mutant: Mutant, by: str | None) -> bool:
    fate = f"killed by {by}" if by else "SURVIVED"
    print(f"{mutant.file}:{mutant.line}  {mutant.what:<10}  {mutant.text}  {fate}", flush=True)
    return by is not None


if __name__ == "__main__":
    main(mutants)
