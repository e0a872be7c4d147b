"""What training learns from, and that a tiny run of it learns."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from colorize_cli.config import BackboneConfig, CoreConfig, SpatialUpsamplerConfig
from colorize_cli.errors import PhotoError
from colorize_cli.models.backbone import EfficientNetLite2
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.upsamplers import ColorUpsampler, SpatialUpsampler
from colorize_cli.training import loop
from colorize_cli.training.batches import Source, count_table, draw_windows
from colorize_cli.training.canvas import fit_canvas
from colorize_cli.training.core_task import CoreTask
from colorize_cli.training.data import PhotoCache, age, bordered, cached_photos, core_sample, luma, scratched
from colorize_cli.training.journal import Journal, append_row, rewind
from colorize_cli.training.loop import TrainingOptions, run_training
from colorize_cli.training.start import averaged_stage, choose_learned, fresh_stage
from colorize_cli.training.upsampler_task import UpsamplerTask
from tests.conftest import TINY, write_colors
from tests.tiny_run import tiny_run


def test_a_few_steps_lower_the_bits_of_both_heads(color_photos: PhotoCache, tmp_path: Path) -> None:
    before = tiny_run(color_photos, tmp_path / "run", "joint", 0)
    after = tiny_run(color_photos, tmp_path / "run", "joint", 40)
    assert after["val_bits"] < 0.8 * before["val_bits"]
    assert after["val_parallel_bits"] < before["val_parallel_bits"]


def test_weights_shrink_by_their_decay_and_biases_do_not(color_photos: PhotoCache, tmp_path: Path) -> None:
    def sizes(name: str, decay: float) -> tuple[float, float]:
        tiny_run(color_photos, tmp_path / name, "joint", 10, decay=decay)
        stage = averaged_stage(tmp_path / name)[1]
        return stage.get_parameter("head.weight").norm().item(), stage.get_parameter("norm.weight").norm().item()

    (weight, norm), (shrunk, same) = sizes("none", 0.0), sizes("much", 5.0)
    assert shrunk < 0.9 * weight
    assert same == pytest.approx(norm, rel=0.02)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(color_photos: PhotoCache, tmp_path: Path) -> None:
    whole = tiny_run(color_photos, tmp_path / "whole", "joint", 12)
    tiny_run(color_photos, tmp_path / "parts", "joint", 5)
    resumed = tiny_run(color_photos, tmp_path / "parts", "joint", 7)
    assert resumed["step"] == whole["step"] == 12
    assert resumed["val_bits"] == pytest.approx(whole["val_bits"], rel=0.01)


def test_a_phase_moves_only_its_own_part(color_photos: PhotoCache, tmp_path: Path) -> None:
    tiny_run(color_photos, tmp_path / "run", "encoder", 0)
    _, before = averaged_stage(tmp_path / "run")
    tiny_run(color_photos, tmp_path / "run", "encoder", 3)
    _, after = averaged_stage(tmp_path / "run")
    old, new = before.state_dict(), after.state_dict()
    moved = {name.partition(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved <= {"encoder", "parallel_head", "gray_bias"}
    assert "parallel_head" in moved


def test_an_encoder_may_listen_to_decoders_that_stand_still(color_photos: PhotoCache) -> None:
    core = cast(ColTranCore, fresh_stage(TINY["core"]))
    choose_learned(core, "encoder", unfreeze_backbone=False)
    task = CoreTask(
        [Source(color_photos, 1.0)], {"val": color_photos}, batch=1, phase="encoder", window=16, parallel_weight=0.5
    )
    loss, figures = task.loss(core, 0, range(1))
    assert loss.item() == pytest.approx((figures["bits"] + figures["parallel_bits"]) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert core.encoder.embedding.weight.grad is not None  # the parallel head starts at nought and lets nothing through
    assert core.encoder.embedding.weight.grad.abs().max() > 0
    assert core.head.weight.grad is None
    assert "val_bits" in task.validate(core)


def test_an_unfrozen_backbone_learns_in_its_last_stages_alone(color_photos: PhotoCache, tmp_path: Path) -> None:
    eye = BackboneConfig(channels=8, blocks=1)
    core = cast(ColTranCore, fresh_stage(replace(TINY["core"], backbone=eye)))
    choose_learned(core, "encoder", unfreeze_backbone=True)
    before = {name: tensor.clone() for name, tensor in core.state_dict().items()}
    teacher = EfficientNetLite2().to(torch.bfloat16).requires_grad_(False)
    task = CoreTask(
        [Source(color_photos, 1.0)], {}, batch=1, phase="encoder", window=16, teacher=teacher, distillation=1.0
    )
    run_training(core, task, tmp_path / "run", TrainingOptions(steps=1, warmup_steps=1), lambda row: None)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["masters"]
    moved = {name for name, tensor in saved.items() if not torch.equal(tensor, before[name])}
    # The parallel head starts at nought, and lets no gradient through: what moves the backbone is its teacher.
    assert {name.split(".")[2] for name in moved if name.startswith("backbone.")} == {"2", "3", "4", "5", "6"}
    assert not any(".depthwise." in name for name in moved)
    assert "parallel_head.weight" in moved


def test_an_upsampler_learns_from_what_a_core_draws(color_photos: PhotoCache) -> None:
    core = cast(ColTranCore, fresh_stage(TINY["core"])).eval()
    upsampler = cast(ColorUpsampler, fresh_stage(TINY["color_upsampler"]))
    task = UpsamplerTask([Source(color_photos, 1.0)], {}, batch=1, window=16, core=core, drawn_share=1.0)
    levels, _, rgb = task.sample(upsampler, color_photos[0], np.random.default_rng(0))
    truth = rgb // 32
    assert levels.shape == truth.shape
    assert levels.min() >= 0 and levels.max() <= 7
    assert 0.1 < (levels != truth).any(-1).mean() < 1  # an untrained core draws at random


def test_the_encoder_may_see_more_of_the_canvas_than_the_decoders(color_photos: PhotoCache) -> None:
    core = cast(ColTranCore, fresh_stage(TINY["core"], gray_bias=torch.zeros(256, 512)))
    sources = [Source(color_photos, 1.0)]
    tasks = [CoreTask(sources, {}, batch=1, phase="joint", window=16, encoder_window=side) for side in (None, 16, 64)]
    same, alike, wide = (task.loss(core, 0, range(1))[1] for task in tasks)
    assert same == alike
    whole = CoreTask(sources, {}, batch=1, phase="encoder", window=64).loss(core, 0, range(1))[1]
    assert wide["parallel_bits"] == pytest.approx(whole["parallel_bits"])
    assert wide["bits"] != same["bits"]
    assert isinstance(TINY["core"], CoreConfig)


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


def test_a_fresh_spatial_upsampler_gives_the_levels_it_is_fed() -> None:
    config = SpatialUpsamplerConfig(resolution=16, hidden=64, feed_forward=64, layers=1, enlargement="chroma")
    upsampler = cast(SpatialUpsampler, fresh_stage(config))
    levels = torch.randint(0, 256, (1, 16, 16, 3), generator=torch.Generator().manual_seed(0))
    gray = (levels.float() @ torch.tensor([0.299, 0.587, 0.114])).round().long()
    assert (upsampler.upsample(levels, gray).long() - levels).abs().float().mean() < 2


def test_windows_lie_on_the_canvas_and_come_in_three_shapes() -> None:
    rng = np.random.default_rng(0)
    windows = [draw_windows(rng, 64, [32])[0] for _ in range(60)]
    assert {(w.height, w.width) for w in windows} == {(32, 32), (64, 16), (16, 64)}
    assert all(w.top + w.height <= 64 and w.left + w.width <= 64 for w in windows)
    pixels = torch.arange(64 * 64).view(1, 64, 64)
    for outer, inner in (draw_windows(rng, 64, [32, 16]) for _ in range(60)):
        assert outer.height * outer.width == 4 * inner.height * inner.width
        assert torch.equal(inner.within(outer).cut(outer.cut(pixels)), inner.cut(pixels))


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


def test_ageing_keeps_the_colour_and_changes_the_luma(color_photos: PhotoCache) -> None:
    photo = color_photos[0]
    changed = 0
    for seed in range(20):
        aged = age(photo, np.random.default_rng(seed))
        assert aged.shape == photo.shape
        changed += not np.array_equal(luma(aged), luma(photo))
    assert 10 <= changed < 20


def test_a_share_of_the_photos_is_aged(color_photos: PhotoCache) -> None:
    photo = color_photos[0]
    assert all(age(photo, np.random.default_rng(seed), 0.0) is photo for seed in range(20))
    same = {
        share: sum(age(photo, np.random.default_rng(seed), share) is photo for seed in range(60)) for share in (0.3, 1)
    }
    assert same[1] < 20 < 40 < same[0.3] < 60
    losses = []
    for aged in (0.0, 1.0):
        core = cast(ColTranCore, fresh_stage(TINY["core"]))
        task = CoreTask([Source(color_photos, 1.0)], {}, batch=4, phase="joint", aged=aged)
        losses.append(task.loss(core, 0, range(4))[1]["bits"])
    assert losses[0] != losses[1]


def test_scratches_and_paper_borders_touch_only_their_places() -> None:
    gray = np.full((64, 64), 128, dtype=np.float32)
    changed = (scratched(gray, np.random.default_rng(0)) != gray).mean()
    assert 0 < changed < 0.1
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    framed = bordered(photo, np.random.default_rng(0))
    assert len(np.unique(framed[0])) == 1
    assert np.array_equal(framed[8:-8, 8:-8], photo[8:-8, 8:-8])


def test_a_core_sample_is_gray_eye_and_colour_of_one_crop(color_photos: PhotoCache) -> None:
    gray, eye, rgb, sharp = core_sample(color_photos[0], np.random.default_rng(0))
    assert (gray.shape, eye.shape, rgb.shape, sharp.shape) == ((64, 64), (192, 192), (64, 64, 3), (64, 64, 3))
    assert np.abs(luma(rgb).astype(int) - gray).max() <= 1
    assert core_sample(color_photos[0], None).eye.shape == (224, 224)  # of a whole photo, as in the command


def test_the_count_table_is_a_distribution_for_every_gray(color_photos: PhotoCache) -> None:
    table = count_table([Source(color_photos, 1.0)], 64, photos=4)
    assert torch.allclose(table.exp().sum(-1), torch.ones(256), atol=1e-4)


def test_a_half_written_row_and_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for step in (20, 40, 60):
        append_row(path, {"step": step, "bits": 1.5})
    with path.open("a") as file:
        file.write("80,")
    rewind(path, 40)
    append_row(path, {"step": 60, "bits": 1.25})
    append_row(path, {"step": 1_234_567, "bits": 1})
    assert path.read_text().split() == ["step,bits", "20,1.5", "40,1.5", "60,1.25", "1234567,1"]
    journal = Journal(tmp_path, 1_234_567)
    assert journal.has("log.csv", 1_234_567) and not journal.has("log.csv", 61)


def test_a_row_with_more_figures_gives_the_log_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append_row(path, {"step": 20, "bits": 1.5})
    append_row(path, {"step": 40, "bits": 1.25, "more": 2})
    append_row(path, {"step": 60, "bits": 1})
    rewind(path, 60)
    assert path.read_text().split() == ["step,bits,more", "20,1.5,", "40,1.25,2", "60,1,"]


def test_photos_that_came_are_seen_and_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    with pytest.raises(PhotoError, match="holds no photographs"):
        cached_photos(folder, tmp_path / "cache")
    write_colors(folder / "sub", 2)
    assert len(cached_photos(folder, tmp_path / "cache")) == 2
    shutil.copy(folder / "sub" / "photo00.png", folder / "sub" / "another.png")
    assert len(cached_photos(folder, tmp_path / "cache")) == 3
    (folder / "sub" / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(PhotoError, match=r"bad\.jpg: cannot be read"):
        cached_photos(folder, tmp_path / "cache")


def test_a_share_of_what_the_backbone_sees_is_withheld_and_its_mean_stays(color_photos: PhotoCache) -> None:
    maps = (torch.ones(8, 48, 2, 2), torch.ones(8, 120, 1, 1), torch.ones(8, 352, 1, 1))
    task = CoreTask([Source(color_photos, 1.0)], {}, batch=8, phase="joint", drop_maps=0.25)
    for found in task.withheld(maps, [np.random.default_rng(seed) for seed in range(8)]):
        assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
        assert found.mean().item() == pytest.approx(1, abs=0.1)
        assert not torch.equal(found[0], found[1])
    task.drop_maps = 0.0
    assert task.withheld(maps, []) is maps


def test_all_processes_go_by_the_clock_of_the_first_and_stop_when_one_wants_to(monkeypatch: pytest.MonkeyPatch) -> None:
    rank, sent = 0, torch.zeros(2)

    def reduce_with_the_others(votes: torch.Tensor) -> None:
        votes += sent

    monkeypatch.setattr(loop.dist, "get_rank", lambda: rank)
    monkeypatch.setattr(loop.dist, "all_reduce", reduce_with_the_others)
    assert loop.agreed(0.25, False, "cpu", 2) == (0.25, False)
    rank, sent = 1, torch.tensor([0.25, 1.0])  # what the first sends, which was stopped
    assert loop.agreed(0.75, False, "cpu", 2) == (0.25, True)
    assert loop.agreed(0.75, False, "cpu", 1) == (0.75, False)
