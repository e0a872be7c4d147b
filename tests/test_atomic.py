"""Files are there whole or not at all; what a killed process left is swept, what a living one writes is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from colorize_cli import atomic
from colorize_cli.atomic import replacing, sweep

DYING = """import os, sys; from pathlib import Path; from colorize_cli.atomic import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"""


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"newer")
        raise ZeroDivisionError
    assert path.read_bytes() == b"new"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_killed_process_leaves_nothing_where_files_can_be_nameless(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"old")
    for name in ("picture.png", "other.png"):
        subprocess.run([sys.executable, "-c", DYING, tmp_path / name], check=False)
    left = sorted(item.name for item in tmp_path.iterdir())
    assert left == ["picture.png"] or not hasattr(os, "O_TMPFILE")
    assert (tmp_path / "picture.png").read_bytes() == b"old"


def test_only_what_a_dead_process_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_create_nameless", lambda path: None)
    script = DYING.replace(
        "import os", "from colorize_cli import atomic; atomic._create_nameless = lambda path: None; import os"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "dead.png"], check=False)
    (tmp_path / ".colorize-notes.txt").write_text("of another kind")
    assert len(list(tmp_path.iterdir())) == 2
    with replacing(tmp_path / "living.png") as file:
        file.write(b"whole")
        sweep(tmp_path, (".png",))
    assert sorted(item.name for item in tmp_path.iterdir()) == [".colorize-notes.txt", "living.png"]
    sweep(tmp_path / "missing", (".png",))


def test_a_file_about_to_take_anothers_place_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    original = os.replace

    def swept_first(*names: object, **folders: object) -> None:
        sweep(tmp_path, (".png",))
        original(*names, **folders)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "replace", swept_first)
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
