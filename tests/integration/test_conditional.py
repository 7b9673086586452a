"""Chains with labels, whose conditional laws PCD learns; a sampler of evaluations with a kernel of its own."""

import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.runs.assemble import assemble
from ebm_lab.runs.train import train
from ebm_lab.samplers.hmc import HMC
from tests.integration import methods, test_discrete  # noqa: F401 (registers)
from tests.runs.test_resume import lines, same, state, stop_at

OWN = {
    "dataset": {"name": "test_two_classes", "n": 4000},
    "energy": {"name": "test_two_gaussians"},
    "objective": {"name": "test_labelled_pcd", "buffer_size": 1024},
}
BASE = ["dataset=gaussian", "energy=gaussian", "objective=pcd", "recipe=none", "batch_size=256", "evaluation=[]"]
BASE += ["sampler=mala", "sampler.steps=4", "sampler.step_size=0.5", "logger=none", "samples=20", "sample_steps=8"]


def config(tmp_path, *settings, **changes):
    return {**compose_config([*BASE, f"output_dir={tmp_path}", *settings]), **OWN, **changes}


def test_the_laws_given_the_label_are_learnt(tmp_path):
    """p(x | y) is N(m_y, S_y), and so are the chains of label y: means and covariances within 4 standard errors, those
    of the maximum likelihood estimate from the label's training points; the chains' own come on top."""
    result = train(config(tmp_path, "steps=800", "optim.lr=0.02", "ema=0.99", "eval_every=1000"), quiet=True)
    data, energy, objective = result.dataset, result.energy, ebm_lab.load_run(result.path).objective
    x, y = objective.chains()
    for label in range(2):
        n, chains, mean, cov = 4000 / 2, x[y == label], data.means[label], data.covariances[label]
        lower = energy.factor[label].detach().tril()
        var = cov.diag().outer(cov.diag())
        for found_mean, found_cov, points in (
            (energy.m[label].detach(), torch.linalg.inv(lower @ lower.T), n),
            (chains.mean(0), chains.T.cov(), 1 / (1 / n + 1 / len(chains))),
        ):
            assert ((found_mean - mean).abs() < 4 * (cov.diag() / points).sqrt()).all()
            assert ((found_cov - cov).abs() < 4 * ((var + cov**2) / points).sqrt()).all()


def test_chains_keep_their_labels_from_step_to_step_and_into_the_view(tmp_path):
    trainer, _ = assemble(config(tmp_path))
    objective = trainer.state.objective
    labels = objective.labels.clone()
    for step in range(1, 6):
        trainer._train_step(step)
        (batch,) = trainer.batches(step)
        slots = objective.slots(batch.y)
        assert torch.equal(objective.labels[slots], batch.y) and len(slots.unique()) == len(slots)
    view = trainer.evaluations.view("val", 5)
    assert view.chains is objective.buffer.x and torch.equal(view.chain_labels, labels)
    assert int((objective.buffer.age > 0).sum()) > 256


def stopped_and_resumed_equals_straight(made, tmp_path, monkeypatch):
    """The run directories of 20 steps, and of 9 and then up to 20, hold the same bits; returns the two."""
    straight = train(made("a"), quiet=True)
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        stopped = train(made("b"), quiet=True)
    assert stopped.status == "interrupted" and stopped.summary["step"] == 9
    resumed = ebm_lab.train([f"resume={stopped.path}"], quiet=True)
    same(state(straight.path), state(resumed.path))
    assert lines(straight.path) == lines(resumed.path)
    return straight, resumed


SHORT = ["steps=20", "log_every=3", "checkpoint_every=4", "eval_every=1000"]


def test_stop_at_9_resume_to_20_equals_20_straight(tmp_path, monkeypatch):
    straight, _ = stopped_and_resumed_equals_straight(
        lambda name: config(tmp_path / name, *SHORT), tmp_path, monkeypatch
    )
    content = state(straight.path)["objective"]
    assert torch.equal(content["labels"], torch.arange(1024) % 2)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"energy": None}, "needs an energy with class labels, and energy 'gaussian' has none"),
        ({"dataset": None}, "test_two_gaussians: needs class labels, and the data has none"),
    ],
)
def test_what_has_no_labels_is_told(changes, words, tmp_path):
    plain = compose_config(BASE)
    with pytest.raises(UserError, match=words):
        assemble(config(tmp_path, **{key: plain[key] for key in changes}))


def test_tempering_tells_that_labels_change_from_call_to_call(tmp_path):
    trainer, _ = assemble(config(tmp_path, "sampler=tempering", "sampler.steps=2"))
    trainer._train_step(1)
    with pytest.raises(UserError, match="its hot replicas keep to the labels"):
        trainer._train_step(2)


# --- a sampler of evaluations with a kernel of its own ------------------------------------------------------------

YAML = """
defaults:
  - /sampler@kernel: mala
  - _self_
name: test_cycle
rounds: 3
"""


@pytest.fixture
def nested(tmp_path):
    """Composes a config whose evaluations draw by a sampler within a sampler, its YAML among one's own."""
    (tmp_path / "own" / "sampler").mkdir(parents=True)
    (tmp_path / "own" / "sampler" / "test_cycle.yaml").write_text(YAML)

    def compose(*settings):
        return compose_config([*BASE, "evaluation_sampler=test_cycle", *settings], tmp_path / "own")

    return compose


def test_a_nested_kernel_of_evaluations_is_chosen_by_its_place_and_draws(nested):
    made = nested("evaluation_sampler.kernel=hmc", "evaluation_sampler.kernel.leapfrog=4", "objective.buffer_size=256")
    assert made["evaluation_sampler"]["kernel"]["leapfrog"] == 4 and made["sampler"]["name"] == "mala"
    trainer, _ = assemble(made)
    own = trainer.evaluations.sampler
    assert isinstance(own, methods.Cycle) and isinstance(own.kernel, HMC)
    view = trainer.evaluations.view("val", 0)
    assert [step for step, _ in view.trajectory] == [0, 6, 12] and "acceptance" in view.chain_metrics


@pytest.mark.parametrize(
    "settings, words",
    [
        (["evaluation_sampler.kernel=annealed_langevin"], "the rounds are to keep the model's law"),
        (["evaluation_sampler.kernel=nothing"], "evaluation_sampler.kernel=nothing: no such option"),
        (["evaluation_sampler.kernel.leapfrog=3"], "evaluation_sampler.kernel.leapfrog"),
        (["evaluation_sampler.kernel.step_size=-1"], "evaluation_sampler.kernel.step_size=-1"),
    ],
)
def test_a_nested_kernel_that_does_not_fit_is_told_before_training(settings, words, nested):
    with pytest.raises(UserError, match=words):
        assemble(nested(*settings))


def test_what_a_nested_kernel_needs_is_asked_of_the_run(nested):
    made = nested()
    made["evaluation_sampler"]["kernel"] = {"name": "test_block_gibbs", "steps": 1}
    with pytest.raises(
        UserError, match=r"evaluation_sampler.kernel 'test_block_gibbs' draws each coordinate given the"
    ):
        assemble(made)


def test_a_run_with_a_nested_kernel_resumes(nested, tmp_path, monkeypatch):
    settings = [*SHORT, "evaluation=[mmd,samples]", "objective.buffer_size=256"]
    straight, resumed = stopped_and_resumed_equals_straight(
        lambda name: nested(*settings, f"output_dir={tmp_path / name}"), tmp_path, monkeypatch
    )
    assert straight.summary["mmd2"] == resumed.summary["mmd2"]
    loaded = ebm_lab.load_run(resumed.path)
    assert loaded.sampler.rounds == 3 and torch.isfinite(loaded.sample(5)).all()
