"""What float32 means and whether equal steps give equal bits: settings of torch on CUDA, set within a scope.

On CUDA torch rounds the inputs of convolutions to TF32, which has 11 significant bits instead of 24, unless it is told
otherwise; matrix products it leaves in float32. `precise` makes float32 mean float32 for both, and tf32 TF32 for both.
Some of CUDA's kernels add in an order that changes from call to call. `repeatable` takes those that do not. On a CPU
both do nothing, but for deterministic=on.

torch has two interfaces for precision and rejects some readings after both were used; only the newer one is used here,
which torch has had since 2.9.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["float32", "tf32", "bfloat16"]
Deterministic = Literal["auto", "on", "off"] | bool


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of torch's settings to `value` within this context."""
    before = getattr(owner, name)
    if before != value:
        setattr(owner, name, value)
    try:
        yield
    finally:
        if before != value:
            setattr(owner, name, before)


@contextmanager
def precise(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute float32 products and convolutions on CUDA in TF32 if `precision` is tf32, else in float32."""
    if device.type != "cuda":
        yield
        return
    kind = "tf32" if precision == "tf32" else "ieee"
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    with ExitStack() as stack:
        for part in (cuda.matmul, cudnn.conv, cudnn.rnn):  # pyright: ignore[reportAttributeAccessIssue] (torch's stubs)
            stack.enter_context(changed(part, "fp32_precision", kind))
        yield


def cast_to(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a loss is computed. In bfloat16, autocast converts matrix products and convolutions
    only; parameters and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def fix_workspace(deterministic: Deterministic, device: torch.device) -> None:
    """Have cuBLAS use the same memory at each product, as its determinism requires. Call it before the first one."""
    if device.type == "cuda" and deterministic not in ("off", False):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def repeatable(deterministic: Deterministic, device: torch.device) -> Iterator[None]:
    """Give equal bits to equal steps, as bit-exact resuming requires.

    auto: on CUDA, take deterministic algorithms where there are any, and warn where there are none; on: raise there,
    with the name of the operation, on every device; off: leave the choice to torch, as auto does on a CPU, whose
    algorithms are deterministic for a given number of threads.
    """
    strict = deterministic in ("on", True)
    if not strict and (deterministic != "auto" or device.type != "cuda"):
        yield
        return
    mode = torch.get_deterministic_debug_mode()
    with (
        changed(torch.backends.cudnn, "deterministic", True),
        changed(torch.utils.deterministic, "fill_uninitialized_memory", False),  # a check that costs a pass over each
    ):
        torch.set_deterministic_debug_mode("error" if strict else "warn")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
