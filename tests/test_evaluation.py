"""The figures of a model are those of their definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from colorize_cli import Colorizer
from colorize_cli.cli import cli
from colorize_cli.evaluation import ciede2000, psnr, score_photo
from tests.conftest import EXAMPLES


def test_psnr_and_ciede2000_of_known_pictures() -> None:
    gray = np.full((8, 8, 3), 100, dtype=np.uint8)
    assert psnr(gray, gray) == float("inf")
    assert psnr(gray, gray + 10) == pytest.approx(28.13, abs=0.01)
    assert ciede2000(gray, gray) == 0
    red, blue = np.zeros_like(gray), np.zeros_like(gray)
    red[..., 0] = blue[..., 2] = 255
    assert ciede2000(red, blue) == pytest.approx(52.88, abs=0.05)


def test_the_figures_of_a_photo_are_finite_and_ordered_as_they_must_be(tiny_model: Path) -> None:
    colorizer = Colorizer.from_pretrained(str(tiny_model))
    with Image.open(EXAMPLES / "kodim23.jpg") as image:
        scores = score_photo(colorizer, image)
    assert scores.bits_per_pixel > 0
    assert scores.parallel_bits_per_pixel > 0
    assert scores.bicubic_psnr > 20
    assert scores.bicubic_ciede2000 < scores.joined_ciede2000  # random weights do worse than none


def test_the_command_prints_the_figures_as_json(tiny_model: Path, tmp_path: Path) -> None:
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    words = ["evaluate", "--data", str(tmp_path), "--model", str(tiny_model), "--json"]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    record = json.loads(result.output)
    assert record["photos"] == 2
    assert {"bits_per_pixel", "parallel_bits_per_pixel"} <= set(record)
    assert "model_psnr" not in record  # nothing to judge the upsamplers by at 64x64
