"""The console command: names, exit codes, one clear line for each mistake, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import ExifTags, Image

from colorize_cli.cli import cli
from colorize_cli.cli.reporting import Reporter
from tests.conftest import EXAMPLES, write_gray


def console(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real console script."""
    script = Path(sys.executable).with_name("colorize")
    words = [str(argument) for argument in arguments]
    return subprocess.run([script, *words], capture_output=True, text=True, cwd=cwd, check=False)


def luma(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L")).astype(int)


def test_pictures_are_named_after_the_photo_and_lie_beside_it(colorize, gray_photo: Path) -> None:
    result = colorize(gray_photo, "-n", 2)
    assert result.exit_code == 0
    names = sorted(path.name for path in gray_photo.parent.iterdir())
    assert names == ["photo.jpg", "photo_color1.jpg", "photo_color2.jpg"]
    with Image.open(gray_photo.parent / "photo_color1.jpg") as image:
        assert (image.size, image.mode, image.format) == ((90, 60), "RGB", "JPEG")


def test_three_pictures_are_made_by_default_into_the_folder_given(colorize, gray_photo: Path, tmp_path: Path) -> None:
    assert colorize(gray_photo, "-o", tmp_path / "out" / "deep").exit_code == 0
    names = sorted(path.name for path in (tmp_path / "out" / "deep").iterdir())
    assert names == ["manifest.jsonl", *(f"photo_color{index}.jpg" for index in (1, 2, 3))]


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 1), (".tif", 1), (".webp", 12), (".jpg", 12)])
def test_the_photos_luminance_survives_in_its_own_format(colorize, tmp_path: Path, suffix: str, tolerance: int) -> None:
    photo = write_gray(tmp_path / f"photo{suffix}", 120, 80)
    assert colorize(photo, "-n", 1).exit_code == 0
    difference = np.abs(luma(tmp_path / f"photo_color1{suffix}") - luma(photo))
    assert difference.max() <= tolerance
    assert difference.mean() <= 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(colorize, gray_photo: Path, tmp_path: Path) -> None:
    pictures = []
    for name, seed, count in (("a", 3, 2), ("b", 3, 1), ("c", 4, 1)):
        assert colorize(gray_photo, "-o", tmp_path / name, "--seed", seed, "-n", count).exit_code == 0
        pictures.append((tmp_path / name / "photo_color1.jpg").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


def test_existing_pictures_are_skipped_and_force_writes_them_again(colorize, gray_photo: Path) -> None:
    picture = gray_photo.parent / "photo_color1.jpg"
    picture.write_bytes(b"mine")
    result = colorize(gray_photo, "-n", 1)
    assert result.exit_code == 0
    assert "skipped" in result.output
    assert picture.read_bytes() == b"mine"
    assert colorize(gray_photo, "-n", 2).exit_code == 0
    assert picture.read_bytes() == b"mine"
    assert (gray_photo.parent / "photo_color2.jpg").is_file()
    assert colorize(gray_photo, "-n", 1, "--force").exit_code == 0
    assert picture.read_bytes() != b"mine"


def test_a_photo_of_the_run_is_never_written_over(colorize, gray_photo: Path) -> None:
    other = write_gray(gray_photo.parent / "photo_color1.jpg", 40, 40)
    before = other.read_bytes()
    result = colorize(gray_photo, other, "-n", 1, "--force")
    assert result.exit_code == 1
    assert "itself a photo of this run" in result.stderr
    assert other.read_bytes() == before


def test_photos_that_would_share_a_name_are_told_apart(colorize, tmp_path: Path) -> None:
    photos = [write_gray(tmp_path / folder / "photo.png", 40, 40) for folder in ("a", "b")]
    assert colorize(*photos, "-n", 1, "-o", tmp_path / "out").exit_code == 0
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {"a_photo.png_color1.png", "b_photo.png_color1.png"}


def test_usage_is_that_of_the_command_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.UsageError) as refused:
        cli.main(["-n", "x", "photo.jpg"], prog_name="colorize", standalone_mode=False)
    refused.value.show()
    assert capsys.readouterr().err.startswith("Usage: colorize [OPTIONS] PHOTO...\nTry 'colorize --help'")


def test_names_are_shown_as_they_are(colorize, tmp_path: Path) -> None:
    (tmp_path / ":dog: [red]x.png").write_bytes(b"none")
    result = colorize(tmp_path / ":dog: [red]x.png", "-o", tmp_path / "out")
    assert f"error: {tmp_path}/:dog: [red]x.png: not a photo" in result.stderr


def test_a_picture_of_ours_is_passed_over_aloud_but_coloured_from_standard_input(
    colorize, gray_photo: Path, tiny_model: Path
) -> None:
    assert colorize(gray_photo, "-n", 1).exit_code == 0
    picture = gray_photo.with_name("photo_color1.jpg")
    for words in ((), ("--json",)):
        result = colorize(picture, "-n", 1, *words)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "nothing to colour: 1 file was made by this tool and is passed over\n"
    words = ["-", "-n", "1", "-o", "-", "--model", str(tiny_model)]
    result = CliRunner().invoke(cli, words, input=picture.read_bytes(), standalone_mode=False)
    assert (result.return_value, result.stdout_bytes[:3]) == (0, b"\xff\xd8\xff")


def test_temperature_zero_gives_one_picture(colorize, gray_photo: Path) -> None:
    assert colorize(gray_photo, "-t", 0, "-n", 5).exit_code == 0
    assert [path.name for path in gray_photo.parent.glob("*_color*")] == ["photo_color1.jpg"]


def test_saturation_zero_gives_the_gray_photo(colorize, tmp_path: Path) -> None:
    photo = write_gray(tmp_path / "photo.png", 50, 70)
    assert colorize(photo, "-n", 1, "--saturation", 0).exit_code == 0
    with Image.open(tmp_path / "photo_color1.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert np.ptp(pixels, axis=-1).max() == 0


def test_size_256_writes_the_models_own_picture_and_its_size(colorize, gray_photo: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base.ExifImageWidth: 90, ExifTags.Base.ExifImageHeight: 60})
    with Image.open(gray_photo) as image:
        image.save(gray_photo, exif=exif)
    assert colorize(gray_photo, "-n", 1, "--size", "256").exit_code == 0
    with Image.open(gray_photo.parent / "photo_color1.jpg") as image:
        assert image.size == (256, 256)
        said = image.getexif().get_ifd(ExifTags.IFD.Exif)
        assert (said[ExifTags.Base.ExifImageWidth], said[ExifTags.Base.ExifImageHeight]) == (256, 256)


def test_json_is_one_line_a_photo_with_all_that_repeats_it(colorize, gray_photo: Path) -> None:
    result = colorize(gray_photo, "-n", 2, "--seed", 9, "--json")
    (line,) = result.stdout.splitlines()
    record = json.loads(line)
    assert record["input"] == str(gray_photo)
    assert record["outputs"] == [str(gray_photo.parent / f"photo_color{k}.jpg") for k in (1, 2)]
    assert (record["size"], record["seed"], record["temperature"]) == ([90, 60], 9, 0.9)
    assert len(record["bits_per_pixel"]) == 2
    assert {"model", "device", "dtype", "threads", "seconds", "status"} <= set(record)
    again = json.loads(colorize(gray_photo, "-n", 2, "--seed", 9, "--json").stdout)
    assert set(again) == {*record, "skipped"}
    unseen = dict.fromkeys(("input_bytes", "input_mtime_ns", "sha256", "size")) | {"bits_per_pixel": []}
    assert again == record | unseen | {"status": "skipped", "skipped": "exists", "seconds": 0}


def test_the_table_breaks_no_line_where_it_is_not_for_a_screen(colorize, tmp_path: Path) -> None:
    photo = write_gray(tmp_path / ("a" * 100) / ("b" * 100) / "photo.png", 30, 20)
    result = colorize(photo, "-n", 1)
    (row,) = (line.split() for line in result.stdout.splitlines() if "photo_color1" in line)
    assert row[:3] == [str(photo), str(photo.with_name("photo_color1.png")), "30x20"]


def test_quiet_prints_nothing(colorize, gray_photo: Path) -> None:
    result = colorize(gray_photo, "-n", 1, "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_a_folder_is_coloured_photo_by_photo_and_a_second_run_adds_nothing(colorize, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", ".hidden.jpg"):
        write_gray(tmp_path / "box" / name, 30, 40)
    (tmp_path / "box" / "notes.txt").write_text("not a photo")
    assert colorize(tmp_path / "box", "-n", 1).exit_code == 0
    pictures = {path.name for path in (tmp_path / "box").glob("*_color*")}
    assert pictures == {"a_color1.jpg", "b_color1.png"}
    assert colorize(tmp_path / "box", "-n", 1).exit_code == 0
    assert {path.name for path in (tmp_path / "box").glob("*_color*")} == pictures


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20, 3), (40, 120), (64, 64), (300, 200)])
def test_odd_sizes_are_coloured(colorize, tmp_path: Path, width: int, height: int) -> None:
    photo = write_gray(tmp_path / "odd.png", width, height)
    assert colorize(photo, "-n", 1).exit_code == 0
    with Image.open(tmp_path / "odd_color1.png") as image:
        assert image.size == (width, height)


BAD_PHOTOS = {
    "missing.jpg": None,
    "empty.jpg": b"",
    "text.jpg": b"this is a letter, not a photograph\n" * 50,
    "truncated.jpg": (EXAMPLES / "campus-martius-detroit-1915.jpg").read_bytes()[:40_000],
}


def test_bad_photos_are_one_line_each_and_do_not_stop_the_rest(colorize, gray_photo: Path) -> None:
    bad = [gray_photo.parent / name for name in BAD_PHOTOS]
    for path, content in zip(bad, BAD_PHOTOS.values(), strict=True):
        if content is not None:
            path.write_bytes(content)
    result = colorize(*bad, gray_photo, "-n", 1, "--quiet")  # without lines of how far a slow run is
    assert result.exit_code == 1
    said = result.stderr.splitlines()
    assert len(said) == len(bad)
    assert all(line.startswith("error: ") for line in said)
    assert all(any(path.name in line for line in said) for path in bad)
    assert [path.name for path in gray_photo.parent.glob("*_color*")] == ["photo_color1.jpg"]


def test_a_folder_without_photos_fails(colorize, tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    result = colorize(tmp_path / "box")
    assert result.exit_code == 1
    assert "no photos" in result.stderr


def test_an_output_folder_that_cannot_be_made_fails_without_a_traceback(colorize, gray_photo: Path) -> None:
    (gray_photo.parent / "file").write_text("in the way")
    result = colorize(gray_photo, "-o", gray_photo.parent / "file" / "out")
    assert result.exit_code == 1
    assert result.exception is None
    assert "output folder" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "0"], "samples is 0"),
        (["-t", "-1"], "temperature is -1"),
        (["-t", "nan"], "temperature is nan"),
        (["-t", "inf"], "temperature is inf"),
        (["--seed", "-1"], "seed is -1"),
        (["--saturation", "nan"], "saturation is nan"),
        (["--device", "toaster"], "device is 'toaster'"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--dtype", "int4"], "int4"),
        (["--size", "512"], "512"),
    ],
)
def test_a_bad_option_is_exit_code_2_and_says_its_value(colorize, gray_photo: Path, arguments, said: str) -> None:
    result = colorize(gray_photo, *arguments)
    assert result.exit_code == 2
    assert said in result.exception.format_message()
    assert not list(gray_photo.parent.glob("*_color*"))


def test_an_unknown_model_is_exit_code_2_and_lists_those_that_exist(colorize, gray_photo: Path) -> None:
    result = colorize(gray_photo, model="nonesuch")
    assert result.exit_code == 2
    assert "coltran-small" in result.exception.format_message()


def test_help_lists_the_colouring_options_first_and_then_the_commands() -> None:
    done = console("--help")
    assert done.returncode == 0
    assert done.stdout.index("--temperature") < done.stdout.index("Commands:") < done.stdout.index("train")
    assert console("-h").stdout == done.stdout


def test_the_console_script_gives_exit_codes_and_clean_lines(gray_photo: Path, tiny_model: Path) -> None:
    done = console(gray_photo, "-n", 1, "--json", "--quiet", "--model", tiny_model)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["status"] == "written"
    bad = console(gray_photo, "-n", 0)
    assert bad.returncode == 2
    assert "Traceback" not in bad.stderr
    assert console("nothing-here.jpg", "--model", tiny_model).returncode == 1
    assert console("--version").stdout.strip().startswith("colorize, version ")


def test_no_photo_at_all_is_exit_code_2() -> None:
    done = console()
    assert done.returncode == 2
    assert "PHOTO" in done.stderr


def test_a_name_that_is_no_utf8_or_as_long_as_may_be_is_no_obstacle(colorize, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.png"))
    write_gray(tmp_path / "plain.png", 20, 20).rename(odd)
    result = colorize(odd, "-n", 1)
    assert result.exit_code == 0
    long = write_gray(tmp_path / f"{'n' * 251}.png", 20, 20)
    result = colorize(long, odd.with_name("gone\udce9.png"), "-n", 1)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "gone" in line
    (picture,) = tmp_path.glob("nnn*_color1.png")
    assert len(picture.name) < 255


def test_an_input_that_gives_nothing_counts_among_all_there_are() -> None:
    reporter = Reporter(quiet=True)
    reporter.total = 2
    reporter.refuse("scans", "scans: no photos in this folder")
    assert reporter.state() == "1 of 3, 1 failed"


def test_a_folder_may_be_called_like_what_is_in_it(colorize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gray(tmp_path / "photos" / "one.png", 20, 20)
    monkeypatch.chdir(tmp_path)
    assert colorize("photos", "-n", 1).exit_code == 0
    assert (tmp_path / "photos" / "one_color1.png").is_file()
