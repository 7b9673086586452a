"""A run whose checkpoints were written on CUDA loads, starts others and resumes on a CPU."""

import pytest
import torch

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.random import stream
from ebm_lab.training import checkpoint
from tests.runs.test_resume import lines, run, same, state

WRITTEN = ("last", "best", "good", "candidate")


def move_to_cuda(path, device="cuda", size=16):
    """Have the checkpoints of a run look as if CUDA had written them: 16 bytes of a generator's state, and its card."""
    for file in (path / "checkpoints" / f"{name}.pt" for name in WRITTEN):
        if file.is_file():
            content = torch.load(file, weights_only=True)
            del content["format"]
            content["generator"] = torch.arange(size, dtype=torch.uint8)
            if device is None:
                del content["machine"]
            else:
                content["machine"] |= {"device": device, "card": "a card"}
            checkpoint.save(file, content)


@pytest.fixture
def cuda_run(tmp_path):
    """A run of pcd, whose checkpoint has chains and a sampler's state, at step 8 of 8."""
    result = run(tmp_path, "a", "objective=pcd", "sampler=mala", "steps=8")
    move_to_cuda(result.path)
    return result


def test_it_loads_samples_and_evaluates(cuda_run):
    loaded = ebm_lab.load_run(cuda_run.path)
    x = torch.tensor([[0.3, -0.5], [1.0, 2.0]])
    assert torch.equal(loaded.energy(x), cuda_run.energy(x))
    assert loaded.sample(3).shape == (3, 2) and loaded.evaluate("mmd").metrics
    assert ebm_lab.load_run(cuda_run.path, which="last", ema=False).step == 8


def test_another_run_starts_from_its_weights(cuda_run, tmp_path):
    result = run(tmp_path, "b", "objective=dsm", f"init_from={cuda_run.path}", "steps=1", "optim.lr=1e-30", "ema=0")
    x = torch.tensor([[0.3, -0.5], [1.0, 2.0]])
    torch.testing.assert_close(result.energy(x), cuda_run.energy(x))


def test_it_resumes_with_new_random_numbers_that_seed_and_step_fix(cuda_run, capsys, monkeypatch):
    from ebm_lab.training.state import State

    restore, began = State.restore, []

    def watched(self, content):
        restore(self, content)
        began.append(self.generator.get_state())

    monkeypatch.setattr(State, "restore", watched)
    resumed = ebm_lab.train([f"resume={cuda_run.path}", "steps=12"], quiet=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resume:")]
    assert "will differ" in line and "cuda -> cpu" in line and "step 8" in line
    assert torch.equal(began[0], stream(0, "objective", 8).get_state())
    assert resumed.status == "finished" and [row["step"] for row in lines(resumed.path)][-1] == 12
    assert state(resumed.path)["machine"]["device"] == "cpu" and "card" not in state(resumed.path)["machine"]


def test_resuming_it_twice_gives_the_same_bits(tmp_path):
    ends = []
    for name in ("a", "b"):
        begun = run(tmp_path, name, "objective=pcd", "steps=4")
        move_to_cuda(begun.path)
        ends.append(state(ebm_lab.train([f"resume={begun.path}", "steps=8"], quiet=True).path))
    same(*ends)


def test_a_rollback_to_a_good_checkpoint_of_the_other_device(cuda_run, tmp_path):
    """`good.pt` may be older than the move to this device."""
    from ebm_lab.runs.assemble import assemble
    from ebm_lab.runs.run_directory import RunDir
    from ebm_lab.runs.saver import RunSaver

    trainer, _ = assemble(RunDir.open(cuda_run.path, "run").read_config())
    content = RunSaver(RunDir(cuda_run.path), "cpu").read("good")
    trainer.state.restore(content)
    step = content["counters"]["step"]
    assert torch.equal(trainer.state.generator.get_state(), stream(0, "objective", step).get_state())


@pytest.mark.parametrize("device", ["cpu", None])
def test_a_damaged_state_of_this_device_is_refused(device, tmp_path):
    """A state of the wrong size is no reason to draw other numbers in silence."""
    begun = run(tmp_path, "a", "objective=dsm", "steps=4")
    move_to_cuda(begun.path, device)
    with pytest.raises(UserError, match="checkpoint does not fit: the state of its random generator"):
        ebm_lab.train([f"resume={begun.path}", "steps=8"], quiet=True)


def test_a_checkpoint_that_does_not_name_its_device_is_taken_as_it_is(tmp_path):
    straight = run(tmp_path, "a", "objective=dsm", "steps=8")
    begun = run(tmp_path, "b", "objective=dsm", "steps=4")
    file = begun.path / "checkpoints" / "last.pt"
    content = torch.load(file, weights_only=True)
    del content["format"], content["machine"]
    checkpoint.save(file, content)
    ended = ebm_lab.train([f"resume={begun.path}", "steps=8"], quiet=True)
    same(state(straight.path)["generator"], state(ended.path)["generator"])


def test_the_name_of_the_card_is_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device}")
    assert checkpoint.machine(torch.device("cuda:1"))["card"] == "card cuda:1"
    assert "card" not in checkpoint.machine(torch.device("cpu"))
