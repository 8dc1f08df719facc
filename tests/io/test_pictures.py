"""PNG in, pixels out; whatever only calls itself PNG is refused, and so is what is larger than any slice."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hgisam.io.errors import InputError
from hgisam.io.pictures import read_picture


def png(path: Path, mode: str = "L") -> Path:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert(mode).save(path, "PNG")
    return path


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_grey_and_colours_come_as_they_are(tmp_path: Path) -> None:
    grey = read_picture(png(tmp_path / "a.png"), "L")
    colours = read_picture(png(tmp_path / "b.png", "RGB"), "RGB")
    np.testing.assert_array_equal(grey, np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(colours, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP", "EPS", "JPEG"])
def test_another_format_under_the_name_is_not_opened(tmp_path: Path, form: str) -> None:
    content = io.BytesIO()  # of these, EPS is a program that Pillow hands to an interpreter
    Image.new("RGB", (4, 4)).save(content, form)
    (tmp_path / "a.png").write_bytes(content.getvalue())
    with pytest.raises(InputError, match="expected a PNG picture"):
        read_picture(tmp_path / "a.png", "RGB")


@pytest.mark.parametrize("side", [4097, 20_000, 60_000, 2**31 - 1])
def test_a_size_that_no_slice_has_is_refused_by_the_header(tmp_path: Path, side: int) -> None:
    whole = png(tmp_path / "a.png").read_bytes()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(whole[:8] + header + whole[33:])
    with pytest.raises(InputError, match=r"at most 16,777,216 pixels|expected a PNG"):
        read_picture(tmp_path / "a.png", "L")


def test_text_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    whole = png(tmp_path / "a.png").read_bytes()
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27)))
    (tmp_path / "a.png").write_bytes(whole[:33] + bomb + whole[33:])
    with pytest.raises(InputError, match="expected a PNG picture"):
        read_picture(tmp_path / "a.png", "L")


def test_more_than_8_bits_are_not_cut_off_in_silence(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4), 40_000, dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="8 bits a channel; got mode I"):
        read_picture(tmp_path / "a.png", "L")


@pytest.mark.parametrize("keep", [0, 7, 40])
def test_a_cut_picture_is_refused(tmp_path: Path, keep: int) -> None:
    whole = png(tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:keep])
    with pytest.raises(InputError, match="expected a PNG picture"):
        read_picture(tmp_path / "a.png", "L")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.png", "No such file"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=why):
            read_picture(path, "L")
