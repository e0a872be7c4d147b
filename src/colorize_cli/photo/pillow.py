"""Opening files with Pillow, without its own limit on pixels: ours is checked once the size is known."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from pathlib import Path
from typing import IO

import PIL
from PIL import Image

from colorize_cli.errors import LimitError

# In which photos come. Pillow reads more: textures of games, old animations, and EPS, which it has another program run.
# They are tried in this order: TGA last, which has no mark and takes others for its own.
_FORMATS = "JPEG PNG TIFF WEBP AVIF HEIF JPEG2000 GIF BMP PPM MPO DIB PCX PSD SGI ICO QOI TGA"
FORMATS = tuple(_FORMATS.split())

_limit = threading.Lock()


def check_pixels(count: int, most: int) -> None:
    """Raises `LimitError` for more pixels than `most`."""
    if count > most:
        raise LimitError(f"more than {most:,} pixels; allow more with --max-pixels, or shrink it first")


@functools.cache
def _hush_libtiff() -> None:
    """Have the libtiff in Pillow's wheel print nothing of broken files: what is wrong is said once, by an exception.

    Pillow has no switch for it; this one is the whole process's. A libtiff of the system goes on printing.
    """
    package = Path(PIL.__file__).parent
    for library in (*package.parent.glob("pillow.libs/libtiff-*"), *package.glob(".dylibs/libtiff.*")):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)


def opened(file: IO[bytes]) -> Image.Image:
    """Pillow's image of a file, whose pixels are not decoded yet, however many they are."""
    _hush_libtiff()
    with _limit:  # Pillow's limit is the process's
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            Image.init()
            return Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = before
