"""JEM: both terms against -log p(x, y), halves of every kind, few labels, and chains that carry labels."""

import math

import pytest
import torch
from torch import nn

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch, Energy
from ebm_lab.datasets._training_labels import FewLabels, number_classes
from ebm_lab.objectives.jem import JEM, label_loss
from ebm_lab.objectives.nce import NCE
from ebm_lab.objectives.pcd import PCD, draw_labels, joint_energy
from ebm_lab.runs.assemble import assemble
from tests.exhaustive import cases, exhaustive
from tests.helpers import Exact, Points

MEANS, STDS, WEIGHTS = torch.tensor([-1.5, 1.0]).double(), torch.tensor([0.7, 0.9]).double(), torch.tensor([0.3, 0.7])


class Bayes(Energy):
    """f_y = log pi_y + log N(x; m_y, s_y), with a parameter that tilts the classes: exact at zero."""

    offers = Energy.offers | {"labels"}

    def __init__(self):
        super().__init__()
        self.tilt = nn.Parameter(torch.zeros(2).double())

    def logits(self, x, sigma=None):
        z = (x - MEANS) / STDS
        return WEIGHTS.double().log() - STDS.log() - 0.5 * z.square() - 0.5 * math.log(2 * math.pi) + self.tilt

    def forward(self, x, y=None):
        logits = self.logits(x)
        return -logits.logsumexp(1) if y is None else -logits.gather(1, y[:, None])[:, 0]


def drawn(n, generator):
    y = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    return MEANS[y, None] + STDS[y, None] * torch.randn(n, 1, dtype=torch.float64, generator=generator), y


def labelled_points(n, generator):
    x, y = drawn(n, generator)
    data = Points(x)
    data.labels = dict.fromkeys(("train", "val", "test"), y)
    return data


def jem(data, half=None, **settings):
    energy = Bayes()
    half = half or NCE(
        energy,
        data,
        torch.Generator().manual_seed(1),
        noise="gaussian",
        components=1,
        widen=1.0,
        noise_ratio=1,
        data_noise=0.0,
        loss="logistic",
    )
    own = {"weight": 1.0, "data_noise": 0.0, **settings}
    return JEM(half.energy, data, torch.Generator().manual_seed(0), 64, generative=half, **own)


def test_cross_entropy_of_the_exact_model_is_the_conditional_entropy(generator):
    """H(y | x) = .1392516 and accuracy .9440397 of the mixture, within 4 standard errors of 200,000 draws."""
    x, y = drawn(200_000, generator)
    values, right = label_loss(Bayes().logits(x).detach(), y)
    assert float(values.mean()) == pytest.approx(0.1392516, abs=4 * float(values.std()) / len(x) ** 0.5)
    assert float(right.double().mean()) == pytest.approx(0.9440397, abs=4 * (0.944 * 0.056 / len(x)) ** 0.5)


def test_the_loss_is_the_sum_of_its_terms(generator):
    data = labelled_points(64, generator)
    batch = Batch(data.train, data.labels["train"])
    both, alone = jem(data, weight=0.7), jem(data).generative
    loss = both(batch)
    half = alone(batch)
    ce = label_loss(Bayes().logits(batch.x), batch.y)[0].mean()
    torch.testing.assert_close(loss.value, ce + 0.7 * half.value)
    torch.testing.assert_close(loss.metrics["cross_entropy"], ce)
    assert loss.grad_evals == half.grad_evals + 64


def test_without_weight_it_is_a_plain_classifier(generator):
    data = labelled_points(64, generator)
    batch = Batch(data.train, data.labels["train"])
    loss = jem(data, weight=0.0)(batch)
    torch.testing.assert_close(loss.value, label_loss(Bayes().logits(batch.x), batch.y)[0].mean())
    assert loss.grad_evals == 64 and set(loss.metrics) == {"loss", "generative_loss", "cross_entropy", "class_accuracy"}


def test_both_gradients_vanish_at_the_truth(generator):
    """The tilt of the class weights: the mean gradient over fresh batches lies within 4 standard errors of zero, and
    that of a model whose weights are off by .2 does not."""
    data = labelled_points(2000, generator)
    for off, at_truth in ((0.0, True), (0.2, False)):
        objective, draws = jem(data), []
        with torch.no_grad():
            objective.energy.tilt[0] = off
            objective.generative.log_z.zero_()
        for _ in range(200):
            x, y = drawn(256, generator)
            objective.zero_grad()
            objective(Batch(x, y)).value.backward()
            draws.append(objective.energy.tilt.grad.clone())
        g = torch.stack(draws)
        within = (g.mean(0).abs() <= 4 * g.std(0) / len(draws) ** 0.5).all()
        assert bool(within) is at_truth


def test_few_labels_reduce_to_all_and_unlabelled_points_enter_by_the_marginal_alone(generator):
    """With every label given the loss is the supervised one; the labels of a batch do not matter if most are hidden."""
    data = labelled_points(64, generator)
    batch, y = Batch(data.train, data.labels["train"]), data.labels["train"]
    full = jem(data)(batch).value
    FewLabels(labels=1.0).hide(data, 0)
    torch.testing.assert_close(jem(data)(batch).value, full)
    FewLabels(labels_per_class=2).hide(data, 0)
    assert int((data.given_labels >= 0).sum()) == 4
    some = [jem(data)(Batch(batch.x, labels)).value for labels in (y, torch.full_like(y, -1))]
    torch.testing.assert_close(*some)
    assert jem(data).notes[-1] == "4 of 64 training points have labels"
    known = data.given_labels >= 0
    every = label_loss(Bayes().logits(data.train[known]).detach(), y[known])[0]
    ce = jem(data)(batch).metrics["cross_entropy"]
    assert float(every.min()) <= float(ce) <= float(every.max())


def test_which_labels_are_shown_follows_from_the_seed_and_only_training_points_lose_theirs(generator):
    data, shown = labelled_points(200, generator), []
    whole = data.labels["test"].clone()
    for seed in (0, 0, 1):
        FewLabels(labels_per_class=5).hide(data, seed)
        shown.append(data.given_labels.clone())
        assert torch.bincount(data.given_labels[data.given_labels >= 0]).tolist() == [5, 5]
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])
    assert torch.equal(data.labels["test"], whole)
    FewLabels(labels=0.25).hide(data, 0)
    assert int((data.given_labels >= 0).sum()) == 50


def test_labels_of_chains_are_drawn_from_the_posterior(generator):
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(100_000, 3)
    share = torch.bincount(draw_labels(logits, generator), minlength=3) / 100_000
    p = logits[0].softmax(0)
    assert ((share - p).abs() <= 4 * (p * (1 - p) / 100_000).sqrt()).all()


def test_joint_energy_is_the_marginal_where_the_label_is_unknown(generator):
    x, y = drawn(6, generator)
    y[::2] = -1
    energy = Bayes()
    expected = torch.where(y < 0, energy(x), energy(x, y.clamp_min(0)))
    torch.testing.assert_close(joint_energy(energy.logits(x), y), expected)


class ExactJoint(Exact):
    """Draws x from p(x | y) for the labels that the energy is bound to."""

    def __init__(self):
        super().__init__(torch.zeros(1).double(), torch.eye(1).double())

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        y = energy.bound["y"]
        chain = super().__call__(energy, x, state, generator=generator)
        z = torch.randn(len(x), 1, dtype=torch.float64, generator=generator)
        return chain._replace(x=MEANS[y, None] + STDS[y, None] * z)


@pytest.mark.parametrize("hidden", [False, True])
def test_conditional_pcd_has_the_gradient_of_the_joint_likelihood(hidden, generator):
    """In the tilt of the class weights it is p_model(y) - p_data(y), exact chains given: with the model's first class
    tilted by .4, within 4 standard errors; unlabelled points change nothing in the mean where p(y | x) is sharp."""
    data = labelled_points(4000, generator)
    if hidden:
        FewLabels(labels=0.5).hide(data, 0)
    energy = Bayes()
    settings = {"buffer_size": 512, "restart": 0.0, "refresh": 0, "data_noise": 0.0, "energy_l2": 0.0}
    objective = PCD(energy, ExactJoint(), data, generator, 256, conditional=True, **settings).double()
    with torch.no_grad():
        energy.tilt[0] = 0.4
    model = (WEIGHTS.double().log() + energy.tilt.detach()).softmax(0)
    draws = []
    for step in range(400):
        x, y = drawn(256, generator)
        if hidden:
            y = torch.where(torch.rand(256, generator=generator) < 0.5, y, -1)
        energy.zero_grad()
        objective(Batch(x, y)).value.backward()
        if step >= 40:  # the chains have forgotten where they began
            draws.append(energy.tilt.grad.clone())
    g = torch.stack(draws)
    error = (g.mean(0) - (model - WEIGHTS.double())).abs()
    blocks = g.view(18, 20, 2).mean(1)  # chains persist, so successive gradients are correlated
    bias = 0.02 if hidden else 0.0  # p(y | x) of the tilted model differs from the data's by at most that here
    assert (error <= 4 * blocks.std(0) / 18**0.5 + bias).all()
    held = objective.chains()
    assert held.y.dtype == torch.int64 and set(held.y.unique().tolist()) == {0, 1}


FEW = ["dataset=mixture", "dataset.train=400", "dataset.held_out=100", "logger=none", "evaluation=[]", "batch_size=32"]


@pytest.mark.parametrize(
    ("choice", "line"),
    [
        (["objective=jem", "dataset=checkerboard"], "needs class labels"),
        (
            ["objective=jem", "energy=mlp"],
            "objective 'jem' needs an energy with class labels, and energy 'mlp' has none",
        ),
        (["objective=jem", "energy=score_mlp"], "objective 'jem' needs an energy with class labels"),
        (["objective=jem", "objective.generative=multi_dsm"], "needs a model of many noise levels"),
        (
            ["objective=pcd", "objective.conditional=true"],
            "objective.conditional=true: needs an energy with class labels",
        ),
        (["objective=jem", "dataset.labels=1.5"], "dataset.labels=1.5: "),
        (["objective=jem", "dataset.labels_per_class=0"], "dataset.labels_per_class=0: "),
        (["objective=jem", "dataset.labels_per_class=999"], "dataset.labels_per_class=999: class "),
        (
            ["objective=jem", "dataset.labels=.5", "dataset.labels_per_class=9"],
            "dataset.labels=0.5: give either this or",
        ),
        (
            ["objective=nce", "dataset=checkerboard", "dataset.labels=.5"],
            "dataset.labels=0.5: the data have no class labels",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(choice, line):
    with pytest.raises(UserError) as error:
        assemble(compose_config([*FEW, *choice]))
    assert line in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "half", cases(["dsm", "ssm", "nce", "cd", "mle", "pcd", "ed", "mpf", "cnce", "fce"], ["dsm", "nce", "pcd"])
)
def test_every_half_trains_and_keeps_its_own_settings(half, tmp_path):
    run = ebm_lab.train(
        [*FEW, "objective=jem", f"objective.generative={half}", "steps=3", f"output_dir={tmp_path}"], quiet=True
    )
    assert run.status == "finished"
    loaded = ebm_lab.load_run(run.path)
    assert loaded.config["objective"]["generative"]["name"] == half
    x = loaded.dataset.test[:7]
    torch.testing.assert_close(loaded.energy(x), -loaded.energy.logits(x).logsumexp(1))


def test_what_a_half_resolves_stands_below_it(tmp_path):
    settings = ["objective=jem", "objective.generative=dsm", "steps=2", f"output_dir={tmp_path}"]
    run = ebm_lab.train([*FEW, *settings], quiet=True)
    config = ebm_lab.load_run(run.path).config["objective"]
    assert isinstance(config["generative"]["sigma"], float) and "sigma" not in config


def test_kept_classes_are_numbered_without_gaps(tmp_path):
    """digits 3 and 7 are classes 0 and 1 of the model, and keep their names."""
    few = ["dataset=digits", "dataset.classes=[3,7]", "objective=jem", "energy.channels=[4,4]", "steps=1"]
    run = ebm_lab.train([*few, "logger=none", "evaluation=[]", f"output_dir={tmp_path}"], quiet=True)
    loaded = ebm_lab.load_run(run.path)
    assert loaded.energy.logits(loaded.dataset.test[:2]).shape == (2, 2)
    assert loaded.dataset.class_names == ["3", "7"] and set(loaded.dataset.labels["train"].tolist()) == {0, 1}
    kept = ebm_lab.load_run(run.path, data="kept")
    assert kept.dataset.class_names == ["3", "7"] and kept.classify(torch.zeros(1, 1, 8, 8)).probabilities.shape == (
        1,
        2,
    )
    again = ebm_lab.train([f"resume={run.path}", "steps=2"], quiet=True)
    assert again.status == "finished"


def test_labels_of_kept_classes_keep_their_numbers_where_no_energy_needs_them(tmp_path):
    few = ["dataset=digits", "dataset.classes=[3,7]", "objective=dsm", "energy.channels=[4,4]", "steps=1"]
    run = ebm_lab.train([*few, "logger=none", "evaluation=[]", f"output_dir={tmp_path}"], quiet=True)
    assert set(ebm_lab.load_run(run.path).dataset.labels["train"].tolist()) == {3, 7}


def test_few_labels_of_kept_classes_are_numbered_too(generator):
    data = labelled_points(60, generator)
    data.labels = {split: torch.where(y == 0, 2, 5) for split, y in data.labels.items()}
    FewLabels(labels_per_class=3).hide(data, 0)
    number_classes(data)
    assert sorted(data.given_labels.unique().tolist()) == [-1, 0, 1] and data.class_names == ["2", "5"]
    assert torch.equal(data.given_labels[data.given_labels >= 0], data.labels["train"][data.given_labels >= 0])


def test_a_loaded_run_classifies_and_draws_the_class_that_is_asked_for(tmp_path):
    """Two modes nine apart: every class and every sample is clear; a name and a number ask for the same class."""
    far = ["dataset=mixture", "dataset.weights=[1,1]", "dataset.means=[[-3,0],[3,0]]", "dataset.std=0.5"]
    few = ["dataset.train=2000", "dataset.held_out=200", "logger=none", "evaluation=[]", "sample_steps=200"]
    settings = ["objective=jem", "objective.generative=nce", "steps=300", "batch_size=128", f"output_dir={tmp_path}"]
    run = ebm_lab.load_run(ebm_lab.train([*far, *few, *settings], quiet=True).path)
    x, y = run.dataset.test, run.dataset.labels["test"]
    found = run.classify(x, raw=False)
    assert torch.equal(found.label, y) and found.names == ["component 0", "component 1"]
    torch.testing.assert_close(found.probabilities, run.energy.logits(x).softmax(1).detach())
    for c in (0, 1):
        drawn = run.sample(40, torch.Generator().manual_seed(0), y=c)
        assert torch.equal(run.classify(drawn).label, torch.full((40,), c))
        assert torch.equal(drawn, run.sample(40, torch.Generator().manual_seed(0), y=f"component {c}"))
    with pytest.raises(UserError, match="y=7: must be a class number from 0 to 1, or one of component 0, component 1"):
        run.sample(3, y=7)


@pytest.mark.parametrize("labels", [[], ["dataset.labels_per_class=15"]], ids=["all", "few"])
def test_a_density_that_is_its_base_does_not_end_the_classifier(labels, tmp_path):
    """Three classes of wines, on a Gaussian base that the density hardly improves on: the classes still are learnt."""
    settings = ["dataset=wine_cultivars", "energy=labelled_mlp", "energy.base=gaussian", "objective=jem", "steps=300"]
    more = ["objective.generative=dsm", "objective.generative.sigma=0.5", "eval_every=100", "checkpoint_every=50"]
    quiet = ["logger=none", "evaluation=[]", f"output_dir={tmp_path}"]
    run = ebm_lab.load_run(ebm_lab.train([*settings, *more, *labels, *quiet], quiet=True).path)
    found = run.classify(run.dataset.test, raw=False).label
    assert float((found == run.dataset.labels["test"]).double().mean()) > 0.85


@exhaustive
def test_of_many_levels_the_classes_are_learnt_at_each(tmp_path):
    """Two modes 4 std apart: p_sigma(y | x) of the mixture is known at every level, and samples of a class keep to it
    along the levels; guidance draws them further from the other class."""
    apart = ["dataset=mixture", "dataset.weights=[1,1]", "dataset.means=[[-1,0],[1,0]]", "dataset.std=0.5"]
    few = ["dataset.train=4000", "dataset.held_out=200", "logger=none", "evaluation=[]", "batch_size=256"]
    half = ["objective=jem", "objective.generative=multi_dsm", "energy=labelled_noise", "sampler=annealed_langevin"]
    done = ebm_lab.train([*apart, *few, *half, "steps=600", f"output_dir={tmp_path}"], quiet=True)
    run = ebm_lab.load_run(done.path)
    x = run.dataset.test
    for sigma in (run.energy.ladder.sigma_min, 0.5, 2.0):
        exact = torch.stack([torch.zeros(len(x)), 2 * x[:, 0] / (0.25 + sigma**2)], 1).log_softmax(1).double()
        with torch.no_grad():
            found = run.energy.logits(x, sigma).log_softmax(1).double()
        assert float((exact.exp() * (exact - found)).sum(1).mean()) < 0.01
    drawn = {w: run.sample(300, torch.Generator().manual_seed(0), y=1, guidance=w)[:, 0] for w in (0.0, 2.0)}
    assert float(drawn[0.0].mean()) == pytest.approx(1.0, abs=0.15) and float(drawn[0.0].std()) < 0.75
    assert float((drawn[2.0] < 0).double().mean()) < 0.01
    found = run.evaluate("conditional", per_class=100).metrics
    assert found["asked_class_share"] == pytest.approx(found["asked_class_share_real"], abs=0.06)
    with pytest.raises(UserError, match="guidance=2: sharpens a class: give y too"):
        run.sample(3, guidance=2.0)
