"""What the model sees of a photo, and how its squares become one picture again."""

from __future__ import annotations

import numpy as np
import pytest

from colorize_cli.photo import joined_squares, squares
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
    for (_, end), (start, _) in zip(found.photo_spans, found.photo_spans[1:], strict=False):
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
