"""Files that are whole at every moment: written beside their place, then renamed into it."""

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Make `path` hold `text`: who reads it meanwhile finds the old text or the new one, several writers included.
    Raises OSError, and leaves the old text, where it can't be written."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
