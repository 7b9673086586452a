"""Find the data of an existing run: those that it was trained on, or what it kept of them; never other data."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import features_of
from ebm_lab.core.functional import evaluate
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.places import places_of
from ebm_lab.core.registry import find
from ebm_lab.distributions.start import start_law
from ebm_lab.models.levels import data_score
from ebm_lab.runs.data_record import DataRecord, KeptData
from ebm_lab.runs.parts import Parts, build_dataset, build_parts
from ebm_lab.runs.settings import import_plugins, pick_device, run_settings
from ebm_lab.training import checkpoint

RESUMED = "without resume a new run begins, with the weights of this one by init_from=<run>"
LOADED = 'scripts/sample.py and load_run(..., data="kept") need no data'


def record_in(content: Mapping[str, Any], where: object) -> DataRecord | None:
    """Read what a checkpoint says of its data; None if an earlier version wrote it."""
    return DataRecord.read(content["data"], where) if "data" in content else None


def same_data(config: Mapping[str, Any], content: Mapping[str, Any], where: object) -> Dataset:
    """Build the data set of a run's config. Raises UserError if it is gone or differs from the record in `content`, the
    checkpoint read from `where`."""
    settings, record = run_settings(config), record_in(content, where)
    import_plugins(settings.plugins)
    known = None if record is None else record.fitted
    try:
        dataset = build_dataset(config, settings, pick_device(settings.device), known)
    except OSError as error:  # of a plugin's data set
        raise UserError(f"{_key(config)}: {' '.join(str(error).split())}") from None
    assert dataset.record is not None, "build_dataset makes it"
    if record is not None and (changes := record.differences(dataset.record)):
        raise UserError(f"{_key(config)}: not the data that the run was trained on: {changes}")
    return dataset


def way_out(config: Mapping[str, Any], content: Mapping[str, Any], otherwise: str) -> str:
    """Return remedies for an error of `same_data`, as the end of its line; `otherwise` is the one without any data."""
    own = config.get("dataset") or {}
    try:
        find("dataset", str(own.get("name")))
    except UserError:
        return ""
    ways = [f"give dataset.{key}=<path> if the data lie elsewhere now" for key in _places(own)]
    return "".join(f"; {way}" for way in ways + [otherwise] * ("data" in content))


def _places(own: Mapping[str, Any]) -> list[str]:
    return [key for key in places_of("dataset", own.get("name")) if key in own]


def _key(config: Mapping[str, Any]) -> str:
    """Return the setting that says where the data are, with its value."""
    own = config.get("dataset") or {}
    return next((f"dataset.{key}={own[key]}" for key in _places(own)), f"dataset={own.get('name')}")


def without_rows(config: Mapping[str, Any], content: Mapping[str, Any], where: object, why: str) -> Parts:
    """Restore the trained parts, with what the run kept of its data in place of the data set.

    Raises UserError if the energy or the sampler computes more from the data than the run keeps. This is tested by
    building both twice, beside different rows of noise: what depends on the rows then differs.
    """
    record, name = record_in(content, where), str((config.get("dataset") or {}).get("name"))
    if record is None:
        raise UserError(f"{why}; the run was trained by an earlier version, which kept nothing of its data")
    if getattr(find("dataset", name), "start", None) is not None:
        raise UserError(f"{why}; and dataset '{name}' begins chains in its own way, which the run does not keep")
    built = [_built(config, content, KeptData(record, why), seed) for seed in (0, 1)]
    x = start_law(built[0].dataset).sample(8, torch.Generator(built[0].generator.device).manual_seed(0))
    answers, values = [_answers(p.energy, x) for p in built], [_values(p.sampler) for p in built]
    for kind, (one, other) in {"energy": answers, "sampler": values}.items():
        if not all(torch.equal(one[k].nan_to_num(), other[k].nan_to_num()) for k in one):
            who = f"{kind} '{config[kind]['name']}'"
            raise UserError(f"{why}; and {who} computes more from its data than the run keeps")
    return built[0]


def _built(config: Mapping[str, Any], content: Mapping[str, Any], data: KeptData, seed: int) -> Parts:
    """Build and restore the parts beside rows of noise drawn from `seed`, which are removed afterwards."""
    data.fill(seed)
    data.to(pick_device(config["device"]))
    parts = build_parts({**config, "evaluation": {}}, dataset=data)
    checkpoint.check_whole(content, parts.objective.players())
    checkpoint.fill_model(parts.objective, content)
    parts.objective.eval()
    data.forget()
    return parts


def _answers(energy: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Compute the model's score at x and, if it has one, its energy."""
    known = {"energy": evaluate(energy, x).detach()} if "energy" in features_of(energy) else {}
    return {**known, "score": data_score(energy, x).detach()}


def _values(part: object) -> dict[str, Tensor]:
    """Return the numbers among a component's attributes as tensors."""
    held = {k: v for k, v in vars(part).items() if isinstance(v, int | float | Tensor)} if part is not None else {}
    return {k: torch.as_tensor(v).double() for k, v in held.items()}
