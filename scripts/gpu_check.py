"""Check and measure this lab on a GPU, in at most ten minutes: python scripts/gpu_check.py out=docs

Trains a few steps of every objective and sampler while torch refuses to let the host wait for the device; compares
energies, scores and gradients with those of the CPU; compares two equal runs, and a straight one with a resumed one,
bit for bit; measures images per second, memory and five steps of training on images of CIFAR-10's shape. Writes
<out>/gpu.json and <out>/gpu.md, and exits with 2 if a check failed. With device=cpu quick=true it does what a CPU can
do, in about two minutes, and says what it left out.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveFloat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # makes `scripts` importable
from ebm_lab.cli.tools import main, writable
from ebm_lab.core.errors import UserError
from ebm_lab.runs.isolation import isolated
from ebm_lab.runs.settings import pick_device
from scripts.gpu.checks import agreement, components, graphed, same_bits
from scripts.gpu.speed import profile, throughput

NOT_ON_CPU = [
    "waiting: a CPU has no host that could wait for it, so the components are only trained",
    "tf32, bfloat16 and determinism: their speed and their rounding are CUDA's",
    "CUDA graphs: they are CUDA's",
    "memory and kernels: torch counts those of a device alone",
]


@isolated()
def gpu_check(*, out: str, device: str = "cuda", quick: bool = False, seconds: PositiveFloat = 5.0) -> None:
    """Check the lab on a device and write <out>/gpu.json and <out>/gpu.md.

    quick: few components, small batches; seconds: of each measurement of speed.
    """
    place, began = pick_device(device), time.perf_counter()
    writable(Path(out))
    found: dict[str, Any] = {"device": describe(place), "quick": quick, "failed": []}
    parts: dict[str, Callable[[], Any]] = {
        "agreement": lambda: agreement(place),
        "bits": lambda: same_bits(place, 4 if quick else 40),
        "graphs": lambda: graphed(place),
        "throughput": lambda: throughput(place, 1.0 if quick else seconds, quick),
        "profile": lambda: profile(place, quick),
        "components": lambda: components(place, quick),
    }
    for name, measure in parts.items():
        print(f"--- {name}", flush=True)
        try:
            found[name] = measure()
        except Exception as error:  # one part that fails must not lose the others
            found[name] = None
            found["failed"].append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        found["seconds"] = round(time.perf_counter() - began)
        found["left_out"] = NOT_ON_CPU if place.type == "cpu" else []
        write(Path(out), found)  # after each part, so that an end by force loses the rest alone
    found["failed"] += failures(found)
    write(Path(out), found)
    print("\n".join([*found["left_out"], *found["failed"], str(Path(out, "gpu.md"))]))
    if found["failed"]:
        raise UserError(f"gpu_check: {len(found['failed'])} check(s) failed on {found['device']['name']}, see above")


def describe(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    cuda = str(torch.version.cuda) if device.type == "cuda" else "none"
    return {"type": device.type, "name": name, "torch": str(torch.__version__), "cuda": cuda}


def failures(found: dict[str, Any]) -> list[str]:
    """Return a line for each check that did not hold."""
    lines = [f"{name}: {said}" for name, said in (found["components"] or {}).items() if said.startswith("failed")]
    lines += [f"{row['precision']} differs from the CPU" for row in found["agreement"] or [] if not row["agrees"]]
    lines += [f"CUDA graphs, {name}: {said}" for name, said in (found.get("graphs") or {}).items() if said != "equal"]
    return lines + [f"{name}: {said}" for name, said in (found["bits"] or {}).items() if said != "equal"]


def write(out: Path, found: dict[str, Any]) -> None:
    (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(page(found), encoding="utf-8")


def page(found: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    d = found["device"]
    lines = [
        "# On a GPU" if d["type"] == "cuda" else "# The checks for a GPU, on a CPU",
        "",
        f"{d['name']}, torch {d['torch']}, CUDA {d['cuda']}; made by `python scripts/gpu_check.py` in "
        f"{found['seconds']} s.",
    ]
    if found["left_out"]:
        lines += ["", "Left out on a CPU:", "", *(f"- {line}" for line in found["left_out"])]
    if found["failed"]:
        lines += ["", "## Failed", "", *(f"- {line}" for line in found["failed"])]
    if found.get("agreement"):
        head = "| precision | energy | score | gradient of the loss | limit |\n|---|---|---|---|---|"
        lines += ["", "## Distance from the CPU in float64", "", "|a - b| / |b| of a convolutional energy.", "", head]
        keys = ("energy", "score", "gradient", "limit")
        lines += [f"| {r['precision']} | {' | '.join(f'{r[k]:.1e}' for k in keys)} |" for r in found["agreement"]]
    if found.get("bits"):
        lines += ["", "## Bits", "", *(f"- {name}: {said}" for name, said in found["bits"].items())]
    if found.get("graphs"):
        about = "Weights after six steps with CUDA graphs and without; equal means to rounding."
        lines += ["", "## CUDA graphs", "", about, "", *(f"- {name}: {said}" for name, said in found["graphs"].items())]
    if found.get("throughput"):
        head = "| method | setting | batch | images/s | ms a step | peak MiB |\n|---|---|---|---|---|---|"
        lines += ["", "## Speed, 3 x 32 x 32 pixels", "", head, *map(_speed_row, found["throughput"])]
    if found.get("profile"):
        p = found["profile"]
        kernels = "" if p["kernels_per_step"] is None else f" {p['kernels_per_step']:.0f} kernels a step."
        lines += ["", "## Five steps of dsm", "", f"The operators that take the most time.{kernels}", ""]
        lines += ["| operator | ms a step |\n|---|---|", *(f"| `{t['operator']}` | {t['ms']:.3g} |" for t in p["top"])]
    if found.get("components"):
        lines += ["", "## Components", "", *(f"- {name}: {said}" for name, said in found["components"].items())]
    return "\n".join(lines) + "\n"


def _speed_row(row: dict[str, Any]) -> str:
    if "left_out" in row:
        return f"| {row['method']} | {row['setting']} | - | {row['left_out']} | - | - |"
    peak = "-" if row["peak_mib"] is None else row["peak_mib"]
    speed = f"{row['images_per_second']:,.0f} | {row['ms']:.3g}"
    return f"| {row['method']} | {row['setting']} | {row['batch']} | {speed} | {peak} |"


if __name__ == "__main__":
    main(gpu_check)
