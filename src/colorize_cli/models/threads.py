"""One thread for each piece of work, instead of many threads for each small product.

Torch shares every single operation among its threads, which pays for large ones only. Pieces worked on by one thread
each scale better, and their results do not depend on how many threads there are.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_pools: dict[int, ThreadPoolExecutor] = {}  # by number of threads
_starting = threading.Lock()


def spread(work: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> list[Result]:
    """`[work(item) for item in items]`; on a CPU each item on one of as many threads as torch was given."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [work(item) for item in items]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(item: Item) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(item)

    futures = [_pool(threads).submit(run, item) for item in items]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()  # after an error or an interrupt nobody waits for the rest


def one_at_a_time(function: Callable[[Item], None]) -> Callable[[Item], None]:
    """`function`, for several threads: only one of them is in it."""
    lock = threading.Lock()

    def locked(item: Item) -> None:
        with lock:
            function(item)

    return locked


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay, each with one torch thread: to change the number makes torch forget its compiled kernels."""
    with _starting:
        if threads not in _pools:
            _pools[threads] = _start(threads)
        return _pools[threads]


def _start(threads: int) -> ThreadPoolExecutor:
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # which a new thread first sets to the number that was set last, by whomever
        torch.set_num_threads(1)
        with contextlib.suppress(threading.BrokenBarrierError):
            started.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="colorize", initializer=start)
    try:
        for _ in range(threads):
            pool.submit(int)
    except BaseException:
        started.abort()  # else those that wait there would wait for ever
        pool.shutdown(wait=False)
        raise
    started.wait()
    torch.set_num_threads(threads)  # for threads of others
    return pool


def _forget() -> None:
    """Threads do not survive a fork, and a lock that one of them held stays locked."""
    global _starting
    _pools.clear()
    _starting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
