"""The options of every command that writes pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from colorize_cli.config import DEFAULT_MAX_PIXELS, FORMAT_NAMES, OutputOptions

_OPTIONS = [
    click.option("--format", type=click.Choice(FORMAT_NAMES, case_sensitive=False),
                 help="Of the pictures.  [default: the photo's own where it holds colour, else png]"),
    click.option("--quality", type=click.IntRange(1, 100), metavar="1-100",
                 help="Of jpeg, webp, avif and heic.  [default: 95, of avif and heic 90]"),
    click.option("--strip-metadata", is_flag=True, help="Leave out EXIF, XMP, IPTC and comments of the photo."),
    click.option("--no-provenance", is_flag=True,
                 help="Do not say in the picture's XMP what made it; colorize inspect then knows nothing of it."),
    click.option("--max-pixels", type=click.IntRange(min=1), default=DEFAULT_MAX_PIXELS, show_default=True,
                 metavar="N", help="Refuse photos of more, in all their pages."),
]  # fmt: skip


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets them as `written`, an `OutputOptions`, and `max_pixels`."""

    @functools.wraps(command)
    def with_written(
        *args: Any, format: str | None, quality: int | None, strip_metadata: bool, no_provenance: bool, **others: Any
    ) -> Any:
        written = OutputOptions(format, quality, strip_metadata, provenance=not no_provenance)
        return command(*args, written=written, **others)

    wrapped: Callable[..., Any] = with_written
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
