"""Describe the type of a setting in words."""

import types
import typing
from typing import Any


def described(hint: Any) -> str:
    """Describe a type in words: the values that a setting takes."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = [m for part in inner[1:] for m in (part, *getattr(part, "metadata", ()))]
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        said = [f"{sign} {getattr(m, name)}" for m in limits for name, sign in signs.items() if hasattr(m, name)]
        return " ".join([described(inner[0]), " and ".join(dict.fromkeys(s for s in said if "None" not in s))]).strip()
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(described, inner))
    if origin is list:
        return f"a list of: {described(inner[0])}"
    if origin is dict or not isinstance(hint, type):
        return ""
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, "")
