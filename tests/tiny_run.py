"""A short training run of a tiny core."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from colorize_cli.config import StageConfig
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.training.batches import Source
from colorize_cli.training.core_task import CoreTask
from colorize_cli.training.data import PhotoCache
from colorize_cli.training.loop import TrainingOptions, run_training
from colorize_cli.training.start import choose_learned, fresh_stage, write_run
from tests.conftest import TINY


def tiny_run(
    photos: PhotoCache, folder: Path, phase: str, steps: int, config: StageConfig = TINY["core"], decay: float = 0.01
) -> dict[str, float]:
    """Train `steps` steps more than the run in `folder` has; returns its last validation."""
    torch.manual_seed(0)
    model = cast(ColTranCore, fresh_stage(config, gray_bias=torch.zeros(256, 512)))
    choose_learned(model, phase, unfreeze_backbone=False)
    task = CoreTask([Source(photos, 1.0)], {"val": photos}, batch=2, phase=phase, window=16, validation_photos=4,
                    sheet_photos=0)  # fmt: skip
    options = TrainingOptions(minutes=60, learning_rate=1e-2, warmup_steps=5, weight_decay=decay, dtype=torch.float32)
    write_run(folder, "core", config, seed=0)
    left = [steps]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    rows: list[dict[str, float]] = []
    run_training(model, task, folder, options, rows.append, stop)
    return rows[-1]
