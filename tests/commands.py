"""Run the lab's scripts in processes of their own, forked from one that has imported what they need.

Starting Python and importing torch costs some seconds, which a pytest process then pays once. A process made here has
its own directory, environment, streams and exit status, and runs what is left for an interpreter's end. Tests of
signals, terminals, encodings and of imports themselves start a new interpreter instead.
"""

import atexit
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_forked = get_context("forkserver")
_forked.set_forkserver_preload(["tests.preloaded"])
_WRITE = os.O_WRONLY | os.O_CREAT


def run(script: str | Path, *words: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300.0):
    """Do what `subprocess.run([sys.executable, script, *words], cwd=cwd, env=env, text=True, ...)` would.

    script: a path from the project's root, or a whole one. Returns a CompletedProcess with stdout and stderr.
    """
    environment = dict(os.environ if env is None else env)
    with tempfile.TemporaryDirectory() as folder:
        process = _forked.Process(target=_become, args=([str(ROOT / script), *words], cwd, environment, Path(folder)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
        out, err = (Path(folder, name).read_text(encoding="utf-8") for name in ("out", "err"))
    assert process.exitcode is not None
    return subprocess.CompletedProcess([str(script), *words], process.exitcode, out, err)


def _become(words: list[str], cwd: Path, environment: dict[str, str], folder: Path) -> None:
    """Become the script: its directory, environment, streams and arguments are those of a new interpreter."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, name, how in ((0, os.devnull, os.O_RDONLY), (1, "out", _WRITE), (2, "err", _WRITE)):
        os.dup2(os.open(folder / name, how, 0o600), number)
    sys.argv = words
    sys.path[:0] = [str(Path(words[0]).parent), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        # An interpreter's end, which multiprocessing leaves out in part.
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
