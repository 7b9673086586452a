"""Torch's optimisers that leave its compiler alone are torch's optimisers, and the compiler's import stays away."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from ebm_lab.training.uncompiled import uncompiled

KINDS = [(torch.optim.AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.1}), (torch.optim.SGD, {"momentum": 0.9})]


@pytest.mark.parametrize("kind, settings", KINDS)
def test_steps_and_state_are_those_of_torch_bit_for_bit(kind, settings, generator):
    mine, theirs = ([nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(5))] for _ in range(2))
    own, torchs = uncompiled(kind)(mine, 0.1, fused=True, **settings), kind(theirs, 0.1, fused=True, **settings)
    for step in range(6):
        if step == 3:  # as on resuming
            own.load_state_dict(copy.deepcopy(own.state_dict()))
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        own.step()
        torchs.step()
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert str(own.state_dict()) == str(torchs.state_dict())
    own.zero_grad()
    assert all(p.grad is None for p in mine)
    assert not any(p.requires_grad is False or p.grad_fn for p in mine)


@pytest.mark.slow
def test_a_run_never_imports_the_compiler_that_it_does_not_use(tmp_path):
    code = (
        "import sys, ebm_lab; "
        "ebm_lab.train(['dataset=two_moons', 'steps=2', 'evaluation=[]', 'logger=none', 'compile=off'], quiet=True); "
        "print(sorted({'torch._dynamo', 'torch._inductor'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr[-2000:]
