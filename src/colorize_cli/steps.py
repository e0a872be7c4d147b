"""The two steps of a photo beside the model: look at it, and finish its pictures. The one place for both.

Both open the photo anew, so that between them nothing the size of a photo is kept. Neither loads torch.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from colorize_cli.ahead import one_ahead
from colorize_cli.config import DEFAULT_MAX_PIXELS, OutputOptions
from colorize_cli.errors import ColorizeError, LimitError, OutputError, PhotoError, no_such_file
from colorize_cli.photo import Photo, check_size, format_of, open_photo, output_suffix, save_photo
from colorize_cli.provenance import Provenance
from colorize_cli.views import GrayPhoto, Prediction, color_maps, join, model_pages, views

COLOR_IGNORED = "photos that are in colour themselves are coloured anew; their own colours are ignored"
LARGE = 50_000_000  # bytes of luma
# What no other picture can be written after either.
HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True)
class Shaping:
    """What of the options shapes a picture beside the model."""

    saturation: float = 1.0
    size: Literal["original", "256"] = "original"
    output: OutputOptions = field(default_factory=OutputOptions)
    max_pixels: int = DEFAULT_MAX_PIXELS  # photos of more are refused


@dataclass(frozen=True, eq=False)
class Look:
    """What the first step found."""

    views: list[GrayPhoto]  # all that the model is to see of the photo
    suffix: str  # of the pictures
    pixels: int  # of the photo, in all its pages
    notes: list[str]  # what was passed over
    sha256: str  # of the photo's file
    input_bytes: int  # of the photo's file, as is the next
    input_mtime_ns: int
    seconds: float  # that looking took


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture to be written."""

    path: str
    samples: Sequence[Prediction]  # of all of the photo's views
    provenance: Provenance


class StepError(ColorizeError):
    """A photo that failed, from a process that may be another one: plain enough to cross over."""

    def __init__(self, message: str, passing: bool = True) -> None:
        super().__init__(message, passing)
        self.passing = passing

    def __str__(self) -> str:
        return str(self.args[0])


def look(source: str, shaping: Shaping) -> Look:
    """Open a photo and take the model's view of it. Raises `StepError`."""
    started = time.monotonic()
    opened, status = _open(source, shaping)
    try:
        suffix = output_suffix(opened, os.path.splitext(source)[1], shaping.output)
        if shaping.size == "original":
            check_size(format_of(Path(f"photo{suffix}")), max(max(page.luma.shape) for page in opened.pages))
    except PhotoError as error:
        raise StepError(str(error)) from error
    notes = [COLOR_IGNORED] if opened.has_color else []
    if opened.damage:
        notes.append(f"{source}: damaged, and parts of it may be lost ({opened.damage}); copy it again if you can")
    if opened.lost:
        notes.append(f"{source}: left out: {', '.join(opened.lost)}")
    return Look(
        views=views(opened),
        suffix=suffix,
        pixels=sum(page.luma.size for page in opened.pages),
        notes=notes,
        sha256=opened.sha256,
        input_bytes=status.st_size,
        input_mtime_ns=status.st_mtime_ns,
        seconds=time.monotonic() - started,
    )


def finish(
    source: str, sha256: str, pictures: Sequence[Picture], shaping: Shaping, root: str | None = None
) -> tuple[tuple[int, int], list[str]]:
    """Join predicted colours to a photo and write the pictures.

    Args:
        source: the photo.
        sha256: of its file, when it was looked at.
        pictures: what to write where.
        shaping: how.
        root: the output folder: it must still be there, and folders are made below it.

    Returns:
        Width and height of the pictures, and what they could not keep.

    Raises:
        StepError: the photo changed or went away, or this picture cannot be written.
        OutputError: no picture can.
    """
    opened, _ = _open(source, shaping)
    if opened.sha256 != sha256:
        raise StepError(f"{source}: the file changed while it was coloured; start again")
    notes: dict[str, None] = {}

    def joined(picture: Picture) -> tuple[np.ndarray, ...]:
        maps = color_maps(opened, picture.samples)
        return model_pages(maps) if shaping.size == "256" else join(opened, maps, shaping.saturation)

    # Two large pictures at once would take much memory.
    large = sum(page.luma.nbytes for page in opened.pages) > LARGE
    colored = map(joined, pictures) if large else one_ahead(joined, pictures)
    for picture in pictures:
        pages = next(colored)
        if root is not None and not os.path.isdir(root):
            raise OutputError(f"{root}: the output folder is gone")
        folder = os.path.dirname(picture.path) or "."
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            _give_up(error, f"{folder}: the output folder cannot be made ({error.strerror})")
        try:
            lost = save_photo(pages, opened, Path(picture.path), shaping.output, picture.provenance)
        except PhotoError as error:
            _give_up(error.__cause__, str(error))
        notes.update(dict.fromkeys(lost))
        height, width = pages[0].shape[:2]
        del pages
    return (width, height), list(notes)


def _give_up(cause: BaseException | None, message: str) -> NoReturn:
    if isinstance(cause, OSError) and cause.errno in HOPELESS:
        raise OutputError(message) from cause
    raise StepError(message) from cause


def _open(source: str, shaping: Shaping) -> tuple[Photo, os.stat_result]:
    """A photo, and what the file system says of its file."""
    try:
        status = os.stat(source)
        return open_photo(source, max_pixels=shaping.max_pixels), status
    except PhotoError as error:
        cause = error.__cause__
        passing = isinstance(error, LimitError) or (isinstance(cause, OSError) and cause.errno is not None)
        raise StepError(str(error), passing) from cause
    except FileNotFoundError as error:
        raise StepError(no_such_file(source)) from error
    except OSError as error:  # its name is too long, its folder may not be entered
        raise StepError(f"{source}: cannot be read ({error.strerror}); check the name and the rights") from error
