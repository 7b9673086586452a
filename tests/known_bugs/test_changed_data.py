"""Kind: data that changed, went away or lie elsewhere when a run is taken up again, where whatever a data set computes
from its source (transform, splits, labels, mean, scale, bounds, law) silently becomes that of other data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ebm_lab
from ebm_lab.cli import tools
from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.evaluate import evaluate
from ebm_lab.cli.tools import sample
from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset, Energy
from ebm_lab.core.registry import register
from ebm_lab.distributions.start import noise_like
from ebm_lab.runs.assemble import assemble
from ebm_lab.runs.init_from import take_weights
from ebm_lab.runs.record import fingerprint
from tests.exhaustive import cases

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(600, 2))
QUICK = [
    *("objective=dsm", "logger=none", "evaluation=[]", "steps=2", "batch_size=16", "samples=8", "sample_steps=4"),
    *("checkpoint_every=1", "device=cpu"),
]
MLP = ["energy=mlp", "energy.hidden=[8]"]
SHIFTED = np.random.default_rng(1).normal(100, 7, size=(600, 2))


def train(folder, *overrides):
    return ebm_lab.train([*QUICK, f"output_dir={folder / 'out'}", *overrides], quiet=True)


def refused(action, *messages):
    with pytest.raises(UserError) as error:
        action()
    text = str(error.value)
    assert len(text.splitlines()) == 1 and all(m in text for m in messages), text
    return text


def drawn(run, out, *more):
    """What scripts/sample.py draws from a run."""
    tools.main(sample, [f"run={run.path}", "n=20", "device=cpu", f"out={out}", *more])
    return np.load(out / "samples.npy")


def refuse_all(run, *messages):
    """Resume, evaluation and load_run refuse; nothing is written."""
    before = {f: f.read_bytes() for f in run.path.rglob("*") if f.is_file()}
    refused(lambda: ebm_lab.train([f"resume={run.path}", "steps=4"], quiet=True), *messages, "without resume")
    refused(lambda: evaluate(run=str(run.path), evaluation="mmd", device="cpu"), *messages)
    refused(lambda: ebm_lab.load_run(run.path), *messages, 'data="kept"')
    assert before == {f: f.read_bytes() for f in run.path.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on data.npy ~ N(0, 1), and its samples."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "data.npy", NORMAL)
    run = train(folder, "dataset=array", f"dataset.path={folder / 'data.npy'}", *MLP)
    return run, folder / "data.npy", drawn(run, folder / "samples")


@pytest.fixture
def data(trained):
    """The file that the run was trained on, put back afterwards."""
    yield trained[1]
    np.save(trained[1], NORMAL)


CHANGES = {
    "other numbers": (SHIFTED, "the train, val and test rows changed"),
    "half the rows": (NORMAL[:300], "the train, val and test rows changed (480 train, 60 val, 60 test rows then, 240"),
    "another order": (NORMAL[::-1], "the train, val and test rows changed"),
    "one more row": (np.concatenate([NORMAL, NORMAL[:1]]), "rows changed (480 train"),
    "one more column": (np.concatenate([NORMAL, NORMAL[:, :1]], 1), "rows changed"),
    "last digits": (NORMAL * (1 + 1e-12), "rows changed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_resume_evaluate_and_load_refuse_changed_rows_in_a_line_that_names_them(change, trained, data):
    np.save(data, CHANGES[change][0])
    refuse_all(trained[0], f"dataset.path={data}: not the data that the run was trained on", CHANGES[change][1])


@pytest.mark.parametrize("change", [*CHANGES, "gone", "damaged"])
def test_samples_are_those_of_the_trained_run_whatever_became_of_its_data(change, trained, data, tmp_path, capsys):
    run, _, expected = trained
    if change in CHANGES:
        np.save(data, CHANGES[change][0])
    else:
        data.unlink()
    if change == "damaged":
        data.write_bytes(b"\x93NUMPY nothing")
    assert np.array_equal(drawn(run, tmp_path), expected) and abs(expected).max() < 50
    assert f"note: dataset.path={data}: " in capsys.readouterr().out


def test_only_the_split_that_changed_is_named(trained, data):
    """A row's digest stands in that of its split alone."""
    rows, test = NORMAL.copy(), ebm_lab.load_run(trained[0].path).dataset
    raw = test.transform.inverse(test.test[:1]).numpy()
    rows[np.abs(rows - raw).sum(1).argmin()] += 1
    np.save(data, rows)
    text = refused(lambda: ebm_lab.load_run(trained[0].path), "the test rows changed")
    assert "train" not in text.split("rows changed")[0].split("trained on: ")[1]


def test_a_run_without_its_data_loads_with_what_it_kept_of_them(trained, data):
    run, kept = trained[0], ebm_lab.load_run(trained[0].path).dataset
    data.unlink()
    refuse_all(run, f"dataset.path={data}: no such file")
    loaded = ebm_lab.load_run(run.path, data="kept")
    assert torch.equal(loaded.dataset.mean, kept.mean) and loaded.dataset.scale == kept.scale
    assert loaded.dataset.bounds is None and loaded.dataset.event_shape == (2,)
    assert torch.equal(loaded.dataset.transform.shift, kept.transform.shift)
    x = torch.randn(5, 2)
    assert torch.equal(loaded.energy(x), run.energy(x))
    for split in ("train", "val", "test"):
        refused(lambda s=split: getattr(loaded.dataset, s), f"'{split}' rows are not at hand", "no such file")


def test_init_from_takes_the_weights_of_a_run_whose_data_changed(trained, data, tmp_path):
    np.save(data, SHIFTED)
    values = ["dataset=array", f"dataset.path={data}", *MLP, f"init_from={trained[0].path}"]
    assert train(tmp_path, *values).status == "finished"


def test_init_from_gives_the_energy_that_the_other_run_trained_whatever_the_scale_of_the_new_data(tmp_path):
    """u = (x - mean) / scale: a network that came with its mean and without its scale is another energy."""
    small, large = (["dataset=gaussian", f"dataset.std_min={s}", f"dataset.std_max={s}"] for s in (0.2, 5))
    for energy in (MLP, ["energy=dkef"], ["energy=noise_mlp", "objective=multi_dsm", "sampler=annealed_langevin"]):
        run = train(tmp_path, *small, *energy)
        many = getattr(run.energy, "ladder", None)  # the ladder is a setting, which `auto` chooses from the new data
        ends = [] if many is None else [f"energy.{end}={getattr(many, end)!r}" for end in ("sigma_min", "sigma_max")]
        trainer, _ = assemble(compose_config([*QUICK, *large, *energy, *ends]))
        take_weights(trainer.state, str(run.path))
        x = torch.randn(5, 2)
        mine = trainer.state.objective.energy.eval()
        torch.testing.assert_close(mine(x), run.energy(x))


def test_a_run_that_began_with_another_run_s_scale_is_loaded_and_resumed_with_it(tmp_path):
    """The scale is in no tensor: where it is lost, the run on data of another scale is read as another model."""
    small, large = (["dataset=gaussian", f"dataset.std_min={s}", f"dataset.std_max={s}"] for s in (0.2, 5))
    for energy in (MLP, ["energy=dkef"], ["energy=noise_mlp", "objective=multi_dsm", "sampler=annealed_langevin"]):
        first = train(tmp_path, *small, *energy)
        many = getattr(first.energy, "ladder", None)
        ends = [] if many is None else [f"energy.{end}={getattr(many, end)!r}" for end in ("sigma_min", "sigma_max")]
        run = train(tmp_path, *large, *energy, *ends, f"init_from={first.path}")
        x = torch.randn(5, 2)
        loaded = ebm_lab.load_run(run.path)
        torch.testing.assert_close(loaded.energy(x), run.energy(x), rtol=0, atol=0)
        assert loaded.energy.scale == first.energy.scale != loaded.dataset.scale
        more = ebm_lab.train([f"resume={run.path}", f"steps={run.summary['step'] + 1}"], quiet=True)
        assert more.energy.scale == ebm_lab.load_run(run.path).energy.scale == first.energy.scale


def test_a_checkpoint_without_a_record_is_read_as_before(trained, data, tmp_path):
    old = shutil.copytree(trained[0].path, tmp_path / "runs" / "old")
    for file in (old / "checkpoints").glob("*.pt"):
        content = torch.load(file, weights_only=True)
        assert content.pop("data")["digests"].keys() == {"train", "val", "test"}
        torch.save(content, file)
    assert ebm_lab.load_run(old).summary["status"] == "finished"
    data.unlink()
    refused(lambda: sample(run=str(old), device="cpu"), "no such file", "the run was trained by an earlier version")
    np.save(data, NORMAL)
    assert ebm_lab.train([f"resume={old}", "steps=3"], quiet=True).summary["step"] == 3


@pytest.mark.parametrize(
    "bad", [3, {}, {"rows": {}}, ("mean", "far"), ("bounds", [1.0]), ("rows", {"train": "many"}), ("shape", [7])]
)
def test_a_damaged_record_is_refused_in_one_line(bad, trained, tmp_path):
    run = shutil.copytree(trained[0].path, tmp_path / "runs" / "run")
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    content["data"] = {**content["data"], bad[0]: bad[1]} if isinstance(bad, tuple) else bad
    torch.save(content, run / "checkpoints" / "last.pt")
    refused(lambda: ebm_lab.load_run(run), "not the checkpoint of a run, its 'data")


def pictures(folder, seed=0):
    from PIL import Image

    pixels = np.random.default_rng(seed)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(10):
            Image.fromarray(pixels.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / label / f"{i}.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: pictures(f, seed=1), "the train, val and test rows changed"),
        (lambda f: (f / "a" / "3.png").unlink(), "rows changed (16 train, 2 val, 2 test rows then, 15 train"),
        (lambda f: shutil.copy(f / "a" / "3.png", f / "b" / "x.png"), "rows then, 17 train"),
        (lambda f: (f / "a" / "0.png").rename(f / "a" / "z.png"), "rows changed"),
        (lambda f: (f / "b").rename(f / "c"), ""),
        (lambda f: shutil.copytree(f / "a", f / "0"), "rows then"),
        (lambda f: (f / "a" / "9.png").rename(f / "b" / "-.png"), "the labels changed"),
    ],
    ids=["overwritten", "removed", "added", "renamed", "folder renamed", "folder added", "moved to the next label"],
)
def test_a_folder_of_images_that_changed_is_refused(change, message, tmp_path):
    folder = tmp_path / "images"
    pictures(folder)
    values = [f"dataset.path={folder}", "dataset.size=8", "dataset.channels=1", "energy.channels=[2]"]
    run = train(tmp_path, "dataset=image_folder", *values)
    before = drawn(run, tmp_path / "before")
    assert drawn(run, tmp_path / "same").dtype == np.float32
    change(folder)
    if not message:  # labels are numbers in the order of the folders' names
        assert ebm_lab.load_run(run.path).dataset.labels is not None
        return
    refused(lambda: ebm_lab.load_run(run.path), f"dataset.path={folder}: not the data", message)
    refused(lambda: ebm_lab.train([f"resume={run.path}", "steps=3"], quiet=True), message)
    assert np.array_equal(drawn(run, tmp_path / "after"), before)
    assert (tmp_path / "after" / "samples.png").is_file()


def test_wine_that_changed_is_refused(tmp_path):
    (tmp_path / "wine").mkdir()

    def write(seed):
        rows = np.random.default_rng(seed).normal(5, 2, (60, 12)).round(3)
        names = ";".join(f'"{i}"' for i in range(12))
        (tmp_path / "wine" / "red.csv").write_text("\n".join([names, *(";".join(map(str, r)) for r in rows)]) + "\n")

    write(0)
    run = train(tmp_path, "dataset=wine", f"dataset.root={tmp_path}", *MLP)
    assert ebm_lab.load_run(run.path).dataset.event_shape == (11,)
    write(1)
    refuse_all(run, f"dataset.root={tmp_path}: not the data", "the train, val and test rows changed")


def test_mnist_in_another_root_must_be_the_same_images(tmp_path):
    from tests.datasets.test_datasets_real import write_idx

    for name in ("one", "two"):
        write_idx(tmp_path / name / "MNIST" / "raw")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    values = ["dataset.val=5", "energy.channels=[2]", "sample_steps=2"]
    run = train(tmp_path, "dataset=mnist", f"dataset.root={tmp_path / 'one'}", *values)
    copy, other = ({"root": str(tmp_path / name)} for name in ("copy", "two"))
    assert ebm_lab.load_run(run.path, dataset=copy).dataset.event_shape == (1, 28, 28)
    refused(lambda: ebm_lab.load_run(run.path, dataset=other), "the train, val and test rows changed")


def test_another_release_of_the_digits_is_refused(tmp_path, monkeypatch):
    import sklearn.datasets

    run = train(tmp_path, "dataset=digits", "energy.channels=[2]", "sample_steps=2")
    digits = sklearn.datasets.load_digits()
    digits.images[3, 2, 2] += 1
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    refused(lambda: ebm_lab.load_run(run.path), "dataset=digits: not the data", "rows changed")
    digits.images[3, 2, 2] -= 1
    digits.target[3] += 1
    refused(lambda: ebm_lab.load_run(run.path), "dataset=digits: not the data", "the labels changed")


class Plugged:
    """What a plugin's code says now; a test changes it between training and loading."""

    radius, factor, bound, unit, gone = 1.0, 1.0, None, 1.0, False


@register("dataset", "plugged_ring")
class Ring(Dataset):
    def __init__(self, *, n: int) -> None:
        from ebm_lab.core.transforms import Affine

        if Plugged.gone:
            raise FileNotFoundError("the plugin's file")
        t = torch.linspace(0, 6.28, n)
        x = Plugged.radius * torch.stack([t.cos(), t.sin()], 1)
        self.train, self.val, self.test = x[::2], x[1::4], x[3::4]
        self.bounds, self.transform = Plugged.bound, Affine(torch.zeros(2), torch.full((2,), Plugged.unit))

    def log_prob(self, x):
        return -Plugged.factor * x.square().sum(1)


@register("energy", "plugged_mean")
class KnowsMean(Energy):
    """Computes what a run keeps."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self.mean, self.scale = dataset.mean, dataset.scale
        self.w = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.w * ((x - self.mean) / self.scale).square().sum(1)


@register("energy", "plugged_top")
class KnowsTop(KnowsMean):
    """Computes what a run does not keep, and what its checkpoint does not hold."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.top = float(dataset.train.max())

    def forward(self, x):
        return super().forward(x) + self.top * x.sum(1)


def config_of(folder, energy):
    """A config whose components have no YAML."""
    config = compose_config([*QUICK, "dataset=two_moons", "sampler=langevin", *MLP, f"output_dir={folder / 'out'}"])
    return {**config, "dataset": {"name": "plugged_ring", "n": 200}, "energy": {"name": energy}}


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    from ebm_lab.runs.train import train as run

    return lambda energy="plugged_mean": run(config_of(tmp_path, energy), quiet=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("radius", 2.0, "the train, val and test rows changed"),
        ("factor", 2.0, "the true log-density changed"),
        ("unit", 3.0, "the transform changed"),
        ("gone", True, "the plugin's file"),
        ("bound", (-1.0, 1.0), "the bounds changed"),
    ],
)
def test_a_plugin_whose_code_changed_is_refused(name, value, message, plugged, monkeypatch, tmp_path):
    run = plugged()
    assert ebm_lab.load_run(run.path).dataset.event_shape == (2,)
    before = drawn(run, tmp_path / "before")
    monkeypatch.setattr(Plugged, name, value)
    refused(lambda: ebm_lab.load_run(run.path), "dataset=plugged_ring: ", message)
    assert np.array_equal(drawn(run, tmp_path / "after"), before)


def test_an_energy_that_computes_more_than_the_run_keeps_is_never_sampled_beside_other_data(plugged, monkeypatch):
    run = plugged("plugged_top")
    assert ebm_lab.load_run(run.path, data="kept").energy.top == 1
    monkeypatch.setattr(Plugged, "radius", 2.0)
    refused(lambda: sample(run=str(run.path), device="cpu"), "energy 'plugged_top' computes more from its data")


def test_a_data_set_with_its_own_start_of_chains_is_never_sampled_without_it(plugged, monkeypatch):
    run = plugged()
    monkeypatch.setattr(Ring, "start", property(noise_like), raising=False)
    monkeypatch.setattr(Plugged, "radius", 2.0)
    refused(lambda: sample(run=str(run.path), device="cpu"), "begins chains in its own way")


ENERGIES = {
    "gaussian": [],
    "mlp": ["energy.confine_shape=covariance"],
    "dkef": ["energy.points=20"],
    "noise_mlp": ["objective=multi_dsm", "sampler=annealed_langevin"],
    "score_mlp": ["objective=multi_dsm", "sampler=probability_flow"],
}
OBJECTIVES = {"nce": [], "pcd": [], "cnce": [], "mpf": [], "ksd": [], "unbiased_cd": []}


@pytest.mark.parametrize("choice", cases([*ENERGIES, *OBJECTIVES], ["mlp", "score_mlp", "pcd"]))
def test_every_kind_of_run_is_sampled_without_its_data(choice, tmp_path):
    np.save(tmp_path / "x.npy", NORMAL * 3 + 5)
    values = [f"energy={choice}", *ENERGIES[choice]] if choice in ENERGIES else [*MLP, f"objective={choice}"]
    run = train(tmp_path, "dataset=array", f"dataset.path={tmp_path / 'x.npy'}", "dataset.scaling=none", *values)
    before = drawn(run, tmp_path / "before")
    np.save(tmp_path / "x.npy", SHIFTED)
    assert np.array_equal(drawn(run, tmp_path / "after"), before) and np.isfinite(before).all()


def test_a_cut_training_set_is_known_again(tmp_path):
    np.save(tmp_path / "x.npy", NORMAL)
    values = ["dataset=array", f"dataset.path={tmp_path / 'x.npy'}", *MLP, "max_train=50"]
    run = train(tmp_path, *values)
    assert len(ebm_lab.load_run(run.path).dataset.train) == 50
    assert ebm_lab.train([f"resume={run.path}", "steps=3"], quiet=True).summary["step"] == 3
    rows = NORMAL.copy()
    rows[200:] += 1
    np.save(tmp_path / "x.npy", rows)
    refused(lambda: ebm_lab.load_run(run.path), "rows changed")


def test_a_run_is_read_from_another_directory(tmp_path, monkeypatch):
    """Paths in config.yaml are absolute; the request that resume=auto knows a run by is not touched."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    np.save("data.npy", NORMAL)
    overrides = [*QUICK, "dataset=array", "dataset.path=data.npy", *MLP]
    run = ebm_lab.train([*overrides, "logger=wandb", "evaluation=[mmd]"][:-2], quiet=True)
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["dataset"]["path"] == str(tmp_path / "here" / "data.npy")
    assert config["output_dir"] == str(tmp_path / "here" / "outputs")
    assert run.summary["request"] == fingerprint(compose_config(overrides))
    assert ebm_lab.train([*overrides, "resume=auto"], quiet=True).path == run.path
    monkeypatch.chdir(tmp_path / "there")
    path = tmp_path / "here" / run.path
    assert ebm_lab.load_run(path).dataset.event_shape == (2,)
    assert ebm_lab.train([f"resume={path}", "steps=3"], quiet=True).summary["step"] == 3


def test_every_setting_that_is_a_path_is_absolute_in_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    choice = ["dataset=digits", "logger=wandb", "evaluation=[fid,ood]", "evaluation.fid.weights=w.pth"]
    config = compose_config([*choice, "objective=dsm", "evaluation.ood.others.0.root=data"])
    _, resolved = assemble(config)
    assert resolved["logger"]["directory"] == str(tmp_path / "outputs")
    assert resolved["evaluation"]["fid"]["weights"] == str(tmp_path / "w.pth")
    assert resolved["evaluation"]["ood"]["others"][0]["root"] == str(tmp_path / "data")
    assert resolved["evaluation"]["ood"]["others"][1]["root"] is None
    _, again = assemble(compose_config([*choice[:-1], "objective=dsm", "evaluation.fid.weights=auto"]))
    assert again["evaluation"]["fid"]["weights"] == "auto"


@pytest.fixture
def moved_run(tmp_path, monkeypatch):
    """An old run with a relative path, read where there is no such file; and the file's new place."""
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    np.save(tmp_path / "data.npy", NORMAL)
    run = train(tmp_path, "dataset=array", f"dataset.path={tmp_path / 'data.npy'}", *MLP)
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["dataset"]["path"] = "data.npy"
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "data.npy").rename(tmp_path / "17")
    return run, str(tmp_path / "17") + ".npy", (tmp_path / "17").rename(tmp_path / "17.npy")


def test_the_place_of_the_data_can_be_given_when_a_run_is_taken_up(moved_run, tmp_path, monkeypatch):
    run, place, _ = moved_run
    refused(lambda: ebm_lab.load_run(run.path), "no such file", "dataset.path=<path>")
    assert ebm_lab.load_run(run.path, dataset={"path": Path(place)}).dataset.event_shape == (2,)
    drawn(run, tmp_path / "samples", f"dataset.path={place}")
    values = [f"run={run.path}", "evaluation=mmd", "device=cpu", f"out={tmp_path / 'e'}", f"dataset.path={place}"]
    tools.main(evaluate, values)
    for n, choice in ((3, []), (4, ["dataset=array"])):
        overrides = [f"resume={run.path}", f"steps={n}", *choice, f"dataset.path={place}"]
        assert ebm_lab.train(overrides, quiet=True).summary["step"] == n
    assert yaml.safe_load((run.path / "config.yaml").read_text())["dataset"]["path"] == place
    monkeypatch.chdir(tmp_path)
    assert ebm_lab.load_run(run.path, dataset={"path": "17.npy"}).config["dataset"]["path"] == place


def test_old_runs_with_a_relative_path_work_from_their_directory(moved_run, tmp_path, monkeypatch):
    run, place, _ = moved_run
    shutil.copy(place, tmp_path / "data.npy")
    monkeypatch.chdir(tmp_path)
    assert ebm_lab.load_run(run.path).dataset.event_shape == (2,)
    assert ebm_lab.train([f"resume={run.path}", "steps=3"], quiet=True).summary["step"] == 3


def test_a_place_with_other_data_is_refused_and_so_is_every_other_change(moved_run, tmp_path):
    run, _, _ = moved_run
    np.save(tmp_path / "other.npy", SHIFTED)
    other = str(tmp_path / "other.npy")
    refused(lambda: ebm_lab.load_run(run.path, dataset={"path": other}), f"dataset.path={other}: not the data")
    refused(lambda: sample(run=str(run.path), overrides={"dataset.path": other}), f"dataset.path={other}: not the data")
    refused(lambda: sample(run=str(run.path), overrides={"dataset.path": "none.npy"}), "none.npy: no such file")
    refused(lambda: ebm_lab.load_run(run.path, dataset={"seed": 1}), "dataset.seed=1: can't be changed", "dataset.path")
    refused(lambda: ebm_lab.load_run(run.path, dataset={"path": 3}), "dataset.path=3: must be a path")
    refused(lambda: sample(run=str(run.path), overrides={"energy.x": 1}), "energy.x=1: unknown key")
    resume = [f"resume={run.path}", "steps=3"]
    refused(lambda: ebm_lab.train([*resume, f"dataset.path={other}"], quiet=True), "not the data")
    refused(lambda: ebm_lab.train([*resume, "dataset.seed=1"], quiet=True), "dataset.seed=1: can't be changed")
    refused(lambda: ebm_lab.train([*resume, "dataset=digits"], quiet=True), "dataset: can't be changed")


def test_the_command_line_takes_the_place_of_the_data_beside_resume(moved_run, monkeypatch, capsys):
    from ebm_lab.cli import main as line

    run, place, _ = moved_run
    monkeypatch.setattr("sys.argv", ["train.py", f"resume={run.path}", "steps=3", f"dataset.path={place}"])
    with pytest.raises(SystemExit) as ended:
        line.main()
    assert ended.value.code == 0, capsys.readouterr().err
