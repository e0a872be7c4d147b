"""What a run over photos says while it goes and when it is over: a bar, plain lines, JSON lines, a table."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from colorize_cli.cli.printable import printable
from colorize_cli.cli.streams import writing_to_output
from colorize_cli.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from colorize_cli.outcome import RunFacts

LINE_SECONDS = 30.0  # between plain lines
TABLE_ROWS = 40  # photos that are shown one by one; of larger runs only those that failed are
MOST_COLUMNS = 100_000  # of a table that is not for a screen
SKIPPED = {"done": "done before", "exists": "pictures exist"}


class Reporter:
    """Counts outcomes and shows them. The only thing on standard output are JSON lines, or the table at the end."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        as_json: bool = False,
        table: bool = True,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """How to report.

        Args:
            quiet: errors alone.
            as_json: a JSON line a photo, and no table.
            table: whether standard output is free for one.
            aliases: names to show in place of files' paths.
        """
        from rich.console import Console

        self.quiet, self.as_json, self.table = quiet, as_json, table and not (as_json or quiet)
        self.aliases = aliases or {}
        self.total = 0  # photos there are to do
        self.facts: RunFacts | None = None  # once the model is there
        self.passed_over: dict[str, int] = {}  # how many files for which reason
        self.console: Console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        self.counts: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._shown: list[Outcome] = []
        self._failed: list[Outcome] = []
        self._notes: set[str] = set()
        self._started = self._spoken = time.monotonic()
        self._drawn = 0.0  # photos, in parts
        self._current = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.quiet:
            from rich.progress import BarColumn, Progress, TextColumn

            state, name = (TextColumn(field, markup=False) for field in ("{task.fields[state]}", "{task.description}"))
            columns = (state, BarColumn(), name)
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=None, state="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def finished(self) -> int:
        """Photos that are over, in whatever way."""
        return self.counts.total()

    def outcome(self, outcome: Outcome) -> None:
        """Take in what became of a photo. Raises `OutputError` where standard output takes no more."""
        for path, alias in self.aliases.items():
            if outcome.source == path:
                outcome = replace(outcome, source=alias, error=outcome.error.replace(path, alias))
        self.counts[outcome.status] += 1
        if outcome.status == "failed":
            self._failed.append(outcome)
            self.error(outcome.error)
        elif outcome.skipped:
            self.skipped[outcome.skipped] += 1
        for note in outcome.notes:
            if note not in self._notes:  # once a run
                self._notes.add(note)
                self.say(f"note: {note}")
        if self.finished <= TABLE_ROWS:
            self._shown.append(outcome)
        if self.as_json:
            few = {"input": outcome.source, "status": outcome.status, "error": outcome.error}
            with writing_to_output():
                click.echo(json.dumps(few if self.facts is None else self.facts.line(outcome)))
        self._refresh()

    def refuse(self, source: str, problem: str) -> None:
        """Take in a photo that cannot be begun with: one more there was to do, and failed."""
        self.total += 1
        self.outcome(Outcome(source, "failed", error=problem))

    def progress(self, name: str, photos: float) -> None:
        """Part of a photo was drawn."""
        self._drawn += photos
        self._current = self.aliases.get(name, name)
        self._refresh()

    def error(self, message: str) -> None:
        """One line of what went wrong."""
        self.console.print(f"error: {printable(message)}", markup=False)

    def say(self, message: str) -> None:
        """One line for people, unless they want quiet."""
        if not self.quiet:
            self.console.print(printable(message), markup=False)

    def state(self) -> str:
        """How far the run is: `120 of 2000, 3 failed, 61 a minute, 31 min left`."""
        parts = [f"{self.finished} of {self.total}"]
        if self.counts["failed"]:
            parts.append(f"{self.counts['failed']} failed")
        minutes = (time.monotonic() - self._started) / 60
        worked = max(self._drawn, float(self.counts["written"]))
        if worked >= 1:
            rate = worked / minutes
            parts.append(f"{rate:.1f} a minute")
            parts.append(f"{_duration((self.total - self.finished) / rate)} left")
        return ", ".join(parts)

    def _refresh(self) -> None:
        if self._bar is not None and self._task is not None:
            completed = max(float(self.finished), min(self._drawn, self.total))
            name, state = printable(PurePath(self._current).name), self.state()
            self._bar.update(self._task, completed=completed, total=self.total, description=name, state=state)
        elif not self.quiet and time.monotonic() - self._spoken >= LINE_SECONDS:
            self._spoken = time.monotonic()
            self.say(f"{self.state()}: {self._current}")

    def close(self) -> None:
        """The table: every photo of a small run, those that failed of a large one, and the sum.

        Raises `OutputError` where standard output takes no more.
        """
        if not self.table:
            return
        with writing_to_output():
            self._print_all()

    def _print_all(self) -> None:
        rows = self._shown if self.finished <= TABLE_ROWS else self._failed
        if rows:
            _print_table(rows)
        sums = [f"{self.counts[status]} {status}" for status in ("written", "planned", "failed") if self.counts[status]]
        sums += [f"{count} skipped ({SKIPPED[why]})" for why, count in sorted(self.skipped.items())]
        sums += [
            f"{count} file{'s' * (count > 1)} passed over ({what})" for what, count in self.passed_over.items() if count
        ]
        if len(sums) > 1 or self.finished > 1:
            click.echo(f"{', '.join(sums)}; {_duration((time.monotonic() - self._started) / 60)}")


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{minutes * 60:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _print_table(outcomes: Iterable[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for name in ("photo", "pictures", "size", "bits/pixel", "seconds"):
        table.add_column(name, overflow="fold")  # on a narrow screen nothing is left out
    for outcome in outcomes:
        pictures = "\n".join(map(printable, outcome.outputs)) or "-"
        if outcome.status == "skipped":
            pictures = f"skipped, {SKIPPED[outcome.skipped]}: {pictures}"
        elif outcome.status == "failed":
            pictures = f"failed: {printable(outcome.error.removeprefix(f'{outcome.source}: '))}"
        table.add_row(
            Text(printable(outcome.source)),
            Text(pictures),
            "x".join(map(str, outcome.size)) if outcome.size else "",
            "\n".join(f"{bits:.3f}" for bits in outcome.bits_per_pixel),
            f"{outcome.seconds:.1f}" if outcome.status == "written" else "",
        )
    console = Console(soft_wrap=True)
    if not console.is_terminal:  # a file or a program takes lines of any length
        console.width = console.measure(table, options=console.options.update_width(MOST_COLUMNS)).maximum
    console.print(table)
