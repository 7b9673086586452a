"""Write a Markdown page for each component, from the same facts as `train.py objective=dsm --help`."""

import functools
import html
import re
from collections.abc import Iterable
from pathlib import Path

from ebm_lab.cli.compose import options
from ebm_lab.cli.facts import Facts, Setting, facts_of
from ebm_lab.cli.grammar import group_of
from ebm_lab.core.metrics import Table as MetricTable
from ebm_lab.core.registry import metrics
from scripts.docs_site.equations import equation
from scripts.docs_site.tables import Table, row_of, tables, written

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {
    "objective": ("Objectives", "An objective is a training method: the loss of one step."),
    "sampler": ("Samplers", "A sampler moves chains of samples towards the law exp(-E) / Z."),
    "energy": ("Energies", "An energy is the model, E(x) in nats; a low energy is likely."),
    "dataset": ("Data sets", "A data set has training, validation and test points, and its density if that is known."),
    "evaluation": ("Evaluations", "An evaluation measures or draws a trained model."),
}
"""The groups whose options have pages, with the title and the first sentence of each index."""
PICTURES = {
    ("dataset", "two_moons"): ("two_moons_density.png", "python train.py objective=dsm dataset=two_moons"),
    ("dataset", "fashion_mnist"): ("fashion_score.png", "python train.py experiment=fashion_score dataset.root=data"),
    ("dataset", "binary_digits"): ("discrete_digits.png", "python train.py dataset=binary_digits"),
    ("energy", "rbm"): ("discrete_filters.png", "python train.py dataset=binary_digits"),
    ("objective", "pcd"): ("digits_pcd.png", "python train.py"),
}
"""Pictures in docs/ and the commands that drew them; docs/digits_<objective>.png is found by its name."""
OVERVIEWS = {"objective": "docs/methods.md", "sampler": "docs/samplers.md"}
"""The pages with a table of all options of a group."""
MEASURED = ("gap to the truth", "training", "steps")
"""How the columns of docs/results.md begin that the page of an objective shows."""


def pages() -> dict[str, str]:
    """Return the Markdown of every page by its path in the site: an index for each group, and a page per option."""
    found = {}
    for group in GROUPS:
        facts = [facts_of(group, option) for option in options(group) if option != "none"]
        found[f"{group}/index.md"] = index(group, facts)
        found.update({f"{group}/{f.option}.md": page(f) for f in facts})
    return found


def index(group: str, facts: list[Facts]) -> str:
    """Write the table of a group's options, each with its summary and a link to its page."""
    title, about = GROUPS[group]
    rows = [f"| [`{f.option}`]({f.option}.md) | {_prose(' '.join(f.about[:1]))} |" for f in facts]
    lines = [f"# {title}", "", f"{about} For example: `{_command(facts[0])}`", "", f"| {group} | |", "|---|---|"]
    return "\n".join([*lines, *rows]) + "\n"


def page(facts: Facts) -> str:
    """Write the page of one option."""
    lines = [f"# {facts.option}", "", f"`{_command(facts)}`"]
    for about in facts.about:
        lines += ["", _prose(about)]
    lines += _at_a_glance(facts.group, facts.option) + _picture(facts.group, facts.option)
    lines += [line for about in facts.method for line in ("", _paragraph(about))]
    if facts.settings:
        lines += ["", "## Settings", ""]
        for about in facts.parts:
            lines += [_prose(about), ""]
        lines += ["| setting | default | values |", "|---|---|---|", *map(_setting, facts.settings)]
    else:
        lines += [line for about in facts.parts for line in ("", _prose(about))]
    lines += _list("Needs", map(_prose, facts.needs)) + _list("Offers", map(_prose, facts.offers))
    lines += _list("Brings", (_linked(choice) for choice in facts.brings))
    lines += _measured(facts.group, facts.option)
    lines += _list("Recipes", map(_recipe, facts.recipes))
    return "\n".join([*lines, *_list("References", map(_prose, facts.references))]) + "\n"


def _command(facts: Facts) -> str:
    """Return a command that uses the option."""
    script = "scripts/evaluate.py run=outputs/runs/<run>" if facts.group == "evaluation" else "train.py"
    return f"python {script} {facts.group}={facts.option}"


def _picture(group: str, option: str) -> list[str]:
    """Return the picture of a default run of this option, if docs/ has one, with the command that drew it."""
    by_name = (f"digits_{option}.png", f"python train.py objective={option}") if group == "objective" else ("", "")
    file, command = PICTURES.get((group, option), by_name)
    if not (ROOT / "docs" / file).is_file():
        return []
    return ["", f"![samples of a run, or what it learnt](../{file})", "", f"Drawn by `{command}`."]


def _at_a_glance(group: str, option: str) -> list[str]:
    """Return this option's row of the table of its group in docs/methods.md or docs/samplers.md."""
    if group not in OVERVIEWS:
        return []
    found = _rows(OVERVIEWS[group], group, option)[:1]
    return [line for table in found for line in ("", written(table.named()))]


def _measured(group: str, option: str) -> list[str]:
    """Return the cost of an objective, and how near it comes to the truth, by the first table of each data set in
    docs/results.md."""
    rows = {}
    for found in _rows("docs/results.md", group, option):
        if not found.has(MEASURED):  # the summary of all objectives
            continue
        rows.setdefault(found.heading.partition(":")[0], found.chosen(MEASURED))
    if not rows:
        return []
    titles = ["data set", *(title for title, _ in next(iter(rows.values())))]
    table = Table("", titles, [[name, *(cell for _, cell in cells)] for name, cells in rows.items()])
    return [
        "",
        "## Cost and error",
        "",
        written(table),
        "",
        "From the [results](../results.md), which tell the budget and the base.",
    ]


def _rows(file: str, group: str, option: str) -> list[Table]:
    """Return the tables of a file whose first column is the group, each cut to the row of this option."""
    found = [row_of(t, option) for t in tables((ROOT / file).read_text(encoding="utf-8")) if t.header[0] == group]
    return [table for table in found if table.rows]


def _list(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"- {line}" for line in lines]
    return ["", f"## {title}", "", *found] if found else []


def _setting(setting: Setting) -> str:
    default = f"`{_cell(setting.default)}`" if setting.default else "must be given"
    note = f" ({_prose(setting.note)})" if setting.note else ""
    return f"| `{setting.key}` | {default} | {_prose(setting.takes)}{note} |"


def _recipe(line: str) -> str:
    """Write a recipe, "<condition>: <summary>: <values>", with the values as code."""
    *said, values = line.split(": ")
    return f"{': '.join(map(_prose, said))}: `{values}`"


def _linked(choice: str) -> str:
    place, _, option = choice.partition("=")
    group = group_of(place)
    return f"[`{choice}`](../{group}/{option}.md)" if group in GROUPS and option in options(group) else f"`{choice}`"


def _paragraph(text: str) -> str:
    """Write a paragraph of a docstring, which may be an equation or a table."""
    if text.startswith("    "):
        return equation(text, is_name)
    return text if text.startswith("|") else _prose(text)


def is_name(text: str) -> bool:
    """Is this the name of a metric or of an option, such as log_z or f_ebm, and no letter with an index?"""
    declared, chosen = _names()
    return text in chosen or declared.find(text) is not None


@functools.cache
def _names() -> tuple[MetricTable, set[str]]:
    return metrics(), {option for group in GROUPS for option in options(group)}


def _cell(code: str) -> str:
    return code.replace("|", "\\|")


def _prose(text: str) -> str:
    """Write a docstring's paragraph as Markdown: code stays code, and nothing else is markup."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    plain = [re.sub(r"([\\*_\[\]|`])", r"\\\1", html.escape(part, False)) for part in parts]
    return "".join(part if i % 2 else plain[i] for i, part in enumerate(parts))
