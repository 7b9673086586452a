"""bfloat16, channels_last and accumulation: right to rounding where they are served, refused where they are not."""

import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.runs.assemble import assemble
from scripts.benchmark.rounding import gradient, relative
from tests.exhaustive import cases
from tests.runs.test_resume import OBJECTIVES, QUICK, lines, run, same, state, stop_at

COMPARE = ("fdssm", "nce", "cnce", "mpf", "ed", "ksd", "min_velocity", "tre", "unbiased_cd", "fce", "vera", "coopnets")
CHAINS = ("mle", "cd", "pcd", "mle_short", "f_ebm", "drl", "cdrl", "energy_matching", "jem")
IMAGES = ["dataset=digits", "energy.channels=[8,16]", "energy.hidden=16", "batch_size=64", "logger=none"]
IMAGES += ["evaluation=[]", "objective=pcd", "objective.buffer_size=128", "sampler.steps=5"]


@pytest.mark.parametrize("objective", cases([o for o in OBJECTIVES if o not in COMPARE], ["dsm", "pcd", "sm"]))
def test_a_bfloat16_gradient_is_that_of_float32_to_its_eight_bits(objective):
    """2^-9 is the rounding of one number; a gradient of a few layers, twice differentiated, has some ten of them."""
    sampler = ["sampler=langevin"] if objective in CHAINS else []
    trainer, _ = assemble(compose_config([*QUICK, f"objective={objective}", *sampler, "precision=bfloat16"]))
    for step in range(1, 31):
        trainer._train_step(step)
    batch = trainer.batches(31)
    low, full = (gradient(trainer, batch, p) for p in ("bfloat16", "float32"))
    assert 1e-6 < relative(low, full) < 0.05
    assert all(p.dtype == torch.float32 for p in trainer.state.objective.parameters())


@pytest.mark.parametrize("objective", COMPARE)
def test_bfloat16_is_refused_where_energies_are_compared(objective):
    with pytest.raises(UserError, match=f"precision=bfloat16: objective '{objective}' .*rounds the differences away"):
        assemble(compose_config([*QUICK, f"objective={objective}", "precision=bfloat16"]))


def test_bfloat16_is_refused_for_samplers_that_accept_and_refuse():
    with pytest.raises(UserError, match="sampler 'mala' accepts or rejects.*choose precision=float32"):
        assemble(compose_config([*QUICK, "objective=pcd", "sampler=mala", "precision=bfloat16"]))
    assemble(compose_config([*QUICK, "objective=dsm", "sampler=mala", "precision=bfloat16"]))  # samples are float32


def test_channels_last_is_another_layout_and_the_same_gradient():
    """The order of sums differs, five steps of chains among them."""
    plain, other = (assemble(compose_config([*IMAGES, f"channels_last={flag}"]))[0] for flag in ("false", "true"))
    filters = [p for p in other.state.objective.energy.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert filters and all(p.is_contiguous(memory_format=torch.channels_last) for p in filters)
    found = [gradient(t, t.batches(1), "float32") for t in (other, plain)]
    assert relative(*found) < 1e-4


def test_channels_last_without_convolutions_is_refused():
    with pytest.raises(UserError, match="channels_last=true: .* energy 'mlp' has none"):
        assemble(compose_config([*QUICK, "channels_last=true"]))


@pytest.mark.slow
@pytest.mark.parametrize("choice", [["accumulate=4"], ["precision=bfloat16"]], ids=" ".join)
def test_resumed_under_each_setting_has_the_bits_of_an_unbroken_run(choice, tmp_path, monkeypatch):
    straight = run(tmp_path, "a", "objective=dsm", *choice, "steps=20")
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        stopped = run(tmp_path, "b", "objective=dsm", *choice, "steps=20")
    ebm_lab.train([f"resume={stopped.path}"], quiet=True)
    same(state(straight.path), state(stopped.path))
    assert lines(straight.path) == lines(stopped.path)


def test_resumed_with_channels_last_has_the_bits_of_an_unbroken_run(tmp_path, monkeypatch):
    command = [*IMAGES, "channels_last=true", "steps=6", "checkpoint_every=2"]
    straight = ebm_lab.train([*command, f"output_dir={tmp_path / 'a'}"], quiet=True)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        stopped = ebm_lab.train([*command, f"output_dir={tmp_path / 'b'}"], quiet=True)
    ebm_lab.train([f"resume={stopped.path}"], quiet=True)
    same(state(straight.path), state(stopped.path))


def test_passes_over_parts_add_up_to_the_gradient_of_the_whole():
    """Exact score matching draws nothing: the same batch in four passes is the same sum."""
    found = []
    for n in (1, 4):
        trainer, _ = assemble(compose_config([*QUICK, "objective=sm", "objective.data_noise=0", f"accumulate={n}"]))
        metrics, evals = trainer.gradients(trainer.batches(1))
        flat = torch.cat([p.grad.flatten() for p in trainer.state.objective.parameters() if p.grad is not None])
        found.append((flat, float(metrics["loss"]), evals))
    assert relative(found[1][0], found[0][0]) < 1e-5
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5) and found[1][2] == found[0][2]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="batch_size=64: must be a multiple of accumulate=3"):
        assemble(compose_config([*QUICK, "accumulate=3"]))
