"""Files that are there whole or not at all, whatever kills the process that writes them."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed: all that the lock is for
    fcntl = None  # type: ignore[assignment]

PREFIX = ".colorize-"  # of every file that is not yet whole


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file for `path`'s new content, to write and read: flushed and named at the end, gone if anything is raised.

    Where the system can, it has no name until it is whole, so that not even a killed process leaves anything.
    Elsewhere its name begins with `PREFIX`, and it lies in the same folder. It is locked, so that `sweep` can tell it
    from what a killed process left.
    """
    file = _create_nameless(path)
    if file is None:
        with _replacing_by_name(path) as named:
            yield named
    else:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _name(file, path)
    with contextlib.suppress(OSError), _opened_folder(path.parent) as folder:
        os.fsync(folder)  # makes the new name last through a loss of power


@contextlib.contextmanager
def _replacing_by_name(path: Path) -> Iterator[IO[bytes]]:
    file, temporary = create_locked(path.parent, path.suffix)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                temporary.replace(path)  # while it is locked
        if fcntl is None:
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _create_nameless(path: Path) -> IO[bytes] | None:
    """A new file without a name in `path`'s folder; None where the system or its file system has none."""
    if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
        return None
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError:  # what is wrong with the folder itself, making a named file tells
        return None
    if fcntl is not None:  # it has a `PREFIX` name for a moment where it takes another file's place
        with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    return open(path, "w+b", opener=lambda *_: descriptor)


def _name(nameless: IO[bytes], path: Path) -> None:
    """Give an open file the name `path`, by way of another where that is taken."""
    other = f"{PREFIX}{secrets.token_hex(8)}{path.suffix}"
    with _opened_folder(path.parent) as folder:
        for name in (path.name, other):
            with contextlib.suppress(FileExistsError):
                # Without a folder's descriptor Python links the symbolic link itself.
                os.link(f"/proc/self/fd/{nameless.fileno()}", name, dst_dir_fd=folder, follow_symlinks=True)
                break
        if name != path.name:
            try:
                os.replace(other, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                os.unlink(other, dir_fd=folder)
                raise


@contextlib.contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def create_locked(folder: Path, suffix: str) -> tuple[IO[bytes], Path]:
    """A new file in `folder`, open for writing and reading and locked, under a name that nothing else has.

    It is opened like any new file, so that it gets a new file's rights, which a tempfile does not.
    """
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(8)}{suffix}"
        file = path.open("x+b")
        try:
            if fcntl is None:
                return file, path
            with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there
                fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return file, path
            file.close()  # swept between its making and its locking
        except BaseException:
            file.close()
            raise


def check_writable(folder: Path) -> None:
    """Make a file in a folder, which goes at once. Raises `OSError` where that cannot be done."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def abandoned(path: Path) -> bool:
    """Whether the process that made this `PREFIX` file is gone. On Windows always: removing it fails if it is not."""
    if fcntl is None:
        return True
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sweep(folder: Path, suffixes: tuple[str, ...]) -> None:
    """Remove what killed processes left half written in `folder`, of these suffixes."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(PREFIX) and path.name.lower().endswith(suffixes) and abandoned(path):
                with contextlib.suppress(OSError):
                    path.unlink()
