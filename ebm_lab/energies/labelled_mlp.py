"""A multilayer perceptron of a point and its class, plus a fixed quadratic that makes Z exist.

    E(x, y) = -f_y(u) + |W (x - mean)|^2 / (2 confine^2),    u = (x - mean) / scale,  W = 1 / scale or a whitening

with the mean and the scale of the training data (models/labelled.py).
"""

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.labelled import Condition, Labelled
from ebm_lab.models.layers import Activated, Activation, ConfineShape, initialise, perceptron_layers


@register("energy", "labelled_mlp")
class LabelledMLP(Activated, Labelled):
    """Any event shape, flattened, with class labels; He's initialisation. `hidden`: widths of the hidden layers;
    `condition`: how f depends on the class, by `logits` or by an `embedding`; `confine`: the quadratic's width in units
    of the data's scale, null for none; `confine_shape`: isotropic, or the data's covariance; `base`: a law fitted to
    the data in the quadratic's place (models/base.py)."""

    mean: Tensor

    def __init__(
        self,
        dataset: Dataset,
        *,
        hidden: list[PositiveInt],
        condition: Condition,
        activation: Activation,
        confine: PositiveFloat | None,
        confine_shape: ConfineShape,
        confine_floor: PositiveFloat,
        base: BaseName,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", dataset.mean.clone())
        self.scale = dataset.scale
        self.build_anchor(dataset, base, confine, confine_shape, confine_floor)
        widths = [self.mean.numel(), *hidden]
        layers = perceptron_layers(widths, activation)
        last = nn.Linear(widths[-1], self.outputs(dataset, condition))
        self.net = nn.Sequential(*layers, last)
        initialise(self.net)
        self.build_labels(dataset, condition, {str(2 * i): width for i, width in enumerate(hidden)}, last)
        self.look_along_hidden(self.net[0], dataset)

    def features(self, x: Tensor, y: Tensor | None) -> Tensor:
        h = ((x - self.mean) / self.scale).flatten(1)
        return self.through(self.net, h if self.bound is None else self.bound(h), y)
