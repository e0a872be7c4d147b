"""What the modules must never do, and what windows of a canvas must give."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from colorize_cli.config import ColorUpsamplerConfig, CoreConfig, SpatialUpsamplerConfig
from colorize_cli.errors import ModelError
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.layers import Window
from colorize_cli.models.upsamplers import LUMA_WEIGHTS, ColorUpsampler, SpatialUpsampler
from colorize_cli.palette import bins_to_levels, bins_to_rgb, rgb_to_bins
from tests.conftest import random_stage

SMALL = CoreConfig(resolution=8, hidden=16, feed_forward=24, heads=2, encoder_layers=1, outer_layers=2, inner_layers=2)


@pytest.fixture(scope="module")
def core() -> ColTranCore:
    return cast(ColTranCore, random_stage(SMALL))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 7), (3, 4), (5, 0), (7, 7)])
def test_changing_a_pixel_changes_no_logit_at_or_before_it(core: ColTranCore, row: int, column: int) -> None:
    generator = torch.Generator().manual_seed(0)
    gray = torch.randint(0, 256, (1, 8, 8), generator=generator)
    bins = torch.randint(0, 512, (1, 8, 8), generator=generator)
    changed = bins.clone()
    changed[0, row, column] = (changed[0, row, column] + 100) % 512
    context = core.encode(gray)
    difference = (core.decode(context, bins) - core.decode(context, changed)).abs().amax(-1).flatten()
    place = row * 8 + column
    assert torch.all(difference[: place + 1] == 0)
    assert place == 63 or torch.all(difference[place + 1 : place + 2] > 0)


def test_the_parallel_head_sees_no_colour(core: ColTranCore) -> None:
    gray = torch.randint(0, 256, (1, 8, 8), generator=torch.Generator().manual_seed(1))
    black, white = torch.zeros(1, 8, 8, dtype=torch.long), torch.full((1, 8, 8), 511)
    assert torch.equal(core(gray, black).parallel, core(gray, white).parallel)


def test_a_window_is_a_small_core_with_the_large_ones_positions_and_biases_cut_to_it(core: ColTranCore) -> None:
    window = Window(3, 2, 4, 4)
    small = cast(ColTranCore, random_stage(replace(SMALL, resolution=4)))
    state = {}
    for name, tensor in core.state_dict().items():
        if name.endswith("rows"):
            tensor = tensor[3:7]
        elif name.endswith("columns"):
            tensor = tensor[2:6]
        elif name.endswith("spatial_average"):
            tensor = window.cut(tensor)
        elif name.endswith("relative_bias"):
            tensor = torch.cat((tensor[:, 4:11], tensor[:, :1]), dim=1)  # distances -3..3, and the unread entry
        state[name] = tensor
    small.load_state_dict(state, strict=True)
    gray = torch.randint(0, 256, (1, 8, 8), generator=torch.Generator().manual_seed(2))
    bins = torch.randint(0, 512, (1, 4, 4), generator=torch.Generator().manual_seed(3))
    context = core.encoder(gray, None, window)
    expected = small.encode(window.cut(gray))
    assert torch.allclose(context, expected, atol=1e-5)
    assert torch.allclose(core.decode(context, bins, window), small.decode(expected, bins), atol=1e-5)


def test_the_published_core_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        published = ColTranCore(CoreConfig())
    assert sum(p.numel() for p in published.parameters() if p.requires_grad) == 46_310_400


@pytest.mark.parametrize("kind", ["color", "spatial"])
def test_an_upsampler_takes_the_mean_level_of_its_logits(kind: str) -> None:
    upsampler: ColorUpsampler | SpatialUpsampler
    if kind == "color":
        config = ColorUpsamplerConfig(resolution=8, hidden=16, feed_forward=16, heads=2, layers=1)
        upsampler, levels = cast(ColorUpsampler, random_stage(config)), 8
    else:
        spatial = SpatialUpsamplerConfig(resolution=16, hidden=16, feed_forward=16, heads=2, layers=1)
        upsampler, levels = cast(SpatialUpsampler, random_stage(spatial)), 256
    size = upsampler.config.resolution
    x = torch.randint(0, levels, (2, size, size, 3), generator=torch.Generator().manual_seed(0))
    gray = torch.randint(0, 256, (2, size, size), generator=torch.Generator().manual_seed(1))
    logits = upsampler(x, gray)
    assert logits.shape == (2, size, size, 3, 256)
    rgb = upsampler.upsample(x, gray)
    assert rgb.dtype == torch.uint8
    mean = logits.softmax(-1) @ torch.arange(256.0)
    assert (mean - rgb).abs().max() <= 0.51


def spatial_upsampler(enlargement: str) -> SpatialUpsampler:
    config = SpatialUpsamplerConfig(
        resolution=16, hidden=16, feed_forward=16, heads=2, layers=1, enlargement=enlargement
    )
    return cast(SpatialUpsampler, random_stage(config))


def test_enlarging_by_blocks_repeats_every_pixel() -> None:
    rgb = torch.arange(4 * 4 * 3).view(1, 4, 4, 3)
    levels = spatial_upsampler("blocks").enlarge(rgb, torch.zeros(1, 16, 16, dtype=torch.int64))
    assert torch.equal(levels[0, 3::4, 2::4], rgb[0])
    assert torch.equal(levels[0, ::4, ::4], rgb[0])


def test_enlarging_chroma_keeps_the_grays_own_luma_and_the_colours_hue() -> None:
    rgb = torch.tensor([140, 100, 80]).expand(1, 4, 4, 3)
    gray = torch.randint(60, 200, (1, 16, 16), generator=torch.Generator().manual_seed(0))
    levels = spatial_upsampler("chroma").enlarge(rgb, gray).float()
    assert (levels @ torch.tensor(LUMA_WEIGHTS) - gray).abs().max() <= 1
    assert torch.all(levels[..., 0] - levels[..., 2] == 60)


def test_an_unknown_enlargement_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ModelError, match="blocks, chroma"):
        SpatialUpsamplerConfig(enlargement="nearest")


def test_bins_and_colours_are_each_others_inverse() -> None:
    bins = np.arange(512)
    assert np.array_equal(rgb_to_bins(bins_to_rgb(bins)), bins)
    assert np.array_equal(bins_to_rgb(np.array([64 * 7 + 8 * 3 + 1])), [[224, 96, 32]])
    tensor = torch.arange(512)
    assert np.array_equal(bins_to_levels(tensor).numpy(), bins_to_levels(bins))
    rgb = np.array([[255, 31, 32]])
    assert rgb_to_bins(rgb).tolist() == [64 * 7 + 8 * 0 + 1]


@pytest.mark.parametrize("values", [{"hidden": 10, "heads": 4}, {"hidden": 0}, {"outer_layers": -1}])
def test_an_impossible_architecture_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(ModelError, match=next(iter(values))):
        CoreConfig.from_dict(values)


def test_an_unknown_field_of_an_architecture_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="widht"):
        CoreConfig.from_dict({"widht": 3})
