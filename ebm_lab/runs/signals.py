"""What a run does when it is asked to stop."""

import signal
import threading
from typing import Any, Literal

from ebm_lab.training.trainer import Trainer


class Signals:
    """Within: SIGINT, SIGTERM and SIGHUP end the run and lose nothing; `trainer.stop` names the last one.

    While it trains they end it after the current step, with a checkpoint; a second SIGINT at once. Its last evaluation
    they end at once, for all that was trained is on the disk. While it closes they change nothing any more. A SIGHUP
    that is ignored, as nohup has it, stays so.
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
