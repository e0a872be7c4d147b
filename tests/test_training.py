"""A tiny run learns, resumes where it was killed, and shares its work between processes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_cli.config import CoreConfig, SpatialUpsamplerConfig
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.upsamplers import SpatialUpsampler
from colorize_cli.training.data import PhotoCache, age, cached_photos, core_sample, luma
from colorize_cli.training.loop import TrainingOptions, run_training
from colorize_cli.training.start import averaged_stage, choose_learned, fresh_stage, write_run
from colorize_cli.training.tasks import CoreTask, Source, count_table, draw_window
from tests.conftest import TINY


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


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoCache:
    root = tmp_path_factory.mktemp("training")
    return cached_photos(write_colors(root / "photos"), root / "cache")


def tiny_run(photos: PhotoCache, folder: Path, phase: str, steps: int) -> list[dict[str, float]]:
    """Train `steps` steps more than the run in `folder` has; returns what was reported."""
    torch.manual_seed(0)
    config = TINY["core"]
    model = cast(ColTranCore, fresh_stage(config, gray_bias=torch.zeros(256, 512)))
    choose_learned(model, phase, unfreeze_backbone=False)
    task = CoreTask([Source(photos, 1.0)], {"val": photos}, batch=2, phase=phase, window=16, validation_photos=4)
    options = TrainingOptions(minutes=60, learning_rate=1e-2, warmup_steps=5, dtype=torch.float32)
    write_run(folder, "core", config)
    left = [steps]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    rows: list[dict[str, float]] = []
    run_training(model, task, folder, options, rows.append, stop)
    return rows


def test_a_few_steps_lower_the_bits_of_both_heads(photos: PhotoCache, tmp_path: Path) -> None:
    (before,) = tiny_run(photos, tmp_path / "run", "joint", 0)
    (after,) = tiny_run(photos, tmp_path / "run", "joint", 40)
    assert after["val_bits"] < 0.8 * before["val_bits"]
    assert after["val_parallel_bits"] < before["val_parallel_bits"]


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(photos: PhotoCache, tmp_path: Path) -> None:
    (whole,) = tiny_run(photos, tmp_path / "whole", "joint", 12)
    tiny_run(photos, tmp_path / "parts", "joint", 5)
    (resumed,) = tiny_run(photos, tmp_path / "parts", "joint", 7)
    assert resumed["step"] == whole["step"] == 12
    assert resumed["val_bits"] == pytest.approx(whole["val_bits"], rel=0.01)


def test_a_phase_moves_only_its_own_part(photos: PhotoCache, tmp_path: Path) -> None:
    tiny_run(photos, tmp_path / "run", "encoder", 0)
    _, before = averaged_stage(tmp_path / "run")
    tiny_run(photos, tmp_path / "run", "encoder", 3)
    _, after = averaged_stage(tmp_path / "run")
    old, new = before.state_dict(), after.state_dict()
    moved = {name.partition(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved <= {"encoder", "parallel_head", "gray_bias"}
    assert "parallel_head" in moved


def test_the_console_command_trains_and_its_csv_grows(tmp_path: Path) -> None:
    folder = write_colors(tmp_path / "photos", 4)
    script = Path(sys.executable).with_name("colorize")
    words = [script, "train", "color-upsampler", "--data", folder, "--val", folder, "--cache", tmp_path / "cache",
             "--out", tmp_path / "run", "--minutes", "0.05", "--batch", "1", "--window", "16"]  # fmt: skip
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    with (tmp_path / "run" / "validation.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["photos_bits_per_dim"]) > 0


def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    script = """
import sys, torch, torch.distributed as dist
from torch import nn
from colorize_cli.training.loop import average_gradients
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
weight = torch.zeros(3); bias = torch.zeros(2, 2)
weight.grad = torch.full((3,), 1.0 + dist.get_rank()); bias.grad = torch.full((2, 2), 10.0 * dist.get_rank())
average_gradients([weight, bias], 2)
assert weight.grad.tolist() == [1.5] * 3 and bias.grad.flatten().tolist() == [5.0] * 4
dist.destroy_process_group()
"""
    words = [sys.executable, "-c", script, str(tmp_path / "meet")]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [subprocess.Popen([*words, str(rank)], env=environment) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]


def test_folders_and_archives_give_the_same_photos(tmp_path: Path) -> None:
    folder = write_colors(tmp_path / "photos", 3)
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    one = cached_photos(folder, tmp_path / "cache")
    two = cached_photos(tmp_path / "photos.tar.gz", tmp_path / "cache", frozenset({"photo01"}))
    assert one.names == ["photo00", "photo01", "photo02"]
    assert two.names == ["photo00", "photo02"]
    assert np.array_equal(one[2], two[1])


def test_ageing_keeps_the_colour_and_changes_the_luma(photos: PhotoCache) -> None:
    photo = photos[0]
    changed = 0
    for seed in range(20):
        aged = age(photo, np.random.default_rng(seed))
        assert aged.shape == photo.shape
        changed += not np.array_equal(luma(aged), luma(photo))
    assert 10 <= changed < 20


def test_a_core_sample_is_gray_eye_and_colour_of_one_crop(photos: PhotoCache) -> None:
    gray, eye, rgb = core_sample(photos[0], np.random.default_rng(0))
    assert (gray.shape, eye.shape, rgb.shape) == ((64, 64), (192, 192), (64, 64, 3))
    assert np.abs(luma(rgb).astype(int) - gray).max() <= 1


def test_the_count_table_is_a_distribution_for_every_gray(photos: PhotoCache) -> None:
    table = count_table([Source(photos, 1.0)], 4)
    assert torch.allclose(table.exp().sum(-1), torch.ones(256), atol=1e-4)


def test_a_fresh_spatial_upsampler_gives_the_levels_it_is_fed() -> None:
    config = SpatialUpsamplerConfig(resolution=16, hidden=64, feed_forward=64, layers=1, enlargement="chroma")
    upsampler = cast(SpatialUpsampler, fresh_stage(config))
    levels = torch.randint(0, 256, (1, 16, 16, 3), generator=torch.Generator().manual_seed(0))
    gray = torch.full((1, 16, 16), 128)
    assert (upsampler.upsample(levels, gray).long() - levels).abs().float().mean() < 2


def test_windows_lie_on_the_canvas_and_come_in_three_shapes() -> None:
    rng = np.random.default_rng(0)
    windows = [draw_window(rng, 64, 32) for _ in range(60)]
    assert {(w.height, w.width) for w in windows} == {(32, 32), (64, 16), (16, 64)}
    assert all(w.top + w.height <= 64 and w.left + w.width <= 64 for w in windows)
    assert isinstance(TINY["core"], CoreConfig)
