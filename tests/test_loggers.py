"""Weights & Biases can neither prompt, nor hang, nor end a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUN = ["objective=dsm", "dataset=two_moons", "dataset.train=300", "dataset.held_out=100", "steps=6", "log_every=2"]
RUN += ["evaluation=[likelihood,density]", "sampler=none", "eval_every=4", "logger.init_timeout=2"]


def train(cwd, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"HOME": str(cwd)} | environment
    command = [sys.executable, str(ROOT / "train.py"), *RUN]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=env, stdin=subprocess.DEVNULL, timeout=120
    )


def test_without_a_key_it_logs_offline_and_says_how_to_view_and_sync(tmp_path):
    done = train(tmp_path)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("W&B")]
    assert (
        len(told) == 1 and "wandb leet outputs/wandb" in told[0] and "wandb sync outputs/wandb/offline-run-" in told[0]
    )
    (offline,) = (tmp_path / "outputs" / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb")) and list(offline.rglob("density*.png"))


@pytest.mark.slow
def test_a_key_without_a_network_costs_seconds_and_no_run(tmp_path):
    key = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = train(tmp_path, **key)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("W&B")]
    assert "can't reach the service" in told[0] and "W&B: offline" in told[1] and len(told) == 2
    assert list((tmp_path / "outputs" / "wandb").glob("offline-run-*"))
