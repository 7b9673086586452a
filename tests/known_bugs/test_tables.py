"""Kind: a table in a text file loses a row, gains one, or is read as other numbers than it holds, without a word."""

import numpy as np
import pytest
import torch

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from ebm_lab.datasets._tables import read_table
from tests.datasets.test_datasets_real import WINE, write_wine

ROWS = np.random.default_rng(0).normal(size=(600, 2)).round(6)
BODY = "\n".join(f"{a},{b}" for a, b in ROWS) + "\n"


def array(path):
    return build(
        "dataset",
        {
            "name": "array",
            "path": str(path),
            "key": None,
            "scaling": "none",
            "label": None,
            "classes": None,
            "dequantise": False,
            "space": "continuous",
            "val": 0.1,
            "test": 0.1,
            "seed": 0,
        },
    )


def write(tmp_path, content, name="x.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def same(data, rows):
    """Are the three splits together these rows, each as often?"""
    found = torch.cat([data.train, data.val, data.test]).double()
    wanted = torch.as_tensor(np.asarray(rows)).float().double()
    return sorted(found.tolist()) == sorted(wanted.tolist())


def refused(path, *parts):
    with pytest.raises(UserError) as caught:
        array(path)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and f"dataset.path={path}" in line
    for part in parts:
        assert part in line, line


READ = {
    "plain": BODY,
    "a byte-order mark": b"\xef\xbb\xbf" + BODY.encode(),
    "a byte-order mark before names": b"\xef\xbb\xbfa,b\n" + BODY.encode(),
    "a byte-order mark before quoted names": b'\xef\xbb\xbf"a","b"\n' + BODY.encode(),
    "names": "a,b\n" + BODY,
    "quoted names that hold the separator": '"a, in m","b; ""wide"""\n' + BODY,
    "a quoted name on two lines": '"a\nin m",b\n' + BODY,
    "names beside an empty one": "a,\n" + BODY,
    "names that numbers begin": "1st,2nd\n" + BODY,
    "names with an underscore": "x_0,x_1\n" + BODY,
    "quoted numbers": "\n".join(f'"{a}","{b}"' for a, b in ROWS),
    "semicolons": BODY.replace(",", ";"),
    "names with commas above semicolons": "a (x, y);b (x, y)\n" + BODY.replace(",", ";"),
    "tabs": BODY.replace(",", "\t"),
    "blanks": BODY.replace(",", " "),
    "many blanks": "   " + BODY.replace(",", "    ").replace("\n", "  \n"),
    "blanks and tabs": BODY.replace(",", " \t ", 300).replace(",", " "),
    "quoted names with blanks": '"a x" "b y"\n' + BODY.replace(",", " "),
    "blanks beside commas": BODY.replace(",", " , "),
    "carriage returns": BODY.replace("\n", "\r\n"),
    "carriage returns alone": BODY.replace("\n", "\r"),
    "blank lines": "\n\n" + BODY.replace("\n", "\n\n", 50) + "  \n\n",
    "no last line end": BODY.rstrip("\n"),
    "comments above": "# made by hand\n# a,b\n" + BODY,
    "comments above names": "# made by hand\na,b\n" + BODY,
    "names that number the columns": "0,1\n" + BODY,
    "quoted names that number the columns": '"0","1"\n' + BODY,
    "names that number the columns from 1": "1,2\n" + BODY,
    "names that are years": "2019,2020\n" + BODY,
    "another suffix": BODY,
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_each_spelling_of_600_rows_is_read_as_these_600_rows(text, tmp_path):
    assert same(array(write(tmp_path, text)), ROWS)


def test_the_suffix_may_be_in_capitals(tmp_path):
    assert same(array(write(tmp_path, BODY, "X.CSV")), ROWS)


FIRST, REST = BODY.split("\n", 1)
ONE, OTHER = FIRST.split(",")
REFUSED = {
    "a hole in row 1": (f"{ONE},\n{REST}", "row 1 (line 1) has no number in column 2", "not a line of names"),
    "a hole at the start of row 1": (f",{OTHER}\n{REST}", "row 1 (line 1) has no number in column 1"),
    "NA in row 1": (f"{ONE},NA\n{REST}", "row 1 (line 1) holds 'NA' in column 2"),
    "a hole in row 1 below names": (f"a,b\n{ONE},\n{REST}", "row 1 (line 2) has no number in column 2"),
    "row 1 all holes": (f",\n{REST}", "row 1 (line 1)"),
    "row 1 all NA": (f"NA,NA\n{REST}", "row 1 (line 1)"),
    "row 1 all nan": (f"nan,nan\n{REST}", "2 value(s) are missing: row 1 (line 1) holds 'nan' in column 1"),
    "a nan and a name": (f"nan,b\n{REST}", "row 1 (line 1) holds 'b'"),
    "a nan lower down": (
        f"a,b\n\n{FIRST}\n1.5,nan\n{REST}",
        "1 value(s) are missing: row 2 (line 4) holds 'nan' in column 2 ('b')",
    ),
    "inf": (f"{FIRST}\n1.5,-inf\n{REST}", "the first is row 2 (line 2)"),
    "a number beyond float64": (f"{FIRST}\n1.5,1e400\n{REST}", "the first is row 2 (line 2)"),
    "an empty row": (f"{FIRST}\n,\n{REST}", "row 2 (line 2) has no number in column 1"),
    "null": (f"{FIRST}\nnull,2.5\n{REST}", "row 2 (line 2) holds 'null'"),
    "a spreadsheet's error": (f"{FIRST}\n#N/A,2.5\n{REST}", "row 2 (line 2) holds '#N/A'"),
    "another of a spreadsheet's errors": (f"{FIRST}\n#DIV/0!,2.5\n{REST}", "row 2 (line 2) holds '#DIV/0!'"),
    "names and a number": (f"a,2\n{BODY}", "row 1 (line 1) holds 'a' in column 1", "not a line of names"),
    "two lines of names": (f"a,b\nm,kg\n{BODY}", "row 1 (line 2) holds 'm'"),
    "fewer names": (f"a\n{BODY}", "row 1 (line 2) has 2 cell(s), and the line of names has 1"),
    "more names": (f"a,b,c\n{BODY}", "row 1 (line 2) has 2 cell(s), and the line of names has 3"),
    "a short row": (f"{FIRST}\n1.5\n{REST}", "row 2 (line 2) has 1 cell(s), and row 1 has 2"),
    "a long row": (f"{FIRST}\n1.5,2.5,3.5\n{REST}", "row 2 (line 2) has 3 cell(s), and row 1 has 2"),
    "separators at the ends": (BODY.replace("\n", ",\n"), "row 1 (line 1) has no number in column 3"),
    "decimal commas": ("1,5;2,5\n3,5;4,5\n", "row 1 (line 1) holds '1,5'"),
    "decimal commas between tabs": ("1,5\t2,5\n3,5\t4,5\n", "row 1 (line 1) holds '5\\t2'"),
    "quoted decimal commas": ('"1,5","2,5"\n"3,5","4,5"\n', "row 1 (line 1) holds '1,5'"),
    "decimal commas in row 1 alone": ("1,5;2,5\n3;4\n4;5\n", "row 1 (line 1) holds '1,5'"),
    "thousands": ('"1,234.5",2.5\n"2,345.5",3.5\n', "row 1 (line 1) holds '1,234.5'"),
    "thousands by points": ("1.234.567;2.5\n1.5;2.5\n", "row 1 (line 1) holds '1.234.567'"),
    "thousands by underscores": (f"{FIRST}\n1_000,2.5\n{REST}", "row 2 (line 2) holds '1_000'"),
    "a per cent sign": (f"{FIRST}\n5%,2.5\n{REST}", "row 2 (line 2) holds '5%'"),
    "a date": (f"{FIRST}\n2024-01-02,2.5\n{REST}", "row 2 (line 2) holds '2024-01-02'"),
    "a complex number": (f"{FIRST}\n1+2j,2.5\n{REST}", "row 2 (line 2) holds '1+2j'"),
    "bars": (BODY.replace(",", "|"), "(line 2) holds"),
    "an index without names": (f",0,1\n0,{FIRST}\n1,{FIRST}\n", "column 1 has no name", "index=False"),
    "an index": (f",a,b\n0,{FIRST}\n1,{FIRST}\n", "column 1 has no name", "row.names=FALSE"),
    "a quoted index": (f'"","a","b"\n"1",{FIRST}\n"2",{FIRST}\n', "column 1 has no name"),
    "an index that was read and written again": (f"Unnamed: 0,a,b\n0,{FIRST}\n1,{FIRST}\n", "column 1 has no name"),
    "whole numbers below 0,1": ("0,1\n5,7\n2,3\n1,4\n", "row 1 (line 1) is 0, 1", "a line of names"),
    "an open quote": (f'{FIRST}\n"1.5,2.5\n{REST}', "unexpected end of data"),
    "UTF-16": (BODY.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "UTF-16 without its mark": (BODY.encode("utf-16-le"), "save it as UTF-8"),
    "another alphabet's byte": ("a,größe\n".encode("latin1") + BODY.encode(), "line 1 holds the byte 0xf6"),
    "a packed file": (b"\x1f\x8b\x08\x00\x01\x02", "not UTF-8 text"),
    "nothing": ("", "holds no rows"),
    "names alone": ("a,b\n", "holds no rows"),
    "comments alone": ("# 1,2\n# 3,4\n", "holds no rows"),
}


@pytest.mark.parametrize("text, parts", [(t, p) for t, *p in REFUSED.values()], ids=REFUSED)
def test_a_table_that_is_none_is_refused_in_one_line_that_names_the_row(text, parts, tmp_path):
    refused(write(tmp_path, text), *parts)


def test_whole_numbers_may_begin_with_any_row_but_that_of_the_columns_numbers(tmp_path):
    rows = np.random.default_rng(1).integers(0, 99, (50, 2))
    for first in ((0, 0), (1, 0), (7, 8), (0, 2)):
        rows[0] = first
        assert same(array(write(tmp_path, "\n".join(f"{a},{b}" for a, b in rows))), rows)
    counted = "\n".join(map(str, range(40)))
    assert same(array(write(tmp_path, counted)), np.arange(40.0)[:, None])


SAID = {
    "0,1\n" + BODY: "line 1 numbers the columns (0, 1), so it is not a sample",
    "0,0\n" + BODY: "line 1 is the only one in whole numbers (0, 0); it counts as a sample",
    FIRST + "\n# 1.5,2.5\n" + REST: "skipped 1 line(s) that begin with #, from line 2 on",
    "\n".join(f"{i},{a}" for i, a in enumerate(ROWS[:, 0])): "column 1 counts the rows",
}


@pytest.mark.parametrize("text, note", SAID.items(), ids=["columns", "whole", "comment", "index"])
def test_what_was_decided_about_a_table_is_said_once(text, note, tmp_path):
    (said,) = array(write(tmp_path, text)).notes
    assert note in said and str(tmp_path / "x.csv") in said


def test_a_plain_table_is_read_without_a_word(tmp_path):
    assert not array(write(tmp_path, "a,b\n" + BODY)).notes


def test_a_run_says_at_its_start_what_was_decided(tmp_path, capsys):
    path = write(tmp_path, "0,1\n" + BODY)
    settings = ["dataset=array", f"dataset.path={path}", "objective=dsm", "steps=2", "evaluation=[]", "logger=none"]
    ebm_lab.train([*settings, "energy.hidden=[8]", f"output_dir={tmp_path}"])
    assert "numbers the columns" in " ".join(capsys.readouterr().out.split())


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    table = read_table(write(tmp_path, '"a\nb",c\n\n# no row\n1.5,2.5\r\n\r\n3.5,4.5'))
    assert table.lines == [5, 7] and table.rows.tolist() == [[1.5, 2.5], [3.5, 4.5]]


def test_wine_is_read_by_the_same_rules(tmp_path):
    rows = np.random.default_rng(0).normal(5, 2, (40, 12)).round(3)
    write_wine(tmp_path, rows)
    file = tmp_path / "wine" / "red.csv"
    body = file.read_text().split("\n", 1)[1]
    names = ";".join(f'"name, {i}"' for i in range(12))
    values = {"name": "wine", "root": str(tmp_path), "colour": "red", **WINE}
    plain = build("dataset", values)
    for text in ("\ufeff" + names + "\n" + body, body, "\ufeff" + body, names + "\r\n" + body.replace("\n", "\r\n")):
        file.write_text(text, newline="")
        assert torch.equal(build("dataset", values).train, plain.train)
    for text, message in (
        (names + "\n" + ";" + body.split(";", 1)[1], r"row 1 \(line 2\) has no number in column 1"),
        (names + "\n" + body.replace("\n", "\nnan;", 1), r"row 2 \(line 3\) has 13 cell"),
        (names + "\n" + "nan;" + body.split(";", 1)[1], r"1 value\(s\) are missing: row 1 \(line 2\) holds 'nan'"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            build("dataset", values)
