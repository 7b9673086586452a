"""Kind: help that leaves out what a user has to know of a component, a group or a key."""

import re
import sys

import pytest
import yaml

from ebm_lab.cli.compose import COMPONENTS, GROUPS, config_dir, options
from ebm_lab.cli.hints import described
from ebm_lab.cli.main import main
from ebm_lab.cli.manual import keys
from ebm_lab.cli.pages import page
from ebm_lab.evaluation.ais import AIS
from ebm_lab.runs.settings import RunSettings


def printed(monkeypatch, capsys, *words):
    """What `train.py` prints for these words; nothing is composed or trained."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    main()
    return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_option_has_a_page_with_its_summary_and_every_key_with_its_default(group):
    for option in options(group):
        text, written = page(group, option), (config_dir() / group / f"{option}.yaml").read_text(encoding="utf-8")
        comments = re.match(r"(?:# @.*\n)?((?:#.*\n)+)", written)[1]
        flat = " ".join(text.split())
        assert text.startswith(f"{group}={option}\n")
        assert " ".join(re.sub(r"^#", "", comments, flags=re.MULTILINE).split()) in flat, "the whole comment"
        for key, value in (yaml.safe_load(written) or {}).items():
            if key in ("name", "defaults") or isinstance(value, dict):
                continue
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            prefix = {"evaluation": r"evaluation\.\w+\."}.get(group, rf"{group}\." if group in COMPONENTS else "")
            found = re.search(rf"^    {prefix}{key}=(<must be given>|\S+)", text, re.MULTILINE)
            assert found, f"{group}={option} does not tell {key}"
            assert isinstance(value, list) or shown == "???" or found[1] == str(shown)
        assert max(map(len, text.splitlines())) <= 120


def test_every_setting_of_a_component_is_told_what_it_takes():
    for group in set(COMPONENTS) - {"guard"}:
        for option in options(group):
            keys_alone = page(group, option).partition("\nKEYS\n")[2].partition("\n\n")[0]
            for line in re.findall(rf"^    {group}\.\S+=.*", keys_alone, re.MULTILINE):
                depth = line.partition("=")[0].count(".") - (group == "evaluation")
                plain = depth > 1  # a setting of a component inside this one, told on its own page
                assert plain or re.search(r"=\S+( given>)?  *\S", line) or "<" in line or len(line) > 40, line


def test_a_page_tells_needs_what_it_brings_and_its_recipe():
    text = page("objective", "multi_dsm")
    assert "a model of many noise levels" in text and "    sampler=annealed_langevin\n" in text
    assert "objective=multi_dsm domain=points: points: larger batches" in text
    assert "objective=multi_dsm domain=points energy=noise_mlp: objective.time_weight=1.0" in text
    assert "a sampler, whose chains it trains with" in page("objective", "pcd")
    assert "no sampler" in page("objective", "dsm") and "objective=dsm domain=images: images" in page(
        "objective", "dsm"
    )
    assert "dataset.path=..." in page("dataset", "array") and "domain=points" in page("dataset", "two_moons")
    assert "energy=mlp" in page("domain", "points") and "energy=noise_mlp" in page("energy", "noise_mlp")
    assert "many noise levels" in page("sampler", "annealed_langevin")
    assert "an energy, so no score network" in page("sampler", "hmc")
    assert "objective=mle domain=points sampler=mala: sampler.steps=20" in page("sampler", "mala")
    assert "    objective.generative=pcd\n    energy=labelled\n" in page("objective", "jem")
    assert "    evaluation_sampler=recovery_descent\n" in page("objective", "drl"), "it trains by its own short chains"
    assert "\n| kl " in page("objective", "f_ebm").replace("    |", "|"), "a table is not wrapped"
    assert "objective=pcd domain=images optim=adam: optim.lr=0.003" in page("optim", "adam")
    assert "`sigma`: noise level in data units" in page("objective", "dsm")
    assert "target_acceptance" in " ".join(page("sampler", "mala").partition("KEYS")[0].split()), "of the class below"


@pytest.mark.parametrize(
    "words, shown, absent",
    [
        (["objective=dsm", "--help"], ["objective=dsm\n", "objective.sigma=auto"], ["SYNOPSIS", "objective=pcd"]),
        (["--help", "objective=dsm"], ["objective=dsm\n"], ["SYNOPSIS"]),
        (["-h", "dsm"], ["objective=dsm\n"], ["SYNOPSIS"]),
        (["objective=?"], [f"objective={o}\n" for o in options("objective")], ["SYNOPSIS", "sampler=hmc"]),
        (["sampler", "--help"], [f"sampler={o}\n" for o in options("sampler")], ["objective=dsm\n"]),
        (["objective=dsm", "sampler=hmc", "-h"], ["objective=dsm\n", "sampler=hmc\n", "sampler.leapfrog=5"], []),
        (["objective=dsm", "sampler=?", "steps=3"], ["sampler=mala\n"], ["objective=dsm\n", "    steps="]),
        (["evaluation=[ais,mmd]", "--help"], ["evaluation=ais\n", "evaluation.ais.chains=64", "evaluation=mmd\n"], []),
        (["evaluation=ais,mmd", "--help"], ["evaluation=ais\n", "evaluation=mmd\n"], []),
        (["steps=?"], ["    steps=3000 "], ["SYNOPSIS"]),
        (["resume=auto", "--help"], ["    resume=null "], ["SYNOPSIS"]),
        (["--help"], ["SYNOPSIS", "objective=dsm --help"], []),
    ],
)
def test_help_answers_what_was_asked(words, shown, absent, monkeypatch, capsys):
    text = printed(monkeypatch, capsys, *words)
    assert all(s in text for s in shown) and not any(a in text for a in absent)


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_can_be_asked_for(group, monkeypatch, capsys):
    text = printed(monkeypatch, capsys, f"{group}=?")
    assert all(f"{group}={option}\n" in text for option in options(group))


def test_help_for_what_does_not_exist_is_a_mistake(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "objective=dmx", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1 and "did you mean 'dsm'?" in err


def test_the_manual_shows_comments_whole(monkeypatch, capsys):
    text = " ".join(printed(monkeypatch, capsys, "--help").split())
    lines = (config_dir() / "train.yaml").read_text(encoding="utf-8").splitlines()
    cut = [line.lstrip(" #") for line in lines if re.match(r" {10,}# ", line)]
    assert cut, "the test needs a comment of two lines"
    assert all(rest in text for rest in cut)
    assert {name for name, *_ in keys()} == set(RunSettings.__annotations__)


def test_the_manual_fits_a_terminal(monkeypatch, capsys):
    assert max(map(len, printed(monkeypatch, capsys, "--help").splitlines())) <= 120


def test_a_component_of_one_s_own_has_a_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_page.py").write_text(
        "from typing import Literal\nfrom ebm_lab import register\n\n\n"
        '@register("dataset", "own_page")\nclass Own:\n    """`n`: how many points."""\n\n'
        '    def __init__(self, *, n: int, kind: Literal["a", "b"] | None) -> None: ...\n'
    )
    (tmp_path / "own" / "dataset").mkdir(parents=True)
    (tmp_path / "own" / "dataset" / "mine.yaml").write_text("# points of my own\nname: own_page\nn: 7\nkind: null\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = printed(monkeypatch, capsys, "dataset=mine", "plugins=[own_page]", "--config-dir", "own", "--help")
    assert "    points of my own\n" in text and "`n`: how many points." in text
    assert re.search(r"dataset\.n=7 +whole number\n", text) and re.search(r"kind=null +a or b or null\n", text)


def test_the_lines_of_an_equation_keep_their_indents():
    """A line too long to be indented stayed where it was, while those below it moved to the right."""
    assert "errors:\n\n        the starts meet     at" in page("evaluation", "longrun")
    first, second = re.search(r"^( *)v ~ N.*\n( *)times, until", page("sampler", "nuts"), re.MULTILINE).groups()
    assert first == second


def test_types_are_told_in_words():
    import typing

    hints = typing.get_type_hints(AIS.__init__, include_extras=True)
    assert described(hints["chains"]) == "whole number >= 2"
    assert described(hints["base_floor"]) == "number > 0"
    assert described(list[str]) == "a list of: text" and described(float | None) == "number or null"
    assert described(bool) == "true or false"
