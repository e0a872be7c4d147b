"""One command over photos, from the list of them to the exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from colorize_cli.batch import Destination
from colorize_cli.cli.interrupts import Interrupts
from colorize_cli.config import SamplingOptions
from colorize_cli.errors import OptionError, OutputError, no_such_file
from colorize_cli.journal import Journal
from colorize_cli.listing import Entry, Listing, list_photos
from colorize_cli.local_engine import LocalEngine
from colorize_cli.locations import identity, is_url, places
from colorize_cli.manifest import MANIFEST, Manifest, options_key
from colorize_cli.naming import Job, in_shard, name_jobs, named_as_before
from colorize_cli.outcome import Outcome
from colorize_cli.planning import Planner, check_output, set_own_aside, shut_out, sweep_folders
from colorize_cli.remote_manifest import RemoteManifest
from colorize_cli.steps import Shaping
from colorize_cli.watching import Arrivals

if TYPE_CHECKING:
    from colorize_cli.batch import Engine
    from colorize_cli.cli.reporting import Reporter
    from colorize_cli.outcome import RunFacts


MANY = 1000  # photos, where there is no knowing


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    sampling: SamplingOptions
    shaping: Shaping
    inputs: Sequence[str]
    named: Sequence[str]  # from a list
    output: str | None
    keeps_manifest: bool
    recursive: bool
    model: str
    device: str
    dtype: str
    threads: int | None
    force: bool
    retry_failed: bool
    dry_run: bool
    shard: tuple[int, int] | None
    watch: bool
    engine: Literal["local", "ray"]
    address: str | None
    workers: int | None


class Session:
    """A request and how far it is."""

    def __init__(self, request: Request, reporter: Reporter) -> None:
        self.request, self.reporter = request, reporter
        self.entries: dict[str, Entry] = {}  # all photos so far, before sharding
        self.protected: set[str] = set()  # where they lie
        self.written: set[str] = set()  # pictures of this run, while folders are watched
        self.interrupts = Interrupts(reporter.say)

    def run(self) -> int:
        """Do it all; returns the exit code. Raises `ModelError` or `OptionError` where the model cannot be had."""
        output, reporter = self.request.output, self.reporter
        try:
            with self._manifest() as manifest:
                watch = self.request.watch
                jobs = self._writable([] if watch else self._find(manifest))
                if jobs or watch:
                    with self._engine(MANY if watch else len(jobs)) as engine:
                        reporter.facts = engine.facts
                        with self._destination(manifest, engine.facts) as destination:
                            self._colour(jobs, engine, destination)
        except OutputError as error:
            reporter.error(f"{error}; stopped, start the same command again when that is mended")
            reporter.counts["failed"] += 1
        try:
            reporter.close()
        except OutputError as error:
            reporter.error(str(error))
            reporter.counts["failed"] += 1
        if self.interrupts.stop.is_set():
            again = "the same command goes on from here" if output is not None else "start the same command again"
            if self.request.force:
                again += ", without --force"
            reporter.say(f"interrupted: {reporter.state()}; {again}")
            return 130
        return 1 if reporter.counts["failed"] else 0

    @contextmanager
    def _manifest(self) -> Iterator[Manifest | None]:
        output = self.request.output
        if output is None or not self.request.keeps_manifest:
            yield None
        elif is_url(output):
            with RemoteManifest(output) as manifest:
                yield manifest
        else:
            yield Manifest(output)

    def _find(self, manifest: Manifest | None) -> list[Job]:
        """List the photos, and say what cannot be had."""
        listing = list_photos(self.request.inputs, recursive=self.request.recursive, named=self.request.named)
        own = set_own_aside(listing, manifest, but=self.reporter.aliases)
        if own and not listing.entries:
            files = "1 file was made by this tool and is" if own == 1 else f"{own} files were made by this tool and are"
            self.reporter.say(f"nothing to colour: {files} passed over")
        for source, problem in listing.problems:
            self.reporter.refuse(source, problem)
        passed_over = {"made by this tool": own, "hidden": listing.hidden, "no photos": listing.others}
        self.reporter.passed_over = passed_over
        if manifest is not None:  # whose name a folder of pictures may not have
            for entry in [entry for entry in listing.entries if entry.place.startswith(f"{MANIFEST}/")]:
                listing.entries.remove(entry)
                problem = f"{entry.source}: its pictures' folder would be {MANIFEST}, which is the run's own; rename it"
                self.reporter.refuse(entry.source, problem)
        if self.request.output is not None and not self.request.keeps_manifest and len(listing.entries) > 1:
            raise OptionError(f"--output - takes one photo, and there are {len(listing.entries)}")
        jobs = self._jobs(listing.entries, manifest)
        if listing.entries and not jobs:
            self.reporter.say(f"no photo of {len(listing.entries)} falls to this shard")
        return jobs

    def _jobs(self, entries: list[Entry], manifest: Manifest | None) -> list[Job]:
        """Jobs for photos, told apart from all that came before."""
        self.entries |= {entry.source: entry for entry in entries}
        for entry in entries:
            self.protected |= places(entry.source)
        wanted = {entry.source for entry in entries}
        every = name_jobs([*self.entries.values()], self.request.output)
        jobs = [job for job in every if job.source in wanted]
        if self.request.shard is not None:
            jobs = [job for job in jobs if in_shard(job, *self.request.shard)]
        if manifest is not None and manifest.records:
            jobs = named_as_before(jobs, every, manifest.tells_of)
        return jobs

    def _writable(self, jobs: list[Job]) -> list[Job]:
        """Jobs whose pictures can be written, as far as that shows before the model is loaded; what cannot is said."""
        request = self.request
        if request.dry_run or (request.output is not None and is_url(request.output)):
            return jobs
        if request.output is not None or request.watch:
            if jobs or request.watch:
                for folder in request.inputs if request.output is None else [request.output]:
                    check_output(folder)
            return jobs
        closed = shut_out(jobs, force=request.force)
        for source, problem in closed.items():
            self.reporter.refuse(source, problem)
        return [job for job in jobs if job.source not in closed]

    def _engine(self, photos: int) -> Engine:
        request = self.request
        shaping = request.shaping
        common = (request.model, request.device, request.dtype, request.threads, request.sampling, shaping)
        if request.engine == "ray":
            from colorize_cli.ray_engine import RayEngine

            return RayEngine(*common, address=request.address, workers=request.workers)
        return LocalEngine(*common, photos)

    @contextmanager
    def _destination(self, manifest: Manifest | None, facts: RunFacts) -> Iterator[Destination]:
        request = self.request
        destination = Destination(request.output, manifest, force=request.force, protected=self.protected)
        if request.dry_run or request.output is None or is_url(request.output):
            yield destination
            return
        try:
            Path(request.output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{request.output}: the output folder cannot be made ({error.strerror})") from error
        if manifest is None:
            yield destination
            return
        inputs = [identity(name) for name in (*request.inputs, *request.named)]
        destination.journal = Journal(manifest, options_key(facts.options, facts.model_sha256), inputs)
        try:
            if destination.journal.others:
                self.reporter.say("another run is at work in this folder; give each a part of the photos with --shard")
            yield destination
        finally:
            destination.journal.close()

    def _colour(self, jobs: list[Job], engine: Engine, destination: Destination) -> None:
        """Colour these photos, or those that are and come in the folders watched."""
        with self.interrupts, self.reporter:
            if not self.request.watch:
                self._carry_out(jobs, engine, destination)
                return
            self.reporter.say("watching; Ctrl-C ends it")
            for entries in self._arrivals(destination.manifest):
                self._carry_out(self._jobs(entries, destination.manifest), engine, destination)

    def _arrivals(self, manifest: Manifest | None) -> Iterator[list[Entry]]:
        """Photos in the folders watched, as they are whole; none that this tool made."""
        folders, recursive = self.request.inputs, self.request.recursive

        def find() -> list[Entry]:
            return list_photos(folders, recursive=recursive).entries

        for entries in Arrivals(folders, recursive, find, self.interrupts.stop.is_set):
            listing = Listing([entry for entry in entries if identity(entry.source) not in self.written])
            set_own_aside(listing, manifest)
            if listing.entries:
                yield listing.entries

    def _carry_out(self, jobs: list[Job], engine: Engine, destination: Destination) -> None:
        """Colour what is not done yet."""
        request, reporter = self.request, self.reporter
        if destination.manifest is not None:
            destination.manifest.refresh()
        planner = Planner(
            engine.facts,
            destination.manifest,
            destination.journal.unrecorded if destination.journal is not None else None,
            force=request.force,
            retry_failed=request.retry_failed,
        )
        plan = planner.plan(jobs)
        reporter.total += len(plan.todos) + len(plan.outcomes)
        changed = sum(todo.changed for todo in plan.todos)
        if changed:
            photos = "photo was" if changed == 1 else "photos were"
            reporter.say(f"{changed} {photos} coloured with other options or another model: coloured again")
        for outcome in plan.outcomes:
            reporter.outcome(outcome)
        if self.request.dry_run:
            for todo in plan.todos:
                source = todo.job.source
                if request.engine == "local" and _is_missing(source):
                    reporter.outcome(Outcome(source, "failed", error=no_such_file(source)))
                else:
                    reporter.outcome(Outcome(source, "planned", planner.likely_outputs(todo.job)))
            return
        stop = self.interrupts.stop
        sweep_folders(plan.todos)  # of what killed runs left
        try:
            for outcome in engine.run(plan.todos, destination, progress=reporter.progress, should_stop=stop.is_set):
                if request.watch and outcome.status in {"written", "failed"}:
                    self.written.update(map(identity, outcome.outputs))
                reporter.outcome(outcome)
        finally:
            sweep_folders(plan.todos)  # of what killed workers left


def _is_missing(source: str) -> bool:
    """Whether there is no file of that name here; not of one that may not be looked at."""
    if is_url(source):
        return False
    try:
        os.stat(source)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False
