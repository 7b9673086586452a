"""Stop a run on a signal without losing its state."""

import signal
import threading
from typing import Any, Literal

from ebm_lab.training.trainer import Trainer


class Signals:
    """Context in which SIGINT, SIGTERM and SIGHUP end the run without losing anything; `trainer.stop` names the last.

    While the run trains, a signal ends it after the current step, with a checkpoint; a second SIGINT ends it at once.
    The last evaluation ends at once, for the trained state is already on the disk. While the run closes, signals have
    no effect. A SIGHUP that is ignored, as under nohup, stays ignored.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.phase: Literal["training", "evaluating", "closing"] = "training"
        self.before: dict[int, Any] = {}

    def ask(self, number: int, frame: Any) -> None:
        again = self.trainer.stop is not None and number == signal.SIGINT
        self.trainer.stop = signal.Signals(number).name
        if self.phase == "evaluating" or (self.phase == "training" and again):
            raise KeyboardInterrupt

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) == signal.SIG_DFL:
                    self.before[number] = signal.signal(number, self.ask)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
