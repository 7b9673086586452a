"""Kind: a folder of pictures, as disks hold them, comes in as other pixels or labels than it shows, without a word."""

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from ebm_lab.runs.run_directory import RunDir

RNG = np.random.default_rng(0)
FOLDER = {"size": 8, "channels": 1, "range": "auto", "background": "white", "val": 0.2, "test": 0.2, "seed": 0}
RAMP = np.linspace(0, 1, 64).reshape(8, 8)
BYTES = (255 * RAMP).round().astype(np.uint8)


def load(root, **more):
    return build("dataset", {"name": "image_folder", "path": str(root), **FOLDER, **more})


def pixels(root, **more):
    """(n, C, H, W) from 0 to 255, of all splits; all pictures that a test writes with `five` are alike."""
    data = load(root, **more)
    return 127.5 * torch.cat([data.train, data.val, data.test]) + 127.5


def refused(root, *parts, **more):
    with pytest.raises(UserError) as caught:
        load(root, **more)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    for part in parts:
        assert part in line, line


def five(root, content, name="x.png", **save):
    """The same picture five times: an array, a PIL image or the bytes of a file."""
    root.mkdir(exist_ok=True)
    for i in range(5):
        if isinstance(content, bytes):
            (root / f"{i}{name}").write_bytes(content)
        else:
            image = content if isinstance(content, Image.Image) else Image.fromarray(content)
            image.save(root / f"{i}{name}", **save)
    return root


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(numbers, colour, extra=b""):
    """A PNG of 16 bits a channel; numbers: (H, W, C); colour: its type."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in numbers)
    head = struct.pack(">IIBBBBB", numbers.shape[1], numbers.shape[0], 16, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(numbers, bits, sample_format, photometric=1, planar=1):
    """A TIFF of one strip of grey, or of three channels; numbers: (H, W) or (H, W, 3)."""
    height, width, channels = np.atleast_3d(numbers).shape
    data = (np.moveaxis(numbers, 2, 0) if planar == 2 else numbers).tobytes()
    values = {256: width, 257: height, 259: 1, 262: photometric, 277: channels, 278: height, 284: planar}
    tags = {**{tag: ("I", [v]) for tag, v in values.items()}, 258: ("H", [bits] * channels)}
    tags[339] = ("H", [sample_format] * channels)
    strips = channels if planar == 2 else 1
    tags[279], tags[273] = ("I", [len(data) // strips] * strips), ("I", [0] * strips)
    start = 8 + 2 + 12 * len(tags) + 4
    spare = b""
    length = sum(struct.calcsize(f"<{len(v)}{c}") for c, v in tags.values() if struct.calcsize(f"<{len(v)}{c}") > 4)
    tags[273] = ("I", [start + length + i * len(data) // strips for i in range(strips)])
    entries = b""
    for tag, (code, v) in sorted(tags.items()):
        raw = struct.pack(f"<{len(v)}{code}", *v)
        entries += struct.pack("<HHI", tag, {"H": 3, "I": 4}[code], len(v))
        if len(raw) > 4:
            entries += struct.pack("<I", start + len(spare))
            spare += raw
        else:
            entries += raw.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + spare + data


# What the numbers mean

REAL = RAMP.astype(np.float32)
MEANT = {
    "bytes": (BYTES, "x.png", "auto"),
    "bytes of an old kind": (BYTES, "x.bmp", "auto"),
    "16 bits": ((257 * BYTES.astype(np.uint16)), "x.png", "auto"),
    "16 bits of a TIFF": ((257 * BYTES.astype(np.uint16)), "x.tif", "auto"),
    "16 bits, all of them": ((65535 * RAMP).round().astype(np.uint16), "x.png", [0, 65535]),
    "16 bits of a TIFF, other byte order": ((65535 * RAMP).round().astype(">u2"), "x.tif", [0, 65535]),
    "12 bits": ((4095 * RAMP).round().astype(np.uint16), "x.png", [0, 4095]),
    "real numbers to 1": (REAL, "x.tif", [0, 1]),
    "real numbers to 255": (255 * REAL, "x.tiff", [0, 255]),
    "real numbers of both signs": (4000 * REAL - 1000, "x.tif", [-1000, 3000]),
    "32 bits": ((255 * RAMP).round().astype(np.int32), "x.tif", [0, 255]),
    "32 bits of both signs": ((4e6 * RAMP - 1e6).astype(np.int32), "x.tif", [-1_000_000, 3_000_000]),
    "32 bits without a sign": (tiff((4e9 * RAMP).astype("<u4"), 32, 1), "x.tif", [0, 4_000_000_000]),
    "16 bits with a sign": (tiff((4000 * RAMP - 1000).round().astype("<i2"), 16, 2), "x.tif", [-1000, 3000]),
    "bytes on their own range": (np.round(15 * RAMP).astype(np.uint8), "x.png", [0, 15]),
    "half of a range": ((0.5 * RAMP).astype(np.float32), "x.tif", [-1, 1]),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("content, name, limits", MEANT.values(), ids=MEANT)
def test_a_grey_ramp_has_its_pixels_whatever_the_file_holds(content, name, limits, channels, tmp_path):
    found = pixels(five(tmp_path / "f", content, name), range=limits, channels=channels)
    expected = 127.5 + 63.75 * RAMP if limits == [-1, 1] else 255 * RAMP
    coarse = 15 if limits == [0, 15] else 255  # half a step of 15 or 255 levels, in pixels
    assert found.shape == (5, channels, 8, 8)
    torch.testing.assert_close(
        found.double(), torch.tensor(expected).expand(5, channels, 8, 8), atol=0.51 * 255 / coarse, rtol=0
    )


def test_a_range_keeps_what_a_byte_can_not_tell(tmp_path):
    fine = (30000 + np.arange(64).reshape(8, 8)).astype(np.uint16)
    found = pixels(five(tmp_path / "f", fine, "x.png"), range=[30000, 30063])
    torch.testing.assert_close(found[0, 0].double(), torch.tensor(255 * RAMP), atol=1e-3, rtol=0)
    assert len(pixels(tmp_path / "f")[0].unique()) == 1


def test_resizing_does_not_leave_the_range(tmp_path):
    edge = np.zeros((64, 64), np.float32)
    edge[:, 32:] = 1
    found = pixels(five(tmp_path / "f", edge, "x.tif"), range=[0, 1])
    assert found.min() == 0 and found.max() == 255
    bytes_ = pixels(five(tmp_path / "b", (255 * edge).astype(np.uint8)))
    torch.testing.assert_close(found, bytes_, atol=1, rtol=0)


holed = REAL.copy()
holed[3, 3] = np.nan
endless = REAL.copy()
endless[0, 0] = np.inf
UNKNOWN = {
    "real numbers to 1": (REAL, "x.tif", "auto", "from 0 to 1, are neither 8-bit nor unsigned 16-bit"),
    "real numbers to 255": (255 * REAL, "x.tif", "auto", "from 0 to 255, are neither"),
    "real numbers in a PGM": (b"Pf\n8 8\n-1.0\n" + REAL.tobytes(), "x.pgm", "auto", "from 0 to 1, are neither"),
    "32 bits": ((255 * RAMP).astype(np.int32), "x.tif", "auto", "from 0 to 255, are neither"),
    "a negative number": ((4000 * REAL - 1000), "x.tif", "auto", "from -1000 to 3000, are neither"),
    "nan": (holed, "x.tif", "auto", "1 of its numbers are nan or inf; the others go from 0 to 1"),
    "nan in a range": (holed, "x.tif", [0, 1], "1 of its numbers are nan or inf; the others go from 0 to 1"),
    "inf in a range": (endless, "x.tif", [0, 1], "1 of its numbers are nan or inf"),
    "nan alone": (np.full((8, 8), np.nan, np.float32), "x.tif", [0, 1], "64 of its numbers are nan or inf"),
    "above the range": (2 * REAL, "x.tif", [0, 1], "from 0 to 2, go beyond dataset.range=[0, 1]"),
    "below the range": (4000 * REAL - 1000, "x.tif", [0, 3000], "from -1000 to 3000, go beyond"),
    "bytes above the range": (BYTES, "x.png", [0, 1], "from 0 to 255, go beyond dataset.range=[0, 1]"),
    "12 bits": ((4095 * RAMP).astype(np.uint16), "x.png", "auto", "numbers from 0 to 4095", "dataset.range=[0,4095]"),
    "10 bits": ((1023 * RAMP).astype(np.uint16), "x.tif", "auto", "numbers from 0 to 1023", "dataset.range=["),
    "12 bits of colour": (png16(np.full((8, 8, 3), 4000), 2), "x.png", "auto", "no picture of 16 bits here"),
    "colour of 16 bits in a range": (png16(np.full((8, 8, 3), 60000), 2), "x.png", [0, 4095], "the upper 8 bits"),
    "bytes with a sign": (tiff(np.full((8, 8), -1, "<i1"), 8, 2), "x.tif", "auto", "signed 8-bit numbers"),
    "real numbers of 64 bits": (tiff(RAMP, 64, 3), "x.tif", [0, 1], "can't be read as an image"),
    "real numbers of 16 bits": (tiff(RAMP.astype("<f2"), 16, 3), "x.tif", [0, 1], "can't be read as an image"),
    "complex numbers": (tiff(RAMP.astype("<c8"), 64, 6), "x.tif", [0, 1], "can't be read as an image"),
    "16 bits of which 0 is white": (
        tiff(np.full((8, 8), 9, "<u2"), 16, 1, photometric=0),
        "x.tif",
        "auto",
        "WhiteIsZero",
    ),
    "colour planes of 16 bits": (tiff(np.full((8, 8, 3), 9, "<u2"), 16, 1, 2, 2), "x.tif", "auto", "planar"),
    "colours of another space": (tiff(np.full((8, 8, 3), 9, "u1"), 8, 1, 8), "x.tif", "auto", "conversion from LAB"),
    "a transparent grey of 16 bits": (
        png16(np.full((8, 8, 1), 9), 0, chunk(b"tRNS", b"\0\x09")),
        "x.png",
        "auto",
        "one of its 16-bit greys is transparent",
    ),
}


@pytest.mark.parametrize("content, name, limits, parts", [(*v[:3], v[3:]) for v in UNKNOWN.values()], ids=UNKNOWN)
def test_numbers_without_a_meaning_are_refused_in_a_line_with_file_and_range(content, name, limits, parts, tmp_path):
    root = five(tmp_path / "f", content, name)
    refused(root, f"dataset.path={root}: {root}/0{name}", *parts, range=limits)


COLOURS = {
    "16 bits": (png16(np.full((8, 8, 3), [51 * 257, 0, 65535]), 2), "x.png"),
    "16 bits of a TIFF": (tiff(np.full((8, 8, 3), [51 * 257, 0, 65535], "<u2"), 16, 1, 2), "x.tif"),
    "planes": (tiff(np.full((8, 8, 3), [51, 0, 255], "u1"), 8, 1, 2, 2), "x.tif"),
    "16 bits of a PPM": (b"P6 8 8 65535\n" + np.full((8, 8, 3), [51 * 257, 0, 65535], ">u2").tobytes(), "x.ppm"),
    "few levels": (b"P6 8 8 5\n" + np.full((8, 8, 3), [1, 0, 5], "u1").tobytes(), "x.ppm"),
    "a palette": (Image.fromarray(np.full((8, 8, 3), [51, 0, 255], np.uint8)).convert("P", palette=1), "x.gif"),
    "opaque": (Image.fromarray(np.full((8, 8, 4), [51, 0, 255, 255], np.uint8)), "x.png"),
    "ink": (Image.merge("CMYK", [Image.new("L", (8, 8), v) for v in (204, 255, 0, 0)]), "x.tif"),
}


@pytest.mark.parametrize("content, name", COLOURS.values(), ids=COLOURS)
def test_one_colour_has_its_pixels_whatever_the_file_holds(content, name, tmp_path):
    found = pixels(five(tmp_path / "f", content, name), channels=3)
    expected = torch.tensor([51.0, 0, 255]).view(1, 3, 1, 1).expand(5, 3, 8, 8)
    torch.testing.assert_close(found, expected, atol=1, rtol=0)  # a palette and an ink are a level off


def test_black_and_white_are_the_ends(tmp_path):
    board = np.indices((8, 8)).sum(0) % 2
    for name, image in (("1.png", Image.fromarray(board.astype(bool))), ("1.tif", Image.fromarray(board.astype(bool)))):
        found = pixels(five(tmp_path / name, image, name))
        assert torch.equal(found[0, 0].double(), torch.tensor(255.0 * board))


def test_dark_pictures_are_read_and_said(tmp_path):
    """Bytes 0 and 1, and 14 bits in 16, may be meant so; whoever meant otherwise learns of the setting."""
    for name, content, told in (
        ("mask", (BYTES > 127).astype(np.uint8), "pictures of 8 bits have numbers up to 1, and 255 is taken as white"),
        ("deep", (16383 * RAMP).astype(np.uint16), "pictures of 16 bits have numbers up to 16383, and 65535 is taken"),
    ):
        notes = load(five(tmp_path / name, content)).notes
        assert any(told in note and "dataset.range=[0,<white>]" in note for note in notes)
    assert not any("taken as white" in note for note in load(five(tmp_path / "plain", BYTES)).notes)


def test_12_bits_beside_16_are_16(tmp_path):
    root = five(tmp_path / "f", (4095 * RAMP).astype(np.uint16))
    Image.fromarray((65535 * RAMP).astype(np.uint16)).save(root / "full.png")
    assert len(load(root).train) == 4


@pytest.mark.parametrize(
    "given, message",
    [
        ([1, 0], "dataset.range=\\[1.0, 0.0\\]: must be auto, or two numbers of which the first is the smaller"),
        ([1, 1], "the first is the smaller"),
        ([0], "dataset.range="),
        ([0, 1, 2], "dataset.range="),
        ([0, float("inf")], "dataset.range="),
        ("full", "dataset.range=full: should be 'auto'"),
    ],
)
def test_a_wrong_range_is_one_line(given, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        load(five(tmp_path / "f", BYTES), range=given)
    assert len(str(caught.value).splitlines()) == 1


# Transparency

CLEAR = np.zeros((8, 8, 4), np.uint8)
CLEAR[:, 4:] = (10, 20, 30, 255)
palette = Image.fromarray(np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 8, 0).astype(np.uint8), "L").convert("P")
palette.putpalette([9, 9, 9, 10, 20, 30])
grey = np.where(CLEAR[..., 3:] == 0, 7, 60).astype(np.uint8)
TRANSPARENT = {
    "colour": (Image.fromarray(CLEAR), "x.png", {}),
    "colour of 16 bits": (png16(257 * CLEAR.astype(int), 6), "x.png", {}),
    "colour of a TIFF": (Image.fromarray(CLEAR), "x.tif", {}),
    "a palette": (palette, "x.png", {"transparency": 0}),
    "a palette by bytes": (palette, "x.png", {"transparency": b"\x00\xff"}),
    "a palette of a GIF": (palette, "x.gif", {"transparency": 0}),
    "one colour of all": (Image.fromarray(CLEAR[..., :3]), "x.png", {"transparency": (0, 0, 0)}),
}
if features.check("webp"):
    TRANSPARENT["WebP"] = (Image.fromarray(CLEAR), "x.webp", {"lossless": True})


@pytest.mark.parametrize(
    "background, shown", [("white", (255, 255, 255)), ("#ff8000", (255, 128, 0)), ("black", (0, 0, 0))]
)
@pytest.mark.parametrize("content, name, save", TRANSPARENT.values(), ids=TRANSPARENT)
def test_the_background_shows_through(content, name, save, background, shown, tmp_path):
    root = five(tmp_path / "f", content, name, **save)
    data = load(root, channels=3, background=background)
    found = 127.5 * data.train[0] + 127.5
    for part, colour in ((slice(0, 4), shown), (slice(4, 8), (10, 20, 30))):
        torch.testing.assert_close(found[:, :, part], torch.tensor(colour).view(3, 1, 1).expand(3, 8, 4).float())
    note = f"5 picture(s) are partly transparent, and drawn over dataset.background={background}"
    assert any(note in n for n in data.notes)


@pytest.mark.parametrize("save", [{}, {"transparency": 7}], ids=["a channel", "one grey of all"])
def test_the_background_shows_through_grey(save, tmp_path):
    image = Image.fromarray(grey[..., 0]) if save else Image.fromarray(np.concatenate([grey, CLEAR[..., 3:]], 2))
    found = pixels(five(tmp_path / "f", image, "x.png", **save))[0, 0]
    assert (found[:, :4] == 255).all() and (found[:, 4:] == 60).all()


def test_half_transparent_is_half_of_each(tmp_path):
    image = Image.fromarray(np.full((8, 8, 4), (0, 0, 0, 128), np.uint8))
    assert pixels(five(tmp_path / "f", image)).unique().tolist() == [127]  # 255 (1 - 128/255)
    assert pixels(tmp_path / "f", background=None).unique().tolist() == [0], "as it was before there was a background"


@pytest.mark.parametrize("given", ["nocolour", "#12", "", "#ff000080"])
def test_a_wrong_background_is_one_line(given, tmp_path):
    refused(five(tmp_path / "f", BYTES), f"dataset.background={given}: not a colour; allowed: ", background=given)


# Shape, time and damage


def test_a_camera_that_was_held_sideways_is_turned_back(tmp_path):
    image, exif = Image.fromarray(BYTES), Image.Exif()
    exif[0x0112] = 6
    for name in ("x.png", "x.tif"):
        found = pixels(five(tmp_path / name, image, name, exif=exif))
        assert torch.equal(found[0, 0].byte(), torch.tensor(np.rot90(BYTES, -1).copy()))


@pytest.mark.parametrize("name", ["x.gif", "x.tif", "x.png", *(["x.webp"] if features.check("webp") else [])])
def test_of_several_pictures_in_a_file_the_first_is_taken_and_that_is_said(name, tmp_path):
    more = {"lossless": True} if name == "x.webp" else {}
    others = [Image.fromarray(255 - BYTES), Image.fromarray(BYTES // 2)]
    root = five(tmp_path / "f", Image.fromarray(BYTES), name, save_all=True, append_images=others, **more)
    data = load(root)
    torch.testing.assert_close(127.5 * data.train[0, 0] + 127.5, torch.tensor(BYTES).float(), atol=2, rtol=0)
    assert any("5 file(s) hold several pictures, of which the first is used" in note for note in data.notes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 2000), (7, 9)])
def test_pictures_of_any_shape_become_squares(shape, tmp_path):
    for name, content, limits in (
        ("x.png", np.full(shape, 200, np.uint8), "auto"),
        ("x.tif", np.full(shape, 0.5, np.float32), [0, 1]),
    ):
        found = pixels(five(tmp_path / name, content, name), range=limits)
        assert found.shape == (5, 1, 8, 8) and torch.allclose(found, torch.tensor(200.0 if limits == "auto" else 127.5))


def test_a_large_picture_is_read_and_a_huge_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 * 3 // 4)
    assert len(pixels(five(tmp_path / "large", np.full((64, 64), 200, np.uint8)))) == 5
    root = five(tmp_path / "huge", np.full((128, 64), 200, np.uint8))
    refused(root, f"{root}/0x.png can't be read as an image: Image size (8192 pixels) exceeds limit")


def files_of(format_, folder):
    image = Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    file = folder / f"x.{format_}"
    image.save(file)
    return file.read_bytes()


@pytest.mark.parametrize(
    "format_", ["png", "jpg", "gif", "bmp", "tif", "ppm", *(["webp"] if features.check("webp") else [])]
)
def test_a_picture_cut_anywhere_is_refused_in_one_line(format_, tmp_path):
    whole = files_of(format_, tmp_path)
    root = tmp_path / "f"
    for length in (0, 1, 7, *np.linspace(8, 0.9 * len(whole), 20).astype(int)):
        five(root, whole[:length], f"x.{format_}")
        refused(root, f"dataset.path={root}: {root}/0x.{format_} can't be read as an image: ")


@pytest.mark.parametrize(
    "format_", ["png", "jpg", "gif", "bmp", "tif", "ppm", *(["webp"] if features.check("webp") else [])]
)
def test_a_damaged_picture_is_refused_in_one_line_or_read(format_, tmp_path):
    whole, generator = files_of(format_, tmp_path), np.random.default_rng(1)
    root = tmp_path / "f"
    for _ in range(60):
        damaged = bytearray(whole)
        for place in generator.integers(0, min(len(whole), 700), 3):
            damaged[place] = generator.integers(256)
        five(root, whole, f"x.{format_}")
        (root / f"3x.{format_}").write_bytes(damaged)
        try:
            assert load(root, channels=3).train.isfinite().all()
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and str(root) in str(error)


STRANGE = {
    "no pixels": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 0, 0, 0, 0))
    + chunk(b"IEND", b""),
    "no width": b"P5 0 8 255\n",
    "a page of the web": b"<!DOCTYPE html><html></html>",
    "a drawing": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a pointer to a large file": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_what_is_called_a_picture_and_is_none_is_refused_in_one_line(content, tmp_path):
    root = five(tmp_path / "f", content)
    refused(root, f"{root}/0x.png can't be read as an image: ")


def test_a_suffix_does_not_choose_the_format(tmp_path):
    png = five(tmp_path / "a", BYTES) / "0x.png"
    assert torch.equal(pixels(five(tmp_path / "b", png.read_bytes(), "X.JPG")), pixels(tmp_path / "a"))


# Folders, and the labels that follow


@pytest.fixture
def classes(tmp_path):
    """ant/0..4.png and bee/0..4.png, each picture of its own grey, which names it: 10 and on for ants, 110 for bees."""
    for k, name in enumerate(("ant", "bee")):
        for i in range(5):
            save(tmp_path / "f" / name / f"{i}.png", 10 + 100 * k + i)
    return tmp_path / "f"


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def content(data):
    """{grey: label} over all splits, label None where there is none."""
    greys, labels = [], []
    for split in ("train", "val", "test"):
        x = getattr(data, split)
        greys += (127.5 * x[:, 0, 0, 0] + 127.5).round().int().tolist()
        labels += [None] * len(x) if data.labels is None else data.labels[split].tolist()
    assert len(greys) == len(set(greys)), "a picture came in twice"
    return dict(sorted(zip(greys, labels, strict=True)))


def add_hidden(root):
    for name in (
        ".ipynb_checkpoints",
        "__MACOSX",
        "@eaDir",
        ".git",
        ".thumbnails",
        "$RECYCLE.BIN",
        "lost+found",
        "#recycle",
    ):
        save(root / name / "x.png", 250)
        save(root / "ant" / name / "y.png", 251)
    for name in ("._0.png", ".hidden.png"):
        save(root / "bee" / name, 252)
        save(root / name, 252)


def add_strange(root):
    for name in ("Thumbs.db", "desktop.ini", "notes.txt", "labels.csv", "README", "raw.cr2", "icon.svg", "old.png.bak"):
        (root / name).write_text("none")
        (root / "ant" / name).write_text("none")


def add_lost(root):
    (root / "ant" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "cat").symlink_to(root / "nowhere")
    (root / "bee" / "round.png").symlink_to("round.png")
    os.mkfifo(root / "bee" / "pipe.png")


def add_loops(root):
    (root / "ant" / "up").symlink_to("..")
    (root / "bee" / "self").symlink_to(".")
    (root / "aaa").symlink_to("bee")


def add_nested(root):
    save(root / "ant" / "x.png" / "deep" / "er" / "z.PNG", 20)


def add_links(root):
    other = root.parent / "other"
    save(other / "0.png", 220)
    (root / "cow").symlink_to(other)
    save(root.parent / "single" / "s.png", 21)
    (root / "ant" / "linked.png").symlink_to(root.parent / "single" / "s.png")


PLAIN = {**{10 + i: 0 for i in range(5)}, **{110 + i: 1 for i in range(5)}}
DISKS = {
    "hidden and system entries": (add_hidden, PLAIN, "hidden or system entries"),
    "files of other kinds": (add_strange, PLAIN, "16 files that are not pictures ("),
    "links to nothing, and a pipe": (add_lost, PLAIN, "3 broken links and special files (ant/gone.png, ...)"),
    "links in a circle": (add_loops, PLAIN, "3 links to folders that are read elsewhere"),
    "a folder called as a picture": (add_nested, {**PLAIN, 20: 0}, None),
    "links to a folder and to a file": (add_links, {**PLAIN, 21: 0, 220: 2}, None),
    "an empty folder": (
        lambda root: (root / "bat").mkdir(),
        PLAIN,
        "the folders bat hold no pictures and are not labels",
    ),
    "a folder of other files": (
        lambda root: (root / "zoo" / "a").mkdir(parents=True),
        PLAIN,
        "the folders zoo hold no",
    ),
    "letters of all kinds": (lambda root: save(root / "café 日本" / "ü ñ.png", 200), {**PLAIN, 200: 2}, "2 café 日本"),
    "a stray picture": (
        lambda root: save(root / "stray.png", 200),
        dict.fromkeys([*PLAIN, 200]),
        "1 of 11 pictures are not in a label's folder",
    ),
}


@pytest.mark.parametrize("add, expected, told", DISKS.values(), ids=DISKS)
def test_pictures_and_labels_are_those_that_the_disk_shows(add, expected, told, classes):
    add(classes)
    data = load(classes)
    assert content(data) == expected
    assert told is None or any(told in note for note in data.notes), data.notes
    assert all(len(note.splitlines()) == 1 for note in data.notes)


def test_the_labels_are_named(classes):
    assert [note for note in load(classes).notes if "label" in note] == ["labels by folder: 0 ant, 1 bee"]


def test_a_name_with_a_line_end_or_bytes_that_are_no_text_is_one_printable_line(classes):
    try:
        save(classes / "c\nd" / "0.png", 200)
        os.mkdir(os.fsencode(classes) + b"/\xff")
        shutil.copy(classes / "ant" / "0.png", os.fsencode(classes) + b"/\xff/1.png")
    except OSError:
        pytest.skip("this file system refuses such names")
    data = load(classes)
    assert any("2 c\\nd, 3 \\udcff" in note for note in data.notes)
    for note in data.notes:
        note.encode()
    (classes / "c\nd" / "0.png").write_text("none")
    refused(classes, "c\\nd/0.png can't be read as an image")


def test_folders_that_name_parts_of_the_data_are_no_labels(tmp_path, classes):
    for part in ("train", "Test", "val"):
        shutil.copytree(classes, tmp_path / "g" / part)
    for k, part in enumerate(("Test", "val"), 1):
        for j, name in enumerate(("ant", "bee")):
            for i in range(5):
                save(tmp_path / "g" / part / name / f"{i}.png", 10 + 100 * j + 5 * k + i)
    data = load(tmp_path / "g")
    assert content(data) == {**{10 + i: 0 for i in range(15)}, **{110 + i: 1 for i in range(15)}}
    assert any("the folders Test, train, val are merged and split again" in note for note in data.notes)


def test_parts_of_the_data_without_classes_have_no_labels(tmp_path):
    for i in range(10):
        save(tmp_path / ("train", "test")[i % 2] / f"{i}.png", 10 + i)
    assert content(load(tmp_path)) == dict.fromkeys(range(10, 20))


def test_copies_are_said(classes):
    shutil.copy(classes / "ant" / "0.png", classes / "bee" / "copy.png")
    assert any("1 picture(s) are copies of others, such as bee/copy.png of ant/0.png" in n for n in load(classes).notes)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read_is_refused_in_one_line(classes):
    (classes / "ant" / "0.png").chmod(0)
    refused(classes, "ant/0.png can't be read as an image", "Permission denied")
    (classes / "ant" / "0.png").chmod(0o600)
    (classes / "ant").chmod(0)
    refused(classes, "ant can't be read (Permission denied)")
    (classes / "ant").chmod(0o700)


def test_a_folder_of_hidden_pictures_alone_says_what_was_passed_over(tmp_path):
    add_strange_only = tmp_path / "f"
    save(add_strange_only / ".hidden" / "x.png", 9)
    refused(add_strange_only, "holds no images; allowed: .bmp", "skipped 1 hidden or system entries (.hidden)")


def test_the_given_folder_may_itself_be_hidden_or_a_link(classes, tmp_path):
    shutil.copytree(classes, tmp_path / ".cache" / "__MACOSX")
    (tmp_path / "link").symlink_to(tmp_path / ".cache" / "__MACOSX")
    for root in (tmp_path / ".cache" / "__MACOSX", tmp_path / "link"):
        assert content(load(root)) == PLAIN


def test_a_run_says_at_its_start_what_was_decided_and_one_from_before_the_settings_drops_transparency(tmp_path, capsys):
    root = five(tmp_path / "f", Image.fromarray(CLEAR))
    five(root, Image.fromarray(BYTES), "y.png")
    settings = [
        "dataset=image_folder",
        f"dataset.path={root}",
        "dataset.size=8",
        "dataset.val=0.2",
        "dataset.test=0.2",
        "objective=dsm",
        "steps=2",
        "evaluation=[]",
    ]
    result = ebm_lab.train([*settings, "logger=none", f"output_dir={tmp_path}"])
    said = " ".join(capsys.readouterr().out.split())
    assert "5 picture(s) are partly transparent, and drawn over dataset.background=white" in said
    file = result.path / "config.yaml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if "background:" not in line and "range: auto" not in line))
    config = RunDir(result.path).read_config()["dataset"]
    assert config["background"] is None and config["range"] == "auto"
    data = build("dataset", config)
    left = torch.cat([data.train, data.val, data.test])[..., :4].flatten(1)
    assert int((left == -1).all(1).sum()) == 5, "black where it is transparent, as it was"
