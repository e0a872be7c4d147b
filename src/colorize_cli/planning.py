"""What is still to be done: which photos, which of their pictures, and what became of the rest in earlier runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from colorize_cli import storage
from colorize_cli.atomic import check_writable, sweep
from colorize_cli.digests import file_sha256
from colorize_cli.errors import OutputError
from colorize_cli.journal import Begun, killed_outputs
from colorize_cli.listing import Listing
from colorize_cli.locations import below, identity, is_url
from colorize_cli.manifest import Manifest, Record, options_key
from colorize_cli.naming import Job
from colorize_cli.outcome import Outcome, RunFacts
from colorize_cli.photo import FORMATS, likely_suffix
from colorize_cli.provenance import read_provenance

COLOR_SUFFIXES = frozenset(suffix for known in FORMATS.values() for suffix in known.suffixes)


@dataclass(frozen=True, slots=True)
class Todo:
    """One photo that is to be coloured."""

    job: Job
    done: frozenset[str] = frozenset()  # its pictures that are there already, by the same options
    replaced: frozenset[str] = frozenset()  # pictures of this tool that may be written over
    changed: bool = False  # whether it was coloured with other options or another model


@dataclass
class Plan:
    """What a run has before it, and what it need not do."""

    todos: list[Todo] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)  # of photos that need no work


def set_own_aside(listing: Listing, manifest: Manifest | None, but: Collection[str] = ()) -> int:
    """Take the pictures that this tool made out of a listing, by manifests and provenance; returns how many.

    Sources in `but` stay, whatever made them.
    """
    own: set[str] = set()
    known: set[str] = set()  # photos that were coloured before are none
    folders = dict.fromkeys(os.path.abspath(folder) for folder in listing.manifests)
    manifests = [] if manifest is None else [manifest]
    for folder in folders:
        if manifest is None or folder != os.path.abspath(manifest.folder):
            with contextlib.suppress(OutputError):  # one that cannot be read: by their provenance, then
                manifests.append(Manifest(folder))
    for each in manifests:
        root = identity(each.root)
        for record in each.records.values():
            own.update(below(root, path) for path in (*record.outputs, *record.former))
            known.add(record.input)
        own.update(below(root, path) for path in killed_outputs(each))
    entries = []
    for entry in listing.entries:
        path = identity(entry.source)
        if entry.source in but:
            entries.append(entry)
            continue
        if path in own:
            continue
        if path not in known and not is_url(path) and read_provenance(Path(path)) is not None:
            continue
        entries.append(entry)
    count = len(listing.entries) - len(entries)
    listing.entries = entries
    return count


class Planner:
    """Compares jobs with what is there."""

    def __init__(
        self,
        facts: RunFacts,
        manifest: Manifest | None = None,
        unrecorded: Mapping[str, Begun] | None = None,
        *,
        force: bool = False,
        retry_failed: bool = False,
    ) -> None:
        """How to compare.

        Args:
            facts: of the run; a photo that was coloured by others is coloured again.
            manifest: of the output folder; without one, existing pictures stay.
            unrecorded: pictures that a killed run may have left, by the manifest's names.
            force: do all again.
            retry_failed: do again what failed.
        """
        self.count, self.key = facts.samples, options_key(facts.options, facts.model_sha256)
        self.format: str | None = facts.options["output"]["format"]
        self.manifest, self.unrecorded = manifest, unrecorded or {}
        self.force, self.retry_failed = force, retry_failed
        self._names: dict[str, frozenset[str]] = {}  # what is in each folder, read once

    def plan(self, jobs: Iterable[Job]) -> Plan:
        """Sort jobs into what is to be done and what is not."""
        plan = Plan()
        for job in jobs:
            found = self._compared(job)
            if isinstance(found, Todo):
                plan.todos.append(found)
            else:
                plan.outcomes.append(found)
        return plan

    def _compared(self, job: Job) -> Todo | Outcome:
        if self.force:
            return Todo(job)
        if self.manifest is None:
            return self._unknown(job, frozenset())
        name = self.manifest.name(job.folder, job.name)
        record, begun = self.manifest.records.get(name), self.unrecorded.get(name)
        left = frozenset(self._absolute(begun.outputs)) if begun is not None else frozenset[str]()
        if begun is not None and begun.photo != identity(job.source):
            there = [path for path in sorted(left) if self._exists(path)]
            if there:
                return _taken(job, there[0], begun.photo)
            left = frozenset()
        if record is None:
            return self._unknown(job, left)
        outputs, former = self._absolute(record.outputs), left.union(self._absolute(record.former))
        if (record.outputs or record.former) and of_another(job.source, record):
            return _taken(job, [*outputs, *self._absolute(record.former)][0], record.input)
        if record.status == "failed":
            if record.final and not self.retry_failed and not file_changed(job.source, record):
                return Outcome(job.source, "failed", error=record.error)
            return Todo(job, replaced=former.union(outputs))
        if record.key != self.key or left or file_changed(job.source, record):
            return Todo(job, replaced=former.union(outputs), changed=record.key != self.key)
        return self._known(job, outputs, former)

    def _known(self, job: Job, outputs: list[str], former: frozenset[str]) -> Todo | Outcome:
        """Of a photo of which pictures were made by the same options: all that are wanted, or not yet."""
        there = frozenset(path for path in outputs if self._exists(path))
        wanted = job.outputs(self.count, os.path.splitext(outputs[0])[1]) if outputs else self.likely_outputs(job)
        missing = [path for path in wanted if path not in there]
        if not missing:
            return Outcome(job.source, "skipped", wanted, skipped="done")
        if all(path not in former and self._exists(path) for path in missing):  # somebody's
            return Outcome(job.source, "skipped", wanted, skipped="exists")
        return Todo(job, done=there, replaced=former)

    def _unknown(self, job: Job, left: frozenset[str]) -> Todo | Outcome:
        """Of a photo of which no record tells: pictures that have its names are somebody's, and stay."""
        likely = self.likely_outputs(job)
        if left.isdisjoint(likely) and all(self._exists(path) for path in likely):
            return Outcome(job.source, "skipped", likely, skipped="exists")
        return Todo(job, replaced=left)

    def likely_outputs(self, job: Job) -> list[str]:
        """A photo's pictures, if it is in the format that its name says."""
        return job.outputs(self.count, likely_suffix(os.path.splitext(job.source)[1], self.format))

    def _absolute(self, outputs: Iterable[str]) -> list[str]:
        assert self.manifest is not None
        return [self.manifest.absolute(path) for path in outputs]

    def _exists(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = storage.names(folder)
        return name in self._names[folder]


def check_output(output: str) -> None:
    """Raises `OutputError` where an output folder cannot be written to, or, where there is none yet, made."""
    folder = os.path.abspath(output)
    there = folder
    while not os.path.exists(there):
        there = os.path.dirname(there)
    try:
        check_writable(Path(there))
    except OSError as error:
        what = "written to" if there == folder else "made"
        raise OutputError(f"{output}: the output folder cannot be {what} ({error.strerror})") from error


def shut_out(jobs: Sequence[Job], *, force: bool) -> dict[str, str]:
    """Photos whose pictures cannot be written beside them, and why; not those that have some, which may stay."""
    closed: dict[str, tuple[str | None, set[str]]] = {}  # why a folder is, and what is in it, without suffixes
    for folder in {job.folder for job in jobs}:
        try:
            check_writable(Path(folder))
        except OSError as error:
            closed[folder] = error.strerror, {os.path.splitext(name)[0] for name in storage.names(folder)}
    found = {}
    for job in jobs:
        reason, names = closed.get(job.folder, (None, set()))
        if reason and os.path.exists(job.source) and (force or f"{job.name}_color1" not in names):
            found[job.source] = f"{job.source}: its folder cannot be written to ({reason}); choose another --output"
    return found


def sweep_folders(todos: Iterable[Todo]) -> None:
    """Remove what killed processes left half written where pictures of these photos go."""
    for folder in {todo.job.folder for todo in todos if not is_url(todo.job.folder)}:
        sweep(Path(folder), tuple(COLOR_SUFFIXES))


def _taken(job: Job, picture: str, photo: str) -> Outcome:
    whose = f" ({photo})" if os.path.lexists(photo) else ""
    error = f"{job.source}: {picture} was made of another photo{whose}; choose another --output, or --force"
    return Outcome(job.source, "failed", error=error)


def of_another(source: str, record: Record) -> bool:
    """Whether a record tells of another photo, by its path and, where a photo may only have been moved, its bytes."""
    if record.input == identity(source):
        return False
    try:
        return is_url(source) or file_sha256(Path(source)) != record.sha256
    except OSError:
        return True


def file_changed(source: str, record: Record) -> bool:
    """Whether a photo's file is not the one that a record tells of; never asked of a URL.

    By its size and time; where only the time is another, as in a copy, by its sha256.
    """
    if is_url(source):
        return False
    try:
        status = os.stat(source)
        if status.st_size != record.input_bytes:
            return True
        return status.st_mtime_ns != record.input_mtime_ns and file_sha256(Path(source)) != record.sha256
    except OSError:
        return record.input_bytes is not None
