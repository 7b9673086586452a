"""Load a trained run from its directory."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ebm_lab.core.errors import NotRegistered, UserError
from ebm_lab.core.places import moved
from ebm_lab.runs.isolation import isolated
from ebm_lab.runs.known_data import LOADED, same_data, way_out, without_rows
from ebm_lab.runs.loaded import LoadedRun
from ebm_lab.runs.parts import Parts, build_parts
from ebm_lab.runs.run_directory import RunDir
from ebm_lab.runs.saver import of_run
from ebm_lab.runs.settings import import_plugins, pick_device
from ebm_lab.training import checkpoint


@isolated()
def load_run(
    path: str | Path,
    *,
    which: Literal["last", "best"] = "last",
    ema: bool = True,
    device: str = "cpu",
    plugins: Sequence[str] = (),
    evaluation: Mapping[str, Any] | None = None,
    dataset: Mapping[str, str | os.PathLike[str]] | None = None,
    data: Literal["same", "kept"] = "same",
) -> LoadedRun:
    """Load a run: its energy, data set, sampler and objective. Raises UserError if the data are gone or changed.

    which: the last checkpoint or the best on the validation split; ema: averaged weights, or raw ones; plugins: the
    modules to import for the run's own components, none unless named here; evaluation: settings by name, in place of
    the run's own; dataset: where the data are now, {"path": ...} or {"root": ...}; data: with `kept`, a run loads even
    if its data are gone or changed: `run.dataset` then has the mean, scale, bounds and transform that the run kept, and
    no rows.
    """
    run = RunDir.open(path, "run")
    place, own = pick_device(device), run.read_config()
    import_plugins(list(plugins))
    config = {**own, "device": device, "plugins": [], "resume": None, "init_from": None}
    if evaluation is not None:
        config["evaluation"] = dict(evaluation)
    config = moved(config, dataset or {})
    file = run.best if which == "best" else run.last
    content = of_run(run, file, place)
    try:
        parts = _restored(config, content, file, keep=data == "kept" and not dataset)
    except NotRegistered as error:
        theirs = own.get("plugins")
        named = (
            f"; the run was made with plugins=[{','.join(theirs)}]: give that, if you trust its code" if theirs else ""
        )
        raise UserError(f"{error}{named}") from None
    checkpoint.same_config(content, config, file)
    if ema:
        checkpoint.take_average(parts.trained, content)
    parts.objective.eval()
    return LoadedRun(
        parts=parts, config=config, summary=run.read_summary(), path=run.path, content=content, averaged=ema
    )


def _restored(config: dict[str, Any], content: Mapping[str, Any], file: Path, keep: bool) -> Parts:
    """Restore the trained parts with their data set; if it is gone or changed and `keep`, with what the run kept."""
    try:
        known = same_data(config, content, file)
    except NotRegistered:
        raise
    except UserError as error:
        checkpoint.same_config(content, config, file)
        if not keep:
            raise UserError(f"{error}{way_out(config, content, LOADED)}") from None
        return without_rows(config, content, file, str(error))
    parts = build_parts(config, dataset=known)
    checkpoint.check_whole(content, parts.objective.players())
    checkpoint.fill_model(parts.objective, content)
    return parts
