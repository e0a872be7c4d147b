"""What the model sees of a photo, and how its squares become one picture again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from colorize_cli.photo import backbone_view, joined_squares, square_grays, squares
from colorize_cli.photo.squares import MOST_SQUARES, layout

SIZES = [(100, 201), (100, 250), (300, 1000), (1000, 300), (64, 1000), (1, 20_000), (3, 7), (2, 5), (611, 20_011)]


@pytest.mark.parametrize("size", [(100, 100), (100, 200), (200, 100), (1, 1), (1, 2)])
def test_a_photo_up_to_two_to_one_is_seen_whole(size: tuple[int, int]) -> None:
    (square,) = squares(np.zeros(size, dtype=np.uint8))
    assert square.shape == size
    colors = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    assert joined_squares([colors], *size) is colors


@pytest.mark.parametrize("size", SIZES)
def test_a_longer_photo_is_covered_by_overlapping_squares(size: tuple[int, int]) -> None:
    found = layout(*size)
    long, short = max(size), min(size)
    seen = squares(np.zeros(size, dtype=np.uint8))
    assert 2 <= len(seen) <= MOST_SQUARES
    assert found.photo_spans[0][0] == 0
    assert found.photo_spans[-1][1] == long
    for (_, end), (start, _) in pairwise(found.photo_spans):
        assert end - start >= short * 0.3 - 1  # what both see
    if long / short < 10:
        assert all(abs(end - start - short) <= max(1, short * 0.01) for start, end in found.photo_spans)


@pytest.mark.parametrize("size", SIZES)
def test_squares_that_agree_are_joined_exactly_and_others_fade_into_each_other(size: tuple[int, int]) -> None:
    found = layout(*size)
    ramp = np.linspace(0, 255, found.map_length)[:, None, None] * np.ones((1, 256, 3))
    ramp = ramp if found.tall else ramp.transpose(1, 0, 2)
    pieces = []
    for start in found.map_starts:
        part = ramp[start : start + 256] if found.tall else ramp[:, start : start + 256]
        pieces.append(part.astype(np.float32))
    joined = joined_squares(pieces, *size)
    assert joined.shape == ramp.shape
    assert np.abs(joined - ramp).max() < 0.01
    flats = [np.full((256, 256, 3), 255 * (index % 2), dtype=np.uint8) for index in range(len(found.map_starts))]
    joined = joined_squares(flats, *size)
    steps = np.abs(np.diff(joined, axis=0 if found.tall else 1))
    assert steps.max() <= 255 * np.pi / 2 / 85 + 0.5  # no seam: a whole square's overlap for the greatest difference
    assert joined.max() > 250
    assert joined.min() < 5


def test_grays_of_a_large_photo_are_boxed_twice() -> None:
    luma = np.random.default_rng(0).integers(0, 256, (600, 900), dtype=np.uint8)
    full, small = square_grays(luma)
    expected = Image.fromarray(luma).resize((256, 256), Image.Resampling.BOX)
    assert np.array_equal(full, np.asarray(expected))
    assert np.array_equal(small, np.asarray(expected.resize((64, 64), Image.Resampling.BOX)))


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (100, 300), (10, 20000), (256, 256), (63, 65)])
def test_grays_of_any_photo_are_squares(shape: tuple[int, int]) -> None:
    luma = np.full(shape, 77, dtype=np.uint8)
    full, small = square_grays(luma)
    assert (full.shape, small.shape, backbone_view(full).shape) == ((256, 256), (64, 64), (224, 224))
    assert set(np.unique(full)) == set(np.unique(small)) == {77}


def test_the_small_gray_of_a_small_photo_comes_straight_from_it() -> None:
    luma = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    assert np.array_equal(square_grays(luma)[1], luma)
