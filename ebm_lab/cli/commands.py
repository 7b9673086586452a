"""The commands of the lab, with the handling of output, signals and exit status that they share.

This module imports the standard library only, so that Ctrl-C is also handled during the slow imports that follow.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from ebm_lab.core.errors import Terminated, UserError, one_of
from ebm_lab.core.streams import safe_streams

NEEDED = ("torch", "torchvision", "hydra", "omegaconf", "pydantic", "numpy", "yaml", "rich")
"""Modules of other packages without which no command begins."""
INSTALL = "run `make install` and then `. .venv/bin/activate`, or pip install -e ."


@contextmanager
def command() -> Iterator[None]:
    """Run the body as a command.

    A UserError prints one line and exits with 2; SIGINT and SIGTERM print one word and exit with 130 and 75. Failures
    to print are ignored.
    """
    with safe_streams():
        before = _watch()
        try:
            yield
        except UserError as error:
            sys.exit(complain(error))
        except ModuleNotFoundError as error:
            if error.name not in NEEDED:
                raise
            sys.exit(complain(f"{error.name} is not installed for {sys.executable}: {INSTALL}"))
        except KeyboardInterrupt as stop:
            terminated = isinstance(stop, Terminated)
            complain("terminated" if terminated else "interrupted", "")
            sys.exit(75 if terminated else 130)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


came: list[int] = []
"""Signals that this command has received."""


def _watch() -> dict[int, Any]:
    """Handle SIGTERM, and SIGINT unless it is ignored as in a background job; return the previous handlers."""
    came.clear()
    if threading.current_thread() is not threading.main_thread():
        return {}
    watched = {signal.SIGINT: signal.getsignal(signal.SIGINT), signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    if watched[signal.SIGINT] == signal.SIG_IGN:
        del watched[signal.SIGINT]
    for number in watched:
        signal.signal(number, _stop)
    return {number: signal.SIG_DFL if handler is None else handler for number, handler in watched.items()}


def _stop(number: int, frame: Any) -> None:
    came.append(number)
    stop_if_asked()


def stop_if_asked() -> None:
    """Raise the exception of the last signal received, again if a library that was being imported swallowed it."""
    if came:
        raise Terminated if came[-1] == signal.SIGTERM else KeyboardInterrupt


def complain(what: Exception | str, kind: str = "error: ") -> int:
    """Print a user's mistake, in the first of several processes only; return its exit status."""
    for line in str(what).splitlines() if os.environ.get("RANK", "0") == "0" else ():
        print(f"{kind}{line}", file=sys.stderr)
    return 2


def import_from_here() -> None:
    """Make plugins importable from the working directory; installed modules take precedence over files there."""
    with suppress(OSError):  # the directory is gone
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Do the same within the body only, so that Hydra does not search the directory for its own plugins."""
    before = [*sys.path]
    import_from_here()
    try:
        yield
    finally:
        sys.path[:] = before


def _run(module: str, function: str) -> None:
    with command():
        getattr(import_module(f"ebm_lab.cli.{module}"), function)()


COMMANDS = {
    "train": ("train an energy-based model", "main", "main"),
    "evaluate": ("evaluate a run", "evaluate", "main_evaluate"),
    "sample": ("draw samples from a run", "tools", "main_sample"),
    "compose": ("compose the energies of several runs and draw samples", "combine", "main_compose"),
    "compare": ("train several methods and compare them", "compare", "main_compare"),
    "report": ("write one page over all runs", "report", "main_report"),
    "list": ("list components, one line each", "listing", "main_list"),
    "new": ("write a component of your own, with its YAML and a test", "scaffold", "main_new"),
    "export": ("write a run's energy in a format of other libraries", "export", "main_export"),
    "diff": ("show how two runs differ", "diff", "main_diff"),
    "sweep": ("continue a sweep that `ebm-lab train -m ...` began", "resume_sweep", "main_sweep"),
}
"""By command: its description, and the module of `ebm_lab.cli` and the function that run it."""
LAB = """\
ebm-lab: the lab for energy-based models

{commands}

`ebm-lab <command> --help` explains a command.
"""


def lab() -> None:
    """Run the console command `ebm-lab <command> ...`; settings without a command are those of `train`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        del sys.argv[1]
        return _run(*COMMANDS[name][1:])
    if name in ("-sc", "--shell-completion") and "COMP_LINE" in os.environ and not _left_to_hydra():
        return
    with command():
        if name in ("-h", "--help"):
            print(LAB.format(commands="\n".join(f"    {n:<10} {does}" for n, (does, *_) in COMMANDS.items())), end="")
            return
        if "=" not in name and not name.startswith("-"):
            raise one_of("command", name, COMMANDS)
    train()


def _left_to_hydra() -> bool:
    """Complete the name of a command, for the shell's line in COMP_LINE; return whether Hydra completes the line, as it
    does for settings."""
    program, _, line = os.environ["COMP_LINE"].lstrip().partition(" ")
    name, space, settings = line.lstrip().partition(" ")
    if not space and "=" not in name:
        print(*(known for known in COMMANDS if known.startswith(name)))
        return False
    if name == "train":  # Hydra takes the first word for the program and the others for settings
        os.environ["COMP_LINE"] = f"{program} {settings}"
    return name == "train" or name not in COMMANDS


def train() -> None:
    _run(*COMMANDS["train"][1:])


def sample() -> None:
    _run(*COMMANDS["sample"][1:])


def evaluate() -> None:
    _run(*COMMANDS["evaluate"][1:])


def compose() -> None:
    _run(*COMMANDS["compose"][1:])


def report() -> None:
    _run(*COMMANDS["report"][1:])


def sweep() -> None:
    _run(*COMMANDS["sweep"][1:])


def compare() -> None:
    _run(*COMMANDS["compare"][1:])


def features() -> None:
    _run("features", "main")
