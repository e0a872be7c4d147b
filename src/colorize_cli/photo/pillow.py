"""Opening files with Pillow, without its own limit on pixels: ours is checked once the size is known."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
from pathlib import Path
from typing import IO

import PIL
from PIL import Image, PngImagePlugin

from colorize_cli.errors import LimitError

# In which photos come. Pillow reads more: textures of games, old animations, and EPS, which it has another program run.
# They are tried in this order: TGA last, which has no mark and takes others for its own.
_FORMATS = "JPEG PNG TIFF WEBP AVIF HEIF JPEG2000 GIF BMP PPM MPO DIB PCX PSD SGI ICO QOI TGA"
FORMATS = tuple(_FORMATS.split())
MOST_TEXT = 2**24  # bytes of one text or profile of a PNG: large profiles have more than the one of Pillow's limit

_limit = threading.Lock()


def check_pixels(count: int, most: int) -> None:
    """Raises `LimitError` for more pixels than `most`."""
    if count > most:
        raise LimitError(f"more than {most:,} pixels; allow more with --max-pixels, or shrink it first")


@functools.cache
def _prepare() -> None:
    """Have Pillow take large profiles, and print nothing of broken files: what is wrong is said once, by an exception.

    All of this is the whole process's. Pillow has no switch for the libtiff in its wheel; one of the system goes on
    printing.
    """
    PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, MOST_TEXT)
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints where nobody else listens
    package = Path(PIL.__file__).parent
    for library in (*package.parent.glob("pillow.libs/libtiff-*"), *package.glob(".dylibs/libtiff.*")):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)


def opened(file: IO[bytes]) -> Image.Image:
    """Pillow's image of a file, whose pixels are not decoded yet, however many they are."""
    _prepare()
    with _limit:  # Pillow's limit is the process's
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            Image.init()
            return Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = before
