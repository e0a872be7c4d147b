"""Many photos: nothing lost, whatever happens midway; the same bytes however the work is divided."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from colorize_cli import Colorizer, batch, local_engine, steps, storage
from colorize_cli.batch import Destination, Drawn
from colorize_cli.errors import ModelError
from colorize_cli.local_engine import uncollected
from colorize_cli.naming import Job
from colorize_cli.planning import Todo
from colorize_cli.provenance import Provenance
from tests.conftest import write_gray

SCRIPT = Path(sys.executable).with_name("colorize")
PATIENCE = 300  # seconds: no test takes nearly as long, but the machine may have much else to do
SIGNALS = pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX sends them")


# One thread draws one photo at a time, on every machine: what is in flight does not depend on its cores.
ONE = ("-n", 1, "--threads", 1)
GOOD, BAD = 6, 2  # photos of the tree


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    """The console script, running in a process group of its own, of which nothing is left afterwards."""

    def hear_interrupts() -> None:  # a shell's background job starts deaf to them
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [str(word) for word in (SCRIPT, *words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and errors."""
    _, errors = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors
    return process.returncode, errors


def await_that(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


@contextmanager
def once(condition: Callable[[], object], act: Callable[[], object]) -> Iterator[None]:
    """Beside the body, `act` as soon as `condition` is true."""

    def wait_and_act() -> None:
        await_that(condition)
        act()

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(wait_and_act)
        yield
        acting.result()


def pictures(folder: Path) -> dict[str, bytes]:
    """All files below `folder` but the manifest: those that are half written too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.jsonl"
    }


def lines(folder: Path) -> list[dict[str, object]]:
    path = folder / "manifest.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def written(folder: Path) -> int:
    """How many photos are in the manifest with pictures."""
    return sum(line["status"] == "written" for line in lines(folder))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in a tree of folders, some bad ones among them; do not write into it."""
    root = tmp_path_factory.mktemp("tree")
    for index in range(GOOD):
        suffix = (".jpg", ".png", ".tif")[index % 3]
        write_gray(root / f"box{index % 2}" / f"photo {index}{suffix}", 50 + 3 * index, 80 - 2 * index, index)
    for index in range(BAD):
        (root / f"box{index}" / "bad.jpg").write_bytes(b"no photo" * 99)
    return root


@pytest.fixture(scope="module")
def undisturbed(tree: Path, colorize, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one run that nothing disturbs makes of the tree."""
    out = tmp_path_factory.mktemp("undisturbed")
    result = colorize("-r", tree, "-o", out, *ONE)
    assert (result.exit_code, result.stderr.count("error: ")) == (1, BAD)
    made = pictures(out)
    assert len(made) == GOOD
    return made


def check_whole(out: Path, undisturbed: dict[str, bytes]) -> None:
    """Every good photo coloured, to the same bytes; every bad one recorded with its reason; no file left over."""
    assert pictures(out) == undisturbed
    last = {str(line["name"]): line for line in lines(out)}
    assert sum(line["status"] == "written" for line in last.values()) == GOOD
    bad = [line for line in last.values() if line["status"] == "failed"]
    assert len(bad) == BAD
    assert all("not a photo" in str(line["error"]) for line in bad)


@SIGNALS
def test_a_run_killed_at_random_moments_and_started_again_loses_nothing(
    colorize, tree: Path, undisturbed: dict[str, bytes], tiny_model: Path, tmp_path: Path
) -> None:
    moments = random.Random(7)
    words = ("-r", tree, "-o", tmp_path, *ONE)
    for pictures_before in (1, 3):
        with started(*words, "--model", tiny_model) as process:
            await_that(lambda: len(pictures(tmp_path)) > pictures_before)  # noqa: B023
            time.sleep(moments.uniform(0, 0.2))
            os.killpg(process.pid, signal.SIGKILL)
    result = colorize(*words)
    assert (result.exit_code, result.stderr.count("not a photo")) == (1, BAD)
    check_whole(tmp_path, undisturbed)
    assert written(tmp_path) == GOOD  # nothing that had its line was done again


def test_shards_side_by_side_make_what_one_run_makes(
    colorize, tree: Path, undisturbed: dict[str, bytes], tiny_model: Path, tmp_path: Path
) -> None:
    words = ("-r", tree, "-o", tmp_path, *ONE, "--shard")
    with started(*words, "1/3", "--model", tiny_model) as first:
        await_that(lambda: pictures(tmp_path))  # its journal
        codes = {colorize(*words, f"{shard}/3").exit_code for shard in (2, 3)}
        assert codes | {finish(first)[0]} <= {0, 1}
    check_whole(tmp_path, undisturbed)
    assert len(lines(tmp_path)) == GOOD + BAD


def test_single_photos_are_what_the_batch_makes(
    colorize, tree: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    assert colorize(tree / "box0" / "photo 4.png", "-o", tmp_path, "-n", 2, "--threads", 1).exit_code == 0
    assert pictures(tmp_path)["photo 4_color1.png"] == undisturbed["box0/photo 4_color1.png"]


@SIGNALS
def test_an_interrupt_finishes_what_is_in_flight_and_says_how_to_go_on(
    colorize, tree: Path, undisturbed: dict[str, bytes], tiny_model: Path, tmp_path: Path
) -> None:
    words = ("-r", tree, "-o", tmp_path, *ONE)
    with started(*words, "--model", tiny_model) as process:
        await_that(lambda: written(tmp_path))
        process.send_signal(signal.SIGINT)
        code, errors = finish(process)
    assert code == 130
    assert "the same command goes on" in errors
    made = pictures(tmp_path)
    assert 0 < len(made) < GOOD
    assert written(tmp_path) == len(made)
    assert made.items() <= undisturbed.items()
    assert colorize(*words).exit_code == 1
    check_whole(tmp_path, undisturbed)
    assert len(lines(tmp_path)) == GOOD + BAD


@SIGNALS
def test_a_second_interrupt_stops_at_once_and_leaves_no_half_file(tmp_path: Path, tiny_model: Path) -> None:
    photo = write_gray(tmp_path / "photo.png", 80, 80)
    out = tmp_path / "out"
    with started(photo, "-n", 4000, "-o", out, "--model", tiny_model) as process:
        await_that(lambda: pictures(out) if out.exists() else None)  # its journal
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "once more stops at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        code, _ = finish(process)
    assert code == 130
    assert pictures(out) == {}


def workers(drawing: bool) -> list[int]:
    """The processes that work beside this one, on Linux: copies of it that draw, or those that look and finish."""
    children = [int(child) for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()]
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    own = Path("/proc/self/cmdline").read_bytes()
    return [pid for pid, command in commands.items() if (command == own if drawing else b"spawn_main" in command)]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
@pytest.mark.parametrize("drawing", [False, True])
def test_a_worker_that_is_killed_is_replaced_and_its_photo_done(
    colorize, tree: Path, undisturbed: dict[str, bytes], tmp_path: Path, drawing: bool
) -> None:
    killed: list[int] = []

    def kill() -> None:
        for pid in workers(drawing):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with once(lambda: written(tmp_path), kill):
        assert colorize("-r", tree, "-o", tmp_path, *ONE).exit_code == 1
    assert killed
    check_whole(tmp_path, undisturbed)


def test_only_what_has_other_options_is_done_again(
    colorize, tree: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    words = ("-r", tree / "box0", "-o", tmp_path, *ONE)
    photos = GOOD // 2
    colorize(*words, "--seed", 5)
    first = pictures(tmp_path)
    assert colorize(*words, "--seed", 5).exit_code == 1  # the bad one is still bad
    assert len(lines(tmp_path)) == photos + 1
    assert pictures(tmp_path) == first
    assert f"{photos} photos were coloured with other options" in colorize(*words).stderr
    assert len(lines(tmp_path)) == 2 * photos + 1
    assert {f"box0/{name}": content for name, content in pictures(tmp_path).items()}.items() <= undisturbed.items()
    assert not first.items() & pictures(tmp_path).items()


def test_more_samples_leave_the_first_ones_as_they_are(colorize, tmp_path: Path) -> None:
    photo = write_gray(tmp_path / "photo.png", 40, 30)
    words = (photo, "-o", tmp_path / "out", "-n")
    colorize(*words, 1)
    before = (tmp_path / "out" / "photo_color1.png").stat().st_mtime_ns
    assert colorize(*words, 2).exit_code == 0
    assert sorted(pictures(tmp_path / "out")) == ["photo_color1.png", "photo_color2.png"]
    assert (tmp_path / "out" / "photo_color1.png").stat().st_mtime_ns == before


def test_a_failed_photo_is_tried_again_when_asked_or_mended(colorize, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"half a photo")
    words = (photo, "-o", tmp_path / "out", "-n", 1)
    for flags, count in (((), 1), ((), 1), (("--retry-failed",), 2)):
        result = colorize(*words, *flags)
        assert (result.exit_code, len(lines(tmp_path / "out"))) == (1, count)
        assert "not a photo" in result.stderr
    write_gray(photo, 40, 30)
    assert colorize(*words).exit_code == 0
    assert [line["status"] for line in lines(tmp_path / "out")] == ["failed", "failed", "written"]


def test_a_photo_whose_file_changed_is_coloured_again(colorize, tmp_path: Path) -> None:
    photo = write_gray(tmp_path / "photo.png", 40, 30)
    words = (photo, "-o", tmp_path / "out", "-n", 1)
    colorize(*words)
    write_gray(photo, 60, 50)
    assert colorize(*words).exit_code == 0
    with Image.open(tmp_path / "out" / "photo_color1.png") as image:
        assert image.size == (60, 50)


def test_a_photo_of_another_time_but_the_same_bytes_is_done(colorize, tmp_path: Path) -> None:
    photo = write_gray(tmp_path / "photo.png", 40, 30)
    words = (photo, "-o", tmp_path / "out", "-n", 1)
    colorize(*words)
    os.utime(photo, (0, 0))
    result = colorize(*words)
    assert (result.exit_code, len(lines(tmp_path / "out"))) == (0, 1)


def test_a_foreign_file_of_a_pictures_name_is_never_written_over(colorize, tmp_path: Path) -> None:
    photo = write_gray(tmp_path / "photo.png", 40, 30)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo_color1.png").write_bytes(b"mine")
    for seed in (0, 1):
        assert colorize(photo, "-o", tmp_path / "out", "-n", 1, "--seed", seed).exit_code == 0
        assert pictures(tmp_path / "out") == {"photo_color1.png": b"mine"}


def test_an_output_folder_that_goes_away_stops_the_run(colorize, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with once(lambda: lines(out), lambda: out.rename(tmp_path / "elsewhere")):
        result = colorize("-r", tree, "-o", out, *ONE)
    assert result.exit_code == 1
    assert "gone" in result.stderr or "cannot be written" in result.stderr
    assert "start the same command again" in result.stderr
    assert not out.exists()


def test_a_photo_that_goes_away_midway_is_reported_and_the_rest_done(colorize, tmp_path: Path) -> None:
    photos = [write_gray(tmp_path / "in" / f"{index}.png", 30, 30, index) for index in range(9)]
    out = tmp_path / "out"
    with once(lambda: lines(out), photos[-1].unlink):
        result = colorize(tmp_path / "in", "-o", out, *ONE)
    assert result.exit_code == 1
    assert "8.png: no such file" in result.stderr
    assert sorted(pictures(out)) == [f"{index}_color1.png" for index in range(8)]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("no such kernel"), "not foreseen: RuntimeError: no such kernel; please report it with the photo"),
        (
            RuntimeError("can't start new thread"),
            "too little memory, or too few threads allowed (can't start new thread); end other programs, raise the"
            " limit or ask for fewer --threads",
        ),
    ],
)
def test_a_photo_over_which_the_model_fails_is_reported_and_the_rest_done(
    colorize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    for index in range(3):
        write_gray(tmp_path / "in" / f"{index}.png", 30, 30, index)
    draw = local_engine.draw

    def fails_over_one(colorizer: Colorizer, group: Sequence[tuple[Todo, steps.Look]], *rest: object) -> list[Drawn]:
        if group[0][0].job.name == "1":
            raise error
        return draw(colorizer, group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(local_engine, "draw", fails_over_one)
    result = colorize(tmp_path / "in", "-o", tmp_path / "out", *ONE)
    assert (result.exit_code, result.exception) == (1, None)
    assert f"1.png: {told}" in result.stderr
    (failed,) = (line for line in lines(tmp_path / "out") if line["status"] == "failed")
    assert failed["final"] is False
    assert sorted(pictures(tmp_path / "out")) == ["0_color1.png", "2_color1.png"]


def test_photos_over_which_the_model_fails_together_are_drawn_alone(
    colorize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        write_gray(tmp_path / "in" / f"{index}.png", 30, 30, index)
    draw, lanes = local_engine.draw, local_engine.Lanes.__init__

    def together(self: local_engine.Lanes, *arguments: object) -> None:
        lanes(self, *arguments)  # type: ignore[arg-type]
        self.photos = 3

    def fails_over_one(colorizer: Colorizer, group: Sequence[tuple[Todo, steps.Look]], *rest: object) -> list[Drawn]:
        if "1" in {todo.job.name for todo, _ in group}:
            raise MemoryError
        return draw(colorizer, group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(local_engine, "draw", fails_over_one)
    monkeypatch.setattr(local_engine.Lanes, "__init__", together)
    assert colorize(tmp_path / "in", "-o", tmp_path / "out", *ONE).exit_code == 1
    assert sorted(pictures(tmp_path / "out")) == ["0_color1.png", "2_color1.png"]
    assert [line["final"] for line in lines(tmp_path / "out") if line["status"] == "failed"] == [False]


def test_a_shard_that_no_photo_falls_to_says_so(colorize, gray_photo: Path, tmp_path: Path) -> None:
    words = (gray_photo, "-o", tmp_path / "out", "--dry-run", "--shard")
    said = [colorize(*words, f"{shard}/2") for shard in (1, 2)]
    assert [result.exit_code for result in said] == [0, 0]
    assert sum("no photo of 1 falls to this shard" in result.stderr for result in said) == 1


def test_a_photo_that_another_run_finished_meanwhile_is_there_and_no_failure(tmp_path: Path) -> None:
    photo = write_gray(tmp_path / "photo.png", 30, 30)
    drawn_by_another = write_gray(tmp_path / "photo_color1.png", 30, 30)
    todo = Todo(Job(str(photo), str(tmp_path), "photo", "photo.png"))
    look = steps.look(str(photo), steps.Shaping())
    record = Provenance("0", "tiny", "", 1, {}, {}, "cpu", 1, "2", "photo", "")
    drawn = Drawn(todo, look, [steps.Picture(str(drawn_by_another), [], record)], [1.0], 0.1)
    outcome = batch.finish(drawn, Destination(None), steps.Shaping(), storage.finish)
    assert (outcome.status, outcome.skipped) == ("skipped", "exists")


def test_python_collects_garbage_again_once_the_model_is_loaded_or_cannot_be() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModelError), uncollected():
        raise ModelError("none")
    assert gc.isenabled()
