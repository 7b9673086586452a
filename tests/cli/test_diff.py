"""The picture of `ebm-lab diff` shows both densities on the same axes, or the samples that the runs have drawn."""

import pytest
import torch

import ebm_lab
from ebm_lab.cli import diff_picture
from ebm_lab.cli.diff import diff
from ebm_lab.core.pictures import save_png
from ebm_lab.distributions.quadrature import grid_points
from ebm_lab.runs.load import load_run
from ebm_lab.runs.run_directory import RunDir

COMMON = ["steps=0", "evaluation=[]", "logger=none", "threads=1", "preprocess=none"]
FEW = ["dataset.train=300", "dataset.held_out=300"]
GAUSSIAN = ["dataset=gaussian", "energy=gaussian", "objective=dsm", *FEW]
CHOICES = {
    "wide": [*GAUSSIAN, "energy.width=2"],
    "narrow": [*GAUSSIAN, "energy.width=1"],
    "line": ["dataset=mixture_1d", "objective=dsm", *FEW],
    "images": ["dataset=digits", "objective=dsm"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {k: ebm_lab.train([*COMMON, *c, f"output_dir={root}"], quiet=True).path for k, c in CHOICES.items()}


def test_densities_of_both_on_the_same_grid(runs, monkeypatch):
    """Each density is that of its own run, by the energy up to a constant, and sums to one on the grid."""
    shown = {}
    monkeypatch.setattr(diff_picture, "_plane", shown.update)
    loaded = {name: load_run(runs[name], evaluation={}) for name in ("wide", "narrow")}
    diff_picture.densities(loaded)
    assert list(shown) == ["wide", "narrow", "true density"]
    nodes = shown["wide"][0]
    assert torch.equal(nodes, shown["narrow"][0])
    _, log_cell = grid_points(nodes.amin(0), nodes.amax(0), diff_picture.CELLS)
    for name, run in loaded.items():
        log_p = shown[name][1]
        e = run.energy(nodes.to(run.dataset.mean)).detach()
        assert float((log_p + e).std()) < 1e-4 and float(torch.logsumexp(log_p, 0) + log_cell) == pytest.approx(0)
    assert shown["wide"][1].max() < shown["narrow"][1].max() - 1


@pytest.mark.parametrize(("a", "b"), [("wide", "narrow"), ("line", "line")])
def test_a_picture_is_written_and_its_place_is_said(a, b, runs, capsys, tmp_path):
    diff(run_a=str(runs[a]), run_b=str(runs[b]), out=str(tmp_path / "here"))
    (file,) = (tmp_path / "here").iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == f"picture: {file}"
    assert file.stat().st_size > 5000


def test_images_are_shown_as_the_runs_drew_them(runs, capsys, tmp_path):
    run = str(runs["images"])
    diff(run_a=run, run_b=run, out=str(tmp_path))
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("no picture: a (dsm) has no density to draw and no picture of samples, which `ebm-lab eval")
    for step, shade in ((1, 0), (2, 200)):
        grey = torch.full((3, 40, 60), shade, dtype=torch.uint8)
        save_png(grey, runs["images"] / "images" / f"samples_{step:07d}.png")
    opened = RunDir.open(run, "run")
    image = diff_picture.picture({"a": opened, "b": opened})
    assert (image == 200).all(0).float().mean() > 0.5, "the last picture of each fills most of it"
    diff(run_a=run, run_b=run, out=str(tmp_path))
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_without_a_picture_nothing_is_written(runs, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    diff(run_a=str(runs["wide"]), run_b=str(runs["narrow"]), picture=False)
    assert not list(tmp_path.iterdir()) and "picture" not in capsys.readouterr().out
