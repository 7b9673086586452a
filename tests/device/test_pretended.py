"""On a pretended CUDA device every objective, sampler and evaluation keeps to it: no mixing of devices, no waiting for
the device in a training step after the first, copies from the host only where they are named here.

A run of several small cases is a process of its own, since the pretence changes the process it is made in.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_lab.core.registry import names
from scripts.gpu.cases import cases as components
from tests.device.faulty import FAULTY
from tests.evaluation.test_evaluate_all import FAST
from tests.exhaustive import cases, exhaustive
from tests.runs.test_resume import CHOICES, ON_BITS, quick

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

COPIED = {
    "training/batches.py Batches._order": "the order of an epoch, once an epoch: it is drawn on the CPU, so that runs "
    "on all devices see the same batches",
    "training/batches.py Batches._drawn": "bits that are drawn anew at each step, for the same reason",
}
"""Where a training step may copy from the host, with the reason."""
WAITED = {
    "samplers/nuts.py NUTS.step": "whether a tree of NUTS grows further depends on its states, and the host decides it",
    "samplers/nuts.py grow": "the same within a tree",
}
"""Where a training step may wait for the device, with the reason."""
ELSEWHERE = {"fid": "it needs weights from the internet"}
"""Evaluations that give no report in any run here."""


def found(tmp_path, chosen):
    """Run these cases in a process of its own; return what it found by case."""
    asked, answered = tmp_path / "cases.json", tmp_path / "found.jsonl"
    asked.write_text(json.dumps(chosen))
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.device.runs", str(asked), str(answered)],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in answered.read_text().splitlines()]
    assert [row["case"] for row in rows] == list(chosen)
    return {row["case"]: row for row in rows}


def troubles(row, allowed=(COPIED, WAITED)):
    """What a case must not do, a line each."""
    lines = [row["error"]] if row["error"] else []
    for phase, kind, operator, place, count in row["events"]:
        named = allowed[0] if kind == "h2d" else allowed[1]
        if phase == "step" and kind in ("sync", "h2d") and place.rpartition(":")[0] not in named:
            lines.append(f"{kind} by {operator} at {place}, {count} times")
    return lines


def chosen_cases():
    """Every option of objective and sampler, and the special runs of tests/runs/test_resume.py."""
    special = [c for c in CHOICES if len(c) > 2 and c not in [ON_BITS[name] for name in ON_BITS if "sampler=" in name]]
    return components() | {" ".join(c): [*quick(*c), "evaluation=[]"] for c in special}


def parts(of, into):
    """Deal the cases, so that each part takes about as long."""
    return [dict(list(of.items())[i::into]) for i in range(into)]


PARTS = 4
REPRESENTATIVE = ("objective=dsm", "objective=pcd", "objective=coopnets", "sampler=mala", "sampler=gwg")
"""Noise alone, chains, two players, a sampler that accepts and rejects, and bits."""


@pytest.mark.parametrize("part", cases(["representative", *range(PARTS)], ["representative"]))
def test_components_keep_to_their_device(part, tmp_path):
    every = chosen_cases()
    chosen = {name: every[name] for name in REPRESENTATIVE} if part == "representative" else parts(every, PARTS)[part]
    rows = found(tmp_path, chosen)
    wrong = {name: lines for name, row in rows.items() if (lines := troubles(row))}
    assert wrong == {}, "\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines)


@exhaustive
def test_every_component_is_among_the_cases():
    """An objective or sampler that is registered, but that no case trains, would not be looked at."""
    from ebm_lab.runs.parts import parse_choices
    from scripts.gpu.cases import composed

    seen = {"objective": set(), "sampler": set()}
    for overrides in chosen_cases().values():
        config = composed(overrides)
        parse_choices(config)
        for kind, known in seen.items():
            known |= _names(config.get(kind) or {})
    for kind, known in seen.items():
        own = {n for n, c in names(kind).items() if c.__module__.startswith("ebm_lab.")}
        assert own <= known, kind


def _names(settings):
    nested = [_names(v) for v in settings.values() if isinstance(v, dict)]
    return {settings.get("name")}.union(*nested)


POINTS = ["dataset.train=200", "dataset.held_out=60"]
TINY = ["samples=6", "sample_steps=10", "batch_size=16", "recipe=none"]
EVALUATED = {
    "points": (["dataset=mixture", "objective=pcd", *POINTS], sorted(names("evaluation"))),
    "levels": (["dataset=mixture", "objective=multi_dsm", *POINTS], ["flow_likelihood", "mmd"]),
    "labels": (
        ["dataset=mixture", "objective=pcd", "energy=labelled_mlp", "objective.conditional=true", *POINTS],
        ["calibration", "conditional"],
    ),
    "images": (
        ["dataset=digits", "objective=pcd", "dataset.classes=[0,1,2]"],
        ["classifier", "feature_fid", "inpainting", "samples"],
    ),
    "bits": (
        ["dataset=ising", "dataset.size=[3,3]", "objective=pcd", "energy=ising", "sampler=gibbs", *POINTS],
        ["ising_rmse", "likelihood", "ais", "smc", "chains", "mmd"],
    ),
    "rbm": (
        ["dataset=bars_and_stripes", "objective=pcd", "energy=rbm", "sampler=block_gibbs", *POINTS],
        ["filters", "ais"],
    ),
}
"""Runs and the evaluations that look at them: on points all, and elsewhere those that points leave out."""


def evaluated():
    """The cases, with settings that make each evaluation quick."""
    return {
        name: [*o, *TINY, f"evaluation=[{','.join(which)}]"]
        + [f"evaluation.{key}={value}" for key, value in FAST.items() if key.split(".")[0] in which]
        for name, (o, which) in EVALUATED.items()
    }


@exhaustive
def test_evaluations_keep_to_their_device(tmp_path):
    """An evaluation ends in numbers on the host, so it may wait; annealing may do so once at a temperature of its pilot
    run, and not at those of the runs that count."""
    rows = found(tmp_path, evaluated())
    assert {name: row["error"] for name, row in rows.items() if row["error"]} == {}
    reported = {name for row in rows.values() for name in row["reports"]}
    assert set(names("evaluation")) - set(ELSEWHERE) <= reported
    for name, row in rows.items():
        copied = [e for e in row["events"] if e[1] == "h2d" and e[3].startswith("samplers/")]
        assert copied == [], f"{name}: a sampler copies to the device at each call"
        at = [(p.rpartition(":")[0], kind) for phase, kind, _, p, _ in row["events"] if phase in ANNEALED]
        moved = [(p, kind) for p, kind in at if p.startswith(("evaluation/_annealed_path.py", "samplers/"))]
        assert {p for p, kind in moved} <= {"evaluation/_annealed_path.py pilot", READ}, name
        assert all(kind == "sync" for _, kind in moved), name


ANNEALED = ("evaluation ais", "evaluation smc")
READ = "evaluation/_annealed_path.py numbers"


def test_it_finds_each_planted_fault(tmp_path):
    rows = found(tmp_path, {name: ["dataset=two_moons", "dataset.train=200", "batch_size=16"] for name in FAULTY})
    said = {name: " ".join(troubles(row)) for name, row in rows.items()}
    assert said.pop("faulty_none") == ""
    expected = {
        "faulty_item": "sync by _local_scalar_dense",
        "faulty_generator": "Expected a 'cuda' device type for generator but found 'cpu'",
        "faulty_tensor": "Expected all tensors to be on the same device",
        "faulty_numpy": "can't convert cuda:0 device type tensor to numpy",
        "faulty_mask": "sync by index",
    }
    assert said.keys() == expected.keys()
    for name, what in expected.items():
        assert what in said[name], (name, said[name])
