"""Run the cases of a comparison: each is `python train.py` in a process with one thread, several at a time.

    <out>/study.json                    the budget and overrides that all cases share
    <out>/pilots/<arm>/pilot.json       cost of a step of the arm
    <out>/cases/<case>/case.json        steps, pilot and command; beside it `log.txt` and the run, under runs/

A case that has finished or diverged is not run again. An interrupted case is resumed from its checkpoint, and a failed
one is started anew. No case stops the others.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.files import dumps, loads, write_atomic
from ebm_lab.core.shell import override
from ebm_lab.loggers.files import rows
from ebm_lab.reports.compare.plan import Arm, Case, Pilot, Study, arguments, pilot_arguments, runs_alike, steps_for
from ebm_lab.runs.run_directory import RUNS, RunDir

ENDED = ("finished", "diverged")
TRAIN = "from ebm_lab.cli.main import main; main()"
EVALUATE = "from ebm_lab.cli.evaluate import main_evaluate; main_evaluate()"


@dataclass
class Runner:
    """Run the missing cases of a comparison, `jobs` at a time. `evaluate`: names of evaluations after training."""

    study: Study
    out: Path
    jobs: int
    evaluate: str = ""
    say: Callable[[str], None] = print
    stopping: bool = False
    alike: int = 1
    _live: set[subprocess.Popen] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self) -> None:
        """Create `out`; raises UserError if it holds a comparison under other conditions."""
        file, wanted = self.out / "study.json", json.loads(json.dumps(asdict(self.study)))
        if not file.is_file():
            self.out.mkdir(parents=True, exist_ok=True)
            write(file, wanted)
        kept = json.loads(file.read_text(encoding="utf-8"))
        for key, value in wanted.items():
            if kept[key] != value:
                raise UserError(
                    f"out={self.out}: holds a comparison with {key}={kept[key]}, not {value}; choose another"
                )

    def run(self, cases: Sequence[Case]) -> None:
        """Run the pilots, then the cases; Ctrl-C stops all with checkpoints, and the next call continues them."""
        self.prepare()
        self.alike = runs_alike(cases, self.jobs)
        pending = [case for case in cases if self.is_pending(case)]
        arms = list(dict.fromkeys(case.arm for case in pending))
        self.say(
            f"{len(cases)} cases, {len(cases) - len(pending)} of them done before; {self.jobs} at a time: {self.out}"
        )
        if self.study.budget is not None:
            self._each("pilot", [arm for arm in arms if self.pilot(arm) is None], self.measure, lambda arm: arm.name)
        self._each("case", pending, self.run_case, lambda case: case.name)

    def _each(self, what: str, things: Sequence[Any], do: Callable, name: Callable) -> None:
        began, done = time.perf_counter(), 0
        pool = ThreadPoolExecutor(self.jobs)
        futures = {pool.submit(do, thing): thing for thing in things}
        try:
            for future in as_completed(futures):
                done += 1
                left = (time.perf_counter() - began) / done * (len(things) - done)
                eta = f"; about {duration(left)} left" if done < len(things) else ""
                self.say(f"{what} {done}/{len(things)}  {name(futures[future])}: {future.result()}{eta}")
        except KeyboardInterrupt:
            self.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """Ask every running process to stop after its present step, with a checkpoint."""
        with self._lock:
            self.stopping = True
            for process in self._live:
                process.terminate()

    def folder(self, case: Case) -> Path:
        return self.out / "cases" / case.name

    def is_pending(self, case: Case) -> bool:
        """Return whether the case must still be trained or evaluated."""
        record = read(self.folder(case) / "case.json")
        unevaluated = self.evaluate and record.get("evaluated") != self.evaluate
        status = summary_of(self.folder(case)).get("status")
        return status not in ENDED or bool(unevaluated and status == "finished")

    def pilot(self, arm: Arm) -> Pilot | None:
        record = read(self.out / "pilots" / arm.name / "pilot.json")
        return Pilot(**record) if record else None

    def measure(self, arm: Arm) -> str:
        """Run an arm's pilot and save its cost; returns a line for the terminal."""
        folder = self.out / "pilots" / arm.name
        problem = self.process([*pilot_arguments(arm, self.study), override("output_dir", folder)], folder, TRAIN)
        run, summary = newest(folder), summary_of(folder)
        if run is None or summary.get("status") != "finished":
            return f"failed, {summary.get('message') or problem}"
        pilot = cost(run, summary)
        write(folder / "pilot.json", pilot.as_dict())
        return (
            f"{1000 * pilot.cpu_seconds:.3g} CPU-ms and {pilot.grad_evals:,.0f} gradient evaluations a step, "
            f"so {steps_for(self.study, pilot):,} steps"
        )

    def run_case(self, case: Case) -> str:
        """Run or resume a case, and evaluate it; returns a line for the terminal."""
        folder, pilot = self.folder(case), self.pilot(case.arm)
        old, status = newest(folder), summary_of(folder).get("status")
        record = read(folder / "case.json")
        problem = ""
        if status == "running":
            return "is running in another process"
        if status not in ENDED:
            if pilot is None and self.study.budget is not None:
                log = self.out / "pilots" / case.arm.name
                write(folder / "case.json", {"message": message(log) or "its pilot failed"})
                return "not run, its pilot failed"
            if status == "interrupted" and old is not None:
                problem = self.process([override("resume", old.path), "logger=none"], folder, TRAIN)
            if summary_of(folder).get("status") not in ENDED and not self.stopping:
                command = [*arguments(case, self.study, pilot, self.alike), override("output_dir", folder)]
                record = {"command": command}
                if pilot is not None:
                    record |= {"steps": steps_for(self.study, pilot), "pilot": pilot.as_dict()}
                write(folder / "case.json", record)
                problem = self.process(command, folder, TRAIN)
        summary = summary_of(folder)
        if summary.get("status") not in ENDED:
            write(folder / "case.json", {**record, "message": summary.get("message") or problem})
        elif self.evaluate and summary["status"] == "finished" and not self.stopping:
            run = newest(folder)
            assert run is not None
            problem = self.process([f"run={run.path}", f"evaluation={self.evaluate}"], folder, EVALUATE)
            write(folder / "case.json", {**record, "evaluated": self.evaluate})
        gap = f", gap {summary['nll_gap']:.4f} nats" if "nll_gap" in summary else ""
        spent = f", {summary['train_cpu_seconds']:.1f} CPU-s of training" if "train_cpu_seconds" in summary else ""
        return f"{summary.get('status', 'failed')}{gap}{spent}{f' ({problem})' if problem else ''}"

    def process(self, arguments: Sequence[str], folder: Path, code: str) -> str:
        """Run the package's command line with output to log.txt; returns what went wrong, or ''."""
        folder.mkdir(parents=True, exist_ok=True)
        script = Path(ebm_lab.__file__).resolve().parent.parent / "train.py"
        start = [str(script)] if code == TRAIN and script.is_file() else ["-P", "-c", code]  # -P: no local module
        here = str(Path(ebm_lab.__file__).resolve().parent.parent)
        paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            with self._lock:
                if self.stopping:
                    return "stopped"
                command = [sys.executable, *start, *arguments]
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
                self._live.add(process)
            code_ = process.wait()
            with self._lock:
                self._live.discard(process)
        return "" if code_ == 0 else message(folder) or f"exit status {code_}"


def cost(run: RunDir, summary: dict[str, Any]) -> Pilot:
    """Return the cost of a pilot's steps, from its first log line to its last; the first steps are a warm-up."""
    config = run.read_config()
    lines = [line for line in metrics(run) if "train_cpu_seconds" in line]
    first, last = (lines[0], lines[-1]) if len(lines) > 1 else ({"step": 0, "train_cpu_seconds": 0.0}, summary)
    steps = last["step"] - first["step"]
    return Pilot(
        steps=summary["step"],
        cpu_seconds=max(1e-6, (last["train_cpu_seconds"] - first["train_cpu_seconds"]) / steps),
        grad_evals=summary["grad_evals"] / summary["step"],
        gap="nll_gap" in summary,
        warmup=config["optim"]["warmup"],
        checkpoint_every=config["checkpoint_every"],
    )


def metrics(run: RunDir) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl; none if there is no such file."""
    return rows(run.metrics_file) if run.metrics_file.is_file() else []


def newest(folder: Path) -> RunDir | None:
    """Return the run that holds a case's result: one that has ended, else a running one, else the last by name.

    The name alone does not decide, because it holds a clock's time, and clocks can be set back.
    """
    paths = sorted(p for p in (folder / RUNS).glob("*") if (p / "summary.json").is_file())
    if len(paths) < 2:
        return RunDir(paths[0]) if paths else None

    def rank(path: Path) -> tuple[int, str]:
        try:
            status = RunDir(path).read_summary()["status"]
        except UserError:
            status = ""
        return {"finished": 3, "diverged": 2, "running": 1}.get(status, 0), path.name

    return RunDir(max(paths, key=rank))


def summary_of(folder: Path) -> dict[str, Any]:
    run = newest(folder)
    return run.read_summary() if run is not None else {}


def message(folder: Path) -> str:
    """Return the last error, or else the last line, in a process's log."""
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [""])[-1].removeprefix("error:").strip()


def read(file: Path) -> dict[str, Any]:
    return loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, dumps(content, indent=2) + "\n")


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
