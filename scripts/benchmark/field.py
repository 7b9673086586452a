"""The contestants of a case: ours, the plain loop, the peers that have it, and the floor.

For a contestant that a case cannot have there is a line that says why.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.distributions.start import start_law
from ebm_lab.models.levels import NoiseEnergy, ScoreNetwork
from ebm_lab.training.trainer import Trainer
from scripts.benchmark import floor, ours, peers, plain, plain_losses
from scripts.benchmark.cases import Case, filled
from scripts.benchmark.nets import plain as plain_net
from scripts.benchmark.peers import Job
from scripts.benchmark.timing import Work

REFERENCE = "plain"
KEPT = "plain, memory kept"
"""The reference in a process that keeps freed memory, as the lab's does; separates this effect from the rest."""


@dataclass
class Field:
    """The contestants of a case by name, and the reasons of those that are absent.

    gradients: number of gradients of the energy, per chain or point of the batch, in a unit of our work.
    """

    work: dict[str, Work] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    gradients: float = 0.0

    def add(self, name: str, work: Work | str) -> None:
        if isinstance(work, str):
            self.absent[name] = work
        else:
            self.work[name] = work


def images_file(folder: Path) -> str:
    """Write 512 random images of 28 x 28 pixels; the cost does not depend on the pixels' values."""
    import numpy as np

    file = folder / "images.npy"
    if not file.is_file():
        np.save(file, np.random.default_rng(0).uniform(-1, 1, (512, 1, 28, 28)).astype(np.float32))
    return str(file)


def references(case: Case) -> list[str]:
    """Return the references; on images, whose steps free blocks of megabytes, there are two."""
    return [REFERENCE, KEPT] if "pixels" in case.where else [REFERENCE]


def contestants(
    case: Case, compose: ours.Compose, threads: int, images: str, others: list[str], only: str | None = None
) -> Field:
    """Build all contestants, or the one named `only`."""
    overrides, found = filled(case.overrides, images), Field()
    wanted: Callable[[str], bool] = lambda name: only in (None, name)  # noqa: E731
    trainer = ours.build(compose, overrides, threads, ours.BASELINE)
    make = sampler_field if case.kind == "samplers" else step_field
    make(case, trainer, others, found, wanted)
    for variant in ours.variants(case.kind, case.what, case.where):
        if not wanted(variant.name):
            continue
        extra = [variant.on if o == variant.off else o for o in ours.BASELINE]
        try:
            other = ours.build(compose, overrides, threads, extra)
        except UserError as error:
            found.add(variant.name, str(error))
            continue
        found.add(variant.name, ours.sampling(other, case.chains) if case.kind == "samplers" else ours.stepping(other))
    return found


def sampler_field(case: Case, trainer: Trainer, others: list[str], found: Field, wanted: Callable[[str], bool]) -> None:
    eps = ours.size_of_step(trainer.evaluations.sampler)
    x = start_law(trainer.evaluations.dataset).sample(case.chains, trainer.state.generator)
    found.gradients = case.gradients

    def net() -> nn.Module:
        return plain_net(trainer.state.objective.energy)

    def by_hand() -> Work:
        mine, step = net(), getattr(plain, case.what)
        own = (case.steps, case.leapfrog, eps) if case.what == "hmc" else (case.steps, eps)
        return peers.chained(x, lambda x: step(mine, x, *own))

    if wanted("ours"):
        found.add("ours", ours.sampling(trainer, case.chains))
    for name in references(case):
        if wanted(name):
            found.add(name, by_hand())
    for peer in others if not case.short else ():
        if wanted(peer):
            found.add(peer, peers.sampler(peer, case.what, net(), x, case.steps, case.leapfrog, eps))
    if wanted("floor") and not case.short:
        found.add("floor", floor.sampler_floor(net(), x, case.gradients))


def step_field(case: Case, trainer: Trainer, others: list[str], found: Field, wanted: Callable[[str], bool]) -> None:
    x = trainer.evaluations.dataset.train[: case.chains]
    if wanted("floor"):  # not if one contestant's memory is measured, for this step would count
        ours.stepping(trainer)()
        found.gradients = trainer.state.costs.grad_evals / case.chains
    if wanted("ours"):
        found.add("ours", ours.stepping(trainer))
    for name in references(case):
        if wanted(name):
            found.add(name, plain_step(job(case, trainer)))
    for peer in others:
        if wanted(peer):
            found.add(peer, peers.step(peer, job(case, trainer)))
    if wanted("floor"):
        if case.what in ("nce", "multi_dsm"):
            found.add("floor", "its passes are not of one network alone")
        else:
            found.add(
                "floor",
                floor.step_floor(plain_net(trainer.state.objective.energy), x, round(found.gradients), case.steps),
            )


def job(case: Case, trainer: Trainer) -> Job:
    """Describe the case's training step, with a network of its own."""
    counts = dict(trainer.state.config["objective"])
    scale = trainer.evaluations.dataset.scale
    for key in ("blur", "width_min", "width_max", "step"):
        if key in counts:
            counts[key] = counts[key] * scale
    if case.what == "multi_dsm":
        ladder: Any = trainer.state.objective.energy.ladder
        counts |= {"low": ladder.sigma_min, "high": ladder.sigma_max}
        counts["sigmas"] = [ladder.rung(i) for i in range(ladder.levels)]
    mean = trainer.evaluations.dataset.mean

    def start(n: int) -> Tensor:
        return mean + scale * torch.randn(n, *mean.shape)

    return Job(
        objective=case.what,
        net=plain_net(trainer.state.objective.energy),
        data=trainer.evaluations.dataset.train,
        batch=case.chains,
        counts=counts,
        steps=case.steps,
        eps=ours.size_of_step(trainer.evaluations.sampler) if case.steps else 0.1 * scale,
        start=start,
    )


def plain_step(job: Job) -> Work:
    """Build the reference's training step."""
    p, c, net, extra = plain_losses, job.counts, job.net, []
    if job.objective == "nce":
        extra = [nn.Parameter(torch.zeros(()))]
        loss = p.nce(net, extra[0], p.GaussianNoise(job.data), c["noise_ratio"])
    else:
        makers: dict[str, Callable[[], plain_losses.LossFn]] = {
            "dsm": lambda: p.dsm(net, c["sigma"]),
            "multi_dsm": lambda: many_levels(net, c["low"], c["high"]),
            "ssm": lambda: p.ssm(net),
            "sm": lambda: p.sm(net),
            "fdssm": lambda: p.fdssm(net, c["step"] * job.data[0].numel() ** 0.5),
            "cd": lambda: p.cd(net, job.steps, job.eps),
            "mle": lambda: p.mle(net, job.steps, job.eps, job.start),
            "pcd": lambda: p.pcd(net, job.steps, job.eps, job.start, c["buffer_size"], c["restart"]),
            "cnce": lambda: p.cnce(net, c["copies"], c["width_min"], c["width_max"]),
            "mpf": lambda: p.mpf(net, c["copies"], c["width_min"], c["width_max"]),
            "ed": lambda: p.ed(net, c["blur"], c["samples"], c["w"]),
        }
        loss = makers[job.objective]()
    return plain.Loop(net, loss, job.data, job.batch, extra)


def many_levels(net: nn.Module, low: float, high: float) -> plain_losses.LossFn:
    """Build the reference's loss of an energy or a score of many noise levels."""
    if isinstance(net, ScoreNetwork):
        return plain_losses.multi_dsm_of_score(net, partial(net.score, create_graph=True), low, high)
    assert isinstance(net, NoiseEnergy)
    return plain_losses.multi_dsm(net, net.energy, low, high)
