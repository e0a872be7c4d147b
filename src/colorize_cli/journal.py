"""What a run has begun in an output folder: so that the next one knows which pictures a killed run left unrecorded.

Between the writing of a photo's pictures and its line in the manifest a run may be killed. Each run therefore names
a photo in a hidden file of its own before it writes anything of it. The file goes when the run ends, unless some of
what it had begun was not recorded; one that is there and not locked is of a run that was killed or could not go on.
"""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

from colorize_cli.atomic import PREFIX, abandoned, create_locked
from colorize_cli.errors import OutputError
from colorize_cli.manifest import Manifest, Record

SUFFIX = ".jsonl"


class Journal:
    """The journal of this run, and what the journals of killed runs say."""

    def __init__(self, manifest: Manifest, key: str) -> None:
        """Begin a journal in the manifest's folder, which must exist.

        Raises `OutputError` if nothing can be written there, or if a run with another `key` is at work there:
        the two would write over each other's pictures.
        """
        # By the name of a photo's pictures, as the manifest has it: paths that are this tool's, if they are there.
        self.unrecorded: dict[str, list[str]] = {}
        self.others = 0  # runs that are at work in the same folder
        self._manifest = manifest
        self._lock = threading.Lock()
        self._killed: list[tuple[Path, dict[str, Record | None]]] = []  # their journals, what was recorded of whom
        self._begun: dict[str, Record | None] = {}  # by this run, and what was recorded of it before
        folder = Path(manifest.folder)
        try:
            for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
                self._look_at(path, key)
            self._file, self._path = create_locked(folder, SUFFIX)
            try:
                self._write(key)
            except OSError:
                self._remove()
                raise
        except OSError as error:
            raise OutputError(f"{folder}: the output folder cannot be written to ({error.strerror})") from error

    def _look_at(self, path: Path, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # its run has just ended
            killed = abandoned(path)
            whole = path.read_bytes().split(b"\n")[:-1]
            its_key, *begun = [json.loads(line) for line in whole] or [key]
            if not killed and its_key != key:
                raise OutputError(
                    f"{path.parent}: a run with other options is at work in this folder; "
                    "wait for its end or choose another --output"
                )
            if killed:
                unrecorded = {name: outputs for name, outputs in begun if not self._recorded(name, its_key)}
                self._killed.append((path, {name: self._manifest.records.get(name) for name in unrecorded}))
                self.unrecorded |= unrecorded
            else:
                self.others += 1

    def _recorded(self, name: str, key: str) -> bool:
        record = self._manifest.records.get(name)
        return record is not None and record.key == key

    def begin(self, name: str, outputs: list[str]) -> None:
        """Say that these pictures are about to be written. Raises `OutputError` if that cannot be said."""
        self._begun[name] = self._manifest.records.get(name)
        try:
            self._write([name, outputs])
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
