"""The cases of the races: samplers on three kinds of energy, and a training step of every objective on three networks.

All contestants of a case do the same amount of work: as many chain steps, gradients of as many points, the same
network. Counts are the defaults of the lab's configs (k = 10, 4 copies, ...), except that `dsm` and `multi_dsm` go
without their antithetic pairs, which no other library has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

NETWORKS = {
    "2-D": ("dataset=two_moons", "energy=mlp", "energy.hidden=[128,128]"),
    "64-D": ("dataset=gaussian", "dataset.dim=64", "dataset.train=2000", "energy=mlp", "energy.hidden=[128,128]"),
    "28x28": ("dataset=array", "dataset.path={images}", "dataset.scaling=none", "energy=conv", "architecture=conv"),
}
"""Data set and energy; {images}: a file of random images."""
WORDS = {"2-D": "perceptron 2-128-128-1", "64-D": "perceptron 64-128-128-1", "28x28": "convolutions, 28 x 28 pixels"}
PLAIN = ("energy.confine=2.0", "energy.confine_shape=isotropic", "ema=0.995", "optim=adam", "optim.clip=100.0")
CHAIN = ("sampler=langevin", "sampler.steps=10", "sampler.step_size=0.1", "sampler.noise_scale=1.0")
COUNTS: dict[str, tuple[str, ...]] = {
    "cd": CHAIN,
    "pcd": (*CHAIN, "objective.buffer_size=1000", "objective.restart=0.05", "objective.refresh=0"),
    "mle": (*CHAIN, "objective.refresh=0"),
    "dsm": ("objective.sigma=0.1", "objective.antithetic=false", "objective.control_variate=false"),
    "multi_dsm": ("objective.antithetic=false", "objective.time_weight=0.0"),
    "ssm": ("objective.projections=1",),
    "sm": (),
    "fdssm": ("objective.variance_reduced=false",),
    "nce": ("objective.noise=gaussian", "objective.noise_ratio=4"),
    "cnce": ("objective.copies=4",),
    "mpf": ("objective.copies=4",),
    "ed": ("objective.samples=16",),
}
"""Overrides of every objective, by which settings that a recipe may change have their defaults."""
NOT_RACED = {
    "lsd": "two networks in turns, which no peer trains",
    "fce": "two networks in turns, which no peer trains",
    "f_ebm": "a second network, which no peer trains",
    "vera": "two networks in turns, which no peer trains",
    "coopnets": "a second network, which no peer trains",
    **dict.fromkeys(
        ("pseudo_likelihood", "ratio_matching", "score_entropy", "concrete_score"),
        "discrete data: raced by scripts/discrete.py",
    ),
    "ksd": "no reference yet",
    "min_velocity": "no reference yet; its step is that of fdssm's variance-reduced form but for one energy",
    "tre": "no reference yet",
    "unbiased_cd": "no reference yet",
    "drl": "no reference yet",
    "cdrl": "no reference yet",
    "dual_sm": "no reference yet",
    "energy_matching": "no reference yet",
    "jem": "a classifier beside an objective that is raced alone",
}
"""Objectives that are left out of the races, with the reasons."""
NOISELESS = ("dsm", "multi_dsm")
"""Objectives without a setting `data_noise`."""
MANY_LEVELS = {
    "2-D": ["energy=noise_mlp", "energy.hidden=[128,128]"],
    "64-D": ["energy=noise_mlp", "energy.hidden=[128,128]"],
    "28x28": ["energy=noise_conv"],
}
LEFT_OUT = {("sm", "28x28"): "784 second derivatives a step, some 300 times the cost of ssm, which has its minimiser"}
ON_IMAGES = {"cnce": ("objective.copies=1",), "mpf": ("objective.copies=1",), "ed": ("objective.samples=4",)}
"""Fewer chains on images, to save time."""
WITH_TWO = {"2-D": ("cd", "pcd", "dsm", "ssm", "sm", "nce"), "64-D": (), "28x28": ("cd", "dsm", "ssm")}
"""Objectives that are also raced with two threads; the others are variations of these."""


@dataclass(frozen=True)
class Case:
    """`kind`: samplers or steps; `what`: the sampler or the objective; `where`: the energy; `overrides`: of the lab's
    config; `chains`: how many, or the batch; `steps` of a call or of a training step's chains; `one_thread`: only
    with one, where a second has nothing to do or the case is too long; `short`: only ours and the reference."""

    kind: str
    what: str
    where: str
    overrides: tuple[str, ...]
    chains: int
    steps: int = 0
    leapfrog: int = 1
    one_thread: bool = False
    short: bool = False

    @property
    def name(self) -> str:
        return f"{self.what}, {self.where}"

    @property
    def gradients(self) -> int:
        """Count the gradients in x per chain in one call of a sampler that reuses all it can."""
        return self.steps * self.leapfrog + (self.what != "langevin")


def sampler_cases() -> list[Case]:
    """Langevin, MALA and HMC on a perceptron, on convolutions and on Gaussians."""
    found = []
    for what in ("langevin", "mala", "hmc"):
        for net, chains, steps in (("2-D", 2000, 10), ("28x28", 64, 5)):
            found.append(sampler_case(what, f"{WORDS[net]}, {chains:,} chains", NETWORKS[net], PLAIN, chains, steps))
        for dim in (10, 1000):
            where = ("dataset=gaussian", f"dataset.dim={dim}", "dataset.train=2000", "dataset.held_out=100")
            for chains in (1, 100, 10_000):
                numbers = dim * chains
                if numbers > 1_000_000 and what != "langevin":
                    continue  # nearly all of the step is two products of large matrices, so one case is enough
                name = f"Gaussian in {dim:,}-D, {chains:,} chain{'s' if chains > 1 else ''}"
                steps = 20 if numbers <= 1000 else 10 if numbers <= 100_000 else 1
                case = sampler_case(what, name, (*where, "energy=gaussian"), (), chains, steps)
                found.append(replace(case, one_thread=True, short=numbers > 1_000_000))
    return found


def sampler_case(what: str, where: str, network: Sequence[str], energy: Sequence[str], chains: int, steps: int) -> Case:
    leapfrog = 5 if what == "hmc" else 1
    steps = max(1, steps // leapfrog)
    own = [f"sampler={what}", f"sampler.steps={steps}", "sampler.step_size=0.1"]
    own += ["sampler.noise_scale=1.0"] if what == "langevin" else ["sampler.mass=identity"]
    own += [f"sampler.leapfrog={leapfrog}"] if what == "hmc" else []
    overrides = (*network, *energy, "objective=dsm", "objective.sigma=0.1", *own)
    return Case("samplers", what, where, overrides, chains, steps, leapfrog)


def step_cases() -> list[Case]:
    """One training step of every objective on every network, but for what is left out."""
    found = []
    for net, usual in NETWORKS.items():
        for what, counts in COUNTS.items():
            if (what, net) in LEFT_OUT:
                continue
            network: Sequence[str] = usual
            batch = 64 if net == "28x28" else 256
            own = [f"objective={what}", f"batch_size={batch}", *PLAIN, *counts]
            own += ON_IMAGES.get(what, ()) if net == "28x28" else ()
            own += [] if what in NOISELESS else ["objective.data_noise=0.0"]
            if what == "multi_dsm":
                own = [o for o in own if not o.startswith("energy.")]
                network = [o for o in network if not o.startswith("energy")] + MANY_LEVELS[net]
            where = f"{WORDS[net]}, batch {batch}"
            steps = 10 if has_chains(what) else 0
            found.append(
                Case("steps", what, where, (*network, *own), batch, steps, one_thread=what not in WITH_TWO[net])
            )
    return found


def level_cases() -> list[Case]:
    """One training step of a U-Net of many noise levels, as a score and as an energy, on images."""
    data = [o for o in NETWORKS["28x28"] if o.startswith("dataset")]
    own = ["objective=multi_dsm", *COUNTS["multi_dsm"], "batch_size=64", "energy.norm=group", "energy.patch=2"]
    own += [o for o in PLAIN if not o.startswith("energy.")]
    nets = {"score": ("energy=score_unet",), "energy": ("energy=noise_unet", "energy.form=half")}
    return [
        Case("levels", "multi_dsm", f"U-Net as {what}, 28 x 28 pixels, batch 64", (*data, *net, *own), 64)
        for what, net in nets.items()
    ]


def has_chains(objective: str) -> bool:
    """Return whether a step of the objective runs chains."""
    return COUNTS[objective][: len(CHAIN)] == CHAIN


def filled(overrides: Sequence[str], images: str) -> list[str]:
    """Return the overrides with the file of images filled in."""
    return [o.replace("{images}", images) for o in overrides]


def left_out() -> Mapping[str, str]:
    """Return the names of cases that are left out, with the reasons."""
    return NOT_RACED | {f"{what}, {WORDS[net]}": why for (what, net), why in LEFT_OUT.items()}
