"""Search for the best settings by Optuna: `train.py -m hydra/sweeper=optuna 'optim.lr=interval(1e-4,1e-2)'`.

    <sweep dir>/study.db               the study in SQLite: `optuna-dashboard sqlite:///<sweep dir>/study.db` shows it
    <sweep dir>/jobs/<n>.json          how trial n ended, as for any sweep
    <sweep dir>/best/                  the best settings: `train.py --config-dir <sweep dir>/best experiment=best`
    <sweep dir>/history.png            the trials in their order; importance.png: how much each setting matters

Each trial is a run. A run that diverged is pruned, and so is one that does worse than others did by the same step
(pruning.py): the sampler learns to avoid such settings. Several processes may share a study; each holds a lock, by
which the trials of a process that was killed are known and begun again.

The plugin hydra-optuna-sweeper 1.3.0 requires optuna < 3, and records no trial before the end of a batch.
"""

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveInt

from ebm_lab.cli.best import USUAL, write_best
from ebm_lab.cli.process_lock import ProcessLock
from ebm_lab.cli.pruning import Name, pruner_of
from ebm_lab.core.errors import UserError
from ebm_lab.core.files import loads
from ebm_lab.core.settings import check, flat

if TYPE_CHECKING:
    from optuna import Study, Trial

DECADE = 10.0
"""An interval of positive numbers at least this factor wide is searched on a log scale."""
LOST = "lost"
"""Beginning of the study's attributes that name trials whose process was killed, and which were begun again."""


class Search:
    """A search over the settings of a command line; `run` returns when `n_trials` have ended, in all processes."""

    def __init__(
        self,
        context: HydraContext,
        task: TaskFunction,
        config: DictConfig,
        *,
        n_trials: PositiveInt,
        metric: str,
        direction: Literal["minimize", "maximize"],
        startup: NonNegativeInt,
        pruner: Name,
        seed: NonNegativeInt,
        params: dict[str, Any] | None,
    ) -> None:
        self.n_trials, self.metric, self.startup = n_trials, metric, startup
        self.pruner: Name = pruner
        if pruner != "none" and metric != "best":
            raise UserError(
                f"hydra.sweeper.pruner={pruner}: it compares the metric on the validation split, "
                f"hydra.sweeper.metric=best, and not {metric}; give hydra.sweeper.pruner=none"
            )
        self.direction: Literal["minimize", "maximize"] = direction
        self.seed, self.params, self.context, self.config = seed, params or {}, context, config
        self.folder = Path(config.hydra.sweep.dir)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task, config=config
        )

    @classmethod
    def checked(
        cls, settings: dict[str, Any], context: HydraContext, task: TaskFunction, config: DictConfig
    ) -> "Search":
        """Build a search. Raises UserError for a mistake in its settings, or if Optuna is not installed."""
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna: not installed here: pip install 'ebm_lab[search]'")
        plain = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()}
        return cls(context, task, config, **check(cls, plain, "hydra.sweeper"))

    def run(self, arguments: list[str]) -> None:
        """Run trials until there are enough, or a signal stops this process."""
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        found = parser.parse_overrides([*(f"{k}={v}" for k, v in self.params.items()), *arguments])
        searched = [o for o in found if o.is_sweep_override()]
        fixed = [o.input_line or "" for o in found if not o.is_sweep_override()]
        if not searched:
            example = "'optim.lr=interval(1e-4,1e-2)'"
            raise UserError(f"hydra/sweeper=optuna: nothing to search; give a setting several values: {example}")
        for override in searched:
            check_space(override)
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        with ProcessLock(self.folder) as lock:
            study = self._study()
            begin_again(study, lock)
            if not study.get_trials(deepcopy=False) and (usual := self._usual(fixed, searched)):
                study.enqueue_trial(usual)
                study.set_user_attr(USUAL, True)
            while self._wanted(study):
                trial = study.ask()
                trial.set_user_attr("process", lock.name)
                overrides = [*fixed, *(f"{o.get_key_element()}={suggest(trial, o)}" for o in searched)]
                chosen = " ".join(f"{key}={value}" for key, value in trial.params.items())
                print(f"trial {trial.number + 1} of {self.n_trials}: {chosen}")
                self.launcher.launch([overrides], initial_job_idx=trial.number)
                job = record_of(self.folder, trial.number)
                if not tell(study, trial, job, self.metric):
                    return
                if job["status"] == "refused" and not trial.number:
                    print("search: stopped, for its first trial was refused")
                    return
            write_best(study, self.folder, self.metric, fixed, searched)

    def _usual(self, fixed: list[str], searched: list[Override]) -> dict[str, Any] | None:
        """Return the values that the searched settings have by default, with the recipe; None if one is outside."""
        from ebm_lab.cli.main import composed_again

        config, _ = composed_again(fixed, self.config.hydra)
        usual = flat(config)
        values = {o.get_key_element(): within(o, usual.get(o.get_key_element())) for o in searched}
        return None if None in values.values() else values

    def _study(self) -> "Study":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = self.folder.absolute() / "study.db"
        study = optuna.create_study(
            study_name="search",
            storage=f"sqlite:///{file}",
            direction=self.direction,
            load_if_exists=True,
            pruner=pruner_of(self.pruner, self.startup),
        )
        seed = self.seed + len(study.get_trials(deepcopy=False))  # a process that goes on must not repeat draws
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=self.startup, seed=seed)
        return study

    def _wanted(self, study: "Study") -> bool:
        """Return whether another trial is to be begun; one that waits to be begun again comes first."""
        from optuna.trial import TrialState

        trials = study.get_trials(deepcopy=False)
        if any(t.state == TrialState.WAITING for t in trials):
            return True
        return len(trials) - sum(key.startswith(LOST) for key in study.user_attrs) < self.n_trials


def tell(study: "Study", trial: "Trial", job: Mapping[str, Any], metric: str) -> bool:
    """Tell the study how the run of a trial ended; return False if a signal ended it, so that it is begun again later.

    job: the record of the run. Raises UserError if the run has no such metric.
    """
    from optuna.trial import TrialState

    status = job["status"]
    if status in ("interrupted", "not started"):
        return False
    results = job.get("results") or {}
    value: Any = results.get(metric)
    trial.set_user_attr("status", status)
    trial.set_user_attr("run", job.get("run", ""))
    if status == "finished" and value is None:
        study.tell(trial, state=TrialState.FAIL)
        hint = "; nothing was monitored: let eval_every be below steps" if metric == "best" else ""
        raise UserError(
            f"hydra.sweeper.metric={metric}: the run has no such number{hint}; it has: {', '.join(results)}"
        )
    if status == "finished" and math.isfinite(float(value)):
        study.tell(trial, float(value))
    else:
        study.tell(trial, state=TrialState.PRUNED if status in ("finished", "pruned", "diverged") else TrialState.FAIL)
    return True


def record_of(folder: Path, number: int) -> dict[str, Any]:
    """Read how the job of a trial ended; a job that wrote nothing has failed."""
    file = folder / "jobs" / f"{number}.json"
    return loads(file.read_text(encoding="utf-8")) if file.is_file() else {"status": "failed"}


def begin_again(study: "Study", lock: ProcessLock) -> None:
    """Queue the trials that a killed process left unfinished, with the same settings, so that their runs continue."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if lock.alive(trial.user_attrs.get("process", "")):
            continue
        study.set_user_attr(f"{LOST} {trial.number}", True)
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)


def check_space(override: Override) -> None:
    """Reject a sweep that can't be searched."""
    value = override.value()
    if isinstance(value, IntervalSweep) and not cast(float, value.start) < cast(float, value.end):
        raise UserError(f"{override.input_line}: an interval must begin below its end")
    if not isinstance(value, IntervalSweep):
        list(override.sweep_string_iterator())


def within(override: Override, value: Any) -> Any:
    """Return the value as a parameter of Optuna, None if it is not in the space of a sweep."""
    space = cast(Any, override.value())
    if isinstance(space, IntervalSweep):
        whole = isinstance(space.start, int) and isinstance(space.end, int)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        return value if number and cast(float, space.start) <= value <= cast(float, space.end) else None
    if isinstance(space, RangeSweep):
        return value if value in list(space.range()) else None
    choices = list(override.sweep_string_iterator())
    return next((c for c in choices if OverridesParser.create().parse_override(f"x={c}").value() == value), None)


def suggest(trial: "Trial", override: Override) -> str:
    """Draw a value for a setting, as text.

    interval(a,b) is of floats and int(interval(a,b)) of whole numbers, on a log scale by the tag `log`, or without a
    tag where b is at least ten times a > 0. A range is of whole numbers in order; other sweeps are choices without
    order.
    """
    name, value = override.get_key_element(), cast(Any, override.value())
    if isinstance(value, IntervalSweep):
        low, high = cast(tuple[float, float], (value.start, value.end))  # Hydra's grammar asks for both
        wide = low > 0 and high >= DECADE * low
        log = "log" in value.tags or (wide and "linear" not in value.tags)
        if isinstance(low, int) and isinstance(high, int):
            return str(trial.suggest_int(name, low, high, log=log))
        return repr(trial.suggest_float(name, float(low), float(high), log=log))
    if isinstance(value, RangeSweep) and all(isinstance(v, int) for v in (value.start, value.stop, value.step)):
        values = [int(v) for v in value.range()]
        return str(trial.suggest_int(name, min(values), max(values), step=abs(int(value.step))))
    return str(trial.suggest_categorical(name, list(override.sweep_string_iterator())))
