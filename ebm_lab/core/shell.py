"""Hints that can be pasted: values quoted for Hydra's grammar and words for the shell."""

import re
import shlex

PLAIN = re.compile(r"[A-Za-z0-9_.+/-]*/[A-Za-z0-9_.+/-]*")
"""What Hydra takes as the text that it is; without a slash it could be a number, a truth value or null."""


def override(key: str, value: object) -> str:
    """`key=value` for a Hydra command line that reads back as this very text, not yet quoted for the shell."""
    text = str(value)
    if PLAIN.fullmatch(text):
        return f"{key}={text}"
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # a backslash is itself, but before a quote or an interpolation
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f"{key}='{text}'"


def pasteable(command: str, *words: object) -> str:
    """`command` as it is, followed by words that the shell hands over unchanged."""
    return " ".join([command, *(shlex.quote(str(word)) for word in words)])
