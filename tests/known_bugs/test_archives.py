"""Kind: a file of arrays that is damaged or no real numbers ends in a traceback, or is trained on."""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from ebm_lab.cli.main import main
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from tests.datasets.test_datasets_real import DUMPS, MNIST, write_cifar, write_idx

ROWS = np.random.default_rng(0).normal(size=(60, 3))


def array(path, key=None):
    return build(
        "dataset",
        {
            "name": "array",
            "path": str(path),
            "key": key,
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


def one_line(do, *parts):
    with pytest.raises(UserError) as caught:
        do()
    line = str(caught.value)
    assert len(line.splitlines()) == 1, line
    for part in parts:
        assert part in line, line


def cause(do):
    """What is said to be wrong, between the data set's place and what to do."""
    with pytest.raises(UserError, match=r"can't be read \(") as caught:
        do()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).split("can't be read (")[1].split("; put ")[0]


def packed(save, *arrays, **named):
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


WHOLE = {
    "x.npy": packed(np.save, ROWS),
    "stored.npz": packed(np.savez, ROWS),
    "packed.npz": packed(np.savez_compressed, ROWS),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_cut_anywhere_is_refused_in_one_line(name, tmp_path):
    whole, path = WHOLE[name], tmp_path / name
    for length in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:length])
        one_line(lambda: array(path), f"dataset.path={path}: can't be read as numbers: ")


@pytest.mark.parametrize("name", ["stored.npz", "packed.npz"])
def test_an_archive_with_a_wrong_bit_is_refused_in_one_line_or_read_right(name, tmp_path):
    whole, path, generator = WHOLE[name], tmp_path / name, np.random.default_rng(0)
    path.write_bytes(whole)
    expected = array(path).train
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        try:
            assert torch.equal(array(path).train, expected)
        except UserError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1 and f"{path}" in str(error)
    assert refused > 250  # the other bits are flags and times that no one reads


def test_a_header_with_a_wrong_bit_is_refused_in_one_line_or_read(tmp_path):
    whole, path = WHOLE["x.npy"], tmp_path / "x.npy"
    for place in range(128):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                array(path)
            except UserError as error:
                assert len(str(error).splitlines()) == 1 and f"{path}" in str(error)


def members(**texts):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name.replace("_", "."), text)
    return buffer.getvalue()


STRUCTURED = np.zeros(60, dtype=[("a", float), ("b", float)])
REFUSED = {
    "objects": ("x.npy", packed(np.save, np.array([[1, "a"]], dtype=object)), "Python objects, which could run code"),
    "objects in an archive": ("x.npz", packed(np.savez, np.array([[1, "a"]], dtype=object)), "Python objects"),
    "a pickle": ("x.npy", pickle.dumps(ROWS), "it is not an .npy or .npz file"),
    "a pickle called an archive": ("x.npz", pickle.dumps(ROWS), "it is not an .npy or .npz file"),
    "text": ("x.npy", b"1.5,2.5\n3.5,4.5\n", "it is not an .npy or .npz file"),
    "nothing": ("x.npz", b"", "it is empty"),
    "a packed file": ("x.npz", gzip.compress(WHOLE["x.npy"]), "it begins with b'\\x1f\\x8b"),
    "an archive of nothing": ("x.npz", members(), "it holds no arrays"),
    "an archive of texts": ("x.npz", members(a_txt="words"), "'a.txt' in it is not an array"),
    "two arrays on end": ("x.npy", 2 * WHOLE["x.npy"], "there is more after its array"),
    "named fields": ("x.npy", packed(np.save, STRUCTURED), "fields or raw bytes", "structured_to_unstructured"),
    "texts": ("x.npy", packed(np.save, np.array([["1.5", "2.5"]] * 9)), "texts; save numbers"),
    "bytes": ("x.npy", packed(np.save, np.array([[b"1", b"2"]] * 9)), "texts; save numbers"),
    "dates": ("x.npy", packed(np.save, np.arange("2020-01", "2024-01", dtype="M8[M]")), "dates; save numbers"),
    "durations": ("x.npy", packed(np.save, np.arange(40).astype("m8[s]")), "durations; save numbers"),
    "complex numbers": ("x.npy", packed(np.save, ROWS + 1j), "complex128", "np.stack([x.real, x.imag], -1)"),
    "complex numbers without imaginary part": ("x.npz", packed(np.savez, ROWS + 0j), "complex128: complex numbers"),
    "half complex": ("x.npy", packed(np.save, ROWS.astype(np.complex64)), "complex64: complex numbers"),
    "one number": ("x.npy", packed(np.save, np.float64(3)), "holds one number and no rows"),
    "no rows": ("x.npy", packed(np.save, ROWS[:0]), "holds no rows", "(0, 3)"),
    "no columns": ("x.npy", packed(np.save, ROWS[:, :0]), "holds no rows of numbers: its shape is (60, 0)"),
    "more than float64 holds": (
        "x.npy",
        packed(np.save, np.where(ROWS > 2, np.longdouble("1e400"), ROWS)),
        "hold nan or inf",
    ),
    "a shape that no machine holds": ("x.npy", WHOLE["x.npy"].replace(b"(60, 3), }    ", b"(9999999999, 99)}"), ""),
    "another packing": ("x.npz", WHOLE["packed.npz"].replace(b"\x08\x00", b"\x63\x00"), "can't be read as numbers"),
}


@pytest.mark.parametrize("name, content, parts", [(n, c, p) for n, c, *p in REFUSED.values()], ids=REFUSED)
def test_what_holds_no_real_numbers_is_refused_in_one_line(name, content, parts, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    one_line(lambda: array(path), f"dataset.path={path}: ", *parts)


def test_a_refusal_ends_the_command_with_2_and_no_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").write_bytes(WHOLE["packed.npz"][:200])
    monkeypatch.setattr("sys.argv", ["train.py", "dataset=array", "dataset.path=x.npz", "objective=dsm"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and "x.npz: can't be read as numbers" in said.err and "Traceback" not in said.err
    assert [f.name for f in tmp_path.iterdir()] == ["x.npz"]


READ = {
    "whole numbers": np.random.default_rng(0).integers(-9, 9, (60, 2)),
    "bytes as numbers": np.random.default_rng(0).integers(0, 9, (60, 2), dtype=np.uint8),
    "truth values": np.random.default_rng(0).random((60, 2)) < 0.5,
    "half precision": ROWS.astype(np.float16),
    "long doubles": ROWS.astype(np.longdouble),
    "other byte order": ROWS.astype(">f4"),
    "columns first": np.asfortranarray(ROWS),
    "pictures": np.random.default_rng(0).random((60, 1, 4, 4)),
    "one column without its axis": ROWS[:, 0],
}


@pytest.mark.parametrize("values", READ.values(), ids=READ)
def test_real_numbers_are_read_whatever_their_kind(values, tmp_path):
    np.save(tmp_path / "x.NPY", values)
    (tmp_path / "x.NPY.npy").rename(tmp_path / "x.NPY")
    data = array(tmp_path / "x.NPY")
    grid = ["points on a grid"] if values.dtype.kind in "biu" else []
    assert len(data.notes) == len(grid) and all(g in note for g, note in zip(grid, data.notes, strict=True))
    found = torch.cat([data.train, data.val, data.test]).flatten(1)
    wanted = torch.as_tensor(values.astype(np.float64)).float().reshape(60, -1)
    assert sorted(found.tolist()) == sorted(wanted.tolist())


def test_an_archive_is_known_by_its_content(tmp_path):
    (tmp_path / "x.npy").write_bytes(WHOLE["stored.npz"])
    (tmp_path / "x.npz").write_bytes(WHOLE["x.npy"])
    assert torch.equal(array(tmp_path / "x.npy").train, array(tmp_path / "x.npz").train)


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_whole_numbers_that_float64_rounds_are_said(kind, tmp_path):
    times = (1.7e18 + 1e15 * ROWS).astype(kind)
    np.save(tmp_path / "x.npy", times)
    (note,) = array(tmp_path / "x.npy").notes
    assert "beyond 2^53 are rounded, up to multiples of 256" in note
    np.save(tmp_path / "x.npy", np.full((60, 2), np.iinfo(kind).max))
    assert "beyond 2^53" in array(tmp_path / "x.npy").notes[0]


IDX = {
    "packed by gzip": (lambda whole: gzip.compress(whole), "is packed (gzip): unpack it"),
    "packed by zip": (lambda whole: b"PK\x03\x04" + whole, "is packed (zip): unpack it"),
    "cut in the head": (lambda whole: whole[:10], ""),
    "cut in the rows": (lambda whole: whole[:-5], ""),
    "nothing": (lambda whole: b"", ""),
    "longer than it says": (lambda whole: whole + b"\0" * 9, ""),
    "a page of the web": (lambda whole: b"<!DOCTYPE html><html><body>404</body></html>" * 20, ""),
    "floats": (lambda whole: whole[:2] + b"\x0d" + whole[3:16] + bytes(4 * (len(whole) - 16)), ""),
    "an unknown kind": (lambda whole: whole[:2] + b"\x07" + whole[3:], ""),
    "no images": (lambda whole: whole[:4] + b"\0\0\0\0" + whole[8:16], ""),
    "more images than bytes": (lambda whole: whole[:4] + b"\x7f\xff\xff\xff" + whole[8:], ""),
    "other sides": (lambda whole: whole[:8] + struct.pack(">II", 14, 56) + whole[16:], "(14, 56)"),
}


@pytest.mark.parametrize("spoil, message", IDX.values(), ids=IDX)
@pytest.mark.parametrize("kind, folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize("split", ["train", "t10k"])
def test_idx_images_that_are_none_are_one_line_that_names_the_file(kind, folder, split, spoil, message, tmp_path):
    raw = tmp_path / folder / "raw"
    write_idx(raw)
    file = raw / f"{split}-images-idx3-ubyte"
    file.write_bytes(spoil(file.read_bytes()))
    values = {"name": kind, "root": str(tmp_path), **MNIST}
    said = cause(lambda: build("dataset", values))
    assert file.name in said and message in said


LABELS = {
    "beyond nine": lambda whole: whole[:-1] + b"\xc8",
    "fewer": lambda whole: struct.pack(">II", 0x801, 3) + b"\0\1\2",
    "images": lambda whole: struct.pack(">IIII", 0x803, 1, 2, 2) + b"\0\1\2\3",
    "packed": lambda whole: gzip.compress(whole),
    "cut": lambda whole: whole[:-3],
}


@pytest.mark.parametrize("spoil", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("split", ["train", "t10k"])
def test_idx_labels_that_are_none_are_one_line_that_names_the_file(split, spoil, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    file = raw / f"{split}-labels-idx1-ubyte"
    file.write_bytes(spoil(file.read_bytes()))
    values = {"name": "mnist", "root": str(tmp_path), **MNIST}
    said = cause(lambda: build("dataset", values))
    assert file.name in said or said.endswith(f"{20 if split == 'train' else 7} images and 3 labels)")


def test_files_that_lie_packed_beside_their_place_are_named(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    for file in list(raw.iterdir()):
        (raw / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    one_line(lambda: build("dataset", {"name": "mnist", "root": str(tmp_path), **MNIST}), "ubyte.gz is there", "unpack")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    values = {"name": "cifar10", "root": str(tmp_path), **MNIST}
    one_line(lambda: build("dataset", values), "cifar-10-python.tar.gz is there", "unpack")


def test_a_batch_cut_or_damaged_anywhere_is_refused_in_one_line_or_read(tmp_path):
    folder, generator = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    values = {"name": "cifar10", "root": str(tmp_path), **MNIST, "val": 3}
    for dump in DUMPS.values():
        write_cifar(folder, dump)
        file = folder / "data_batch_2"
        whole = file.read_bytes()
        small = [i for i in range(len(whole)) if i < 300 or i > len(whole) - 300]  # the rest are pixels
        spoiled = [whole[:n] for n in np.linspace(0, len(whole) - 1, 10).astype(int)]
        for place in generator.choice(small, 60):
            spoiled.append(whole[:place] + bytes([generator.integers(256)]) + whole[place + 1 :])
        for content in spoiled:
            file.write_bytes(content)
            try:
                build("dataset", values)
            except UserError as error:
                assert len(str(error).splitlines()) == 1 and f"dataset.root={tmp_path}" in str(error)
                assert "data_batch_2" in str(error).split("; put ")[0]
    file.write_bytes(gzip.compress(file.read_bytes()))
    assert "data_batch_2 is packed (gzip)" in cause(lambda: build("dataset", values))
