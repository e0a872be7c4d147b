"""Photos coloured on one machine: a model in this process, and processes beside it that look and finish.

Queues are bounded and hold no photo, only its small grays and predictions, so memory is flat over any number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from colorize_cli import storage
from colorize_cli.batch import Destination, Drawn, colorizer_facts, draw, failure, finish, needs_drawing
from colorize_cli.errors import ColorizeError
from colorize_cli.outcome import Outcome, RunFacts
from colorize_cli.steps import Look, Shaping
from colorize_cli.workers import WorkerPool, default_workers

if TYPE_CHECKING:
    from colorize_cli.colorizer import Colorizer
    from colorize_cli.config import SamplingOptions
    from colorize_cli.planning import Todo


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
        self._pool = WorkerPool(min(default_workers(), photos), apart=photos > 1)

    def __enter__(self) -> Self:
        try:
            self._pool.warm_up()
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
        return _Run(self._colorizer, self._pool, self.sampling, self.shaping, self.facts, destination, progress).run(
            todos, should_stop
        )


class _Run:
    """One run over many photos, and what is in flight."""

    def __init__(
        self,
        colorizer: Colorizer,
        pool: WorkerPool,
        options: SamplingOptions,
        shaping: Shaping,
        facts: RunFacts,
        destination: Destination,
        progress: Callable[[str, float], None],
    ) -> None:
        self.colorizer, self.pool, self.options, self.shaping = colorizer, pool, options, shaping
        self.facts, self.destination, self.progress = facts, destination, progress
        self.together = colorizer.photos_together(options)
        self._looking: dict[Future[Look], Todo] = {}
        self._finishing: set[Future[Outcome]] = set()

    def run(self, todos: Iterable[Todo], should_stop: Callable[[], bool]) -> Iterator[Outcome]:
        waiting = iter(todos)
        looked: list[tuple[Todo, Look]] = []
        ahead = 2 * self.together + self.pool.count
        while not should_stop():
            for todo in itertools.islice(waiting, max(0, ahead - len(looked) - len(self._looking))):
                self._looking[self.pool.submit(storage.look, todo.job.source, self.shaping)] = todo
            if not self._looking and not looked:
                break
            if self._looking and len(looked) < self.together:
                yield from self._take_looks(looked)
                continue
            group, looked = looked[: self.together], looked[self.together :]
            for drawn in draw(self.colorizer, group, self.options, self.shaping, self.progress):
                self._finishing.add(self.pool.run(self._finish, drawn))
            while len(self._finishing) > ahead:
                yield from self._finished()
        for future in self._looking:
            future.cancel()
        while self._finishing:
            yield from self._finished()

    def _take_looks(self, looked: list[tuple[Todo, Look]]) -> Iterator[Outcome]:
        """Wait until a photo is looked at, or finished; sort those that are into `looked` and outcomes."""
        both: list[Future[Any]] = [*self._looking, *self._finishing]
        done, _ = wait(both, return_when=FIRST_COMPLETED)
        for future in [future for future in self._looking if future in done]:
            todo = self._looking.pop(future)
            try:
                look = future.result()
                outcome = needs_drawing(todo, look, self.destination, self.facts.samples)
                if outcome is None:
                    looked.append((todo, look))
            except Exception as error:
                outcome = failure(todo.job.source, error)
            if outcome is not None:
                yield self.destination.record(todo, outcome, self.facts)
        if done & self._finishing:
            yield from self._finished()

    def _finish(self, drawn: Drawn) -> Outcome:
        """Have a photo's pictures written, and write its line: as soon as they are there, not when the model rests."""
        outcome = finish(
            drawn, self.destination, self.shaping, lambda *arguments: self.pool.call(storage.finish, *arguments)
        )
        return self.destination.record(drawn.todo, outcome, self.facts)

    def _finished(self) -> Iterator[Outcome]:
        """Wait for pictures; the outcomes of those that are written."""
        done, self._finishing = wait(self._finishing, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
