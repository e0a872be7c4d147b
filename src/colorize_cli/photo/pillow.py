"""Opening files with Pillow, without its own limit on pixels: ours is checked once the size is known."""

from __future__ import annotations

import threading
from typing import IO

from PIL import Image

_limit = threading.Lock()


def opened(file: IO[bytes]) -> Image.Image:
    """Pillow's image of a file, whose pixels are not decoded yet, however many they are."""
    with _limit:  # Pillow's limit is the process's
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = before
