"""Photos and pictures behind URLs (`s3://`, `gs://`, ...), by way of local copies; local paths go straight through."""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from colorize_cli import steps
from colorize_cli.atomic import PREFIX
from colorize_cli.errors import OutputError, PassingError, PhotoError, no_such_file
from colorize_cli.locations import is_url

R = TypeVar("R")

# Stores in which a file appears only when it is whole. Elsewhere it is written under another name and moved.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "memory"})


def look(source: str, shaping: steps.Shaping) -> steps.Look:
    """`steps.look` of a path or a URL."""
    if not is_url(source):
        return steps.look(source, shaping)
    with _local_copy(source) as path:
        found = _named(source, path, lambda: steps.look(path, shaping))
    return replace(found, input_mtime_ns=0)  # the copy's


def finish(
    source: str,
    sha256: str,
    pictures: Sequence[steps.Picture],
    shaping: steps.Shaping,
    root: str | None = None,
) -> tuple[tuple[int, int], list[str]]:
    """`steps.finish` from a path or a URL to paths or URLs."""
    if not is_url(source) and not any(is_url(picture.path) for picture in pictures):
        return steps.finish(source, sha256, pictures, shaping, root)
    with _local_copy(source) as path, tempfile.TemporaryDirectory(prefix="colorize-") as folder:
        places = [
            os.path.join(folder, posixpath.basename(picture.path)) if is_url(picture.path) else picture.path
            for picture in pictures
        ]
        local = [replace(picture, path=place) for picture, place in zip(pictures, places, strict=True)]
        root = None if root is None or is_url(root) else root
        done = _named(source, path, lambda: steps.finish(path, sha256, local, shaping, root))
        for picture, place in zip(pictures, places, strict=True):
            if is_url(picture.path):
                put(place, picture.path)
    return done


def exists(path: str) -> bool:
    """Whether there is something at a path or URL, a broken link too."""
    if not is_url(path):
        return os.path.lexists(path)
    filesystem, place = _filesystem(path)
    return bool(_remote(path, lambda: filesystem.exists(place)))


def names(folder: str) -> frozenset[str]:
    """What is directly in a folder; nothing if it cannot be read."""
    try:
        if not is_url(folder):
            return frozenset(os.listdir(folder or "."))
        filesystem, place = _filesystem(folder)
        return frozenset(posixpath.basename(name.rstrip("/")) for name in filesystem.ls(place, detail=False))
    except Exception:  # every store has errors of its own
        return frozenset()


def files(folder: str, recursive: bool) -> list[str]:
    """The files of a remote folder, by their paths below it. Raises `PhotoError`."""
    filesystem, place = _filesystem(folder)
    found = _remote(folder, lambda: filesystem.find(place, maxdepth=None if recursive else 1))
    return sorted(posixpath.relpath(name, place) for name in found)


def is_folder(url: str) -> bool:
    """Whether a URL is a folder's. Raises `PhotoError` if that cannot be found out."""
    filesystem, place = _filesystem(url)
    return bool(_remote(url, lambda: filesystem.isdir(place)))


def get(url: str, path: str) -> bool:
    """Copy a remote file to a local path; False if there is none."""
    filesystem, place = _filesystem(url)
    if not _remote(url, lambda: filesystem.exists(place)):
        return False
    _remote(url, lambda: filesystem.get_file(place, path))
    return True


def put(path: str, url: str) -> None:
    """Copy a local file to a URL, where it appears whole or not at all. Raises `OutputError`."""
    filesystem, place = _filesystem(url)
    protocols = {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)
    try:
        if protocols & OBJECT_STORES:
            filesystem.put_file(path, place)
            return
        temporary = f"{posixpath.dirname(place)}/{PREFIX}{secrets.token_hex(8)}"
        filesystem.makedirs(posixpath.dirname(place), exist_ok=True)
        filesystem.put_file(path, temporary)
        filesystem.mv(temporary, place)
    except Exception as error:  # every store has errors of its own
        raise OutputError(f"{url}: cannot be written ({_reason(error)})") from error


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path on it."""
    import fsspec

    try:
        filesystem, place = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise PhotoError(f"{url}: no way to reach this ({_reason(error)})") from error
    return filesystem, place


def _remote(url: str, act: Callable[[], R]) -> R:
    try:
        return act()
    except FileNotFoundError as error:
        raise PhotoError(no_such_file(url)) from error
    except Exception as error:  # every store has errors of its own
        raise PassingError(f"{url}: cannot be read ({_reason(error)}); check the name and the credentials") from error


@contextlib.contextmanager
def _local_copy(source: str) -> Iterator[str]:
    if not is_url(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="colorize-") as folder:
        path = os.path.join(folder, posixpath.basename(source))
        try:
            there = get(source, path)
        except PhotoError as error:
            raise steps.StepError(str(error)) from error
        if not there:
            raise steps.StepError(no_such_file(source))
        yield path


def _named(source: str, path: str, step: Callable[[], R]) -> R:
    """Do a step on a local copy; its errors name the source."""
    try:
        return step()
    except steps.StepError as error:
        raise steps.StepError(str(error).replace(path, source), error.passing) from error
    except OutputError as error:
        raise OutputError(str(error).replace(path, source)) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
