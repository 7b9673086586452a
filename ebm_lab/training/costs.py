"""The counters of a run, and the clock that updates their times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ebm_lab.training.distributed import Processes


@dataclass
class Counters:
    """Progress and cost of a run, saved in checkpoints. `best`: best validation value so far of metric `best_by`."""

    step: int = 0
    grad_evals: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    startup_seconds: float = 0.0
    eval_seconds: float = 0.0
    startup_cpu_seconds: float = 0.0
    eval_cpu_seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    best_by: str | None = None

    @property
    def train_cpu_seconds(self) -> float:
        """CPU-seconds of training alone, without start-up and evaluation."""
        return self.cpu_seconds - self.startup_cpu_seconds - self.eval_cpu_seconds

    @property
    def cpu(self) -> dict[str, float]:
        """CPU-seconds of this process: in all, and of training alone."""
        return {"cpu_seconds": self.cpu_seconds, "train_cpu_seconds": self.train_cpu_seconds}


def watch_memory(device: torch.device) -> None:
    """Begin to watch the peak of a CUDA device's memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def device_costs(device: torch.device, costs: Counters, processes: Processes) -> dict[str, float]:
    """Return what a run cost on CUDA, and nothing for a CPU: the seconds for which it held its devices, summed over
    processes, and the most bytes that its tensors filled on one of them since `watch_memory`."""
    if device.type != "cuda":
        return {}
    peaks = processes.gather(torch.cuda.max_memory_allocated(device))
    return {**processes.total({"device_seconds": costs.seconds}), "device_peak_bytes": max(peaks)}


class Clock:
    """Add this process's time to a run's counters, and time its log windows without their evaluations."""

    def __init__(self) -> None:
        self._last = (0.0, 0.0)
        self._window = (0, 0.0)

    def start(self, counters: Counters, seconds: float, cpu_seconds: float) -> None:
        """Start counting, beginning with the time that start-up took."""
        counters.seconds += seconds
        counters.startup_seconds += seconds
        counters.cpu_seconds += cpu_seconds
        counters.startup_cpu_seconds += cpu_seconds
        self._last = (time.perf_counter(), time.process_time())
        self.begin_window(counters)

    def tick(self, counters: Counters) -> None:
        """Bring the counters' times up to date."""
        now = (time.perf_counter(), time.process_time())
        counters.seconds += now[0] - self._last[0]
        counters.cpu_seconds += now[1] - self._last[1]
        self._last = now

    @contextmanager
    def evaluating(self, counters: Counters) -> Iterator[None]:
        """Count the time within this context as evaluation, not as training."""
        self.tick(counters)
        seconds, cpu_seconds = counters.seconds, counters.cpu_seconds
        try:
            yield
        finally:
            self.tick(counters)
            counters.eval_seconds += counters.seconds - seconds
            counters.eval_cpu_seconds += counters.cpu_seconds - cpu_seconds

    def begin_window(self, counters: Counters) -> None:
        """Begin a log window at the counters' step."""
        self._window = (counters.step, counters.seconds - counters.eval_seconds)

    def rate(self, counters: Counters) -> float:
        """Return the steps per second since the window began, and begin the next one."""
        self.tick(counters)
        step, seconds = self._window
        self.begin_window(counters)
        return (counters.step - step) / max(1e-9, self._window[1] - seconds)
