"""Quoting for hints that users paste: values for Hydra's grammar, words for the shell."""

import re
import shlex

PLAIN = re.compile(r"[A-Za-z0-9_.+/-]*/[A-Za-z0-9_.+/-]*")
"""Text that Hydra reads literally. Without a slash it could be a number, a boolean or null."""


def override(key: str, value: object) -> str:
    """Return `key=value` for a Hydra command line, escaped so that Hydra reads back this text, but not quoted for the
    shell."""
    text = str(value)
    if PLAIN.fullmatch(text):
        return f"{key}={text}"
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # a backslash is literal, except before a quote or an interpolation
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f"{key}='{text}'"


def pasteable(command: str, *words: object) -> str:
    """Return `command` unchanged, followed by words quoted so that the shell passes them on unchanged."""
    return " ".join([command, *(shlex.quote(str(word)) for word in words)])
