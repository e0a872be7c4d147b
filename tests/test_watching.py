"""Photos that arrive in a watched folder: coloured once each, and not before they are whole."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import write_gray
from tests.test_batch import SIGNALS, await_that, finish, lines, pictures, started


@SIGNALS
def test_photos_that_arrive_are_coloured_once_each_when_they_are_whole(tiny_model: Path, tmp_path: Path) -> None:
    box, out = tmp_path / "box", tmp_path / "out"
    write_gray(box / "first.png", 30, 30)
    content = write_gray(tmp_path / "later.png", 60, 50, 1).read_bytes()
    with started("-r", box, "-o", out, "-n", 1, "--watch", "--model", tiny_model) as process:
        await_that(lambda: "first_color1.png" in pictures(out))
        (box / "sub").mkdir()
        with (box / "sub" / "slow.png").open("wb") as file:
            file.write(content[:500])
            file.flush()
            write_gray(box / "second.png", 30, 30, 2)
            await_that(lambda: "second_color1.png" in pictures(out))
            if sys.platform == "linux":  # which tells that the file is still being written
                time.sleep(1.5)
            file.write(content[500:])
        (tmp_path / "later.png").rename(box / "moved.png")
        await_that(lambda: {"sub/slow_color1.png", "moved_color1.png"} <= pictures(out).keys())
        await_that(lambda: len(lines(out)) == 4)
        process.send_signal(signal.SIGINT)
        code, errors = finish(process)
    assert code == 130
    assert "error" not in errors
    names = ["first", "moved", "second", "sub/slow"]
    assert sorted(str(line["name"]) for line in lines(out)) == names
    assert sorted(pictures(out)) == [f"{name}_color1.png" for name in names]


@SIGNALS
def test_pictures_that_do_not_say_whose_they_are_are_not_coloured_again(tiny_model: Path, tmp_path: Path) -> None:
    write_gray(tmp_path / "first.bmp", 30, 30)
    with started(tmp_path, "-n", 1, "--watch", "--model", tiny_model) as process:
        await_that(lambda: "first_color1.bmp" in pictures(tmp_path))
        time.sleep(1.5)  # for as long as a file has to be at rest, and more
        write_gray(tmp_path / "second.bmp", 30, 30)
        await_that(lambda: "second_color1.bmp" in pictures(tmp_path))
        process.send_signal(signal.SIGINT)
        code, _ = finish(process)
    assert (code, len(pictures(tmp_path))) == (130, 4)


@pytest.mark.parametrize("arguments", [("photo.png", "--watch"), (".", "--watch", "--dry-run")])
def test_only_folders_are_watched(colorize, gray_photo: Path, arguments: tuple[str, ...]) -> None:
    result = colorize(*(gray_photo.parent / word if "-" not in word else word for word in arguments))
    assert result.exit_code == 2
    assert "--watch takes folders" in result.exception.format_message()
