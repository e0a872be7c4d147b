"""What a step of training sees: a function of the seed and the step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from colorize_cli.config import NUM_COLORS, NUM_LEVELS
from colorize_cli.models.layers import Window
from colorize_cli.palette import rgb_to_bins
from colorize_cli.training.data import PhotoCache, core_sample

BITS = 1 / math.log(2)  # in a nat


@dataclass(frozen=True)
class Source:
    """A cache of photographs and its share of every batch."""

    photos: PhotoCache
    share: float


class Task(Protocol):
    """One stage's training."""

    batch: int  # photographs a process learns from at once

    def loss(self, model: nn.Module, step: int, places: range) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of the photographs at `places` of step `step`'s whole batch, and figures to log.

        A function of the seed, the step and the places alone: however many processes share a step, it is the same.
        """

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Validation figures; lower is better."""

    def sheet(self, model: nn.Module) -> np.ndarray | None:
        """A picture `(H, W, 3)` uint8 to look at: a few photographs of each validation set in rows, gray, true and as
        the model has them; None where none were asked for."""


class StepRandom:
    """The random streams of one step: one that all its photographs share, and one of each photograph's own."""

    def __init__(self, seed: int, step: int) -> None:
        self.seed, self.step = seed, step
        self.shared = np.random.default_rng((seed, step))

    def of_photo(self, place: int) -> np.random.Generator:
        """The stream of the photograph at `place` of the whole batch."""
        return np.random.default_rng((self.seed, self.step, place))


def draw_photo(sources: list[Source], rng: np.random.Generator) -> np.ndarray:
    """A photo from a source drawn by its share: `HWC uint8, 0..255`."""
    shares = np.array([source.share for source in sources])
    photos = sources[int(rng.choice(len(sources), p=shares / shares.sum()))].photos
    return photos[int(rng.integers(len(photos)))]


def draw_windows(rng: np.random.Generator, size: int, sides: Sequence[int]) -> list[Window]:
    """Pieces of a `size` x `size` canvas, each within the one before and with the area of a square of its side.

    All are such squares, or all are strips of full length, which show attention all distances at the price of the
    square. The sides must not grow.
    """
    form = int(rng.integers(3))
    windows, around = [], Window(0, 0, size, size)
    for side in sides:
        side = min(side, size)
        strip = max(1, side * side // size)
        height, width = ((side, side), (size, strip), (strip, size))[form]
        top = around.top + int(rng.integers(around.height - height + 1))
        left = around.left + int(rng.integers(around.width - width + 1))
        around = Window(top, left, height, width)
        windows.append(around)
    return windows


def count_table(sources: list[Source], size: int, photos: int = 4000, seed: int = 0) -> Tensor:
    """Log-probability of each colour given the gray, `(256, 512)`, counted and smoothed over neighbouring grays."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((NUM_LEVELS, NUM_COLORS))
    for _ in range(photos):
        sample = core_sample(draw_photo(sources, rng), None, size)
        np.add.at(counts, (sample.gray.ravel(), rgb_to_bins(sample.rgb.astype(np.int64)).ravel()), 1)
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    counts = np.apply_along_axis(lambda c: np.convolve(c, kernel, mode="same"), 0, counts)
    probability = (counts + 1e-4) / (counts + 1e-4).sum(axis=1, keepdims=True)
    return torch.from_numpy(np.log(probability)).float()


def chosen(photos: PhotoCache, count: int) -> list[int]:
    """`count` photos spread evenly over a cache: always the same."""
    places = np.linspace(0, len(photos) - 1, min(count, len(photos)))
    return [int(place) for place in places]


def contact_sheet(rows: list[list[np.ndarray]], cell: int = 128) -> np.ndarray:
    """Square pictures `(S, S)` or `(S, S, 3)` uint8, enlarged to blocks where they are small, in a grid."""

    def tile(picture: np.ndarray) -> np.ndarray:
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=-1)
        times = max(1, cell // len(picture))
        return picture.repeat(times, axis=0).repeat(times, axis=1)

    return np.concatenate([np.concatenate([tile(picture) for picture in row], axis=1) for row in rows])
