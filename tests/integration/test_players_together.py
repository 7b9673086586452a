"""Two players on two processes: the steps of both are those that one process takes on the same batches."""

from itertools import pairwise

import pytest
import torch

from tests.exhaustive import exhaustive
from tests.integration import methods, players_together  # noqa: F401 (registers)
from tests.training.test_distributed import Joined, two_processes


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes left behind: weights after each step and draws, by rank."""
    folder = tmp_path_factory.mktemp("players")
    two_processes("tests.integration.players_together", folder)
    return [torch.load(folder / f"players{r}.pt", weights_only=False) for r in range(2)]


@exhaustive
def test_two_processes_take_the_steps_of_one_on_the_same_batches(together):
    """In float64, with the draws of both put together; after 12 steps, of which each process has half of every batch.
    That they stop and resume with the bits of a straight run has been seen where they ran (players_together.py)."""
    (mine, drawn), (other, drawn_there) = together
    whole = players_together.built()
    with Joined([list(drawn), list(drawn_there)], 32, False):
        alone = players_together.weights(whole)
    for step, (a, b, c) in enumerate(zip(mine, other, alone, strict=True), 1):
        assert a.keys() == {"energy", "net", "average"}
        for name in a:
            for p, q, r in zip(a[name], b[name], c[name], strict=True):
                assert torch.equal(p, q), (step, name)
                assert torch.allclose(p, r, rtol=1e-10, atol=1e-12), (step, name)
    moved = [[n for n in ("energy", "net") if not torch.equal(a[n][0], b[n][0])] for a, b in pairwise(mine)]
    assert moved == [*4 * [["net"]], ["energy"], *5 * [["net"]], ["energy"]]
    assert any(not torch.equal(x, y) for (_, x), (_, y) in zip(drawn, drawn_there, strict=True)), "streams of their own"
