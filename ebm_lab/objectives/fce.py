"""Flow-contrastive estimation: noise-contrastive estimation whose noise is a flow that learns too.

    V = E_p[ log sigmoid(h(x)) ] + E_q[ log sigmoid(-h(x)) ],    h = log p_theta - log q,  log p_theta = -E - c
    energy and c:  max V        flow q:  min V, through its samples and its density

For a fixed flow, -V is the loss of noise-contrastive estimation with one noise point per datum: E + c = -log p at its
optimum, whatever the flow, and there V = 2 JS(p, q) - 2 log 2. So the flow descends the Jensen-Shannon divergence to
the data, not the likelihood; it begins at the likelihood's optimum. The nearer it comes to the data, the smaller the
variance of c.

Ruiqi Gao, Erik Nijkamp, Diederik P. Kingma, Zhen Xu, Andrew M. Dai and Ying Nian Wu, Flow Contrastive Estimation of
Energy-Based Models, 2020, arXiv:1912.00589.
"""

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, frozen, stacked
from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Dataset, Loss, Objective, Sampleable, Turn
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register
from ebm_lab.distributions.elementary import Distribution
from ebm_lab.distributions.flow import Flow
from ebm_lab.objectives._log_z import log_z_under


def flow_contrast(
    energy: EnergyFn, log_z: Tensor, x: Tensor, x_flow: Tensor, flow: Distribution
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (value, h of the data, h of the flow's samples), (B,) each, of which the mean value is V; x and x_flow
    are (B, *shape)."""
    h = -torch.cat(stacked(energy, x, x_flow)) - log_z - flow.log_prob(torch.cat([x, x_flow]))
    h_data, h_flow = h.split(len(x))
    return logsigmoid(h_data) + logsigmoid(-h_flow), h_data, h_flow


@register("objective", "fce")
class FCE(Objective):
    """Train the energy and its log Z against a flow.

    `energy_steps`: turns of the energy for one of the flow. `fit_steps`: steps of maximum likelihood by which the flow
    is fitted to the data at the start. `data_noise`: std of Gaussian noise added to the data, in units of the data's
    scale.
    """

    metrics = (Metric("loss_flow", good="lower"),)
    headline = ("loss", "loss_flow", "accuracy", "log_z", "lr", "lr_flow")
    needs = (Need("energy", "energy"), Need("dataset", "continuous"))
    needs_float32 = "classifies data and samples of the flow by energies minus log-densities"

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        *,
        energy_steps: PositiveInt,
        fit_steps: NonNegativeInt,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.generator, self.energy_steps, self.data_noise = generator, energy_steps, data_noise * dataset.scale
        floor = 1e-3 * float(dataset.train.flatten(1).double().var(0).mean()) + self.data_noise**2
        self.flow = Flow(dataset.train, floor**0.5, 1.0, generator, fit_steps)
        self.flow.net.requires_grad_(True)
        self.notes.append(self.flow.told)
        self.log_z = nn.Parameter(log_z_under(energy, self.flow, generator))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"energy": [*self.energy.parameters(), self.log_z], "flow": list(self.flow.parameters())}

    def turn(self, step: int) -> Turn:
        return Turn(("energy",) if step % (self.energy_steps + 1) else ("flow",))

    def origin(self) -> Sampleable:
        return self.flow

    def learnt_log_z(self) -> Tensor:
        return self.log_z

    def forward(self, batch: Batch, turn: Turn = ALL_PLAYERS) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        losses, metrics = [], {}
        if turn.moves("energy"):
            with frozen(self.flow):
                x_flow = self.flow.sample(len(x), self.generator)
                values, h, h_flow = flow_contrast(self.energy, self.log_z, x, x_flow, self.flow)
            losses.append(-values.mean())
            accuracy = 0.5 * ((h > 0).float().mean() + (h_flow < 0).float().mean())
            metrics = {"loss": losses[-1].detach(), "accuracy": accuracy, "log_z": self.log_z.detach().clone()}
        if turn.moves("flow"):
            with frozen(self.energy):
                x_flow = self.flow.rsample(len(x), self.generator)
                values = flow_contrast(self.energy, self.log_z.detach(), x, x_flow, self.flow)[0]
            losses.append(values.mean())
            metrics["loss_flow"] = losses[-1].detach()
        return Loss(sum(losses[1:], losses[0]), metrics, grad_evals=2 * len(x) * len(losses))
