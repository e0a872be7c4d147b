"""Processes beside the model: what they return, what becomes of one that dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from colorize_cli.config import SamplingOptions
from colorize_cli.errors import PhotoError
from colorize_cli.workers import WorkerPool

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed as POSIX kills them")


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(1)
    yield pool
    pool.close()


def die_once(path: str) -> str:
    """Kill this process unless `path` is there, which it makes first."""
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), 9)
    return f"done by {os.getpid()}"


def has_loaded(module: str, *brought: object) -> bool:
    """Whether a module is loaded in this process, now that it was sent `brought`."""
    return module in sys.modules


def test_a_call_is_answered_by_another_process(pool: WorkerPool) -> None:
    assert pool.submit(os.getpid).result() != os.getpid()
    assert pool.submit(sorted, [3, 1, 2], reverse=True).result() == [3, 2, 1]


def test_what_a_call_raises_comes_back(pool: WorkerPool) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pool.submit(os.stat, "/nowhere").result()


def test_a_process_that_dies_is_replaced_and_its_call_tried_once_more(pool: WorkerPool, tmp_path: Path) -> None:
    assert pool.submit(die_once, str(tmp_path / "died")).result().startswith("done by")


def test_a_call_that_kills_two_processes_is_given_up_and_the_next_is_served(pool: WorkerPool) -> None:
    with pytest.raises(PhotoError, match="exit code 3, 2 times"):
        pool.submit(os._exit, 3).result()
    assert pool.submit(len, "abc").result() == 3


def test_what_a_picture_is_written_with_does_not_bring_torch_along(pool: WorkerPool, tiny_model: Path) -> None:
    from colorize_cli.colorizer import Colorizer  # not above: the processes load this file, too

    record = Colorizer.from_pretrained(str(tiny_model)).provenance("photo.jpg", "0" * 64, 1, SamplingOptions())
    assert pool.submit(has_loaded, "colorize_cli.provenance", record).result()
    assert not pool.submit(has_loaded, "torch", record).result()
