"""The command line of `train.py`."""

import os
import sys
import time
from itertools import pairwise
from pathlib import Path

BEGAN = time.perf_counter()


def main() -> None:
    """Compose, validate, train; see `--help` for the exit status."""
    # Threads that spin while they wait take the cores from every other run of the machine; OpenMP reads this once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.path.insert(0, os.getcwd())
    if {"-h", "--help"} & set(sys.argv[1:]):
        from ebm_lab.cli.manual import manual

        print(manual(), end="")
        return
    from ebm_lab.core.errors import UserError

    try:
        status = _hydra()
    except UserError as error:
        status = complain(error)
    sys.exit(status)


def complain(error: Exception) -> int:
    """Print a user's mistake; returns the exit status for it."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return 2


def _hydra() -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from ebm_lab.cli.compose import check_choices, config_dir, explain
    from ebm_lab.core.errors import UserError

    statuses: list[int] = []

    @hydra.main(config_path=str(config_dir()), config_name="train", version_base="1.3")
    def job(config: DictConfig) -> None:
        many = HydraConfig.get().mode == RunMode.MULTIRUN
        began = (time.perf_counter(), time.process_time()) if many else (BEGAN, 0.0)
        try:
            statuses.append(run_composed(config, list(HydraConfig.get().overrides.task), began))
        except UserError as error:
            statuses.append(complain(error))
        except Exception:
            if not many:
                raise
            import traceback

            traceback.print_exc()
            statuses.append(1)

    args = sys.argv[1:]
    extra = [Path(a) for flag, a in pairwise(args) if flag in ("--config-dir", "-cd")]
    check_choices(args, extra)
    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, args, extra) from None
    return statuses[0] if len(statuses) == 1 else int(any(statuses))


def run_composed(config, overrides: list[str], began: tuple[float, float]) -> int:
    """Run one composed config; returns the exit status."""
    from ebm_lab.cli.api import prepare
    from ebm_lab.run import train

    return train(prepare(config, overrides), began=began).exit_status
