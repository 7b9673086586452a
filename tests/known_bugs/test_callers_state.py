"""Kind: a setting of the process that calls the lab changes what a run computes, or a run changes the setting."""

import json
import os
import random
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn
import torch

import ebm_lab
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.cli.tools import sample
from ebm_lab.core.random import seeded, stream
from ebm_lab.runs.isolation import isolated
from tests.exhaustive import cases, exhaustive

SHORT = [
    "dataset=gaussian", "dataset.train=300", "dataset.held_out=100", "objective=dsm", "energy=mlp", "energy.hidden=[8]",
    "steps=12", "batch_size=32", "samples=20", "sample_steps=5", "logger=none", "log_every=6", "eval_every=6",
    "checkpoint_every=12", "evaluation.density.cells=20", "evaluation.likelihood.cells=40",
]  # fmt: skip


def run(tmp_path, *more):
    return ebm_lab.train([*SHORT, f"output_dir={tmp_path}", *more], quiet=True)


def bits(result):
    """Every number that the run ended with: its weights and its results."""
    timed = ("seconds", "cpu", "steps_per_second", "command", "pid", "evals_per", "git_commit")
    numbers = {k: v for k, v in result.summary.items() if not any(t in k for t in timed)}
    weights = {k: v.tolist() for k, v in result.energy.state_dict().items()}
    return json.dumps([numbers, weights], sort_keys=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run in a process whose settings nobody touched."""
    return run(tmp_path_factory.mktemp("plain"))


@contextmanager
def setting(get, put, value):
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def attribute(owner, name, value):
    return setting(lambda: getattr(owner, name), lambda v: setattr(owner, name, v), value)


@contextmanager
def flushing():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def mixed_precision_settings():
    with attribute(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"):
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        yield


@contextmanager
def debugging():
    with warnings.catch_warnings(action="ignore"), torch.autograd.set_detect_anomaly(True):
        yield


STATES = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default dtype float64": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default dtype bfloat16": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "a device context": lambda: torch.device("meta"),
    "default device": lambda: setting(lambda: None, torch.set_default_device, "meta"),
    "2 threads": lambda: setting(torch.get_num_threads, torch.set_num_threads, 2),
    "deterministic": lambda: setting(
        torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 2
    ),
    "matmul in bfloat16": lambda: setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "precision by the new names": mixed_precision_settings,
    "general precision": lambda: attribute(torch.backends, "fp32_precision", "tf32"),
    "cudnn off": lambda: attribute(torch.backends.cudnn, "enabled", False),
    "cudnn benchmark": lambda: attribute(torch.backends.cudnn, "benchmark", True),
    "onednn off": lambda: attribute(torch.backends.mkldnn, "enabled", False),
    "anomaly detection": debugging,
    "denormals flushed": flushing,
    "NumPy raises": lambda: np.errstate(all="raise"),
    "pandas from scikit-learn": lambda: sklearn.config_context(transform_output="pandas"),
    "other pictures": lambda: matplotlib.rc_context({"text.usetex": True, "figure.dpi": 30}),
}  # fmt: skip


def state():
    """All that a run could leave changed."""
    x = torch.ones(2, 2)
    return {
        "autocast": [torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"), (x @ x).dtype],
        "grad": [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        "defaults": [torch.get_default_dtype(), torch.get_default_device()],
        "threads": torch.get_num_threads(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "precision": [
            part.fp32_precision
            for b in [torch.backends]
            for part in (b, b.cudnn, b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv)
        ],
        "cudnn": [torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled],
        "anomaly": torch.is_anomaly_enabled(),
        "denormals": sys.float_info.min / 2,
        "random": [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()],
        "errors": np.geterr(),
        "sklearn": sklearn.get_config(),
        "matplotlib": dict(matplotlib.rcParams),
        "pyplot": "matplotlib.pyplot" in sys.modules and sys.modules["matplotlib.pyplot"].get_fignums(),
        "warnings": list(warnings.filters),
        "environ": dict(os.environ),
        "paths": [sys.path[:], sys.argv[:], os.getcwd()],
    }


def cpu_state():
    """`state`, also where the default device can hold no number."""
    with torch.device("cpu"):
        found = state()
    return found | {"defaults": [torch.get_default_dtype(), torch.get_default_device()]}


FIRST = ("autocast to bfloat16", "inference_mode", "2 threads")


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(STATES, FIRST))
def test_a_run_has_the_same_bits_in_every_state_and_leaves_it_as_it_was(name, plain, tmp_path):
    with STATES[name]():
        before = cpu_state()
        result = run(tmp_path)
        after = cpu_state()
    assert bits(result) == bits(plain)
    assert after == before


@pytest.mark.parametrize("name", STATES)
def test_a_loaded_run_is_the_same_in_every_state_and_leaves_it_as_it_was(name, plain):
    x = plain.dataset.test[:50]
    right = plain.energy(x)
    with STATES[name]():
        before = cpu_state()
        loaded = ebm_lab.load_run(plain.path)
        after = cpu_state()
    assert torch.equal(loaded.energy(x), right)
    assert after == before
    assert loaded.dataset.train.dtype == torch.float32
    loaded.energy(x).sum().backward()  # as the weights of any module: neither inference tensors nor without a graph
    assert all(p.grad is not None and p.dtype == torch.float32 for p in loaded.energy.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", cases([*FIRST, "default dtype float64"], ["autocast to bfloat16"]))
def test_samples_and_evaluations_are_the_same_in_every_state(name, plain, tmp_path):
    def both(folder):
        sample(run=str(plain.path), n=8, steps=3, device="cpu", out=str(folder))
        evaluate(run=str(plain.path), evaluation="own", device="cpu", out=str(folder))
        record = json.loads((folder / "evaluation.json").read_text())
        return np.load(folder / "samples.npy").tolist(), {k: v for k, v in record.items() if k != "seconds"}

    right = both(tmp_path / "plain")
    with STATES[name]():
        before = cpu_state()
        found = both(tmp_path / "state")
        after = cpu_state()
    assert found == right
    assert after == before


@pytest.mark.slow
def test_bfloat16_within_the_callers_autocast_rounds_the_weights_of_each_step_anew(tmp_path):
    """Autocast keeps rounded weights until its outermost context ends, which for the caller's is after the run."""
    right = run(tmp_path / "plain", "precision=bfloat16", "dataset=gaussian")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bits(run(tmp_path / "within", "precision=bfloat16")) == bits(right)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(["autocast to bfloat16", "default dtype float64", "a device context"], []))
def test_a_compiled_run_is_the_same_in_every_state(name, tmp_path):
    right = run(tmp_path / "plain", "compile=on")
    with STATES[name]():
        found = run(tmp_path / "state", "compile=on")
    assert bits(found) == bits(right)


@pytest.mark.slow
@pytest.mark.parametrize("objective", cases(["pcd", "nce", "ssm", "fdssm", "cd"], ["pcd"]))
def test_global_generators_are_neither_used_nor_changed(objective, tmp_path):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        before = state()["random"]
        found.append(bits(run(tmp_path / str(seed), f"objective={objective}", "steps=4")))
        assert state()["random"] == before
    assert found[0] == found[1]


def test_seeding_leaves_the_seed_of_a_device_that_is_not_used_alone(monkeypatch):
    """torch.manual_seed reseeds every device, now or as soon as it is first used."""
    reseeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    with seeded(3):
        inside = torch.rand(3)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(3)))
    assert not reseeded


@pytest.mark.slow
def test_an_energy_trained_under_inference_mode_is_an_ordinary_one(tmp_path):
    with torch.inference_mode():
        result = run(tmp_path)
    assert not any(p.is_inference() for p in result.energy.parameters())
    assert not result.dataset.train.is_inference()
    result.energy(result.dataset.test).sum().backward()
    assert all(p.grad is not None for p in result.energy.parameters())


def test_an_error_leaves_the_state_as_it_was():
    with torch.inference_mode(), setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64):
        before = state()
        with pytest.raises(ebm_lab.UserError, match="steps=-1"):
            ebm_lab.train(["steps=-1", "logger=none"])
        with pytest.raises(ebm_lab.UserError, match="no such directory"):
            ebm_lab.load_run("nowhere")
        assert state() == before


@pytest.mark.slow
def test_runs_in_four_threads_are_right_and_leave_the_process_as_it_was(plain, tmp_path):
    found, before = {}, state()

    def work(i):
        with torch.autocast("cpu", dtype=torch.bfloat16) if i % 2 else nullcontext():
            found[i] = bits(run(tmp_path / str(i)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.get(i) for i in range(4)] == 4 * [bits(plain)]
    after = state()
    assert {k: v for k, v in after.items() if k != "warnings"} == {k: v for k, v in before.items() if k != "warnings"}


@pytest.mark.slow
def test_a_run_within_a_run_leaves_the_outer_one_its_settings(tmp_path):
    with isolated():
        torch.set_num_threads(2)
        torch.manual_seed(5)
        before = state()
        run(tmp_path)
        assert state() == before
        torch.set_num_threads(1)


def test_the_last_thread_to_leave_puts_back_what_the_first_one_found():
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with isolated():
            entered.set()
            leave.wait(10)

    with setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64):
        thread = threading.Thread(target=hold)
        thread.start()
        entered.wait(10)
        with isolated():
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32  # the other still needs it
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64


def test_the_handlers_of_signals_are_put_back(tmp_path):
    import signal

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(n) for n in numbers]
    run(tmp_path)
    assert [signal.getsignal(n) for n in numbers] == before


@exhaustive
def test_the_example_of_the_report(tmp_path):
    """Two moons in bfloat16 by autocast used to end at nll 3.631 and not at 3.693."""
    code = (
        "import contextlib, sys, torch, ebm_lab\n"
        "state = {'autocast': torch.autocast('cpu', torch.bfloat16), 'none': contextlib.nullcontext()}[sys.argv[1]]\n"
        "with state:\n"
        "    r = ebm_lab.train(['objective=dsm', 'dataset=two_moons', 'steps=300', 'logger=none',"
        " 'evaluation=[likelihood]',"
        " 'output_dir=' + sys.argv[2]], quiet=True)\n"
        "print(repr(r.summary['nll']))\n"
    )
    root = Path(ebm_lab.__file__).parent.parent
    found = [
        subprocess.run(
            [sys.executable, "-c", code, name, str(tmp_path)], capture_output=True, text=True, check=True, cwd=root
        ).stdout.split()[-1]
        for name in ("none", "autocast")
    ]
    assert found[0] == found[1]


def test_streams_do_not_hang_on_the_default_dtype():
    right = torch.rand(2, generator=stream(0, "x"))
    with isolated():
        assert torch.equal(torch.rand(2, generator=stream(0, "x")), right)
