"""Work shared out among copies of this process.

Python runs one thread of a process at a time. In drawing, which is thousands of short operations of torch, threads
wait for each other between any two of them; processes do not. A copy (`fork`) has the loaded model at once and for no
memory. It works on the CPU with one thread of torch, as the copies that torch's `DataLoader` makes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from colorize_cli.models.threads import spread
from colorize_cli.workers import ProcessDied, Report, WorkerProcess

Share = TypeVar("Share")
Result = TypeVar("Result")


def alone(work: Callable[..., Any]) -> Callable[..., Any]:
    """`work` for a copy of this process: with one thread of torch, for the others were not copied."""

    def with_one_thread(*arguments: Any) -> Any:
        torch.set_num_threads(1)
        return work(*arguments)

    return with_one_thread


def share_out(work: Callable[[Report, Share], Result], shares: Sequence[Share], report: Report) -> list[Result]:
    """`[work(report, share) for share in shares]`: the first in this process, each other one in a copy of it.

    `work` is run by one thread of torch everywhere. A share whose process dies over it, or for which there can be none,
    is worked on here after all.
    `report` is called by several threads at once.
    """
    first, *others = shares
    processes: list[WorkerProcess] = []
    threads = ThreadPoolExecutor(max(1, len(others)), thread_name_prefix="colorize")

    def here(share: Share) -> Result:
        (result,) = spread(lambda share: work(report, share), [share], torch.device("cpu"))
        return result

    try:
        with contextlib.suppress(OSError):  # no more processes, or no memory for them
            for _ in others:
                processes.append(WorkerProcess(alone(work)))
        answers = [
            threads.submit(process.ask, report, share)
            for process, share in zip(processes, others[: len(processes)], strict=True)
        ]
        results = [here(first)]
        for share, answer in itertools.zip_longest(others, answers):
            try:
                results.append(answer.result() if answer is not None else here(share))
            except ProcessDied:
                results.append(here(share))
        return results
    finally:
        for process in processes:
            process.terminate()
        threads.shutdown(cancel_futures=True)
        for process in processes:
            process.end()
