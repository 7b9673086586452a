"""The console: a progress bar on a terminal or occasional lines elsewhere, and a table at the end."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from ebm_lab.core.streams import SafeStream


class Console:
    """Show `headline` metrics, steps per second and the time left; `say` prints a line above the bar.

    No failure here ends a run: after the first one the console is silent, and `silenced` is called once with the
    reason.
    """

    def __init__(
        self,
        steps: int,
        start: int,
        headline: tuple[str, ...],
        quiet: bool = False,
        silenced: Callable[[str], None] = lambda line: None,
    ) -> None:
        stream = sys.stdout
        self.stream = stream if stream is None or isinstance(stream, SafeStream) else SafeStream(stream)
        self.rich = RichConsole(file=self.stream, quiet=quiet, highlight=False, soft_wrap=True)  # pyright: ignore[reportArgumentType] (a SafeStream has all attributes of a text stream)
        self.steps, self.headline, self.first = steps, headline, start
        self.began, self.last_line = time.monotonic(), 0.0
        self.silent, self.silenced = False, silenced
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
        self._show(self.bar.start)

    def _show(self, action: Callable[[], None]) -> None:
        problem: BaseException | None = None
        if not self.silent:
            try:
                action()
            except (Exception, SystemExit) as error:  # Rich turns a broken pipe into SystemExit
                problem = error
            problem = problem or (self.stream.lost if isinstance(self.stream, SafeStream) else None)
        if problem is not None:
            self.silent = True
            self.silenced(f"console output stopped: {type(problem).__name__}: {problem}")

    def say(self, line: str) -> None:
        self._show(lambda: self.rich.print(line, markup=False, emoji=False))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._show(lambda: self._progress(values, step))

    def _progress(self, values: Mapping[str, float], step: int) -> None:
        shown = [n for n in (*self.headline, "val/nll_gap", "steps_per_second") if n in values]
        text = "  ".join(f"{_short(n)} {values[n]:.4g}" for n in shown)
        self.bar.update(self.task, completed=step, metrics=text)
        now = time.monotonic()
        if not self.rich.is_terminal and (now - self.last_line > 10 or step == self.steps):
            self.last_line = now
            left = (now - self.began) / max(1, step - self.first) * (self.steps - step)
            self.rich.print(f"step {step}/{self.steps}  {text}  eta {left:.0f} s", markup=False)

    def image(self, name: str, image: Tensor, step: int) -> None:
        """Do nothing: a console shows no pictures."""

    def close(self, summary: Mapping[str, Any]) -> None:
        self.silent = False  # the bar must stop, and release standard output, even after a failure
        self._show(self.bar.stop)

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for name, value in rows.items():
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
        self._show(lambda: self.rich.print(table))


def _short(name: str) -> str:
    return "steps/s" if name == "steps_per_second" else name
