"""Draw samples from a run; run tools by `key=value` arguments, which are checked like settings."""

import csv
import inspect
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.cli.commands import command, import_from_here
from ebm_lab.core.errors import UserError
from ebm_lab.core.settings import check, settings_of
from ebm_lab.runs.isolation import isolated


@isolated()
def sample(
    *,
    run: str,
    n: PositiveInt = 64,
    steps: PositiveInt | None = None,
    temperature: PositiveFloat | None = None,
    y: NonNegativeInt | str | None = None,
    guidance: NonNegativeFloat = 0.0,
    which: Literal["last", "best"] = "last",
    ema: bool = True,
    seed: NonNegativeInt = 0,
    device: str = "auto",
    plugins: list[str] | None = None,
    out: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> None:
    """Draw n samples by a run's sampler, starting from noise; write samples.npy, and samples.png for images or
    samples.csv for tables whose columns have names.

    Both hold raw data units, for tables in float64, and of categories their numbers. steps: of the sampler;
    temperature: samples are drawn from exp(-E / temperature); both are the run's own by default; y: the class to draw,
    its number or name, for a model with labels; guidance: w of p(x | y) p(y | x)^w; out: where to write (default:
    <run>/samples). If the data are gone or changed, samples are drawn with the mean, scale and transform that the run
    kept of them; dataset.path=<path> or dataset.root=<path> says where the data are now.
    """
    import numpy as np
    import torch

    from ebm_lab.core.pictures import grid, save_png
    from ebm_lab.core.random import stream
    from ebm_lab.runs.data_record import KeptData
    from ebm_lab.runs.load import load_run
    from ebm_lab.training.memory import keep_freed_memory

    keep_freed_memory()
    place = data_place(overrides or {})
    loaded = load_run(run, which=which, ema=ema, device=device, plugins=plugins or [], dataset=place, data="kept")
    torch.set_num_threads(loaded.parts.config["threads"])
    if isinstance(loaded.dataset, KeptData):
        print(f"note: {loaded.dataset.why}; this does not change the samples")
    generator = stream(seed, "sample", 0, loaded.parts.generator.device)
    samples = loaded.sample(n, generator, steps=steps, temperature=temperature, raw=False, y=y, guidance=guidance)
    folder = Path(out or loaded.path / "samples")
    writable(folder)
    raw = loaded.dataset.transform.inverse(samples).numpy()
    if loaded.dataset.space == "categorical":
        raw = raw.argmax(1)
    np.save(folder / "samples.npy", raw)
    if loaded.dataset.column_names is not None:
        write_csv(folder / "samples.csv", loaded.dataset.column_names, raw.tolist())
    if loaded.dataset.bounds is not None:
        columns = max(1, round(n**0.5))
        save_png(grid(samples, loaded.dataset.bounds, columns), folder / "samples.png")
    assert loaded.sampler is not None, "sample() has checked this"
    taken = loaded.sampler.total(loaded.energy) or steps or loaded.evaluations.sampling.steps
    print(f"{n} samples after {taken} steps from noise: {folder}")


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[float]]) -> None:
    """Write a line of names and one line per row, with all digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def data_place(overrides: Mapping[str, Any]) -> dict[str, str]:
    """Take the data set's settings from dotted arguments, {"dataset.path": "x"} -> {"path": "x"}; reject others."""
    for key, value in overrides.items():
        if not key.startswith("dataset."):
            raise UserError(f"{key}={value}: unknown key; allowed: dataset.path or dataset.root, where the data are")
    return {key.removeprefix("dataset."): value for key, value in overrides.items()}


def writable(folder: Path) -> None:
    """Make `folder`; raise UserError if it can't be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"out={folder}: can't be written there ({error.strerror})") from None


def main(tool: Callable, argv: list[str] | None = None) -> None:
    """Run `tool` with `key=value` arguments; a mistake in them prints one line and exits with 2."""
    argv = sys.argv[1:] if argv is None else argv
    with command():
        if not argv or {"-h", "--help"} & set(argv):
            print(f"{tool.__name__}: {inspect.getdoc(tool)}\n")
            for name, p in settings_of(tool).items():
                print(f"    {name}={'<required>' if p.default is p.empty else p.default}")
            return
        import_from_here()
        tool(**check(tool, _parse(argv, settings_of(tool)), ""))


def _parse(argv: list[str], settings: dict[str, inspect.Parameter]) -> dict[str, Any]:
    texts = {name for name, p in settings.items() if p.annotation in (str, str | None)}
    nameless = list(settings)[: max(1, sum(p.default is p.empty for p in settings.values()))]
    values: dict[str, Any] = {}
    for argument in dashed(argv, settings):
        name, equals, text = argument.partition("=")
        if not equals and len(values) < len(nameless):  # the first arguments may come without their names
            name, equals, text = nameless[len(values)], "=", argument
        if not equals:
            raise UserError(f"{argument}: not of the form key=value")
        value = text if name in texts or name.startswith("dataset.") else yaml.safe_load(text)
        if "." in name and "overrides" in settings.keys() - texts:
            values.setdefault("overrides", {})[name] = value
        else:
            values[name] = value
    return values


def dashed(argv: Sequence[str], settings: Iterable[str]) -> list[str]:
    """Translate `--key value` and `--key=value` to `key=value` for the keys of a tool; leave other words as they
    are."""
    words, made = list(argv), []
    while words:
        word = words.pop(0)
        key, equals, _ = word.removeprefix("--").partition("=")
        if not word.startswith("--") or key not in settings:
            made.append(word)
        elif equals:
            made.append(word.removeprefix("--"))
        elif words:
            made.append(f"{key}={words.pop(0)}")
        else:
            raise UserError(f"{word}: needs a value: {word} <value>")
    return made


def main_sample() -> None:
    """Run the console command `ebm-lab-sample`."""
    main(sample)
