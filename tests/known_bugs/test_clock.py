"""The order of runs was that of their names, which a clock gave: a clock may be set back, or run ahead."""

import json
import shutil

import pytest

import ebm_lab
from ebm_lab.reports.compare.runner import newest
from ebm_lab.runs.resume import earlier
from tests.runs.test_resume import QUICK, lines, run, same, state, stop_at

pytestmark = pytest.mark.slow
COMMAND = ["objective=dsm", "steps=12", "sampler=none", "evaluation=[]", "resume=auto"]
NAMES = ("2001-01-01_00-00-00.000000_old", "2020-06-01_00-00-00.000000_middle", "2099-01-01_00-00-00.000000_ahead")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of one command: one that finished, and two that were interrupted, at steps 5 and 9."""
    root = tmp_path_factory.mktemp("made")
    found = {"finished": run(root, "finished", *COMMAND).path}
    for step in (5, 9):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            found[f"at {step}"] = run(root, f"at{step}", *COMMAND).path
    for status in ("diverged", "failed"):
        found[status] = shutil.copytree(found["finished"], root / status / "runs" / "run")
        change(found[status], status=status)
    return found


def change(path, **what):
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**summary, **what}))


def request(path):
    return json.loads((path / "summary.json").read_text())["request"]


@pytest.fixture
def beside(made, tmp_path):
    """Has runs stand in one output directory, by the names in their order; returns the path of each."""

    def stand(*kinds):
        return [shutil.copytree(made[kind], tmp_path / "runs" / NAMES[i]) for i, kind in enumerate(kinds)]

    return stand


CASES = [
    (("at 9", "finished"), 0),
    (("finished", "at 9"), 1),
    (("at 9", "diverged"), 0),
    (("at 9", "at 5"), 0),
    (("at 5", "at 9"), 1),
    (("at 5", "finished", "at 9"), 2),
    (("finished", "failed"), 0),
    (("failed", "finished"), 1),
    (("failed", "at 5"), 1),
    (("at 5", "failed"), 0),
    (("diverged", "finished"), 1),
    (("finished", "diverged"), 0),
    (("failed", "diverged"), 1),
    (("failed", "failed"), 1),
]


@pytest.mark.parametrize("kinds, chosen", CASES, ids=lambda x: " then ".join(x) if isinstance(x, tuple) else "")
def test_resume_auto_finds_the_interrupted_run_whatever_the_clock_called_it(kinds, chosen, beside, tmp_path):
    paths = beside(*kinds)
    found = earlier(tmp_path, request(paths[0]))
    assert found is not None and found.path == paths[chosen]


def test_a_killed_process_is_as_far_as_its_metrics(beside, tmp_path):
    """Its summary still holds the step at which it began."""
    at5, at9 = beside("at 5", "at 9")
    change(at9, status="running", step=0)
    found = earlier(tmp_path, request(at5))
    assert found is not None and found.path == at9
    assert [row["step"] for row in lines(at9)] == [3, 6, 9]


@pytest.mark.parametrize("kinds, chosen", [(("at 9", "finished"), 0), (("at 9", "at 5"), 0)])
def test_the_same_command_goes_on_with_it_to_the_bits_of_an_unbroken_run(kinds, chosen, made, beside, tmp_path):
    paths = beside(*kinds)
    done = ebm_lab.train([*QUICK, *COMMAND, f"output_dir={tmp_path}"], quiet=True)
    assert done.path == paths[chosen] and done.status == "finished"
    same(state(made["finished"]), state(done.path))


def test_where_all_has_ended_nothing_is_trained_again_and_the_line_says_the_way_out(beside, tmp_path, capsys):
    """A job that a cluster queues again must not begin anew for ever."""
    (path,) = beside("finished")
    before = sorted(file.stat().st_mtime_ns for file in path.rglob("*"))
    done = ebm_lab.train([*QUICK, *COMMAND, f"output_dir={tmp_path}"], quiet=True)
    assert done.path == path and done.exit_status == 0 and len(list((tmp_path / "runs").iterdir())) == 1
    assert sorted(file.stat().st_mtime_ns for file in path.rglob("*")) == before
    told = capsys.readouterr().out
    assert "has ended; nothing is left to do" in told and "leave resume=auto out for a new run" in told


def test_the_manual_says_what_resume_auto_does():
    from ebm_lab.cli.compose import config_dir

    text = " ".join((config_dir() / "train.yaml").read_text().replace("#", " ").split())
    assert "do nothing if it has ended, begin one if there is none" in text


@pytest.mark.parametrize(
    "kinds, chosen", [(("finished", "at 9"), 0), (("at 5", "at 9"), 1), (("failed", "diverged"), 1)]
)
def test_a_case_of_the_comparison_is_told_by_its_run_that_is_over(kinds, chosen, beside, tmp_path):
    """Else it would be run again at every command."""
    paths = beside(*kinds)
    found = newest(tmp_path)
    assert found is not None and found.path == paths[chosen]
