"""`compile=auto`: decided by steps and size, once for a run and its resumes."""

import pytest
import torch

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.runs.assemble import assemble
from ebm_lab.training.compile import passes as compiled
from ebm_lab.training.compile.policy import LARGE, MEDIUM, should_compile
from tests.exhaustive import cases
from tests.runs.test_resume import same, state
from tests.training.test_compiled import CHAINS, POINTS, run

SMALL = MEDIUM - 1


@pytest.mark.parametrize(
    "steps, numbers, gradients, alike, compiles",
    [
        (4999, SMALL, False, 1, False),
        (5000, SMALL, False, 1, True),
        (7999, SMALL, True, 1, False),
        (8000, SMALL, True, 1, True),
        (4999, MEDIUM, True, 1, False),
        (5000, MEDIUM, True, 1, True),
        (1249, LARGE, True, 1, False),
        (1250, LARGE, False, 1, True),
        (4399, SMALL, True, 2, False),  # 8000 (0.1 + 0.9 / 2) = 4400
        (4400, SMALL, True, 2, True),
        (800, SMALL, True, 10**9, False),  # however many they are, each pays for finding the code
        (801, SMALL, True, 10**9, True),
    ],
)
def test_auto_compiles_what_is_long_enough(steps, numbers, gradients, alike, compiles):
    assert should_compile("auto", steps, numbers, gradients, alike) == compiles
    assert all(should_compile(wish, steps, numbers, gradients, alike) for wish in ("on", True))
    assert not any(should_compile(wish, steps, numbers, gradients, alike) for wish in ("off", False))


@pytest.mark.parametrize(
    "steps, numbers, compiles", [(799, SMALL, False), (800, SMALL, True), (124, LARGE, False), (125, LARGE, True)]
)
def test_cached_counts_on_the_code_of_an_earlier_run(steps, numbers, compiles):
    assert should_compile("cached", steps, numbers, True) == compiles
    assert should_compile("cached", steps, numbers, True, 9) == compiles
    assert not should_compile("cached", steps, numbers, True, device="cuda")


@pytest.mark.parametrize(
    "steps, alike, given, settled",
    [
        (800, 1, "cached", "on"),
        (799, 1, "cached", "off"),
        (7999, 1, "auto", "off"),
        (8000, 1, "auto", "on"),
        (4400, 2, "auto", "on"),
        (5, 1, "on", "on"),
        (9999, 9, "off", "off"),
        (5, 1, True, "on"),
    ],
)
def test_auto_is_settled_once_and_kept_for_resuming(steps, alike, given, settled):
    config = compose_config([*POINTS, "logger=none", "objective=dsm"])
    built, resolved = assemble(config | {"steps": steps, "compile": given, "runs_alike": alike})
    assert resolved["compile"] == settled and (built.compiled is not None) == (settled == "on")
    other = 10 if settled == "on" else 10**6
    again, twice = assemble({**resolved, "steps": other, "runs_alike": 1})
    assert twice["compile"] == settled and (again.compiled is not None) == (settled == "on")


def test_passes_count_as_steps():
    """Two passes of half the numbers, 2,500 times, recover what 5,000 steps do."""
    long = [*POINTS, "logger=none", "objective=dsm", "batch_size=40000", "accumulate=2"]
    assert assemble(compose_config([*long, "steps=2499"]))[1]["compile"] == "off"
    assert assemble(compose_config([*long, "steps=2500"]))[1]["compile"] == "on"


def test_an_objective_that_takes_gradients_needs_more_steps():
    """Chains do, and losses of the score; what compares energies does not."""
    for name, settled in {"nce": "on", "fdssm": "on", "cd": "off", "dsm": "off", "multi_dsm": "off"}.items():
        config = compose_config([*POINTS, "logger=none", "steps=7999", f"objective={name}"])
        assert assemble(config)[1]["compile"] == settled, name


def test_size_is_the_numbers_of_a_batch():
    long = [*POINTS, "logger=none", "objective=dsm", "steps=1250"]
    assert assemble(compose_config([*long, "batch_size=24999"]))[1]["compile"] == "off"
    assert assemble(compose_config([*long, "batch_size=25000"]))[1]["compile"] == "on"


def test_auto_falls_back_where_a_step_is_not_compiled(tmp_path, monkeypatch):
    def refuse(module):
        raise compiled.Untraceable("no fixed graph")

    eager = run(tmp_path, "a", "steps=4", "objective=dsm", "compile=off")
    monkeypatch.setattr("ebm_lab.runs.assemble.should_compile", lambda *_: True)
    monkeypatch.setattr(compiled, "refuse", refuse)
    same(state(eager.path), state(run(tmp_path, "b", "steps=4", "objective=dsm", "compile=auto").path))


def test_graphs_need_a_card():
    config = compose_config([*POINTS, "logger=none", "objective=dsm", "device=cpu", "compile=graphs"])
    with pytest.raises(UserError, match="compile=graphs: CUDA graphs need device=cuda, and this run is on cpu"):
        assemble(config)


def test_a_run_with_graphs_goes_on_without_a_card(tmp_path, capsys):
    path = run(tmp_path, "a", "steps=4", "objective=dsm", "compile=off", "device=cpu").path
    file = path / "config.yaml"
    file.write_text(file.read_text().replace("compile: 'off'", "compile: graphs"))
    assert "compile: graphs" in file.read_text()
    assert ebm_lab.train([f"resume={path}", "steps=6"], quiet=True).status == "finished"
    assert "resume: compile=graphs -> off" in capsys.readouterr().out


def code(monkeypatch, *overrides):
    """What would be compiled, with its constants."""
    seen = []

    def no_compiler(module, inputs):
        constants = {name: t.tolist() for name, t in vars(module).items() if isinstance(t, torch.Tensor)}
        seen.append((module.code, constants, [(t.shape, t.dtype) for t in inputs]))
        raise RuntimeError("seen")

    monkeypatch.setattr(compiled, "compiled", no_compiler)
    trainer = assemble(compose_config([*POINTS, "logger=none", "steps=50", "compile=on", *overrides]))[0]
    for step in (1, 2):
        trainer._train_step(step)
    (told,) = seen
    return told


@pytest.mark.slow
@pytest.mark.parametrize("objective", cases(["dsm", "nce", "pcd"], ["pcd"]))
def test_runs_that_share_their_code_differ_in_free_keys_alone(objective, monkeypatch):
    from ebm_lab.cli.sweep import FREE

    own = [f"objective={objective}", *(CHAINS if objective == "pcd" else [])]
    values = {"seed": 7, "optim.lr": 0.0123, "optim.warmup": 3, "ema": 0.9}
    assert set(values) == set(FREE)
    usual = code(monkeypatch, *own)
    for key, value in values.items():
        assert code(monkeypatch, *own, f"{key}={value}") == usual, key
    for other in ("optim.weight_decay=0.01", "batch_size=16", "energy.hidden=[8,16]"):
        assert code(monkeypatch, *own, other) != usual, other
