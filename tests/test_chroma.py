"""Colour is joined without touching the photo's luminance."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from colorize_cli.chroma import join


def luma_of(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L")).astype(int)


@pytest.mark.parametrize("size", [(256, 256), (700, 901), (40, 1200), (1, 1), (3, 5000), (64, 300)])
@pytest.mark.parametrize("saturation", [0.5, 1.0, 4.0])
def test_luma_comes_back_within_one_level_everywhere(size: tuple[int, int], saturation: float) -> None:
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, size, dtype=np.uint8)
    rgb = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    joined = join(luma, rgb, saturation)
    assert joined.shape == (*size, 3)
    assert joined.dtype == np.uint8
    assert np.abs(luma_of(joined) - luma).max() <= 1


def test_a_colour_under_its_own_luma_is_itself() -> None:
    rgb = np.random.default_rng(1).integers(40, 216, (256, 256, 3), dtype=np.uint8)
    joined = join(luma_of(rgb).astype(np.uint8), rgb)
    assert np.abs(joined.astype(int) - rgb).max() <= 1


def test_gray_colours_and_saturation_nought_give_gray() -> None:
    luma = np.arange(256, dtype=np.uint8)[None].repeat(300, axis=0)
    gray = np.full((256, 256, 3), 90, dtype=np.uint8)
    colored = np.random.default_rng(2).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for joined in (join(luma, gray), join(luma, colored, 0.0)):
        assert np.array_equal(joined, luma[..., None].repeat(3, axis=-1))


def test_black_and_white_stay_black_and_white_under_any_colour() -> None:
    rgb = np.zeros((256, 256, 3), dtype=np.uint8)
    rgb[..., 0] = 255
    for value in (0, 255):
        assert np.all(join(np.full((80, 80), value, dtype=np.uint8), rgb) == value)


def test_out_of_gamut_colour_keeps_its_hue() -> None:
    rgb = np.zeros((256, 256, 3), dtype=np.uint8)
    rgb[..., 0] = 255  # red at luma 76, asked for at 240
    pixel = join(np.full((256, 256), 240, dtype=np.uint8), rgb)[100, 100].astype(int)
    assert pixel[0] == 255
    assert pixel[1] == pixel[2] < 240


def test_strips_leave_no_seam() -> None:
    rng = np.random.default_rng(3)
    luma = rng.integers(0, 256, (900, 333), dtype=np.uint8)
    rgb = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for shape in ((900, 333), (100, 333)):  # enlarged and shrunk rows
        part = luma[: shape[0]]
        whole = join(part, rgb, strip_rows=shape[0])
        for rows in (0, 1, 7, 16, 256):
            assert np.array_equal(join(part, rgb, strip_rows=rows), whole)


def test_colour_of_the_photos_own_size_is_not_resampled() -> None:
    rng = np.random.default_rng(4)
    rgb = rng.integers(60, 196, (256, 256, 3), dtype=np.uint8)
    luma = np.full((256, 256), 128, dtype=np.uint8)
    chroma = rgb - rgb @ np.array([[0.299], [0.587], [0.114]])
    inside = np.abs(chroma).max(axis=-1) < 100
    assert np.abs(join(luma, rgb)[inside] - (128 + chroma[inside])).max() <= 0.501


def test_colour_is_enlarged_as_pillow_enlarges_it() -> None:
    rng = np.random.default_rng(5)
    rgb = rng.integers(118, 139, (64, 64, 3), dtype=np.uint8)
    joined = join(np.full((150, 201), 128, dtype=np.uint8), rgb).astype(int)
    chroma = (rgb - rgb @ np.array([[0.299], [0.587], [0.114]])).astype(np.float32)
    for channel in range(3):
        plane = Image.fromarray(np.ascontiguousarray(chroma[..., channel]))
        expected = 128 + np.asarray(plane.resize((201, 150), Image.Resampling.BICUBIC))
        assert np.abs(joined[..., channel] - expected).max() <= 0.501


def test_any_finite_saturation_is_in_gamut_and_keeps_luma() -> None:
    rng = np.random.default_rng(6)
    luma = rng.integers(0, 256, (300, 300), dtype=np.uint8)
    rgb = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for saturation in (3.0, 1e4, 1e300):
        assert np.abs(luma_of(join(luma, rgb, saturation)) - luma).max() <= 1


def test_luma_of_16_bits_comes_back_within_one_level_of_65535() -> None:
    rng = np.random.default_rng(7)
    luma = rng.integers(0, 65536, (300, 500), dtype=np.uint16)
    rgb = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for saturation in (1.0, 1e4):
        joined = join(luma, rgb, saturation)
        assert joined.dtype == np.uint16
        assert np.abs(joined @ np.array([0.299, 0.587, 0.114]) - luma).max() <= 1
    shallow = (luma >> 8).astype(np.uint8)
    deep = join(shallow.astype(np.uint16) * 257, rgb)
    assert np.abs(deep / 257 - join(shallow, rgb)).max() <= 0.51


def test_colour_ends_where_the_photos_edges_do() -> None:
    """A red disc on a blue ground, 8 times the size of its predicted colours: no halo within, nor without."""
    y, x = np.mgrid[0:512, 0:512]
    disc = (x - 255) ** 2 + (y - 250) ** 2 < 150**2
    luma = np.where(disc, 90, 170).astype(np.uint8)
    red, blue = np.array([200, 50, 40]), np.array([130, 170, 240])
    true = np.where(disc[..., None], red, blue).astype(np.uint8)
    small = np.asarray(Image.fromarray(true).resize((64, 64), Image.Resampling.BOX))
    own = join(luma, true).astype(int)
    error = np.abs(join(luma, small).astype(int) - own).max(axis=-1)
    assert (error > 30).mean() < 0.001
    plain = np.asarray(Image.fromarray(small).resize((512, 512), Image.Resampling.BICUBIC))
    assert (np.abs(join(luma, plain).astype(int) - own).max(axis=-1) > 30).mean() > 0.02


def test_grain_stays_in_the_luma_and_out_of_the_colour() -> None:
    rng = np.random.default_rng(8)
    luma = (128 + rng.normal(0, 8, (512, 512))).round().astype(np.uint8)
    colors = np.stack([150 + 20 * np.sin(np.arange(64) / 9)] * 64)[..., None] * np.array([1.0, 0.8, 0.6])
    joined = join(luma, colors.astype(np.uint8)).astype(int)
    chroma = joined[..., 0] - joined[..., 2]
    assert np.abs(np.diff(chroma, axis=0)).mean() < 0.7  # of a level; of the luma: 9


def test_enlarged_colour_is_smooth_where_the_luma_is() -> None:
    rgb = np.zeros((256, 256, 3), dtype=np.uint8)
    rgb[:, :128, 0], rgb[:, 128:, 2] = 200, 200
    joined = join(np.full((512, 1024), 120, dtype=np.uint8), rgb).astype(int)
    steps = np.abs(np.diff(joined[300], axis=0)).max(axis=-1)
    change = np.abs(joined[300, 0] - joined[300, -1]).max()
    assert steps.max() < 0.5 * change  # no block edge: the change is spread over several pixels
