"""Damaged files in, full disks and killed processes out: one clear line, and never half a file."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from colorize_cli import atomic
from colorize_cli.chroma import join
from colorize_cli.errors import PhotoError
from colorize_cli.photo import FORMATS, Page, Photo, open_photo, output_suffix, save_photo
from colorize_cli.steps import Shaping, look
from tests.conftest import write_gray
from tests.zoo import zoo

MUTATIONS = 4  # of each specimen
COLORS = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with bytes changed, taken out or put in, most of them near its head."""
    data = bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(data[: rng.randrange(1, len(data))])
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(data) if kind == 1 else min(len(data), 300))
        if kind == 3:
            data[place : place + rng.randint(0, 8)] = rng.randbytes(rng.randint(0, 8))
        else:
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(data)


def test_a_damaged_file_is_coloured_or_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused = 0
    for number, specimen in enumerate(zoo()):
        specimen.write(tmp_path / specimen.name)
        content = (tmp_path / specimen.name).read_bytes()
        for seed in range(MUTATIONS):
            try:
                photo = open_photo(
                    mutated(content, random.Random(number * MUTATIONS + seed)), name=specimen.name, max_pixels=100_000
                )
                suffix = output_suffix(photo, Path(specimen.name).suffix)
                save_photo([join(page.luma, COLORS) for page in photo.pages], photo, tmp_path / f"out{suffix}")
            except PhotoError as error:
                refused += 1
                assert specimen.name in str(error)
                assert "\n" not in str(error)
    assert refused > MUTATIONS * len(zoo()) * 0.2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("mode", "suffix", "options", "lost"),
    [
        ("L", "jpg", {"quality": 90}, 400),
        ("CMYK", "jpg", {"quality": 90}, 400),
        ("L", "tif", {"compression": "tiff_adobe_deflate"}, 40),
    ],
)
def test_damage_that_a_reader_forgives_is_told(
    tmp_path: Path, mode: str, suffix: str, options: dict[str, object], lost: int
) -> None:
    image = Image.open(write_gray(tmp_path / "gray.png", 300, 200)).convert(mode)
    whole, hurt = tmp_path / f"whole.{suffix}", tmp_path / f"hurt.{suffix}"
    image.save(whole, **options)
    content = whole.read_bytes()
    middle = len(content) // 2
    hurt.write_bytes(content[:middle] + bytes(lost) + content[middle + lost :])
    assert look(str(whole), Shaping()).notes == []
    *_, note = look(str(hurt), Shaping()).notes
    assert note.startswith(f"{hurt}: damaged, and parts of it may be lost")


WRITER = """
import os, sys, numpy as np
from pathlib import Path
from colorize_cli.photo import Page, Photo, save_photo
pixels = np.random.default_rng(0).integers(0, 256, (250, 300, 3), dtype=np.uint8)
photo = Photo((Page(pixels[..., 0]),))
save_photo([pixels], photo, Path(sys.argv[1]) / "p.webp")
for _ in sys.stdin:
    child = os.fork()
    while child == 0:
        for suffix in ("jpg", "png", "tif", "bmp"):
            save_photo([pixels], photo, Path(sys.argv[1]) / f"p.{suffix}")
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_a_killed_process_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    rng = random.Random(1)
    command = [sys.executable, "-c", WRITER, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(8):
            process.stdin.write("write\n")
            child = int(process.stdout.readline())
            time.sleep(rng.random() / 10)
            os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "gone\n"
            for path in tmp_path.iterdir():
                assert path.stem == "p" or atomic.abandoned(path)
                if path.stem == "p":
                    assert open_photo(path).luma.shape == (250, 300)


@pytest.mark.parametrize("suffix", [known.suffixes[0] for known in FORMATS.values()])
@pytest.mark.parametrize("room", [0, 2_000])
def test_a_full_disk_is_told_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, room: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    target = tmp_path / f"out{suffix}"
    target.write_bytes(b"old")
    original = atomic._create_nameless
    monkeypatch.setattr(atomic, "_create_nameless", lambda path: Full(original(path), room))
    with pytest.raises(PhotoError, match=r"No space left on device.*--output"):
        save_photo([pixels], Photo((Page(pixels[..., 0]),)), target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_bytes() == b"old"


class Full:
    """A file on a disk with little room."""

    def __init__(self, file, room: int) -> None:  # type: ignore[no-untyped-def]
        self.file, self.room = file, room

    def write(self, content) -> int:  # type: ignore[no-untyped-def]
        self.room -= memoryview(content).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(content))

    def __enter__(self):  # type: ignore[no-untyped-def]
        self.file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.file.__exit__(*error)

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def test_a_tiff_that_was_cut_off_is_told_from_one_of_previews(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((40, 60), level, dtype=np.uint8)) for level in (50, 100, 150)]
    pages[0].save(tmp_path / "whole.tif", save_all=True, append_images=pages[1:])
    content = (tmp_path / "whole.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "whole.tif") as tiff:
        starts = [page.offset for page in tiff.pages]
    assert not open_photo(content).damage
    cut = open_photo(content[: starts[2]])
    assert (len(cut.pages), cut.damage) == (2, "it ends before its last pages")
    with pytest.raises(PhotoError, match="the file ends before it says what is in it; copy it again"):
        open_photo(content[: starts[0]])
