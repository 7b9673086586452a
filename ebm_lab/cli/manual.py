"""`train.py --help`, read off the configs themselves: no option or default is written twice."""

import re

from ebm_lab.cli.compose import GROUPS, config_dir, options

USAGE = """\
NAME
    train.py - train an energy-based model, p(x) = exp(-E(x)) / Z

SYNOPSIS
    python train.py [group=option ...] [key=value ...] [-m] [--config-dir DIR]

GROUPS
{groups}

KEYS
{keys}
    Each component's own keys stand in configs/<group>/<option>.yaml and are set as group.key=value;
    `python train.py objective=dsm --cfg job` prints the whole config that a command composes.

EXAMPLES
    python train.py
        The default: persistent contrastive divergence on real handwritten digits.
    python train.py objective=dsm dataset=two_moons seed=1 optim.lr=1e-3
        Denoising score matching in the plane, with the exact gap to the true likelihood.
    python train.py resume=outputs/runs/<run>
        Continue a run that was stopped or killed. Likewise: init_from=<run> starts anew from its weights.

EXIT STATUS
    0 finished   1 failed   2 a mistake in the settings   3 diverged
    75 ended by SIGTERM, 130 by SIGINT: resume=<run>, or the same command with resume=auto, goes on
"""


def manual() -> str:
    """The whole text."""
    return USAGE.format(groups="\n".join(map(_group, GROUPS)), keys=_keys())


def _group(group: str) -> str:
    lines = [f"    {group}"]
    for option in options(group):
        lines.append(f"        {option:<14} {comment(group, option)}".rstrip())
    return "\n".join(lines) if len(lines) > 1 else f"    {group}\n        (none yet)"


def comment(group: str, option: str) -> str:
    """The first comment of an option's YAML."""
    path = config_dir() / group / f"{option}.yaml"
    comments = re.findall(r"^# (?!@)(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE) if path.exists() else []
    return comments[0] if comments else ""


def _keys() -> str:
    text = (config_dir() / "train.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^(\w+): (\S+) +# (.+)$", text, re.MULTILINE)
    return "\n".join(f"    {name}={default:<{18 - len(name)}} {about}" for name, default, about in found) + "\n"
