"""What a run has come to, and the clock that counts what it costs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Counters:
    """What a run has come to; travels in the checkpoint. `best` is the best validation value of `best_by` so far."""

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
        """CPU-seconds of training alone: neither start-up nor evaluation."""
        return self.cpu_seconds - self.startup_cpu_seconds - self.eval_cpu_seconds

    @property
    def cpu(self) -> dict[str, float]:
        """What this process has spent."""
        return {"cpu_seconds": self.cpu_seconds, "train_cpu_seconds": self.train_cpu_seconds}


class Clock:
    """Adds this process's time to a run's counters, and times its log windows without the evaluations in them."""

    def __init__(self) -> None:
        self._last = (0.0, 0.0)
        self._window = (0, 0.0)

    def start(self, counters: Counters, seconds: float, cpu_seconds: float) -> None:
        """Begin to count; what start-up took comes first."""
        counters.seconds += seconds
        counters.startup_seconds += seconds
        counters.cpu_seconds += cpu_seconds
        counters.startup_cpu_seconds += cpu_seconds
        self._last = (time.perf_counter(), time.process_time())
        self.begin_window(counters)

    def tick(self, counters: Counters) -> None:
        """Bring the counters' times up to now."""
        now = (time.perf_counter(), time.process_time())
        counters.seconds += now[0] - self._last[0]
        counters.cpu_seconds += now[1] - self._last[1]
        self._last = now

    @contextmanager
    def evaluating(self, counters: Counters) -> Iterator[None]:
        """What is done within counts as evaluation and not as training."""
        self.tick(counters)
        seconds, cpu_seconds = counters.seconds, counters.cpu_seconds
        try:
            yield
        finally:
            self.tick(counters)
            counters.eval_seconds += counters.seconds - seconds
            counters.eval_cpu_seconds += counters.cpu_seconds - cpu_seconds

    def begin_window(self, counters: Counters) -> None:
        """A window begins at the counters' step."""
        self._window = (counters.step, counters.seconds - counters.eval_seconds)

    def rate(self, counters: Counters) -> float:
        """Steps per second since the window began; the next one begins."""
        self.tick(counters)
        step, seconds = self._window
        self.begin_window(counters)
        return (counters.step - step) / max(1e-9, self._window[1] - seconds)
