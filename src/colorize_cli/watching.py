"""Photos that arrive in folders: each once, and not before it is completely written."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from colorize_cli.listing import Entry

SETTLE_SECONDS = 1.0  # without a change, before a file is taken for whole
TICK_MILLISECONDS = 250

State = tuple[int, int]  # bytes, time of the last change in nanoseconds


class Arrivals:
    """What is new in some folders, again and again."""

    def __init__(
        self, folders: Sequence[str], recursive: bool, find: Callable[[], list[Entry]], stop: Callable[[], bool]
    ) -> None:
        """Watch `folders` for what `find` lists, until `stop`."""
        self.folders, self.recursive, self.find, self.stop = folders, recursive, find, stop
        self._taken: dict[str, State] = {}  # photos that were handed out, as they were then
        self._unsettled: dict[str, tuple[State, float]] = {}  # as they are, and since when

    def _take(self, entries: list[Entry]) -> None:
        """Count photos as handed out."""
        for entry in entries:
            state = _state(entry.source)
            if state is not None:
                self._taken[entry.source] = state

    def __iter__(self) -> Iterator[list[Entry]]:
        """Photos that are new or changed, and whole; waits for them."""
        from watchfiles import watch

        changed = True  # before watching began
        for events in watch(
            *self.folders,
            watch_filter=None,
            recursive=self.recursive,
            rust_timeout=TICK_MILLISECONDS,
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            if self.stop():
                return
            changed = changed or bool(events)
            if changed or self._unsettled:
                changed = False
                whole = self._whole()
                if whole:
                    self._take(whole)
                    yield whole
                    if self.stop():
                        return

    def _whole(self) -> list[Entry]:
        now, whole, unsettled = time.monotonic(), [], {}
        for entry in self.find():
            state = _state(entry.source)
            if state is None or self._taken.get(entry.source) == state:
                continue
            before, since = self._unsettled.get(entry.source, (None, now))
            if before != state or now - since < SETTLE_SECONDS or _open_for_writing(entry.source):
                unsettled[entry.source] = (state, since if before == state else now)
            else:
                whole.append(entry)
        self._unsettled = unsettled
        return whole


def _state(source: str) -> State | None:
    try:
        status = os.stat(source)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _open_for_writing(source: str) -> bool:
    """Whether some process has a file open to write it, where Linux can tell: it grants no read lease then."""
    if sys.platform != "linux":
        return False
    import errno
    import fcntl
    import signal

    try:
        with open(source, "rb") as file:
            # Who wants to write while the lease is held sends a signal: one that is ignored, not one that kills.
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:  # others: another's file, or a file system without leases
        return error.errno == errno.EAGAIN
    return False
