"""What a run has begun in an output folder: so that the next one knows which pictures a killed run left unrecorded.

Between the writing of a photo's pictures and its line in the manifest a run may be killed. Each run therefore names
a photo in a hidden file of its own before it writes anything of it. The file goes when the run ends, unless some of
what it had begun was not recorded; one that is there and not locked is of a run that was killed or could not go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from colorize_cli.atomic import PREFIX, abandoned, create_locked
from colorize_cli.errors import OutputError
from colorize_cli.manifest import Manifest, Record

SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Begun:
    """A photo that a run had begun."""

    photo: str  # its path
    outputs: tuple[str, ...]  # relative to the manifest's root: pictures that are this tool's, if they are there


class Journal:
    """The journal of this run, and what the journals of killed runs say."""

    def __init__(self, manifest: Manifest, key: str, inputs: Sequence[str] = ()) -> None:
        """Begin a journal in the manifest's folder, which must exist.

        Raises `OutputError` if nothing can be written there, or if a run with another `key`, or over other `inputs`, is
        at work there: the two would write over each other's pictures.
        """
        self.unrecorded: dict[str, Begun] = {}  # by the name of a photo's pictures, as the manifest has it
        self.others = 0  # runs that are at work in the same folder
        self._manifest = manifest
        self._lock = threading.Lock()
        self._killed: list[tuple[Path, dict[str, Record | None]]] = []  # their journals, what was recorded of whom
        self._begun: dict[str, Record | None] = {}  # by this run, and what was recorded of it before
        folder = Path(manifest.folder)
        try:
            self._file, self._path = create_locked(folder, SUFFIX)
            try:
                whose = [key, _digest(inputs)]
                # Before others are looked at: of two that start at once, one sees the other at least.
                self._write(whose)
                for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
                    if path != self._path:
                        self._look_at(path, whose)
            except BaseException:
                self._remove()
                raise
        except OSError as error:
            raise OutputError(f"{folder}: the output folder cannot be written to ({error.strerror})") from error

    def _look_at(self, path: Path, whose: list[str]) -> None:
        with contextlib.suppress(FileNotFoundError):  # its run has just ended
            killed = abandoned(path)
            its, begun = _read(path)
            if not killed and its and its != whose:
                raise OutputError(
                    f"{path.parent}: a run with other options or photos is at work in this folder; "
                    "wait for its end or choose another --output"
                )
            if killed and its:
                unrecorded = {name: one for name, one in begun.items() if not self._recorded(name, its[0], one)}
                self._killed.append((path, {name: self._manifest.records.get(name) for name in unrecorded}))
                self.unrecorded |= unrecorded
            else:
                self.others += 1

    def _recorded(self, name: str, key: str, begun: Begun) -> bool:
        record = self._manifest.records.get(name)
        if record is None or record.key != key or record.input != begun.photo:
            return False
        # An earlier line, of fewer samples, tells of none of them.
        return record.status == "failed" or not set(begun.outputs).isdisjoint(record.outputs)

    def begin(self, name: str, photo: str, outputs: list[str]) -> None:
        """Say that these pictures of a photo are about to be written. Raises `OutputError` if that cannot be said."""
        self._begun[name] = self._manifest.records.get(name)
        try:
            self._write([name, photo, outputs])
        except OSError as error:
            raise OutputError(f"{self._manifest.folder}: cannot be written to ({error.strerror})") from error

    def forget(self, name: str) -> None:
        """Say that nothing was written of a photo after all."""
        self._begun.pop(name, None)

    def _write(self, value: object) -> None:
        with self._lock:
            self._file.write(json.dumps(value).encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        """End the journal. It goes, and so do those of killed runs, where nothing of theirs is left unrecorded."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OutputError, OSError):
            self._manifest.refresh()
            for path, before in [(self._path, self._begun), *self._killed]:
                if all(self._manifest.records.get(name) is not record for name, record in before.items()):
                    path.unlink(missing_ok=True)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()


def killed_outputs(manifest: Manifest) -> set[str]:
    """Pictures, as the manifest has them, that killed runs had begun: no photos, whatever they say of themselves."""
    found: set[str] = set()
    for path in Path(manifest.folder).glob(f"{PREFIX}*{SUFFIX}"):
        with contextlib.suppress(OSError):
            if abandoned(path):
                found.update(output for one in _read(path)[1].values() for output in one.outputs)
    return found


def _read(path: Path) -> tuple[list[str], dict[str, Begun]]:
    """Whose a journal is, its key and the digest of its inputs, and what it has begun; nothing where it is broken."""
    try:
        whose, *begun = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return list(whose), {name: Begun(photo, tuple(outputs)) for name, photo, outputs in begun}
    except (ValueError, TypeError):
        return [], {}


def _digest(inputs: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(inputs).encode(errors="surrogateescape")).hexdigest()[:16]
