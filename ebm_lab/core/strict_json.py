"""JSON that every parser reads: no NaN and no Infinity, neither written nor passed on from files that hold them."""

import json
import math
from typing import Any


def dumps(content: Any, indent: int | None = None) -> str:
    """`content` as JSON. A number in a mapping that is not finite is left out, and its name is added to the outermost
    mapping's `not_finite`; in a list it becomes null."""
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        lost: list[str] = []
        content = _finite(content, "", lost)
        if isinstance(content, dict):
            content = {**content, "not_finite": sorted({*content.get("not_finite", []), *lost})}
        return json.dumps(content, indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """What JSON text holds, without the numbers in mappings that are not finite: earlier versions wrote such."""
    return json.loads(text, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if not is_lost(v)})


def is_lost(value: Any) -> bool:
    """Is it a number that is not finite?"""
    return isinstance(value, float) and not math.isfinite(value)


def _finite(node: Any, path: str, lost: list[str]) -> Any:
    if isinstance(node, dict):
        lost += [f"{path}{key}" for key, value in node.items() if is_lost(value)]
        return {k: _finite(v, f"{path}{k}.", lost) for k, v in node.items() if not is_lost(v)}
    if isinstance(node, list | tuple):
        return [None if is_lost(value) else _finite(value, path, lost) for value in node]
    return node
