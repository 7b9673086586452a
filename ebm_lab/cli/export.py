"""Write a run's energy in a format of other libraries: `ebm-lab export <run> to=torch_export`.

    safetensors     the weights of the model by name, which `safetensors.torch.load_file` reads
    torch_export    E(x) as a program, which `torch.export.load` reads without this package; its gradient is -score
    onnx            E(x) as a program for ONNX runtimes

config.json beside the file has the run's settings, the shape of x and the map from raw data to x.
"""

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ebm_lab import __version__
from ebm_lab.cli.tools import data_place, main, writable
from ebm_lab.core.errors import UserError
from ebm_lab.core.files import dumps, write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from ebm_lab.runs.loaded import LoadedRun

FILES = {"safetensors": "energy.safetensors", "torch_export": "energy.pt2", "onnx": "energy.onnx"}
"""By format, the name of its file."""
Format = Literal["safetensors", "torch_export", "onnx"]


def export(
    *,
    run: str,
    to: Format = "safetensors",
    which: Literal["last", "best"] = "last",
    ema: bool = True,
    plugins: list[str] | None = None,
    out: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> None:
    """Write a run's energy in a format of other libraries, and config.json beside it.

    to: safetensors, the weights by name; torch_export, a program that `torch.export.load` reads without this package;
    onnx, a program for ONNX runtimes. Programs compute E(x), (B,) in nats, for any number of points in the space in
    which the model sees them; config.json has the map from raw data. which, ema: the last or the best checkpoint,
    averaged weights or raw ones; out: where to write (default: <run>/export).
    """
    from ebm_lab.runs.load import load_run

    place = data_place(overrides or {})
    loaded = load_run(run, which=which, ema=ema, plugins=plugins or [], evaluation={}, dataset=place, data="kept")
    folder = Path(out or loaded.path / "export")
    content = {"safetensors": weights, "torch_export": pt2, "onnx": onnx}[to](loaded)
    writable(folder)
    try:
        write_atomic(folder / FILES[to], content)
        write_atomic(folder / "config.json", dumps(described(loaded), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"out={folder}: can't be written there ({error.strerror})") from None
    print(folder / FILES[to])


def described(loaded: "LoadedRun") -> dict[str, Any]:
    """Return what another program has to know to use the file: `map` has the steps from raw data to x, each with the
    fields of its class in core/maps.py, or null where the data set has a map of its own."""
    from ebm_lab.core.maps import KINDS, Composed, plain

    transform = loaded.dataset.transform
    made = Composed((transform,)) if type(transform) in KINDS.values() else transform
    parts = plain(made) if isinstance(made, Composed) else None
    return {
        "ebm_lab": __version__,
        "shape": list(loaded.dataset.event_shape),
        "map": parts and [{k: v if isinstance(v, str) else v.tolist() for k, v in part.items()} for part in parts],
        "step": loaded.step,
        "config": loaded.config,
    }


def weights(loaded: "LoadedRun") -> bytes:
    """Return the model's parameters and buffers by name in the format of safetensors."""
    from torch import Tensor

    try:
        from safetensors.torch import save
    except ImportError:
        raise _missing("safetensors", "safetensors") from None
    tensors = {k: v for k, v in loaded.energy.state_dict().items() if isinstance(v, Tensor)}
    metadata = {"format": "pt", "ebm_lab": __version__, "energy": loaded.config["energy"]["name"]}
    return save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, metadata=metadata)


def pt2(loaded: "LoadedRun") -> bytes:
    """Return the energy as the bytes of a program of torch.export."""
    import io

    import torch

    file = io.BytesIO()
    torch.export.save(program(loaded, "torch_export"), file)
    return file.getvalue()


def onnx(loaded: "LoadedRun") -> bytes:
    """Return the energy as the bytes of an ONNX model."""
    import torch

    for package in ("onnx", "onnxscript"):  # torch needs them
        if find_spec(package) is None:
            raise _missing("onnx", package)
    traced = program(loaded, "onnx")
    try:
        found = torch.onnx.export(traced, dynamo=True, verbose=False)
    except Exception as error:  # any operation that ONNX does not have
        raise _refused(loaded, "onnx", error) from None
    assert found is not None
    return found.model_proto.SerializeToString()


def program(loaded: "LoadedRun", to: Format) -> "ExportedProgram":
    """Trace E(x) for any number of points. Raises UserError for a model without an energy, or one that can't be
    traced."""
    import torch

    from ebm_lab.core.features import features_of

    if "energy" not in features_of(loaded.energy):
        raise UserError(f"to={to}: run={loaded.path} has a score network, which has no energy; to=safetensors takes it")
    module = evaluated(loaded.energy)
    x = loaded.dataset.mean.expand(2, *loaded.dataset.event_shape).clone()
    try:
        return torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
    except Exception as error:  # an operation on values, such as a branch, whatever torch raises for it
        raise _refused(loaded, to, error) from None


def evaluated(energy: "nn.Module") -> "nn.Module":
    """Return x -> E(x) as a module on a copy of the energy, whose weights lie in memory in the usual order."""
    import torch
    from torch import nn

    from ebm_lab.core.functional import evaluate

    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = copy.deepcopy(energy).cpu().eval().requires_grad_(False)

        def forward(self, x: "Tensor") -> "Tensor":
            return evaluate(self.energy, x)

    made = Energy()
    for tensor in (*made.parameters(), *made.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return made


def _missing(to: str, package: str) -> UserError:
    return UserError(f"to={to}: the package {package} is missing: pip install -e '.[export]'")


def _refused(loaded: "LoadedRun", to: str, error: Exception) -> UserError:
    name, why = loaded.config["energy"]["name"], next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UserError(f"to={to}: energy={name} can't be exported ({why}); to=safetensors takes its weights")


def main_export() -> None:
    """Run the console command `ebm-lab export`."""
    main(export)
