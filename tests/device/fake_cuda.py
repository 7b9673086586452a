"""A CUDA device on a machine without one: it obeys CUDA's rules and notes what a GPU would have had to wait for.

    with fake_cuda() as watch:
        ebm_lab.train([..., "device=cuda", "compile=off"])
    watch.events    # {(phase, kind, operator, place): how often}

A tensor made with device=cuda is a `Fake`, which says that it lies on cuda:0 and holds its numbers on the CPU. A
TorchDispatchMode sees each operator below autograd and computes it with those numbers. Where CUDA raises it raises the
same: for a CPU tensor of one dimension or more among CUDA tensors, for a generator of the other device, for `.numpy()`
and for an operator that CUDA lacks. It notes

    sync    the host waits for the device: a copy to the host, a number read, a result whose size depends on values
    h2d     a copy from the host to the device
    fault   what raised

with the line of the package that asked. The random numbers are those of the CPU's generator.

What it can't see: real kernels with their rounding, TF32 and order of addition, streams, memory, autocast and compiled
code. Which operators wait is taken from torch's source (SYNC below), not from a device; scripts/gpu_check.py asks a
real one. `fake_cuda` changes the whole process: use it in one of its own.
"""

import collections
import contextlib
import sys
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.device.fake_generator import CUDA, OWNED, FakeGenerator, Generator

INNER = torch.device("privateuseone", 0)
"""The device that torch's C++ code takes a Fake to be on; its hooks may be written in Python, and CUDA's may not."""

PACKAGE = "/ebm_lab/"
SYNC = {  # operators that wait for the device whatever their arguments are
    "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "allclose", "bincount", "_unique2",
    "unique_dim", "unique_consecutive", "unique_dim_consecutive", "_linalg_check_errors", "_linalg_eigh", "linalg_eig",
    "_linalg_svd", "linalg_lstsq",
}  # fmt: skip
COPIES = {"copy_", "_to_copy", "_foreach_copy_"}
INDEXED = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
ONE_DEVICE = {"cat", "mm", "addmm", "bmm", "linalg_solve_triangular", "_foreach_copy_"}
"""Operators that reject a single number on the CPU too."""
NO_CUDA = {"histogram", "histogramdd", "_histogramdd_from_bin_cts", "_histogramdd_from_bin_tensors"}
IN_PLACE = {"t_", "squeeze_", "unsqueeze_", "transpose_", "swapdims_", "as_strided_"}
"""Operators that change a tensor's shape in place."""
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"


class Fake(Tensor):
    """A tensor that says it lies on cuda:0; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner):
        out = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=INNER,
        )  # fmt: skip
        out.inner = inner
        return out

    def __repr__(self):
        return f"cuda({self.inner!r})"

    @property
    def device(self):
        return CUDA

    @property
    def is_cuda(self):
        return True

    def tolist(self):
        return self.detach().cpu().tolist()

    def numpy(self, **settings):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *args, **settings):
        return self.numpy()

    def __reduce_ex__(self, protocol):  # a checkpoint holds the numbers
        return self.inner.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return WATCHING[-1].run(func, args, kwargs or {})


WATCHING: list["Watch"] = []


@dataclass
class Watch(TorchDispatchMode):
    """Computes each operator, raises where CUDA would, and notes the rest by (phase, kind, operator, place)."""

    events: collections.Counter = field(default_factory=collections.Counter)
    phase: str = "setup"

    def __post_init__(self):
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def note(self, kind, name):
        self.events[self.phase, kind, name, self.where()] += 1

    def fault(self, name, says):
        self.note("fault", name)
        raise RuntimeError(f"{name}: {says}")

    def where(self):
        """The innermost line of the package on the stack: file, function and number."""
        frame = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if PACKAGE in file and "/torch/" not in file:
                return f"{file.rpartition(PACKAGE)[2]} {frame.f_code.co_qualname}:{frame.f_lineno}"
            frame = frame.f_back
        return "?"

    def run(self, func, args, kwargs):
        name = func._schema.name.removeprefix("aten::")
        flat, spec = pytree.tree_flatten((args, kwargs))
        fakes = [a for a in flat if isinstance(a, Fake)]
        wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        if not fakes and wanted in (None, "cpu"):
            if any(isinstance(g, torch.Generator) and g._cdata in OWNED for g in flat):
                self.fault(name, "Expected a 'cpu' device type for generator but found 'cuda'")
            return func(*args, **kwargs)
        hosts = [a for a in flat if isinstance(a, Tensor) and not isinstance(a, Fake)]
        self.check(func, name, args, kwargs, flat, hosts, wanted)
        inner_args, inner_kwargs = pytree.tree_unflatten([a.inner if isinstance(a, Fake) else a for a in flat], spec)
        if wanted is not None:
            inner_kwargs["device"] = torch.device("cpu")
        inner_kwargs = {k: v for k, v in inner_kwargs.items() if k not in ("non_blocking", "pin_memory")}
        out = func(*inner_args, **inner_kwargs)
        if name in IN_PLACE:
            return reshaped(func, args, kwargs)
        if wanted == "cpu" or (name == "copy_" and not isinstance(args[0], Fake)):
            return args[0] if name == "copy_" else out
        known, cpu = {id(a.inner): a for a in fakes}, {id(a) for a in hosts}

        def wrap(t):
            if not isinstance(t, Tensor) or isinstance(t, Fake) or id(t) in cpu:
                return t
            return known[id(t)] if id(t) in known else Fake(t)

        return pytree.tree_map(wrap, out)

    def check(self, func, name, args, kwargs, flat, hosts, wanted):
        """Raise or note what CUDA would do with these arguments."""
        if any(isinstance(g, torch.Generator) and g._cdata not in OWNED for g in flat):
            self.fault(name, "Expected a 'cuda' device type for generator but found 'cpu'")
        if name in NO_CUDA:
            self.fault(name, "not implemented for CUDA")
        if name in COPIES:
            self.copies(name, args, kwargs, wanted)
            return
        for h in hosts:
            if name in INDEXED and any(h is i for i in args[1]):
                self.note("h2d", name)
            elif h.dim() or name in ONE_DEVICE or (func._schema.is_mutable and h is args[0]):
                self.fault(name, MIXED)
        if name in SYNC or self.waits(name, args, kwargs):
            self.note("sync", name)

    def waits(self, name, args, kwargs):
        """Does the operator wait for the device with these arguments?"""
        if name in INDEXED:
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            one_mask_for_one_number = name.endswith(("put", "put_", "impl_")) and args[2].numel() == 1
            return bool(masks) and not (one_mask_for_one_number and sum(i is not None for i in args[1]) == 1)
        if name == "repeat_interleave":
            return kwargs.get("output_size") is None and len(args) < 3
        if name == "multinomial":
            return args[1] == 1 or not ((len(args) > 2 and args[2]) or kwargs.get("replacement"))
        return False

    def copies(self, name, args, kwargs, wanted):
        pairs = zip(args[0], args[1], strict=True) if name == "_foreach_copy_" else [args[:2]]
        for target, source in pairs if name != "_to_copy" else [(None, args[0])]:
            to_device = isinstance(target, Fake) if name != "_to_copy" else wanted != "cpu"
            if to_device and not isinstance(source, Fake):
                self.note("h2d", name)
            elif not to_device and isinstance(source, Fake):
                self.note("sync", name)


def reshaped(func, args, kwargs):
    """Give the Fake itself the shape that its numbers have got in place."""
    included = torch._C._meta_in_tls_dispatch_include()
    with no_dispatch():
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            func(*args, **kwargs)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(included)
    return args[0]


REAL_LOAD = torch.load


def load(file, map_location=None, **settings):
    """torch.load to the fake device."""
    if map_location is None or torch.device(map_location).type != "cuda":
        return REAL_LOAD(file, map_location=map_location, **settings)
    found = REAL_LOAD(file, map_location="cpu", **settings)
    return pytree.tree_map(lambda t: Fake(t) if isinstance(t, Tensor) else t, found)


@contextlib.contextmanager
def fake_cuda():
    """Within this context `cuda` is a device of this machine; yields the Watch."""
    from unittest.mock import patch

    from torch.utils import _foreach_utils
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    if not hasattr(torch, "pretended"):
        _setup_privateuseone_for_python_backend("pretended")
        torch._C._ensureCUDADeviceGuardSet()
    watch, lifted = Watch(), torch._C._only_lift_cpu_tensors()
    own = FakeGenerator()  # CUDA's global generator
    on_cuda = {
        "_lazy_init": lambda: None, "set_device": lambda d: None, "get_device_name": lambda d=None: "a pretended card",
        "get_rng_state": lambda d=None: own.get_state(), "set_rng_state": lambda s, d=None: own.set_state(s),
        "manual_seed": lambda s: own.manual_seed(s), "device": lambda d: contextlib.nullcontext(),
        "reset_peak_memory_stats": lambda d=None: None, "max_memory_allocated": lambda d=None: 0,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, value in on_cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(torch, "Generator", Generator))
        stack.enter_context(patch.object(torch, "load", load))
        types = [*_foreach_utils._foreach_supported_types, Fake]
        stack.enter_context(patch.object(_foreach_utils, "_foreach_supported_types", types))
        WATCHING.append(watch)
        stack.callback(WATCHING.pop)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(.., device="cuda") then copies where a mode sees it
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(watch)
        yield watch
