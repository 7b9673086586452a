"""Write the best settings of a search as an experiment, and say what they reached."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.types import Override, QuotedString

from ebm_lab.cli.compose import GROUPS
from ebm_lab.cli.quoting import parse
from ebm_lab.cli.search_pictures import draw
from ebm_lab.core.files import loads, write_atomic
from ebm_lab.core.shell import pasteable

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


NOT_SETTINGS = ("experiment", "logger", "resume")
"""Keys that are no settings of the model: how a run is logged or continued, and another experiment."""


def _in_words(best: "FrozenTrial", metric: str) -> str:
    """Return the name of the metric; for `best`, that of the validation metric which the best run was judged by."""
    file = Path(best.user_attrs.get("run", "")) / "summary.json"
    if metric != "best" or not file.is_file():
        return metric
    return f"{loads(file.read_text(encoding='utf-8')).get('best_by', metric)} on the validation split"


USUAL = "begins with the default settings"
"""The study's attribute that says so of its first trial."""


def write_best(study: "Study", folder: Path, metric: str, fixed: Sequence[str], searched: Sequence[Override]) -> None:
    """Write experiment/best.yaml and print the best trial, or say that no trial finished."""
    from optuna.trial import TrialState

    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        print("search: no trial finished, so there are no best settings")
        return
    best = study.best_trial
    metric = _in_words(best, metric)
    overrides = [*fixed, *(f"{o.get_key_element()}={best.params[o.get_key_element()]}" for o in searched)]
    place = folder / "best"  # of its own, for --config-dir refuses Hydra's record of the command beside it
    file = place / "experiment" / "best.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    about = f"the best of {len(study.trials)} trials: {metric} {best.value:.6g}, trial {best.number}"
    head = f"# @package _global_\n# {about}\n"
    write_atomic(file, head + yaml.safe_dump(experiment(overrides), sort_keys=False))
    usual = study.trials[0]
    if study.user_attrs.get(USUAL) and usual.value is not None and best.value is not None:
        gain = abs(usual.value - best.value)
        print(f"the default settings, trial 0, reached {metric} {usual.value:.6g}; the best is {gain:.4g} better")
    chosen = " ".join(f"{k}={v}" for k, v in best.params.items())
    pictures = draw(study, folder, metric)
    print(f"best: trial {best.number}, {metric} {best.value:.6g}: {chosen}")
    print(f"run it: {pasteable('python train.py', '--config-dir', place, 'experiment=best')}")
    print(f"pictures: {', '.join(str(f) for f in pictures)}; python scripts/report.py outputs shows them too")
    print(f"look at the search: {pasteable('optuna-dashboard', f'sqlite:///{folder.absolute()}/study.db')}")


def experiment(overrides: Sequence[str]) -> dict[str, Any]:
    """Turn overrides into the content of an experiment: choices of groups as a defaults list, other keys as values."""
    defaults: list[dict[str, Any]] = []
    values: dict[str, Any] = {}
    for text in overrides:
        found = parse(text)
        key = found.key_or_group
        if found.is_delete() or key.partition(".")[0] in NOT_SETTINGS or key.startswith("hydra"):
            continue
        if found.package or key in GROUPS:
            place = f"/{key}@{found.package}" if found.package else f"/{key}"
            defaults.append({f"override {place}": _plain(found.value())})
            continue
        *where, last = key.split(".")
        node = values
        for part in where:
            node = node.setdefault(part, {})
        node[last] = _plain(found.value())
    return {**({"defaults": defaults} if defaults else {}), **values}


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value
