"""Check W&B's environment variables and settings before training, without importing wandb."""

import os
from collections.abc import Sequence

from ebm_lab.core.errors import UserError, one_of

MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")
"""The values of WANDB_MODE that wandb knows."""
FORBIDDEN = "/\\#?%:"
"""Characters that a project's name may not contain."""


def switched_off(mode: str) -> bool:
    """Return whether W&B is disabled: by the setting `mode` or, if that is `auto`, by WANDB_MODE or WANDB_DISABLED."""
    asked = os.environ.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes", "on")
    return mode == "disabled" or (mode == "auto" and (asked or os.environ.get("WANDB_MODE") == "disabled"))


def check_names(project: str, tags: Sequence[str]) -> None:
    """Raise UserError for a project, tag or variable that W&B would refuse after training has begun."""
    if (mode := os.environ.get("WANDB_MODE")) and mode not in MODES:
        raise one_of("WANDB_MODE", mode, MODES)
    if not 1 <= len(project) <= 128:
        raise UserError(f"logger.project={project}: has {len(project)} characters; allowed: 1 to 128")
    if found := [c for c in FORBIDDEN if c in project]:
        raise UserError(
            f"logger.project={project}: contains {' '.join(found)} and W&B allows none of {' '.join(FORBIDDEN)}"
        )
    check_tags("logger.tags", tags)
    if not tags and (text := os.environ.get("WANDB_TAGS")):
        check_tags("WANDB_TAGS", text.split(","))


def check_tags(key: str, tags: Sequence[str]) -> None:
    for number, tag in enumerate(tags, 1):
        if not 1 <= len(tag) <= 64:
            raise UserError(f"{key}: tag {number}, '{tag}', has {len(tag)} characters; allowed: 1 to 64")
