"""Many photos: which files, which output names, what is there already, what failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from colorize_cli.config import DEFAULT_MAX_PIXELS, OutputOptions, SamplingOptions
from colorize_cli.errors import ColorizeError, PhotoError

if TYPE_CHECKING:
    from colorize_cli.colorizer import Colorizer

# What a folder is searched for; a file named by hand is tried whatever its name.
_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .tif .tiff .webp .bmp .gif .pgm .ppm .pnm .jp2 .avif"
PHOTO_SUFFIXES = frozenset(_SUFFIXES.split())
COLOR_IGNORED = "photos that are in colour themselves are coloured anew; their own colours are ignored"
OUTPUT_NAME = re.compile(r"(?P<stem>.+)_color\d+$")


@dataclass(frozen=True)
class Outcome:
    """What became of one photo."""

    source: Path
    status: Literal["written", "skipped", "failed"]
    outputs: list[Path] = field(default_factory=list)
    size: tuple[int, int] | None = None  # width, height of the outputs
    bits_per_pixel: list[float] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)  # what could not be kept, and what was passed over
    error: str = ""


@dataclass(frozen=True)
class Job:
    """One photo and where its colourings go."""

    source: Path
    folder: Path

    def outputs(self, count: int, suffix: str) -> list[Path]:
        """`photo.jpg` -> `photo_color1.jpg`, ..."""
        return [self.folder / f"{self.source.stem}_color{index + 1}{suffix}" for index in range(count)]


def find_photos(inputs: Sequence[Path]) -> tuple[list[Path], list[Outcome]]:
    """The photos that `inputs` name, each once, and what cannot be had.

    A folder gives the photos directly in it, by name; hidden files are passed over, and so are pictures that
    lie beside the photo whose colouring their name says they are.
    """
    found: dict[Path, None] = {}
    problems: list[Outcome] = []
    for path in inputs:
        try:
            if not path.is_dir():
                found[path] = None
                continue
            names = sorted(p for p in path.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
        except OSError as error:
            problems.append(Outcome(path, "failed", error=f"{path}: the folder cannot be read ({error.strerror})"))
            continue
        stems = {p.stem for p in names}
        photos = []
        for name in names:
            output = OUTPUT_NAME.match(name.stem)
            if not name.name.startswith(".") and not (output and output["stem"] in stems):
                photos.append(name)
        if not photos:
            problems.append(Outcome(path, "failed", error=f"{path}: no photos in this folder"))
        found.update(dict.fromkeys(photos))
    return list(found), problems


def colorize_photos(
    colorizer: Colorizer,
    photos: Sequence[Path],
    options: SamplingOptions,
    *,
    folder: Path | None = None,
    size: Literal["original", "256"] = "original",
    force: bool = False,
    written: OutputOptions | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Callable[[Path, int], None] | None = None,
) -> Iterator[Outcome]:
    """Colour `photos` one after another; a photo that fails does not stop the rest.

    Args:
        folder: where the pictures go; beside each photo if None.
        size: `original`, the photo's own, or `256`, the model's own 256x256 RGB.
        force: write over files that exist; otherwise they stay and only what is missing is written.
        written: format, quality and metadata of the pictures.
        max_pixels: photos of more are refused.
        progress: called with the photo and the number of rows just drawn, 64 a sample.
    """
    taken: dict[Path, Path] = {}
    protected = {path.resolve() for path in photos}
    for source in photos:
        started = time.monotonic()
        job = Job(source, folder or source.parent)
        try:
            outcome = _colorize_one(
                colorizer, job, options, size, force, written or OutputOptions(), max_pixels, protected, taken, progress
            )
        except ColorizeError as error:
            outcome = Outcome(source, "failed", error=str(error))
        except OSError as error:  # a name too long, a folder that may not be looked into
            outcome = Outcome(source, "failed", error=f"{source}: {error.strerror}; use another name or --output")
        yield _timed(outcome, time.monotonic() - started)


def _timed(outcome: Outcome, seconds: float) -> Outcome:
    return Outcome(**{**vars(outcome), "seconds": seconds})


def _colorize_one(
    colorizer: Colorizer,
    job: Job,
    options: SamplingOptions,
    size: str,
    force: bool,
    written: OutputOptions,
    max_pixels: int,
    protected: set[Path],
    taken: dict[Path, Path],
    progress: Callable[[Path, int], None] | None,
) -> Outcome:
    from colorize_cli.colorizer import views
    from colorize_cli.photo import open_photo, output_suffix, save_photo

    opened = open_photo(job.source, max_pixels=max_pixels)
    count = 1 if colorizer.temperature(options) == 0 else options.samples
    outputs = job.outputs(count, output_suffix(opened, job.source.suffix, written))
    for path in outputs:
        resolved = path.resolve()
        if resolved in protected:
            raise PhotoError(f"{job.source}: {path} is itself a photo of this run; use another --output")
        if taken.setdefault(resolved, job.source) != job.source:
            raise PhotoError(f"{job.source}: {path} is already the result of {taken[resolved]}; use another --output")
    wanted = [path for path in outputs if force or not path.exists()]
    if not wanted:
        return Outcome(job.source, "skipped", outputs)
    _prepare_folder(job.folder)
    report = None if progress is None else lambda rows: progress(job.source, rows)
    predictions = colorizer.predict(views(opened), options, report)
    height, width = opened.luma.shape
    bits = []
    notes = dict.fromkeys([COLOR_IGNORED] if opened.has_color else [])
    for result in colorizer.join(opened, predictions, options):
        bits.append(result.bits_per_pixel)
        path = outputs[result.index - 1]
        if path in wanted:
            pages = result.model_pages if size == "256" else result.pages
            record = colorizer.provenance(opened, result.index, options, written, size)
            notes.update(dict.fromkeys(save_photo(pages, opened, path, written, record)))
    return Outcome(
        job.source,
        "written",
        outputs,
        (256, 256) if size == "256" else (width, height),
        bits,
        notes=list(notes),
    )


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhotoError(f"{folder}: the output folder cannot be made ({error.strerror})") from error
