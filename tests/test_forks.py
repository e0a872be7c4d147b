"""Work shared out among copies of this process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import pytest
import torch

from colorize_cli.forks import share_out

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="copies are made where they are safe")
Report = Callable[[int], None]


def test_the_first_share_is_worked_on_here_and_every_other_one_in_a_process_of_its_own() -> None:
    lock, reported = threading.Lock(), []

    def work(report: Report, share: list[int]) -> tuple[int, int, list[int]]:
        for number in share:
            report(number)
        return os.getpid(), torch.get_num_threads(), [number**2 for number in share]

    def note(number: int) -> None:
        with lock:
            reported.append(number)

    results = share_out(work, [[1, 2], [3], [4, 5]], note)
    assert [squares for _, _, squares in results] == [[1, 4], [9], [16, 25]]
    assert {threads for _, threads, _ in results} == {1}
    assert results[0][0] == os.getpid()
    assert len({pid for pid, _, _ in results}) == 3
    assert sorted(reported) == [1, 2, 3, 4, 5]


def test_a_share_whose_process_dies_is_worked_on_here() -> None:
    here = os.getpid()

    def work(report: Report, share: int) -> int:
        if os.getpid() != here:
            os._exit(1)
        return share

    assert share_out(work, [1, 2], print) == [1, 2]


def test_shares_that_no_process_can_be_had_for_are_worked_on_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(answer: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("colorize_cli.forks.WorkerProcess", no_process)
    assert share_out(lambda report, share: (os.getpid(), share), [1, 2, 3], print) == [
        (os.getpid(), 1),
        (os.getpid(), 2),
        (os.getpid(), 3),
    ]


def test_what_a_share_raises_comes_back_wherever_it_was_worked_on() -> None:
    def work(report: Report, share: int) -> int:
        if share == bad:
            raise ValueError(f"share {share}")
        return share

    for bad in (1, 2):
        with pytest.raises(ValueError, match=f"share {bad}"):
            share_out(work, [1, 2], print)


def test_an_interrupt_here_does_not_wait_for_the_others() -> None:
    def work(report: Report, share: int) -> None:
        if share == 1:
            raise KeyboardInterrupt
        threading.Event().wait(60)

    with pytest.raises(KeyboardInterrupt):
        share_out(work, [1, 2], print)
