"""Real data sets: their formats on disk, on small files of one's own; and every way of not having them is one line."""

import pickle
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from ebm_lab.datasets._images import hold_out

RNG = np.random.default_rng(0)
MNIST = {"download": False, "val": 5, "seed": 0, "classes": None}


def one_line(message, kind, **values):
    with pytest.raises(UserError, match=message) as caught:
        build("dataset", {"name": kind, **values})
    assert len(str(caught.value).splitlines()) == 1


def write_idx(folder, n_train=20, n_test=7):
    """Random images and labels in MNIST's format: magic number, big-endian sizes, bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, n in (("train", n_train), ("t10k", n_test)):
        images = RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        images[0, 0, :2] = (0, 255)
        labels = np.arange(n, dtype=np.uint8) % 10
        head = struct.pack(">IIII", 0x00000803, n, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x00000801, n) + labels.tobytes())
        written[split] = torch.from_numpy(images), torch.from_numpy(labels).long()
    return written


def write_cifar(folder, dump):
    """Six batches of random images, three to a batch, with labels that count through them."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for i, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        data = RNG.integers(0, 256, (3, 3072), dtype=np.uint8)
        labels = [(3 * i + j) % 10 for j in range(3)]
        (folder / name).write_bytes(dump(data, labels))
        written.append((data, labels))
    return written


def python_2(data, labels):
    """The official spelling, opcode by opcode: protocol 2 with byte strings, the array by numpy's old module names."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    rebuild = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85" + text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + text(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    shape = b"K" + bytes([len(data)]) + b"M" + struct.pack("<H", data.shape[1]) + b"\x86"
    raw = b"T" + struct.pack("<I", data.nbytes) + data.tobytes()
    array = rebuild + b"(K\x01" + shape + kind + b"\x89" + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([v]) for v in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


DUMPS = {
    "python 2": python_2,
    "bytes, protocol 2": lambda d, y: pickle.dumps({b"data": d, b"labels": y}, protocol=2),
    "text, protocol 4": lambda d, y: pickle.dumps({"data": d, "labels": y}, protocol=4),
    "text, protocol 5": lambda d, y: pickle.dumps({"data": d, "labels": y}, protocol=5),
}


def sorted_rows(x):
    return x.flatten(1)[x.flatten(1).sum(1).sort().indices]


@pytest.mark.parametrize("kind, folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files_are_read_as_written(kind, folder, tmp_path):
    """The test split is the official one, train and val share the rest with their labels, pixels invert to bytes."""
    written = write_idx(tmp_path / folder / "raw")
    data = build("dataset", {"name": kind, "root": str(tmp_path), **MNIST})
    assert [len(x) for x in (data.train, data.val, data.test)] == [15, 5, 7]
    assert data.event_shape == (1, 28, 28) and data.train.dtype == torch.float32 and data.bounds == (-1, 1)
    torch.testing.assert_close(data.test.squeeze(1), written["t10k"][0].float() / 127.5 - 1)
    assert torch.equal(data.labels["test"], written["t10k"][1])
    assert data.test.min() == -1 and data.test.max() == 1
    images = data.transform.inverse(torch.cat([data.train, data.val])).round().squeeze(1).byte()
    labels = torch.cat([data.labels["train"], data.labels["val"]])
    rows = [int((written["train"][0] == image).flatten(1).all(1).nonzero()) for image in images]
    assert sorted(rows) == list(range(20))
    assert torch.equal(labels, written["train"][1][rows])
    assert data.transform.log_det((1, 28, 28)) == pytest.approx(-784 * np.log(127.5))


def test_classes_keep_their_official_images(tmp_path):
    written = write_idx(tmp_path / "MNIST" / "raw")
    whole = build("dataset", {"name": "mnist", "root": str(tmp_path), **MNIST})
    data = build("dataset", {"name": "mnist", "root": str(tmp_path), **MNIST, "classes": [0, 1, 2, 5, 7]})
    y = written["t10k"][1]  # 0 to 6
    official = written["t10k"][0].float() / 127.5 - 1
    torch.testing.assert_close(data.test.squeeze(1), official[[0, 1, 2, 5]])
    torch.testing.assert_close(data.outside.squeeze(1), official[[3, 4, 6]])
    assert y[[0, 1, 2, 5]].tolist() == data.labels["test"].tolist() and len(data.train) + len(data.val) == 10
    for split in ("train", "val"):
        inside = torch.isin(whole.labels[split], torch.tensor([0, 1, 2, 5, 7]))
        assert torch.equal(getattr(data, split), getattr(whole, split)[inside])


def test_validation_is_a_number_or_a_fraction():
    assert {k: len(v) for k, v in hold_out(60, 0.25, 0).items()} == {"val": 15, "train": 45}
    parts = hold_out(60, 7, 0)
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(60))
    assert torch.equal(parts["val"], hold_out(60, 7, 0)["val"])
    assert not torch.equal(parts["val"], hold_out(60, 7, 1)["val"])
    for val in (60, 0.001):
        with pytest.raises(UserError, match=f"dataset.val={val}: takes .* of the 60 training images"):
            hold_out(60, val, 0)


def test_missing_mnist_is_one_line_that_says_what_belongs_where(tmp_path):
    put = "put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte into "
    place = str(tmp_path / "MNIST" / "raw")
    one_line(f"not there \\(4 of 4 files missing\\); {put}{place}", "mnist", root=str(tmp_path), **MNIST)
    folder = tmp_path / "MNIST" / "raw"
    write_idx(folder)
    whole = (folder / "t10k-images-idx3-ubyte").read_bytes()
    for damaged in (whole[:100], b"", whole.replace(b"\x08\x03", b"\x10\x09", 1)):
        (folder / "t10k-images-idx3-ubyte").write_bytes(damaged)
        one_line(f"the files of MNIST can't be read .*; {put}{place}", "mnist", root=str(tmp_path), **MNIST)
    (folder / "t10k-images-idx3-ubyte").write_bytes(whole)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x00000801, 2) + b"\x00\x01")
    one_line("can't be read \\(7 images and 2 labels\\)", "mnist", root=str(tmp_path), **MNIST)


@pytest.mark.parametrize(
    "kind, module, place",
    [("mnist", "mnist", "MNIST/raw"), ("fashion_mnist", "mnist", "FashionMNIST/raw"), ("cifar10", "cifar", "cifar-10")],
)
def test_a_download_that_fails_is_one_line(kind, module, place, tmp_path, monkeypatch):
    import torchvision.datasets

    asked = []

    def offline(url, *args, **kwargs):
        asked.append(url)
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(getattr(torchvision.datasets, module), "download_and_extract_archive", offline)
    one_line(f"can't be downloaded .*; put .* into .*{place}", kind, root=str(tmp_path), **{**MNIST, "download": True})
    assert asked
    asked.clear()
    one_line("is not there", kind, root=str(tmp_path), **MNIST)
    assert not asked, "nothing is fetched unless asked for"


def test_a_download_that_works_is_used(tmp_path, monkeypatch):
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: write_idx(Path(self.raw_folder)))
    assert len(build("dataset", {"name": "mnist", "root": str(tmp_path), **MNIST, "download": True}).test) == 7


@pytest.mark.parametrize("dump", DUMPS.values(), ids=DUMPS)
def test_cifar_batches_are_read_in_every_spelling(dump, tmp_path):
    written = write_cifar(tmp_path / "cifar-10-batches-py", dump)
    data = build("dataset", {"name": "cifar10", "root": str(tmp_path), **MNIST, "val": 0.2})
    assert [len(x) for x in (data.train, data.val, data.test)] == [12, 3, 3]
    assert data.event_shape == (3, 32, 32) and data.train.dtype == torch.float32
    # Byte 1024 c + 32 i + j of a row is channel c, row i, column j.
    bytes_, labels = written[-1]
    expected = torch.from_numpy(bytes_).float().view(3, 3, 32, 32) / 127.5 - 1
    torch.testing.assert_close(data.test, expected)
    assert float(data.test[1, 2, 5, 9]) == pytest.approx(bytes_[1, 2 * 1024 + 5 * 32 + 9] / 127.5 - 1, abs=1e-6)
    assert data.labels["test"].tolist() == labels
    official = torch.from_numpy(np.concatenate([d for d, _ in written[:5]])).float() / 127.5 - 1
    torch.testing.assert_close(sorted_rows(torch.cat([data.train, data.val])), sorted_rows(official))
    order = torch.cat([data.train, data.val]).flatten(1)
    rows = [int(torch.cdist(x.unsqueeze(0), official).argmin()) for x in order]
    assert torch.cat([data.labels["train"], data.labels["val"]]).tolist() == [r % 10 for r in rows]


class Attack:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "payload",
    [
        b"cos\nsystem\n(S'touch %s'\ntR.",
        b'cbuiltins\neval\n(S\'open("%s", "w")\'\ntR.',
        b"\x80\x04\x8c\x05numpy\x8c\x14ndarray.__subclasses\x93.",
        b"c_codecs\nlookup\n(S'%s'\ntR.",
    ],
)
def test_a_malicious_batch_is_refused_and_does_nothing(payload, tmp_path):
    folder, harm = tmp_path / "cifar-10-batches-py", tmp_path / "harm"
    write_cifar(folder, DUMPS["text, protocol 4"])
    (folder / "data_batch_3").write_bytes(payload.replace(b"%s", str(harm).encode()))
    values = {"root": str(tmp_path), **MNIST, "val": 3}
    one_line("refused to read .*data_batch_3: it asks for .*which no CIFAR-10 batch needs", "cifar10", **values)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Attack(harm), "labels": []}))
    one_line("refused to read .*data_batch_3: it asks for ", "cifar10", **values)
    assert not harm.exists()
    pickle.loads((folder / "data_batch_3").read_bytes())
    assert harm.exists(), "the attack works on an unpickler that trusts"


def test_a_batch_that_is_none_is_one_line(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(folder, DUMPS["text, protocol 4"])
    good, values = (
        (folder / "data_batch_2").read_bytes(),
        {"root": str(tmp_path), "download": False, "val": 3, "classes": None},
    )
    pixels = np.zeros((3, 3072), np.uint8)
    cases = {
        "pickle data was truncated|Ran out of input|exhausted": good[: len(good) // 2],
        "Ran out of input": b"",
        "can't be read": b"\x89PNG and no pickle",
        "does not hold a dictionary": pickle.dumps([1, 2]),
        "lacks 'data'": pickle.dumps({"data": pixels[:, :100], "labels": [0, 1, 2]}),
        "lacks 'labels'": pickle.dumps({"data": pixels, "labels": [0, 1]}),
        "numbers from 0 to 9": pickle.dumps({"data": pixels, "labels": [0, 1, 77]}),
    }
    for message, content in cases.items():
        (folder / "data_batch_2").write_bytes(content)
        one_line(message, "cifar10", seed=0, **values)
    (folder / "data_batch_2").unlink()
    one_line(
        "CIFAR-10 is not there \\(1 of 6 files missing\\); put data_batch_1, .*test_batch into",
        "cifar10",
        seed=0,
        **values,
    )


WINE = {"val": 0.2, "test": 0.2, "seed": 0}


def write_wine(root, rows):
    (root / "wine").mkdir(exist_ok=True)
    names = ";".join(f'"{i}"' for i in range(rows.shape[1]))
    (root / "wine" / "red.csv").write_text("\n".join([names, *(";".join(map(str, r)) for r in rows)]) + "\n")


def test_wine_drops_repeated_rows_before_it_splits(tmp_path):
    """40 rows, 15 of them given again with another grade: 40 remain, no two splits share one, order doesn't matter."""
    rows = RNG.normal(5, 2, (40, 12)).round(3)
    repeated = rows[:15].copy()
    repeated[:, 11] += 1
    write_wine(tmp_path, np.concatenate([rows, repeated, rows[:3]]))
    data = build("dataset", {"name": "wine", "root": str(tmp_path), "colour": "red", **WINE})
    parts = [data.train, data.val, data.test]
    assert [len(x) for x in parts] == [24, 8, 8] and data.event_shape == (11,)
    back = data.transform.inverse(torch.cat(parts).double())
    assert len(back.round(decimals=3).unique(dim=0)) == 40
    torch.testing.assert_close(sorted_rows(back), sorted_rows(torch.from_numpy(rows[:, :11])), atol=1e-4, rtol=0)
    torch.testing.assert_close(data.train.mean(0), torch.zeros(11), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.std(0), torch.ones(11), atol=1e-5, rtol=0)
    raw = data.transform.inverse(data.train.double())
    assert data.transform.log_det((11,)) == pytest.approx(-float(raw.std(0).log().sum()), abs=1e-4)
    again = build("dataset", {"name": "wine", "root": str(tmp_path), "colour": "red", **WINE})
    assert torch.equal(data.train, again.train)


def test_wine_that_is_missing_or_damaged_is_one_line(tmp_path):
    values = {"root": str(tmp_path), "colour": "red", **WINE}
    one_line("put the UCI table winequality-red.csv .* at .*wine/red.csv", "wine", **values)
    rows = RNG.normal(size=(20, 12))
    for message, bad in (
        ("must hold 12 numbers a row separated by ';', and has 5 columns", rows[:, :5]),
        (r"column\(s\) \[3\] of .*red.csv never change", np.where(np.arange(12) == 2, 1.0, rows)),
        (r"20 value\(s\) are missing: .*and 15 more", np.where(np.arange(12) == 2, np.nan, rows)),
        (r"must hold 12 numbers .* row 1 \(line 2\) holds inf", np.where(np.arange(12) == 2, np.inf, rows)),
        ("can't be read as numbers", np.where(np.arange(12) == 2, "cork", rows.astype(str))),
        ("leave a split empty", rows[:2]),
    ):
        write_wine(tmp_path, bad)
        one_line(message, "wine", **values)
    one_line("dataset.colour=rose: should be 'red' or 'white'", "wine", **{**values, "colour": "rose"})


FOLDER = {"size": 8, "channels": 3, "range": "auto", "background": "white", "val": 0.2, "test": 0.2, "seed": 0}


def save(array, path):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_image_folder_reads_cuts_and_labels(tmp_path):
    """Wide pictures whose middle 8 x 8 is of one colour, which names the file; folders are the labels."""
    for i in range(20):
        picture = np.zeros((8, 24, 3), np.uint8)
        picture[:, 8:16] = (10 * i, 255, 0)
        save(picture, tmp_path / ("ant", "bee")[i % 2] / "deep" / f"{i}.png")
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / "._0.png").write_text("no image either")
    data = build("dataset", {"name": "image_folder", "path": str(tmp_path), **FOLDER})
    assert [len(x) for x in (data.train, data.val, data.test)] == [12, 4, 4] and data.event_shape == (3, 8, 8)
    for split in ("train", "val", "test"):
        pixels = data.transform.inverse(getattr(data, split)).round()
        number = pixels[:, 0, 0, 0] / 10
        assert torch.equal(pixels[:, 0], (10 * number).view(-1, 1, 1).expand(-1, 8, 8))
        assert (pixels[:, 1] == 255).all() and (pixels[:, 2] == 0).all()
        assert torch.equal(data.labels[split], number.long() % 2)
    save(np.full((4, 4), 51, np.uint8), tmp_path / "grey.jpg")
    everything = build("dataset", {"name": "image_folder", "path": str(tmp_path), **FOLDER})
    assert everything.labels is None and len(everything.train) == 13


def test_image_folder_resizes_and_turns_grey(tmp_path):
    """16-bit pictures and 8-bit ones of the same shade meet on the same value, whatever their size."""
    for i in range(5):
        save(np.full((6 + i, 20), 51, np.uint8), tmp_path / f"{i}.png")
        save(np.full((30, 12 + i), 51 * 257, np.uint16), tmp_path / f"{i}_16.png")
    data = build("dataset", {"name": "image_folder", "path": str(tmp_path), **FOLDER, "channels": 1})
    assert data.event_shape == (1, 8, 8)
    torch.testing.assert_close(data.train, torch.full_like(data.train, 51 / 127.5 - 1))


def test_image_folder_mistakes_are_one_line(tmp_path):
    values = {"path": str(tmp_path), **FOLDER}
    one_line("no such folder; give a folder of images", "image_folder", **{**values, "path": "/nope"})
    one_line("holds no images; allowed: .bmp, .*.webp", "image_folder", **values)
    one_line("dataset.channels=2: should be 1 or 3", "image_folder", **{**values, "channels": 2})
    save(np.zeros((4, 4), np.uint8), tmp_path / "a.png")
    one_line("leave a split empty", "image_folder", **values)
    for i in range(9):
        save(RNG.integers(0, 255, (40, 40), dtype=np.uint8), tmp_path / f"{i}.png")
    whole = (tmp_path / "3.png").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"nothing of the kind"):
        (tmp_path / "3.png").write_bytes(damaged)
        one_line("3.png can't be read as an image: ", "image_folder", **values)
