"""Photos coloured by Ray Data, on one machine or many: the same steps, the same bytes.

Photos travel as paths, grays and predictions; what fails travels as an outcome, never as an exception. The driver
alone writes the manifest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

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
    request_facts,
)
from colorize_cli.errors import ColorizeError, ModelError, OptionError, OutputError, PhotoError
from colorize_cli.locations import identity
from colorize_cli.outcome import Outcome, RunFacts
from colorize_cli.photo import likely_suffix
from colorize_cli.steps import Look, Shaping
from colorize_cli.workers import ATTEMPTS

if TYPE_CHECKING:
    from colorize_cli.config import SamplingOptions
    from colorize_cli.planning import Todo

# Shares of a processor that are asked for, small enough for two workers and their helpers on two cores.
ACTOR_CPUS = 0.5
TASK_CPUS = 0.25
SAMPLES_TOGETHER = 4  # of several photos, handed to a model at once
MOST_BLOCKS = 20_000  # one photo a block for as many, so that all machines have something to do
CONNECT_SECONDS = 10  # until a cluster is taken for unreachable
STOP_SECONDS = 0.2  # between looks at whether to stop

Row = dict[str, Any]  # {"work": a pickled _Work}


@dataclass
class _Work:
    """A photo on its way through the stages."""

    number: int  # of the photo in the run
    todo: Todo
    look: Look | None = None
    drawn: Drawn | None = None
    outcome: Outcome | None = None  # once there is one, the photo is only handed on
    facts: RunFacts | None = None  # of the worker that drew it
    hopeless: bool = False  # whether no picture can be written any more


class RayEngine:
    """A Ray cluster, or Ray on this machine."""

    facts: RunFacts

    def __init__(
        self,
        model: str,
        device: str,
        dtype: str,
        threads: int | None,
        sampling: SamplingOptions,
        shaping: Shaping,
        *,
        address: str | None = None,
        workers: int | None = None,
    ) -> None:
        """A run by `workers` models (None: as many as the cluster has room for).

        Entering it starts Ray, or joins the cluster at `address`; raises `OptionError` if that cannot be done.
        """
        self.model, self.device, self.dtype, self.threads = model, device, dtype, threads
        self.sampling, self.shaping = sampling, shaping
        self.address, self.workers = address, workers
        self._started_ray = False

    def __enter__(self) -> Self:
        import torch

        self.threads = self.threads or torch.get_num_threads()
        self.facts = _description_facts(self.model, self.sampling, self.shaping, self.device, self.dtype, self.threads)
        ray = _import_ray()
        warnings.filterwarnings("ignore", module=r"ray\.")  # of its own settings, and of short runs
        if not ray.is_initialized():
            _check_reachable(self.address)
            try:
                ray.init(self.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise OptionError(f"Ray cannot be started or joined at {self.address}: {_reason(error)}") from error
            self._started_ray = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started_ray:
            _import_ray().shutdown()

    def run(
        self,
        todos: Iterable[Todo],
        destination: Destination,
        *,
        progress: Callable[[str, float], None],
        should_stop: Callable[[], bool],
    ) -> Iterator[Outcome]:
        """As `batch.Engine` says; there is no progress but outcomes, and the name of the photo that has its own."""
        waiting = dict(enumerate(todos))
        for todo in waiting.values():
            self._announce(todo, destination)
        with _ledger(should_stop) as ledger:
            try:
                for row in self._dataset(waiting, destination, ledger).iter_rows():
                    work: _Work = pickle.loads(row["work"])
                    if work.hopeless and work.outcome is not None:
                        raise OutputError(work.outcome.error)
                    todo = waiting.pop(work.number)
                    self.facts = work.facts or self.facts
                    if work.outcome is not None:
                        progress(todo.job.source, 0.0)
                        yield destination.record(todo, _as_given(work.outcome, todo), self.facts)
            except ColorizeError:
                raise
            except Exception as error:  # Ray wraps whatever a worker raised
                raise ModelError(f"the Ray run failed: {_reason(error)}") from error

    def _announce(self, todo: Todo, destination: Destination) -> None:
        """Note which pictures of a photo may be written; in which format, only those who open it will know."""
        suffix, asked = os.path.splitext(todo.job.source)[1], self.shaping.output.format
        suffixes = dict.fromkeys((suffix, likely_suffix(suffix, asked), ".png" if asked is None else f".{asked}"))
        outputs = [path for suffix in suffixes for path in todo.job.outputs(self.facts.samples, suffix)]
        if destination.journal is not None:
            with contextlib.suppress(PhotoError):  # one is a photo of the run: this one will fail
                destination.begin(todo, destination.wanted(todo, outputs))

    def _dataset(self, todos: dict[int, Todo], destination: Destination, ledger: Any) -> Any:
        """The stages, not yet running."""
        ray = _import_ray()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # What tasks need of the destination: the manifest and the journal are the driver's.
        output = None if destination.output is None else identity(destination.output)
        remote = Destination(output, force=destination.force)
        workers, gpus = self._places()
        blocks = min(len(todos), MOST_BLOCKS)
        rows = [{"work": pickle.dumps(_Work(number, _everywhere(todo)))} for number, todo in todos.items()]
        assert self.threads is not None
        arguments = (
            self.model, self.facts.model_sha256, self.device, self.dtype, self.threads, self.sampling, self.shaping
        )  # fmt: skip

        class Painter(_Painter):
            """It has its arguments with it: from the object store they might be gone when an actor starts anew."""

            def __init__(self) -> None:
                super().__init__(*arguments, ledger)

        dataset = ray.data.from_items(rows, override_num_blocks=max(1, blocks))
        dataset = dataset.map(_look, fn_args=(self.shaping, remote, self.facts.samples, ledger), num_cpus=TASK_CPUS)
        dataset = dataset.map_batches(
            Painter,
            batch_size=max(1, SAMPLES_TOGETHER // self.facts.samples),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=ACTOR_CPUS,
            num_gpus=gpus,
        )
        return dataset.map(_finish, fn_args=(self.shaping, remote, ledger), num_cpus=TASK_CPUS)

    def _places(self) -> tuple[int, float]:
        """How many models work at once, and the GPUs each asks for."""
        resources = _import_ray().cluster_resources()
        there = int(resources.get("GPU", 0))
        if self.device.startswith("cuda") or (self.device == "auto" and there):
            return self.workers or max(1, there), 1
        assert self.threads is not None
        return self.workers or max(1, int(resources.get("CPU", 1) // self.threads)), 0


def _everywhere(todo: Todo) -> Todo:
    """A photo's job, by names that a process with another working folder understands."""
    job = replace(todo.job, source=identity(todo.job.source), folder=identity(todo.job.folder))
    done, replaced = (frozenset(map(identity, paths)) for paths in (todo.done, todo.replaced))
    return replace(todo, job=job, done=done, replaced=replaced)


def _as_given(outcome: Outcome, todo: Todo) -> Outcome:
    """An outcome by the names that the command was given."""
    source = todo.job.source
    return replace(
        outcome,
        source=source,
        outputs=[os.path.join(todo.job.folder, os.path.basename(path)) for path in outcome.outputs],
        error=outcome.error.replace(identity(source), source),
        notes=[note.replace(identity(source), source) for note in outcome.notes],
    )


def _look(row: Row, shaping: Shaping, destination: Destination, samples: int, ledger: Any) -> Row:
    """First stage, in a task: the model's view of a photo."""
    work: _Work = pickle.loads(row["work"])
    try:
        if _begin(ledger, "look", work):
            work.look = storage.look(work.todo.job.source, shaping)
            work.outcome = needs_drawing(work.todo, work.look, destination, samples)
    except Exception as error:
        work.outcome = failure(work.todo.job.source, error)
    return {"work": pickle.dumps(work)}


class _Painter:
    """Second stage, in an actor that loads the model once: photos drawn together."""

    def __init__(
        self,
        model: str,
        model_sha256: str,
        device: str,
        dtype: str,
        threads: int,
        sampling: SamplingOptions,
        shaping: Shaping,
        ledger: Any,
    ) -> None:
        import torch

        from colorize_cli.colorizer import Colorizer

        torch.set_num_threads(threads)
        self.colorizer = Colorizer.from_pretrained(model, device, dtype)
        self.colorizer.forks = False  # Ray has threads of its own in this process
        if self.colorizer.model.sha256 != model_sha256:
            raise ModelError(f"{model} is another model on this node: its sha256 is {self.colorizer.model.sha256}")
        self.sampling, self.shaping, self.ledger = sampling, shaping, ledger
        self.facts = colorizer_facts(self.colorizer, sampling, shaping, dtype)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        works: list[_Work] = [pickle.loads(content) for content in batch["work"]]
        group = [work for work in works if work.outcome is None and work.look is not None]
        try:
            begun = [_begin(self.ledger, "draw", work, attempts=1) for work in group]
            if all(begun):
                self._draw(group)
        except Exception:  # an actor died over these photos, or failed: alone, each has only itself to blame
            for work in group:
                try:
                    if _begin(self.ledger, "draw alone", work):
                        self._draw([work])
                        _import_ray().get(self.ledger.forget.remote("draw alone", work.number))
                except Exception as error:
                    work.outcome = drawing_failure(work.todo.job.source, error)
        return {"work": [pickle.dumps(work) for work in works]}

    def _draw(self, works: list[_Work]) -> None:
        pairs = [(work.todo, work.look) for work in works if work.look is not None]
        if pairs:
            photos = draw(
                self.colorizer, pairs, self.sampling, self.shaping, lambda name, part: None, self.colorizer.predict
            )
            for work, drawn in zip(works, photos, strict=True):
                work.drawn, work.look, work.facts = drawn, None, self.facts


def _finish(row: Row, shaping: Shaping, destination: Destination, ledger: Any) -> Row:
    """Third stage, in a task: a photo's pictures."""
    work: _Work = pickle.loads(row["work"])
    if work.outcome is None and work.drawn is not None:
        try:
            _begin(ledger, "finish", work)
            work.outcome = finish(work.drawn, destination, shaping, storage.finish)
        except OutputError as error:
            work.outcome, work.hopeless = failure(work.todo.job.source, error), True
        except Exception as error:
            work.outcome = failure(work.todo.job.source, error)
        work.drawn = None
    return {"work": pickle.dumps(work)}


def _begin(ledger: Any, stage: str, work: _Work, attempts: int = ATTEMPTS) -> bool:
    """Whether a photo that is not in flight yet is to be begun. Raises `PhotoError` if it kills whoever begins it."""
    begun, stop = _import_ray().get(ledger.begin.remote(stage, work.number))
    if begun > attempts:
        raise PhotoError(f"the process at work was killed {attempts} times over this photo; it may need more memory")
    return not stop


class _Ledger:
    """An actor that counts for the tasks of all machines: Ray starts a task anew whenever its process dies."""

    def __init__(self) -> None:
        self.begun: Counter[tuple[str, int]] = Counter()
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def begin(self, stage: str, number: int) -> tuple[int, bool]:
        """How often a stage of a photo was begun, this time included, and whether the run is to stop."""
        self.begun[stage, number] += 1
        return self.begun[stage, number], self.stopped

    def forget(self, stage: str, number: int) -> None:
        """A stage of a photo killed nobody."""
        del self.begun[stage, number]


@contextlib.contextmanager
def _ledger(should_stop: Callable[[], bool]) -> Iterator[Any]:
    """A ledger that is told when `should_stop` says so."""
    ledger = _import_ray().remote(num_cpus=0)(_Ledger).remote()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(STOP_SECONDS):
            if should_stop():
                ledger.stop.remote()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield ledger
    finally:
        over.set()
        thread.join()


def _description_facts(
    model: str, sampling: SamplingOptions, shaping: Shaping, device: str, dtype: str, threads: int
) -> RunFacts:
    """What is recorded with every photo, as far as it is known without loading the model."""
    from colorize_cli.checkpoints import DESCRIPTION, find_model, read_description
    from colorize_cli.digests import file_sha256

    folder = find_model(model)
    description = read_description(folder)
    return request_facts(
        sampling,
        shaping,
        dtype,
        recommended=(float(description["temperature"]), float(description["guidance"])),
        model=description["name"],
        model_sha256=file_sha256(folder / DESCRIPTION),
        device=device,
        dtypes={},
        threads=threads,
    )


def _check_reachable(address: str | None) -> None:
    """Raises `OptionError` where nothing listens at `host:port`: Ray itself would ask there for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise OptionError(f"no Ray cluster answers at {address} ({_reason(error)}); check --address") from error


def _reason(error: Exception) -> str:
    """The last line of what may be a worker's whole traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise OptionError("engine ray needs another package: pip install 'ray[data]'") from error
    return ray
