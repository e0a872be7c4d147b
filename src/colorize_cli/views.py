"""What passes between a photo and the model: the photo as the model sees it, and what the model says of it.

Nothing here loads torch, so that a process that only reads and writes photos stays small and starts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from colorize_cli import chroma, photo


@dataclass(frozen=True, eq=False)
class GrayPhoto:
    """A photo as the model sees it; made by `see`."""

    gray_256: np.ndarray  # (256, 256) uint8, also what keys the noise
    gray_64: np.ndarray  # (64, 64) uint8
    backbone_gray: np.ndarray  # (224, 224) uint8


def views(opened: photo.Photo) -> list[GrayPhoto]:
    """All that the model sees of a photo: every page, in overlapping squares where it is longer than 2:1."""
    return [see(square) for page in opened.pages for square in photo.squares(page.luma)]


def see(luma: np.ndarray) -> GrayPhoto:
    """The model's view of a luma `(H, W)` uint8 or uint16: the whole of it, squashed to squares."""
    gray_256, gray_64 = photo.square_grays(luma)
    small = max(luma.shape) <= gray_64.shape[0]
    return GrayPhoto(gray_256, gray_64, photo.backbone_view(gray_64 if small else gray_256))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the three stages say of one sample of a photo, whatever the photo's size."""

    index: int  # sample number, from 1
    bins: np.ndarray  # (64, 64) int16, 0..511
    low_res: np.ndarray  # (64, 64, 3) uint8, the colour upsampler's RGB
    rgb: np.ndarray  # (256, 256, 3) uint8, the spatial upsampler's RGB
    bits_per_pixel: float  # the core's own at temperature 1


def mean_bits(samples: Sequence[Prediction]) -> float:
    """Bits per pixel of one sample of a photo, over all of its views."""
    return sum(sample.bits_per_pixel for sample in samples) / len(samples)


def color_maps(opened: photo.Photo, samples: Sequence[Prediction]) -> list[np.ndarray]:
    """The predicted colours `(h, w, 3)` float32 of each page, from those of all of the photo's `views`."""
    left = iter(samples)
    maps = []
    for page in opened.pages:
        colors = [next(left).rgb for _ in photo.squares(page.luma)]
        maps.append(photo.joined_squares(colors, *page.luma.shape))
    return maps


def join(opened: photo.Photo, maps: Sequence[np.ndarray], saturation: float) -> tuple[np.ndarray, ...]:
    """Each page with its predicted colours under its own luminance: `(H, W, 3)` of its luma's size and kind."""
    return tuple(chroma.join(page.luma, colors, saturation) for page, colors in zip(opened.pages, maps, strict=True))


def model_pages(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Each page's predicted colours alone, `(h, w, 3)` uint8."""
    return tuple(np.rint(colors).astype(np.uint8) for colors in maps)
