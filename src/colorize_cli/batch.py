"""A batch of photos: where its pictures go, what draws them, and what every engine does with a photo.

A photo is looked at, drawn together with others, and finished. An engine decides where these three happen.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from colorize_cli import storage
from colorize_cli.config import CORE_SIZE, DEFAULT_MAX_PIXELS
from colorize_cli.errors import ColorizeError, OutputError, PassingError, PhotoError, is_shortage, shortage
from colorize_cli.locations import identity, is_url, place
from colorize_cli.outcome import Outcome, RunFacts
from colorize_cli.steps import Look, Picture, Shaping
from colorize_cli.views import mean_bits

if TYPE_CHECKING:
    from colorize_cli.colorizer import Colorizer
    from colorize_cli.config import SamplingOptions
    from colorize_cli.journal import Journal
    from colorize_cli.manifest import Manifest
    from colorize_cli.planning import Todo
    from colorize_cli.views import GrayPhoto, Prediction


@dataclass
class Destination:
    """Where pictures go and what is kept of it."""

    output: str | None  # a folder that exists; None: beside each photo, and nothing is kept
    manifest: Manifest | None = None
    journal: Journal | None = None
    force: bool = False  # write over pictures that exist
    protected: Collection[str] = ()  # `locations.places` of the run's photos: never written over

    def wanted(self, todo: Todo, outputs: list[str]) -> list[str]:
        """Those of a photo's pictures that are to be written. Raises `PhotoError` if one is a photo of the run."""
        wanted = []
        for path in outputs:
            if path in todo.done:
                continue
            if place(path) in self.protected:
                raise PassingError(f"{todo.job.source}: {path} is itself a photo of this run; use another --output")
            if self.force or path in todo.replaced or not storage.exists(path):
                wanted.append(path)
        return wanted

    def begin(self, todo: Todo, outputs: list[str]) -> None:
        """Note that pictures are about to be written."""
        if self.manifest is not None and self.journal is not None:
            name = self.manifest.name(todo.job.folder, todo.job.name)
            relative = [self.manifest.relative(path) for path in outputs]
            self.journal.begin(name, identity(todo.job.source), relative)

    def record(self, todo: Todo, outcome: Outcome, facts: RunFacts) -> Outcome:
        """Put a finished photo into the manifest; what was skipped is there or is none of ours. Returns `outcome`."""
        if self.manifest is not None:
            name = self.manifest.name(todo.job.folder, todo.job.name)
            if outcome.status != "skipped":
                self.manifest.append(facts.manifest_line(outcome, name))
            elif self.journal is not None:
                self.journal.forget(name)
        return outcome


class Engine(Protocol):
    """What colours photos, this machine or many, while it is entered."""

    facts: RunFacts

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(
        self,
        todos: Iterable[Todo],
        destination: Destination,
        *,
        progress: Callable[[str, float], None],
        should_stop: Callable[[], bool],
    ) -> Iterator[Outcome]:
        """Colour photos; a photo that fails does not stop the rest.

        Args:
            todos: the photos.
            destination: where their pictures go.
            progress: called with a photo that is drawn and how many photos more are drawn since, in parts.
            should_stop: asked before a photo is begun; those in flight are finished.

        Returns:
            Outcomes as they are there, roughly in order.

        Raises:
            OutputError: nothing can be written any more; what is finished by then is recorded.
        """
        ...


@dataclass(frozen=True, eq=False)
class Drawn:
    """A photo that was looked at and drawn, with all that finishing it takes."""

    todo: Todo
    look: Look
    pictures: list[Picture]  # all of them, also those that are there
    bits_per_pixel: list[float]
    seconds: float  # of looking and drawing


def needs_drawing(todo: Todo, look: Look, destination: Destination, samples: int) -> Outcome | None:
    """The outcome of a photo of which nothing is to be written after all; None if something is."""
    outputs = todo.job.outputs(samples, look.suffix)
    try:
        wanted = destination.wanted(todo, outputs)
    except PhotoError as error:
        return failure(todo.job.source, error)
    return None if wanted else skipped_after_all(todo, look, outputs)


def skipped_after_all(todo: Todo, look: Look, outputs: list[str]) -> Outcome:
    """The outcome of a photo that was looked at and whose pictures are there."""
    return Outcome(
        todo.job.source,
        "skipped",
        outputs,
        sha256=look.sha256,
        input_bytes=look.input_bytes,
        input_mtime_ns=look.input_mtime_ns,
        skipped="exists",
    )


# Of views: a list of samples for each, as `Colorizer.predict` does it.
Predict = Callable[[Sequence["GrayPhoto"], "SamplingOptions", Callable[[int], None]], list[list["Prediction"]]]


def draw(
    colorizer: Colorizer,
    group: Sequence[tuple[Todo, Look]],
    options: SamplingOptions,
    shaping: Shaping,
    progress: Callable[[str, float], None],
    predict: Predict,
) -> list[Drawn]:
    """Draw photos together by `predict`, which works as `colorizer` does; `progress` is called as `Engine.run` says."""
    started = time.monotonic()
    samples = colorizer.samples(options)
    names = [(todo.job.source, len(look.views)) for todo, look in group for _ in look.views]
    rows_a_view, drawn_rows = samples * CORE_SIZE, 0

    def report(rows: int) -> None:
        nonlocal drawn_rows
        name, views = names[min(drawn_rows // rows_a_view, len(names) - 1)]
        progress(name, rows / rows_a_view / views)
        drawn_rows += rows

    views = [view for _, look in group for view in look.views]
    predictions = iter(predict(views, options, report))
    seconds = (time.monotonic() - started) / len(group)
    drawn = []
    for todo, look in group:
        pictures = []
        name = os.path.basename(todo.job.source)
        outputs = todo.job.outputs(samples, look.suffix)
        photo = list(zip(*itertools.islice(predictions, len(look.views)), strict=True))  # a tuple of views a sample
        for index, path in enumerate(outputs):
            record = colorizer.provenance(name, look.sha256, index + 1, options, shaping.output, shaping.size)
            if look.pixels > DEFAULT_MAX_PIXELS:  # who makes the picture again has to allow it again
                record = replace(record, options={**record.options, "max_pixels": look.pixels})
            pictures.append(Picture(path, photo[index], record))
        drawn.append(Drawn(todo, look, pictures, [mean_bits(sample) for sample in photo], look.seconds + seconds))
    return drawn


def finish(
    drawn: Drawn,
    destination: Destination,
    shaping: Shaping,
    write: Callable[[str, str, Sequence[Picture], Shaping, str | None], tuple[tuple[int, int], list[str]]],
) -> Outcome:
    """Have `write`, which is `storage.finish` here or elsewhere, write a photo's pictures.

    Raises `OutputError` if nothing can be written any more.
    """
    started = time.monotonic()
    todo, look = drawn.todo, drawn.look
    outputs = [picture.path for picture in drawn.pictures]
    own: list[str] = []
    try:
        wanted = destination.wanted(todo, outputs)
        if not wanted:  # another run wrote them while this one drew
            return skipped_after_all(todo, look, outputs)
        own = [path for path in wanted if path in todo.replaced or not storage.exists(path)]
        destination.begin(todo, wanted)
        pictures = [picture for picture in drawn.pictures if picture.path in wanted]
        size, notes = write(todo.job.source, look.sha256, pictures, shaping, destination.output)
    except OutputError:
        raise
    except Exception as error:
        # Those that are there now are this tool's, which the next run has to know. Behind URLs none is before all are.
        written = [path for path in own if not is_url(path) and storage.exists(path)]
        return replace(failure(todo.job.source, error), outputs=written, sha256=look.sha256)
    # What else has the names of its pictures is somebody's, and not told of as if this run had made it.
    ours = [index for index, path in enumerate(outputs) if path in wanted or path in todo.done]
    return Outcome(
        todo.job.source,
        "written",
        [outputs[index] for index in ours],
        size=size,
        bits_per_pixel=[drawn.bits_per_pixel[index] for index in ours],
        seconds=drawn.seconds + time.monotonic() - started,
        sha256=look.sha256,
        input_bytes=look.input_bytes,
        input_mtime_ns=look.input_mtime_ns,
        notes=[*look.notes, *notes],
    )


def failure(source: str, error: Exception) -> Outcome:
    """The outcome of a photo that failed; an error that nobody foresaw does not end the night's run either."""
    try:
        status = os.stat(source)
        known: tuple[int | None, int | None] = (status.st_size, status.st_mtime_ns)
    except OSError:
        known = (None, None)
    if is_shortage(error):
        error = PassingError(shortage(error))
    message = str(error)
    if not isinstance(error, ColorizeError):
        message = f"not foreseen: {type(error).__name__}: {message}; please report it with the photo"
    if not message.startswith(source):
        message = f"{source}: {message}"
    final = not (isinstance(error, ColorizeError) and error.passing)
    return Outcome(source, "failed", input_bytes=known[0], input_mtime_ns=known[1], error=message, final=final)


def drawing_failure(source: str, error: Exception) -> Outcome:
    """As `failure`; what nobody foresaw while drawing is sooner the machine's trouble than the photo's: not final."""
    outcome = failure(source, error)
    return outcome if isinstance(error, ColorizeError) else replace(outcome, final=False)


def request_facts(
    sampling: SamplingOptions,
    shaping: Shaping,
    dtype: str,
    *,
    recommended: tuple[float, float],
    model: str,
    model_sha256: str,
    device: str,
    dtypes: Mapping[str, str],
    threads: int,
) -> RunFacts:
    """What is recorded with every photo of a request.

    `dtype` is the one asked for, `dtypes` those of the stages; `recommended` are the model's temperature and guidance.
    """
    temperature = recommended[0] if sampling.temperature is None else sampling.temperature
    guidance = recommended[1] if sampling.guidance is None else sampling.guidance
    drawing = {"seed": sampling.seed, "temperature": temperature, "guidance": guidance}
    options = {**drawing, **asdict(shaping), "dtype": dtype}
    del options["max_pixels"]  # shapes nothing
    samples = 1 if temperature == 0 else sampling.samples
    return RunFacts(samples, sampling.seed, temperature, options, model, model_sha256, device, dtypes, threads)


def colorizer_facts(colorizer: Colorizer, sampling: SamplingOptions, shaping: Shaping, dtype: str) -> RunFacts:
    """What is recorded with every photo that `colorizer` colours; `dtype` is the one asked for."""
    import torch

    return request_facts(
        sampling,
        shaping,
        dtype,
        recommended=(colorizer.model.temperature, colorizer.model.guidance),
        model=colorizer.model.name,
        model_sha256=colorizer.model.sha256,
        device=str(colorizer.device),
        dtypes={stage: str(dtype).removeprefix("torch.") for stage, dtype in colorizer.dtypes.items()},
        threads=torch.get_num_threads(),
    )
