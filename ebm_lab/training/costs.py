"""The counters of a run, and the clock that updates their times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


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
