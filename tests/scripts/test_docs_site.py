"""The documentation site: a page for every component, links that lead somewhere, and every page in the navigation.

`make docs` builds the site itself; nothing here needs mkdocs.
"""

import functools
import html
import posixpath
import re
from pathlib import Path

import pytest
import yaml

from ebm_lab.cli.compose import config_dir, options
from ebm_lab.cli.facts import Facts, Setting, facts_of
from scripts.docs_site.components import GROUPS, PICTURES, is_name, page, pages
from scripts.docs_site.equations import GREEK, OPERATORS, SIGNS, columns, equation, formula

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
written = functools.cache(pages)


def prose(path):
    """The text of a Markdown file without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_every_component_has_a_page_and_a_row_in_its_index():
    for group in GROUPS:
        named = set(options(group)) - {"none"}
        assert named == {Path(p).stem for p in written() if p.startswith(f"{group}/")} - {"index"}
        assert named == set(re.findall(r"^\| \[`\w+`\]\((\w+)\.md\)", written()[f"{group}/index.md"], re.MULTILINE))


@pytest.mark.parametrize("group", ["objective", "sampler"])
def test_every_method_shows_its_equation_settings_and_source(group):
    for option in set(options(group)) - {"none"}:
        text = written()[f"{group}/{option}.md"]
        values = yaml.safe_load((config_dir() / group / f"{option}.yaml").read_text(encoding="utf-8"))
        for key, value in values.items():
            if key not in ("name", "defaults") and not isinstance(value, dict):
                shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                row = re.search(rf"^\| `{group}\.{key}` \| (.+?) \| (.*) \|$", text, re.MULTILINE)
                assert row, f"{group}={option} does not tell {key}"
                assert isinstance(value, list) or row[1] == ("must be given" if value == "???" else f"`{shown}`")
        assert re.search(r'^<table class="equation"><tr><td>.*[=∼←:−]', text, re.MULTILINE), f"{group}={option}"
        assert "\n## References\n\n- " in text, f"{group}={option} has no source"


SET = {
    "1/2 E_x | sigma s(x + sigma eps) |^2": "½ <i>E</i><sub><i>x</i></sub> | σ <i>s</i>(<i>x</i> + σ ε) |<sup>2</sup>",
    "grad_theta E_{q_k}[ x~ ]": ("∇<sub>θ</sub> <i>E</i><sub><i>q</i><sub><i>k</i></sub></sub>[ <i>x\u0303</i> ]"),
    "x <- x - r^-1/2,    z ~ p_c": (
        "<i>x</i> ← <i>x</i> − <i>r</i><sup>−½</sup>,&emsp;<i>z</i> ∼ <i>p</i><sub><i>c</i></sub>"
    ),
    "(C C')^(1/2) gap_i step_size": "(<i>C</i> <i>C</i>′)<sup>½</sup> gap<sub><i>i</i></sub> step_size",
    "alpha beta gamma delta eps theta lambda mu nu xi pi sigma tau phi omega Gamma": "α β γ δ ε θ λ μ ν ξ π σ τ φ ω Γ",
    "grad sum prod int sqrt <-> -> >= <= || ..": "∇ ∑ ∏ ∫ √ ↔ → ≥ ≤ ‖ …",
    "max_theta max_prob": "max<sub>θ</sub> max_prob",
    "ais_log_z = log_z": "ais_log_z = log_z",
}


@pytest.mark.parametrize("plain", SET)
def test_an_equation_is_set_with_symbols_and_indices(plain):
    assert formula(plain, lambda name: name.endswith("log_z")) == SET[plain]


def test_names_of_metrics_and_of_options_are_no_letters_with_an_index():
    assert is_name("log_z") and is_name("f_ebm") and not is_name("p_theta") and not is_name("x_neg")


def test_what_stands_in_columns_becomes_a_table():
    assert columns("    bits:    x = 1   if so\n    others:  x_i = c") == [
        ["bits:", "x = 1   if so"],
        ["others:", "x_i = c"],
    ]


def letters(text):
    """What is left of an equation, plain or set, without brackets, spaces and the marks of indices."""
    text = html.unescape(re.sub(r"</?(?:i|sub|sup|code|table|tr|td)\b[^>]*>", "", text))
    for plain, sign in {**GREEK, **OPERATORS, **SIGNS, "1/2": "½", "'": "′"}.items():
        text = text.replace(sign, plain)
    return re.sub(r"[\s_^{}()~`\u0303]", "", text)


@pytest.mark.parametrize("group", GROUPS)
def test_no_equation_loses_a_letter_or_keeps_a_mark(group):
    found = [block for option in options(group) for block in facts_of(group, option).method if block.startswith("    ")]
    assert len(found) > 5
    for block in found:
        shown = equation(block, is_name)
        assert letters(shown) == letters(block), block
        plain = re.sub(r"<code>.*?</code>|<[^>]+>", "", shown)
        assert "^" not in plain and " ~ " not in plain, block


def test_a_page_shows_the_rows_of_the_documents_and_its_picture():
    pcd, mala = written()["objective/pcd.md"], written()["sampler/mala.md"]
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    gap = re.search(r"^\| `pcd` \| (.+?) \|", results[results.index("### two_moons") :], re.MULTILINE)[1]
    assert re.search(rf"^\| two_moons \| {re.escape(gap)} \|", pcd, re.MULTILINE), "the first table is of two moons"
    assert "| yes, persistent |" in pcd and "(../digits_pcd.png)" in pcd
    assert "\n| exact | gradients" in mala and "\n| yes | k + 1 |" in mala
    assert all(f"../{file}" in written()[f"{group}/{option}.md"] for (group, option), (file, _) in PICTURES.items())
    link = "[`evaluation_sampler=recovery_descent`](../sampler/recovery_descent.md)"
    assert link in written()["objective/drl.md"], "drl trains with another sampler"
    assert "[`objective.generative=pcd`](pcd.md)" in written()["objective/jem.md"].replace("../objective/", "")
    assert "\n| kl          | r log r " in written()["objective/f_ebm.md"]


def test_docstrings_hold_no_markup_but_code():
    facts = Facts("dataset", "mine", ["E[ f ](x) a_b * c <d> `k_*`"], [], [], [], [], [], [], [], [])
    assert r"E\[ f \](x) a\_b \* c &lt;d&gt; `k_*`" in page(facts)
    setting = Setting("dataset.kind", "a|b", "", "a | b")
    assert r"| `dataset.kind` | `a\|b` |  (a \| b) |" in page(facts._replace(settings=[setting]))


def test_every_link_of_a_component_page_leads_to_a_page_or_a_file():
    for path, text in written().items():
        for target in LINK.findall(re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)):
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            assert inside in written() or (ROOT / "docs" / inside).is_file(), f"{path} links to {target}"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_of_a_document_leads_to_a_file(path):
    for target in LINK.findall(prose(path)):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_document_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    assert {p.name for p in WRITTEN} == set(re.findall(r"(\w+\.md)$", text, re.MULTILINE))
