"""Train a data set's feature classifier and fit its mixture of Gaussians before any run needs them."""

import sys
import time
from collections.abc import Sequence

from ebm_lab.cli.commands import command, import_from_here
from ebm_lab.cli.compose import compose_config, keys_of
from ebm_lab.core.errors import UserError
from ebm_lab.runs.isolation import isolated

HELP = """Train the classifier whose features evaluation=feature_fid uses to compare images, and fit the mixture of
Gaussians that it reports as a baseline; both are kept under <output_dir>/features.

    python scripts/features.py dataset=digits
    python scripts/features.py dataset=fashion_mnist dataset.root=data evaluation.feature_fid.network.width=128

Arguments are those of train.py that concern the data set, output_dir, device, threads and evaluation.feature_fid.*"""

CONCERNED = ("dataset", "output_dir", "device", "threads", "max_train", "preprocess", "evaluation", "plugins")


@isolated()
def features(overrides: Sequence[str]) -> None:
    """Compose the data set as train.py does, make what is missing, and print the accuracy and the directory."""
    import torch

    from ebm_lab.core.registry import build
    from ebm_lab.evaluation.feature_fid import unfit
    from ebm_lab.runs.parts import build_dataset
    from ebm_lab.runs.settings import import_plugins, pick_device, pick_threads, run_settings

    for override, key in zip(overrides, keys_of(overrides), strict=True):
        if key not in CONCERNED:
            raise UserError(f"{override}: does not concern the features; allowed: {', '.join(CONCERNED)}")
    config = compose_config(["evaluation=[feature_fid]", *overrides])
    settings = run_settings(config)
    import_plugins(settings.plugins)
    dataset = build_dataset(config, settings, pick_device(settings.device))
    torch.set_num_threads(pick_threads(settings.threads, dataset))
    name = config["dataset"]["name"]
    if (reason := unfit(dataset)) is not None:
        raise UserError(f"dataset={name}: {reason}")
    values = config["evaluation"]["feature_fid"]
    wiring = {"dataset": dataset, "output_dir": settings.output_dir}
    evaluation = build("evaluation", values, "evaluation.feature_fid", **wiring)
    began = time.perf_counter()
    (net, _), notes = evaluation.prepare()
    print(*(notes or [f"found under {evaluation.folder}"]), sep="\n")
    labels = dataset.labels or {}
    accuracy = {split: net.accuracy(getattr(dataset, split), y) for split, y in labels.items()}
    print(f"accuracy on {name}: " + ", ".join(f"{split} {value:.4f}" for split, value in accuracy.items()))
    print(f"{time.perf_counter() - began:.1f} s")


def main() -> None:
    """Run the command line of `scripts/features.py`."""
    arguments = sys.argv[1:]
    with command():
        if not arguments or {"-h", "--help"} & set(arguments):
            print(HELP)
            return
        import_from_here()
        features(arguments)
