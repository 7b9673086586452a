"""The targets of the benchmark, and the results that miss them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OURS = ("ours", "ours compiled")
NOWHERE_ABOVE = 1.05
LOOP, START, GROWTH, ENERGY = 1.03, 3.0, 1.1, 2.2


@dataclass(frozen=True)
class Target:
    """The median ratio to the plain loop, CPU time of one thread, of the better of `who` is at most `most`."""

    kind: str
    what: str
    where: str
    most: float
    who: tuple[str, ...] = OURS


TARGETS = (
    Target("steps", "ssm", "perceptron", 0.55),
    Target("steps", "dsm", "perceptron", 0.55),
    Target("steps", "cd", "perceptron", 0.80),
    Target("steps", "pcd", "perceptron", 0.80),
    Target("steps", "sm", "perceptron", 0.60),
    *(
        Target("steps", what, "perceptron 2-", most, ("ours",))  # as it is, for most runs are too short to compile
        for what, most in (("cd", 0.65), ("pcd", 0.65), ("ssm", 0.55), ("dsm", 0.70), ("nce", 0.70))
    ),
    Target("levels", "multi_dsm", "U-Net", 1.00, ("ours",)),
    Target("levels", "multi_dsm", "U-Net", 0.75, ("ours compiled",)),
    Target("samplers", "langevin", "perceptron", 0.75, ("ours",)),
    Target("samplers", "langevin", "convolutions", 0.85, ("ours",)),
    Target("samplers", "langevin", "convolutions", 0.45, ("ours bf16",)),
    Target("samplers", "mala", "perceptron", 0.85, ("ours",)),
    Target("samplers", "mala", "convolutions", 0.85, ("ours",)),
    Target("samplers", "hmc", "perceptron", 0.85, ("ours",)),
    Target("samplers", "hmc", "convolutions", 0.85, ("ours",)),
)


@dataclass(frozen=True)
class Miss:
    """A result that misses its target; `profile`: its time by operation."""

    case: str
    target: str
    measured: str
    profile: str = ""


def best(record: Mapping[str, Any], who: Sequence[str] = OURS) -> str | None:
    """Return the participant among `who` with the smallest ratio; None if none took part."""
    there = [name for name in who if name in record["results"]]
    return min(there, key=lambda name: record["results"][name]["cpu"]["ratio"]["middle"], default=None)


def misses(parts: Mapping[str, Any]) -> Iterator[Miss]:
    """List all misses, in the order of the parts that were run."""
    for kind in ("samplers", "steps", "levels"):
        for record in parts.get(kind, {}).get("results", ()):
            if record["threads"] == 1:
                yield from race_misses(record)
    share = energy_over_score(parts)
    if share is not None and share > ENERGY:
        yield Miss("levels, U-Net as energy", f"at most {ENERGY:g} steps of the score", f"{share:.2f}")
    for record in parts.get("loop", {}).get("results", ()):
        if record["overhead"]["middle"] > LOOP:
            extra = 100 * (record["overhead"]["middle"] - 1)
            yield Miss(f"loop, {record['name']}", f"at most {100 * (LOOP - 1):.0f} % over the steps", f"{extra:.1f} %")
    start = parts.get("startup", {}).get("results")
    if start and start["startup_seconds"] > START:
        yield Miss("start-up to the first step", f"at most {START:g} s", f"{start['startup_seconds']:.1f} s")
    for record in parts.get("growth", {}).get("results", ()):
        if record["slope"]["ours"] > GROWTH:
            yield Miss(f"growth with {record['what']}", f"slope at most {GROWTH:g}", f"{record['slope']['ours']:.2f}")
    yield from gap_misses(parts.get("gap", {}).get("results", ()))


def energy_over_score(parts: Mapping[str, Any]) -> float | None:
    """Return our time of one eager step of the U-Net as an energy over that as a score, CPU time of one thread."""
    records = [r for r in parts.get("levels", {}).get("results", ()) if r["threads"] == 1]
    seconds = {r["where"].split(",")[0]: r["results"]["ours"]["cpu"]["seconds"] for r in records}
    return seconds["U-Net as energy"] / seconds["U-Net as score"] if seconds else None


def race_misses(record: Mapping[str, Any]) -> Iterator[Miss]:
    name, results = f"{record['what']}, {record['where']}", record["results"]
    profile = ", ".join(f"`{op}` {100 * share:.0f} %" for op, share in record["profile"].items())
    for t in TARGETS:
        if (t.kind, t.what) != (record["kind"], record["what"]) or not record["where"].startswith(t.where):
            continue
        who = best(record, t.who)
        ratio = results[who]["cpu"]["ratio"] if who else None
        if ratio is None:
            yield Miss(name, f"{t.who[0]} at most {t.most:.2f}", "did not take part", profile)
        elif ratio["middle"] > t.most:
            only = t.who[0] if len(t.who) == 1 and t.kind != "samplers" else ""
            mode = {"ours": ", not compiled", "ours compiled": ", compiled"}.get(only, "")
            yield Miss(name, f"at most {t.most:.2f}{mode}", _interval(ratio), profile)
    who = best(record)
    if who is None:
        return
    ratio = results[who]["cpu"]["ratio"]
    if ratio["low"] > NOWHERE_ABOVE:
        yield Miss(name, f"lower bound at most {NOWHERE_ABOVE}", _interval(ratio), profile)
    for peer, against in record["against"].get(who, {}).items():
        if against["low"] > 1:
            yield Miss(name, f"not slower than {peer}", f"{_interval(against)} of its time", profile)


def gap_misses(records: Sequence[Mapping[str, Any]]) -> Iterator[Miss]:
    """List the misses against the better peer's gap, at its CPU time and at half of it."""
    for r in records:
        theirs = r["peers"][r["best"]]["gap"]
        for share, mine in r["ours"].items():
            if not mine["gap"] < theirs:
                when = "at equal CPU time" if share == "equal" else "at half the CPU time"
                target = f"below {r['best']}'s {theirs:.3f} nats {when}"
                yield Miss(f"gap, {r['objective']}, {r['dataset']}", target, f"{mine['gap']:.3f} nats")


def _interval(ratio: Mapping[str, float]) -> str:
    return f"{ratio['middle']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
