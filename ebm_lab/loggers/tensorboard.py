"""TensorBoard: the run's scalars and images as event files in <run>/tensorboard.

`tensorboard --logdir outputs/runs` shows all runs side by side.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import yaml
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import RunInfo
from ebm_lab.core.registry import metrics, register


@register("logger", "tensorboard")
class TensorBoard:
    """Write scalars and images for TensorBoard; the config is its text `config`, the results of the test split its
    scalars test/<metric>.

    The first call of a process opens a new event file. Where the step falls back, after a rollback or on resuming a run
    that was killed, TensorBoard is told to drop what had been written from that step on, since the run writes it again.
    """

    def __init__(self, info: RunInfo) -> None:
        if find_spec("tensorboard") is None:
            raise UserError("logger=tensorboard: not installed here: pip install 'ebm_lab[tensorboard]'")
        self.info = info
        self.writer: Any = None
        self.step = 0

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        writer = self._at(step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def image(self, name: str, image: Tensor, step: int) -> None:
        self._at(step).add_image(name, image.numpy(), step)

    def close(self, summary: Mapping[str, Any]) -> None:
        if self.writer is not None:
            for name in (n for n in summary if metrics().find(n)):
                self.writer.add_scalar(f"test/{name}", summary[name], self.step)
            self.writer.close()

    def _at(self, step: int) -> Any:
        """Return a writer whose file holds no later step than this one."""
        if self.writer is None or step < self.step:
            from torch.utils.tensorboard import SummaryWriter

            self.close({})
            self.writer = SummaryWriter(str(self.info.path / "tensorboard"), purge_step=step)
            text = yaml.safe_dump(dict(self.info.config), sort_keys=False)
            self.writer.add_text("config", f"    {text.replace(chr(10), chr(10) + '    ')}", step)
        self.step = step
        return self.writer
