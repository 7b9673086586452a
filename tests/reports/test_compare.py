"""Methods side by side: what is run and what never again, medians and times by hand, the page in a browser."""

import csv
import json
import math
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from ebm_lab.cli.compare import command, compare, fitting
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.shell import override
from ebm_lab.reports.compare import page, results, table
from ebm_lab.reports.compare.chart import HEIGHT, WIDTH, apart, chart
from ebm_lab.reports.compare.columns import cell, column, columns, number
from ebm_lab.reports.compare.plan import (
    EVALUATIONS,
    Arm,
    Case,
    Pilot,
    Study,
    arguments,
    cases,
    mine,
    pieces,
    pilot_arguments,
    runs_alike,
    safe,
    steps_for,
    varied,
)
from ebm_lab.reports.compare.runner import Runner, write
from ebm_lab.training.costs import Clock, Counters

PILOT = Pilot(steps=150, cpu_seconds=0.015, grad_evals=3328.0, gap=True, warmup=100, checkpoint_every=250)
SECONDS = Study(60.0, "cpu_seconds")
HOSTILE = "<script>throw 1</script>&\"'|"


# What is planned


def test_the_budget_over_the_cost_of_a_step_is_the_steps():
    assert steps_for(SECONDS, PILOT) == 4000
    assert steps_for(Study(1e6, "grad_evals"), PILOT) == 300  # 300.48
    assert steps_for(Study(1700.0, "steps"), PILOT) == 1700
    assert steps_for(Study(0.001, "cpu_seconds"), PILOT) == 1


def test_a_case_is_told_its_steps_and_what_hangs_on_them():
    arm = Arm("pcd", "two_moons", "optim.lr=0.01")
    told = dict(a.split("=", 1) for a in arguments(Case(arm, 3), Study(60.0, "cpu_seconds", ("ema=0.9",)), PILOT))
    assert told["objective"] == "pcd" and told["dataset"] == "two_moons" and told["optim.lr"] == "0.01"
    assert (told["steps"], told["eval_every"], told["seed"], told["threads"]) == ("4000", "200", "3", "1")
    assert told["optim.warmup"] == "100" and told["evaluation"] == "[likelihood]" and told["ema"] == "0.9"
    short = dict(a.split("=", 1) for a in arguments(Case(arm, 3), Study(45.0, "steps"), PILOT))
    assert (short["optim.warmup"], short["log_every"], short["eval_every"]) == ("4", "3", "3")
    blind = Pilot(**{**vars(PILOT), "gap": False})
    told = dict(a.split("=", 1) for a in arguments(Case(arm, 0), SECONDS, blind))
    assert told["eval_every"] == told["steps"] and "evaluation" not in told  # its own evaluations, at the end
    recipe = arguments(Case(Arm("pcd", "two_moons"), 0), Study(None, "recipe"), None)
    assert recipe[-1] == "seed=0" and not any("compile" in a for a in recipe)
    shared = arguments(Case(Arm("pcd", "two_moons"), 0), Study(None, "recipe"), None, 3)
    assert shared == [*recipe[:-1], "runs_alike=3", "seed=0"]
    eager, wished = (Study(60.0, "cpu_seconds", own) for own in ((), ("compile=on",)))
    for study, how in ((eager, "off"), (wished, "on")):  # of an override that is given twice, the second holds
        both = (pilot_arguments(arm, study), arguments(Case(arm, 3), study, PILOT))
        assert [dict(a.split("=", 1) for a in one)["compile"] for one in both] == [how, how]


@pytest.mark.parametrize(
    "arms, seeds, jobs, alike", [(4, 3, 2, 3), (1, 3, 1, 3), (1, 6, 2, 3), (1, 3, 4, 1), (2, 5, 3, 2), (1, 1, 1, 1)]
)
def test_runs_that_share_their_compiled_code_are_the_seeds_of_one_process(arms, seeds, jobs, alike):
    wanted = cases([Arm(f"o{i}", "d") for i in range(arms)], range(seeds))
    assert runs_alike(wanted, jobs) == alike


@pytest.mark.parametrize("steps", [1, 7, 20, 21, 399, 4000])
def test_a_run_is_looked_at_no_more_often_than_said(steps):
    told = dict(a.split("=", 1) for a in arguments(Case(Arm("dsm", "rings"), 0), Study(float(steps), "steps"), PILOT))
    looks = steps // int(told["eval_every"])
    assert 1 <= looks <= EVALUATIONS and int(told["log_every"]) >= 1 and int(told["checkpoint_every"]) >= 1


def test_values_are_split_outside_brackets():
    assert pieces("a, b,,c") == ["a", "b", "c"]
    assert varied("energy.hidden=[64],[64,64]") == ["energy.hidden=[64]", "energy.hidden=[64,64]"]
    assert varied(None) == [""]
    for wrong in ("optim.lr", "optim.lr=", "steps=1,2", "seed=1", "[optim.lr=1]"):
        with pytest.raises(UserError, match="vary"):
            varied(wrong)
    with pytest.raises(UserError, match="budget"):
        mine(["steps=3"], "overrides")
    with pytest.raises(UserError, match=r"overrides=\[energy.base=auto\]: not of the form key=value"):
        mine(["[energy.base=auto]"], "overrides")
    mine(["+a.b=x", "sampler@evaluation.sampler=hmc", "energy.hidden=[64,64]"], "overrides")


def test_the_first_seed_of_all_comes_before_the_second_of_any():
    arms = [Arm("a", "x"), Arm("b", "x")]
    assert [(c.arm.objective, c.seed) for c in cases(arms, [0, 1])] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_folders_have_plain_names_that_stay_apart():
    texts = ["a=[1,2]", "a=[1;2]", "../../etc", HOSTILE, "x" * 300, "x" * 301, "plain_name"]
    names = [safe(t) for t in texts]
    assert len(set(names)) == len(texts) and names[-1] == "plain_name"
    assert all("/" not in n and "<" not in n and len(n) < 90 for n in names)


def test_the_command_is_the_one_that_does_it_again():
    said = ["objectives=dsm", "vary=a=[1, 2]", "out=x", "train=false", "publish=docs", "name=n", "jobs=1"]
    assert command(said, 4) == "python scripts/compare.py objectives=dsm 'vary=a=[1, 2]' jobs=4"


def test_any_path_can_stand_on_the_command_line():
    for path in ("a/b=c", "it's", "back\\slash", "a, {b}: [c] $d", "tail\\'"):
        assert compose_config([override("output_dir", path)])["output_dir"] == path


def test_a_study_is_told_of_a_mistake_before_anything_runs(tmp_path):
    for wrong in ({"objectives": "pdc"}, {"datasets": "moons"}, {"seeds": "a"}, {"evaluate": "mdm"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            compare(out=str(tmp_path / "out"), **wrong)
    assert not (tmp_path / "out").exists()


# What is run


class Fake(Runner):
    """Runs nothing: each command makes a run with the next of `ends` for its case."""

    ends: dict = {}
    commands: list = []

    def process(self, arguments, folder, code):
        told = {key: value.strip("'") for key, value in (a.split("=", 1) for a in arguments)}
        name = folder.name
        self.commands.append((name, told))
        end = self.ends.get(name, ["finished"])
        end = end.pop(0) if len(end) > 1 else end[0]
        if end == "none":
            return "no such key"
        if "evaluation" in told and "run" in told:
            record = {"which": "last", "ema": True, "step": 3, "mmd2": 0.5, "failed": {}}
            write(Path(told["run"]) / "evaluation" / "evaluation.json", record)
            return ""
        stamp = Path(told["resume"]).name if "resume" in told else f"{time.time_ns():020d}"
        summary = {"status": end, "train_cpu_seconds": 1.5, "grad_evals": 332800, "step": 100, "nll_gap": 0.25}
        hand_made(folder / "runs" / stamp, summary, [])
        return "" if end == "finished" else f"ended {end}"


def hand_made(run, summary, lines):
    run.mkdir(parents=True, exist_ok=True)
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "config.yaml").write_text("optim: {warmup: 100}\ncheckpoint_every: 250\n")
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def fake(out, ends=None, **more):
    runner = Fake(SECONDS, out, 1, say=lambda line: None, **more)
    runner.ends, runner.commands = ends or {}, []
    return runner


def named(runner, *names):
    return [told for name, told in runner.commands if name in names]


CASES = cases([Arm("dsm", "two_moons"), Arm("cd", "two_moons")], [0, 1])


def test_what_is_finished_or_diverged_is_not_run_again(tmp_path):
    first = fake(tmp_path, {"cd_two_moons_s0": ["diverged"]})
    first.run(CASES)
    assert [name for name, _ in first.commands] == [
        *("dsm_two_moons", "cd_two_moons"),
        *("dsm_two_moons_s0", "cd_two_moons_s0", "dsm_two_moons_s1", "cd_two_moons_s1"),
    ]
    assert {told["steps"] for told in named(first, "dsm_two_moons_s0", "cd_two_moons_s1")} == {"4000"}  # 1.5 / 100
    second = fake(tmp_path)
    second.run(CASES)
    assert second.commands == []
    more = fake(tmp_path)
    more.run([*CASES, Case(Arm("dsm", "two_moons"), 2)])
    assert [name for name, _ in more.commands] == ["dsm_two_moons_s2"]  # the pilot is known


def test_what_was_interrupted_goes_on_and_what_cannot_begins_anew(tmp_path):
    fake(tmp_path, {"dsm_two_moons_s0": ["interrupted"]}).run(CASES)
    (old,) = (tmp_path / "cases" / "dsm_two_moons_s0" / "runs").iterdir()
    again = fake(tmp_path)
    again.run(CASES)
    assert [told.get("resume") for _, told in again.commands] == [str(old)]
    broken = tmp_path / "b"
    fake(broken, {"dsm_two_moons_s0": ["interrupted"]}).run(CASES)
    stuck = fake(broken, {"dsm_two_moons_s0": ["none", "finished"]})
    stuck.run(CASES)
    assert ["resume" in told for _, told in stuck.commands] == [True, False]
    assert table.row(CASES[0], SECONDS, stuck)["status"] == "finished"


def test_what_fails_stops_no_other_and_is_tried_again(tmp_path):
    runner = fake(tmp_path, {"dsm_two_moons_s0": ["failed"], "cd_two_moons_s1": ["none"]})
    runner.run(CASES)
    rows = [table.row(case, SECONDS, runner) for case in CASES]
    assert [r["status"] for r in rows] == ["failed", "finished", "finished", "failed"]
    assert rows[3]["message"] == "no such key"
    again = fake(tmp_path)
    again.run(CASES)
    assert [name for name, _ in again.commands] == ["dsm_two_moons_s0", "cd_two_moons_s1"]


def test_a_pilot_that_fails_leaves_its_arm_out(tmp_path):
    runner = fake(tmp_path, {"cd_two_moons": ["none"]})
    runner.run(CASES)
    rows = [table.row(case, SECONDS, runner) for case in CASES]
    assert [r["status"] for r in rows] == ["finished", "failed", "finished", "failed"]
    assert not named(runner, "cd_two_moons_s0")


def test_all_objectives_are_those_that_suit_the_data():
    points, bits = fitting("two_moons"), fitting("bars_and_stripes")
    assert {"dsm", "nce", "jem"} <= set(points) and not {"pseudo_likelihood", "concrete_score"} & set(points)
    assert {"pseudo_likelihood", "concrete_score", "nce"} <= set(bits) and not {"dsm", "drl", "jem"} & set(bits)
    assert "mle_short" not in {*points, *bits}


def test_other_conditions_need_another_folder(tmp_path):
    fake(tmp_path).run(CASES)
    other = Fake(Study(30.0, "cpu_seconds"), tmp_path, 1)
    with pytest.raises(UserError, match=r"budget=60\.0, not 30\.0"):
        other.run(CASES)


def test_evaluations_follow_once(tmp_path):
    ends = {"cd_two_moons_s0": ["diverged"]}
    runner = fake(tmp_path, ends, evaluate="mmd")
    runner.run(CASES)
    assert sum(told.get("evaluation") == "mmd" for _, told in runner.commands) == 3
    table.write_csv([table.row(case, SECONDS, runner) for case in CASES], tmp_path / "c.csv")
    rows = table.read_csv(tmp_path / "c.csv")
    assert [r["mmd2"] for r in rows] == [0.5, None, 0.5, 0.5] and "ema" not in rows[0] and rows[0]["step"] == 100
    again = fake(tmp_path, evaluate="mmd")
    again.run(CASES)
    assert again.commands == []


def test_a_pilot_costs_what_its_steps_after_the_first_window_cost(tmp_path):
    from ebm_lab.reports.compare.runner import cost
    from ebm_lab.runs.run_directory import RunDir

    lines = [{"step": s, "train_cpu_seconds": 3.0 + 0.02 * s} for s in (50, 100, 150)]
    hand_made(tmp_path / "r", {}, lines)
    summary = {"step": 150, "grad_evals": 150 * 40, "train_cpu_seconds": 6.5, "nll_gap": 1.0}
    found = cost(RunDir(tmp_path / "r"), summary)
    assert found.cpu_seconds == pytest.approx(0.02) and found.grad_evals == 40 and found.gap and found.warmup == 100


def test_training_time_is_neither_start_up_nor_evaluation(monkeypatch):
    now = {"perf_counter": 7.0, "process_time": 2.0}
    monkeypatch.setattr("ebm_lab.training.costs.time", SimpleNamespace(**{n: partial(now.get, n) for n in now}))

    def work(seconds):
        now["perf_counter"] += 2 * seconds  # half of the machine is another's
        now["process_time"] += seconds

    clock, counters = Clock(), Counters()
    clock.start(counters, 5.0, 3.0)
    work(0.2)
    with clock.evaluating(counters):
        work(0.4)
    work(0.1)
    clock.tick(counters)
    cpu = {"startup": 3.0, "eval": 0.4, "train": 0.3}
    assert {part: getattr(counters, f"{part}_cpu_seconds") for part in cpu} == pytest.approx(cpu)
    assert counters.cpu_seconds == pytest.approx(3.7)
    assert (counters.startup_seconds, counters.eval_seconds, counters.seconds) == pytest.approx((5.0, 0.8, 6.4))


# What is told


def test_the_time_to_the_threshold_is_the_first_evaluation_at_or_below_it(tmp_path):
    lines = [
        {"step": 10, "loss": 1.0, "train_cpu_seconds": 0.5, "grad_evals": 50},
        {"step": 20, "val/nll_gap": 0.3, "train_cpu_seconds": 1.0, "grad_evals": 100},
        {"step": 20, "event": "rollback"},
        {"step": 30, "val/nll_gap": 0.1, "train_cpu_seconds": 2.5, "grad_evals": 150},
        {"step": 40, "val/nll_gap": 0.2, "train_cpu_seconds": 3.0, "grad_evals": 200},
    ]
    summary = {"nll_gap": 0.05, "train_cpu_seconds": 4.0, "grad_evals": 250}
    points = table.curve(lines, summary)
    assert [p[2] for p in points] == [0.3, 0.1, 0.2, 0.05]
    assert table.reach(points) == (2.5, 150, 0.1)
    assert table.reach(points[:1]) is None and table.reach([]) is None
    assert table.reach(points[2:]) == (4.0, 250, 0.05)  # the end counts too


def row(gap, seed, status="finished", to=None, **more):
    told = {"objective": "pcd", "dataset": "two_moons", "vary": "", "seed": seed, "status": status, "nll_gap": gap}
    spent = {"cpu_seconds_to": to, "grad_evals_to": None if to is None else 1000 * to, "train_cpu_seconds": 60.0 + seed}
    return {k: None for k in table.COLUMNS} | told | spent | {"grad_evals": 1.0, "rollbacks": 0, "step": 10} | more


def test_medians_and_ranges_by_hand():
    (line,) = table.lines([row(0.2, 0, to=5.0), row(0.1, 1, to=9.0), row(0.7, 2, rollbacks=1)])
    assert line.gap == (0.2, 0.1, 0.7) and line.spreads["train_cpu_seconds"] == (61.0, 60.0, 62.0)
    assert line.spreads["cpu_seconds_to"] == (9.0, 5.0, math.inf) and line.spreads["grad_evals_to"].middle == 9000.0
    assert line.fates == ["1 rollback"] and line.seeds == 3 and line.typical["seed"] == 0
    assert cell(line, column("nll_gap"))[:2] == ("0.2", "0.1 to 0.7")
    assert cell(line, column("cpu_seconds_to"))[:2] == ("9", "5 to never")


def test_runs_by_recipe_have_no_time_to_the_threshold():
    """They are evaluated a few times, so that such a time would say when the first evaluation was."""
    (line,) = table.lines([row(0.05, seed, to=5.0, unit="recipe") for seed in range(2)])
    assert line.gap == (0.05, 0.05, 0.05) and not set(table.TIMES) & set(line.spreads)


def test_a_diverged_run_is_infinite_and_a_failed_one_is_left_out_and_said():
    (line,) = table.lines(
        [row(0.2, 0, to=5.0), row(0.1, 1, "diverged"), row(None, 2, "failed"), row(None, 3, "not run")]
    )
    assert line.gap == (math.inf, 0.2, math.inf) and line.seeds == 2
    assert line.spreads["cpu_seconds_to"].middle == math.inf
    assert line.fates == ["1 of 4 diverged", "1 of 4 failed", "1 of 4 not run"]
    rows = [row(None, 0, "diverged"), row(0.3, 0, objective="cd"), row(None, 0, "failed", objective="ed")]
    assert [(n.arm.objective, n.gap and n.gap.middle) for n in table.lines(rows)] == [
        ("cd", 0.3),
        ("pcd", math.inf),
        ("ed", None),
    ]


def test_the_curve_of_the_middle_is_the_median_at_each_evaluation():
    curves = [[(1, 10, 0.5), (2, 20, 0.4)], [(3, 30, 0.1), (4, 40, 0.2)], [(2, 20, 0.3)]]
    assert table.middle_curve(curves) == [(2, 20, 0.3), (3, 30, pytest.approx(0.3))]
    assert table.middle_curve([]) == []


def test_comparison_csv_is_read_as_it_was_written(tmp_path):
    rows = [row(0.2, 0, to=5.0, mmd2=0.1), row(None, 1, "failed", message=f"a,\n{HOSTILE}", vary=HOSTILE)]
    table.write_csv(rows, tmp_path / "c.csv")
    again = table.read_csv(tmp_path / "c.csv")
    shown = [[(n.arm, n.seeds, n.spreads, n.fates) for n in table.lines(r)] for r in (again, rows)]
    assert shown[0] == shown[1] and again[0]["seed"] == 0 and again[1]["nll_gap"] is None
    with open(tmp_path / "c.csv", newline="") as stream:
        assert [r["message"] for r in csv.DictReader(stream)] == ["", f"a,\n{HOSTILE}"]
    with pytest.raises(UserError, match="no such comparison"):
        table.read_csv(tmp_path / "none.csv")


def test_images_show_the_metrics_that_they_have():
    more = {"mmd2": 0.02, "confident_share": 0.9, "ess": 5.0}
    found = table.lines([row(None, 0, dataset="digits", **more)])
    assert [c.key for c in columns(found)][:2] == ["mmd2", "confident_share"]
    assert "ess" in [c.key for c in columns(found, ["ess"])] and "nll_gap" not in [c.key for c in columns(found)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00432, "0.0043"), (0.0432, "0.0432"), (12.34, "12.3"), (1234.0, "1,234"), (12345.0, "12.3 k"),
        (1.234e6, "1.23 M"), (999_936.0, "1 M"),
        (9999.6, "10 k"), (999.9, "1,000"), (123_456.0, "123 k"), (0.1, "0.1"),
        (5.6e9, "5.6 G"), (0.0, "0"), (-0.0012, "-0.0012"), (3e-6, "3.0e-06"), (math.inf, "∞"),
    ],
)  # fmt: skip
def test_numbers_have_three_figures(value, text):
    assert number(value) == text


def test_the_chart_is_sound_svg_and_stays_in_its_frame():
    curves = {f"m{i} {HOSTILE}": [(0.1 * k, 0, 5.0 / (k + i)) for k in range(1, 20)] for i in range(1, 14)}
    root = ET.fromstring(chart(curves, f"a {HOSTILE}"))
    lines = [p for p in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == 26
    for line in lines:
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    assert chart({"none": []}, "x") == ""
    assert ET.fromstring(chart({"odd": [(1.0, 0, -0.2), (2.0, 0, math.inf)]}, "x")) is not None


def test_names_at_the_ends_of_lines_are_moved_apart():
    assert apart([10, 11, 50], 13, 0, 100) == [10, 23, 50]
    assert apart([95, 96, 97], 13, 0, 100) == [74, 87, 100]


# What is shown


@pytest.fixture
def study(tmp_path):
    """A comparison with hostile names and every fate, written as a page."""
    rows = [
        row(0.2, 0, to=5.0), row(0.1, 1, to=9.0), row(0.7, 2, rollbacks=1),
        *(row(0.01 * (s + 1), s, to=float(s + 1), objective="dsm") for s in range(3)),
        row(None, 0, "diverged", objective="cd", vary=HOSTILE, message=f"gap exploded {HOSTILE}"),
        row(None, 0, "failed", objective="ed", message=HOSTILE),
    ]  # fmt: skip
    for r in rows:
        if r["status"] == "finished":
            r["run"] = f"cases/{r['objective']}_{r['seed']}"
            looks = [
                {"step": k, "train_cpu_seconds": 3.0 * k, "grad_evals": 9 * k, "val/nll_gap": r["nll_gap"] * 30 / k}
                for k in range(1, 20)
            ]
            keys = ("status", "nll_gap", "train_cpu_seconds", "grad_evals")
            hand_made(tmp_path / r["run"], {k: r[k] for k in keys}, looks)
    table.write_csv(rows, tmp_path / "comparison.csv")
    facts = {
        "command": f"python scripts/compare.py vary='{HOSTILE}'",
        "machine": {"processor": "a processor", "cores": "2 cores"},
        "jobs": 2,
        "torch": "2",
        "commit": "abc",
        "study": {"budget": 60.0, "unit": "cpu_seconds", "overrides": [f"a={HOSTILE}"]},
        "columns": [],
        "about": {"dataset/two_moons": HOSTILE, "objective/pcd": HOSTILE},
    }
    page.write(rows, tmp_path, {}, facts)
    return tmp_path


def test_the_page_escapes_whatever_comes_from_outside(study):
    text = (study / "index.html").read_text()
    assert text.count("<script>") == 1 and HOSTILE not in text  # the page's own
    assert text.count("&lt;script&gt;throw 1") >= 6
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    assert "1 of 1 diverged" in text and "0.2" in text and "what happened to them" in text


def test_the_markdown_has_a_row_per_arm_and_best_first(study):
    rows = [n for n in (study / "comparison.md").read_text().splitlines() if n.startswith("| `")]
    assert [n.split("`")[1].split()[0] for n in rows] == ["dsm", "pcd", "cd", "ed"]
    assert "0.02 (0.01 to 0.03)" in rows[0] and "2 (1 to 3)" in rows[0]
    assert "<script>" not in "".join(rows) and all(n.count(" | ") == rows[0].count(" | ") for n in rows)


def test_publishing_again_replaces_a_study_s_own_pictures_alone(study, tmp_path):
    """A picture that is no longer drawn goes; those of a study whose name begins alike stay."""
    page.publish(study, tmp_path, "hard")
    page.publish(study, tmp_path, "hard_cnce")
    (tmp_path / "hard_two_moons_models.png").write_text("of an earlier version")
    page.publish(study, tmp_path, "hard")
    assert {p.name for p in tmp_path.glob("*_two_moons_*")} == {
        "hard_two_moons_gap.svg",
        "hard_cnce_two_moons_gap.svg",
    }


def test_a_document_takes_its_numbers_from_the_studies(study, tmp_path):
    docs = tmp_path / "docs"
    (study / "rings_gap.svg").write_text("of another command")
    written = page.publish(study, docs / "results", "methods")
    assert {p.name for p in written} == {"methods.csv", "methods.json", "methods_two_moons_gap.svg"}
    source = docs / "results" / "results.md.j2"
    asks = '{{ best("methods", "two_moons") }} {{ spread("methods", "two_moons", best("methods", "two_moons", n=2)) }}'
    asks += '{% if figure("methods", "two_moons", "dsm") < figure("methods", "two_moons", "none") %} less{% endif %}'
    source.write_text(asks + ' {{ value("methods", "two_moons", "dsm", "step") }}\n{{ tables("methods") }}')
    (docs / "results" / "run.evaluation.json").write_text('{"step": 3684, "feature_fid": 1.50049, "notes": []}')
    (docs / "results" / "own.summary.json").write_text('{"feature_fid": 0.78}')
    asks = ' {{ measured("own", "feature_fid") }} {{ measured("run", "feature_fid") }} at {{ measured("run", "step") }}'
    source.write_text(source.read_text() + asks)
    results.render(source, docs / "results", docs / "results.md")
    text = (docs / "results.md").read_text()
    assert text.endswith(" 0.78 1.5 at 3,684")
    assert text.startswith("dsm 0.2 (0.1 to 0.7) less 10\n") and "](results/methods_two_moons_gap.svg)" in text
    for wrong, said in (
        ('{{ value("methods", "two_moons", "nce") }}', "no row 'two_moons nce"),
        ('{{ value("methods", "two_moons", "dsm", "stop") }}', "step"),
        ('{{ tables("other") }}', "no such file"),
        ('{{ best("methods", "two_moons", n=9) }}', "number 9"),
        ("{{ best( }}", "results.md.j2"),
        ('{{ measured("run", "feature_fit") }}', "did you mean 'feature_fid'"),
        ('{{ measured("walk", "feature_fid") }}', "walk.evaluation.json: no such file"),
    ):
        source.write_text(wrong)
        with pytest.raises(UserError, match=said):
            results.render(source, docs / "results", docs / "results.md")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(file, folder):
    """(the document as the browser has it, what it said on the console)."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--enable-logging=stderr"]
    command = [CHROMIUM, *flags, "--virtual-time-budget=3000", "--dump-dom", f"file://{file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_a_browser_opens_the_page_without_complaint_and_sorts_it(study, tmp_path):
    click = "<script>document.querySelectorAll('th button')[1].click();{}</script></body>"
    text = (study / "index.html").read_text()
    for name, more in (("up", ""), ("down", "document.querySelectorAll('th button')[1].click()"), ("bad", "nothing()")):
        (tmp_path / f"{name}.html").write_text(text.replace("</body>", click.format(more)))
    found = {name: browse(tmp_path / f"{name}.html", tmp_path / "profile") for name in ("up", "down", "bad")}
    assert found["up"][1] == [] and found["down"][1] == []
    assert any("nothing is not defined" in line for line in found["bad"][1])  # a complaint would have been seen
    first = [found[name][0].split("<tbody>")[1].split('data-sort="')[1].split('"')[0] for name in ("up", "down")]
    assert first[0] == "dsm" and first[1] != "dsm"


@pytest.mark.slow
def test_from_the_command_line_to_the_page(tmp_path):
    """Real runs under a counted budget: as many steps as it buys, one arm that can't run, and nothing twice."""
    options = {"objectives": "dsm", "datasets": "mixture_1d", "seeds": "0", "budget": 100_000, "unit": "grad_evals"}
    options |= {
        "vary": "objective.sigma=0.2,-1.0",
        "out": str(tmp_path),
        "overrides": "batch_size=128 energy.hidden=[16]",
    }
    compare(**options)
    good, bad = table.read_csv(tmp_path / "comparison.csv")
    assert good["status"] == "finished" and good["grad_evals"] == 195 * 512  # 128 points, two noises each
    assert good["step"] == 195 and 0 < good["train_cpu_seconds"] < good["cpu_seconds"]
    parts = sum(good[f"{part}_cpu_seconds"] for part in ("startup", "train", "eval"))
    assert parts == pytest.approx(good["cpu_seconds"], abs=0.01)
    assert bad["status"] == "failed" and "sigma" in bad["message"]
    looks = [json.loads(n) for n in (tmp_path / good["run"] / "metrics.jsonl").read_text().splitlines()]
    assert sum("val/nll_gap" in n for n in looks) == 19 and all("train_cpu_seconds" in n for n in looks)
    text = (tmp_path / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 2 and "objective.sigma=0.2" in text  # the truth and the model
    before = sorted(p.name for p in tmp_path.glob("cases/*/runs/*"))
    compare(**options)
    assert sorted(p.name for p in tmp_path.glob("cases/*/runs/*")) == before
