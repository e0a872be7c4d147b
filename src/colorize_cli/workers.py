"""Processes that work beside the model, may die and are replaced.

Each is served by a thread of its own over a pipe of its own. The standard library's and other pools share a queue
and its lock between their processes: one that is killed at the wrong moment stops them all.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from colorize_cli.errors import PhotoError

P = ParamSpec("P")
R = TypeVar("R")

ATTEMPTS = 2  # to have a call answered before it is taken for what kills the processes


def default_workers() -> int:
    """As many as processors that this process may use, eight at most: the model is what takes the time."""
    if sys.platform == "linux":
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


class WorkerPool:
    """Calls functions in other processes; a process that dies over a call is replaced and the call tried again."""

    def __init__(self, count: int, *, apart: bool = True) -> None:
        """With `count` processes; or, not `apart`, with as many threads of this one, which nothing replaces."""
        self.count, self.apart = count, apart
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="colorize")
        self._own = threading.local()  # each thread's process
        self._processes: set[_Process] = set()
        self._closed = False

    def warm_up(self) -> None:
        """Start all processes now."""
        if not self.apart:
            return
        start = threading.Barrier(self.count)
        for _ in range(self.count):
            self._threads.submit(lambda: (start.wait(), self._process()))

    def submit(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> Future[R]:
        """Have `function` of this package called in a process; the future raises `PhotoError` where that kills two."""
        return self._threads.submit(lambda: self.call(function, *arguments, **named))

    def run(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> Future[R]:
        """Have `function` called in a thread of this process, which may use `call`."""
        return self._threads.submit(function, *arguments, **named)

    def call(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """The same, waiting, from a thread of this pool."""
        if not self.apart:
            return function(*arguments, **named)
        code: int | None = None
        for _ in range(ATTEMPTS):
            process = self._process()
            try:
                done, answer = process.call(function, arguments, named)
            except (EOFError, OSError):
                code = process.end()
                self._processes.discard(process)
                self._own.process = None
                continue
            if done:
                result: R = answer
                return result
            raise answer
        raise PhotoError(f"{_death(code)}, {ATTEMPTS} times over this photo; it may need more memory than there is")

    def _process(self) -> _Process:
        process: _Process | None = getattr(self._own, "process", None)
        if process is None:
            if self._closed:
                raise PhotoError("interrupted")
            process = self._own.process = _Process()
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


class _Process:
    """One process, and this end of the pipe to it."""

    def __init__(self) -> None:
        # Spawned, not forked: torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # else the end of the process would not end the pipe

    def call(self, *request: Any) -> tuple[bool, Any]:
        """Whether the function returned, and what it returned or raised. Raises EOFError or OSError if it died."""
        self._pipe.send(request)
        answer: tuple[bool, Any] = self._pipe.recv()
        return answer

    def terminate(self) -> None:
        """Let it clean up, but no more."""
        self._process.terminate()

    def end(self) -> int | None:
        """Close the pipe, on which the process ends if it has not; returns its exit code."""
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return self._process.exitcode


def _serve(pipe: Connection) -> None:
    """The other end: answer calls until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first process decides
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that `finally` is heeded
    with contextlib.suppress(EOFError, OSError):  # the first process is gone
        while True:
            function, arguments, named = pipe.recv()
            try:
                answer = (True, function(*arguments, **named))
            except Exception as error:
                answer = (False, error)
            pipe.send(answer)


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the process at work ended with exit code {code}"
    return f"the process at work was killed by {signal.Signals(-code).name}"
