"""What a run makes of an earlier one's pictures: kept, made anew or left alone, and nobody's picture is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from colorize_cli import steps
from colorize_cli.errors import OutputError, PhotoError
from colorize_cli.journal import Journal
from colorize_cli.manifest import Manifest
from colorize_cli.remote_manifest import RemoteManifest
from tests.conftest import write_gray
from tests.test_batch import lines, pictures

SEVEN = ("--seed", 7)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photo in a folder of its own."""
    return write_gray(tmp_path_factory.mktemp("photos") / "photo.png", 30, 30)


@pytest.fixture(scope="module")
def fresh(colorize, photo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Its two pictures by seed 7, made into an empty folder."""
    out = tmp_path_factory.mktemp("fresh")
    assert colorize(photo, "-o", out, "-n", 2, *SEVEN).exit_code == 0
    return pictures(out)


def test_another_photo_of_the_same_name_does_not_take_the_firsts_pictures(colorize, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = (write_gray(tmp_path / year / "scan.png", 30, 30, seed) for seed, year in enumerate(("1920", "30")))
    assert colorize(first.parent, "-o", out, "-n", 1).exit_code == 0
    before = pictures(out)
    for _ in range(2):
        result = colorize(second.parent, "-o", out, "-n", 1)
        assert (result.exit_code, pictures(out), len(lines(out))) == (1, before, 1)
        assert f"was made of another photo ({first}); choose another --output, or --force" in result.stderr
    assert colorize(second.parent, "-o", out, "-n", 1, "--force").exit_code == 0
    assert pictures(out) != before


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(colorize, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = colorize(photo, tmp_path / "lost.png", "-o", out, "-n", 2, "--dry-run", "--json")
    assert result.exit_code == 1
    told = {Path(line["input"]).name: line for line in map(json.loads, result.stdout.splitlines())}
    assert told["photo.png"]["status"] == "planned"
    assert [Path(path).name for path in told["photo.png"]["outputs"]] == ["photo_color1.png", "photo_color2.png"]
    assert told["lost.png"]["error"] == f"{tmp_path / 'lost.png'}: no such file; check the name"
    assert not out.exists()


def test_a_photo_that_was_moved_is_known_by_its_bytes(colorize, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(photo, tmp_path / "a")
    assert colorize(tmp_path / "a", "-o", tmp_path / "out", "-n", 1).exit_code == 0
    (tmp_path / "a").rename(tmp_path / "b")
    assert colorize(tmp_path / "b", "-o", tmp_path / "out", "-n", 1).exit_code == 0
    assert len(lines(tmp_path / "out")) == 1


def test_pictures_of_earlier_options_do_not_pass_for_those_of_the_last(
    colorize, photo: Path, fresh: dict[str, bytes], tmp_path: Path
) -> None:
    for words in (("-n", 2), ("-n", 1, *SEVEN), ("-n", 2, *SEVEN)):
        assert colorize(photo, "-o", tmp_path, *words).exit_code == 0
    assert pictures(tmp_path) == fresh
    for words in (("-n", 2), ("-n", 2, *SEVEN, "--format", "jpeg"), ("-n", 2, *SEVEN)):
        assert colorize(photo, "-o", tmp_path, *words).exit_code == 0
    assert {name: content for name, content in pictures(tmp_path).items() if name.endswith("png")} == fresh


def test_pictures_that_were_written_before_a_failure_are_known_to_the_next_run(
    colorize, photo: Path, fresh: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = steps.save_photo

    def second_fails(pages: object, opened: object, path: Path, *rest: object) -> list[str]:
        if path.name == "photo_color2.png":
            raise PhotoError("no luck")
        return write(pages, opened, path, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(steps, "save_photo", second_fails)
        assert colorize(photo, "-o", tmp_path, "-n", 2).exit_code == 1
    assert list(pictures(tmp_path)) == ["photo_color1.png"]
    assert colorize(photo, "-o", tmp_path, "-n", 2, *SEVEN, "--retry-failed").exit_code == 0
    assert pictures(tmp_path) == fresh


def test_a_foreign_picture_never_becomes_the_tools_own(
    colorize, photo: Path, fresh: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "photo_color1.png").write_bytes(b"mine")
    for words in ((), (), SEVEN):
        assert colorize(photo, "-o", tmp_path, "-n", 2, *words).exit_code == 0
    assert pictures(tmp_path) == {**fresh, "photo_color1.png": b"mine"}
    assert [[Path(path).name for path in line["outputs"]] for line in lines(tmp_path)] == [["photo_color2.png"]] * 2


@contextmanager
def without_lines() -> Iterator[None]:
    """Runs end between a photo's pictures and its line, as if they were killed there."""

    def full(self: Manifest, line: object) -> None:
        raise OutputError("the disk is full")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Manifest, "append", full)
        yield


def test_pictures_of_which_no_line_could_be_written_are_made_anew(
    colorize, photo: Path, fresh: dict[str, bytes], tmp_path: Path
) -> None:
    with without_lines():
        assert colorize(photo, "-o", tmp_path, "-n", 2).exit_code == 1
    assert len(list(tmp_path.glob(".colorize-*"))) == 1
    assert colorize(photo, "-o", tmp_path, "-n", 2, *SEVEN).exit_code == 0
    assert pictures(tmp_path) == fresh
    assert not list(tmp_path.glob(".colorize-*"))


def test_more_pictures_than_the_last_line_tells_of_are_made_anew_too(
    colorize, photo: Path, fresh: dict[str, bytes], tmp_path: Path
) -> None:
    assert colorize(photo, "-o", tmp_path, "-n", 1).exit_code == 0
    with without_lines():
        assert colorize(photo, "-o", tmp_path, "-n", 2).exit_code == 1
    assert colorize(photo, "-o", tmp_path, "-n", 2).exit_code == 0
    assert len(lines(tmp_path)[-1]["outputs"]) == 2  # type: ignore[arg-type]
    assert colorize(photo, "-o", tmp_path, "-n", 2, *SEVEN).exit_code == 0
    assert pictures(tmp_path) == fresh


def test_a_picture_without_a_line_is_its_own_photos(colorize, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one, other = (write_gray(tmp_path / name / "x.png", 30, 30, seed) for seed, name in enumerate("ab"))
    with without_lines():
        assert colorize(one, "-o", out, "-n", 1).exit_code == 1
    before = pictures(out)
    result = colorize(other, "-o", out, "-n", 1)
    assert (result.exit_code, pictures(out)) == (1, before)
    assert f"was made of another photo ({one})" in result.stderr
    assert colorize(one, "-o", out, "-n", 1).exit_code == 0
    assert len(lines(out)) == 1


def test_a_picture_without_a_line_is_no_photo(colorize, tmp_path: Path) -> None:
    write_gray(tmp_path / "x.png", 30, 30)
    words = ("-r", tmp_path, "-o", tmp_path / "out", "-n", 1, "--format", "ppm")
    with without_lines():
        assert colorize(*words).exit_code == 1
    assert colorize(*words).exit_code == 0
    assert list(pictures(tmp_path)) == ["x.png", "out/x_color1.ppm"]


def test_two_runs_over_other_photos_do_not_share_a_folder(tmp_path: Path) -> None:
    journal = Journal(Manifest(str(tmp_path)), "key", ["a"])
    Journal(Manifest(str(tmp_path)), "key", ["a"]).close()
    for key, photos in (("key", ["b"]), ("other", ["a"])):
        with pytest.raises(OutputError, match="other options or photos is at work"):
            Journal(Manifest(str(tmp_path)), key, photos)
    journal.close()
    Journal(Manifest(str(tmp_path)), "key", ["b"]).close()


def test_a_link_in_circles_is_told_and_the_rest_is_coloured(colorize, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    shutil.copy(photo, tmp_path / "z.png")
    shutil.copy(photo, tmp_path / "sub" / "y.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    result = colorize("-r", tmp_path, "-o", tmp_path / "out", "-n", 1)
    assert (result.exit_code, sorted(pictures(tmp_path / "out"))) == (1, ["sub/y_color1.png", "z_color1.png"])
    assert f"error: {tmp_path}/circle.png" in result.stderr


def test_a_photo_keeps_its_name_when_another_comes_that_would_share_it(colorize, photo: Path, tmp_path: Path) -> None:
    box, out = tmp_path / "box", tmp_path / "out"
    box.mkdir()
    shutil.copy(photo, box)
    assert colorize(box, "-o", out, "-n", 1).exit_code == 0
    write_gray(box / "photo.jpg", 30, 30, 1)
    for _ in range(2):
        assert colorize(box, "-o", out, "-n", 1).exit_code == 0
        assert [line["name"] for line in lines(out)] == ["photo", "photo.jpg"]
    (box / "photo.png").unlink()
    assert colorize(box, "-o", out, "-n", 1).exit_code == 0
    assert len(lines(out)) == 2


def test_a_photo_is_not_written_over_by_way_of_a_link(colorize, tmp_path: Path) -> None:
    one, other = (write_gray(tmp_path / "real" / f"{name}.png", 30, 30) for name in ("photo", "photo_color1"))
    before = other.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    result = colorize(tmp_path / "link" / one.name, other, "-n", 1, "--force")
    assert (result.exit_code, other.read_bytes()) == (1, before)
    assert "itself a photo of this run" in result.stderr


def test_an_output_folder_beyond_a_link_is_where_the_system_finds_it(colorize, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    for count in (1, 2):
        assert colorize(photo, "-o", f"{tmp_path}/link/../out", "-n", count).exit_code == 0
    assert len(lines(tmp_path / "far" / "out")) == len(pictures(tmp_path / "far" / "out")) == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_manifests_name_is_told_and_the_rest_is_coloured(colorize, tmp_path: Path) -> None:
    write_gray(tmp_path / "box" / "manifest.jsonl" / "one.png", 30, 30)
    write_gray(tmp_path / "box" / "two.png", 30, 30)
    result = colorize("-r", tmp_path / "box", "-o", tmp_path / "out", "-n", 1)
    assert (result.exit_code, list(pictures(tmp_path / "out"))) == (1, ["two_color1.png"])
    assert "rename it" in result.stderr


def test_several_photos_do_not_fit_into_standard_output(colorize, tmp_path: Path) -> None:
    for name in "ab":
        write_gray(tmp_path / f"{name}.png", 30, 30)
    result = colorize(tmp_path / "?.png", "-n", 1, "-o", "-")
    assert result.exit_code == 2
    assert "takes one photo, and there are 2" in result.exception.format_message()


def test_a_manifest_behind_a_url_is_put_back_only_if_it_has_grown(tmp_path: Path) -> None:
    there = tmp_path / "manifest.jsonl"
    there.write_text("")
    with RemoteManifest(f"file://{tmp_path}"):
        there.write_text('{"name": "of another run, which ended meanwhile"}\n')
    assert "another run" in there.read_text()
    with RemoteManifest(f"file://{tmp_path}") as manifest:
        manifest.append({"name": "mine", "outputs": []})
    assert [line["name"] for line in lines(tmp_path)] == ["of another run, which ended meanwhile", "mine"]
