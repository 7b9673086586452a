"""Several processes train what one would: gradients, checkpoints, and who writes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.runs.load import load_run
from ebm_lab.training.distributed import Processes
from tests.exhaustive import cases, exhaustive
from tests.runs.test_resume import QUICK, lines, same, state
from tests.together import BATCH, CHOICES, WHOLE, built

ROOT = Path(__file__).resolve().parents[2]


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def two_processes(module, folder):
    """Run `python -m <module> <folder>` in two processes of one run, until both have ended well."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, str(folder)]
    both = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **place, "RANK": str(r)}, stderr=subprocess.PIPE, text=True
        )
        for r in range(2)
    ]
    errors = [process.communicate(timeout=500)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors[0][-3000:] + errors[1][-3000:]


GRADIENTS = ("dsm", "pcd", "tre", "chains with labels", "pcd in two passes")
"""Noise alone, chains, an expectation within a nonlinear function, labels, and passes over parts."""


@pytest.fixture(scope="module")
def together(tmp_path_factory, request):
    """The folder in which two processes left what they did, of the choices that are tested in this session."""
    folder = tmp_path_factory.mktemp("together")
    asked = {item.callspec.params["name"] for item in request.session.items if "[" in item.nodeid and here(item)}
    (folder / "asked.json").write_text(json.dumps(sorted(asked | {"pcd"})))
    two_processes("tests.together", folder)
    return folder


def here(item):
    return item.nodeid.startswith("tests/training/test_distributed.py") and "name" in item.callspec.params


class Joined(TorchFunctionMode):
    """Draws are those that the processes drew, put together row by row."""

    def __init__(self, parts, batch, levels):
        self.parts, self.batch, self.levels = parts, batch, levels

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(a, torch.Generator) for a in (*args, *(kwargs or {}).values())):
            drawn = [part.pop(0) for part in self.parts]
            assert {name for name, _ in drawn} == {func.__name__}
            out.copy_(self.join([x for _, x in drawn], func.__name__))
        return out

    def join(self, drawn, name):
        if name == "randperm":  # slots of a share of the buffer: the first batch of them are used
            slots = [x + i * len(x) for i, x in enumerate(drawn)]
            return torch.cat([*(x[: self.batch] for x in slots), *(x[self.batch :] for x in slots)])
        dim = next(d for d in range(drawn[0].ndim) if drawn[0].shape[d] % self.batch == 0)
        shape = drawn[0].shape
        split = [x.reshape(*shape[:dim], shape[dim] // self.batch, self.batch, *shape[dim + 1 :]) for x in drawn]
        whole = torch.cat(split, dim + 1).flatten(dim, dim + 1)
        if self.levels and name == "uniform_":  # one draw from each of n equal parts: the parts are finer here
            n, world = len(whole), len(drawn)
            whole = world * (torch.arange(n) % self.batch + whole) - torch.arange(n)
        return whole


def joined(name, parts):
    """The gradients of one process on the joined batch with the joined draws, a pass at a time."""
    choice = CHOICES[name]
    passes = 2 if "accumulate=2" in choice else 1
    trainer = built([c for c in choice if not c.startswith("accumulate")])
    (batch,) = trainer.batches(1)
    size = BATCH // 2 // passes
    order = torch.arange(BATCH).view(2, passes, size).transpose(0, 1).reshape(passes, -1)
    with Joined([list(part) for part in parts], size, name in ("multi_dsm", "dual_sm")):
        for rows in order:
            y = None if batch.y is None else batch.y[rows]
            loss = trainer.state.objective(batch._replace(x=batch.x[rows], y=y))
            (loss.value / passes).backward()
    return {n: p.grad for n, p in trainer.state.objective.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(CHOICES, GRADIENTS))
def test_two_processes_have_the_gradient_of_one_on_the_joined_batch_with_the_joined_noise(name, together):
    """In float64, where rounding leaves some 1e-15; the two halves' gradients differ in their first digit."""
    mine, other = (torch.load(together / f"gradients{r}.pt", weights_only=False)[name] for r in range(2))
    whole = joined(name, [mine[1], other[1]])
    assert mine[0].keys() == other[0].keys() == whole.keys()
    for key in whole:
        assert torch.equal(mine[0][key], other[0][key]), key
    flat = [torch.cat([g[key].flatten() for key in whole]) for g in (mine[0], whole)]
    assert float((flat[0] - flat[1]).norm() / flat[1].norm()) < 1e-10
    drawn = [[x for n, x in part[1] if n != "randperm"] for part in (mine, other)]
    assert not drawn[0] or any(not torch.equal(a, b) for a, b in zip(*drawn, strict=True)), "streams of their own"


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(WHOLE, ["pcd"]))
def test_stopped_by_one_of_two_processes_and_resumed_has_the_bits_of_an_unbroken_run(name, together):
    (straight,), (stopped,) = ((together / name / kind / "runs").iterdir() for kind in ("straight", "stopped"))
    same(state(straight), state(stopped))
    assert lines(straight) == lines(stopped)
    assert [row["step"] for row in lines(straight)] == [3, 6, 9, 12, 15, 18, 20]
    a, b = (json.loads((path / "summary.json").read_text()) for path in (straight, stopped))
    assert a["status"] == b["status"] == "finished" and a["processes"] == 2 and a["nll_gap"] == b["nll_gap"]


@pytest.mark.slow
def test_another_number_of_processes_is_refused_and_the_run_left_as_it_is(together):
    (run,) = (together / "pcd" / "straight" / "runs").iterdir()
    before = {f.name: f.read_bytes() for f in run.rglob("*") if f.is_file()}
    with pytest.raises(UserError, match=r"by 2 process\(es\) and can't go on with 1,.*torchrun --nproc_per_node=2"):
        ebm_lab.train([f"resume={run}", "steps=30"], quiet=True)
    assert before == {f.name: f.read_bytes() for f in run.rglob("*") if f.is_file()}


@pytest.mark.slow
def test_one_process_loads_what_two_have_trained_with_all_its_chains(together):
    (run,) = (together / "pcd" / "straight" / "runs").iterdir()
    loaded = load_run(run)
    content = state(run)
    shares = content["processes"]
    assert len(loaded.objective.buffer.x) == loaded.config["objective"]["buffer_size"]
    assert len({bytes(own["generator"].numpy().tobytes()) for own in shares}) == 2
    x = loaded.objective.buffer.x
    assert len(torch.unique(x, dim=0)) == len(x), "chains of their own"
    assert content["counters"]["grad_evals"] == 20 * 64 * (loaded.config["sampler"]["steps"] + 1 + 2)


@pytest.mark.slow
def test_evaluations_are_dealt_out_and_all_come_back(together):
    """Those that draw nothing but their own stream's numbers are the same; samples are as many, of other streams."""
    (run,) = (together / "pcd" / "straight" / "runs").iterdir()
    found = []
    for start in ([], ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port()}"]):
        command = [sys.executable, *start, "scripts/evaluate.py", f"run={run}", "evaluation=own", "samples=51"]
        done = subprocess.run([*command, f"out={run / str(len(start))}"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads((run / str(len(start)) / "evaluation.json").read_text()))
    one, two = found
    assert (
        one.keys() == two.keys()
        and one["left_out"] == two["left_out"]
        and one["seconds"].keys() == two["seconds"].keys()
    )
    assert one["nll"] == two["nll"] and one["mmd2"] != two["mmd2"]


@exhaustive
def test_torchrun_terminated_and_begun_again_with_resume_auto(tmp_path):
    """The command line itself, killed twice as a cluster does it, ends with the bits of an unbroken run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port()}"]
    command += ["train.py", *QUICK, "objective=pcd", "steps=400", "log_every=20", "checkpoint_every=40", "resume=auto"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(where, until=None):
        process = subprocess.Popen(
            [*command, f"output_dir={tmp_path / where}"], cwd=ROOT, env=env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if until is not None:
            while process.poll() is None and logged(where) < until:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
        return process.communicate(timeout=200)[0], process.returncode

    def logged(where):
        return sum(len(file.read_text().splitlines()) for file in tmp_path.glob(f"{where}/runs/*/metrics.jsonl"))

    straight = run("a")
    assert straight[1] == 0, straight[0]
    for until in (2, 7):
        assert run("b", until)[1] != 0 and until <= logged("b") < logged("a")
    last = run("b")
    assert last[1] == 0, last[0]
    (a,), (b,) = ((tmp_path / where / "runs").iterdir() for where in "ab")
    same(state(a), state(b))
    assert lines(a) == lines(b)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["batch_size=63"], "batch_size=63: must be a multiple of the 2 processes"),
        (["batch_size=66", "accumulate=2"], "batch_size=66: must be a multiple of the 2 processes times accumulate=2"),
        (["objective=pcd", "objective.buffer_size=65"], "has 65 chains: give a multiple of the 2 processes"),
        (
            ["objective=cd", "sampler=langevin", "objective.neglected_term=1", "objective.neglected_entropy=1"],
            "2 processes: the batch can't be cut into parts, for objective.neglected_entropy",
        ),
    ],
)
def test_what_can_not_be_shared_out_is_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        from ebm_lab.cli.compose import compose_config
        from ebm_lab.runs.assemble import assemble

        assemble(compose_config([*QUICK, "objective=dsm", *overrides]), Processes(0, 2))
