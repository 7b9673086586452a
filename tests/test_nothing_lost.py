"""Machines die and disks fill: what a run has come to survives, and a person is told in one line."""

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.loggers.files import Files
from ebm_lab.training import checkpoint
from tests.test_resume import OBJECTIVES, QUICK, lines, run, same, state, stop_at

ROOT = Path(__file__).resolve().parent.parent
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _train(overrides):
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (ends with the process)
    os._exit(ebm_lab.train(overrides, quiet=True).exit_status)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_killed_at_a_random_moment_and_resumed_it_ends_with_the_bits_of_an_unbroken_run(number, tmp_path):
    """SIGKILL and SIGTERM by turns, twice a run, at a moment of its training drawn from the seed; the same command is
    given again."""
    moment = random.Random(number)
    workers = multiprocessing.get_context("forkserver")
    workers.set_forkserver_preload(["ebm_lab.run", "ebm_lab.cli.api"])
    objective = OBJECTIVES[number % len(OBJECTIVES)]
    command = [*QUICK, f"objective={objective}", "steps=100", "log_every=3", "checkpoint_every=4", "resume=auto"]
    straight = ebm_lab.train([*command, f"output_dir={tmp_path / 'a'}"], quiet=True)
    took = 100 / straight.summary["steps_per_second"]
    kill = (signal.SIGKILL, signal.SIGTERM)[number % 2]
    for _ in range(2):
        process = workers.Process(target=_train, args=([*command, f"output_dir={tmp_path / 'b'}"],))
        began = time.time()
        process.start()
        while process.is_alive() and not any(
            f.stat().st_mtime > began for f in tmp_path.glob("b/runs/*/metrics.jsonl")
        ):
            time.sleep(0.01)
        time.sleep(moment.random() * took / 2)
        assert process.pid is not None
        os.kill(process.pid, kill)
        process.join()
        assert process.exitcode in (0, 75, -kill)
        for file in tmp_path.glob("b/runs/*/checkpoints/*.pt"):
            checkpoint.load(file)
    resumed = ebm_lab.train([*command, f"output_dir={tmp_path / 'b'}"], quiet=True)
    assert resumed.status == "finished"
    same(state(straight.path), state(resumed.path))
    assert lines(straight.path) == lines(resumed.path)
    assert resumed.summary["nll_gap"] == straight.summary["nll_gap"]


def test_a_disk_that_is_full_for_a_while_costs_no_training(tmp_path, monkeypatch, capsys):
    """Checkpoints of steps 8 and 12 can't be written; the run goes on, says so, and ends with the same bits."""
    straight = run(tmp_path, "a", "objective=pcd", "steps=20")
    save = checkpoint.save

    def full(path, content):
        if content["counters"]["step"] in (8, 12):
            raise FULL
        save(path, content)

    monkeypatch.setattr(checkpoint, "save", full)
    done = ebm_lab.train([*QUICK, "objective=pcd", "steps=20", f"output_dir={tmp_path / 'b'}"])
    out = " ".join(capsys.readouterr().out.split())
    assert "step 8: checkpoint can't be written" in out and "No space left on device" in out
    assert done.status == "finished"
    same(state(straight.path)["objective"], state(done.path)["objective"])
    assert lines(straight.path) == lines(done.path)


def test_a_disk_that_stays_full_keeps_the_last_checkpoint_and_fails(tmp_path, monkeypatch):
    save = checkpoint.save

    def full(path, content):
        if content["counters"]["step"] > 8:
            raise FULL
        save(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        done = run(tmp_path, "a", "objective=dsm", "steps=20")
    assert done.exit_status == 1 and "step 20 is on no disk" in done.summary["message"]
    assert state(done.path)["counters"]["step"] == 8
    straight, resumed = (
        run(tmp_path, "b", "objective=dsm", "steps=20"),
        ebm_lab.train([f"resume={done.path}"], quiet=True),
    )
    same(state(straight.path), state(resumed.path))


def test_a_checkpoint_too_large_for_the_file_system_leaves_the_old_one(tmp_path):
    """The real thing: a process whose files may have 4,000 bytes at most."""
    file = tmp_path / "last.pt"
    checkpoint.save(file, {"x": 1})
    code = (
        "import resource, torch; from pathlib import Path; from ebm_lab.training import checkpoint;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000));"
        f"checkpoint.save(Path({str(file)!r}), {{'x': torch.zeros(10_000)}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "File too large" in done.stderr and checkpoint.load(file)["x"] == 1
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


def test_lines_that_a_full_disk_refused_are_written_later(tmp_path):
    """Half a line may have got through: it is cut off before the whole one follows."""
    said = []
    files = Files(tmp_path / "metrics.jsonl", tmp_path, 0, say=said.append)
    files.scalars({"loss": 1.0}, 1)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
        files.scalars({"loss": 2.0}, 2)
        files.scalars({"loss": 3.0}, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(said) == 1 and "wait in memory" in said[0]
    files.scalars({"loss": 4.0}, 4)
    files.close({})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": i, "loss": float(i)} for i in (1, 2, 3, 4)]


def test_a_vanished_data_root_is_one_line_and_the_run_stays(tmp_path, monkeypatch):
    from tests.test_datasets_real import write_idx

    write_idx(tmp_path / "data" / "MNIST" / "raw")
    data = [f"dataset.root={tmp_path / 'data'}", "dataset.val=5", "objective=dsm", "dataset=mnist"]
    small = ["energy.channels=[4]", "energy.hidden=4", "steps=8", "batch_size=8", "logger=none", "evaluation=[]"]
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        first = ebm_lab.train([*data, *small, f"output_dir={tmp_path}"], quiet=True)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="dataset.root=.*MNIST is not there"):
        ebm_lab.train([f"resume={first.path}"], quiet=True)
    assert state(first.path)["counters"]["step"] == 5
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    assert ebm_lab.train([f"resume={first.path}"], quiet=True).status == "finished"
