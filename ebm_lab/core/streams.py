"""Standard output and error whose failure does not end a run: a closed pipe, a full disk, a closed terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class SafeStream:
    """A text stream that never raises when it is written to.

    Characters that its encoding lacks are written as backslash escapes. After the first failure it writes nothing, and
    `lost` holds the reason.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.lost: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "stream":  # asked while a copy is being made
            raise AttributeError(name)
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if self.lost is None:
            try:
                self._write(text)
            except Exception as error:  # a closed stream raises ValueError, and a caller's own stream anything
                self._give_up(error)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.lost is None:
            try:
                self.stream.flush()
            except AttributeError:  # a caller's own stream need not have flush
                pass
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.lost = error

    def isatty(self) -> bool:
        try:
            return self.lost is None and self.stream.isatty()
        except Exception:
            return False


class SafeStandardStream(SafeStream):
    """A SafeStream for the streams of the process. After a failure, text that is still buffered goes to os.devnull;
    otherwise Python would report it when it exits, with status 120."""

    def _give_up(self, error: Exception) -> None:
        super()._give_up(error)
        with suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Discard what this process prints during the body if it can't be written, instead of raising."""
    _take_low_descriptors()
    before = sys.stdout, sys.stderr
    safe = [_safe(stream) for stream in before]
    sys.stdout, sys.stderr = safe
    try:
        yield
    finally:
        for stream in safe:
            stream.flush()
        sys.stdout, sys.stderr = before


def _safe(stream: Any) -> Any:
    if isinstance(stream, SafeStream):
        return stream
    return SafeStandardStream(open(os.devnull, "w", encoding="utf-8") if stream is None else stream)


def _take_low_descriptors() -> None:
    """Open os.devnull as descriptors 0 to 2 if they are closed.

    Otherwise the next file opened would become standard output, and receive what libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def say(line: str) -> None:
    """Print a line, or nothing if standard output fails."""
    with suppress(Exception):
        print(line, flush=True)
