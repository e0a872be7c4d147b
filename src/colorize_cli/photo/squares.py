"""The squares that the model sees of a photo, and how their colours become one picture again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from colorize_cli.config import BACKBONE_SIZE, CORE_SIZE, FULL_SIZE
from colorize_cli.photo.luma import to_8_bits

LONGEST = 2.0  # times its shorter side: a photo up to this is seen whole, squashed to a square
OVERLAP = 1 / 3  # least share of a square that the next one sees, too
MOST_SQUARES = 16  # of one photo; beyond about 11 to 1 squares become oblongs


@dataclass(frozen=True)
class Layout:
    """Where the squares of a photo lie along its longer side, in pixels of the photo and of its colours."""

    tall: bool  # whether the longer side is the height
    photo_spans: tuple[tuple[int, int], ...]
    map_length: int  # of the colours' longer side; their shorter one has 256 pixels
    map_starts: tuple[int, ...]


def layout(height: int, width: int) -> Layout:
    """How a photo of this size is seen: whole up to 2:1, beyond it in overlapping squares along its longer side."""
    long, short = max(height, width), min(height, width)
    ratio = long / short
    tall = height > width
    if ratio <= LONGEST:
        return Layout(tall, ((0, long),), FULL_SIZE, (0,))
    count = min(math.ceil((ratio - 1) / (1 - OVERLAP)) + 1, MOST_SQUARES)
    # The colours' own grid comes first, so that neighbours meet pixel on pixel.
    most = FULL_SIZE * (1 + (count - 1) * (1 - OVERLAP))
    length = round(min(FULL_SIZE * ratio, most))
    starts = tuple(round(index * (length - FULL_SIZE) / (count - 1)) for index in range(count))
    scale = long / length
    spans = tuple(
        (round(start * scale), max(round((start + FULL_SIZE) * scale), round(start * scale) + 1)) for start in starts
    )
    return Layout(tall, spans, length, starts)


def squares(luma: np.ndarray) -> list[np.ndarray]:
    """What the model sees of a photo's luma `(H, W)`, one after another; the whole of it up to 2:1."""
    found = layout(*luma.shape)
    return [luma[first:last] if found.tall else luma[:, first:last] for first, last in found.photo_spans]


def joined_squares(colors: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """The colours of a photo `(h, w, 3)` from those of its squares, `(256, 256, 3)` uint8 each.

    One square is given back as it is. More are float32, each fading into the next over all that both see; the
    shorter side has 256 pixels.
    """
    found = layout(height, width)
    if len(colors) == 1:
        return colors[0]
    total = np.zeros((found.map_length, FULL_SIZE, 3), dtype=np.float32)
    weights = np.zeros((found.map_length, 1, 1), dtype=np.float32)
    for index, (start, square) in enumerate(zip(found.map_starts, colors, strict=True)):
        weight = np.ones(FULL_SIZE, dtype=np.float32)
        for other, end in ((index - 1, 0), (index + 1, -1)):
            if 0 <= other < len(colors):
                shared = FULL_SIZE - abs(found.map_starts[other] - start)
                ramp = np.sin((np.arange(shared, dtype=np.float32) + 0.5) * (np.pi / 2 / shared)) ** 2
                part = weight[:shared] if end == 0 else weight[-shared:][::-1]
                part *= ramp
        along = square.astype(np.float32) if found.tall else square.astype(np.float32).transpose(1, 0, 2)
        total[start : start + FULL_SIZE] += along * weight[:, None, None]
        weights[start : start + FULL_SIZE] += weight[:, None, None]
    total /= weights
    return total if found.tall else np.ascontiguousarray(total.transpose(1, 0, 2))


def square_grays(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luma `(H, W)` uint8 or uint16 squashed to `(256, 256)` and `(64, 64)` uint8.

    Box filter; the small one from the large one, rounding each time. A side under 256 is enlarged by bicubic,
    and the small gray is then taken straight from the photo.
    """
    luma = to_8_bits(luma)
    full = squash(luma, FULL_SIZE)
    straight = min(luma.shape) < FULL_SIZE
    return full, squash(luma if straight else full, CORE_SIZE)


def squash(pixels: np.ndarray, size: int) -> np.ndarray:
    """`(H, W)` or `(H, W, 3)` uint8 to a square: sides shrink by box and grow by bicubic."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if min(image.size) >= size:
        return np.asarray(image.resize((size, size), Image.Resampling.BOX))
    width, height = min(image.width, size), min(image.height, size)
    image = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def backbone_view(pixels: np.ndarray, size: int = BACKBONE_SIZE) -> np.ndarray:
    """What the backbone sees, `(size, size)` uint8 of the sharpest square gray there is (or of RGB), by bicubic."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
