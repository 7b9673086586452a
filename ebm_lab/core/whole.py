"""Files that are whole at every moment: written beside their place, then renamed into it."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Make `path` hold `text`: who reads it meanwhile finds the old text or the new one, several writers included."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
