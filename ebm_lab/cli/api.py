"""Run the command line's training from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebm_lab.cli.compose import compose_run, full_keys, keys_of
from ebm_lab.core.errors import UserError
from ebm_lab.core.streams import say

if TYPE_CHECKING:
    from ebm_lab.runs.train import Result


def train(overrides: Sequence[str] = (), *, config_dir: str | Path | None = None, quiet: bool = False) -> "Result":
    """Train as `python train.py <overrides>` does; return the result: path, summary, energy, dataset.

    config_dir: a directory with further configs, like --config-dir. Raises UserError for a mistake in the settings.
    """
    from ebm_lab.runs.train import train as run

    config, notes = compose_run(overrides, config_dir)
    for note in () if quiet else notes:
        say(note)
    return run(resumed(config, overrides), quiet=quiet)


def resumed(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the config to run: with `resume=<run>`, that run's own config with the allowed changes."""
    if config.get("resume") in (None, "auto"):
        return config
    from ebm_lab.core.places import moved
    from ebm_lab.runs.record import RESUME_MAY_CHANGE
    from ebm_lab.runs.run_directory import RunDir
    from ebm_lab.runs.settings import import_plugins

    old = RunDir.open(str(config["resume"]), "resume").read_config()
    data = [k.removeprefix("dataset.") for k in full_keys(overrides) if k.startswith("dataset.")]
    changes = [k for k in keys_of(overrides) if k not in ("resume", "dataset")]
    refused = [k for k in changes if k not in RESUME_MAY_CHANGE]
    if "dataset" in full_keys(overrides) and config["dataset"].get("name") != (old["dataset"] or {}).get("name"):
        refused.append("dataset")
    if refused:
        allowed = ", ".join([*RESUME_MAY_CHANGE, "dataset.path", "dataset.root"])
        raise UserError(f"{refused[0]}: can't be changed when a run is resumed; allowed beside resume: {allowed}")
    whole = {**old, **{k: config[k] for k in changes}, "resume": config["resume"]}
    if not data:
        return whole
    import_plugins(whole["plugins"])
    return moved(whole, {k: config["dataset"][k] for k in data})
