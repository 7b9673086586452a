"""scripts/gpu_check.py runs to its end on a CPU, says what it left out, and fails loudly where a check fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scripts.gpu.checks as checks
from scripts.gpu.checks import agreement, components, same_bits
from scripts.gpu_check import failures, gpu_check, page
from tests.exhaustive import exhaustive

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
FOUND = {
    "device": {"type": "cuda", "name": "a card", "torch": "2", "cuda": "13"},
    "quick": False,
    "seconds": 9,
    "left_out": [],
    "failed": [],
    "agreement": [
        {"precision": "tf32", "energy": 1e-3, "score": 2e-3, "gradient": 3e-3, "limit": 3e-2, "agrees": True}
    ],
    "bits": {"dsm, two equal runs": "equal"},
    "graphs": {"dsm": "equal"},
    "throughput": [
        {"method": "dsm", "setting": "tf32", "batch": 128, "images_per_second": 45e3, "ms": 2.8, "peak_mib": 700},
        {"method": "pcd", "setting": "bfloat16", "left_out": "why"},
    ],
    "profile": {"kernels_per_step": 210.0, "top": [{"operator": "aten::mm", "ms": 0.5}]},
    "components": {"objective=dsm": "ok"},
}


@exhaustive
def test_it_runs_to_its_end_on_a_cpu(tmp_path):
    code = "import runpy, sys; sys.argv = sys.argv[1:]\n" + (
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('imported:', *sorted({'matplotlib', 'wandb', 'sklearn'} & set(sys.modules)))"
    )
    command = ["scripts/gpu_check.py", f"out={tmp_path}", "device=cpu", "quick=true", "seconds=0.1"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "imported:"
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failed"] == [] and len(found["left_out"]) == 4 and found["device"]["type"] == "cpu"
    assert set(found["components"].values()) == {"ok"} and set(found["bits"].values()) == {"equal"}
    assert [row["precision"] for row in found["agreement"]] == ["float64", "float32"]
    assert {row["method"] for row in found["throughput"]} == {"dsm", "pcd", "multi_dsm"}
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("# The checks for a GPU, on a CPU") and "Left out on a CPU" in text


def test_float64_agrees_to_rounding_and_float32_to_its_own():
    rows = {row["precision"]: row for row in agreement(CPU)}
    assert rows["float64"]["energy"] == rows["float64"]["gradient"] == 0
    assert all(1e-9 < rows["float32"][key] < 1e-5 for key in ("score", "gradient"))
    assert all(row["agrees"] for row in rows.values())


def test_an_error_of_the_device_is_found(monkeypatch):
    numbers = checks._numbers

    def wrong(device, dtype, precision):
        found = numbers(device, dtype, precision)
        return found | {"score": found["score"] * (1.001 if dtype == torch.float32 else 1)}

    monkeypatch.setattr(checks, "_numbers", wrong)
    assert [row["agrees"] for row in agreement(CPU)] == [True, False]


def test_bits_that_differ_are_found():
    a = {part: {"x": torch.arange(3.0)} for part in ("objective", "ema", "optimiser/energy", "generator")}
    b = {**a, "ema": {"x": torch.arange(3.0) + 1e-7}}
    assert checks._difference(a, a) == "equal" and checks._difference(a, b).startswith("differ: in ema")
    assert checks._difference(a, {**a, "ema": {}}) == "differ: in ema"


def test_a_component_that_fails_is_reported_and_the_others_are_still_trained(monkeypatch):
    chosen = {"broken": ["objective=dsm", "dataset=two_moons"], "refused": ["objective=dsm", "dataset=no_such"]}
    common = ["logger=none", "dataset.train=50", "dataset.held_out=20", "batch_size=8", "preprocess=none"]
    monkeypatch.setattr(checks, "cases", lambda: {name: [*common, *o] for name, o in chosen.items()})

    def broken(self, step):
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr("ebm_lab.training.trainer.Trainer._train_step", broken)
    found = components(CPU, quick=False)
    assert found["broken"] == "failed: RuntimeError: called a synchronizing CUDA operation"
    assert found["refused"].startswith("left out: dataset=no_such")
    assert failures({"components": found, "agreement": None, "bits": None}) == [f"broken: {found['broken']}"]


def test_the_page_of_a_card():
    text = page(FOUND)
    assert "a card, torch 2, CUDA 13" in text and "210 kernels a step" in text
    assert "| dsm | tf32 | 128 | 45,000 | 2.8 | 700 |" in text and "| pcd | bfloat16 | - | why |" in text
    assert "## Failed" not in text and "## Failed" in page({**FOUND, "failed": ["x: y"]})
    assert failures(FOUND) == []
    assert failures({**FOUND, "bits": {"a": "differ: in ema"}}) == ["a: differ: in ema"]
    assert "## CUDA graphs" in text
    assert failures({**FOUND, "graphs": {"pcd": "differ by 1e-2"}}) == ["CUDA graphs, pcd: differ by 1e-2"]


@pytest.mark.slow
def test_a_resumed_run_has_the_bits_of_a_straight_one():
    assert set(same_bits(CPU, 4).values()) == {"equal"}


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    from ebm_lab.core.errors import UserError

    with pytest.raises(UserError, match="device=cuda: this machine has no such device"):
        gpu_check(out=str(tmp_path), device="cuda")
    assert not list(tmp_path.iterdir())
