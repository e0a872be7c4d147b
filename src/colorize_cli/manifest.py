"""`manifest.jsonl`, the record of an output folder: a line for each photo as it is finished, and what is done by it.

A photo's last line counts. Names and outputs are relative to the folder, so that it may be moved as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from colorize_cli.errors import OutputError
from colorize_cli.locations import below, identity, relative_to

try:
    import fcntl
except ImportError:  # Windows, where an append is one act
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Record:
    """What later runs need of a line."""

    status: Literal["written", "failed"]
    key: str  # of the options and the model
    input: str  # the photo's path
    outputs: tuple[str, ...]  # relative to the folder
    former: frozenset[str]  # the same of pictures that earlier lines tell of and this one does not
    input_bytes: int | None  # None where the photo could not be had
    input_mtime_ns: int | None
    sha256: str | None  # of the photo's file; none where it failed before it was drawn
    error: str
    final: bool  # a failure that only --retry-failed tries again


def options_key(options: Mapping[str, Any], model_sha256: str) -> str:
    """A short digest of all that shapes a picture and is asked for, but not of how many samples: they are the same."""
    text = json.dumps([dict(options), model_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Manifest:
    """The manifest of one output folder; several runs may append to it at once."""

    def __init__(self, folder: str, root: str | None = None) -> None:
        """Read the manifest in `folder`, if there is one yet, of the pictures below `root` (None: below `folder`).

        Raises `OutputError` if it is there and cannot be read.
        """
        self.folder, self.root = folder, folder if root is None else root
        self.path = Path(folder) / MANIFEST
        self.records: dict[str, Record] = {}  # by the name of a photo's pictures, up to `_color1`
        self._read_to = 0
        self._lock = threading.Lock()
        self.refresh()

    def name(self, folder: str, name: str) -> str:
        """How the manifest calls the pictures that lie in `folder` under `name`."""
        return self.relative(os.path.join(folder, name))

    def tells_of(self, folder: str, name: str, source: str) -> bool:
        """Whether the pictures in `folder` under `name` are those of the photo `source`."""
        record = self.records.get(self.name(folder, name))
        return record is not None and record.input == identity(source)

    def refresh(self) -> None:
        """Take in the lines that were added since, by whatever run."""
        with self._lock:
            try:
                if self.path.stat().st_size == self._read_to:
                    return
                with self.path.open("rb") as file:
                    file.seek(self._read_to)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break  # being written, or cut off by a full disk: the next append mends it
                        self._read_to += len(line)
                        self._take(line)
            except (FileNotFoundError, NotADirectoryError):
                return
            except OSError as error:
                raise OutputError(f"{self.path}: the manifest cannot be read ({error.strerror})") from error

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line is no line
            values = json.loads(line)
            before, outputs = self.records.get(values["name"]), tuple(values["outputs"])
            former = before.former.union(before.outputs) if before is not None else frozenset[str]()
            self.records[values["name"]] = Record(
                status=values["status"],
                key=options_key(values["options"], values["model_sha256"]),
                input=values["input"],
                outputs=outputs,
                former=former.difference(outputs),
                input_bytes=values["input_bytes"],
                input_mtime_ns=values["input_mtime_ns"],
                sha256=values.get("sha256"),
                error=values.get("error", ""),
                final=values.get("final", True),
            )

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one photo's line, with outputs as paths; on the disk when this returns.

        Raises `OutputError` when it cannot be written whole; then none of it is.
        """
        relative = {**line, "outputs": [self.relative(path) for path in line["outputs"]]}
        try:
            with self._lock, self._open_to_append() as file:
                size = file.seek(0, os.SEEK_END)
                data = json.dumps(relative).encode() + b"\n"
                if size and not self._ends_with_newline(file, size):
                    data = b"\n" + data
                try:
                    file.write(data)
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as error:
            raise OutputError(f"{self.path}: the manifest cannot be written ({error.strerror})") from error

    @contextlib.contextmanager
    def _open_to_append(self) -> Iterator[IO[bytes]]:
        with open(self.path, "a+b", buffering=0) as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    @staticmethod
    def _ends_with_newline(file: IO[bytes], size: int) -> bool:
        file.seek(size - 1)
        return file.read(1) == b"\n"

    def relative(self, path: str) -> str:
        """A path as the manifest has it."""
        return relative_to(self.root, path)

    def absolute(self, relative: str) -> str:
        """A path of the manifest, as the pictures of this run have it."""
        return below(self.root, relative)
