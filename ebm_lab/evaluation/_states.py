"""The model and the truth at every point of a small discrete space, and what follows exactly from the two tables.

    kl_forward = KL(p || q),    kl_reverse = KL(q || p),    support_mass = sum of q(x) over the x with p(x) > 0

q is the model, p the data's law. Where p lacks points of the space KL(q || p) is infinite for every model with a smooth
energy; the mass that q has on p's points is reported in its place. p is kept, since it does not change in training.
"""

import torch
from torch import Tensor

from ebm_lab.core.eval_view import EvalView
from ebm_lab.distributions.enumeration import at_all, divergence, energies, few_states


def all_energies(view: EvalView) -> Tensor | None:
    """Return E at all points, (states,) in float64 on the CPU; None where they are too many or no bits or
    categories."""
    sites = few_states(view.dataset)
    return None if sites is None else energies(view.energy, sites, view.dataset.train)


class Truth:
    """The data's law at all points, computed once."""

    def __init__(self) -> None:
        self._log_p: Tensor | None = None

    def log_p(self, view: EvalView) -> Tensor | None:
        """Return log p at all points, (states,) in float64 on the CPU; None where it isn't known or they are too
        many."""
        data, sites = view.dataset, few_states(view.dataset)
        if sites is None or data.log_prob(data.val[:1]) is None:
            return None
        if self._log_p is None:
            self._log_p = at_all(data.log_prob, sites, data.train)  # type: ignore[arg-type]
        return self._log_p

    def compare(self, view: EvalView, log_q: Tensor) -> dict[str, float]:
        """Return both divergences of the model with log q at all points, (states,), or the mass on p's points; {} where
        p isn't known."""
        log_p = self.log_p(view)
        if log_p is None:
            return {}
        found = {"kl_forward": divergence(log_p, log_q), "kl_forward_se": 0.0}
        inside = log_p > -torch.inf
        if bool(inside.all()):
            return found | {"kl_reverse": divergence(log_q, log_p), "kl_reverse_se": 0.0}
        return found | {"support_mass": float(log_q[inside].exp().sum())}
