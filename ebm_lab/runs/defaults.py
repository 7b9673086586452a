"""Default settings of an evaluation from `configs/`, for a run whose config does not have it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ebm_lab.core.errors import UserError, one_of

REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,\s*([^}]*))?\}")
"""Matches ${key} and ${oc.select:key,default}, by which a YAML refers to the run's config."""


def config_dir() -> Path:
    """Find `configs/`: inside the package where a wheel was installed, beside it in a clone or an editable install."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "configs", package.parent / "configs"):
        if (path / "train.yaml").is_file():
            return path
    raise UserError(f"configs/train.yaml is neither in {package} nor beside it: the installation is incomplete")


def evaluation_settings(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an evaluation: the run's own if its config has them, else those of
    configs/evaluation/<name>.yaml, with references to the run's config resolved."""
    own = (config.get("evaluation") or {}).get(name)
    if own:
        return dict(own)
    file = config_dir() / "evaluation" / f"{name}.yaml"
    if not file.is_file():
        known = {f.stem for f in file.parent.glob("*.yaml")} | set(config.get("evaluation") or {})
        raise one_of("evaluation", name, sorted(known))
    return _resolved(yaml.safe_load(file.read_text(encoding="utf-8")), config, f"evaluation={name}")


def _resolved(node: Any, config: Mapping[str, Any], who: str) -> Any:
    if isinstance(node, dict):
        return {key: _resolved(value, config, who) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolved(value, config, who) for value in node]
    found = REFERENCE.fullmatch(node) if isinstance(node, str) else None
    if found is None:
        return node
    value: Any = config
    for part in found[1].split("."):
        if not isinstance(value, Mapping) or part not in value:
            if found[2] is None:
                raise UserError(f"{who}: its YAML refers to '{found[1]}', which the run's config lacks")
            return yaml.safe_load(found[2])
        value = value[part]
    return value
