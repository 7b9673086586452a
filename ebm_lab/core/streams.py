"""Standard output and error that can be lost without a loss: a pipe whose reader left, a full disk, a gone terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class SafeStream:
    """A text stream that never raises when it is written to.

    What its encoding does not have is written with backslashes. From the first failure on it is silent; `lost` then
    holds the reason.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.lost: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "stream":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if self.lost is None:
            try:
                self._write(text)
            except Exception as error:  # a closed stream raises ValueError, a caller's own anything
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
            except AttributeError:  # a caller's own stream need not have it
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
    """The same for a stream of the whole process: what is still on its way to the lost file goes to os.devnull, or
    Python would complain of it when it ends, with exit status 120."""

    def _give_up(self, error: Exception) -> None:
        super()._give_up(error)
        with suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Within: what this process prints is lost where it can't be written, and ends nothing."""
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
    """Open os.devnull as descriptors 0 to 2 where they are closed: the next file would become standard output, and
    what a library prints would be written into it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def say(line: str) -> None:
    """Print a line where that is possible."""
    with suppress(Exception):
        print(line, flush=True)
