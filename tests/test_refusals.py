"""What cannot be read or written is refused with one line, and leaves what was there."""

from __future__ import annotations

import builtins
import io
import os
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from colorize_cli.colorizer import Colorizer
from colorize_cli.errors import PhotoError
from colorize_cli.photo import Page, Photo, open_photo, save_photo
from colorize_cli.steps import Shaping, StepError, look
from tests.conftest import EXAMPLES, RAMP, write_gray

GRAY = Photo((Page(RAMP),))
BLACK = np.zeros((4, 4, 3), dtype=np.uint8)
BAD = {
    "missing.jpg": None,
    "empty.jpg": b"",
    "text.jpg": b"dear diary " * 100,
    "truncated.jpg": (EXAMPLES / "kodim23.jpg").read_bytes()[:30_000],
    "header.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    content = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PhotoError, match=name) as raised:
        open_photo(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_library_prints_no_lines_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lost.tif"
    Image.fromarray(RAMP).save(path, compression="tiff_lzw")
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags["StripOffsets"].valueoffset
    content = bytearray(path.read_bytes())
    content[place : place + 4] = (10**6).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(PhotoError, match="lost"):
        open_photo(path)
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_of_twelve_bits_is_told_as_such(tmp_path: Path) -> None:
    content = imagecodecs.jpeg_encode(RAMP.astype(np.uint16) << 4, bitspersample=12)
    (tmp_path / "scan.jpg").write_bytes(content)
    with pytest.raises(PhotoError, match=r"scan\.jpg: damaged, or a JPEG of 12 or 16 bits.*PNG"):
        open_photo(tmp_path / "scan.jpg")


def test_heic_without_its_package_says_which_one(colorize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(PhotoError, match=r"photo\.heic: HEIC needs .*pip install pillow-heif"):
        open_photo(tmp_path / "photo.heic")
    with pytest.raises(PhotoError, match="pip install pillow-heif"):
        save_photo([BLACK], GRAY, tmp_path / "out.heic")
    result = colorize(write_gray(tmp_path / "photo.png", 20, 20), "--format", "heic")  # before anything is drawn
    assert "pip install pillow-heif" in str(result.exception)


def test_a_truncated_pillow_image_is_refused_too() -> None:
    with pytest.raises(PhotoError, match="truncated"):
        open_photo(Image.open(io.BytesIO(BAD["truncated.jpg"] or b"")))


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a\0b.jpg", "text.jpg/below.jpg"])
def test_an_impossible_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.jpg").write_bytes(b"text")
    with pytest.raises(PhotoError):
        open_photo(tmp_path / name)


def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "photo.png")
    Image.new("1", (100, 100)).save(tmp_path / "photo.tif", save_all=True, append_images=[Image.new("1", (9, 9))])
    for name in ("photo.png", "photo.tif"):
        assert open_photo(tmp_path / name, max_pixels=10_081).luma.shape == (100, 100)
        with pytest.raises(PhotoError, match=r"9,999 pixels.*--max-pixels"):
            open_photo(tmp_path / name, max_pixels=9_999)
    with pytest.raises(PhotoError, match="10,080 pixels"):
        open_photo(tmp_path / "photo.tif", max_pixels=10_080)
    header = struct.pack(">4sIIBBBBB", b"IHDR", 60_000, 60_000, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(start + struct.pack(">I4s", 100, b"IDAT") + bytes(104))
    with pytest.raises(PhotoError, match="--max-pixels"):
        open_photo(tmp_path / "bomb.png")


def test_a_photo_above_the_limit_is_tried_again_since_the_limit_may_change(tmp_path: Path) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "photo.png")
    (tmp_path / "empty.png").touch()
    for name, passing in (("photo.png", True), ("empty.png", False)):
        with pytest.raises(StepError) as caught:
            look(str(tmp_path / name), Shaping(max_pixels=9_999))
        assert caught.value.passing == passing


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read and write all")
def test_files_without_permission_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "photo.png")
    (tmp_path / "photo.png").chmod(0)
    with pytest.raises(PhotoError, match="permission"):
        open_photo(tmp_path / "photo.png")
    tmp_path.chmod(0o500)
    with pytest.raises(PhotoError, match="--output"):
        save_photo([BLACK], GRAY, tmp_path / "out.png")
    tmp_path.chmod(0o700)


def test_a_denied_file_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RAMP).save(tmp_path / "photo.png")

    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(PhotoError, match="no permission to read"):
        open_photo(tmp_path / "photo.png")
    with pytest.raises(PhotoError, match="Permission denied"):
        save_photo([BLACK], GRAY, tmp_path / "out.png")


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that nobody can write to, not even the superuser."""
    folder = tmp_path / "locked"
    make = tempfile.TemporaryFile

    def denied(*args: object, dir: Path, **kwargs: object) -> object:
        if dir == folder:
            raise PermissionError(13, "Permission denied")
        return make(*args, dir=dir, **kwargs)

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    folder.mkdir()
    return folder


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is to be loaded."""
    monkeypatch.setattr(Colorizer, "from_pretrained", None)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("below", ["", "new/newer"])
def test_an_output_folder_that_cannot_be_written_to_is_told_before_the_model_is_loaded(
    colorize, locked: Path, gray_photo: Path, below: str
) -> None:
    for inputs in ([gray_photo], [gray_photo, EXAMPLES], ["--watch", gray_photo.parent]):
        result = colorize(*inputs, "-o", locked / below)
        assert result.exit_code == 1
        assert "the output folder cannot be " + ("made" if below else "written to") in result.stderr
        assert result.stderr.count("\n") == 1
    assert list(locked.iterdir()) == []


@pytest.mark.usefixtures("no_model")
def test_a_photos_own_folder_that_cannot_be_written_to_is_told_before_the_model_is_loaded(
    colorize, locked: Path
) -> None:
    photos = [write_gray(locked / name, 40, 30) for name in ("a.jpg", "b.jpg")]
    for inputs, count in ((photos[:1], 1), (photos, 2), ([locked], 2)):
        result = colorize(*inputs)
        assert result.exit_code == 1
        assert (
            result.stderr.count("its folder cannot be written to (Permission denied); choose another --output") == count
        )
        assert result.stderr.count("\n") == count
    missing = colorize(locked / "c.jpg")
    assert "c.jpg: its folder" not in missing.stderr
    watched = colorize("--watch", locked)
    assert watched.exit_code == 1
    assert f"{locked}: the output folder cannot be written to" in watched.stderr


def test_photos_beside_which_nothing_can_be_written_hold_up_no_others(colorize, locked: Path, gray_photo: Path) -> None:
    photos = [write_gray(locked / name, 40, 30) for name in ("new.jpg", "done.jpg")]
    (locked / "done_color1.jpg").touch()
    result = colorize(*photos, gray_photo, "-n", 1)
    assert result.exit_code == 1
    assert "1 written, 1 failed, 1 skipped (pictures exist)" in result.stdout
    assert "new.jpg: its folder cannot be written to" in result.stderr
    assert gray_photo.with_name("photo_color1.jpg").exists()
    assert colorize(photos[1], "-n", 1).exit_code == 0
    assert "done.jpg: its folder" in colorize(photos[1], "-n", 1, "--force").stderr


def test_an_unknown_suffix_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"\.webp"):
        save_photo([BLACK], GRAY, tmp_path / "out.gif")


def test_a_folder_is_no_photo(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="folder"):
        open_photo(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"old")

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(PhotoError, match="No space left"):
        save_photo([BLACK], GRAY, target)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert target.read_bytes() == b"old"


def test_saving_into_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="--output"):
        save_photo([BLACK], GRAY, tmp_path / "gone" / "out.png")
