"""Small models and photographs for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from colorize_cli.checkpoints import build_stage, save_model
from colorize_cli.cli import cli
from colorize_cli.config import ColorUpsamplerConfig, CoreConfig, SpatialUpsamplerConfig, StageConfig
from colorize_cli.photo import open_photo, save_photo
from colorize_cli.training.data import PhotoCache, cached_photos

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RAMP = np.add.outer(np.arange(40) * 3, np.arange(60) * 2).astype(np.uint8)  # (40, 60)

TINY: dict[str, StageConfig] = {
    "core": CoreConfig(
        hidden=16, feed_forward=16, heads=2, encoder_layers=1, outer_layers=1, inner_layers=1, gray_bias=True
    ),
    "color_upsampler": ColorUpsamplerConfig(hidden=16, feed_forward=16, heads=2, layers=1),
    "spatial_upsampler": SpatialUpsamplerConfig(hidden=8, feed_forward=8, heads=1, layers=1),
}


def random_stage(config: StageConfig, seed: int = 0) -> torch.nn.Module:
    """A stage in evaluation mode whose every weight is random, biases and norms too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build_stage(config).eval().requires_grad_(False)
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return module


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights; do not write into it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, "tiny", {stage: random_stage(config) for stage, config in TINY.items()}, temperature=0.9)
    return folder


@pytest.fixture(scope="session")
def color_photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoCache:
    """Twelve photos of `write_colors`, as training reads them."""
    root = tmp_path_factory.mktemp("training")
    return cached_photos(write_colors(root / "photos"), root / "cache")


@pytest.fixture
def gray_photo(tmp_path: Path) -> Path:
    """A gray JPEG of 90x60 pixels with some structure."""
    return write_gray(tmp_path / "photo.jpg", 90, 60)


@pytest.fixture(scope="session")
def colorize(tiny_model: Path):  # type: ignore[no-untyped-def]
    """Run the command with the tiny model; exit codes as the console script gives them."""

    def run(*arguments: object, model: object = tiny_model) -> Result:
        words = [str(argument) for argument in arguments]
        result = CliRunner().invoke(cli, [*words, "--model", str(model)], standalone_mode=False)
        if isinstance(result.return_value, int) and result.exception is None:
            result.exit_code = result.return_value
        if result.exception is not None and hasattr(result.exception, "exit_code"):
            result.exit_code = result.exception.exit_code
        return result

    return run


def write_gray(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """A gray photo of smooth waves and grain; the format follows the suffix."""
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(seed).normal(0, 6, (height, width))
    pixels = 128 + 70 * np.sin(x / 11 + seed) * np.cos(y / 7) + grain
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def write_colors(folder: Path, count: int = 12) -> Path:
    """Small photos: a blue sky over green ground, the horizon anywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        horizon = int(rng.integers(16, 48))
        pixels = np.zeros((64, 64, 3))
        pixels[:horizon], pixels[horizon:] = (110, 160, 230), (60, 130, 50)
        pixels += rng.normal(0, 8, (64, 64, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"photo{number:02}.png")
    return folder


def saved_again(path: Path, suffix: str | None = None) -> Path:
    """`path` opened and its own gray saved as the command saves a result."""
    photo = open_photo(path)
    out = path.with_name(f"out{suffix or path.suffix}")
    save_photo([gray(page.luma) for page in photo.pages], photo, out)
    return out


def gray(luma: np.ndarray) -> np.ndarray:
    """Luma as RGB."""
    return np.repeat(luma[..., None], 3, axis=2)
