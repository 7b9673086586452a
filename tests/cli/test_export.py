"""An exported energy equals the run's own, without the code of the lab where the file is a program."""

import json
import sys

import pytest
import torch

import ebm_lab
from ebm_lab.cli.commands import lab
from ebm_lab.cli.export import export
from ebm_lab.core.errors import UserError

COMMON = ["objective=dsm", "evaluation=[]", "logger=none", "threads=1", "checkpoint_every=100"]
CHOICES = {
    "mlp": ["dataset=two_moons", "dataset.train=300", "dataset.held_out=100", "steps=2"],
    "conv": ["dataset=digits", "steps=1", "batch_size=8"],
    "score_mlp": ["dataset=two_moons", "objective=multi_dsm", "energy=score_mlp", "steps=0", "dataset.train=300"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    made = {}

    def run(name):
        if name not in made:
            settings = [*COMMON, *CHOICES[name], f"output_dir={root}"]
            made[name] = ebm_lab.load_run(ebm_lab.train(settings, quiet=True).path)
        return made[name]

    return run


def close(found, run, x):
    e = run.energy(x).detach()
    assert ((found - e).abs() <= 1e-6 * e.abs().clamp_min(1)).all() and e.std() > 1e-3


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_a_program_of_torch_has_the_energy_and_its_score(runs, name, tmp_path):
    run = runs(name)
    export(run=str(run.path), to="torch_export", out=str(tmp_path))
    program = torch.export.load(tmp_path / "energy.pt2").module()
    x = run.dataset.test[:20].clone().requires_grad_(True)
    e = program(x)
    close(e.detach(), run, x.detach())
    (grad,) = torch.autograd.grad(e.sum(), x)
    torch.testing.assert_close(-grad, run.score(x.detach(), raw=False), rtol=1e-5, atol=1e-5)
    assert len(program(run.dataset.test[:1])) == 1, "any number of points"


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_weights_by_name(runs, name, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    run = runs(name)
    export(run=str(run.path), out=str(tmp_path))
    other = ebm_lab.load_run(run.path)
    with torch.no_grad():
        for p in other.energy.parameters():
            p.zero_()
    other.energy.load_state_dict(safetensors.load_file(tmp_path / "energy.safetensors"))
    x = run.dataset.test[:20]
    close(other.energy(x).detach(), run, x)
    beside = json.loads((tmp_path / "config.json").read_text())
    assert beside["config"]["energy"]["name"] == name and beside["shape"] == list(x.shape[1:])


@pytest.mark.slow
def test_a_program_of_onnx_has_the_energy(runs, tmp_path):
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    run = runs("mlp")
    export(run=str(run.path), to="onnx", out=str(tmp_path))
    program = ReferenceEvaluator(str(tmp_path / "energy.onnx"))
    x = run.dataset.test[:20]
    (e,) = program.run(None, {program.input_names[0]: x.numpy()})
    close(torch.from_numpy(e), run, x)


def test_the_map_from_raw_data_travels(runs, tmp_path):
    run = runs("conv")
    export(run=str(run.path), to="torch_export", out=str(tmp_path))
    (part,) = json.loads((tmp_path / "config.json").read_text())["map"]
    raw = run.dataset.transform.inverse(run.dataset.test[:5])
    x = (raw - torch.tensor(part["shift"])) / torch.tensor(part["scale"])
    torch.testing.assert_close(x, run.dataset.test[:5])


def test_what_has_no_energy_is_refused_in_one_line(runs, tmp_path):
    path = str(runs("score_mlp").path)
    with pytest.raises(UserError, match=r"^to=torch_export: .* has a score network, which has no energy; .*$"):
        export(run=path, to="torch_export", out=str(tmp_path))


def test_what_can_not_be_traced_is_refused_in_one_line(runs, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("a branch on a value\nand more")

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(UserError) as refused:
        export(run=str(runs("mlp").path), to="torch_export", out=str(tmp_path))
    line = "to=torch_export: energy=mlp can't be exported (a branch on a value); to=safetensors takes its weights"
    assert str(refused.value) == line and not list(tmp_path.iterdir())


def test_a_format_that_does_not_exist(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ebm-lab", "export", "run=x", "to=torchscript"])
    with pytest.raises(SystemExit) as end:
        lab()
    assert end.value.code == 2 and "to=torchscript" in capsys.readouterr().err
