"""Let users choose a nested component as they choose any other.

Hydra's form is `sampler@evaluation_sampler=hmc`. This module translates `evaluation_sampler=hmc` into it, at any place
among the arguments, and translates error lines back into what was typed. It does the same for a list of loggers.
"""

import re
from collections.abc import Callable, Sequence

SLOTS = {
    "evaluation_sampler": "sampler",
    "evaluation_sampler.kernel": "sampler",
    "sampler.kernel": "sampler",
    "evaluation.ais.transition": "sampler",
    "evaluation.smc.transition": "sampler",
    "objective.generative": "objective",
    "objective.net": "law",
    "objective.flow": "law",
}
"""The places where a component is nested in another one, and the group that its options come from."""
DOMAINS = {"mlp": "points", "conv": "images"}
"""Options of the old group `architecture`, and those of `domain` that replace them."""
CHOICE = re.compile(r"\w+(,\w+)*")
PLAYERS = "optim.players."
NO_LOGGER, ONE_LOGGER = "~logger", "+logger@logger."
LABELS = ("dataset.labels", "dataset.labels_per_class")
"""Settings of every data set with classes, which no data set's YAML names."""


def rewritten(overrides: Sequence[str], options: Callable[[str], Sequence[str]]) -> list[str]:
    """Translate overrides into Hydra's form; `options` lists the options of a group."""
    return [made for override in overrides for made in _loggers(override) or [_rewritten(override, options)]]


def _loggers(override: str) -> list[str] | None:
    """Translate a list of loggers: each gets a place of its own, so that the settings of two do not mix."""
    names = listed_loggers(override)
    if names is None:
        return None
    if len(names) < 2:
        return [f"logger={names[0] if names else 'none'}"]
    return [NO_LOGGER, *(f"{ONE_LOGGER}{name}={name}" for name in names)]


def listed_loggers(override: str) -> list[str] | None:
    """Return the names in an override such as `logger=[wandb,csv]`; None for any other override."""
    found = re.fullmatch(r"logger=\[([\w\s,'\"]*)\]", override)
    names = [name.strip(" '\"") for name in found[1].split(",")] if found else []
    return [name for name in names if name] if found else None


def folded(overrides: Sequence[str]) -> list[str]:
    """Translate the overrides of a list of loggers back into the list; leave all others as they are."""
    names = [o.partition("=")[2] for o in overrides if o.startswith(ONE_LOGGER)]
    kept = [o for o in overrides if o != NO_LOGGER and not o.startswith(ONE_LOGGER)]
    return [*kept, f"logger=[{','.join(names)}]"] if names else kept


def _rewritten(override: str, options: Callable[[str], Sequence[str]]) -> str:
    key, equals, value = override.partition("=")
    slot = key.lstrip("+")
    if slot in SLOTS and equals and CHOICE.fullmatch(value) and options(SLOTS[slot]):
        return f"{SLOTS[slot]}@{slot}={value}"
    if key == "architecture" and all(v in DOMAINS for v in value.split(",")):
        return f"domain={','.join(DOMAINS[v] for v in value.split(','))}"
    if (key.startswith(PLAYERS) or key in LABELS) and equals:  # no option's YAML names them
        return f"++{override}"
    return override


def as_written(text: str) -> str:
    """Translate an override or a line of Hydra's back into the form that users write."""
    text = re.sub(rf"\+\+(?={re.escape(PLAYERS)}|({'|'.join(map(re.escape, LABELS))})=)", "", text)
    for slot, group in SLOTS.items():
        text = re.sub(rf"\b{group}@{re.escape(slot)}(?![\w.])", slot, text)
    return text


def place(key: str) -> str:
    """Return the place in the config that a key sets: 'sampler@evaluation_sampler' -> 'evaluation_sampler'."""
    return key.rpartition("@")[2]


def group_of(slot: str) -> str:
    """Return the group whose options can be chosen at `slot`; a group's own place is its name."""
    return SLOTS.get(slot, slot)
