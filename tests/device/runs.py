"""Small runs on the pretended device, in a process of their own: python -m tests.device.runs CASES FOUND

CASES is a JSON file of {name: overrides}; FOUND gets a line of JSON for each: {"case": name, "error": text or null,
"events": [[phase, kind, operator, place, count]], "reports": [evaluations that gave numbers], "seconds": of the CPU}.
The phases: "setup"; "first", the first training step; "step", each later one; "checkpoint", writing and reading one;
"evaluation <name>".
"""

import io
import json
import sys
import time
import traceback
from pathlib import Path

import torch

from ebm_lab.core.eval_view import Report
from ebm_lab.runs.assemble import assemble
from ebm_lab.training.trainer import Trainer
from scripts.gpu.cases import composed
from tests.device.fake_cuda import Watch, fake_cuda, load
from tests.device.faulty import FAULTY

COMMON = ["logger=none", "device=cuda", "compile=off", "threads=1", "preprocess=none", "steps=100"]
STEPS, TURNS = 3, 12
"""Training steps of an objective with one player, and of one with more, each of whom moves in so many."""


def train(trainer: Trainer, watch: Watch) -> None:
    """Take a few steps, go through a checkpoint, and take one more."""
    state = trainer.state
    for step in range(1, 1 + (STEPS if len(state.objective.players()) == 1 else TURNS)):
        watch.phase = "first" if step == 1 else "step"
        trainer._train_step(step)
    watch.phase = "checkpoint"
    file = io.BytesIO()
    torch.save(state.content(), file)
    file.seek(0)
    state.restore(load(file, map_location="cuda", weights_only=True))
    if state.early_stopping is not None:
        state.early_stopping.rise(state.early_stopping.losses())
    watch.phase = "step"
    trainer._train_step(state.step + 1)


def evaluate(trainer: Trainer, watch: Watch) -> list[str]:
    """Run the evaluations that the run asks for; return the names of those that gave a report."""
    watch.phase, done, evaluations = "view", [], trainer.evaluations
    with trainer.state.ema.applied():
        view = evaluations.view("test", trainer.state.step)
        for name in evaluations.evaluators:
            watch.phase = f"evaluation {name}"
            if isinstance(evaluations.report(name, view), Report):
                done.append(name)
    return done


def examine(name: str, overrides: list[str]) -> dict:
    """Run one case and return what was found; an error does not end the process."""
    error, done, began = None, [], time.process_time()
    with fake_cuda() as watch:
        try:
            config = composed([*COMMON, *overrides])
            if name in FAULTY:
                config["objective"] = {"name": name}
            trainer, _ = assemble(config)
            train(trainer, watch)
            done = evaluate(trainer, watch)
        except Exception as problem:
            places = [f for f in traceback.extract_tb(problem.__traceback__) if "/ebm_lab/" in f.filename]
            at = f" at {places[-1].filename}:{places[-1].lineno}" if places else ""
            error = f"{watch.phase}: {type(problem).__name__}: {problem}{at}"
    events, seconds = [[*key, n] for key, n in watch.events.items()], round(time.process_time() - began, 2)
    return {"error": error, "events": events, "reports": done, "seconds": seconds}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        for name, overrides in json.loads(Path(sys.argv[1]).read_text()).items():
            file.write(json.dumps({"case": name, **examine(name, overrides)}) + "\n")
            file.flush()
