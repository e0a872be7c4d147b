"""Where training starts from: fresh weights that suit the task, earlier runs, or a model folder."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from colorize_cli.atomic import replacing
from colorize_cli.backbone_import import import_backbone
from colorize_cli.checkpoints import build_stage, load_model, not_finite
from colorize_cli.config import (
    LEVELS,
    NUM_COLORS,
    NUM_LEVELS,
    STAGES,
    BackboneConfig,
    ColorUpsamplerConfig,
    CoreConfig,
    SpatialUpsamplerConfig,
    StageConfig,
)
from colorize_cli.errors import ModelError
from colorize_cli.models.backbone import MAP_SCALES, EfficientNetLite2
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.upsamplers import ChannelUpsampler, SpatialUpsampler
from colorize_cli.palette import bins_to_levels
from colorize_cli.training.loop import CHECKPOINT, read_checkpoint, read_tensors

RUN = "run.json"
FIRST_SEED = 1  # of fresh weights
DECODER_PARTS = frozenset({"outer", "inner", "norm", "head", "pixel_embedding"})
EARLY_PARTS = ("backbone.stem.", "backbone.stages.0.", "backbone.stages.1.")

# The sizes that ship, and those of the paper.
SMALL: dict[str, StageConfig] = {
    "core": CoreConfig(
        hidden=192,
        feed_forward=192,
        encoder_layers=2,
        outer_layers=1,
        inner_layers=2,
        backbone=BackboneConfig(channels=160, blocks=1),
        gray_bias=True,
    ),
    "color_upsampler": ColorUpsamplerConfig(hidden=128, feed_forward=128, layers=3),
    "spatial_upsampler": SpatialUpsamplerConfig(hidden=64, feed_forward=64, heads=1, layers=1, enlargement="chroma"),
}

PRESETS = {"small": SMALL, "published": {stage: config_class() for stage, config_class in STAGES.items()}}


def stage_config(stage: str, preset_or_file: str) -> StageConfig:
    """The architecture of a preset, or of a JSON file with the stage's fields."""
    if preset_or_file in PRESETS:
        return PRESETS[preset_or_file][stage]
    try:
        values = json.loads(Path(preset_or_file).read_text(encoding="utf-8"))
        return STAGES[stage].from_dict(values)
    except (OSError, TypeError, ValueError) as error:
        known = ", ".join(PRESETS)
        raise ModelError(
            f"{preset_or_file} is neither a preset ({known}) nor a readable JSON file ({error})"
        ) from error


def smooth_levels(embedding: nn.Embedding, levels: int, scale: float = 0.5) -> None:
    """Start an embedding so that neighbouring levels are alike: sines of random frequency and phase."""
    rows, hidden = embedding.weight.shape
    level = torch.arange(rows)[:, None] % levels / levels
    channel = torch.arange(rows)[:, None] // levels
    frequency, phase = 3 * torch.randn(1, hidden), 2 * math.pi * torch.rand(1, hidden)
    with torch.no_grad():
        embedding.weight.copy_(scale * torch.sin(2 * frequency * level + phase + 0.5 * channel))


def repeat_the_level(upsampler: SpatialUpsampler) -> None:
    """Start the spatial upsampler so that it gives each pixel the level that it is fed.

    Levels are sines from one to many cycles over their range, which the merge passes on and the head reads back.
    """
    hidden = upsampler.config.hidden
    cycles = torch.logspace(-1, math.log2(48), hidden, base=2.0)
    phase = 2 * math.pi * torch.rand(hidden)
    levels = torch.sin(2 * math.pi * torch.arange(NUM_LEVELS)[:, None] / NUM_LEVELS * cycles + phase)  # (256, D)
    channels = 0.2 * torch.randn(3, 1, hidden)
    with torch.no_grad():
        upsampler.channel_embedding.weight.copy_((levels + channels).flatten(0, 1))
        upsampler.merge.weight[:, :hidden].copy_(torch.eye(hidden))
        upsampler.merge.weight[:, hidden:].mul_(0.3)
        upsampler.head.weight.copy_(0.3 * levels)
        upsampler.head.bias.zero_()


def repeat_the_left_pixel(core: ColTranCore) -> None:
    """Start the decoders' embedding and head so that the drawn colour is likely to be near its left neighbour's.

    Embeddings are sines of random frequency over the three levels, so that near colours are alike; the head reads
    them back. Learning this from noise takes the first thousand steps.
    """
    rgb = bins_to_levels(torch.arange(NUM_COLORS)) / LEVELS  # (512, 3)
    hidden = core.config.hidden
    frequency, phase = 4 * torch.randn(3, hidden), 2 * math.pi * torch.rand(1, hidden)
    with torch.no_grad():
        core.pixel_embedding.weight.copy_(math.sqrt(2) * torch.sin(rgb @ frequency + phase))
        core.head.weight.copy_(0.05 * core.pixel_embedding.weight)
        if core.gray_bias is not None:
            core.head.bias.copy_(core.gray_bias.softmax(-1).mean(0).log())


def fresh_stage(
    config: StageConfig, *, gray_bias: Tensor | None = None, backbone: dict[str, Tensor] | None = None
) -> nn.Module:
    """A stage to train from nothing.

    Args:
        config: its architecture.
        gray_bias: `(256, 512)` count table, where the core has one.
        backbone: the pretrained backbone's state, where the core has one.
    """
    module = build_stage(config)
    if isinstance(module, ChannelUpsampler):
        smooth_levels(module.channel_embedding, module.levels)
        smooth_levels(module.gray_embedding, NUM_LEVELS)
    if isinstance(module, SpatialUpsampler) and module.config.enlargement == "chroma":
        repeat_the_level(module)
    if isinstance(module, ColTranCore):
        smooth_levels(module.encoder.embedding, NUM_LEVELS)
        with torch.no_grad():
            module.parallel_head.weight.zero_()
            if module.gray_bias is not None and gray_bias is not None:
                module.gray_bias.copy_(gray_bias)
            if module.encoder.neck is not None:
                for projection, scale in zip(module.encoder.neck.projections, MAP_SCALES, strict=True):
                    assert isinstance(projection, nn.Conv2d)
                    projection.weight.div_(scale)
        repeat_the_left_pixel(module)
        if module.backbone is not None and backbone is not None:
            module.backbone.load_state_dict(backbone, strict=True)
    return module


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load `state`; raises `ModelError` that names `source` where its sizes are not those of `module`."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(f"{source} has other sizes than this stage; leave --config out to train on from it") from error


def of_decoders(name: str) -> bool:
    """Whether a parameter of the core belongs to its decoders."""
    return name.partition(".")[0] in DECODER_PARTS


def published_backbone(path: Path) -> EfficientNetLite2:
    """The backbone with its published weights, from the port's file; raises `ModelError` for any other file."""
    backbone = EfficientNetLite2()
    backbone.load_state_dict(import_backbone(read_tensors(path)), strict=True)
    return backbone


def choose_learned(core: ColTranCore, phase: str, unfreeze_backbone: bool) -> None:
    """Set which parameters learn: in phase "encoder" all but the decoders, in "decoders" these, in "joint" both.

    Of the backbone only what comes after its first two stages does, and never the depthwise filters, whose gradient
    costs more than all the rest of it on a CPU.
    """
    learning = {"encoder": {"encoder"}, "decoders": {"decoders"}, "joint": {"encoder", "decoders"}}[phase]
    for name, parameter in core.named_parameters():
        learns = ("decoders" if of_decoders(name) else "encoder") in learning
        if name.startswith("backbone."):
            learns = learns and unfreeze_backbone and ".depthwise." not in name and not name.startswith(EARLY_PARTS)
        parameter.requires_grad_(learns and ".normalize." not in name)


def write_run(folder: Path, stage: str, config: StageConfig, seed: int) -> None:
    """Say in `run.json` what the run in `folder` trains, and by which seed its batches are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {"stage": stage, "config": config.to_dict(), "seed": seed}
    with replacing(folder / RUN) as file:
        file.write((json.dumps(run, indent=2) + "\n").encode())


def read_run(folder: Path) -> tuple[str, StageConfig, int]:
    """The stage, config and seed of the run in `folder`."""
    try:
        run: dict[str, Any] = json.loads((folder / RUN).read_text())
        return run["stage"], STAGES[run["stage"]].from_dict(run["config"]), run.get("seed", FIRST_SEED)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} holds no readable {RUN}: it is no training run") from error


def held_config(folder: Path, stage: str) -> StageConfig | None:
    """The config of the run in `folder` that there is to go on with, if any.

    Raises `ModelError` where it trains another stage than `stage`.
    """
    if not (folder / CHECKPOINT).is_file():
        return None
    found, config, _ = read_run(folder)
    if found != stage:
        raise ModelError(f"{folder} holds a run of the stage {found}, not {stage}; choose another --out")
    return config


def run_seed(folder: Path, module: nn.Module) -> int:
    """The seed of the run in `folder`; of a new one, a checksum of the weights that it starts from.

    Batches are a function of the seed and the step: with one seed for all, a run from another run's weights would see
    once more what that one saw, cropped and aged alike, and learn it by heart.
    """
    if (folder / RUN).is_file():
        return read_run(folder)[2]
    checksum = 0
    for tensor in module.state_dict().values():
        checksum = zlib.crc32(tensor.float().numpy().tobytes(), checksum)
    return checksum


def earlier_stage(name: str, stage: str) -> nn.Module:
    """Stage `stage` of a model (a shipped name, a folder, a hub id), or the averaged weights of a run of it."""
    folder = Path(name)
    if not (folder / RUN).is_file():
        module: nn.Module = getattr(load_model(name), stage)
        return module
    found, module = averaged_stage(folder)
    if found != stage:
        raise ModelError(f"{folder} trains the stage {found}, not {stage}")
    return module


def averaged_stage(folder: Path) -> tuple[str, nn.Module]:
    """The run's stage with its averaged weights, masters where a parameter did not learn."""
    stage, config, _ = read_run(folder)
    module = build_stage(config)
    path = folder / CHECKPOINT
    if not path.exists():
        raise ModelError(f"{path} is missing: the run has not saved anything yet")
    state = read_checkpoint(path)
    weights = {**state["masters"], **state["average"]}
    if not_finite(weights) is not None:
        raise ModelError(f"{path} holds numbers that are not finite; start that run anew, with a lower --lr")
    module.load_state_dict(weights, strict=True)
    return stage, module


def take_decoders(core: nn.Module, folders: Sequence[Path]) -> None:
    """Give `core` the mean of the decoders that runs trained.

    Decoders still gain by learning where the encoder gains by the mean of more runs.

    Raises:
        ModelError: a folder is no run of a core, or has other sizes.
    """
    trained = stages_of_runs(folders)
    if trained.keys() != {"core"}:
        raise ModelError(f"a core has decoders, and a run of {', '.join(sorted(trained))} is given for them")
    if trained["core"].config != core.config:
        raise ModelError(f"{folders[0]}: its decoders are of other sizes than the core's")
    decoders = {name: tensor for name, tensor in trained["core"].state_dict().items() if of_decoders(name)}
    core.load_state_dict({**core.state_dict(), **decoders}, strict=True)


def stages_of_runs(folders: Sequence[Path]) -> dict[str, nn.Module]:
    """The stages that runs trained, by name; of several runs of one stage the mean of their weights.

    Runs of which one began where the other ended, or both at the same weights, have a mean that is often better than
    either (a model soup, Wortsman et al. 2022).

    Raises:
        ModelError: a folder is no run, or two of a stage have other sizes.
    """
    modules: dict[str, list[nn.Module]] = {}
    for folder in folders:
        stage, module = averaged_stage(folder)
        others = modules.setdefault(stage, [])
        if others and module.config != others[0].config:
            raise ModelError(f"{folder}: another run of this stage has other sizes; there is no mean of the two")
        others.append(module)
    for first, *others in modules.values():
        for name, tensor in first.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.stack([tensor, *(other.state_dict()[name] for other in others)]).mean(dim=0))
    return {stage: first for stage, (first, *_) in modules.items()}
