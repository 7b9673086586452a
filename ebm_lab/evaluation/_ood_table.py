"""What evaluation=ood says and draws of its scores: which one wins, and the ROC curves."""

from collections.abc import Mapping

from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Report
from ebm_lab.statistics.detection import detection, labelled

TRIVIAL = ("intensity", "distance", "constant")
"""Baselines that have learnt nothing."""
STRONG = ("nearest",)
"""A baseline that is often hard to beat: it keeps all the training points."""
COLOURS = {
    "energy": "#1f5fa8",
    "gradient": "#d95f02",
    "typicality": "#1b9e77",
    "residual": "#8e5ea2",
    "max_prob": "#b15928",
    "entropy": "#e78ac3",
    "refined": "#a6261d",
    "truth": "#c9a400",
    "nearest": "#4d4d4d",
}
Pairs = dict[str, tuple[Tensor, Tensor]]
"""By name of the detection score, its values for held-out points and for the other set."""


def pair(score: str, real: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return both unchanged, but intensity with the sign for which its AUROC is at least one half."""
    return (-real, -other) if score == "intensity" and detection(real, other)[0] < 0.5 else (real, other)


def pairs_of(name: str, real: Mapping[str, Tensor], other: Mapping[str, Tensor], report: Report) -> Pairs:
    """Return the pairs of the scores that are numbers, infinite ones too; a line of the report names the others."""
    found = {}
    for score, values in other.items():
        if lost := int(values.isnan().sum() + real[score].isnan().sum()):
            report.notes.append(f"ood, {name}: the score '{score}' of {lost} points is not a number, and left out")
        else:
            found[score] = pair(score, real[score], values)
    return found


def verdict(metrics: dict[str, float], name: str, scores: list[str]) -> str:
    """Return one line that compares the best of the model's scores with the best trivial one, and with the nearest
    training point."""

    def best(some: list[str]) -> tuple[float, str]:
        return max((metrics[f"ood_auroc_{s}_{name}"], s) for s in some)

    others = (*TRIVIAL, *STRONG, "truth")
    if not (mine := [s for s in scores if s not in others]):
        return f"ood, {name}: no score of the model is a number"
    trivial, own = best([s for s in scores if s in TRIVIAL]), best(mine)
    if trivial[0] >= own[0]:
        says = "beats the model" if trivial[0] > own[0] else "does as well as the model"
        found = f"a trivial baseline {says}: AUROC {trivial[0]:.3f} of {trivial[1]}, {own[0]:.3f} of {own[1]}"
    else:
        found = f"best of the model's scores is {own[1]}, AUROC {own[0]:.3f}; {trivial[1]} alone {trivial[0]:.3f}"
    strong = [f"; distance to the nearest training point {best([s])[0]:.3f}" for s in scores if s in STRONG]
    return f"ood, {name}: {found}{''.join(strong)}"


def roc(metrics: dict[str, float], pairs: dict[str, Pairs]) -> Tensor:
    """Draw the ROC curves of all scores, one panel for each set."""
    from sklearn.metrics import roc_curve

    def draw(fig) -> None:
        for axes, (name, scores) in zip(fig.subplots(1, len(pairs), squeeze=False)[0], pairs.items(), strict=True):
            for score, (inside, outside) in scores.items():
                fpr, tpr, _ = roc_curve(*labelled(inside, outside))
                colour = COLOURS.get(score, "0.6" if score == "constant" else "black")
                plain = {"lw": 1.2, "ls": "--", "color": colour}
                style = plain if score in (*TRIVIAL, *STRONG) else {"lw": 1.8, "color": colour}
                key = f"ood_auroc_{score}_{name}"
                low, high = (metrics.get(f"{key}_{end}") for end in ("low", "high"))
                range_ = "" if low is None else f" [{low:.3f}, {high:.3f}]"
                axes.plot(fpr, tpr, label=f"{score} {metrics[key]:.3f}{range_}", **style)
            axes.axhline(0.95, color="0.8", lw=0.8, ls=":")
            axes.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axes.set(xlabel=f"share of '{name}' that passes", ylabel="share of held-out data that passes")
            axes.set_title(f"{len(inside):,} held-out, {len(outside):,} {name}")
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
            axes.legend(frameon=False, fontsize=9, title="AUROC [95 % interval]", **below)

    return pictures.figure(draw, 4.3 * len(pairs), 5.6 + 0.22 * max(map(len, pairs.values())))
