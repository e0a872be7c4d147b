"""Processes that work beside this one, may die and are replaced.

Each is served over a pipe of its own. The standard library's and other pools share a queue and its lock between their
processes: one that is killed at the wrong moment stops them all.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from colorize_cli.errors import PassingError, PhotoError

P = ParamSpec("P")
R = TypeVar("R")
Report = Callable[[Any], None]

OPEN_FILES = Path("/proc/self/fd")
ATTEMPTS = 2  # to have a call answered before it is taken for what kills the processes
RENEWED_AFTER = 100  # calls


def default_workers() -> int:
    """As many as processors that this process may use, eight at most: the model is what takes the time."""
    if sys.platform == "linux":
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


def can_fork() -> bool:
    """Whether this process can be copied: on Linux, as torch's `DataLoader` does; elsewhere libraries forbid it."""
    return sys.platform == "linux" and OPEN_FILES.is_dir() and not multiprocessing.current_process().daemon


class WorkerPool:
    """Calls functions in other processes; a process that dies over a call is replaced and the call tried again.

    Copies of this process are renewed now and then: what their memory gains in gaps goes with them.
    """

    def __init__(self, count: int, *, apart: bool = True, answer: Callable[..., Any] | None = None) -> None:
        """With `count` processes; or, not `apart`, with as many threads of this one, which nothing replaces.

        `answer` is what `ask` calls, in copies of this process.
        """
        self.count, self.apart, self.answer = count, apart, answer
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="colorize")
        self._own = threading.local()  # each thread's process
        self._processes: set[WorkerProcess] = set()
        self._closed = False

    def warm_up(self) -> None:
        """Start all processes now."""
        if not self.apart:
            return
        start = threading.Barrier(self.count)
        try:
            for _ in range(self.count):
                self._threads.submit(lambda: (start.wait(), self._process()))
        except BaseException:
            start.abort()  # else those that wait there would wait for ever
            raise

    def submit(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> Future[R]:
        """Have `function` of this package called in a process; the future raises `PhotoError` where that kills two."""
        return self._threads.submit(lambda: self.call(function, *arguments, **named))

    def run(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> Future[R]:
        """Have `function` called in a thread of this process, which may use `call` and `ask`."""
        return self._threads.submit(function, *arguments, **named)

    def call(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """The same as `submit`, waiting, from a thread of this pool."""
        if not self.apart:
            return function(*arguments, **named)
        result: R = self._attempt(lambda process: process.call(function, *arguments, **named))
        return result

    def ask(self, report: Report, *arguments: Any) -> Any:
        """What `answer(report, *arguments)` returns in a copy of this process, from a thread of this pool."""
        return self._attempt(lambda process: process.ask(report, *arguments))

    def _attempt(self, work: Callable[[WorkerProcess], R]) -> R:
        code: int | None = None
        for _ in range(ATTEMPTS):
            process = self._process()
            try:
                result = work(process)
            except ProcessDied:
                code = self._end(process)
            else:
                process.calls += 1
                if self.answer is not None and process.calls >= RENEWED_AFTER:
                    self._end(process)
                return result
        raise PhotoError(f"{_death(code)}, {ATTEMPTS} times over this photo; it may need more memory than there is")

    def _end(self, process: WorkerProcess) -> int | None:
        """End this thread's process, for which there will be another; returns its exit code."""
        self._processes.discard(process)
        self._own.process = None
        return process.end()

    def _process(self) -> WorkerProcess:
        process: WorkerProcess | None = getattr(self._own, "process", None)
        if process is None:
            if self._closed:
                raise PassingError("interrupted")
            try:
                process = self._own.process = WorkerProcess(self.answer)
            except OSError as error:
                raise PassingError(f"no process can be started to work on it ({error.strerror})") from error
            self._processes.add(process)
        return process

    def close(self, *, at_once: bool = False) -> None:
        """End the processes: when they have done what they were given, or at once."""
        self._closed = True
        if at_once:
            for process in list(self._processes):
                process.terminate()
        self._threads.shutdown(cancel_futures=True)
        for process in list(self._processes):
            process.end()
        self._processes.clear()


class ProcessDied(Exception):
    """A process ended before it had answered."""


class WorkerProcess:
    """One process, and this end of the pipe to it.

    It is a new one, which calls what it is told to by name; or, with an `answer`, a copy of this one as it is now,
    which calls that. A copy must not be taken while another thread works with torch.
    """

    def __init__(self, answer: Callable[..., Any] | None = None) -> None:
        context = multiprocessing.get_context("spawn" if answer is None else "fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, answer), daemon=True)  # type: ignore[attr-defined]
        self._copied = answer is not None
        self.calls = 0  # that it answered
        if not self._copied:
            resource_tracker.ensure_running()  # else starting it, with the first process, would lift the mask
        with _deaf_to_interrupts():
            self._process.start()
        theirs.close()  # else the end of the process would not end the pipe

    def call(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """What `function` returns or raises there; `ProcessDied` if it does neither."""
        result: R = self._exchange((function, arguments, named), None)
        return result

    def ask(self, report: Report, *arguments: Any) -> Any:
        """What `answer(report, *arguments)` returns or raises there; what it reports is reported here meanwhile.

        Where `report` raises, the process is of no more use: its answer would pass for that of the next call.
        """
        return self._exchange((None, arguments, {}), report)

    def _exchange(self, request: tuple[Any, ...], report: Report | None) -> Any:
        try:
            self._pipe.send(request)
        except OSError as error:
            raise ProcessDied from error
        while True:
            try:
                kind, value = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise ProcessDied from error
            if kind == "result":
                return value
            if kind == "error":
                raise value
            assert report is not None
            try:
                report(value)
            except BaseException:
                self._pipe.close()
                raise

    def terminate(self) -> None:
        """Let it clean up, but no more; a copy has nothing to clean up."""
        if self._copied:
            self._process.kill()
        else:
            self._process.terminate()

    def end(self) -> int | None:
        """Close the pipe, on which the process ends if it has not; returns its exit code."""
        self._pipe.close()
        self._process.join(timeout=0 if self._copied else 5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code: int | None = self._process.exitcode
        return code


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that this thread starts are not interrupted before they can ignore it themselves."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, answer: Callable[..., Any] | None) -> None:
    """The other end: answer calls until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first process decides
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that `finally` is heeded
    if answer is not None:
        # Of what a copy has open, its pipe is its own; others wait for the end of theirs, or hold locks.
        for number in [int(path.name) for path in OPEN_FILES.iterdir()]:
            if number > 2 and number != pipe.fileno():
                with contextlib.suppress(OSError):  # the list was itself one of them
                    os.close(number)

    def report(value: Any) -> None:
        pipe.send(("report", value))

    with contextlib.suppress(EOFError, OSError):  # the first process is gone
        while True:
            function, arguments, named = pipe.recv()
            try:
                if function is not None:
                    message = ("result", function(*arguments, **named))
                else:
                    assert answer is not None
                    message = ("result", answer(report, *arguments))
            except Exception as error:
                message = ("error", error)
            try:
                pipe.send(message)
            except OSError:
                raise
            except Exception as error:  # it cannot be sent
                pipe.send(("error", RuntimeError(f"{type(error).__name__}: {error}, of {message[1]!r}")))


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the process at work ended with exit code {code}"
    return f"the process at work was killed by {signal.Signals(-code).name}"
