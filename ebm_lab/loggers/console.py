"""What a person watches: a progress bar on a terminal, a line now and then elsewhere, a table at the end."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor


class Console:
    """Shows `headline` metrics, steps per second and the time left; `say` prints a line above the bar."""

    def __init__(self, steps: int, start: int, headline: tuple[str, ...], quiet: bool = False) -> None:
        self.rich = RichConsole(quiet=quiet, highlight=False, soft_wrap=True)
        self.steps, self.headline, self.first = steps, headline, start
        self.began, self.spoken = time.monotonic(), 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        )
        self.bar = Progress(*columns, console=self.rich, disable=not self.rich.is_terminal, refresh_per_second=4)
        self.task = self.bar.add_task("train", total=steps, completed=start, metrics="")
        self.bar.start()

    def say(self, line: str) -> None:
        self.rich.print(line, markup=False)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        shown = [n for n in (*self.headline, "val/nll_gap", "steps_per_second") if n in values]
        text = "  ".join(f"{_short(n)} {values[n]:.4g}" for n in shown)
        self.bar.update(self.task, completed=step, metrics=text)
        now = time.monotonic()
        if not self.rich.is_terminal and (now - self.spoken > 10 or step == self.steps):
            self.spoken = now
            left = (now - self.began) / max(1, step - self.first) * (self.steps - step)
            self.say(f"step {step}/{self.steps}  {text}  eta {left:.0f} s")

    def image(self, name: str, image: Tensor, step: int) -> None:
        """Pictures are for the other loggers."""

    def close(self, summary: Mapping[str, Any]) -> None:
        self.bar.stop()

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for name, value in rows.items():
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
        self.rich.print(table)


def _short(name: str) -> str:
    return "steps/s" if name == "steps_per_second" else name
