"""The figures of a model are those of their definitions."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from colorize_cli import Colorizer, SamplingOptions
from colorize_cli.cli import cli
from colorize_cli.evaluation import InceptionSet, JudgedSet, evaluate, score_photo, true_color
from colorize_cli.judge import Judge, load_judge, save_judge
from colorize_cli.metrics import (
    ciede2000,
    colorfulness,
    diversity,
    frechet_distance,
    gap_closed,
    is_nearly_gray,
    psnr,
)
from tests.conftest import EXAMPLES

GRAY = np.full((8, 8, 3), 100, dtype=np.uint8)


def plain(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((8, 8, 3), (red, green, blue), dtype=np.uint8)


def test_psnr_and_ciede2000_of_known_pictures() -> None:
    assert psnr(GRAY, GRAY) == math.inf
    assert psnr(GRAY, GRAY + 10) == pytest.approx(28.13, abs=0.01)
    assert ciede2000(GRAY, GRAY) == 0
    assert ciede2000(plain(255, 0, 0), plain(0, 0, 255)) == pytest.approx(52.88, abs=0.05)


def test_colorfulness_of_known_pictures() -> None:
    assert colorfulness(GRAY) == 0
    # One colour alone: no spread, 0.3 of the mean's length, here hypot(255, 127.5).
    assert colorfulness(plain(255, 0, 0)) == pytest.approx(0.3 * math.hypot(255, 127.5))
    halves = np.concatenate([plain(255, 0, 0), plain(0, 255, 0)])
    assert colorfulness(halves) == pytest.approx(255 + 0.3 * 127.5)


def test_only_a_picture_without_chroma_is_nearly_gray() -> None:
    assert is_nearly_gray(GRAY)
    assert is_nearly_gray(plain(100, 102, 99))
    assert not is_nearly_gray(plain(120, 100, 80))


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    assert math.isnan(diversity([GRAY]))
    assert diversity([GRAY, GRAY]) == 0
    black, white = plain(0, 0, 0), plain(255, 255, 255)
    assert diversity([black, white]) == pytest.approx(100, abs=0.01)
    assert diversity([black, white, white]) == pytest.approx(200 / 3, abs=0.01)


def test_the_frechet_distance_of_shifted_and_scaled_normals_is_known() -> None:
    features = np.random.default_rng(0).standard_normal((4000, 3))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 2) == pytest.approx(12, abs=1e-3)
    assert math.isnan(frechet_distance(features[:1], features[:1]))
    spread = np.trace(np.cov(features, rowvar=False))
    assert frechet_distance(features, features.mean(0) + 3 * (features - features.mean(0))) == pytest.approx(4 * spread)


def test_a_gap_is_closed_from_nothing_to_all() -> None:
    assert gap_closed(0.2, 0.3, 0.4) == pytest.approx(0.5)
    assert gap_closed(8.0, 2.0, 0.0) == pytest.approx(0.75)
    assert math.isnan(gap_closed(0.2, 0.2, 0.2))


def test_the_figures_of_a_photo_are_finite_and_ordered_as_they_must_be(tiny_model: Path) -> None:
    colorizer = Colorizer.from_pretrained(str(tiny_model))
    with Image.open(EXAMPLES / "kodim23.jpg") as image:
        scores = score_photo(colorizer, true_color("kodim23", image))
    assert all(math.isfinite(value) for value in scores.values())
    assert min(value for key, value in scores.items() if "bits" in key) > 0
    assert scores["bicubic_psnr"] > 20
    assert scores["bicubic_ciede2000"] < scores["joined_ciede2000"]  # random weights do worse than none


def write_photos(folder: Path, size: int, count: int) -> Path:
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"noise_{number}.png")
    return folder


def test_drawn_samples_are_scored_and_the_same_seed_gives_the_same_figures(tiny_model: Path, tmp_path: Path) -> None:
    colorizer = Colorizer.from_pretrained(str(tiny_model))
    photos = [(p.stem, Image.open(p)) for p in sorted(write_photos(tmp_path, 32, 2).iterdir())]
    first, second, other = (evaluate(colorizer, photos, SamplingOptions(2, seed=seed)) for seed in (1, 1, 2))
    assert repr(first) == repr(second)
    assert first.mean.bits_per_pixel == other.mean.bits_per_pixel
    assert first.mean.sample_ciede2000 != other.mean.sample_ciede2000
    assert [name for name, _ in first.rows] == [name for name, _ in photos]
    assert 0 < first.mean.best_sample_ciede2000 <= first.mean.sample_ciede2000
    assert first.mean.sample_diversity > 0


class Halves(nn.Module):
    """A stand-in for Inception: the mean colours of a picture's halves."""

    num_features = 6

    def forward(self, x: Tensor) -> Tensor:
        halves = x.float().chunk(2, dim=-1)
        return torch.cat([half.mean(dim=(2, 3)) for half in halves], dim=1)


class RedFromBlue(Judge):
    """Knows them by the mean colour."""

    def __init__(self) -> None:
        super().__init__(["blue", "red"])

    def features(self, pictures: Tensor) -> Tensor:
        return pictures.mean(dim=(2, 3))

    def forward(self, features: Tensor) -> Tensor:
        return features[..., [2, 0]]


@pytest.fixture
def judge() -> Judge:
    return RedFromBlue()


@pytest.mark.parametrize("names", [("red_1", "blue_1"), ("one", "two")], ids=["named", "by what it says of the truth"])
def test_true_colours_close_the_judges_gap_and_swapped_ones_widen_it(judge: Judge, names: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    red, blue = (
        (np.array(c) + rng.integers(-20, 20, (8, 8, 3))).astype(np.uint8) for c in ((200, 90, 90), (90, 90, 200))
    )
    pictures = [true_color(name, Image.fromarray(rgb)) for name, rgb in zip(names, (red, blue), strict=True)]
    truth, swapped = JudgedSet(judge), JudgedSet(judge)
    for photo, other in zip(pictures, reversed(pictures), strict=True):
        truth.add(photo, photo.rgb)
        swapped.add(photo, other.rgb)
    scores = truth.scores()
    assert scores["true_accuracy"] == scores["sample_accuracy"] == 1
    assert scores["gray_accuracy"] == 0.5
    assert scores["accuracy_gap_closed"] == 1
    assert scores["frechet_gap_closed"] == pytest.approx(1, abs=1e-3)
    assert swapped.scores()["sample_accuracy"] == 0


def test_fid_is_nought_for_the_true_photos_and_grows_with_the_error() -> None:
    distances = []
    for shift in (0, 20, 60):
        fid = InceptionSet(Halves())
        for number in range(8):
            rgb = np.random.default_rng(number).integers(0, 180, (8, 8, 3), dtype=np.uint8)
            photo = true_color(str(number), Image.fromarray(rgb))
            fid.add(photo, (photo.rgb + shift).astype(np.uint8))
        distances.append(fid.scores()["fid"])
    assert distances[0] == pytest.approx(0, abs=1e-2)
    assert distances[0] < distances[1] < distances[2]


def test_a_judge_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    judge = Judge(["blue", "red"])
    judge.features(torch.rand(8, 3, 64, 64) * 255)  # so that its norms have seen something
    save_judge(judge, tmp_path / "judge.safetensors")
    again = load_judge(tmp_path / "judge.safetensors")
    assert again.classes == judge.classes and not again.training
    for name, value in judge.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(again.state_dict()[name], value if value.ndim < 2 else value.bfloat16().float())


def test_a_judge_learns_to_name_what_it_did_not_learn_from(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(100):
        name, color = (("red", (200, 60, 60)), ("blue", (60, 60, 200)))[number % 2]
        pixels = (np.array(color) + rng.integers(-40, 40, (16, 16, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}_{number}.png")
    Image.fromarray(pixels).save(tmp_path / "photos" / "green_0.png")
    words = [
        "train",
        "judge",
        "--leave-out",
        "green_0",
        "--data",
        str(tmp_path / "photos"),
        "--cache",
        str(tmp_path / "cache"),
    ]
    words += ["--epochs", "60", "-o", str(tmp_path / "judge.safetensors")]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert "names 100.0% of the photographs it did not learn from" in result.output
    assert load_judge(tmp_path / "judge.safetensors").classes == ["blue", "red"]


def test_the_command_prints_the_figures_as_json_and_writes_rows(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    write_photos(tmp_path / "photos", 64, 2)
    Image.new("L", (90, 60), 99).save(tmp_path / "photos" / "gray.png")
    words = ["evaluate", "--data", str(tmp_path / "photos"), "--model", str(tiny_model), "--json"]
    words += ["--samples", "1", "--csv", str(tmp_path / "rows.csv")]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert "left out, as they have no colour: gray\n" in result.stderr
    record = json.loads(result.stdout)
    assert record["photos"] == 2
    assert {"bits_per_pixel", "parallel_bits_per_pixel", "sample_colorfulness"} <= set(record)
    assert "model_psnr" not in record  # nothing to judge the upsamplers by at 64x64
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["photo"] for row in rows] == ["noise_0", "noise_1"]
    mean = np.mean([float(row["bits_per_pixel"]) for row in rows])
    assert record["bits_per_pixel"] == pytest.approx(mean, rel=1e-4)


def test_a_file_that_is_no_judge_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "judge.safetensors").write_bytes(b"no")
    write_photos(tmp_path, 64, 1)
    words = ["evaluate", "--data", str(tmp_path), "--model", str(tiny_model), "--samples", "1"]
    result = CliRunner().invoke(cli, [*words, "--judge", str(tmp_path / "judge.safetensors")])
    assert result.exit_code == 2
    assert "cannot be read as a judge" in result.output
