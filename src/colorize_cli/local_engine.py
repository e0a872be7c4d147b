"""Photos coloured on one machine: a model in this process, copies of it that draw, and processes that look and finish.

Queues are bounded and hold no photo, only its small grays and predictions, so memory is flat over any number.
"""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from colorize_cli import storage
from colorize_cli.batch import (
    Destination,
    Drawn,
    colorizer_facts,
    draw,
    drawing_failure,
    failure,
    finish,
    needs_drawing,
)
from colorize_cli.errors import ColorizeError
from colorize_cli.outcome import Outcome, RunFacts
from colorize_cli.steps import Look, Shaping
from colorize_cli.workers import WorkerPool, default_workers

if TYPE_CHECKING:
    from colorize_cli.colorizer import Colorizer
    from colorize_cli.config import SamplingOptions
    from colorize_cli.planning import Todo
    from colorize_cli.views import GrayPhoto, Prediction

    Item: TypeAlias = tuple[Todo, Look]

MANY = 4  # photos a thread


class LocalEngine:
    """One machine: a model in this process, and processes beside it."""

    facts: RunFacts

    def __init__(
        self,
        model: str,
        device: str,
        dtype: str,
        threads: int | None,
        sampling: SamplingOptions,
        shaping: Shaping,
        photos: int,
    ) -> None:
        """For about so many `photos`; a single one needs no processes beside it: it holds up no other.

        Entering it loads the model, which raises `ModelError` or `OptionError`.
        """
        self.model, self.device, self.dtype, self.threads = model, device, dtype, threads
        self.sampling, self.shaping = sampling, shaping
        self._photos = photos
        self._pool = WorkerPool(min(default_workers(), photos), apart=photos > 1)

    def __enter__(self) -> Self:
        try:
            self._pool.warm_up()
            with uncollected():
                import torch

                from colorize_cli.colorizer import Colorizer

                self._threads_before = torch.get_num_threads()
                if self.threads is not None:
                    torch.set_num_threads(self.threads)
                self._colorizer = Colorizer.from_pretrained(self.model, self.device, self.dtype)
            self.facts = colorizer_facts(self._colorizer, self.sampling, self.shaping, self.dtype)
        except BaseException:
            self._pool.close(at_once=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch

        torch.set_num_threads(self._threads_before)
        self._pool.close(at_once=kind is not None and not issubclass(kind, ColorizeError))

    def run(
        self,
        todos: Iterable[Todo],
        destination: Destination,
        *,
        progress: Callable[[str, float], None],
        should_stop: Callable[[], bool],
    ) -> Iterator[Outcome]:
        """As `Engine` says."""
        lanes = Lanes(self._colorizer, self.sampling, self._photos)
        try:
            run = _Run(
                self._colorizer, self._pool, lanes, self.sampling, self.shaping, self.facts, destination, progress
            )
            yield from run.run(todos, should_stop)
        finally:
            lanes.close()


@contextmanager
def uncollected() -> Iterator[None]:
    """What is made here stays, and Python need not look for garbage in it: that is a tenth of loading torch."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if collects:
            gc.enable()


class _Run:
    """One run over many photos, and what is in flight."""

    def __init__(
        self,
        colorizer: Colorizer,
        pool: WorkerPool,
        lanes: Lanes,
        options: SamplingOptions,
        shaping: Shaping,
        facts: RunFacts,
        destination: Destination,
        progress: Callable[[str, float], None],
    ) -> None:
        self.colorizer, self.pool, self.lanes, self.options, self.shaping = colorizer, pool, lanes, options, shaping
        self.facts, self.destination, self.progress = facts, destination, progress
        self._reporting = threading.Lock()
        self._looking: dict[Future[Look], Todo] = {}
        self._looked: list[Item] = []
        self._drawing: dict[Future[list[Drawn]], Sequence[Item]] = {}
        self._finishing: set[Future[Outcome]] = set()

    def run(self, todos: Iterable[Todo], should_stop: Callable[[], bool]) -> Iterator[Outcome]:
        waiting = iter(todos)
        ahead = 2 * self.lanes.count * self.lanes.photos + self.pool.count
        while True:
            if should_stop():
                self._begin_no_more()
            else:
                room = ahead - len(self._looked) - len(self._looking)
                for todo in itertools.islice(waiting, max(0, room)):
                    self._looking[self.pool.submit(storage.look, todo.job.source, self.shaping)] = todo
                if len(self._finishing) <= ahead:
                    self._begin_drawing()
            in_flight: list[Future[Any]] = [*self._looking, *self._drawing, *self._finishing]
            if not in_flight:
                return
            done, _ = wait(in_flight, return_when=FIRST_COMPLETED)
            yield from self._take(done)

    def _begin_no_more(self) -> None:
        for future in self._looking:
            future.cancel()
        self._looking.clear()
        self._looked.clear()

    def _begin_drawing(self) -> None:
        """Draw what is looked at, as far as lanes are free; several photos to a lane where that pays, or the last."""
        while len(self._drawing) < self.lanes.count and self._looked:
            if len(self._looked) < self.lanes.photos and self._looking:
                return
            group, self._looked = self._looked[: self.lanes.photos], self._looked[self.lanes.photos :]
            self._drawing[self.lanes.submit(self._draw, group)] = group

    def _take(self, done: set[Future[Any]]) -> Iterator[Outcome]:
        """Pass photos on that are looked at or drawn; the outcomes of those that are at their end."""
        for look in self._looking.keys() & done:
            yield from self._take_look(self._looking.pop(look), look)
        for drawing in self._drawing.keys() & done:
            group = self._drawing.pop(drawing)
            try:
                self._finishing.update(self.pool.run(self._finish, drawn) for drawn in drawing.result())
            except CancelledError:
                raise
            except Exception as error:
                if len(group) > 1:  # alone, each has only itself to blame
                    self._drawing |= {self.lanes.submit(self._draw, [item]): [item] for item in group}
                    continue
                ((todo, _),) = group
                yield self.destination.record(todo, drawing_failure(todo.job.source, error), self.facts)
        for finishing in self._finishing & done:
            self._finishing.remove(finishing)
            yield finishing.result()

    def _take_look(self, todo: Todo, future: Future[Look]) -> Iterator[Outcome]:
        try:
            look = future.result()
            outcome = needs_drawing(todo, look, self.destination, self.facts.samples)
        except Exception as error:
            outcome = failure(todo.job.source, error)
        else:
            if outcome is None:
                self._looked.append((todo, look))
        if outcome is not None:
            yield self.destination.record(todo, outcome, self.facts)

    def _draw(self, group: Sequence[Item]) -> list[Drawn]:
        return draw(self.colorizer, group, self.options, self.shaping, self._report, self.lanes.predict)

    def _report(self, name: str, photos: float) -> None:
        if self.lanes.closed:
            raise CancelledError
        with self._reporting:
            self.progress(name, photos)

    def _finish(self, drawn: Drawn) -> Outcome:
        """Have a photo's pictures written, and write its line: as soon as they are there, not when the model rests."""
        outcome = finish(
            drawn, self.destination, self.shaping, lambda *arguments: self.pool.call(storage.finish, *arguments)
        )
        return self.destination.record(drawn.todo, outcome, self.facts)


class Lanes:
    """Where photos are with the model.

    One photo has the whole machine to itself, and so has one after another of a few with samples for all its threads.
    Of more photos on a CPU each is drawn by one thread, in a copy of this process where that is possible; on a GPU
    those of a tile together, one tile after another.
    """

    def __init__(self, colorizer: Colorizer, options: SamplingOptions, photos: int) -> None:
        """For a run over about so many `photos`."""
        import torch

        from colorize_cli.forks import alone

        self.colorizer = colorizer
        together, threads = colorizer.photos_together(options), torch.get_num_threads()
        crowded = colorizer.device.type == "cpu" and photos > 1
        if colorizer.forks and photos < MANY * threads and colorizer.samples(options) >= threads:
            crowded = False  # else threads would be idle while the last photos are drawn
        self.forks = crowded and colorizer.forks
        self.photos = 1 if crowded else together
        # Without processes of their own some more than are drawn at once, so that no thread of the model ever waits.
        self.count = min(photos, threads if self.forks else together + 1) if crowded else 1
        self.in_company = self.count > 1
        self.closed = False
        self._pool = WorkerPool(self.count, apart=self.forks, answer=alone(self._predict) if self.forks else None)

    def submit(self, draw: Callable[[Sequence[Item]], list[Drawn]], group: Sequence[Item]) -> Future[list[Drawn]]:
        """Have `draw` called with a group of photos, by a thread that may use `predict`."""
        return self._pool.run(draw, group)

    def predict(
        self, views: Sequence[GrayPhoto], options: SamplingOptions, report: Callable[[int], None]
    ) -> list[list[Prediction]]:
        """As `Colorizer.predict`. Raises `PhotoError` where a process dies over it, twice."""
        if not self.forks:
            return self._predict(report, views, options)
        predictions: list[list[Prediction]] = self._pool.ask(report, views, options)
        return predictions

    def _predict(
        self, report: Callable[[int], None], views: Sequence[GrayPhoto], options: SamplingOptions
    ) -> list[list[Prediction]]:
        return self.colorizer.predict(views, options, report, in_company=self.in_company)

    def close(self) -> None:
        """Draw no more; what is being drawn ends with its next row."""
        self.closed = True
        self._pool.close(at_once=self.forks)
