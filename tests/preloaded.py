"""Import what a training run imports, in the process that tests/commands.py forks."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hydra  # noqa: F401
import torch
import torchvision.utils  # noqa: F401

import ebm_lab.cli.main
import ebm_lab.cli.settle
import ebm_lab.runs.assemble
import ebm_lab.runs.train  # noqa: F401

torch.set_num_threads(1)
