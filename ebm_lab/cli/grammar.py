"""Let people write a nested component as they write any other choice.

Hydra chooses the component of a nested place by `sampler@evaluation_sampler=hmc`. Here `evaluation_sampler=hmc` becomes
that, in any order with the other arguments, and error lines are turned back into what was typed.
"""

import re
from collections.abc import Callable, Sequence

SLOTS = {
    "evaluation_sampler": "sampler",
    "evaluation_sampler.kernel": "sampler",
    "evaluation.ais.transition": "sampler",
    "objective.generative": "objective",
    "objective.net": "law",
    "objective.flow": "law",
}
"""Where a component stands inside another one, and the group that its options come from."""
DOMAINS = {"mlp": "points", "conv": "images"}
"""What the options of the group `architecture` were called before there was `domain`."""
CHOICE = re.compile(r"\w+(,\w+)*")
PLAYERS = "optim.players."


def rewritten(overrides: Sequence[str], options: Callable[[str], Sequence[str]]) -> list[str]:
    """`overrides` in Hydra's own words; `options`: the options of a group."""
    return [_rewritten(override, options) for override in overrides]


def _rewritten(override: str, options: Callable[[str], Sequence[str]]) -> str:
    key, equals, value = override.partition("=")
    slot = key.lstrip("+")
    if slot in SLOTS and equals and CHOICE.fullmatch(value) and options(SLOTS[slot]):
        return f"{SLOTS[slot]}@{slot}={value}"
    if key == "architecture" and all(v in DOMAINS for v in value.split(",")):
        return f"domain={','.join(DOMAINS[v] for v in value.split(','))}"
    if key.startswith(PLAYERS) and equals:  # the players are the objective's, and no YAML of an optimiser names them
        return f"++{override}"
    return override


def as_written(text: str) -> str:
    """`text`, an override or a line of Hydra's, with the nested places as people write them."""
    text = re.sub(rf"\+\+(?={re.escape(PLAYERS)})", "", text)
    for slot, group in SLOTS.items():
        text = re.sub(rf"\b{group}@{re.escape(slot)}(?![\w.])", slot, text)
    return text


def place(key: str) -> str:
    """Where the config holds what an override's key names: 'sampler@evaluation_sampler' -> 'evaluation_sampler'."""
    return key.rpartition("@")[2]


def group_of(slot: str) -> str:
    """The group whose options can stand at `slot`; a group's own place is its name."""
    return SLOTS.get(slot, slot)
