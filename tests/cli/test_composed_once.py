"""Configs are composed once in a process, and again after a change of the files or of Hydra's store."""

import os
import shutil

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from ebm_lab.cli import own_hydra
from ebm_lab.cli.own_hydra import compose_apart
from ebm_lab.runs.defaults import config_dir
from tests.quick_compose import compose_quickly

NUMBERS = ["steps=7", "optim.lr=0.01", "output_dir=/tmp/a b"]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(own_hydra, "_composed", {})


@pytest.fixture
def composes(monkeypatch):
    """The overrides that Hydra has composed."""
    done, compose = [], own_hydra.compose

    def counted(name, overrides, **more):
        done.append(overrides)
        return compose(name, overrides, **more)

    monkeypatch.setattr(own_hydra, "compose", counted)
    return done


def test_equal_overrides_are_composed_once_and_each_caller_has_a_config_of_its_own(composes, tmp_path, monkeypatch):
    first = compose_apart(config_dir(), "train", NUMBERS)
    whole = OmegaConf.to_container(first, resolve=False)
    first.steps = 8
    monkeypatch.chdir(tmp_path)
    second = compose_apart(config_dir(), "train", NUMBERS)
    assert len(composes) == 1 and second.hydra.runtime.cwd == os.getcwd()
    second.hydra.runtime.cwd = whole["hydra"]["runtime"]["cwd"]
    assert OmegaConf.to_container(second, resolve=False) == whole
    assert compose_apart(config_dir(), "train", ["steps=9"]).steps == 9 and len(composes) == 2


def test_a_changed_file_a_recipe_and_an_entry_of_the_store_are_read(composes, tmp_path):
    own = tmp_path / "configs"
    shutil.copytree(config_dir(), own)
    assert compose_apart(own, "train", ["dataset=digits"]).steps != 12345
    file = own / "train.yaml"
    text = file.read_text()
    steps = next(line for line in text.splitlines() if line.startswith("steps:"))
    file.write_text(text.replace(steps, "steps: 12345"))
    assert compose_apart(own, "train", ["dataset=digits"]).steps == 12345 and len(composes) == 2
    found = [compose_apart(own, "train", ["recipe=assembled"], {"batch_size": n}).batch_size for n in (7, 9, 7)]
    assert found == [7, 9, 7] and len(composes) == 4
    store = ConfigStore.instance()
    try:
        for n in (3, 5):
            store.store(group="dataset", name="of_the_store", node={"name": "digits", "n": n})
            assert compose_apart(own, "train", ["dataset=of_the_store"]).dataset.n == n
    finally:
        store.repo["dataset"].pop("of_the_store.yaml")


def test_what_depends_on_other_directories_or_the_environment_is_not_kept(composes, tmp_path, monkeypatch):
    (tmp_path / "dataset").mkdir()
    file = tmp_path / "dataset" / "mine.yaml"
    overrides = ["dataset=mine", f"hydra.searchpath=[file://{tmp_path}]"]
    for n in (1, 2):
        file.write_text(f"{{name: digits, n: {n}}}")
        assert compose_apart(config_dir(), "train", overrides).dataset.n == n
    for value in ("a", "b"):
        monkeypatch.setenv("OF_THIS_TEST", value)
        config = compose_apart(config_dir(), "train", ["hydra.job.env_copy=[OF_THIS_TEST]"])
        assert value == config.hydra.job.env_set.OF_THIS_TEST


def test_few_configs_are_kept(composes, monkeypatch):
    monkeypatch.setattr(own_hydra, "KEPT", 2)
    for n in (1, 2, 1, 3, 1, 2):
        compose_apart(config_dir(), "train", [f"steps={n}"])
    assert [o[0] for o in composes] == ["steps=1", "steps=2", "steps=3", "steps=2"], "the one used last stays longest"


@pytest.mark.parametrize(
    "overrides",
    [
        NUMBERS,
        ["objective=dsm", "dataset=two_moons", "steps=3", "objective.sigma=0.5", "dataset.train=50"],
        ["evaluation=[samples,mmd]", "evaluation.mmd.points=30", "+optim.players.energy.lr=1e-3"],
        ["energy.hidden=[8,8]", "dataset=two_moons", "logger=none", "++objective.restart=0.5", "seed=3"],
    ],
    ids=" ".join,
)
def test_the_quick_way_of_the_tests_is_hydras(overrides, composes):
    recipe = {"batch_size": 7, "steps": 11}
    for more in ({}, {"recipe": recipe}):
        given = [*overrides, *(["recipe=assembled"] if more else [])]
        quick = compose_quickly(config_dir(), "train", given, **more)
        assert given not in composes
        whole = compose_apart(config_dir(), "train", given, **more)
        for config in (quick, whole):
            config.hydra.overrides.task = sorted(config.hydra.overrides.task)
        assert OmegaConf.to_yaml(quick) == OmegaConf.to_yaml(whole)
