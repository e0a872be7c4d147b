"""A picture tells what made it, and the command it prints makes it again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from colorize_cli.cli import cli
from colorize_cli.provenance import read_provenance
from tests.conftest import write_gray


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


@pytest.fixture(scope="module")
def picture(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`folder/photo.jpg` in colour; do not write into its folder."""
    photo = write_gray(tmp_path_factory.mktemp("inspected") / "folder" / "photo.jpg", 90, 60)
    assert run(photo, "-n", 1, "--model", tiny_model, "--quality", 80).return_value == 0
    return photo.with_name("photo_color1.jpg")


def test_the_command_that_is_printed_makes_the_same_bytes_in_another_process(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = write_gray(tmp_path / "-aunt's photo.tif", 90, 60)
    options = ["-n", 2, "-t", 0.7, "--seed", 5, "--saturation", 1.3, "--format", "png", "--threads", 1]
    run(f"./{photo.name}", *options, "--model", tiny_model, "--strip-metadata")
    picture = tmp_path / "-aunt's photo_color2.png"
    told = run("inspect", f"./{picture.name}", "--photo", f"./{photo.name}", "--model", tiny_model)
    assert told.stderr == ""
    assert "byte for byte" in told.stdout
    assert "guidance 0.0, " in told.stdout
    command = shlex.split(told.stdout.splitlines()[-1].removeprefix("again").strip())
    assert command[0] == "colorize"
    colorize = Path(sys.executable).with_name("colorize")
    subprocess.run([colorize, *command[1:]], check=True, capture_output=True)
    assert (tmp_path / "again" / picture.name).read_bytes() == picture.read_bytes()


def test_a_photo_of_more_pixels_than_is_usual_is_allowed_them_again(
    tiny_model: Path, gray_photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("colorize_cli.batch.DEFAULT_MAX_PIXELS", 1000)
    assert run(gray_photo, "-n", 1, "--max-pixels", 6000, "--model", tiny_model).return_value == 0
    told = run("inspect", gray_photo.with_name("photo_color1.jpg"), "--model", tiny_model)
    assert "--max-pixels 5400 " in command_of(told)  # its own, whatever was allowed


def test_another_photo_is_told_apart_and_the_picture_says_where_it_is_from(
    picture: Path, tiny_model: Path, tmp_path: Path
) -> None:
    other = write_gray(tmp_path / "other.jpg", 90, 60, seed=1)
    record = read_provenance(picture)
    assert record is not None
    assert (record.input, record.sample, record.options["quality"]) == ("photo.jpg", 1, 80)
    assert b"folder" not in picture.read_bytes()
    result = run("inspect", picture, "--photo", other, "--json", "--model", tiny_model)
    assert result.return_value == 1
    assert "not the photo of this picture" in result.stderr
    told = json.loads(result.stdout)
    assert told["provenance"]["input_sha256"] == record.input_sha256
    assert told["command"] is None
    assert "--quality 80" in json.loads(run("inspect", picture, "--json", "--model", tiny_model).stdout)["command"]


def command_of(result: Result) -> str:
    return result.stdout.splitlines()[-1].removeprefix("again").strip()


def test_a_picture_of_standard_input_asks_which_photo_it_was(
    tiny_model: Path, gray_photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(gray_photo.parent)
    words = ["-", "-o", "out", "-n", "1", "--threads", "1", "--model", str(tiny_model)]
    CliRunner().invoke(cli, words, input=gray_photo.read_bytes(), standalone_mode=False)
    (picture,) = Path("out").glob("stdin_color1.*")
    unknown = run("inspect", picture, "--model", tiny_model)
    assert "say with --photo which it was" in unknown.stderr
    assert command_of(unknown).endswith(" < PHOTO")
    told = run("inspect", picture, "--photo", gray_photo, "--model", tiny_model)
    assert told.stderr == ""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    subprocess.run(command_of(told), shell=True, check=True, capture_output=True)
    assert Path("again", picture.name).read_bytes() == picture.read_bytes()


def test_a_name_of_control_characters_is_shown_as_one_harmless_line(gray_photo: Path) -> None:
    path = gray_photo.rename(gray_photo.with_name("a\x1b[31m\nb\x07.jpg"))
    result = run("inspect", path)
    assert result.stderr.count("\n") == 1
    assert "a?[31m b?.jpg: nothing in it" in result.stderr


def test_the_command_for_a_photo_of_an_odd_name_is_one_line_that_a_shell_reads(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = write_gray(tmp_path / "photo.jpg", 90, 60)
    photo = photo.rename(tmp_path / os.fsdecode(b"it's a\nline\x1b \\ \xe9.jpg"))
    assert run(f"./{photo.name}", "-n", 1, "--model", tiny_model).return_value == 0
    command = command_of(run("inspect", photo.stem + "_color1.jpg", "--model", tiny_model))
    assert command.isprintable()
    shown = subprocess.run(["bash", "-c", f"printf %s {command.split(' --output')[0].partition(' ')[2]}"],
                           capture_output=True, check=True).stdout  # fmt: skip
    assert shown == os.fsencode(photo.name)


def test_a_models_folder_is_asked_for_and_checked(picture: Path, tiny_model: Path) -> None:
    unknown = run("inspect", picture)
    assert unknown.return_value == 0
    assert unknown.stderr.count("\n") == 1
    assert "the model tiny of this picture is not here; say with --model where its folder lies" in unknown.stderr
    assert command_of(unknown).endswith(" --model MODEL")
    known = run("inspect", picture, "--model", tiny_model)
    assert (known.return_value, known.stderr) == (0, "")
    assert command_of(known).endswith(f" --model {tiny_model}")
    other = run("inspect", picture, "--model", "coltran-small")
    assert other.return_value == 1
    assert "coltran-small: not the model of this picture" in other.stderr
    assert "again" not in other.stdout
    missing = CliRunner().invoke(cli, ["inspect", str(picture), "--model", str(tiny_model / "none")])
    assert missing.exit_code == 2
    assert "no such folder" in missing.stderr


def test_a_model_of_the_same_name_that_is_another_is_not_printed(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.json").write_text("{}")
    result = run("inspect", picture)
    assert "the model tiny of this picture is not here" in result.stderr
    assert command_of(result).endswith(" --model MODEL")


def test_what_lies_here_or_beside_the_picture_is_found_by_its_name(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = write_gray(tmp_path / "scans" / "photo.jpg", 90, 60)
    run(photo, "-n", 1, "--threads", 1, "--model", tiny_model)
    picture = photo.with_name("photo_color1.jpg")
    monkeypatch.chdir(tiny_model.parent)
    told = run("inspect", picture)
    assert told.stderr == ""
    assert run(*shlex.split(command_of(told))[1:], "--output", tmp_path / "again").return_value == 0
    assert (tmp_path / "again" / picture.name).read_bytes() == picture.read_bytes()

    photo.rename(tmp_path / "aunt.jpg")
    write_gray(photo, 90, 60, seed=1)
    lost = run("inspect", picture)
    assert "the photo photo.jpg is neither here nor beside the picture nor in a manifest; say with" in lost.stderr
    assert shlex.split(command_of(lost))[1] == "PHOTO"
    renamed = run("inspect", picture, "--photo", tmp_path / "aunt.jpg")
    assert "the photo was called photo.jpg" in renamed.stderr


def test_the_manifest_of_a_run_tells_where_the_photo_lies(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = write_gray(tmp_path / "scans" / "box" / "photo.jpg", 90, 60)
    run(photo.parent.parent, "-r", "-n", 1, "--model", tiny_model, "-o", tmp_path / "out")
    monkeypatch.chdir(tiny_model.parent)
    told = run("inspect", tmp_path / "out" / "box" / "photo_color1.jpg")
    assert told.stderr == ""
    assert shlex.split(command_of(told))[1] == str(photo)


@pytest.mark.parametrize("options", [["--no-provenance"], ["--format", "bmp"], ["--format", "ppm"]])
def test_a_picture_that_does_not_say_is_told_as_such(tiny_model: Path, tmp_path: Path, options: list[str]) -> None:
    photo = write_gray(tmp_path / "photo.png", 60, 40)
    result = run(photo, "-n", 1, "--model", tiny_model, *options)
    assert ("holds no XMP" in result.stderr) == (options[0] == "--format")
    (picture,) = tmp_path.glob("photo_color1.*")
    for path in (picture, photo):
        result = run("inspect", path)
        assert result.return_value == 1
        assert result.stderr.count("\n") == 1
        assert "nothing in it says what made it" in result.stderr
