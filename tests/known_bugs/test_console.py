"""A console or a logger that fails ended the run: whatever happens to either costs no training and no record."""

import copy
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import register
from ebm_lab.core.streams import SafeStream
from tests.exhaustive import cases, exhaustive
from tests.runs.test_resume import lines, same, state

ROOT = Path(__file__).resolve().parents[2]
TINY = ["objective=dsm", "objective.sigma=0.1", "dataset=two_moons", "dataset.train=300", "dataset.held_out=100"]
TINY += ["energy.hidden=[8]", "steps=20", "log_every=2", "evaluation=[]", "sampler=none", "threads=1"]
RUN = [*TINY, "logger=none"]


def shell(cwd, line, *arguments, script="train.py", **environment):
    """(exit status of the command, stderr) of a shell line in which CMD stands for the command."""
    words = [sys.executable, str(ROOT / script), *arguments]
    command = " ".join(f"'{word}'" for word in words)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('CMD', command)}"],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return done.returncode, done.stderr


def summary(cwd):
    (file,) = cwd.glob("outputs/runs/*/summary.json")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The same run with a console in order."""
    return ebm_lab.train([*RUN, f"output_dir={tmp_path_factory.mktemp('straight')}"], quiet=True).path


LOST = {
    "a pipe closed at once": "CMD | true",
    "a pipe closed after a line": "CMD | head -1",
    "both into that pipe": "CMD 2>&1 | head -1",
    "a full disk": "CMD >/dev/full",
    "both on a full disk": "CMD >/dev/full 2>&1",
    "stdout closed": "CMD >&-",
    "stderr closed": "CMD 2>&-",
    "all closed": "CMD <&- >&- 2>&-",
    "stdout open for reading": "CMD 1</dev/null",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", cases(LOST, ["both into that pipe", "all closed"]))
def test_a_run_whose_console_is_lost_ends_as_ever_and_says_nothing_wrong(how, straight, tmp_path):
    status, said = shell(tmp_path, LOST[how], *RUN)
    assert status == 0 and said == "", said
    assert summary(tmp_path)["status"] == "finished"
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert lines(run) == lines(straight)
    same(state(run)["objective"], state(straight)["objective"])


@pytest.mark.slow
def test_a_terminal_that_goes_away_ends_no_run(straight, tmp_path):
    """With its progress bar, which a thread of its own draws."""
    master, slave = os.openpty()
    command = [sys.executable, str(ROOT / "train.py"), *RUN]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=slave, stdout=slave, stderr=subprocess.PIPE, text=True
    )
    os.close(slave)
    assert os.read(master, 100)
    os.close(master)
    said = process.communicate(timeout=100)[1]
    assert (process.returncode, said) == (0, "")
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert summary(tmp_path)["status"] == "finished" and lines(run) == lines(straight)


@pytest.mark.slow
def test_the_summary_keeps_why_the_console_fell_silent(tmp_path):
    status, said = shell(tmp_path, "CMD >/dev/full", *RUN)
    assert status == 0 and said == ""
    assert [line for line in summary(tmp_path)["said"] if "console" in line] == [
        "console output stopped: OSError: [Errno 28] No space left on device"
    ]


@exhaustive
def test_a_sweep_whose_console_is_lost_has_a_record_of_each_job(tmp_path):
    status, said = shell(tmp_path, "CMD | head -1", "-m", "seed=0,1", *RUN)
    assert status == 0 and said == "", said
    files = sorted(tmp_path.glob("outputs/sweeps/*/jobs/*.json"))
    assert [json.loads(file.read_text())["status"] for file in files] == ["finished", "finished"]


@pytest.mark.slow
@pytest.mark.parametrize("how", cases(["CMD | true", "CMD >/dev/full", "CMD >&-"], ["CMD >/dev/full"]))
@pytest.mark.parametrize("tool", cases(["sample", "evaluate", "report"], ["sample", "report"]))
def test_a_tool_whose_console_is_lost_does_its_work(tool, how, pcd, tmp_path):
    arguments = {
        "sample": [f"run={pcd}", "n=4", "steps=2", f"out={tmp_path}"],
        "evaluate": [f"run={pcd}", "evaluation=mmd,density", "samples=20", "sample_steps=2", f"out={tmp_path}"],
        "report": [f"{pcd.parent.parent}", f"out={tmp_path}/report.html"],
    }
    made = {"sample": "samples.npy", "evaluate": "evaluation.json", "report": "report.html"}
    status, said = shell(tmp_path, how, *arguments[tool], script=f"scripts/{tool}.py")
    assert status == 0 and said == "", said
    assert (tmp_path / made[tool]).is_file()


@pytest.fixture(scope="module")
def pcd(tmp_path_factory):
    run = [o for o in RUN if not o.startswith(("objective", "sampler"))]
    root = tmp_path_factory.mktemp("pcd")
    return ebm_lab.train([*run, "objective=pcd", "steps=2", f"output_dir={root}"], quiet=True).path


class Stream(io.StringIO):
    """A caller's own standard output, of which `fault` is raised at the `after`-th write."""

    def __init__(self, fault, after=0):
        super().__init__()
        self.fault, self.left = fault, after

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.fault
        return super().write(text)


@pytest.mark.parametrize("fault", [BrokenPipeError(32, "x"), ValueError("I/O on closed file"), RuntimeError("x")])
@pytest.mark.parametrize("after", [0, 3])
def test_a_standard_output_of_the_callers_own_may_raise_anything(fault, after, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Stream(fault, after))
    done = ebm_lab.train([*RUN, f"output_dir={tmp_path}"])
    assert done.status == "finished" and any("console output stopped" in line for line in done.summary["said"])


class Bare:
    """All that a standard output surely has."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


@pytest.mark.parametrize("stream", [None, Bare()], ids=["none", "bare"])
def test_a_standard_output_may_be_none_or_bare(stream, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    assert ebm_lab.train([*RUN, f"output_dir={tmp_path}"]).status == "finished"
    assert stream is None or "run directory" in stream.text


@pytest.mark.parametrize("method", ["print", "log", "__init__"])
def test_rich_may_fail_in_any_call(method, tmp_path, monkeypatch):
    from rich.console import Console
    from rich.progress import Progress

    def fail(*_, **__):
        raise ZeroDivisionError("of Rich")

    if method == "__init__":
        monkeypatch.setattr(Progress, "update", fail)
    else:
        monkeypatch.setattr(Console, method, fail)
    done = ebm_lab.train([*RUN, f"output_dir={tmp_path}"])
    assert done.status == "finished"


def test_what_the_encoding_lacks_is_written_with_backslashes():
    raw = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(raw, "ascii"))
    stream.write("r\u00e9sum\u00e9 \u2713\n")
    stream.flush()
    assert raw.getvalue() == b"r\\xe9sum\\xe9 \\u2713\n" and stream.lost is None


def test_a_safe_stream_can_be_copied():
    stream = SafeStream(Bare())
    assert copy.copy(stream).stream is stream.stream


def test_a_reader_that_left_says_nothing_at_the_end_of_the_process(tmp_path):
    """What a print left in the buffer would make Python end with 120 and "Exception ignored"."""
    code = "from ebm_lab.core.streams import safe_streams\nwith safe_streams(): print('x')"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; (sleep .3; {sys.executable} -c \"$CODE\") | true"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "CODE": code},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


class Failing:
    """A logger that raises in one of its methods, `where`."""

    closed = 0

    def __init__(self, *, where: str, kind: str) -> None:
        self.where, self.kind = where, kind
        self.fail("constructor")

    def fail(self, here):
        if here == self.where:
            faults = {
                "exit": SystemExit(3),
                "system": OSError(28, "disk"),
                "user": UserError("x"),
                "any": KeyError("k"),
            }
            raise faults[self.kind]

    def scalars(self, values, step):
        values.clear()
        self.fail("scalars")

    def image(self, name, image, step):
        self.fail("image")

    def close(self, summary):
        Failing.closed += 1
        summary.clear()
        self.fail("close")


register("logger", "failing")(Failing)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["constructor", "scalars", "image", "close"])
@pytest.mark.parametrize("kind", cases(["exit", "system", "user", "any"], ["user"]))
def test_a_logger_that_raises_ends_no_run(where, kind, straight, tmp_path, capsys):
    from ebm_lab.cli.compose import compose_config
    from ebm_lab.runs.train import train

    config = compose_config([*RUN, "evaluation=[density]", "eval_every=10", f"output_dir={tmp_path}"])
    config["logger"] = {"name": "failing", "where": where, "kind": kind}
    if (where, kind) == ("constructor", "user"):
        with pytest.raises(UserError, match="x"):
            train(config)
        assert not (tmp_path / "runs").exists()
        return
    before = Failing.closed
    done = train(config)
    assert done.status == "finished" and done.summary["step"] == 20
    losses = [[row["loss"] for row in lines(path)] for path in (done.path, straight)]
    assert losses[0] == losses[1]
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("logger=failing")]
    assert len(told) == 1 and told[0].endswith("the run goes on without it"), told
    assert (Failing.closed - before) == (where != "constructor")
    if where != "close":
        assert told[0] in done.summary["said"]


def test_a_run_that_can_not_write_its_own_files_still_closes_the_others(tmp_path, monkeypatch):
    from ebm_lab.loggers.files import Files

    def full(files, summary):
        files.file.close()
        raise OSError(28, "No space left on device")

    from ebm_lab.cli.compose import compose_config
    from ebm_lab.runs.train import train

    monkeypatch.setattr(Files, "close", full)
    config = compose_config([*RUN, f"output_dir={tmp_path}"])
    config["logger"] = {"name": "failing", "where": "nowhere", "kind": "any"}
    before = Failing.closed
    with pytest.raises(UserError, match="can't be written"):
        train(config)
    assert Failing.closed == before + 1
