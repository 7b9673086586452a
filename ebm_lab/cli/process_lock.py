"""Tell which of the processes that share a directory are alive, by locks that end with a process however it ends."""

import fcntl
import secrets
from pathlib import Path
from typing import IO, Any

from ebm_lab.core.files import is_locked


class ProcessLock:
    """Holds <folder>/processes/<name>, `name` being this process's own, from `with` to its end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder / "processes", secrets.token_hex(8)
        self._held: IO[str] | None = None

    def __enter__(self) -> "ProcessLock":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held = open(self.folder / self.name, "w", encoding="utf-8")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        return self

    def __exit__(self, *problem: Any) -> None:
        if self._held is not None:
            self._held.close()

    def alive(self, name: str) -> bool:
        """Return whether the process `name` holds its lock."""
        return bool(name) and is_locked(self.folder / name)
