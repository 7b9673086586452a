"""What scripts/gpu_check.py checks: components, numbers against the CPU's, bits of equal and of resumed runs."""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad
from ebm_lab.core.random import seeded, stream
from ebm_lab.core.registry import build
from ebm_lab.runs.assemble import assemble
from ebm_lab.runs.train import train
from ebm_lab.training.numerics import Precision, precise
from scripts.gpu.cases import cases, composed
from scripts.gpu.images import images_config

FIRST = ("objective=dsm", "objective=pcd", "objective=multi_dsm", "sampler=mala")
"""What a quick check takes."""
WARM, WATCHED = 2, 3
"""Training steps of a component before and while the host may not wait for the device."""


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Raise within this context where the host waits for a CUDA device; do nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def components(device: torch.device, quick: bool) -> dict[str, str]:
    """Train each component a few steps; return 'ok', why it was left out, or the error, by name."""
    found = {}
    for name, overrides in cases().items():
        if not quick or name in FIRST:
            found[name] = _component(overrides, device)
            print(f"{name}: {found[name]}", flush=True)
    return found


def _component(overrides: list[str], device: torch.device) -> str:
    try:
        trainer, _ = assemble(composed([*overrides, "steps=100", f"device={device}"]))
    except UserError as error:
        return f"left out: {error}"
    turns = len(trainer.state.objective.players())
    try:
        for step in range(1, WARM + 1):
            trainer._train_step(step)
        with no_waiting(device):
            for step in range(WARM + 1, WARM + 1 + WATCHED * turns):
                trainer._train_step(step)
    except Exception as error:
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "ok"


def agreement(device: torch.device) -> list[dict[str, Any]]:
    """Compare energy, score and gradient of a convolutional energy with those of the CPU in float64.

    error = |a - b| / |b| over all numbers of each, by precision: float64 and float32 should differ by rounding alone,
    near 1e-15 and 1e-6, and TF32, on CUDA, by about 1e-3.
    """
    reference = _numbers(torch.device("cpu"), torch.float64, "float32")
    kinds: list[tuple[str, torch.dtype, Precision]] = [
        ("float64", torch.float64, "float32"),
        ("float32", torch.float32, "float32"),
    ]
    if device.type == "cuda":
        kinds.append(("tf32", torch.float32, "tf32"))
    rows = []
    for name, dtype, precision in kinds:
        found = _numbers(device, dtype, precision)
        errors = {key: float((found[key] - b).norm() / b.norm()) for key, b in reference.items()}
        limit = {"float64": 1e-12, "float32": 1e-4, "tf32": 3e-2}[name]
        rows.append({"precision": name, **errors, "limit": limit, "agrees": max(errors.values()) < limit})
    return rows


def _numbers(device: torch.device, dtype: torch.dtype, precision: Precision) -> dict[str, Tensor]:
    """Return E, its derivative in x and that of |grad E|^2 / 2 in the weights, in float64 on the CPU."""
    config = images_config("dsm", device, 16)
    dataset = build("dataset", config["dataset"])
    with seeded(0):
        energy = build("energy", config["energy"], dataset=dataset, scale=dataset.scale, generator=stream(0, "check"))
    energy, x = energy.to(device, dtype), dataset.train[:16].to(device, dtype)
    with precise(precision, device):
        e, grad = energy_and_grad(energy, x, create_graph=True)
        weights = [p for p in energy.parameters() if p.requires_grad]
        slopes = torch.autograd.grad(0.5 * grad.square().sum(), weights, allow_unused=True)
    flat = torch.cat([s.flatten() for s in slopes if s is not None])
    return {name: t.detach().cpu().double() for name, t in (("energy", e), ("score", grad), ("gradient", flat))}


def graphed(device: torch.device, steps: int = 6) -> dict[str, str]:
    """Train with CUDA graphs and without; return 'equal' if the weights agree to rounding, else why not, by objective.

    The graph has the eager step's operations but Adam, so that weights differ by rounding alone: by at most 1e-4 of
    their norm.
    """
    found = {}
    for objective in ("dsm", "pcd") if device.type == "cuda" else ():
        ends, refused = [], None
        for compiling in ("off", "graphs"):
            trainer, _ = assemble({**images_config(objective, device, 16), "compile": compiling})
            for step in range(1, steps + 1):
                trainer._train_step(step)
            ends.append(torch.cat([p.detach().flatten() for p in trainer.state.ema.parameters]))
            made = getattr(trainer.compiled, "steps", {}).values()
            refused = refused or next((s.refused for s in made if s.refused), None)
        error = float((ends[1] - ends[0]).norm() / ends[0].norm())
        found[objective] = f"refused: {refused}" if refused else "equal" if error < 1e-4 else f"differ by {error:.1e}"
    return found


def same_bits(device: torch.device, steps: int) -> dict[str, str]:
    """Train twice, and once stopped half-way and resumed; compare the last checkpoints bit for bit, by objective."""
    found = {}
    for objective in ("dsm", "pcd"):
        with tempfile.TemporaryDirectory() as folder:
            config = images_config(objective, device, 16) | {"checkpoint_every": steps // 2, "log_every": steps // 2}
            ends = []
            for name, parts in (("one", [steps]), ("equal", [steps]), ("split", [steps // 2, steps])):
                path = None
                for upto in parts:
                    resume = None if path is None else str(path)
                    own = {**config, "steps": upto, "output_dir": str(Path(folder, name)), "resume": resume}
                    path = train(own, quiet=True).path
                assert path is not None
                ends.append(torch.load(path / "checkpoints" / "last.pt", map_location="cpu", weights_only=True))
        one, equal, split = ends
        found[f"{objective}, two equal runs"] = _difference(one, equal)
        found[f"{objective}, straight and resumed"] = _difference(one, split)
    return found


def _difference(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Return 'equal', or the first tensor that differs; of the weights, the optimiser, the chains and the generator."""
    for part in ("objective", "ema", "optimiser/energy", "generator"):
        pairs = [pytree.tree_flatten_with_path(x[part])[0] for x in (a, b)]
        if len(pairs[0]) != len(pairs[1]):
            return f"differ: in {part}"
        for (path, x), (_, y) in zip(*pairs, strict=True):
            if isinstance(x, Tensor) and not torch.equal(x, y):
                return f"differ: in {part}{pytree.keystr(path)}"
    return "equal"
