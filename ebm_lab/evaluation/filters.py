"""The filters of a restricted Boltzmann machine on images: the weights W_j of each hidden unit, in the pixels' places.

Grey is 0, white the largest positive weight drawn and black the largest negative one, on one scale for all filters.
They are in the order of their lengths |W_j|, the longest first. A unit whose filter is short compared with the others
says nearly the same for every image, and adds little but a constant to the energy.

Geoffrey E. Hinton, A Practical Guide to Training Restricted Boltzmann Machines, 2012, section 15.1.
"""

from pydantic import PositiveInt

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import register
from ebm_lab.evaluation._extras import filters

SHORT = 0.1
"""Filters shorter than this share of the longest count as short."""


@register("evaluation", "filters")
class Filters(Evaluation):
    """Draw the filters of hidden units. `shown`: filters in the picture, at most."""

    metrics = (
        Metric("filters"),
        Metric("filters_short", meaning=f"hidden units whose filter is shorter than {SHORT:g} of the longest."),
    )
    needs = (Need("dataset", "images", why="the data are no images, so that filters can't be drawn"),)
    silent = True

    def __init__(self, *, shown: PositiveInt) -> None:
        self.shown = shown

    def applies(self, view: EvalView) -> str | None:
        w = filters(view.energy)
        fits = w is not None and w.ndim == 2 and w.shape[1] == view.dataset.mean.numel()
        channels = view.dataset.event_shape[0]
        if not fits:
            return "the energy has no hidden units with a weight for each pixel, as energy=rbm has"
        return None if channels in (1, 3) else f"images of {channels} channels can't be drawn"

    def __call__(self, view: EvalView) -> Report:
        w = filters(view.energy)
        assert w is not None, "applies() asks for them"
        lengths = w.square().sum(1).sqrt()
        order = lengths.argsort(descending=True)
        drawn = w[order[: self.shown]].view(-1, *view.dataset.event_shape)
        most = max(float(drawn.abs().max()), 1e-12)
        short = float((lengths < SHORT * lengths.max()).sum())
        picture = pictures.grid(drawn, (-most, most))
        return Report({"filters": float(len(w)), "filters_short": short}, {"filters": picture})
