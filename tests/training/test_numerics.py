"""float32 means float32 on CUDA, TF32 and determinism hold within a training step alone, and cards are not shared."""

import pytest
import torch
from torch import nn

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.runs.assemble import assemble, decide_compile
from ebm_lab.runs.isolation import isolated
from ebm_lab.training.compile.policy import should_compile
from ebm_lab.training.costs import Counters, device_costs
from ebm_lab.training.distributed import Processes
from ebm_lab.training.gradients import Gradients
from ebm_lab.training.numerics import cast_to, fix_workspace, precise, repeatable
from tests.runs.test_resume import quick, run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def precisions():
    """Of matrix products and of convolutions."""
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


def determinism():
    fill = torch.utils.deterministic.fill_uninitialized_memory
    return torch.backends.cudnn.deterministic, torch.get_deterministic_debug_mode(), fill


@pytest.mark.parametrize(
    "precision, kind", [("float32", "ieee"), ("bfloat16", "ieee"), ("tf32", "tf32")]
)  # bfloat16: what autocast leaves in float32
def test_float32_is_float32_on_cuda_and_tf32_only_where_it_is_asked_for(precision, kind):
    before = precisions()
    assert before[1] == "tf32", "torch's default, which this is about"
    with precise(precision, CUDA):
        assert precisions() == (kind, kind)
    with precise(precision, CPU):
        assert precisions() == before
    with pytest.raises(ValueError), precise(precision, CUDA):
        raise ValueError
    assert precisions() == before


def test_the_scope_spans_loss_and_gradient_and_no_more(monkeypatch):
    seen = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(precisions())
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(precisions())
            return grad

    trainer, _ = assemble(compose_config(quick("objective=dsm")))
    objective = trainer.state.objective
    plain = objective.forward
    monkeypatch.setattr(objective, "forward", lambda batch: plain(Batch(Watched.apply(batch.x.requires_grad_()))))
    batch = Batch(trainer.evaluations.dataset.train[:8].clone())
    monkeypatch.setattr("ebm_lab.training.gradients.precise", lambda precision, device: precise(precision, CUDA))
    before = precisions()
    Gradients(objective, Processes(), "tf32")([batch])
    assert seen == [("tf32", "tf32")] * 2 and precisions() == before


def test_loading_and_evaluating_are_in_float32_too():
    with isolated():
        assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cudnn.rnn.fp32_precision == "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cudnn.rnn.fp32_precision == "tf32"


def test_tf32_on_a_cpu_changes_no_bit_and_says_so(tmp_path, capsys):
    one = run(tmp_path, "a", "objective=dsm", "steps=4")
    capsys.readouterr()
    other = ebm_lab.train(quick(f"output_dir={tmp_path / 'b'}", "objective=dsm", "steps=4", "precision=tf32"))
    assert "precision=tf32: no effect on a CPU" in capsys.readouterr().out.splitlines()
    for a, b in zip(one.energy.parameters(), other.energy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_tf32_is_rejected_where_energies_are_compared():
    with pytest.raises(UserError, match="precision=tf32: objective 'nce' .* and tf32 rounds the differences away"):
        assemble(compose_config(quick("objective=nce", "precision=tf32")))


@pytest.mark.parametrize(
    "setting, device, inside",
    [
        ("auto", CPU, None),
        ("auto", CUDA, (True, 1, False)),
        ("on", CPU, (True, 2, False)),
        ("on", CUDA, (True, 2, False)),
        (True, CUDA, (True, 2, False)),
        ("off", CUDA, None),
        (False, CUDA, None),
    ],
)
def test_determinism_is_scoped(setting, device, inside):
    before = determinism()
    with repeatable(setting, device):
        assert determinism() == (inside or before)
    with pytest.raises(ValueError), repeatable(setting, device):
        raise ValueError
    assert determinism() == before


@pytest.mark.parametrize(
    "setting, device, found", [("auto", CUDA, ":4096:8"), ("off", CUDA, None), ("on", CPU, None), ("auto", CPU, None)]
)
def test_cublas_gets_a_fixed_workspace_where_determinism_needs_one(setting, device, found, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    fix_workspace(setting, device)
    assert torch.os.environ.get("CUBLAS_WORKSPACE_CONFIG") == found


def test_a_run_is_deterministic_from_its_first_step_to_its_last(tmp_path, monkeypatch):
    from ebm_lab.training.trainer import Trainer

    plain, seen = Trainer._train_step, []

    def watched(self, step):
        seen.append(torch.get_deterministic_debug_mode())
        plain(self, step)

    monkeypatch.setattr(Trainer, "_train_step", watched)
    for name, setting in (("a", "auto"), ("b", "on"), ("c", "off")):
        run(tmp_path, name, "objective=dsm", "steps=2", f"deterministic={setting}")
    assert seen == [0, 0, 2, 2, 0, 0] and torch.get_deterministic_debug_mode() == 0


def test_auto_compiles_on_no_device_but_those_it_was_measured_on():
    assert should_compile("auto", 10**6, 10**6, False) and not should_compile("auto", 10**6, 10**6, False, 1, "cuda")
    assert should_compile("on", 1, 1, False, 1, "cuda") and not should_compile("off", 10**6, 1, False, 1, "cpu")


def test_the_policy_is_told_the_runs_device(monkeypatch):
    from ebm_lab.runs.parts import build_parts

    asked = []
    monkeypatch.setattr("ebm_lab.runs.assemble.should_compile", lambda *a: asked.append(a[-1]) or False)
    decide_compile(build_parts(compose_config(quick("objective=dsm"))))
    assert asked == ["cpu"]


def test_one_card_for_all_processes_is_refused():
    from ebm_lab.runs.parts import build_parts

    config = compose_config(quick("objective=dsm", "device=cuda:0"))
    with pytest.raises(UserError, match="device=cuda:0: all 2 processes would share that card; give device=cuda, and"):
        build_parts(config, Processes(0, 2))
    with pytest.raises(UserError, match="device=cuda:0: this machine has no such device"):
        build_parts(config)


def test_costs_of_a_device(monkeypatch):
    class Two(Processes):
        def __init__(self):
            super().__init__(0, 2)

        def gather(self, what):
            return [what, {k: v + 1 for k, v in what.items()} if isinstance(what, dict) else what + 5]

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000)
    costs = Counters(seconds=3.0)
    assert device_costs(CUDA, costs, Processes()) == {"device_seconds": 3.0, "device_peak_bytes": 1000}
    assert device_costs(CUDA, costs, Two()) == {"device_seconds": 7.0, "device_peak_bytes": 1005}
    assert device_costs(CPU, costs, Processes()) == {}


def test_bfloat16_still_casts_products_alone():
    linear = nn.Linear(4, 4)
    with cast_to("bfloat16", CPU):
        assert linear(torch.zeros(2, 4)).dtype == torch.bfloat16
    with cast_to("tf32", CPU):
        assert linear(torch.zeros(2, 4)).dtype == torch.float32
