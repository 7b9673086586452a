"""Modes of weights 0.2 and 0.8, twelve standard deviations apart: many levels learn the weights, one does not."""

import torch

import ebm_lab
from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.functional import evaluate
from ebm_lab.distributions.quadrature import grid_points
from tests.exhaustive import exhaustive

MIXTURE = ["dataset=mixture", "dataset.weights=[0.2,0.8]", "dataset.means=[[-3,0],[3,0]]", "dataset.std=0.5"]


def weight_of_the_lighter(energy):
    """The mass of exp(-E) / Z where x_1 < 0, by quadrature."""
    nodes, _ = grid_points(torch.tensor([-8.0, -5.0]), torch.tensor([8.0, 5.0]), 320)
    with torch.no_grad():
        p = torch.softmax(-evaluate(energy, nodes).double(), 0)
    return float(p[nodes[:, 0] < 0].sum())


@exhaustive
def test_many_levels_learn_the_weights_of_distant_modes_and_one_does_not(tmp_path):
    """Within 0.03, in the density at the lowest level and in 4,000 samples (standard error 0.006; the chains' finite
    number of steps biases them by some 0.02); a single level of 0.1 is off by more than 0.1."""
    common = [
        *MIXTURE,
        "steps=1500",
        "preprocess=none",
        "logger=none",
        "threads=1",
        "evaluation=[]",
        f"output_dir={tmp_path}",
    ]
    run = ebm_lab.load_run(ebm_lab.train([*common, "objective=multi_dsm"], quiet=True).path)
    view = EvalView(run.energy, run.dataset, "test", run.sampler, 4000, 0, torch.Generator().manual_seed(0))
    assert abs(weight_of_the_lighter(run.energy) - 0.2) < 0.03
    assert abs(float((view.samples[:, 0] < 0).double().mean()) - 0.2) < 0.03
    single = ebm_lab.train([*common, "objective=dsm", "objective.sigma=0.1"], quiet=True)
    assert abs(weight_of_the_lighter(single.energy) - 0.2) > 0.1
