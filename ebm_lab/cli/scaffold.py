"""Write a component of the user's own: `ebm-lab new objective my_method`.

Three files: <name>.py registers the class, my_configs/<kind>/<name>.yaml holds its values, and test_<name>.py trains
it. The templates are complete components, to be changed line by line.
"""

import keyword
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

from ebm_lab.cli.compose import options
from ebm_lab.cli.tools import main
from ebm_lab.core.errors import UserError, one_of

TEMPLATES = Path(__file__).parent / "templates"
CONFIGS = "my_configs"
MOONS = "dataset=two_moons"
CHOICES = {
    "dataset": "dataset={name} objective=dsm",
    "energy": f"energy={{name}} objective=dsm {MOONS}",
    "objective": f"objective={{name}} {MOONS}",
    "sampler": f"sampler={{name}} objective=pcd {MOONS}",
    "evaluation": f"evaluation=[{{name}}] objective=dsm {MOONS}",
}
"""By kind: the choices that train the new component."""
BRIEF = "steps=20 samples=50 sample_steps=20 evaluation=[] threads=1 logger=none"
"""Settings with which its test trains within seconds."""


def new(*, kind: str, name: str, folder: str = ".") -> None:
    """Write a component of your own, with its YAML and a test that trains it.

    kind: objective, energy, sampler, evaluation or dataset; name: of the component and of its module, in lower case
    with underscores; folder: where the files go. Existing files are never overwritten.
    """
    if kind not in CHOICES:
        raise one_of("kind", kind, CHOICES)
    check_form(kind, name)
    choice = CHOICES[kind].format(name=name)
    brief = [f"plugins=[{name}]", *choice.split(), *brief_settings(choice)]
    listed = "".join(f'    "{word}",\n' for word in brief)
    words = {"LISTED": listed, "CLASS": name.title().replace("_", ""), "NAME": name, "KIND": kind.capitalize()}
    files = {
        f"{name}.py": f"{kind}.py.txt",
        f"{CONFIGS}/{kind}/{name}.yaml": f"{kind}.yaml.txt",
        f"test_{name}.py": "test.py.txt",
    }
    paths = {Path(folder) / file: filled(template, words) for file, template in files.items()}
    if there := next((path for path in paths if path.exists()), None):
        raise UserError(f"name={name}: {there} exists already; choose another name, or remove it")
    if find_spec(name) is not None:
        raise UserError(f"name={name}: a module of that name can be imported already; choose another name")
    try:
        for path, text in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"folder={folder}: can't be written there ({error.strerror})") from None
    print(*paths, sep="\n")
    place = "" if Path(folder) == Path(".") else f"cd {shlex.quote(folder)} && "
    print(f"test it: {place}python -m pytest test_{name}.py")
    print(f"train it: {place}ebm-lab train --config-dir {CONFIGS} 'plugins=[{name}]' {shlex.join(choice.split())}")


def brief_settings(choice: str) -> list[str]:
    """Return the settings of a short run beside `choice`, without those that it has."""
    keys = {word.partition("=")[0] for word in choice.split()}
    points = ["dataset.train=500", "dataset.held_out=200"] if MOONS in choice else []
    return [*points, *(word for word in BRIEF.split() if word.partition("=")[0] not in keys)]


def check_form(kind: str, name: str) -> None:
    """Reject a name that can't be a module's, or that an option of the lab has already."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"name={name}: must be lower-case letters, digits and underscores, as my_method")
    if name in options(kind):
        raise UserError(f"name={name}: the lab has {kind}={name}; choose another name")


def filled(template: str, words: dict[str, str]) -> str:
    """Return a template with its words in capitals replaced."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def main_new() -> None:
    """Run the console command `ebm-lab new`."""
    main(new)
