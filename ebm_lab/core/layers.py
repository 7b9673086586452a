"""Building blocks that several energies share."""

from typing import Literal

from torch import Tensor, nn

from ebm_lab.core.errors import UserError

Activation = Literal["silu", "softplus", "tanh", "gelu", "relu", "leaky_relu"]
_MODULES: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
}
NON_SMOOTH = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish)
"""Activations whose second derivative is zero almost everywhere: score matching loses its trace term with them."""


def make_activation(name: str) -> nn.Module:
    return _MODULES[name]()


def initialise(net: nn.Module) -> None:
    """He's initialisation of every linear layer but the last: weights N(0, 2 / fan_in), biases N(0, 1).

    torch's default lets the signal shrink from layer to layer, and chain-based training then rests for thousands of
    steps on densities without fine structure (a ring for eight Gaussians).
    Kaiming He et al., Delving Deep into Rectifiers, 2015, equation 10.
    """
    *hidden, _ = [m for m in net.modules() if isinstance(m, nn.Linear)]
    for layer in hidden:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(layer.bias)


def require_smooth(energy: nn.Module, who: str) -> None:
    """Refuse an energy that is not twice differentiable, for objectives that differentiate its score."""
    for module in energy.modules():
        if isinstance(module, NON_SMOOTH):
            raise UserError(
                f"objective '{who}' differentiates the score, and {type(module).__name__} in the energy has no second "
                f"derivative: choose a smooth one, energy.activation=silu"
            )


def quadratic(u: Tensor, width: float | None) -> Tensor | float:
    """|u|^2 / (2 width^2) per sample, (B, ...) -> (B,); 0 where width is None."""
    return 0.0 if width is None else u.flatten(1).square().sum(1) / (2 * width**2)
