"""Let users choose a nested component as they choose any other.

Hydra's form is `sampler@evaluation_sampler=hmc`. This module translates `evaluation_sampler=hmc` into it, at any place
among the arguments, and translates error lines back into what was typed.
"""

import re
from collections.abc import Callable, Sequence

SLOTS = {
    "evaluation_sampler": "sampler",
    "evaluation_sampler.kernel": "sampler",
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
LABELS = ("dataset.labels", "dataset.labels_per_class")
"""Settings of every data set with classes, which no data set's YAML names."""


def rewritten(overrides: Sequence[str], options: Callable[[str], Sequence[str]]) -> list[str]:
    """Translate overrides into Hydra's form; `options` lists the options of a group."""
    return [_rewritten(override, options) for override in overrides]


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
