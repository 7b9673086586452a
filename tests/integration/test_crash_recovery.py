"""Machines die and disks fill: what a run has come to survives, and a person is told in one line."""

import ctypes
import errno
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
import yaml

import ebm_lab
from ebm_lab.cli.evaluate import main_evaluate
from ebm_lab.cli.main import main as train_main
from ebm_lab.cli.tools import main_sample
from ebm_lab.core.errors import UserError
from ebm_lab.loggers.files import Files
from ebm_lab.training import checkpoint
from tests.exhaustive import cases
from tests.runs.test_resume import OBJECTIVES, QUICK, lines, run, same, state, stop_at

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _train(overrides):
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (ends with the process)
    os._exit(ebm_lab.train(overrides, quiet=True).exit_status)


@pytest.mark.parametrize("number", cases(range(20), (0, 1)))  # SIGKILL and SIGTERM
def test_killed_at_a_random_moment_and_resumed_it_ends_with_the_bits_of_an_unbroken_run(number, tmp_path):
    """SIGKILL and SIGTERM by turns, twice a run, at a moment of its training drawn from the seed; the same command is
    given again."""
    moment = random.Random(number)
    workers = multiprocessing.get_context("forkserver")
    workers.set_forkserver_preload(["ebm_lab.runs.train", "ebm_lab.cli.api"])
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
        with suppress(ProcessLookupError):  # it may have ended by itself
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
    assert done.exit_status == 1 and "the checkpoint of step 20 could not be saved" in done.summary["message"]
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
    assert len(said) == 1 and "kept in memory" in said[0]
    files.scalars({"loss": 4.0}, 4)
    files.close({})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": i, "loss": float(i)} for i in (1, 2, 3, 4)]


def test_a_vanished_data_root_is_one_line_and_the_run_stays(tmp_path, monkeypatch):
    from tests.datasets.test_datasets_real import write_idx

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 20 steps with last.pt (20), best.pt and good.pt before it, and an unbroken run of 24."""
    root = tmp_path_factory.mktemp("trained")
    more = ["objective=dsm", "evaluation=[likelihood]", "eval_every=8", "log_every=2"]
    return run(root, "a", *more, "steps=20").path, run(root, "b", *more, "steps=24").path


@pytest.fixture
def path(trained, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(trained[0], tmp_path / "runs" / "run")


@pytest.fixture
def command(monkeypatch, capsys):
    """A command line within this process: (exit status, lines on stderr); any other end of it fails the test."""

    def call(tool, *arguments):
        monkeypatch.setattr(sys, "argv", [tool.__name__, *arguments])
        monkeypatch.setattr(sys, "path", [*sys.path])
        for name in ("OMP_WAIT_POLICY", "HYDRA_FULL_ERROR"):
            monkeypatch.setenv(name, os.environ.get(name, "1"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            tool()
        return ended.value.code, capsys.readouterr().err.splitlines()

    return call


def content(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def edit(path, **changes):
    config = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(config | changes))


def last(path):
    return path / "checkpoints" / "last.pt"


def other_seed(path):
    kept = torch.load(last(path), weights_only=True)
    torch.save({**kept, "config": {**kept["config"], "seed": 1}}, last(path))


def other_version(path):
    kept = torch.load(last(path), weights_only=True)
    torch.save({**kept, "counters": {**kept["counters"], "epochs": 3}}, last(path))


def swap(folder):
    """A file in a directory's place."""
    shutil.rmtree(folder)
    folder.write_text("")


def newer(path):
    (path / "summary.json").write_text(json.dumps({"status": "interrupted", "format": 2}))


def write(path, name, text):
    (path / name).write_text(text)


def folder(file):
    file.unlink()
    file.mkdir()


MLP = {
    "name": "mlp",
    "activation": "silu",
    "confine": 2.0,
    "confine_shape": "isotropic",
    "confine_floor": 0.1,
    "base": "none",
}
BEST, GOOD, CANDIDATE = r"best.pt \(step 16\)", r"good.pt \(step 16\)", r"candidate.pt \(step 20\)"
WHOLE = rf"whole there: {BEST}, {GOOD}, {CANDIDATE}; to go on from one: cp \S+/candidate.pt \S+/last.pt$"
BROKEN = f"last.pt: not a readable checkpoint .*{WHOLE}"
EMPTY = "config.yaml: damaged .it is empty.; its checkpoint holds the settings too"
DAMAGES = {
    "truncated checkpoint": (lambda p: last(p).write_bytes(last(p).read_bytes()[:9000]), BROKEN),
    "empty checkpoint": (lambda p: last(p).write_bytes(b""), BROKEN),
    "random bytes": (lambda p: last(p).write_bytes(random.Random(0).randbytes(9000)), BROKEN),
    "a picture": (lambda p: shutil.copy(next((ROOT / "docs").rglob("*.png")), last(p)), BROKEN),
    "another torch file": (lambda p: torch.save(torch.ones(3), last(p)), f"checkpoint format Tensor.*{WHOLE}"),
    "another format": (lambda p: torch.save({"format": 2}, last(p)), f"format 2, and this version reads.*{WHOLE}"),
    "another version": (other_version, f"written by another version; this one does not know epochs.*{WHOLE}"),
    "not a run's": (lambda p: torch.save({"format": 1, "counters": 3}, last(p)), "its 'counters' is a int"),
    "nothing in it": (lambda p: torch.save({"format": 1}, last(p)), "checkpoint without counters, ema, generator"),
    "another run's": (other_seed, "checkpoint has another config: seed is 1 there and 0 in config.yaml"),
    "no last one": (lambda p: last(p).unlink(), f"no such checkpoint, though the run had come further; {WHOLE}"),
    "none at all": (lambda p: shutil.rmtree(last(p).parent), "had come further; no other checkpoint there is whole"),
    "edited shapes": (lambda p: edit(p, energy={**MLP, "hidden": [8]}), r"energy.hidden is \[16\] there and \[8\]"),
    "edited energy": (lambda p: edit(p, energy={"name": "gaussian", "width": 1.0}), "name is mlp there and gaussian"),
    "empty config": (lambda p: write(p, "config.yaml", ""), EMPTY),
    "cut config": (lambda p: write(p, "config.yaml", "seed: 0\noptim: {lr: 1"), "config.yaml: damaged .while"),
    "binary config": (lambda p: (p / "config.yaml").write_bytes(b"\xff\xfe\x00"), "config.yaml: damaged .'utf-8'"),
    "config of numbers": (lambda p: write(p, "config.yaml", "1: 2"), "config.yaml: damaged .it holds no settings"),
    "deep config": (lambda p: write(p, "config.yaml", "[" * 5000), "config.yaml: damaged"),
    "endless config": (lambda p: write(p, "config.yaml", "a: &a [*a]"), "config.yaml: damaged"),
    "group of text": (lambda p: edit(p, optim="adam"), "config.yaml: damaged, 'optim' holds no settings by name"),
    "empty summary": (lambda p: write(p, "summary.json", ""), "summary.json: damaged.*to go on without it"),
    "cut summary": (lambda p: write(p, "summary.json", '{"status": "fin'), "summary.json: damaged .Unterminated"),
    "summary of numbers": (lambda p: write(p, "summary.json", "[1]"), "summary.json: damaged .it holds no settings"),
    "a newer format": (newer, "run directory of format 2, and this version reads format 1"),
    "file for a folder": (lambda p: swap(p / "images"), "images can't be written there .*exist"),
    "folder for a file": (lambda p: folder(p / "metrics.jsonl"), "metrics.jsonl can't be written there"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_and_nothing_is_overwritten(damage, path, command):
    break_it, line = DAMAGES[damage]
    break_it(path)
    before = content(path)
    status, said = command(train_main, f"resume={path}", "steps=24")
    assert status == 2 and len(said) == 1 and said[0].startswith("error: "), said
    assert re.search(line, said[0]), said[0]
    assert content(path) == before
    if "for a" not in damage:  # what can't be written can still be read
        status, said = command(main_evaluate, f"run={path}", "evaluation=likelihood")
        assert status == 2 and len(said) == 1 and content(path) == before, said


@pytest.mark.parametrize(
    "lost", [(), ("candidate.pt",), ("candidate.pt", "good.pt")], ids=["candidate", "good", "best"]
)
def test_the_way_that_the_line_names_leads_on(lost, trained, path, command):
    """Done as told, a run whose newest checkpoint was cut ends with the bits of the unbroken one."""
    for file in ("last.pt", *lost):
        (path / "checkpoints" / file).write_bytes(b"cut")
    _, (said,) = command(train_main, f"resume={path}", "steps=24")
    subprocess.run(said[said.index("cp ") :], shell=True, check=True)
    resumed = ebm_lab.train([f"resume={path}", "steps=24"], quiet=True)
    assert resumed.status == "finished" and lines(path) == lines(trained[1])
    same(state(path)["objective"], state(trained[1])["objective"])


def test_a_lost_config_and_a_lost_summary_are_made_good_as_told(trained, path, command):
    for file in ("config.yaml", "summary.json"):
        (path / file).write_text("")
    _, (said,) = command(train_main, f"resume={path}", "steps=24")
    write(path, "summary.json", re.search(r"write (\{.*\}) into it", said).group(1))
    _, (said,) = command(train_main, f"resume={path}", "steps=24")
    code = said[said.index("-m ") :].split()
    write(path, "config.yaml", subprocess.run([sys.executable, *code], capture_output=True, text=True, cwd=ROOT).stdout)
    resumed = ebm_lab.train([f"resume={path}", "steps=24"], quiet=True)
    assert resumed.status == "finished" and lines(path) == lines(trained[1])
    same(state(path), state(trained[1]))


def test_a_checkpoint_with_any_byte_changed_or_cut_is_read_or_refused_in_one_line(path):
    """300 random edits: nothing but a UserError comes out, and no cut file is taken for whole."""
    whole, draw, file = last(path).read_bytes(), random.Random(0), path / "x.pt"
    for _ in range(100):
        for edited in (whole[: draw.randrange(len(whole))], flipped(whole, draw, 1), flipped(whole, draw, 300)):
            file.write_bytes(edited)
            try:
                checkpoint.load(file)
            except UserError as error:
                assert len(str(error).splitlines()) == 1
            else:
                assert len(edited) == len(whole)


def flipped(whole, draw, count):
    edited = bytearray(whole)
    for _ in range(count):
        edited[draw.randrange(len(edited))] = draw.randrange(256)
    return bytes(edited)


@pytest.mark.parametrize("cut", [1, 2, 30, 90])
def test_a_metrics_file_cut_in_the_middle_of_a_line_keeps_all_whole_lines(cut, trained, path, monkeypatch):
    """A run of 20 steps, killed while it wrote; resumed from step 16, it has all lines of the unbroken run."""
    shutil.copy(path / "checkpoints" / "good.pt", last(path))
    text = (path / "metrics.jsonl").read_bytes()
    after = text.index(b'{"step": 18')
    (path / "metrics.jsonl").write_bytes(text[: after + cut])
    ebm_lab.train([f"resume={path}", "steps=24"], quiet=True)
    assert lines(path) == lines(trained[1]) and not list(path.glob("*.damaged"))


@pytest.mark.parametrize(
    "bad", [b"\0" * 40 + b"\n", b'{"step": 4, "loss": 0.1, {"step": 6}\n', b"\xff\xfe}\n", b"[1]\n"]
)
def test_damaged_lines_among_whole_ones_are_dropped_told_and_kept_aside(bad, trained, path, capsys):
    """What a disk leaves after a power cut: the other lines stay, and the file as it was too."""
    file = path / "metrics.jsonl"
    first, second, *rest = file.read_bytes().splitlines(keepends=True)
    before = b"".join([first, second, bad, *rest])
    file.write_bytes(before)
    ebm_lab.train([f"resume={path}", "steps=24"])
    assert lines(path) == lines(trained[1]) and (path / "metrics.jsonl.damaged").read_bytes() == before
    assert "1 damaged line(s) dropped; the file as it was: metrics.jsonl.damaged" in capsys.readouterr().out


def test_a_damaged_neighbour_stops_no_automatic_resume(tmp_path, monkeypatch, capsys):
    asked = ["objective=dsm", "steps=8", "resume=auto"]
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        first, second = run(tmp_path, "a", *asked), run(tmp_path, "a", *asked, "seed=1")
    (second.path / "summary.json").write_text("")
    resumed = run(tmp_path, "a", *asked)
    assert resumed.path == first.path and resumed.status == "finished"
    assert f"resume=auto: passed over: {second.path}/summary.json: damaged" in capsys.readouterr().out


@contextmanager
def unprivileged():
    """Within, this thread obeys the modes of files, even where root runs the tests."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    less = (ctypes.c_uint32 * 6)(*before)
    less[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        libc.capset(header, before)


def readonly(folder, mode=0o555):
    for file in (*folder.rglob("*"), folder):
        file.chmod(mode if file.is_dir() else mode & 0o666)


@pytest.mark.parametrize("part", ["", "images", "checkpoints", "metrics.jsonl", "lock"])
def test_a_run_that_may_not_be_written_is_read_and_not_resumed(part, path, tmp_path, command):
    for folder in ("evaluation", "samples"):
        (path / folder).mkdir()
    if (path / part).is_dir():
        readonly(path / part)
    else:
        (path / part).chmod(0o444)
    before = content(path)
    with unprivileged():
        status, said = command(train_main, f"resume={path}", "steps=24")
        assert status == 2 and len(said) == 1 and "Permission denied" in said[0] and content(path) == before, said
        if part in ("", "lock"):
            main_evaluate_into(path, tmp_path / "elsewhere")
        if part == "":
            status, said = command(main_evaluate, f"run={path}", "evaluation=likelihood")
            assert status == 2 and re.fullmatch(r"error: out=.*: can't be written there \(Permission denied\)", said[0])
            status, said = command(main_sample, f"run={path}", "n=4")
            assert status == 2 and re.fullmatch(r"error: out=.*: can't be written there \(Permission denied\)", said[0])
    assert content(path) == before
    readonly(path, 0o755)


def main_evaluate_into(path, out):
    from ebm_lab.cli.evaluate import evaluate

    evaluate(run=str(path), evaluation="likelihood", device="cpu", out=str(out))
    assert "nll" in json.loads((out / "evaluation.json").read_text())


def test_an_output_directory_that_may_not_be_written_is_one_line(tmp_path, command):
    (tmp_path / "out").mkdir(mode=0o555)
    with unprivileged():
        for asked in ([], ["resume=auto"]):
            status, said = command(
                train_main, *QUICK, "objective=dsm", "steps=4", f"output_dir={tmp_path / 'out'}", *asked
            )
            assert status == 2 and len(said) == 1 and "output_dir=" in said[0] and "Permission denied" in said[0], said
        status, said = command(train_main, "-m", *QUICK, "seed=0,1", f"output_dir={tmp_path / 'out'}")
        assert status == 2 and len(said) == 1 and "Permission denied" in said[0]
    assert not list((tmp_path / "out").iterdir())


def test_pictures_and_metrics_that_can_not_be_written_cost_no_training(trained, tmp_path, monkeypatch, capsys):
    """From step 10 on, images/ may not be written; the run ends with the same lines, and says what is missing."""
    from ebm_lab.training.trainer import Trainer

    train_step = Trainer._train_step

    def forbid(self, number):
        train_step(self, number)
        if number == 10:
            self.saver.run.images.chmod(0o555)

    monkeypatch.setattr(Trainer, "_train_step", forbid)
    more = ["objective=dsm", "evaluation=[density]", "eval_every=8", "steps=20", "log_every=2"]
    with unprivileged():
        done = ebm_lab.train([*QUICK, *more, f"output_dir={tmp_path}"])
    assert done.status == "finished" and [row["step"] for row in lines(done.path)] == list(range(2, 21, 2))
    assert {f.name for f in (done.path / "images").iterdir()} == {"density_0000008.png"}
    assert "density_0000016.png can't be written" in " ".join(capsys.readouterr().out.split())
    same(state(done.path)["objective"], state(trained[0])["objective"])


def test_a_disk_that_is_full_on_resume_is_one_line(path, command, monkeypatch):
    """The candidate can't be set aside again: neither link nor copy."""
    before = content(path)

    def full(*_):
        raise FULL

    monkeypatch.setattr(checkpoint.os, "link", full)
    monkeypatch.setattr(checkpoint.shutil, "copyfile", full)
    status, said = command(train_main, f"resume={path}", "steps=24")
    assert status == 2 and len(said) == 1 and "No space left on device" in said[0] and content(path) == before
