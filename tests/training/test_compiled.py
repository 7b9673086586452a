"""A compiled step is the eager step: the same random numbers, the same state, the same numbers up to rounding."""

import copy

import pytest
import torch
import yaml
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import ebm_lab
from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import evaluate
from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Loss, Objective
from ebm_lab.runs.assemble import assemble
from ebm_lab.training.compile import matmul as products
from ebm_lab.training.compile import sines
from ebm_lab.training.compile.graphs import compiled
from ebm_lab.training.compile.random_inputs import recorded, replayed
from ebm_lab.training.compile.step import CompiledStep, adamw, clipped
from ebm_lab.training.ema import EMA
from ebm_lab.training.optim.adam import Adam
from tests.exhaustive import cases
from tests.runs.test_resume import lines, same, state, stop_at

POINTS = ["dataset=two_moons", "dataset.train=500", "dataset.held_out=200", "energy.hidden=[16,16]", "batch_size=32"]
SET = ["logger=none", "optim.warmup=0", "optim.clip=1.0", "steps=1000"]
CHAINS = ["sampler=langevin", "sampler.step_size=0.2", "sampler.noise_scale=1.0", "sampler.steps=3"]
DECAY = "optim.weight_decay=0.01"


def trainer(*overrides, compiling=True):
    return assemble(compose_config([*SET, *overrides, f"compile={'on' if compiling else 'off'}"]))[0]


def adams(trainer):
    """(parameter, m, v, t) of each parameter that Adam has moved."""
    states = trainer.state.optimisers["energy"].optimiser.state
    return [(p.detach(), s["exp_avg"], s["exp_avg_sq"], s["step"]) for p, s in states.items()]


def norm(tensors):
    return float(torch.stack([t.double().norm() for t in tensors]).norm())


def distance(a, b):
    """|a - b| / |b| for two lists of tensors."""
    return norm([x.double() - y.double() for x, y in zip(a, b, strict=True)]) / max(norm(b), 1e-30)


SERVED = {
    "dsm": ["objective=dsm"],
    "dsm_cv": ["objective=dsm_cv"],
    "ssm": ["objective=ssm"],
    "sm": ["objective=sm"],
    "fdssm": ["objective=fdssm"],
    "nce": ["objective=nce"],
    "cnce": ["objective=cnce"],
    "mpf": ["objective=mpf"],
    "ed": ["objective=ed"],
    "multi_dsm": ["objective=multi_dsm"],
    "ksd": ["objective=ksd"],
    "min_velocity": ["objective=min_velocity"],
    "nce, exponential": ["objective=nce", "objective.loss=exponential"],
    "tre": ["objective=tre"],
    "unbiased_cd": ["objective=unbiased_cd", "objective.max_moves=4", "objective.refresh=1", "sampler.steps=1"],
    "drl": ["objective=drl", *CHAINS],
    "cdrl": ["objective=cdrl", *CHAINS],
    "dual_sm": ["objective=dual_sm"],
    "energy_matching": ["objective=energy_matching", "objective.warmup=0.0", *CHAINS],
    "cd": ["objective=cd", *CHAINS],
    "cd, neglected term": ["objective=cd", *CHAINS, "objective.neglected_term=0.1", "objective.neglected_steps=2"],
    "pcd": ["objective=pcd", *CHAINS, "objective.restart=0.1", "objective.refresh=1", "objective.buffer_size=100"],
    "mle": ["objective=mle", *CHAINS, "objective.refresh=0"],
    "f_ebm": ["objective=f_ebm", *CHAINS, "objective.hidden=[16]", "objective.buffer_size=100"],
    "coopnets": ["objective=coopnets", *CHAINS, "objective.hidden=[16]"],
    "jem": ["objective=jem", *CHAINS, "objective.generative.refresh=0", "dataset.labels_per_class=20"],
    "jem of dsm": ["objective=jem", "objective.generative=dsm", "energy.condition=embedding"],
    "pcd with labels": ["objective=pcd", *CHAINS, "energy=labelled_mlp", "objective.conditional=true"],
    "mala": ["objective=pcd", "sampler=mala", "sampler.steps=2", "objective.refresh=0", "sampler.mass=diagonal"],
    "barker": ["objective=pcd", "sampler=barker", "sampler.steps=2", "objective.refresh=0"],
    "mclmc": ["objective=pcd", "sampler=mclmc", "sampler.steps=2", "objective.refresh=0"],
}
ROUNDING = {"fdssm": 2e-3, "min_velocity": 4e-3}
"""Of the whole gradient. fdssm multiplies the rounding of energies, 6e-8 times some nats, by d / eps^2 = 2500, and
min_velocity by 2 / e^2, twice that."""
REPRESENTATIVE = ("dsm", "pcd")
"""An objective that differentiates a score, and one with chains in a buffer and an adapting restart."""


BITS = ["dataset=random_bits", "dataset.bits=6", "dataset.train=500", "dataset.held_out=200", "batch_size=32"]
PERCEPTRON = ["energy=mlp", "energy.hidden=[16,16]", "energy.base=bernoulli"]
MOVED = ["objective=pcd", "objective.buffer_size=100"]
ON_BITS = {
    "pseudo_likelihood": ["objective=pseudo_likelihood", *PERCEPTRON],
    "ratio_matching on some sites": ["objective=ratio_matching", "objective.sites=2", *PERCEPTRON],
    "score_entropy": ["objective=score_entropy", *PERCEPTRON],
    "mpf": ["objective=mpf", *PERCEPTRON],
    "ed": ["objective=ed", *PERCEPTRON],
    "gwg": [*MOVED, "sampler=gwg", "sampler.steps=2", *PERCEPTRON],
    "gibbs": [*MOVED, "sampler=gibbs", "sampler.steps=3", "sampler.scan=random", *PERCEPTRON],
    "dmala": [*MOVED, "sampler=dmala", "sampler.steps=2", *PERCEPTRON],
    "block_gibbs": [*MOVED, "sampler=block_gibbs", "energy=rbm"],
    "ising with a penalty": ["objective=pseudo_likelihood", "energy=ising", "energy.l1=0.01"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(ON_BITS, []))
def test_one_step_on_bits_equals_the_eager_one_from_50_shared_states(name):
    """A chain's draw that falls within rounding of its threshold parts the two for one step: 50 states have none."""
    equal_steps([*BITS, *ON_BITS[name]], 50, 3e-5)


@pytest.mark.parametrize("name", cases(SERVED, REPRESENTATIVE, slow=["pcd"]))
def test_one_step_equals_the_eager_one_from_200_shared_states(name):
    equal_steps([*POINTS, *SERVED[name]], 200, ROUNDING.get(name, 3e-5))


def test_a_turn_that_reaches_more_parameters_is_traced_after_one_eager_step(monkeypatch):
    """The flow of energy matching never reaches the energy's last bias, and its contrast does."""
    monkeypatch.setattr("ebm_lab.training.compile.passes.compiled", lambda module, inputs: module)
    choice = ["objective=energy_matching", "objective.warmup=0.003", *CHAINS]
    made = trainer(*POINTS, *choice)
    assert made.compiled is not None
    for step in range(1, 7):
        made._train_step(step)
    assert all(s.graph is not None and not s.refused for s in made.compiled.steps.values())
    assert len(made.compiled.steps) == 2


IMAGES = ["dataset=digits", "batch_size=32", "evaluation=[]"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", cases(["pcd", "ssm", "dsm", "nce", "multi_dsm"], ["dsm"]))
def test_a_step_on_images_equals_the_eager_one_from_20_shared_states(objective):
    energy = "noise_conv" if objective == "multi_dsm" else "conv"
    equal_steps([*IMAGES, f"objective={objective}", f"energy={energy}"], 20, 3e-5)


def equal_steps(overrides, states, rounding):
    """m and v are linear and quadratic in the gradient, and so bear its rounding: a float32 sum of n terms in another
    order moves by about 6e-8 sqrt(n), and a step is some twenty sums deep, of up to n = 500 terms: 3e-5 of the whole
    gradient. Parameters are held to the formula given their own m and v: where a gradient is 0 but for rounding (an
    energy's constant), Adam makes whole steps of it, and eager and compiled steps may part."""
    overrides = [*overrides, DECAY]
    eager, fast = trainer(*overrides, compiling=False), trainer(*overrides)
    eager._train_step(1)
    assert fast.compiled is not None
    for step in range(2, states + 2):
        fast.state.restore(copy.deepcopy(eager.state.content()))
        before = [p.double() for p, *_ in adams(eager)]
        average = [a.double() for a in eager.state.ema.average]
        theirs, evals = eager._eager_step(step, eager.batches(step), ALL_PLAYERS)
        done = fast.compiled(step, *fast.batches(step), ALL_PLAYERS)
        assert done is not None, "this objective is served"
        assert list(done[0]) == list(theirs) and done[1] == evals
        cold = getattr(getattr(eager.state.objective, "sampler", None), "noise_scale", 1.0)
        for key, value in theirs.items():  # the exponent of an acceptance divides the energies' rounding by nu^2
            limit = rounding / cold**2 if key == "acceptance" and cold else rounding
            assert abs(float(done[0][key]) - float(value)) < limit * (1 + abs(float(value))), key

        assert torch.equal(fast.state.generator.get_state(), eager.state.generator.get_state())
        for i, times in ((1, 1), (2, 2)):
            assert distance([s[i] for s in adams(fast)], [s[i] for s in adams(eager)]) < rounding * times
        group = eager.state.optimisers["energy"].optimiser.param_groups[0]
        lr, (beta1, beta2) = group["lr"], group["betas"]
        assert fast.state.optimisers["energy"].optimiser.param_groups[0]["lr"] == lr
        for (p, m, v, t), old in zip(adams(fast), before, strict=True):
            assert float(t) == step
            scale = (v.double() / (1 - beta2**step)).sqrt() + 1e-8
            kept = 1 - 0.01 * lr if old.ndim else 1.0  # a number such as log Z does not decay
            target = old * kept - lr * (m.double() / (1 - beta1**step)) / scale
            assert (p - target).abs().max() <= 3e-7 * (target.abs().max() + lr)
        decay = min(eager.state.ema.decay, (1 + step) / (10 + step))
        for a, old, p in zip(fast.state.ema.average, average, fast.state.ema.parameters, strict=True):
            assert torch.allclose(a.double(), old + (1 - decay) * (p.detach().double() - old), rtol=3e-7, atol=1e-7)
        for mine, other in zip(fast.state.objective.buffers(), eager.state.objective.buffers(), strict=True):
            near = mine.dtype != torch.int64 and distance([mine], [other]) < rounding
            assert torch.equal(mine, other) or near  # equal ones may be infinite, as the level above tre's top
        assert list(fast.state.objective.sampler_state) == list(eager.state.objective.sampler_state)
        values = fast.state.objective.sampler_state.values(), eager.state.objective.sampler_state.values()
        assert distance(*values) < 3e-5 if eager.state.objective.sampler_state else True
    assert fast.compiled.steps[ALL_PLAYERS].refused is None


def test_adam_and_clipping_are_torchs(generator):
    p = [torch.randn(s, generator=generator).double() for s in ((3, 4), (5,))]
    theirs = [nn.Parameter(t.clone()) for t in p]
    torchs = torch.optim.AdamW(theirs, 0.1, (0.8, 0.95), weight_decay=0.05, fused=True)
    mine = [(t, torch.zeros_like(t), torch.zeros_like(t), torch.zeros(())) for t in p]
    for step in range(1, 21):
        grads = [torch.randn(t.shape, generator=generator).double() * step for t in p]
        for t, g in zip(theirs, grads, strict=True):
            t.grad = g.clone()
        norm = nn.utils.clip_grad_norm_(theirs, 9.0)
        torchs.param_groups[0]["lr"] = 0.1 / step
        torchs.step()
        cut, mine_norm = clipped(grads, 9.0)
        assert torch.allclose(mine_norm, norm, rtol=1e-12)
        for mv, g in zip(mine, cut, strict=True):
            adamw(mv[0], g, *mv[1:], torch.tensor(0.1 / step).double(), torchs.param_groups[0], 0.05)
    for (t, *_), target in zip(mine, theirs, strict=True):
        assert torch.allclose(t, target.detach(), rtol=1e-7)  # 1 / step above is rounded to float32


def test_clipping_by_nothing_leaves_the_gradient(generator):
    g = torch.randn(7, generator=generator)
    cut, norm = clipped([g], None)
    assert torch.equal(cut[0], g) and torch.allclose(norm, g.norm())


@pytest.mark.parametrize("by_onednn", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(2, 70, 90), (70, 3, 90), (70, 90, 1), (1, 1, 1), (60, 70, 90)])
def test_products_in_their_fastest_form_are_the_same_products(shape, turned, by_onednn, generator, monkeypatch):
    from torch.fx.experimental.proxy_tensor import make_fx

    if by_onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "mkl_is_slow", lambda: by_onednn)
    rows, inner, columns = shape
    x = torch.randn(inner, rows, generator=generator).T if turned else torch.randn(rows, inner, generator=generator)
    y = (
        torch.randn(columns, inner, generator=generator).T
        if turned
        else torch.randn(inner, columns, generator=generator)
    )
    bias = torch.randn(columns, generator=generator)
    module = make_fx(lambda x, y, bias: [x @ y, torch.addmm(bias, x, y)])(x, y, bias)
    products.rewrite(module)
    plain = {"aten.mm.default", "aten.addmm.default"} & {str(n.target) for n in module.graph.nodes}
    assert plain == ({"aten.mm.default", "aten.addmm.default"} if min(shape) > 4 and not by_onednn else set())
    exact = x.double() @ y.double()
    size = x.double().abs() @ y.double().abs()
    for value, target in zip(module(x, y, bias), (exact, exact + bias), strict=True):
        assert ((value - target).abs() <= 6e-8 * inner * (size + 1)).all()


def test_equal_inputs_have_equal_bits_whatever_lies_behind_them_in_memory(generator):
    """The compiler's own sines of a concatenation round by what lies behind it: 3 results without the rewriting."""

    def slopes(c, w, frequencies):
        c, w = c.detach().requires_grad_(), w.detach().requires_grad_()
        angles = c[:, None] * frequencies
        features = torch.cat([c[:, None], angles.cos(), angles.sin()], 1)
        (by_c,) = torch.autograd.grad((features * w).sum(), c, create_graph=True)
        return torch.autograd.grad(by_c.square().sum(), w)

    c, w, frequencies = (torch.rand(*shape, generator=generator) for shape in ((64,), (64, 9), (4,)))
    module = make_fx(slopes)(c, w, frequencies)
    sines.rewrite(module)
    run, found = compiled(module, [c, w, frequencies]), set()
    for exponent in range(0, 12, 2):
        more = torch.cat([frequencies, torch.full((12,), 10.0**exponent)])
        (out,) = run(c, w, more[:4])
        found.add(out.numpy().tobytes())
    assert len(found) == 1
    assert distance([out], slopes(c, w, frequencies)) < 1e-6


def test_draws_are_made_again_in_order(generator):
    def play():
        x = torch.empty(3, 2).normal_(generator=generator)
        order = torch.randperm(5, generator=generator)
        return x, order, x.uniform_(generator=generator).clone()

    start = generator.get_state()
    with recorded() as draws:
        first = [t.clone() for t in play()]
    assert torch.equal(generator.get_state(), start), "looking changes nothing"
    x, order, u = play()
    after = generator.get_state()
    generator.set_state(start)
    again = [d.repeat() for d in draws]
    assert torch.equal(generator.get_state(), after)
    assert torch.equal(again[1], order) and torch.equal(again[2], u) and torch.equal(first[1], order)
    with replayed(draws, [torch.full((3, 2), 7.0), torch.arange(5), torch.full((3, 2), 8.0)]):
        x, order, u = play()
    assert torch.equal(order, torch.arange(5)) and (u == 8).all() and (x == 8).all()
    assert torch.equal(generator.get_state(), after), "what is given is not drawn"


class Own(Objective):
    """The mean energy of the batch, with something that a graph can't do."""

    def __init__(self, energy, generator, what):
        super().__init__(energy)
        self.what, self.generator, self.count = what, generator, 0
        self.register_buffer("kept", torch.zeros(()))
        self.loose = torch.zeros(())

    def forward(self, batch):
        e, weight = evaluate(self.energy, batch.x), 1.0
        if self.what == "a choice" and float(e.detach().mean()) > 0:
            weight = 2.0
        elif self.what == "a count":
            self.count += 1
            weight = 1 / self.count
        elif self.what == "a buffer replaced":
            self.kept = self.kept + 1
        elif self.what == "a tensor that is no buffer":
            self.loose += 1
        elif self.what == "the global generator":
            weight = torch.rand(len(e))
        elif self.what == "draws by the data":
            weight = torch.bernoulli(e.sigmoid().detach(), generator=self.generator)
        loss = (weight * e).mean()
        return Loss(loss, {"loss": loss.detach()}, len(batch.x))


REASONS = {
    "a choice": "its operations depend on computed values",
    "a count": "it sets 'count' anew at each step",
    "a buffer replaced": "it sets 'kept' anew at each step",
    "a tensor that is no buffer": "it writes to a tensor that is no buffer",
    "the global generator": "draws from torch's global generator",
    "draws by the data": "the random numbers of bernoulli depend on the data",
}


@pytest.mark.parametrize("what", REASONS)
def test_what_no_graph_can_do_runs_eagerly_with_a_line(what):
    said, ends = [], []
    for compiling in (True, False):
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            energy = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0))
            objective = Own(energy, generator, what)
            settings = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "schedule": "constant", "warmup": 0}
            adam = Adam(list(objective.parameters()), 10, lr=0.1, clip=None, **settings)
            fast = CompiledStep(objective, {"energy": adam}, EMA(adam.parameters, 0.9), said.append)
            for step in range(1, 5):
                batch = Batch(torch.randn(6, 2, generator=generator))
                if not (compiling and fast.step(step, batch)):
                    objective(batch).value.backward()
                    adam.step(step)
        ends.append([*objective.state_dict().values(), objective.loose, torch.tensor(objective.count)])
    assert len(said) == 1 and said[0].startswith("compile: Own runs eagerly (") and REASONS[what] in said[0]
    assert "\n" not in said[0]
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=False) if isinstance(a, torch.Tensor))


def run(tmp_path, name, *more):
    quick = ["log_every=3", "checkpoint_every=4", "eval_every=1000", "evaluation=[likelihood]"]
    return ebm_lab.train([*POINTS, *quick, f"output_dir={tmp_path / name}", "logger=none", *more], quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice", cases([["objective=ssm", "optim=sgd"], SERVED["pcd"], SERVED["mala"]], [SERVED["pcd"]], " ".join)
)
def test_stop_at_9_resume_to_16_equals_16_straight_compiled(choice, tmp_path, monkeypatch):
    straight = run(tmp_path, "a", "steps=16", "compile=on", *choice)
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        part = run(tmp_path, "b", "steps=16", "compile=on", *choice)
    assert part.status == "interrupted"
    whole = ebm_lab.train([f"resume={part.path}"], quiet=True)
    same(state(straight.path), state(whole.path))
    assert lines(straight.path) == lines(whole.path)
    eager = run(tmp_path, "c", "steps=16", "compile=off", *choice)
    assert lines(eager.path)[-1]["grad_evals"] == lines(whole.path)[-1]["grad_evals"]
    ours, theirs = (list(state(r.path)["objective"].values()) for r in (whole, eager))
    assert any(isinstance(a, torch.Tensor) and not torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_without_a_compiler_a_run_is_the_eager_one(tmp_path, monkeypatch, capsys):
    eager = run(tmp_path, "a", "steps=6", "objective=dsm", "compile=off")
    monkeypatch.setattr("ebm_lab.training.compile.passes.compiled", no_compiler)
    lacking = run(tmp_path, "b", "steps=6", "objective=dsm", "compile=on")
    same(state(eager.path), state(lacking.path))
    assert lines(eager.path) == lines(lacking.path)


def no_compiler(module, inputs):
    raise RuntimeError("no C++ compiler\nand a traceback")


def gradients_of(made):
    """The gradients by name, which are cleared."""
    found = {n: p.grad for n, p in made.state.objective.named_parameters() if p.grad is not None}
    made.state.objective.zero_grad()
    return found


BFLOAT16 = "precision=bfloat16"
PASSES = {
    "dsm in two passes": ["objective=dsm", "accumulate=2"],
    "chains in two passes": [*SERVED["pcd"], "accumulate=2"],
    "another optimiser": ["objective=ssm", "optim=sgd"],
    "two players in two passes": [*SERVED["f_ebm"], "accumulate=2"],
}


@pytest.mark.parametrize("name", cases(PASSES, ["dsm in two passes"]))
def test_the_gradients_of_compiled_passes_are_the_eager_ones(name):
    """From shared states, to float32's rounding as in `equal_steps`. The metrics and the chains are the same too."""
    eager, fast = trainer(*POINTS, *PASSES[name], compiling=False), trainer(*POINTS, *PASSES[name])
    assert fast.compiled is None and fast.gradients.compiled is not None
    for step in range(1, 21):
        turn, found = eager.state.objective.turn(step), []
        start = copy.deepcopy(eager.state.content())
        for made in (eager, fast):
            made.state.restore(start)
            found.append(
                (
                    *made.gradients(made.batches(step), turn),
                    gradients_of(made),
                    [*made.state.objective.sampler_state.values()],
                )
            )
        theirs, mine = found
        assert mine[1] == theirs[1] and list(mine[0]) == list(theirs[0]) and list(mine[2]) == list(theirs[2])
        assert distance(mine[2].values(), theirs[2].values()) < 3e-5
        for key, value in theirs[0].items():
            assert abs(float(mine[0][key]) - float(value)) < 3e-5 * (1 + abs(float(value))), key
        assert torch.equal(fast.state.generator.get_state(), eager.state.generator.get_state())
        assert not theirs[3] or distance(mine[3], theirs[3]) < 3e-5
        eager.state.restore(start)
        eager._train_step(step)
    assert all(p.graph is not None and not p.refused for p in fast.gradients.compiled.passes.values())


@pytest.mark.slow
@pytest.mark.parametrize("objective", cases(["dsm", "jem of dsm"], []))
def test_a_compiled_pass_in_bfloat16_is_as_near_to_float32_as_the_eager_one(objective):
    """Both round the products' inputs to 8 bits; where rounding happens in between is the compiler's choice. Equal
    rounding errors, drawn twice over thousands of parameters, differ in norm by some percent."""
    choice = [*POINTS, *SERVED[objective], "energy.hidden=[64,64]", "batch_size=256", "accumulate=2"]
    exact, eager = (trainer(*choice, precision, compiling=False) for precision in ("precision=float32", BFLOAT16))
    fast, errors = trainer(*choice, BFLOAT16), []
    for step in range(1, 11):
        start, found = copy.deepcopy(exact.state.content()), []
        for made in (exact, eager, fast):
            made.state.restore(start)
            made.gradients(made.batches(step), ALL_PLAYERS)
            found.append(gradients_of(made).values())
        errors.append([distance(grads, found[0]) for grads in found[1:]])
        exact.state.restore(start)
        exact._train_step(step)
    assert not any(p.refused for p in fast.gradients.compiled.passes.values())
    theirs, mine = torch.tensor(errors).mean(0)
    assert 1e-4 < mine < 1.2 * theirs


def test_a_word_that_compile_does_not_know_is_refused():
    with pytest.raises(UserError, match="compile=fast: .*'auto', 'cached', 'graphs', 'on' or 'off'"):
        assemble(compose_config([*POINTS, "compile=fast"]))


def test_a_run_from_before_the_key_stays_eager(tmp_path):
    old = run(tmp_path, "a", "steps=4", "objective=dsm", "compile=off")
    file = old.path / "config.yaml"
    config = yaml.safe_load(file.read_text())
    assert config.pop("compile") == "off"
    file.write_text(yaml.safe_dump(config))
    assert ebm_lab.load_run(old.path).config["compile"] == "off"
    assert ebm_lab.train([f"resume={old.path}", "steps=6"], quiet=True).status == "finished"
