"""The same work on Ray: the same bytes, whatever the number of workers and whatever becomes of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.conftest import write_gray
from tests.test_batch import lines, pictures


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, for all tests of this file: starting it takes a while."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """Photos in a small tree, with a bad one among them."""
    for index in range(9):
        write_gray(tmp_path / "box" / f"{index % 2}" / f"p{index}.png", 40 + index, 50, index)
    (tmp_path / "box" / "bad.png").write_bytes(b"no photo" * 9)
    return tmp_path / "box"


def actors() -> list[int]:
    """The processes in which models are at work."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"Painter" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
@pytest.mark.usefixtures("cluster")
def test_one_worker_or_two_with_one_killed_make_what_this_process_makes(colorize, box: Path, tmp_path: Path) -> None:
    words = ("-r", box, "-n", 1, "--threads", 1)
    assert colorize(*words, "-o", tmp_path / "local").exit_code == 1
    expected = pictures(tmp_path / "local")
    assert len(expected) == 9

    killed: list[int] = []

    def kill_one() -> None:
        for _ in range(600):
            if actors():
                time.sleep(1)  # to load the model, or draw
                killed.append(actors()[0])
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one)
    killer.start()
    result = colorize(*words, "-o", tmp_path / "two", "--engine", "ray", "--workers", 2)
    killer.join()
    assert result.exception is None
    assert killed
    assert (result.exit_code, result.stderr.count("error: ")) == (1, 1)
    assert "not a photo" in result.stderr
    assert pictures(tmp_path / "two") == expected

    assert colorize(*words, "-o", tmp_path / "one", "--engine", "ray", "--workers", 1).exit_code == 1
    assert pictures(tmp_path / "one") == expected
    fields = ("name", "status", "sha256", "outputs", "size", "options", "bits_per_pixel", "model_sha256", "threads")
    tables = [
        sorted(str([line[field] for field in fields]) for line in lines(tmp_path / name)) for name in ("local", "one")
    ]
    assert tables[0] == tables[1]

    # Either goes on where the other stopped.
    assert colorize(*words, "-o", tmp_path / "one").exit_code == 1
    assert len(lines(tmp_path / "one")) == 10


@pytest.mark.usefixtures("cluster")
def test_urls_are_read_and_written(colorize, box: Path, tmp_path: Path) -> None:
    words = ("-r", f"file://{box}", "-n", 1, "-o", f"file://{tmp_path}/out", "--engine", "ray", "--workers", 1)
    result = colorize(*words)
    assert (result.exit_code, result.stderr.count("error: "), result.exception) == (1, 1, None)
    assert f"file://{box}/bad.png: not a photo" in result.stderr
    assert sorted(pictures(tmp_path / "out")) == sorted(f"{i % 2}/p{i}_color1.png" for i in range(9))
    assert len(lines(tmp_path / "out")) == 10
    assert colorize(*words).exit_code == 1  # the bad one is still bad, and nothing is done again
    assert len(lines(tmp_path / "out")) == 10


def test_ray_needs_an_output_folder(colorize, box: Path) -> None:
    result = colorize(box, "--engine", "ray")
    assert result.exit_code == 2
    assert "--output" in result.exception.format_message()
