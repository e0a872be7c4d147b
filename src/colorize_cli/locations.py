"""Names of places: local paths and URLs alike, as plain strings."""

from __future__ import annotations

import os
from functools import lru_cache


def is_url(name: str) -> bool:
    """Whether a name is a URL (`s3://...`) and no local path."""
    scheme, separator, _ = name.partition("://")
    return bool(separator) and scheme.replace("+", "").replace("-", "").isalnum()


def identity(name: str) -> str:
    """A name that means the same wherever it is used: an absolute path, or the URL."""
    return name if is_url(name) else os.path.abspath(name)


def place(path: str) -> str:
    """Where a file lies: its name in its folder, whatever links lead there. A URL stays."""
    if is_url(path):
        return path
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(_real_folder(folder), name)


def places(source: str) -> set[str]:
    """Where a file lies and, if that is a link, what it leads to."""
    found = {place(source)}
    if not is_url(source) and os.path.islink(source):
        found.add(os.path.realpath(source))
    return found


@lru_cache(maxsize=1024)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def below(root: str, relative: str) -> str:
    """The place below a folder or URL that `relative`, with `/` between its parts, names."""
    if is_url(root):
        return f"{root}/{relative}" if relative else root
    path = os.path.join(root, *relative.split("/"))
    return path if ".." in root.split(os.sep) else os.path.normpath(path)  # `..` after a link is not what it was before


def relative_to(root: str, name: str) -> str:
    """What `below` takes back to `name`."""
    if is_url(root):
        return name.removeprefix(f"{root}/")
    return os.path.relpath(name, root).replace(os.sep, "/")
