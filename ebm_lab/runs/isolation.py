"""Isolate a run from the global settings of the process that calls it.

Torch, NumPy and Python hold settings that change what the same code computes: autocast, grad mode, default dtype,
threads and more. `isolated` runs its body under the settings of a fresh process and restores the caller's afterwards,
so that a run depends on its config alone and changes no global setting. One setting is not that of a fresh process:
torch lets CUDA round the inputs of convolutions to TF32, and within a run float32 means float32 (training/numerics.py).
"""

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

Setting = tuple[Callable[[], Any], Callable[[Any], Any], Any]
"""A process-wide setting: its getter, its setter, and its value within a run."""


@contextmanager
def isolated() -> Iterator[None]:
    """Run the body, or as a decorator the function, under the settings of a fresh process.

    Thread-local settings are restored per thread. Process-wide ones stay set while any thread is inside, and are then
    restored to what the first thread found. The global random generators and `os.environ` are restored in the main
    thread only: another thread would undo what the main thread changed meanwhile.
    """
    main = threading.current_thread() is threading.main_thread()
    with _thread(), _process(), _surroundings() if main else nullcontext():
        yield


@contextmanager
def _thread() -> Iterator[None]:
    """Reset autocast, grad and inference mode, default device, denormal numbers and NumPy's error handling."""
    import numpy as np
    import torch

    flushed = sys.float_info.min / 2 == 0  # torch has no getter for this
    cast = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    depth = torch.autocast_increment_nesting() - 1
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        if torch.get_default_device().type != "cpu":  # a device context slows every call, so enter it only if needed
            stack.enter_context(torch.device("cpu"))
        for kind in cast:
            torch.set_autocast_enabled(kind, False)
            stack.callback(torch.set_autocast_enabled, kind, True)
        # Autocast drops its rounded weights only when the outermost context ends: a run's own has to be the outermost.
        for _ in range(depth + 1):
            torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        for _ in range(depth):
            stack.callback(torch.autocast_increment_nesting)
        if flushed:
            torch.set_flush_denormal(False)
            stack.callback(torch.set_flush_denormal, True)
        yield


_lock = threading.Lock()
_within: list[int] = []
"""Ids of the threads inside `isolated`, once for each entry."""
_before: list[tuple[int, list[Any]]] = []
"""Thread count and settings as the first thread found them, while any thread is inside."""


@contextmanager
def _process() -> Iterator[None]:
    """Reset the settings that all threads share."""
    import torch

    me, settings = threading.get_ident(), _settings()
    with _lock:
        found = torch.get_num_threads(), [_exchange(*setting) for setting in settings]
        if not _within:
            _before[:] = [found]
        _within.append(me)
    try:
        yield
    finally:
        with _lock:
            _within.remove(me)
            threads, values = found if me in _within else _before[0]
            torch.set_num_threads(threads)
            if me in _within or not _within:
                for (get, put, _), value in reversed([*zip(settings, values, strict=True)]):
                    _exchange(get, put, value)


def _settings() -> list[Setting]:
    """List torch's settings in the order to read and write them: a general one before those that follow it."""
    import torch

    b = torch.backends
    attributes = [
        (b, "fp32_precision", "none"),
        (b.cudnn, "fp32_precision", "none"),
        (b.cuda.matmul, "fp32_precision", "none"),
        (b.cudnn.conv, "fp32_precision", "ieee"),  # pyright: ignore[reportAttributeAccessIssue] (torch's stubs)
        (b.cudnn.rnn, "fp32_precision", "ieee"),  # pyright: ignore[reportAttributeAccessIssue]
        *((part, "fp32_precision", "none") for part in (b.mkldnn.matmul, b.mkldnn.conv, b.mkldnn.rnn)),  # pyright: ignore
        (b.cudnn, "enabled", True),
        (b.cudnn, "benchmark", False),
        (b.cudnn, "deterministic", False),
        (b.mkldnn, "enabled", True),
    ]
    return [
        (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False),
        (_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        *((_getter(owner, name), _setter(owner, name), value) for owner, name, value in attributes),
    ]


def _exchange(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Any:
    """Set a setting if its value differs, and return the old value; leave it alone if it can't be read (None)."""
    before = get()
    if None not in (before, value) and before != value:
        put(value)
    return before


def _matmul_precision() -> str | None:
    """Return the precision, or None if the caller used `fp32_precision`, after which torch rejects the old getter."""
    import torch

    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _getter(owner: Any, name: str) -> Callable[[], Any]:
    return lambda: getattr(owner, name)


def _setter(owner: Any, name: str) -> Callable[[Any], Any]:
    return lambda value: setattr(owner, name, value)


@contextmanager
def _surroundings() -> Iterator[None]:
    """Seed the global random generators; restore them, the environment and two libraries' settings afterwards."""
    import numpy as np
    import torch

    environment = dict(os.environ)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    with ExitStack() as stack:
        if (matplotlib := sys.modules.get("matplotlib")) is not None:
            stack.enter_context(matplotlib.rc_context())
            matplotlib.rcdefaults()
        if (sklearn := sys.modules.get("sklearn")) is not None:
            stack.enter_context(sklearn.config_context(transform_output="default", enable_metadata_routing=False))
        torch.default_generator.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        try:
            yield
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
            if cuda:
                torch.cuda.set_rng_state_all(cuda)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
