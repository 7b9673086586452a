"""Kind: a nan, an infinity or an error of one evaluation passes as a number, wins a comparison or takes a run along."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.cli.sweep import jobs, record
from ebm_lab.core.errors import Diverged
from ebm_lab.core.eval_view import Report
from ebm_lab.core.files import dumps, loads
from ebm_lab.core.registry import register
from ebm_lab.reports.overview import collect
from ebm_lab.runs.run_directory import RunDir
from tests.known_bugs.test_few_points import refuse, strict

RUN = ["objective=dsm", "dataset=two_moons", "dataset.train=200", "dataset.held_out=50", "steps=4", "logger=none"]
RUN += ["threads=1", "sample_steps=3", "samples=5", "compile=off", "eval_every=1", "log_every=1", "batch_size=16"]
SCRIPT: list = []
"""What the evaluation `scripted` does at each call: metrics, or an exception."""


@register("evaluation", "scripted")
class Scripted:
    def applies(self, view):
        return None

    def __call__(self, view):
        now = SCRIPT.pop(0) if SCRIPT else {}
        if isinstance(now, BaseException):
            raise now
        return Report(dict(now))


def train(folder, *script):
    SCRIPT[:] = script
    return ebm_lab.train(
        [*RUN, "evaluation=[]", "+evaluation.scripted.name=scripted", f"output_dir={folder}"], quiet=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_value_that_is_no_number_never_becomes_the_best(bad, tmp_path):
    result = train(tmp_path, {"nll": bad}, {"nll": 3.0}, {"nll": bad}, {"nll": 2.5})
    assert (result.summary["best"], result.summary["best_step"]) == (3.0, 2)
    summary = strict(result.path / "summary.json")
    assert summary["nll"] == 2.5
    assert any("scripted: left out because not finite: nll" in line for line in summary["said"])


def test_one_monitor_is_not_compared_with_another(tmp_path):
    """Where nll is missing once, the smaller numbers of mmd2 don't take its place."""
    result = train(tmp_path, {"nll": 3.0, "mmd2": 0.5}, {"mmd2": 0.1}, {"nll": 2.0, "mmd2": 0.4}, {"nll": 2.0})
    assert (result.summary["best"], result.summary["best_step"], result.summary["best_by"]) == (2.0, 3, "nll")


@pytest.mark.slow
@pytest.mark.parametrize("error", [ZeroDivisionError("float division"), ValueError("n_samples=1\nof 2"), MemoryError()])
def test_an_evaluation_that_fails_costs_its_own_numbers_only(error, tmp_path):
    result = train(tmp_path, {"nll": 3.0}, error, {"nll": 2.0}, error)
    summary = strict(result.path / "summary.json")
    assert summary["status"] == "finished" and result.exit_status == 0 and summary["best"] == 2.0
    told = summary["failed_evaluations"]["scripted"]
    assert told.startswith(type(error).__name__) and "\n" not in told
    assert (result.path / "checkpoints" / "last.pt").is_file()


def test_a_failure_in_mid_run_is_said_and_not_kept_for_the_end(tmp_path):
    summary = train(tmp_path, ValueError("once"), {}, {}, {"nll": 1.0}).summary
    assert "failed_evaluations" not in summary and summary["nll"] == 1.0
    assert any("evaluation 'scripted' failed" in line and "once" in line for line in summary["said"])


def test_a_divergence_and_an_interrupt_are_no_failures_of_an_evaluation(tmp_path):
    assert train(tmp_path / "a", {}, Diverged("processes differ")).status == "diverged"
    assert train(tmp_path / "b", {}, KeyboardInterrupt()).status == "interrupted"


def test_evaluate_keeps_the_others_where_one_fails_or_has_no_number(tmp_path):
    path = train(tmp_path, {}, {}, {}, {}).path
    SCRIPT[:] = [{"good": 1.0, "bad": math.nan}]
    evaluate(run=str(path), evaluation="own", device="cpu")
    found = strict(path / "evaluation" / "evaluation.json")
    assert found["good"] == 1.0 and "bad" not in found and "not finite: bad" in found["notes"][0]


def test_whatever_is_written_as_json_any_parser_reads():
    content = {"a": math.nan, "b": {"c": -math.inf, "d": 1.0}, "e": [math.inf, 2.0], "f": 3}
    found = json.loads(dumps(content), parse_constant=refuse)
    assert found == {"b": {"d": 1.0}, "e": [None, 2.0], "f": 3, "not_finite": ["a", "b.c"]}
    assert dumps({"a": 1.0}) == '{"a": 1.0}'


def test_numbers_of_earlier_versions_that_are_not_finite_are_read_as_missing(tmp_path):
    assert loads('{"nll": NaN, "mmd2": -Infinity, "big": 1e999, "step": 3, "in": {"x": NaN}}') == {"step": 3, "in": {}}
    run = RunDir(tmp_path)
    run.summary_file.write_text('{"status": "finished", "nll_gap": NaN, "step": 3}')
    run.metrics_file.write_text('{"step": 1, "val/nll": NaN}\n{"step": 2, "val/nll": 1.5}\n')
    assert "nll_gap" not in run.read_summary()
    found = collect.read(Path(tmp_path), 100)
    assert "nll_gap" not in found["summary"] and found["curves"]["val/nll"] == {"step": [2], "value": [1.5]}


def test_the_record_of_a_sweep_holds_numbers_only(tmp_path):
    record(tmp_path, 0, ["seed=0"], status="finished", exit=0, results={"nll_gap": math.nan, "mmd2": 0.1})
    found = strict(tmp_path / "jobs" / "0.json")
    assert found["results"] == {"mmd2": 0.1} and found["not_finite"] == ["results.nll_gap"]
    assert jobs(tmp_path)[0]["results"] == {"mmd2": 0.1}


def test_a_likelihood_of_nan_energies_is_left_out_with_a_word(tmp_path):
    """Weights that are nan: no likelihood, and the note says where."""
    from ebm_lab.core.eval_view import EvalView
    from ebm_lab.evaluation.likelihood import Likelihood
    from tests.helpers import Points

    data = Points(torch.randn(50, 2))
    report = Likelihood(cells=50)(EvalView(lambda x: x.sum(1) * math.nan, data, "test", None, 5, 5, torch.Generator()))
    assert report.metrics == {} and "no likelihood: the energy is nan" in report.notes[0]


@pytest.mark.parametrize("d", [3, 10])
def test_a_run_without_a_likelihood_says_why_at_the_start_and_what_to_do(d, tmp_path, capfd):
    """Points of a law that nobody knows: from exact samples of a known one there would be a likelihood."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(500, d)))
    choice = ["dataset=array", f"dataset.path={tmp_path / 'x.npy'}", "objective=dsm"]
    more = ["steps=2", "logger=none", "threads=1", "evaluation=[likelihood,mmd]", "sampler=none"]
    ebm_lab.train([*choice, *more, f"output_dir={tmp_path}"])
    out = capfd.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("no likelihood: ")]
    assert len(lines) == 1 and "evaluation=ais" in lines[0]
    assert out.index("no likelihood: ") < out.index("run directory: ")
    assert "no mmd" not in out  # a default that does not apply stays quiet


@pytest.mark.parametrize("names", ["[likelihood,ais]", "[likelihood]"])
def test_nothing_is_said_where_there_is_a_likelihood(names, tmp_path, capfd):
    choice = [
        "objective=dsm",
        "dataset=two_moons",
        "dataset.train=100",
        "dataset.held_out=20",
        "steps=1",
        "logger=none",
    ]
    fast = ["evaluation.ais.temperatures=2", "evaluation.ais.reverse_moves=1"] if "ais" in names else []
    ebm_lab.train([*choice, "threads=1", f"evaluation={names}", *fast, f"output_dir={tmp_path}"])
    assert "no likelihood" not in capfd.readouterr().out


def test_an_evaluation_that_was_asked_for_and_does_not_apply_says_so(tmp_path, capfd):
    choice = [
        "objective=dsm",
        "dataset=two_moons",
        "dataset.train=100",
        "dataset.held_out=20",
        "steps=1",
        "logger=none",
    ]
    ebm_lab.train([*choice, "threads=1", "evaluation=[inpainting]", f"output_dir={tmp_path}"])
    assert "no inpainting: the data are not images" in capfd.readouterr().out
