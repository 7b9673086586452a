"""Build a trainer from a plain config: settings, then parts, then optimisers, guard and schedule."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import build
from ebm_lab.core.settings import check
from ebm_lab.distributions.base import base_of
from ebm_lab.runs.advice import advice
from ebm_lab.runs.parts import Parts, build_parts
from ebm_lab.training.batches import Batches
from ebm_lab.training.compile.passes import CompiledPasses
from ebm_lab.training.compile.policy import should_compile, takes_gradients
from ebm_lab.training.compile.step import CompiledSteps
from ebm_lab.training.distributed import Processes
from ebm_lab.training.early_stopping import EarlyStopping
from ebm_lab.training.ema import EMA
from ebm_lab.training.gradients import Gradients
from ebm_lab.training.guard import Guard
from ebm_lab.training.numerics import cast_to
from ebm_lab.training.optim.adam import Adam
from ebm_lab.training.optimiser import Optimiser
from ebm_lab.training.state import State
from ebm_lab.training.trainer import Schedule, Trainer


def assemble(
    config: Mapping[str, Any],
    processes: Processes = Processes(),  # noqa: B008 (it has no state)
    dataset: Dataset | None = None,
) -> tuple[Trainer, dict[str, Any]]:
    """Build a trainer from a plain config; return it with the resolved config.

    In the resolved config every `auto` is replaced by its value and every path is absolute. dataset: the config's data
    set if it is built already. Raises UserError if parts do not fit together; until then the only side effect is the
    import of plugins.
    """
    parts = build_parts(config, processes, dataset)
    s, objective, device = parts.settings, parts.objective, parts.generator.device
    optimisers = build_optimisers(config, parts)
    ema = EMA(parts.trained, s.ema)
    batches = Batches(parts.dataset, s.batch_size, s.seed, s.accumulate, processes.rank, processes.world)
    compiling, capture = decide_compile(parts), s.compile == "graphs"
    stopping = decide_early_stopping(parts)
    resolved = {
        **parts.config,
        "optim": settled_optim(config, optimisers),
        "compile": "graphs" if capture else "on" if compiling else "off",
        "early_stopping": "off" if stopping is None else "on",
    }
    record = parts.dataset.record
    state = State(
        objective=objective,
        optimisers=optimisers,
        ema=ema,
        generator=parts.generator,
        guard=build_guard(config, parts.dataset),
        config=resolved,
        data=None if record is None else vars(record),
        processes=processes,
        early_stopping=stopping,
    )
    gradients = Gradients(objective, processes, s.precision)
    trainer = Trainer(
        state=state,
        batches=batches,
        schedule=Schedule(**{name: getattr(s, name) for name in Schedule.__dataclass_fields__}),
        evaluations=parts.evaluations,
        gradients=gradients,
        advise=lambda troubles, chains: advice(troubles, resolved, chains, parts.dataset),
        notes=[
            *(f"chosen from the data: {name}={v:g}" for name, v in parts.resolved.items() if not isinstance(v, str)),
            *(*parts.dataset.notes, *objective.notes),
            *(["precision=tf32: no effect on a CPU"] if s.precision == "tf32" and device.type == "cpu" else []),
        ],
    )
    scope = partial(cast_to, s.precision, device)
    if compiling and s.accumulate == processes.world == 1 and all(type(o) is Adam for o in optimisers.values()):
        trainer.compiled = CompiledSteps(objective, optimisers, ema, trainer.say_once, scope, capture)
    elif compiling:
        gradients.compiled = CompiledPasses(objective, trainer.say_once, scope, capture)
    return trainer, resolved


def build_optimisers(config: Mapping[str, Any], parts: Parts) -> dict[str, Optimiser]:
    """Build an optimiser for each player: `optim` applies to all, `optim.players.<name>` overrides it for one."""
    shared = dict(config.get("optim") or {})
    own = shared.pop("players", None) or {}
    if not any(p.requires_grad for p in parts.energy.parameters()):
        raise UserError(
            f"energy={config['energy']['name']}: it has no trainable parameter; choose another energy, or compose "
            f"trained runs with scripts/compose.py"
        )
    players = parts.objective.players()
    for name in own:
        if name not in players:
            raise one_of("optim.players", name, players)
        if not isinstance(own[name], Mapping):
            raise UserError(
                f"optim.players.{name}={own[name]}: must be settings by name, as optim.players.{name}.lr=1e-4"
            )
    return {
        name: build(
            "optim",
            {**shared, **own.get(name, {})},
            f"optim.players.{name}" if name in own else "optim",
            parameters=parameters,
            **{**parts.wiring, "energy": parts.energy if name == "energy" else None},
        )
        for name, parameters in players.items()
    }


def settled_optim(config: Mapping[str, Any], optimisers: Mapping[str, Optimiser]) -> dict[str, Any]:
    """Return the settings of the optimisers, with values in place of every `auto`: the energy's in `optim` itself."""
    settings = dict(config.get("optim") or {})
    first, *others = optimisers
    settings |= optimisers[first].resolved
    own = {name: {**values} for name, values in (settings.get("players") or {}).items()}
    for name in others:
        if optimisers[name].resolved:
            own[name] = {**own.get(name, {}), **optimisers[name].resolved}
    return {**settings, "players": own} if own else settings


def decide_compile(parts: Parts) -> bool:
    """Decide whether to compile the step, or its passes if there are several or several processes.

    Raises UserError for CUDA graphs on another device.
    """
    s = parts.settings
    if s.compile == "graphs" and parts.generator.device.type != "cuda":
        raise UserError(
            f"compile=graphs: CUDA graphs need device=cuda, and this run is on {parts.generator.device}; give "
            f"compile=auto, on or off"
        )
    numbers = s.batch_size * parts.dataset.mean.numel() // (s.accumulate * parts.processes.world)
    gradients = takes_gradients(parts.objective)
    device = parts.generator.device.type
    return should_compile(s.compile, s.steps * s.accumulate, numbers, gradients, s.runs_alike, device)


def decide_early_stopping(parts: Parts) -> EarlyStopping | None:
    """Decide whether the run stops early by a loss on held-out points: `auto` does for points whose energy has a base,
    and for points of over two dimensions if the objective's own loss measures the quality of the model.

    Raises UserError if it is asked for where neither is so.
    """
    asked, shape = parts.settings.early_stopping, parts.dataset.event_shape
    base = base_of(parts.objective.model()) is not None
    if asked in ("on", True):
        if not (base or parts.objective.validates):
            raise UserError(
                f"early_stopping=on: the loss of objective '{parts.config['objective']['name']}' does not tell how "
                f"good the model is; give early_stopping=off, or the energy a base"
            )
    elif asked != "auto" or len(shape) != 1 or not (base or (parts.objective.validates and shape[0] > 2)):
        return None
    return EarlyStopping(parts.objective, parts.dataset, parts.generator, parts.settings.seed)


def build_guard(config: Mapping[str, Any], dataset: Dataset) -> Guard:
    """Build the guard and tell it whether the chains' noise or temperature differs from 1."""
    sampler = config.get("sampler") or {}
    cold = sampler.get("noise_scale", 1.0) != 1.0
    tempered = cold or sampler.get("temperature", 1.0) != 1.0
    return Guard(dataset, cold, tempered, **check(Guard, config.get("guard") or {}, "guard"))
