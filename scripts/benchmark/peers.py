"""Other libraries by their documented API: torchebm 0.8.9 and ebmkit 0.16.0 (imported as `ebm`).

They get the reference's network and its outer loop (batch, clipping, Adam, averaged weights), and the same counts: k
chain steps, projections, noise samples, size of the buffer; everything else is their default, except that torchebm's
buffer is not warmed up (100 steps of every chain before the first step, which no race would show). A library that is
not installed is left out. Settings of torch that an import changes are restored.

torchebm's HMC sums momenta over the last axis alone and its exact score matching flattens its input, so neither takes
images; it has no MALA, and its contrastive divergence "from data" begins at the data. ebmkit's begins at noise where it
has no buffer, which is this lab's `mle`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from ebm_lab.models.levels import ScoreNetwork
from scripts.benchmark.plain import Loop
from scripts.benchmark.timing import Work

PEERS = {"torchebm": "torchebm", "ebmkit": "ebm"}
"""Names of the distributions, and the names under which they are imported."""


@dataclass(frozen=True)
class Job:
    """A training step in words that every contestant understands. `counts`: of the objective's config; `steps` and
    `eps`: of the chains; `start`: n points of the noise that chains from noise begin from."""

    objective: str
    net: nn.Module
    data: Tensor
    batch: int
    counts: dict[str, Any]
    steps: int
    eps: float
    start: Callable[[int], Tensor]

    @property
    def image(self) -> bool:
        return self.data.ndim > 2


def versions() -> dict[str, str]:
    """Return the installed peers with their versions."""
    found = {}
    for name, module in PEERS.items():
        try:
            quietly_import(module)
            found[name] = metadata.version(name)
        except (ImportError, metadata.PackageNotFoundError):
            continue
    return found


def quietly_import(name: str) -> Any:
    """Import a peer's module without changing torch's settings."""
    before = torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.get_default_dtype()
    module = importlib.import_module(name)
    torch.set_float32_matmul_precision(before[0])
    torch.set_num_threads(before[1])
    torch.set_default_dtype(before[2])
    return module


def torchebm_model(net: nn.Module) -> Any:
    """Wrap the network as the library requires."""
    base = quietly_import("torchebm.core").BaseModel

    class Model(base):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    return Model()


def sampler(peer: str, name: str, net: nn.Module, x: Tensor, steps: int, leapfrog: int, eps: float) -> Work | str:
    """Return a sampler of `steps` steps from x per call, or the reason why there is none."""
    if peer == "torchebm":
        known = quietly_import("torchebm.samplers")
        if name == "mala":
            return "has no MALA"
        if name == "hmc" and x.ndim > 2:
            return "its HMC takes no images"
        model = torchebm_model(net)
        langevin = name == "langevin"
        theirs: Any = (
            known.LangevinDynamics(model, step_size=eps**2 / 2, device="cpu")
            if langevin
            else known.HamiltonianMonteCarlo(model, step_size=eps, n_leapfrog_steps=leapfrog, device="cpu")
        )
        return chained(x, lambda x: theirs.sample(x=x, n_steps=steps))
    ebm = quietly_import("ebm")
    makers = {
        "langevin": lambda: ebm.LangevinDynamics(step_size=eps**2 / 2, steps=steps),
        "mala": lambda: ebm.MALA(step_size=eps**2 / 2, steps=steps),
        "hmc": lambda: ebm.HMC(step_size=eps, leapfrog_steps=leapfrog, steps=steps),
    }
    chosen = makers[name]()
    return chained(x, lambda x: chosen.sample(net, x))


def chained(x: Tensor, advance: Callable[[Tensor], Tensor]) -> Work:
    """Let each call continue from the last state."""

    def work() -> None:
        nonlocal x
        x = advance(x)

    return work


def step(peer: str, job: Job, **loop: Any) -> Loop | str:
    """Return a training loop of one step per call, or the reason why there is none; `loop`: outer settings."""
    return torchebm_step(job, **loop) if peer == "torchebm" else ebmkit_step(job, **loop)


def torchebm_step(job: Job, **loop: Any) -> Loop | str:
    losses, samplers = quietly_import("torchebm.losses"), quietly_import("torchebm.samplers")
    if job.objective == "sm" and job.image:
        return "its exact score matching takes no images"
    model = torchebm_model(job.net)
    extra = {"device": torch.device("cpu")}
    chains = {
        "model": model,
        "sampler": samplers.LangevinDynamics(model, step_size=job.eps**2 / 2, device="cpu"),
        "k_steps": job.steps,
    }
    buffer = {"buffer_size": job.counts.get("buffer_size"), "init_steps": job.counts.get("init_steps", 0)}
    makers = {
        "dsm": lambda: losses.DenoisingScoreMatching(model, noise_scale=job.counts["sigma"], **extra),
        "ssm": lambda: losses.SlicedScoreMatching(model, n_projections=job.counts["projections"], **extra),
        "sm": lambda: losses.ScoreMatching(model, hessian_method="exact", **extra),
        "cd": lambda: losses.ContrastiveDivergence(**chains),
        "pcd": lambda: losses.ContrastiveDivergence(**chains, persistent=True, **buffer),
    }
    if job.objective not in makers:
        return "has no such loss"
    loss = makers[job.objective]()
    takes_chains = job.objective in ("cd", "pcd")
    return Loop(model, (lambda x: loss(x)[0]) if takes_chains else loss, job.data, job.batch, **loop)


def ebmkit_step(job: Job, **loop: Any) -> Loop | str:
    ebm = quietly_import("ebm")
    losses = quietly_import("ebm.losses")
    chains = ebm.LangevinDynamics(step_size=job.eps**2 / 2, steps=job.steps)
    shape = tuple(job.data.shape[1:])
    c = job.counts
    makers = {
        "dsm": lambda: losses.DenoisingScoreMatching(sigma=c["sigma"]),
        "ssm": lambda: losses.SlicedScoreMatching(n_projections=c["projections"]),
        "sm": losses.ExactScoreMatching,
        "nce": lambda: losses.NoiseContrastiveEstimation(noise_ratio=c["noise_ratio"]),
        "mle": lambda: losses.ContrastiveDivergence(chains),
        "pcd": lambda: losses.ContrastiveDivergence(chains, buffer=ebm.ReplayBuffer(c["buffer_size"], shape)),
        "ed": lambda: losses.EnergyDiscrepancy(sigma=c["blur"], m_particles=c["samples"]),
        "multi_dsm": lambda: losses.MultiSigmaDenoisingScoreMatching(torch.tensor(c["sigmas"])),
    }
    if isinstance(job.net, ScoreNetwork):
        return "has no score networks"
    if job.objective not in makers:
        return "has no CD from data" if job.objective == "cd" else "has no such loss"
    loss = makers[job.objective]()
    energy = getattr(job.net, "energy", job.net)  # of many noise levels: E(x, sigma)
    return Loop(job.net, lambda x: loss(energy, x).loss, job.data, job.batch, extra=loss.parameters(), **loop)
