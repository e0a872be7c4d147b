"""The manifest of an output folder behind a URL: written here, and put there now and then and at the end."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from colorize_cli import storage
from colorize_cli.manifest import MANIFEST, Manifest

PUT_SECONDS = 30.0  # between copies: no store lets a file grow


class RemoteManifest(Manifest):
    """A manifest that is copied to its URL. Only one run may write to it at a time."""

    def __init__(self, url: str) -> None:
        """Fetch the manifest of the folder `url`. Raises `PhotoError` if that cannot be found out."""
        self._folder = tempfile.TemporaryDirectory(prefix="colorize-")
        self._url = f"{url}/{MANIFEST}"
        storage.get(self._url, str(Path(self._folder.name) / MANIFEST))
        self._put_at = time.monotonic()
        self._grown = False  # since it was put
        super().__init__(self._folder.name, root=url)

    def append(self, line: Mapping[str, Any]) -> None:
        """As `Manifest.append` does; what it raises may also tell of the copy."""
        super().append(line)
        self._grown = True
        if time.monotonic() - self._put_at >= PUT_SECONDS:
            self._put()

    def _put(self) -> None:
        storage.put(str(self.path), self._url)
        self._put_at, self._grown = time.monotonic(), False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the last lines. Raises `OutputError` if that cannot be done."""
        try:
            if self._grown:
                self._put()
        finally:
            self._folder.cleanup()
