"""Kind: the process that calls the lab uses Hydra itself, and Hydra holds its state once for a process."""

import subprocess
import sys
import threading

import hydra
import pytest
from hydra import version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf

import ebm_lab
from ebm_lab.cli.compose import compose_config
from tests import commands
from tests.exhaustive import cases

SHORT = [
    "dataset=gaussian", "dataset.train=300", "dataset.held_out=100", "objective=dsm", "objective.sigma=0.1",
    "energy=mlp", "energy.hidden=[8]", "steps=4", "batch_size=32", "evaluation=[]", "logger=none",
]  # fmt: skip


def short(tmp_path):
    return [*SHORT, f"output_dir={tmp_path}"]


@pytest.fixture
def theirs(tmp_path):
    """Hydra initialised by the caller for configs of their own, as in a notebook."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("mine: 1\n")
    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base="1.2"):
        yield GlobalHydra.instance().hydra


@pytest.mark.slow
def test_a_notebook_that_initialized_hydra_trains_and_keeps_its_own(theirs, tmp_path):
    base = version.getbase()
    assert ebm_lab.train(short(tmp_path), quiet=True).status == "finished"
    assert GlobalHydra.instance().hydra is theirs
    assert version.getbase() == base
    assert hydra.compose("train") == {"mine": 1}


def test_a_mistake_is_one_line_and_leaves_the_callers_hydra(theirs, tmp_path):
    for wrong in ("stepz=1", "objective=dms", "steps=[", "dataset.path=x"):
        with pytest.raises(ebm_lab.UserError):
            ebm_lab.train([*short(tmp_path), wrong])
        assert GlobalHydra.instance().hydra is theirs


def test_resolvers_of_the_caller_stay(tmp_path):
    OmegaConf.register_new_resolver("now", lambda pattern: "then", replace=True)
    try:
        compose_config(short(tmp_path))
        assert OmegaConf.create({"a": "${now:%Y}"}).a == "then"
    finally:
        OmegaConf.clear_resolver("now")


def test_a_process_without_hydra_is_left_without():
    before = set(Singleton._instances)
    compose_config(SHORT)
    added = {kind.__name__ for kind in set(Singleton._instances) - before}
    assert not added & {"GlobalHydra", "VersionBase", "HydraConfig", "JobRuntime"}


@pytest.mark.slow
def test_four_threads_compose_and_train_at_once(tmp_path):
    found, failed = {}, []

    def work(i):
        try:
            found[i] = ebm_lab.train([*short(tmp_path), f"seed={i}"], quiet=True)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(run.path.name[-2:] for run in found.values()) == ["s0", "s1", "s2", "s3"]


MAIN = """
import hydra, sys
from hydra import version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
import ebm_lab

@hydra.main(config_path=None, version_base="1.2")
def job(config):
    base, theirs = version.getbase(), GlobalHydra.instance().hydra
    print(ebm_lab.train(OVERRIDES, quiet=True).status)
    print(version.getbase() == base, GlobalHydra.instance().hydra is theirs, HydraConfig.get().job.name)

job()
"""


@pytest.mark.slow
@pytest.mark.parametrize("many", cases([[], ["-m", "+a=1,2"]], [[]], lambda many: "a sweep" if many else "one job"))
def test_a_script_with_its_own_hydra_main_trains(many, tmp_path):
    script = tmp_path / "theirs.py"
    script.write_text(MAIN.replace("OVERRIDES", repr(short(tmp_path))))
    done = commands.run(script, *many, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[")]
    assert lines == ["finished", "True True theirs"] * (2 if many else 1)


PLUGIN = """
import ebm_lab
from pathlib import Path
if not Path("inner").exists():
    Path("inner").mkdir()
    Path("inner/told").write_text(ebm_lab.train(OVERRIDES, quiet=True).status)
"""


@pytest.mark.slow
def test_a_plugin_trains_a_run_of_its_own_within_train_py(tmp_path):
    (tmp_path / "nesting.py").write_text(PLUGIN.replace("OVERRIDES", repr(short("inner"))))
    train = [sys.executable, "-c", "from ebm_lab.cli.main import main; main()"]
    done = subprocess.run(
        [*train, *short(tmp_path / "outer"), "plugins=[nesting]"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "inner" / "told").read_text() == "finished"
