"""Which photos there are, what their pictures are called, and into which shard they fall."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from colorize_cli.listing import PHOTO_SUFFIXES, Entry, Listing, list_photos, read_names
from colorize_cli.manifest import Manifest
from colorize_cli.naming import in_shard, name_jobs
from colorize_cli.photo.pillow import FORMATS
from colorize_cli.planning import set_own_aside
from colorize_cli.xmp import teach_heic


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A tree of empty files."""
    names = "b.jpg a.PNG .hidden.jpg notes.txt sub/c.tif sub/deeper/d.webp .cache/e.jpg"
    for name in names.split():
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "scans"


def places(listing: Listing) -> list[str]:
    return [entry.place for entry in listing.entries]


def test_a_folder_gives_its_photos_by_name_and_counts_what_it_passes_over(scans: Path) -> None:
    listing = list_photos([str(scans)])
    assert places(listing) == ["a.PNG", "b.jpg"]
    assert (listing.hidden, listing.others, listing.problems) == (2, 1, [])


def test_a_folder_is_searched_for_every_format_that_is_read_but_icons() -> None:
    teach_heic()
    Image.init()
    found = {Image.EXTENSION[suffix] for suffix in PHOTO_SUFFIXES if suffix in Image.EXTENSION}
    assert found >= {*FORMATS} - {"ICO", "MPO"}
    assert {".mpo", ".heic", ".heif", ".jp2"} <= PHOTO_SUFFIXES


def test_a_recursive_search_keeps_the_tree(scans: Path) -> None:
    assert places(list_photos([str(scans)], recursive=True)) == ["a.PNG", "b.jpg", "sub/c.tif", "sub/deeper/d.webp"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg"]),
        ("**/*.[tw]*", ["sub/c.tif", "sub/deeper/d.webp"]),
        ("**", ["a.PNG", "b.jpg", "sub/c.tif", "sub/deeper/d.webp"]),
        ("s*", ["sub/c.tif"]),
        ("s*/*.tif", ["sub/c.tif"]),
    ],
)
def test_a_pattern_is_searched_for_where_no_file_has_its_name(scans: Path, pattern: str, expected: list[str]) -> None:
    assert places(list_photos([str(scans / pattern)])) == expected


def test_a_file_that_looks_like_a_pattern_is_a_file(scans: Path) -> None:
    (scans / "[a].jpg").touch()
    assert places(list_photos([str(scans / "[a].jpg")])) == ["[a].jpg"]


def test_what_gives_nothing_is_a_problem_of_one_line(scans: Path) -> None:
    (scans / "empty" / "below").mkdir(parents=True)
    listing = list_photos([str(scans / "empty"), str(scans / "*.gif")])
    assert [name for name, _ in listing.problems] == [str(scans / "empty"), str(scans / "*.gif")]
    assert "--recursive" in listing.problems[0][1]


def test_each_photo_is_listed_once_however_often_it_is_given(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scans)
    listing = list_photos(["b.jpg", "./b.jpg", str(scans / "b.jpg"), ".", "sub/../b.jpg"])
    assert [entry.source for entry in listing.entries] == ["b.jpg", "./a.PNG"]


def test_inputs_that_overlap_are_no_problem(scans: Path) -> None:
    sub, pattern = str(scans / "sub"), str(scans / "b*.jpg")
    for inputs in ([scans, scans], [scans, sub], [sub, scans / "sub" / "deeper"], [scans / "b.jpg", pattern]):
        assert list_photos([*map(str, inputs)], recursive=True).problems == []
    for inputs in ([scans, f"{scans.parent}/sc*"], [sub, f"{scans.parent}/sc*"]):
        (scans / "a.PNG").unlink(missing_ok=True)
        (scans / "b.jpg").unlink(missing_ok=True)
        assert list_photos([*map(str, inputs)], recursive=True).problems == []


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_linked_folders_are_followed_and_loops_are_not(scans: Path) -> None:
    (scans / "sub" / "up").symlink_to(scans)
    (scans / "other").symlink_to(scans / "sub" / "deeper")
    listing = list_photos([str(scans)], recursive=True)
    assert sorted(Path(place).name for place in places(listing)) == ["a.PNG", "b.jpg", "c.tif", "d.webp"]
    assert len(list_photos([str(scans / "**" / "*")]).entries) == 4


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_a_link_to_a_photo_that_is_gone_is_no_less_wanted(colorize, tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    result = colorize(tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "gone.jpg: no such file" in result.stderr
    assert result.stderr.count("\n") == 2


def test_names_of_a_list_keep_their_folders(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scans)
    listing = list_photos([], named=["sub/c.tif", "./b.jpg", "sub/deeper", str(scans / "a.PNG")])
    anchored = str(scans / "a.PNG").lstrip("/")
    assert places(listing) == ["sub/c.tif", "b.jpg", "sub/deeper/d.webp", anchored]


def test_a_list_is_split_at_nul_bytes_if_it_has_any() -> None:
    assert read_names(b"a b.jpg\r\ncaf\xe9.jpg\n\nc.jpg") == ["a b.jpg", os.fsdecode(b"caf\xe9.jpg"), "c.jpg"]
    assert read_names(b"a\nb.jpg\0c.jpg\0") == ["a\nb.jpg", "c.jpg"]


def test_an_empty_list_says_that_there_is_nothing_to_colour(colorize, tmp_path: Path) -> None:
    (tmp_path / "list.txt").touch()
    result = colorize("--from-file", tmp_path / "list.txt", "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (0, "nothing to colour: the list is empty\n")


def named(*sources: str, output: str | None = "out") -> list[str]:
    jobs = name_jobs([Entry(source, Path(source).name) for source in sources], output)
    return [job.outputs(1, ".png")[0] for job in jobs]


def test_photos_that_would_share_a_name_are_told_apart_by_more_of_theirs() -> None:
    assert named("photo.jpg", "other.jpg") == ["out/photo_color1.png", "out/other_color1.png"]
    assert named("photo.jpg", "photo.gif") == ["out/photo.jpg_color1.png", "out/photo.gif_color1.png"]
    alike = named("Photo.jpg", "photo.JPG.png", "photo.gif", "PHOTO.JPG.PNG.bmp")
    assert len({path.lower() for path in alike}) == 4
    assert named("a/p.jpg", "b/p.jpg") == ["out/a_p.jpg_color1.png", "out/b_p.jpg_color1.png"]
    assert named("a/p.jpg", "b/p.jpg", output=None) == ["a/p_color1.png", "b/p_color1.png"]
    assert len(set(named("a/x/p.jpg", "b/x/p.jpg", "c/x/p.jpg"))) == 3


def nasty_names(count: int, seed: int) -> list[bytes]:
    """File names of all the bytes there may be, up to the longest."""
    source = random.Random(seed)
    pieces = [b" ", b"\n", b"\t", b"'", b'"', b"\\", b"*", b"?", b"[a]", b"-", b"%s", b"{}", b"$HOME", b"`", b";", b"&"]
    pieces += ["é".encode(), "e\u0301".encode(), "日本".encode(), "🎞".encode(), b"\xff\xfe", b"\xe9", b"\x01", b"\x7f"]
    pieces += [b"a", b"B", b"_color1", b"photo", b".", b"..", b".jpg"]
    names: set[bytes] = set()
    while len(names) < count:
        name = b"".join(source.choices(pieces, k=source.randint(1, 12)))
        if source.random() < 0.1:
            name = name.ljust(300, b"x")
        name = name[:251] + source.choice([b".png", b".PNG", b".jpg", b".bmp"])
        if not name.startswith(b"."):
            names.add(name)
    return sorted(names)


def test_nasty_names_all_give_names_that_can_be_written_and_no_two_the_same(tmp_path: Path) -> None:
    names = nasty_names(500, seed=1)
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    listing = list_photos([str(tmp_path)])
    assert [os.fsencode(entry.place) for entry in listing.entries] == sorted(names, key=lambda name: os.fsdecode(name))
    outputs = [path for job in name_jobs(listing.entries, str(tmp_path / "out")) for path in job.outputs(99, ".jpeg")]
    assert len(set(outputs)) == 500 * 99
    (tmp_path / "out").mkdir()
    for path in outputs[::99]:
        Path(path).touch(exist_ok=False)


def test_shards_are_a_partition_that_new_photos_do_not_disturb() -> None:
    jobs = name_jobs([Entry(f"{index}.jpg", f"{index}.jpg") for index in range(3000)], None)
    shards = [[job for job in jobs if in_shard(job, index, 7)] for index in range(1, 8)]
    assert Counter(job for shard in shards for job in shard) == Counter(jobs)
    assert all(350 < len(shard) < 510 for shard in shards)
    fewer = [job for job in jobs[::2] if in_shard(job, 3, 7)]
    assert set(fewer) <= set(shards[2])


def test_pictures_of_this_tool_are_known_by_provenance_and_manifest_but_never_by_name(scans: Path, colorize) -> None:  # type: ignore[no-untyped-def]
    from tests.conftest import write_gray

    photo = write_gray(scans / "b.jpg", 40, 30)
    write_gray(scans / "b_color7.jpg", 40, 30)
    assert colorize(photo, "-n", 1).exit_code == 0
    assert colorize(photo, "-n", 1, "-o", scans / "out", "--no-provenance").exit_code == 0
    listing = list_photos([str(scans)], recursive=True)
    assert set_own_aside(listing, None) == 2
    assert places(listing) == ["a.PNG", "b.jpg", "b_color7.jpg", "sub/c.tif", "sub/deeper/d.webp"]
    listing = list_photos([str(scans / "out")])
    assert set_own_aside(listing, Manifest(str(scans / "out"))) == 1
