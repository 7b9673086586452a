"""Continue a sweep."""

import shlex
import sys
from pathlib import Path

import yaml

from ebm_lab.cli.grammar import folded
from ebm_lab.cli.main import main
from ebm_lab.cli.tools import main as run_tool
from ebm_lab.core.errors import UserError
from ebm_lab.core.shell import override


def sweep(*, resume: str) -> None:
    """Continue a sweep: finished jobs stay as they are, interrupted ones continue, missing ones run.

    resume: the sweep's directory, as under outputs/sweeps.
    """
    folder = Path(resume)
    file = folder / "multirun.yaml"
    if not file.is_file():
        raise UserError(f"resume={resume}: not the directory of a sweep, it has no multirun.yaml")
    asked = yaml.safe_load(file.read_text(encoding="utf-8"))["hydra"]["overrides"]
    hydra = [o for o in asked["hydra"] if not o.startswith(("hydra.mode=", "hydra.sweep.dir="))]
    task = [o for o in folded(asked["task"]) if not o.startswith("resume=")]
    arguments = [*task, "resume=auto", *hydra, override("hydra.sweep.dir", folder), "--multirun"]
    print(f"train.py {shlex.join(arguments)}")
    sys.argv = ["train.py", *arguments]
    main()


def main_sweep() -> None:
    """Run the console command `ebm-lab-sweep`."""
    run_tool(sweep)
