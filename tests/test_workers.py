"""Processes beside the model: what they return, what becomes of one that dies."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from colorize_cli import workers
from colorize_cli.batch import failure
from colorize_cli.config import SamplingOptions
from colorize_cli.errors import PassingError, PhotoError
from colorize_cli.workers import WorkerPool, WorkerProcess
from tests.thread_limit import allow_threads

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


def test_what_an_end_at_once_keeps_from_being_done_is_not_given_up() -> None:
    pool = WorkerPool(1)
    pool.close(at_once=True)
    with pytest.raises(PassingError, match="interrupted") as stopped:
        pool.call(os.getpid)
    assert not failure("photo.png", stopped.value).final


def test_a_process_is_not_interrupted_while_it_starts() -> None:
    process = WorkerProcess()
    try:
        assert process._process.pid is not None
        os.kill(process._process.pid, signal.SIGINT)  # it is still importing
        assert process.call(os.getpid) == process._process.pid
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        process.end()


def test_what_a_picture_is_written_with_does_not_bring_torch_along(pool: WorkerPool, tiny_model: Path) -> None:
    from colorize_cli.colorizer import Colorizer  # not above: the processes load this file, too

    record = Colorizer.from_pretrained(str(tiny_model)).provenance("photo.jpg", "0" * 64, 1, SamplingOptions())
    assert pool.submit(has_loaded, "colorize_cli.provenance", record).result()
    assert not pool.submit(has_loaded, "torch", record).result()


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made where they are safe")
def test_a_copy_of_this_process_answers_with_what_it_inherited_and_reports_meanwhile() -> None:
    inherited, reports = object(), []

    def answer(report: Callable[[object], None], number: int) -> tuple[int, int, bool]:
        for step in range(3):
            report((number, step))
        if number == 2:
            raise ValueError("not two")
        if number == 3:
            os._exit(4)
        return os.getpid(), number, id(inherited) == address

    address = id(inherited)
    pool = WorkerPool(1, answer=answer)
    try:
        pid, number, same = pool.run(pool.ask, reports.append, 1).result()
        assert (number, same, reports) == (1, True, [(1, 0), (1, 1), (1, 2)])
        assert pid != os.getpid()
        with pytest.raises(ValueError, match="not two"):
            pool.run(pool.ask, reports.append, 2).result()
        assert pool.run(pool.ask, reports.append, 1).result()[0] == pid
        with pytest.raises(PhotoError, match="exit code 4, 2 times"):
            pool.run(pool.ask, reports.append, 3).result()
        assert pool.run(pool.ask, reports.append, 1).result()[0] != pid
    finally:
        pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made where they are safe")
def test_an_answer_that_nobody_waited_for_does_not_pass_for_the_next() -> None:
    def answer(report: Callable[[object], None], number: int) -> int:
        report(number)
        return number

    def fails(value: object) -> None:
        raise ValueError(f"the bar broke at {value}")

    pool = WorkerPool(1, answer=answer)
    try:
        with pytest.raises(ValueError, match="the bar broke at 1"):
            pool.run(pool.ask, fails, 1).result()
        assert pool.run(pool.ask, print, 2).result() == 2
    finally:
        pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made where they are safe")
def test_an_answer_that_cannot_be_sent_is_told_as_an_error() -> None:
    pool = WorkerPool(1, answer=lambda report: lambda: None)
    try:
        with pytest.raises(RuntimeError, match="pickle"):
            pool.run(pool.ask, print).result()
    finally:
        pool.close()


def test_too_few_threads_to_warm_up_are_an_error_and_no_wait_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = WorkerPool(3)
    allow_threads(monkeypatch, 2)
    with pytest.raises(RuntimeError, match="start new thread"):
        pool.warm_up()
    pool.close(at_once=True)


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made where they are safe")
def test_a_copy_keeps_no_pipe_open_and_no_lock(tmp_path: Path) -> None:
    import fcntl

    first = WorkerPool(1)
    assert first.submit(len, "abc").result() == 3
    with (tmp_path / "file").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = WorkerPool(1, answer=lambda report: None)
        second.run(second.ask, print).result()
    with (tmp_path / "file").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (process,) = first._processes
    first.close()
    assert process._process.exitcode == 0  # not killed: the end of its pipe reached it
    second.close()


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made where they are safe")
def test_a_copy_is_renewed_after_some_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RENEWED_AFTER", 2)
    pool = WorkerPool(1, answer=lambda report: os.getpid())
    try:
        pids = [pool.run(pool.ask, print).result() for _ in range(5)]
    finally:
        pool.close()
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
