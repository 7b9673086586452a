"""The registry and its checks: every mistake is one line that names the key, the value and what is allowed."""

import pytest
import yaml

from ebm_lab.cli.compose import config_dir
from ebm_lab.core import registry
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build, names
from ebm_lab.core.settings import settings_of

LANGEVIN = {"name": "langevin", "steps": 10, "step_size": 0.1, "noise_scale": 1.0, "clip_grad": None}


@pytest.mark.parametrize(
    "change, line",
    [
        ({"step_size": -0.1}, "sampler.step_size=-0.1: should be greater than 0"),
        ({"steps": 0}, "sampler.steps=0: should be greater than 0"),
        ({"steps": 2.5}, "sampler.steps=2.5: should be a valid integer"),
        ({"steps": True}, "sampler.steps=True: should be a valid integer"),
        ({"step_size": "abc"}, "sampler.step_size=abc: should be a valid number"),
        ({"step_size": float("nan")}, "sampler.step_size=nan: should be"),
        ({"step_size": float("inf")}, "sampler.step_size=inf: should be a finite number"),
        ({"clip_grad": 0}, "sampler.clip_grad=0: should be greater than 0"),
        ({"step_sise": 1}, "sampler.step_sise=1: unknown key; allowed: .*; did you mean 'step_size'\\?"),
        ({"name": "langevine"}, "sampler=langevine: not an option; allowed: .*langevin.*; did you mean 'langevin'\\?"),
        ({"name": None}, "sampler.name=None: must be the name of a registered sampler"),
    ],
)
def test_a_mistake_is_one_clear_line(change, line):
    with pytest.raises(UserError, match=line) as caught:
        build("sampler", {**LANGEVIN, **change}, scale=1.0)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_key_is_named():
    with pytest.raises(UserError, match="sampler.steps: missing"):
        build("sampler", {k: v for k, v in LANGEVIN.items() if k != "steps"}, scale=1.0)


def test_wiring_that_is_absent_is_named():
    dsm = {
        "name": "pcd",
        "buffer_size": 8,
        "restart": 0.0,
        "refresh": 0,
        "data_noise": 0.0,
        "energy_l2": 0.0,
        "conditional": False,
    }
    with pytest.raises(UserError, match="objective 'pcd' needs a sampler, and the config has none: choose one"):
        build("objective", dsm, energy=1, sampler=None, dataset=1, generator=1, batch_size=1)


def test_a_name_is_not_given_twice():
    with pytest.raises(UserError, match="sampler 'langevin' is registered twice"):
        registry.register("sampler", "langevin")(dict)


@pytest.mark.parametrize("kind", registry.PACKAGES)
def test_every_component_has_its_yaml_with_every_setting(kind):
    """Module stem = YAML stem = registered name, and a YAML holds exactly the settings of the signature."""
    ours = {n: c for n, c in names(kind).items() if c.__module__.startswith("ebm_lab.")}
    for name, component in ours.items():
        path = config_dir() / kind / f"{name}.yaml"
        values = yaml.safe_load(path.read_text())
        chosen = [next(iter(d)) for d in values.pop("defaults", None) or [] if isinstance(d, dict)]
        values |= {
            key.rpartition("@")[2]: "an option" for key in chosen if "@" in key and not key.startswith("override")
        }
        assert values.pop("name") == name
        assert set(values) == set(settings_of(component)), path
        assert all(p.default is p.empty for p in settings_of(component).values()), "a default is written in its YAML"
        if kind != "optim":
            assert component.__module__.rpartition(".")[2] == name


@pytest.mark.parametrize("kind", registry.PACKAGES)
def test_every_yaml_names_a_component(kind):
    for path in (config_dir() / kind).glob("*.yaml"):
        if (path.parent / path.stem).is_dir():
            continue  # a preset that chooses by domain: its directory names the components
        values = yaml.safe_load(path.read_text())
        preset_of = [d for d in values.get("defaults", []) if isinstance(d, str)]
        name = values.get("name", preset_of[0] if preset_of else None)
        assert name in names(kind) or (kind, name) in (("sampler", "none"), ("sampler", "same")), path
