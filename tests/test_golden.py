"""The three stages compute what the authors' own code computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from colorize_cli.checkpoints import build_stage
from colorize_cli.config import ColorUpsamplerConfig, CoreConfig, SpatialUpsamplerConfig, StageConfig
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.upsamplers import ChannelUpsampler
from colorize_cli.palette import bins_to_rgb, rgb_to_bins
from colorize_cli.tf_import import import_checkpoint

GOLDEN = Path(__file__).parent / "golden"
TIE = 1e-6  # between two logits: which is the larger one depends on the processor
TOLERANCE = 1e-4


def golden_config(stage: str) -> StageConfig:
    sizes = json.loads((GOLDEN / stage / "sizes.json").read_text())
    common = {"hidden": sizes["h"], "feed_forward": sizes["ff"], "heads": sizes["heads"]}
    if stage == "colorizer":
        return CoreConfig(
            **common, encoder_layers=sizes["enc"], outer_layers=sizes["outer"], inner_layers=sizes["inner"]
        )
    kind = ColorUpsamplerConfig if stage == "color_upsampler" else SpatialUpsamplerConfig
    return kind(**common, layers=sizes["enc"])


def golden_stage(stage: str) -> tuple[nn.Module, dict[str, Tensor]]:
    module = build_stage(golden_config(stage)).eval().requires_grad_(False)
    module.load_state_dict(import_checkpoint(GOLDEN / stage, module.config), strict=True)  # type: ignore[arg-type]
    expected = dict(np.load(GOLDEN / stage / "expected.npz"))
    return module, {name: torch.from_numpy(value) for name, value in expected.items()}


def test_the_core_gives_the_published_logits_colours_and_bits() -> None:
    module, expected = golden_stage("colorizer")
    core = cast(ColTranCore, module)
    gray = expected["gray64"][None, ..., 0].long()
    bins = expected["labels"][None].long()
    context = core.encode(gray)
    assert (context[0, ::4, ::4] - expected["encoder_output_s4"]).abs().max() < TOLERANCE
    logits = core(gray, bins)
    assert (logits.parallel[0, ::4, ::4] - expected["encoder_logits_s4"]).abs().max() < TOLERANCE
    assert (logits.autoregressive[0, ::4, ::4] - expected["decoder_logits_s4"]).abs().max() < TOLERANCE
    assert torch.equal(logits.autoregressive[0].argmax(-1), expected["decoder_argmax"].long())
    assert torch.equal(bins_to_rgb(logits.parallel[0].argmax(-1)).to(torch.uint8), expected["parallel_rgb64"])
    for head, name in ((logits.autoregressive, "decoder"), (logits.parallel, "encoder")):
        nats = nn.functional.cross_entropy(head.flatten(0, 2), bins.flatten())
        assert nats.item() / np.log(2) == pytest.approx(expected[f"{name}_bits_per_pixel"].item(), abs=TOLERANCE)


def test_the_labels_are_the_colours_of_the_photo() -> None:
    _, expected = golden_stage("colorizer")
    assert torch.equal(rgb_to_bins(expected["rgb64"].long()), expected["labels"].long())


@pytest.mark.parametrize(
    ("stage", "levels", "gray", "stride"),
    [("color_upsampler", "coarse_bits", "gray64", 4), ("spatial_upsampler", "blurry256", "gray256", 16)],
)
def test_an_upsampler_gives_the_published_logits_and_levels(stage: str, levels: str, gray: str, stride: int) -> None:
    module, expected = golden_stage(stage)
    upsampler = cast(ChannelUpsampler, module)
    x, y = expected[levels][None].long(), expected[gray][None, ..., 0].long()
    symbols = upsampler.symbols(x)[0]
    for channel in range(3):
        logits = upsampler.channel_logits(symbols[channel : channel + 1], y)[0]
        wanted = expected[f"logits_s{stride}"][:, :, channel]
        assert (logits[::stride, ::stride] - wanted).abs().max() < TOLERANCE
        best = logits.amax(-1, keepdim=True)
        published = logits.gather(-1, expected["argmax"][..., channel, None].long())
        assert (best - published).max() < TIE
        assert (logits.argmax(-1, keepdim=True) != expected["argmax"][..., channel, None]).float().mean() < 1e-4
