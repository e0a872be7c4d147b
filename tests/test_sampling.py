"""Drawing step by step is the model that was trained, and a sample depends on nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_cli.config import BackboneConfig, CoreConfig
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.rows import RowDecoder, Tile, project_context
from colorize_cli.sampling import (
    CoarseSample,
    SampleRequest,
    TileSampler,
    draw_naively,
    draw_samples,
    gumbel_row,
    noise_stream,
)
from colorize_cli.sampling import draw as draw_pixels
from tests.conftest import random_stage

CONFIGS = {
    "published parts, two layers each": CoreConfig(
        resolution=12, hidden=32, feed_forward=48, heads=4, encoder_layers=2, outer_layers=2, inner_layers=2
    ),
    "with backbone and gray bias": CoreConfig(
        resolution=16,
        hidden=24,
        feed_forward=24,
        heads=2,
        encoder_layers=1,
        outer_layers=1,
        inner_layers=2,
        backbone=BackboneConfig(channels=8, blocks=1),
        gray_bias=True,
    ),
    "one head, three inner layers": CoreConfig(
        resolution=8, hidden=16, feed_forward=40, heads=1, encoder_layers=1, outer_layers=3, inner_layers=3
    ),
}


def core_of(config: CoreConfig, seed: int = 0) -> ColTranCore:
    return cast(ColTranCore, random_stage(config, seed))


def photo_of(core: ColTranCore, seed: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Its gray, the backbone's, and a 256x256 gray that keys its noise."""
    generator = torch.Generator().manual_seed(seed)
    size = core.config.resolution
    gray = torch.randint(0, 256, (1, size, size), generator=generator)
    eye = torch.randint(0, 256, (1, 224, 224), generator=generator, dtype=torch.uint8)
    return gray, eye, np.full((256, 256), seed, dtype=np.uint8)


@torch.inference_mode()
def test_the_gray_context_is_the_same_for_any_number_of_threads() -> None:
    core = core_of(CONFIGS["with backbone and gray bias"])
    gray, eye, _ = photo_of(core, 0)
    before, contexts = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            contexts.append(core.encode(gray, eye))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(contexts[0], contexts[1]) and torch.equal(contexts[0], contexts[2])


def draw(
    core: ColTranCore,
    photos: list[int],
    samples: int,
    temperature: float = 1.0,
    guidance: float = 0.0,
    tile: int = 1,
) -> list[list[CoarseSample]]:
    requests = []
    for seed in photos:
        gray, eye, gray_256 = photo_of(core, seed)
        projections = project_context(core, gray, eye)
        requests += [SampleRequest(projections, noise_stream(5, k, gray_256)) for k in range(samples)]
    drawn = draw_samples(RowDecoder(core, tile), requests, temperature, guidance)
    return [drawn[i * samples : (i + 1) * samples] for i in range(len(photos))]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("tile", [1, 3])
def test_drawing_gives_the_teacher_forced_logits_of_the_image_it_drew(
    monkeypatch: pytest.MonkeyPatch, config: CoreConfig, tile: int
) -> None:
    monkeypatch.setattr("colorize_cli.models.rows.ROWS_AT_ONCE", 5)  # the columns' caches grow more than once
    core = core_of(config)
    gray, eye, gray_256 = photo_of(core, 1)
    projections = project_context(core, gray, eye)
    requests = [SampleRequest(projections, noise_stream(0, k, gray_256)) for k in range(tile)]
    sampler = TileSampler(RowDecoder(core, tile), requests, temperature=1.0)
    stepped = torch.stack(list(sampler.rows()), dim=1)
    forced = core.decode(core.encode(gray, eye).expand(tile, -1, -1, -1), sampler.bins)
    assert (stepped - forced).abs().max() < 1e-4


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_bits_per_pixel_are_those_of_the_full_forward_at_temperature_one(
    config: CoreConfig, temperature: float
) -> None:
    core = core_of(config)
    (samples,) = draw(core, [2], 2, temperature)
    gray, eye, _ = photo_of(core, 2)
    context = core.encode(gray, eye)
    for sample in samples:
        bins = torch.from_numpy(sample.bins.astype(np.int64))[None]
        log2 = core.decode(context, bins).double().log_softmax(-1) / np.log(2)
        expected = -log2.gather(-1, bins[..., None]).mean().item()
        assert sample.bits_per_pixel == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("temperature", "guidance"), [(0.0, 0.0), (0.7, 0.0), (1.0, 0.0), (0.8, 1.5)])
def test_one_full_forward_with_the_same_noise_redraws_every_pixel_of_twenty_photos(
    temperature: float, guidance: float
) -> None:
    core = core_of(CONFIGS["with backbone and gray bias"])
    size = core.config.resolution
    ties = 0
    for seed, (sample,) in enumerate(draw(core, list(range(20)), 1, temperature, guidance)):
        gray, eye, gray_256 = photo_of(core, seed)
        bins = torch.from_numpy(sample.bins.astype(np.int64))
        context = core.encode(gray, eye)
        scores = core.decode(context, bins[None])[0] + guidance * core.guide(context, gray)[0]
        if temperature > 0:
            stream = noise_stream(5, 0, gray_256)
            scores = scores / temperature + torch.from_numpy(np.stack([gumbel_row(stream, size) for _ in range(size)]))
        best = scores.topk(2, dim=-1)
        clear = best.values[..., 0] - best.values[..., 1] > 1e-3
        assert torch.equal(best.indices[..., 0][clear], bins[clear])
        ties += int((best.indices[..., 0] != bins).sum())
    assert ties <= 1  # of 5,120 pixels


@pytest.mark.parametrize(("temperature", "guidance"), [(0.0, 0.0), (0.7, 0.0), (1.0, 0.0), (1.0, 1.4)])
def test_the_naive_sampler_draws_the_same_image(temperature: float, guidance: float) -> None:
    core = core_of(CONFIGS["published parts, two layers each"])
    for seed in (3, 4):
        gray, eye, gray_256 = photo_of(core, seed)
        rows = draw_naively(core, gray, eye, noise_stream(5, 0, gray_256), temperature, guidance)
        ((sample,),) = draw(core, [seed], 1, temperature, guidance)
        assert np.array_equal(torch.cat(list(rows)).numpy(), sample.bins)


def test_much_guidance_draws_what_the_parallel_head_says() -> None:
    core = core_of(CONFIGS["published parts, two layers each"])
    ((sample,),) = draw(core, [3], 1, temperature=0.0, guidance=1e6)
    gray, eye, _ = photo_of(core, 3)
    assert np.array_equal(core.parallel_logits(core.encode(gray, eye), gray)[0].argmax(-1).numpy(), sample.bins)


def test_a_parallel_head_that_knows_no_more_than_the_gray_bias_hardly_guides() -> None:
    core = core_of(CONFIGS["with backbone and gray bias"])
    gray, eye, _ = photo_of(core, 3)
    context = core.encode(gray, eye)
    knowing = core.guide(context, gray)
    assert core.gray_bias is not None
    table = core.gray_bias.log_softmax(-1)[gray]
    torch.testing.assert_close(knowing, core.parallel_logits(context, gray).log_softmax(-1) - 0.7 * table)
    torch.nn.init.zeros_(core.parallel_head.weight)
    torch.testing.assert_close(core.guide(context, gray), 0.3 * table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_parallel_decoding_gives_the_row_that_one_more_pixel_a_pass_gives(
    dtype: torch.dtype, temperature: float
) -> None:
    core = core_of(CONFIGS["with backbone and gray bias"]).to(dtype)
    gray, eye, gray_256 = photo_of(core, 6)
    projections = project_context(core, gray, eye)
    ((sample,),) = draw(core, [6], 1, temperature)
    tile, stream = Tile(RowDecoder(core, 1), [projections]), noise_stream(5, 0, gray_256)
    size = core.config.resolution
    bins = torch.zeros((1, size, size), dtype=torch.int64)
    for row in range(size):
        logits_of = tile.inner_row(row, tile.outer_row(row, bins[:, row - 1] if row else None))
        noise = torch.from_numpy(gumbel_row(stream, size))[None] if temperature > 0 else None
        for column in range(size):
            bins[:, row, column] = draw_pixels(logits_of(bins[:, row], 0), temperature, noise)[:, column]
    assert np.array_equal(bins[0].numpy(), sample.bins)
    assert sample.passes < size * size


def test_a_row_pass_that_sees_its_own_pixel_is_found_out() -> None:
    core = core_of(CONFIGS["one head, three inner layers"])
    gray, eye, gray_256 = photo_of(core, 1)
    request = SampleRequest(project_context(core, gray, eye), noise_stream(0, 0, gray_256))
    sampler = TileSampler(RowDecoder(core, 1), [request], temperature=0.0)

    def never_settles(bins: Tensor, start: int) -> Tensor:
        return F.one_hot((bins[:, start:] + 1) % 512, 512).float()

    with pytest.raises(AssertionError, match="must not see"):
        sampler.settle(never_settles, sampler.bins[:, 0], lambda logits, start: logits.argmax(dim=-1))


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Torch's number of threads; a picture may differ between them, never within one."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tile", [1, 4])
def test_a_sample_is_the_same_whatever_it_is_drawn_with(dtype: torch.dtype, tile: int, threads: int) -> None:
    core = core_of(CONFIGS["with backbone and gray bias"]).to(dtype)
    (one,) = draw(core, [1], 1, tile=tile)
    (four,) = draw(core, [1], 4, tile=tile)
    seven, other, alone_last = draw(core, [1, 2, 3], 7, tile=tile)
    assert len({sample.bins.tobytes() for sample in seven}) == 7
    for k, sample in enumerate(seven):
        for group in (one, four):
            if k < len(group):
                assert np.array_equal(group[k].bins, sample.bins)
                assert group[k].bits_per_pixel == sample.bits_per_pixel
    (last,) = draw(core, [3], 2, tile=tile)
    for k in range(2):
        assert np.array_equal(last[k].bins, alone_last[k].bins)
    assert not np.array_equal(seven[0].bins, other[0].bins)


def test_temperature_zero_takes_the_most_likely_colour_and_needs_no_noise() -> None:
    core = core_of(CONFIGS["published parts, two layers each"])
    ((first, second),) = draw(core, [4], 2, temperature=0.0)
    assert np.array_equal(first.bins, second.bins)
    gray, eye, _ = photo_of(core, 4)
    context = core.encode(gray, eye)
    bins = torch.from_numpy(first.bins.astype(np.int64))[None]
    assert torch.equal(core.decode(context, bins).argmax(-1), bins)


def test_noise_depends_on_seed_sample_and_photo() -> None:
    black, white = (np.full((256, 256), v, dtype=np.uint8) for v in (0, 255))
    streams = [noise_stream(*key) for key in [(0, 0, black), (1, 0, black), (0, 1, black), (0, 0, white)]]
    rows = {gumbel_row(stream, 4).tobytes() for stream in streams}
    assert len(rows) == 4
    assert gumbel_row(noise_stream(0, 0, black), 4).tobytes() in rows


def test_noise_has_the_mean_and_spread_of_a_gumbel_distribution() -> None:
    noise = gumbel_row(noise_stream(0, 0, np.zeros((256, 256), dtype=np.uint8)), 400)
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.01)
    assert noise.std() == pytest.approx(np.pi / np.sqrt(6), abs=0.01)


def test_progress_counts_every_row_of_every_sample() -> None:
    core = core_of(CONFIGS["one head, three inner layers"])
    gray, eye, gray_256 = photo_of(core, 1)
    projections = project_context(core, gray, eye)
    requests = [SampleRequest(projections, noise_stream(0, k, gray_256)) for k in range(6)]
    rows: list[int] = []
    draw_samples(RowDecoder(core, 1), requests, progress=rows.append)
    assert sum(rows) == 6 * core.config.resolution
