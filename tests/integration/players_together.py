"""What two processes with two players do at once, for tests/integration/test_players_together.py.

Each is `python -m tests.integration.players_together <folder>`."""

import sys
from pathlib import Path

import torch

from ebm_lab.runs.assemble import assemble
from ebm_lab.training.distributed import Processes
from tests.integration.test_players import METHODS, cooperative, saved, steps
from tests.runs.test_resume import same
from tests.together import Recorded, double

LAST = 12
"""Two rounds: in each, five turns of the generator and one of the energy."""


def built(processes=None):
    """A trainer of the two players in float64, and its batches, made before draws are recorded."""
    trainer, _ = assemble({**cooperative(), "compile": "off"}, processes or Processes())
    for part in (trainer, trainer.state.objective):
        double(part, set())
    trainer.state.ema.average = [p.double() for p in trainer.state.ema.average]
    made = {step: trainer.batches(step) for step in range(1, LAST + 1)}
    trainer.batches = lambda step: [b._replace(x=b.x.double()) for b in made[step]]
    return trainer


def weights(trainer):
    """Parameters and averages, by player, after each step up to LAST."""
    found = []
    for step in range(1, LAST + 1):
        steps(trainer, step)
        ema = trainer.state.ema
        now = {name: [p.detach().clone() for p in o.parameters] for name, o in trainer.state.optimisers.items()}
        found.append({**now, "average": [p.clone() for p in ema.average]})
    return found


def resumes(name, processes):
    """Step 9, saved and taken up by a new trainer of each process, then to 20: the bits of 20 steps straight."""
    straight, first, second = (assemble(METHODS[name](), processes)[0] for _ in range(3))
    steps(straight, 20)
    steps(first, 9)
    second.state.restore(saved(first))
    steps(second, 20)
    same(saved(straight), saved(second))


def main(folder):
    processes = Processes.join()
    trainer = built(processes)
    with Recorded() as recorded:
        found = weights(trainer)
    torch.save((found, recorded.draws), folder / f"players{processes.rank}.pt")
    for name in ("cooperative, adapting", "nested, adapting"):
        resumes(name, processes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
