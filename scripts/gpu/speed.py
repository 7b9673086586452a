"""How fast the device trains on images of CIFAR-10's shape, what a step consists of, and how much memory it takes."""

import time
from typing import Any

import torch

from ebm_lab.core.errors import UserError
from ebm_lab.runs.assemble import assemble
from ebm_lab.training.numerics import repeatable
from ebm_lab.training.trainer import Trainer
from scripts.gpu.images import METHODS, images_config

SETTINGS = {
    "float32": ("precision=float32", "deterministic=auto"),
    "float32, not deterministic": ("precision=float32", "deterministic=off"),
    "tf32": ("precision=tf32", "deterministic=auto"),
    "bfloat16": ("precision=bfloat16", "deterministic=auto"),
    "float32, CUDA graphs": ("precision=float32", "deterministic=auto", "compile=graphs"),
    "tf32, CUDA graphs": ("precision=tf32", "deterministic=auto", "compile=graphs"),
}
SIDE, BATCH = 32, 128


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def throughput(device: torch.device, seconds: float, quick: bool) -> list[dict[str, Any]]:
    """Train each method with each setting for about `seconds`; return a row for each, with images per second, the
    milliseconds of a step and the peak of the device's memory in MiB (None on a CPU)."""
    names = list(SETTINGS) if device.type == "cuda" else ["float32"]
    rows = []
    for method in METHODS:
        for name in names:
            try:
                rows.append({"method": method, "setting": name, **_speed(method, name, device, seconds, quick)})
            except UserError as error:
                rows.append({"method": method, "setting": name, "left_out": str(error)})
            print(rows[-1], flush=True)
    return rows


def _trainer(method: str, setting: str, device: torch.device, quick: bool) -> tuple[Trainer, Any]:
    batch = 8 if quick else BATCH
    more = ["sampler.steps=5"] if quick and method == "pcd" else []
    config = images_config(method, device, SIDE, *SETTINGS[setting], f"batch_size={batch}", "steps=100000", *more)
    return assemble(config)[0], config


def _speed(method: str, setting: str, device: torch.device, seconds: float, quick: bool) -> dict[str, Any]:
    trainer, config = _trainer(method, setting, device, quick)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with repeatable(config["deterministic"], device):
        for _ in range(2 if quick else 5):
            _step(trainer)
        wait(device)
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for _ in range(1 if quick else 5):
                _step(trainer)
                steps += 1
            wait(device)
        taken = time.perf_counter() - began
    peak = round(torch.cuda.max_memory_allocated(device) / 2**20) if device.type == "cuda" else None
    batch = config["batch_size"]
    return {"batch": batch, "images_per_second": steps * batch / taken, "ms": 1000 * taken / steps, "peak_mib": peak}


def _step(trainer: Trainer) -> None:
    trainer._train_step(trainer.state.step + 1)


def profile(device: torch.device, quick: bool) -> dict[str, Any]:
    """Profile five steps of dsm: kernels per step, and the operators that take the most time, in ms per step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    trainer, _ = _trainer("dsm", "float32", device, quick)
    for _ in range(3):
        _step(trainer)
    wait(device)
    on_cuda = device.type == "cuda"
    with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]) as found:
        for _ in range(5):
            _step(trainer)
        wait(device)

    def own(event: Any) -> float:
        return (event.self_device_time_total if on_cuda else event.self_cpu_time_total) / 5000

    events = found.key_averages()
    kernels = sum(e.count for e in events if e.self_device_time_total > 0) / 5 if on_cuda else None
    top = sorted(events, key=own, reverse=True)[:12]
    return {"kernels_per_step": kernels, "top": [{"operator": e.key[:80], "ms": own(e)} for e in top]}
