"""A system that allows few threads."""

from __future__ import annotations

import threading

import pytest


def allow_threads(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let no more than `count` threads be started from now on."""
    start, left = threading.Thread.start, iter(range(count))

    def start_or_fail(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
