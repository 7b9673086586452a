"""Someone else's run, config or sweep may be looked at: it runs no code, and has nothing written but where it lies."""

import json
import os
import pickle
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.cli.main import main as train_main
from ebm_lab.cli.report import report
from ebm_lab.cli.tools import sample
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import find
from ebm_lab.runs.load import load_run
from ebm_lab.runs.run_directory import RunDir
from tests.integration.test_crash_recovery import command, content  # noqa: F401 (a fixture)
from tests.reports.test_report import CHROMIUM, HOSTILE, browse, make_run
from tests.runs.test_resume import QUICK

ROOT = Path(__file__).resolve().parents[2]


class Payload:
    """Unpickled, it makes the file `canary` in the working directory."""

    def __reduce__(self):
        return (os.system, ("touch canary",))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    return ebm_lab.train(
        [*QUICK, "objective=pcd", "steps=8", "evaluation=[mmd]", "eval_every=4", f"output_dir={root}"], quiet=True
    ).path


@pytest.fixture
def path(trained, tmp_path, monkeypatch):
    """A copy of the run under out/runs, with `work` as the working directory, where a payload leaves its canary."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return shutil.copytree(trained, tmp_path / "out" / "runs" / "run")


def edit(path, change):
    config = yaml.safe_load((path / "config.yaml").read_text())
    change(config)
    (path / "config.yaml").write_text(yaml.safe_dump(config))


def everything(path):
    """What can be done with a run, each refused in one line or done."""
    return {
        "load": lambda: load_run(path),
        "best": lambda: load_run(path, which="best"),
        "evaluate": lambda: evaluate(run=str(path), evaluation="mmd", device="cpu"),
        "sample": lambda: sample(run=str(path), n=4, device="cpu"),
        "resume": lambda: ebm_lab.train([f"resume={path}", "steps=9"], quiet=True),
        "init_from": lambda: ebm_lab.train([*QUICK, "steps=1", "evaluation=[]", f"init_from={path}"], quiet=True),
        "report": lambda: report(outputs=str(path.parent.parent)),
    }


@pytest.mark.parametrize("protocol", ["torch", "pickle", "legacy"])
@pytest.mark.parametrize("action", ["load", "best", "evaluate", "sample", "resume", "init_from"])
def test_a_checkpoint_with_a_payload_is_refused_and_the_payload_does_not_run(action, protocol, path):
    for file in (path / "checkpoints").glob("*.pt"):
        whole = torch.load(file, weights_only=True)
        if protocol == "pickle":
            file.write_bytes(pickle.dumps({"format": 1, "objective": Payload()}, protocol=2))
        else:
            hostile = {**whole, "objective": Payload()}
            torch.save(hostile, file, _use_new_zipfile_serialization=protocol == "torch")
    before = content(path)
    with pytest.raises(UserError, match="not a readable checkpoint .*runs no code") as refused:
        everything(path)[action]()
    assert "posix.system" in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert content(path) == before and not Path("canary").exists()
    with suppress(RuntimeError):
        torch.load(path / "checkpoints" / "last.pt", weights_only=False)
    assert Path("canary").exists(), "the payload works"


TAGS = [
    "seed: !!python/object/apply:os.system ['touch canary']",
    "seed: !!python/object/new:os.system ['touch canary']",
    "? !!python/object/apply:os.system ['touch canary']\n: 0",
    "seed: !!python/name:os.system",
    "seed: !!python/module:antigravity",
]


@pytest.mark.parametrize("tag", TAGS)
def test_python_tags_in_a_config_are_refused_and_do_not_run(tag, path):
    text = (path / "config.yaml").read_text().replace("seed: 0\n", "")
    (path / "config.yaml").write_text(tag + "\n" + text)
    before = content(path)
    for name, action in everything(path).items():
        if name == "report":
            action()
            assert "config.yaml" in (path.parent.parent / "report.html").read_text()
        else:
            with pytest.raises(UserError, match="config.yaml: damaged .could not determine a constructor for the tag"):
                action()
    assert content(path) == before and not Path("canary").exists() and "antigravity" not in sys.modules


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """An importable module `evil_module`; importing or calling it is seen."""
    text = "from pathlib import Path\nPath('canary').touch()\ndef call(*a, **k):\n    Path('canary').touch()\n"
    (tmp_path / "evil_module.py").write_text(text + "class TheLauncher:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "evil_module"
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize("action", ["load", "evaluate", "sample", "init_from", "report"])
def test_looking_at_a_run_imports_none_of_its_plugins(action, path, evil):
    edit(path, lambda c: c.update(plugins=[evil], init_from=None))
    everything(path)[action]()
    assert not Path("canary").exists() and evil not in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["objective"].update(_target_="evil_module.call"),
        lambda c: c["objective"].update(name="evil_module.call"),
        lambda c: c["objective"].update(name="..evil_module"),
        lambda c: c["energy"].update(name="../../evil_module"),
        lambda c: c["evaluation"].update({"evil_module": {"name": "evil_module"}}),
        lambda c: c.update(callbacks={"_target_": "evil_module.call"}),
        lambda c: c.update(hydra={"callbacks": {"x": {"_target_": "evil_module.call"}}}),
        lambda c: c["logger"].update(name="evil_module"),
    ],
)
def test_a_config_names_registered_components_and_no_other_code(spoil, path, evil):
    edit(path, spoil)
    for name, action in everything(path).items():
        if name != "report" and not (name in ("load", "best", "sample", "evaluate", "init_from") and quiet(action)):
            with pytest.raises(UserError):
                action()
    assert not Path("canary").exists() and evil not in sys.modules


def quiet(action):
    """Was it done, for what is wrong with the config is not its business?"""
    try:
        action()
    except UserError:
        return False
    return True


OVERRIDES = [
    "+objective._target_=evil_module.call",
    "objective.name=evil_module.call",
    "+hydra.callbacks.x._target_=evil_module.call",
    "hydra.callbacks={x: {_target_: evil_module.call}}",
    "hydra.launcher._target_=evil_module.TheLauncher",
    "hydra.searchpath=[pkg://evil_module]",
    "hydra.job_logging={version: 1, formatters: {x: {'()': evil_module.call}}}",
]


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_imports_nothing(override, command, evil, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    status, said = command(train_main, override, "steps=1", "dataset=two_moons", "logger=none")
    assert status == 2 and said and all(line.startswith("error: ") for line in said), said
    assert not Path("canary").exists() and evil not in sys.modules and not Path("outputs").exists()


FILES = {
    "objective/x.yaml": "name: dsm\n_target_: evil_module.call\nsigma: auto\nnormalise: true\n",
    "hydra/launcher/x.yaml": "_target_: evil_module.TheLauncher\n",
    "experiment/x.yaml": "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: evil_module.call\n",
    "hydra/job_logging/x.yaml": "version: 1\nformatters:\n  x: {(): evil_module.call}\n",
    "hydra/hydra_logging/x.yaml": "version: 1\nhandlers:\n  x: {class: evil_module.call}\n",
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("flag", ["--config-dir", "--config-dir=", "hydra.searchpath"])
def test_a_directory_of_configs_imports_nothing(flag, file, command, evil, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    configs = tmp_path / "configs"
    (configs / file).parent.mkdir(parents=True)
    (configs / file).write_text(FILES[file])
    where = {"--config-dir": [flag, str(configs)], "--config-dir=": [f"{flag}{configs}"]}.get(
        flag, [f"{flag}=[file://{configs}]"]
    )
    group = file.rpartition("/")[0]
    chosen = f"{group}=x"
    status, said = command(train_main, *where, chosen, "steps=1", "dataset=two_moons", "logger=none")
    assert status == 2 and "x.yaml: refused, for" in said[0] and "names code to run" in said[0], said
    assert not Path("canary").exists() and evil not in sys.modules


def outside(root):
    """All files beside the run's own output directory."""
    return sorted(f for f in root.rglob("*") if f.is_file() and root / "out" not in f.parents)


@pytest.mark.parametrize("place", ["absolute", "above"])
def test_no_path_in_a_run_s_config_leads_out_of_the_directory_it_lies_in(place, path, tmp_path):
    """output_dir, the logger's directory and the data's root name a directory elsewhere: nothing is made there."""
    there = str(tmp_path / "elsewhere") if place == "absolute" else "../elsewhere"
    logger = compose_config(["dataset=two_moons"])["logger"]
    edit(path, lambda c: c.update(output_dir=there, logger={**logger, "directory": there, "mode": "offline"}))
    (path.parent.parent / "report.html").unlink(missing_ok=True)
    for name, action in everything(path).items():
        if name != "init_from":
            action()
    assert outside(tmp_path) == [] and not (tmp_path / "elsewhere").exists()
    assert list((tmp_path / "out" / "wandb").glob("offline-run-*"))
    assert yaml.safe_load((path / "config.yaml").read_text())["output_dir"] == str(tmp_path / "out")


def test_what_evaluations_keep_lies_where_the_run_lies(tmp_path, monkeypatch):
    """The features of a moved run are kept beside it, and not at the place that its config names."""
    monkeypatch.chdir(tmp_path)
    small = ["evaluation.feature_fid.network.steps=2", "evaluation.feature_fid.mixture.components=2"]
    more = ["objective=dsm", "steps=2", "batch_size=8", "max_train=200", "logger=none", "samples=4", "sample_steps=2"]
    energy = ["energy.channels=[4]", "energy.hidden=4"]
    done = ebm_lab.train([*more, *energy, "evaluation=[]", "output_dir=first"], quiet=True)
    moved = shutil.copytree(done.path, tmp_path / "second" / "runs" / "run")
    overrides = {key: int(value) for key, value in (text.split("=") for text in small)}
    evaluate(run=str(moved), evaluation="feature_fid", device="cpu", overrides=overrides)
    assert list((tmp_path / "second" / "features").glob("*.pt")) and not (tmp_path / "first" / "features").exists()


def test_a_run_s_config_downloads_nothing(path, monkeypatch):
    from ebm_lab.datasets import mnist

    asked = []

    def pair(folder, root, download):
        asked.append(download)
        raise UserError("no data")

    monkeypatch.setattr(mnist, "idx_pair", pair)
    data = {"name": "mnist", "root": "elsewhere", "download": True, "val": 5, "seed": 0, "classes": None}
    edit(path, lambda c: c.update(dataset=data))
    for name in ("load", "evaluate", "sample", "resume"):
        with pytest.raises(UserError):
            everything(path)[name]()
    assert asked and not any(asked)


@pytest.mark.parametrize(
    "part", ["images", "checkpoints/last.pt.tmp", "metrics.jsonl", "lock", "evaluation", "samples"]
)
def test_a_link_that_leads_out_of_a_run_is_refused(part, path, tmp_path):
    """Whatever is written through it would land elsewhere."""
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "file").write_text("mine")
    if (path / part).is_dir():
        shutil.rmtree(path / part)
    (path / part).unlink(missing_ok=True)
    (path / part).symlink_to(target if "." not in part and part != "lock" else target / "file")
    for name, action in everything(path).items():
        if name != "report":
            with pytest.raises(UserError, match=f"refused, {part} is a link that leads out of the run directory"):
                action()
    assert [f.name for f in target.iterdir()] == ["file"] and (target / "file").read_text() == "mine"
    (path / part).unlink()
    (path / "inside").symlink_to(path / "config.yaml")
    (path / "loop").symlink_to(path / "loop")
    load_run(path)


@pytest.mark.parametrize("label", ["../../x", "/x", "a/b", "..", "x\0y", "<b>", "a\nb", "$(touch canary)"])
def test_a_run_directory_is_named_by_letters_alone(label, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunDir.create(tmp_path / "out", label)
    assert run.path.parent == tmp_path / "out" / "runs"
    assert set(run.path.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")
    run.release()


@pytest.mark.parametrize("kind", ["dataset", "energy", "objective", "sampler", "evaluation", "logger", "optim"])
@pytest.mark.parametrize("name", ["..", "../x", "/x", "cd.os", "__init__", "", ".", "os.path", "a b"])
def test_a_component_s_name_is_no_path(kind, name):
    with pytest.raises(UserError, match="not an option"):
        find(kind, name)


def hostile_run(root, name):
    """A run that says HTML wherever it can say anything."""
    run = make_run(root, name, HOSTILE)
    config = run.read_config()
    config |= {"note": HOSTILE, HOSTILE: {"x": HOSTILE}, "optim": {"name": "adam", "lr": HOSTILE}, "tags": [HOSTILE]}
    run.write_config(config)
    run.write_summary({"status": HOSTILE, "message": HOSTILE, "command": HOSTILE, HOSTILE: 1.0, "nll_gap": 0.1})
    rows = [{"step": s, "loss": 1.0 / s, HOSTILE: 1.0} for s in (1, 2, 3)]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run.images / f"{HOSTILE.replace('/', '')}_0000001.png").write_bytes(
        (run.images / "samples_0000001.png").read_bytes()
    )
    return run


def test_nothing_that_runs_say_in_any_place_is_html(tmp_path):
    """Names of runs and sweeps, overrides, metrics, settings and their names, messages, commands, pictures."""
    hostile_run(tmp_path, "<img src=x onerror=alert(1)>")
    hostile_run(tmp_path / "sweeps <script>alert(1)<", "b<!--<script>")
    hostile_run(tmp_path, "javascript:alert(1)")
    report(outputs=str(tmp_path), title=HOSTILE)
    html = (tmp_path / "report.html").read_text()
    head, block = html.split('<script id="data" type="application/json">')
    block, _, tail = block.partition("</script>")
    assert "<" not in block and len(json.loads(block)["runs"]) == 3
    for text in (head, tail):
        assert "alert(1)" not in text
    assert '"link":"javascript:' not in block


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_finds_nothing_to_run_in_it(tmp_path):
    hostile_run(tmp_path, "<img src=x onerror=alert(1)>")
    hostile_run(tmp_path, "plain")
    report(outputs=str(tmp_path), title=HOSTILE)
    seen = browse(
        tmp_path / "report.html",
        tmp_path,
        """
        for (const select of document.querySelectorAll("select"))
            for (const option of select.options) {
                select.value = option.value;
                select.dispatchEvent(new Event("change"));
            }
        for (const button of document.querySelectorAll("tbody tr button")) button.click();
        for (const box of document.querySelectorAll("tbody input")) box.click();
        out.handlers = document.querySelectorAll("[onerror]").length;
        out.sources = [...document.images].map(i => i.getAttribute("src").slice(0, 10));
        out.scripts = document.scripts.length; out.title = document.querySelector("h1").textContent;
        """,
    )
    assert seen["handlers"] == 0 and set(seen["sources"]) <= {"data:image", "runs/plain"} and seen["errors"] == ""
    assert seen["title"] == HOSTILE


@pytest.mark.parametrize(
    "text",
    [
        "note: .nan",
        "note: 2026-01-01",
        "note: [.inf, 2026-01-01]",
        "note: 1" + "0" * 400,
        "1: 2",
        "a: &a [*a]",
        "? [1]\n: 2",
    ],
)
def test_odd_values_of_one_run_leave_the_report_to_the_others(text, tmp_path):
    odd, _ = make_run(tmp_path, "odd"), make_run(tmp_path, "plain")
    odd.config_file.write_text(odd.config_file.read_text() + text + "\n")
    odd.summary_file.write_text('{"status": "finished", "nll_gap": NaN, "step": 1' + "0" * 400 + ', "x": Infinity}')
    odd.metrics_file.write_text('{"step": 1, "loss": 1' + "0" * 400 + '}\n{"step": 2, "loss": 0.5}\n')
    report(outputs=str(tmp_path))
    assert '"name":"plain"' in (tmp_path / "report.html").read_text()
