"""`ebm-lab list`, `new` and `diff`, and the pages of `--help`: what a user needs without reading the source."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ebm_lab.cli.commands import lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.diff import results, settings
from ebm_lab.cli.pages import page
from ebm_lab.cli.scaffold import CHOICES
from ebm_lab.core.files import dumps
from tests.exhaustive import cases

ROOT = Path(__file__).resolve().parents[2]


def run(monkeypatch, capsys, *words):
    """Run `ebm-lab <words>`; return its exit status, output and errors."""
    monkeypatch.setattr(sys, "argv", ["ebm-lab", *words])
    try:
        lab()
        status = 0
    except SystemExit as ended:
        status = ended.code
    found = capsys.readouterr()
    return status, found.out, found.err


def listed(monkeypatch, capsys, *words):
    status, out, err = run(monkeypatch, capsys, "list", *words)
    assert status == 0, err
    return [line.split()[0].partition("=")[2] for line in out.splitlines()]


def test_list_names_every_option_on_one_line_with_its_summary(monkeypatch, capsys):
    status, whole, _ = run(monkeypatch, capsys, "list", "sampler")
    assert status == 0 and " ..." not in whole and max(map(len, whole.splitlines())) > 120
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    status, out, _ = run(monkeypatch, capsys, "list", "sampler")
    assert status == 0 and max(map(len, out.splitlines())) <= 120
    assert re.search(r"^sampler=hmc +Hamiltonian Monte Carlo", out, re.MULTILINE)
    everything = run(monkeypatch, capsys, "list")[1]
    assert {"objective=pcd", "energy=mlp", "logger=csv", "guard=standard"} <= {
        s.split()[0] for s in everything.splitlines()
    }


def test_list_filters_by_what_a_component_needs_and_offers(monkeypatch, capsys):
    labels = listed(monkeypatch, capsys, "objective", "--needs", "labels")
    assert {"jem", "pcd"} <= set(labels) and "dsm" not in labels and "nce" not in labels
    out = run(monkeypatch, capsys, "list", "objective", "--needs=labels")[1]
    assert re.search(r"^objective=pcd objective\.conditional=true ", out, re.MULTILINE), "the setting that needs them"
    discrete = listed(monkeypatch, capsys, "kind=objective", "needs=discrete")
    assert {"ratio_matching", "score_entropy"} <= set(discrete) and "dsm" not in discrete
    energies = listed(monkeypatch, capsys, "energy", "--offers", "labels")
    assert "labelled_mlp" in energies and "mlp" not in energies


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "enrgy"], r"kind=enrgy: not an option; .*did you mean 'energy'\?"),
        (["list", "--needs", "lables"], r"needs=lables: not an option; .*did you mean 'labels'\?"),
        (["list", "dataset", "--needs", "labels"], r"kind=dataset: none needs 'labels'"),
        (["list", "--needs"], r"--needs: needs a value"),
        (["new", "objctive", "x"], r"kind=objctive: not an option; .*did you mean 'objective'\?"),
        (["new", "objective", "My-X"], r"name=My-X: must be lower-case letters"),
        (["new", "objective", "pcd"], r"name=pcd: the lab has objective=pcd"),
        (["new", "energy", "torch"], r"name=torch: a module of that name can be imported already"),
        (["new", "energy"], r"name: missing"),
        (["diff", "nowhere", "nowhere"], r"run_a=nowhere: no such directory"),
    ],
)
def test_a_mistake_gets_one_line(words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(monkeypatch, capsys, *words)
    assert status == 2 and err.count("\n") == 1 and re.match(f"error: {said}", err), err
    assert not list(tmp_path.iterdir())


def test_new_overwrites_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_mine_here.py").write_text("kept")
    status, _, err = run(monkeypatch, capsys, "new", "energy", "mine_here")
    assert status == 2 and "test_mine_here.py exists already" in err
    assert [f.read_text() for f in tmp_path.iterdir()] == ["kept"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", cases(CHOICES, ["objective"]))
def test_a_new_component_trains_at_once_in_the_users_folder(kind, monkeypatch, capsys, tmp_path):
    status, out, err = run(monkeypatch, capsys, "new", kind, "my_first", f"folder={tmp_path}")
    assert status == 0 and f"cd {tmp_path} && python -m pytest test_my_first.py" in out, err
    assert "NAME" not in "".join(f.read_text() for f in tmp_path.rglob("*.*") if f.is_file())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "test_my_first.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def written(path, summary, *overrides):
    path.mkdir(parents=True)
    config = compose_config(["dataset=two_moons", *overrides])
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "summary.json").write_text(dumps({"status": "finished", **summary}))
    return path


def test_diff_shows_the_settings_that_differ_and_metrics_with_errors(monkeypatch, capsys, tmp_path):
    a = written(tmp_path / "a", {"nll": 2.0, "nll_gap": 0.5, "nll_gap_se": 0.03, "step": 10}, "objective=dsm")
    b = written(
        tmp_path / "b", {"nll": 1.5, "nll_gap": 0.1, "nll_gap_se": 0.04}, "objective=dsm", "optim.lr=0.5", "logger=none"
    )
    status, out, err = run(monkeypatch, capsys, "diff", str(a), str(b))
    assert status == 0, err
    found = [[c.strip() for c in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert next(row for row in found if row[0] == "optim.lr")[2] == "0.5"
    assert [row for row in found if row[0].startswith("logger")] == [], "what logs a run does not change it"
    assert ["nll_gap", "0.5 ± 0.03", "0.1 ± 0.04", "-0.4 ± 0.05"] in found, "0.05^2 = 0.03^2 + 0.04^2"
    assert ["nll", "2", "1.5", "-0.5"] in found and ["step", "10", "-", ""] in found


def test_diff_pairs_settings_and_metrics_that_one_run_lacks():
    assert settings({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}, "d": None}) == [("a.c", "2", "-"), ("d", "-", "None")]
    (row,) = results({"nll": 1.0, "nll_se": 0.1}, {})
    assert row.name == "nll" and row.b is None and row.change == ""


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("pcd", ["grad L = E_data[ grad_theta E(x) ]", "number >= 0 and <= 1", "a sampler, whose chains", "RECIPE"]),
        ("ratio_matching", ["REFERENCE\n    Aapo Hyv", "dataset (discrete): its samples take countably many values."]),
        ("dsm", ["L = 1/2 E_x E_eps", "REFERENCE\n    Pascal Vincent", "\n    Yang Song and Diederik P. Kingma"]),
    ],
)
def test_the_page_of_an_objective_has_its_equation_ranges_needs_and_reference(option, shown):
    text = page("objective", option)
    assert all(s in text for s in shown), text
    assert "The base class of all components" not in text
