"""A tiny run learns, resumes where it was killed, and shares its work between processes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from colorize_cli.checkpoints import load_model
from colorize_cli.cli import cli
from colorize_cli.config import BackboneConfig, CoreConfig, SpatialUpsamplerConfig, StageConfig
from colorize_cli.models.backbone import EfficientNetLite2
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.upsamplers import ColorUpsampler, SpatialUpsampler
from colorize_cli.training.batches import Source, count_table, draw_window
from colorize_cli.training.canvas import fit_canvas
from colorize_cli.training.core_task import CoreTask
from colorize_cli.training.data import PhotoCache, age, bordered, cached_photos, core_sample, luma, scratched
from colorize_cli.training.journal import append_row, rewind
from colorize_cli.training.loop import TrainingOptions, run_training
from colorize_cli.training.start import averaged_stage, choose_learned, fresh_stage, read_run, write_run
from colorize_cli.training.upsampler_task import UpsamplerTask
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


def tiny_run(
    photos: PhotoCache, folder: Path, phase: str, steps: int, config: StageConfig = TINY["core"]
) -> dict[str, float]:
    """Train `steps` steps more than the run in `folder` has; returns its last validation."""
    torch.manual_seed(0)
    model = cast(ColTranCore, fresh_stage(config, gray_bias=torch.zeros(256, 512)))
    choose_learned(model, phase, unfreeze_backbone=False)
    task = CoreTask([Source(photos, 1.0)], {"val": photos}, batch=2, phase=phase, window=16, validation_photos=4,
                    sheet_photos=0)  # fmt: skip
    options = TrainingOptions(minutes=60, learning_rate=1e-2, warmup_steps=5, dtype=torch.float32)
    write_run(folder, "core", config, seed=0)
    left = [steps]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    rows: list[dict[str, float]] = []
    run_training(model, task, folder, options, rows.append, stop)
    return rows[-1]


def test_a_few_steps_lower_the_bits_of_both_heads(photos: PhotoCache, tmp_path: Path) -> None:
    before = tiny_run(photos, tmp_path / "run", "joint", 0)
    after = tiny_run(photos, tmp_path / "run", "joint", 40)
    assert after["val_bits"] < 0.8 * before["val_bits"]
    assert after["val_parallel_bits"] < before["val_parallel_bits"]


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(photos: PhotoCache, tmp_path: Path) -> None:
    whole = tiny_run(photos, tmp_path / "whole", "joint", 12)
    tiny_run(photos, tmp_path / "parts", "joint", 5)
    resumed = tiny_run(photos, tmp_path / "parts", "joint", 7)
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


def test_an_encoder_may_listen_to_decoders_that_stand_still(photos: PhotoCache) -> None:
    core = cast(ColTranCore, fresh_stage(TINY["core"]))
    choose_learned(core, "encoder", unfreeze_backbone=False)
    task = CoreTask([Source(photos, 1.0)], {"val": photos}, batch=1, phase="encoder", window=16, parallel_weight=0.5)
    loss, figures = task.loss(core, 0, range(1))
    assert loss.item() == pytest.approx((figures["bits"] + figures["parallel_bits"]) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert core.encoder.embedding.weight.grad is not None  # the parallel head starts at nought and lets nothing through
    assert core.encoder.embedding.weight.grad.abs().max() > 0
    assert core.head.weight.grad is None
    assert "val_bits" in task.validate(core)


def test_an_unfrozen_backbone_learns_in_its_last_stages_alone(photos: PhotoCache, tmp_path: Path) -> None:
    eye = BackboneConfig(channels=8, blocks=1)
    core = cast(ColTranCore, fresh_stage(replace(TINY["core"], backbone=eye)))
    choose_learned(core, "encoder", unfreeze_backbone=True)
    before = {name: tensor.clone() for name, tensor in core.state_dict().items()}
    teacher = EfficientNetLite2().to(torch.bfloat16).requires_grad_(False)
    task = CoreTask([Source(photos, 1.0)], {}, batch=1, phase="encoder", window=16, teacher=teacher, distillation=1.0)
    run_training(core, task, tmp_path / "run", TrainingOptions(steps=1, warmup_steps=1), lambda row: None)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["masters"]
    moved = {name for name, tensor in saved.items() if not torch.equal(tensor, before[name])}
    # The parallel head starts at nought, and lets no gradient through: what moves the backbone is its teacher.
    assert {name.split(".")[2] for name in moved if name.startswith("backbone.")} == {"2", "3", "4", "5", "6"}
    assert not any(".depthwise." in name for name in moved)
    assert "parallel_head.weight" in moved


def train_words(photos: Path, run: Path, *words: str) -> list[str]:
    """The command line of a small run of the colour upsampler in float32."""
    config = run.with_suffix(".json")
    config.write_text('{"hidden": 16, "feed_forward": 16, "heads": 2, "layers": 1}')
    script = str(Path(sys.executable).with_name("colorize"))
    common = ["--data", str(photos), "--val", str(photos), "--cache", str(run.parent / "cache"), "--out", str(run)]
    common += ["--config", str(config), "--dtype", "float32", "--window", "16", "--warmup", "5", "--sheet-photos", "1"]
    return [script, "train", "color-upsampler", *common, *words]


def bits_by_step(run: Path) -> dict[int, float]:
    with (run / "log.csv").open() as file:
        return {int(row["step"]): float(row["bits_per_dim"]) for row in csv.DictReader(file)}


def last_validation(run: Path) -> dict[str, float]:
    with (run / "validation.csv").open() as file:
        return {key: float(value) for key, value in list(csv.DictReader(file))[-1].items()}


def test_a_run_that_is_killed_again_and_again_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    photos = write_colors(tmp_path / "photos", 6)
    length = ["--steps", "120", "--batch", "2", "--checkpoint-minutes", "0.002"]
    subprocess.run(train_words(photos, tmp_path / "whole", *length), check=True, capture_output=True)
    words = train_words(photos, tmp_path / "killed", *length)
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        log = tmp_path / "killed" / "log.csv"
        start = log.stat().st_size if log.exists() else 0
        while process.poll() is None and (not log.exists() or log.stat().st_size <= start):
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.2)))
        process.kill()
        process.wait()
    subprocess.run(words, check=True, capture_output=True)
    whole, killed = bits_by_step(tmp_path / "whole"), bits_by_step(tmp_path / "killed")
    assert list(killed) == list(whole) == list(range(20, 121, 20))
    ends = [last_validation(tmp_path / name)["photos_bits_per_dim"] for name in ("whole", "killed")]
    assert ends[1] == pytest.approx(ends[0], rel=0.01)


def test_two_processes_learn_what_one_learns_from_twice_the_batch(tmp_path: Path) -> None:
    photos = write_colors(tmp_path / "photos", 6)
    one = train_words(photos, tmp_path / "one", "--steps", "50", "--batch", "4")
    two = train_words(photos, tmp_path / "two", "--steps", "50", "--batch", "2")
    subprocess.run(one, check=True, capture_output=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *two], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-6000:]
    ends = [last_validation(tmp_path / name) for name in ("one", "two")]
    assert ends[0]["step"] == ends[1]["step"] == 50
    assert ends[1]["photos_bits_per_dim"] == pytest.approx(ends[0]["photos_bits_per_dim"], rel=0.01)


def test_a_run_leaves_a_log_events_for_tensorboard_and_a_sample_sheet(tmp_path: Path) -> None:
    photos = write_colors(tmp_path / "photos", 4)
    words = train_words(photos, tmp_path / "run", "--steps", "20", "--batch", "1")
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "photos_per_second" in done.stdout and "minutes_left" in done.stdout
    assert list(bits_by_step(tmp_path / "run")) == [20]
    (events,) = (tmp_path / "run" / "events").iterdir()
    assert b"validation/photos_bits_per_dim" in events.read_bytes()
    with Image.open(tmp_path / "run" / "samples-000020.png") as sheet:
        assert sheet.size == (4 * 128, 128)  # gray, truth, what is fed, what comes out
    again = subprocess.run([*words, "--no-resume"], check=False, capture_output=True, text=True)
    assert again.returncode == 2
    assert "holds a run already" in again.stderr


def test_a_half_written_row_and_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for step in (20, 40, 60):
        append_row(path, {"step": step, "bits": 1.5})
    with path.open("a") as file:
        file.write("80,")
    rewind(path, 40)
    append_row(path, {"step": 60, "bits": 1.25})
    assert path.read_text().split() == ["step,bits", "20,1.5", "40,1.5", "60,1.25"]


def test_a_small_canvas_grows_with_the_same_meaning_of_its_places() -> None:
    small = fresh_stage(replace(TINY["core"], resolution=8))
    large = fresh_stage(replace(TINY["core"], resolution=16))
    torch.nn.init.normal_(small.get_parameter("outer.row_layers.0.attention.relative_bias"))
    state = fit_canvas(small.state_dict(), large.state_dict())
    large.load_state_dict(state, strict=True)
    old = small.get_submodule("outer.row_layers.0.attention").bias()  # type: ignore[operator]
    new = large.get_submodule("outer.row_layers.0.attention").bias()  # type: ignore[operator]
    assert torch.allclose(new[:, ::2, ::2], old, atol=1e-6)
    rows = small.get_parameter("inner.positions.rows")
    assert torch.allclose(state["inner.positions.rows"].mean(0), rows.mean(0), atol=1e-3)


def test_a_core_learns_on_a_smaller_canvas_and_goes_on_on_a_larger_one(tmp_path: Path) -> None:
    photos = write_colors(tmp_path / "photos", 2)
    config = tmp_path / "core.json"
    config.write_text(
        '{"hidden": 8, "feed_forward": 8, "heads": 2, "encoder_layers": 1, "outer_layers": 1, "inner_layers": 1}'
    )
    common = ["--data", str(photos), "--val", str(photos), "--cache", str(tmp_path / "cache"), "--batch", "1"]
    common += ["--steps", "2", "--sheet-photos", "0"]
    runner = CliRunner()
    for run, words in (
        ("half", ["--config", str(config), "--resolution", "8"]),
        ("whole", ["--init-from", str(tmp_path / "half"), "--resolution", "16"]),
    ):
        result = runner.invoke(cli, ["train", "coarse", *common, "--out", str(tmp_path / run), *words])
        assert result.exit_code == 0, result.output
    stage, module = averaged_stage(tmp_path / "whole")
    assert stage == "core"
    assert module.get_parameter("encoder.stack.positions.rows").shape[0] == 16


def test_a_run_that_goes_on_from_anothers_weights_sees_other_photographs(tmp_path: Path, tiny_model: Path) -> None:
    photos = write_colors(tmp_path / "photos", 2)
    common = ["--data", str(photos), "--val", str(photos), "--cache", str(tmp_path / "cache"), "--batch", "1"]
    common += ["--sheet-photos", "0", "--window", "8"]

    def seed(run: str, *words: str) -> int:
        result = CliRunner().invoke(cli, ["train", "coarse", *common, "--out", str(tmp_path / run), *words])
        assert result.exit_code == 0, result.output
        return read_run(tmp_path / run)[2]

    first = seed("first", "--init-from", str(tiny_model), "--steps", "1", "--lr", "0.1", "--ema", "0")
    again = seed("again", "--init-from", str(tiny_model), "--steps", "1")
    second = seed("second", "--init-from", str(tmp_path / "first"), "--steps", "1")
    resumed = seed("second", "--init-from", str(tmp_path / "first"), "--steps", "2")
    assert first == again
    assert first != second == resumed
    assert seed("chosen", "--init-from", str(tiny_model), "--steps", "1", "--seed", "5") == 5


def test_sizes_that_do_not_fit_the_weights_are_refused(tmp_path: Path) -> None:
    photos = write_colors(tmp_path / "photos", 2)
    words = [
        "train",
        "color-upsampler",
        "--data",
        str(photos),
        "--val",
        str(photos),
        "--cache",
        str(tmp_path / "cache"),
    ]
    words += ["--out", str(tmp_path / "run"), "--init-from", "coltran-small", "--config", "published"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert "coltran-small has other sizes" in result.output


def test_an_upsampler_learns_from_what_a_core_draws(photos: PhotoCache) -> None:
    core = cast(ColTranCore, fresh_stage(TINY["core"])).eval()
    upsampler = cast(ColorUpsampler, fresh_stage(TINY["color_upsampler"]))
    task = UpsamplerTask([Source(photos, 1.0)], {}, batch=1, window=16, core=core, drawn_share=1.0)
    levels, _, rgb = task.sample(upsampler, photos[0], np.random.default_rng(0))
    truth = rgb // 32
    assert levels.shape == truth.shape
    assert levels.min() >= 0 and levels.max() <= 7
    assert 0.1 < (levels != truth).any(-1).mean() < 1  # an untrained core draws at random


def test_exporting_one_run_over_a_base_keeps_the_bases_other_stages(tiny_model: Path, tmp_path: Path) -> None:
    photos = write_colors(tmp_path / "photos", 2)
    words = train_words(photos, tmp_path / "run", "--steps", "1", "--batch", "1")
    subprocess.run(words, check=True, capture_output=True)
    words = ["train", "export", str(tmp_path / "run"), "--base", str(tiny_model), "-o", str(tmp_path / "model")]
    assert CliRunner().invoke(cli, words).exit_code == 0
    model, base = load_model(str(tmp_path / "model")), load_model(str(tiny_model))
    assert model.temperature == base.temperature
    assert model.color_upsampler.config.hidden == 16
    assert all(torch.equal(a, b) for a, b in zip(model.core.parameters(), base.core.parameters(), strict=True))
    result = CliRunner().invoke(cli, ["train", "export", str(tmp_path / "run"), "-o", str(tmp_path / "other")])
    assert result.exit_code == 2
    assert "no run of core, spatial_upsampler" in result.output


def test_runs_of_one_stage_are_exported_as_the_mean_of_their_weights(
    photos: PhotoCache, tiny_model: Path, tmp_path: Path
) -> None:
    for name, steps in (("a", 2), ("b", 4)):
        tiny_run(photos, tmp_path / name, "joint", steps)
    words = ["train", "export", str(tmp_path / "a"), str(tmp_path / "b"), "--base", str(tiny_model)]
    result = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    found = load_model(str(tmp_path / "model")).core.state_dict()
    a, b = (averaged_stage(tmp_path / name)[1].state_dict() for name in "ab")
    assert not torch.equal(a["head.weight"], b["head.weight"])
    assert all(torch.equal(found[key].float(), ((a[key] + b[key]) / 2).bfloat16().float()) for key in a)
    tiny_run(photos, tmp_path / "other", "joint", 0, replace(TINY["core"], feed_forward=32))  # type: ignore[arg-type]
    result = CliRunner().invoke(cli, [*words, str(tmp_path / "other"), "-o", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "has other sizes" in result.output
    assert not (tmp_path / "none").exists()


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
    assert len(list((tmp_path / "cache").iterdir())) == 2  # nothing half-built is left


def test_ageing_keeps_the_colour_and_changes_the_luma(photos: PhotoCache) -> None:
    photo = photos[0]
    changed = 0
    for seed in range(20):
        aged = age(photo, np.random.default_rng(seed))
        assert aged.shape == photo.shape
        changed += not np.array_equal(luma(aged), luma(photo))
    assert 10 <= changed < 20


def test_scratches_and_paper_borders_touch_only_their_places() -> None:
    gray = np.full((64, 64), 128, dtype=np.float32)
    changed = (scratched(gray, np.random.default_rng(0)) != gray).mean()
    assert 0 < changed < 0.1
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    framed = bordered(photo, np.random.default_rng(0))
    assert len(np.unique(framed[0])) == 1
    assert np.array_equal(framed[8:-8, 8:-8], photo[8:-8, 8:-8])


def test_a_core_sample_is_gray_eye_and_colour_of_one_crop(photos: PhotoCache) -> None:
    gray, eye, rgb, sharp = core_sample(photos[0], np.random.default_rng(0))
    assert (gray.shape, eye.shape, rgb.shape, sharp.shape) == ((64, 64), (192, 192), (64, 64, 3), (64, 64, 3))
    assert np.abs(luma(rgb).astype(int) - gray).max() <= 1


def test_the_count_table_is_a_distribution_for_every_gray(photos: PhotoCache) -> None:
    table = count_table([Source(photos, 1.0)], 64, photos=4)
    assert torch.allclose(table.exp().sum(-1), torch.ones(256), atol=1e-4)


def test_a_fresh_spatial_upsampler_gives_the_levels_it_is_fed() -> None:
    config = SpatialUpsamplerConfig(resolution=16, hidden=64, feed_forward=64, layers=1, enlargement="chroma")
    upsampler = cast(SpatialUpsampler, fresh_stage(config))
    levels = torch.randint(0, 256, (1, 16, 16, 3), generator=torch.Generator().manual_seed(0))
    gray = (levels.float() @ torch.tensor([0.299, 0.587, 0.114])).round().long()
    assert (upsampler.upsample(levels, gray).long() - levels).abs().float().mean() < 2


def test_windows_lie_on_the_canvas_and_come_in_three_shapes() -> None:
    rng = np.random.default_rng(0)
    windows = [draw_window(rng, 64, 32)[0] for _ in range(60)]
    assert {(w.height, w.width) for w in windows} == {(32, 32), (64, 16), (16, 64)}
    assert all(w.top + w.height <= 64 and w.left + w.width <= 64 for w in windows)
    pixels = torch.arange(64 * 64).view(1, 64, 64)
    for outer, inner in (draw_window(rng, 64, 32, 16) for _ in range(60)):
        assert outer.height * outer.width == 4 * inner.height * inner.width
        assert torch.equal(inner.within(outer).cut(outer.cut(pixels)), inner.cut(pixels))


def test_the_encoder_may_see_more_of_the_canvas_than_the_decoders(photos: PhotoCache) -> None:
    core = cast(ColTranCore, fresh_stage(TINY["core"], gray_bias=torch.zeros(256, 512)))
    sources = [Source(photos, 1.0)]
    tasks = [CoreTask(sources, {}, batch=1, phase="joint", window=16, encoder_window=side) for side in (None, 16, 64)]
    same, alike, wide = (task.loss(core, 0, range(1))[1] for task in tasks)
    assert same == alike
    whole = CoreTask(sources, {}, batch=1, phase="encoder", window=64).loss(core, 0, range(1))[1]
    assert wide["parallel_bits"] == pytest.approx(whole["parallel_bits"])
    assert wide["bits"] != same["bits"]
    assert isinstance(TINY["core"], CoreConfig)
