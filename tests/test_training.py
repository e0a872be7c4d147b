"""Training by its commands: runs that are killed, shared, gone on from and exported."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from colorize_cli.checkpoints import load_model
from colorize_cli.cli import cli
from colorize_cli.errors import ModelError
from colorize_cli.training.data import PhotoCache
from colorize_cli.training.start import averaged_stage, read_run
from tests.conftest import TINY, write_colors
from tests.tiny_run import tiny_run


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
    for _ in range(2):
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


def test_a_run_that_is_told_to_stop_saves_says_so_and_goes_on(tmp_path: Path) -> None:
    photos = write_colors(tmp_path / "photos", 4)
    words = train_words(photos, tmp_path / "run", "--steps", "100000", "--batch", "1")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # of step 20
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in errors
    stopped_at = int(last_validation(tmp_path / "run")["step"])
    assert stopped_at == max(bits_by_step(tmp_path / "run"))
    words = train_words(photos, tmp_path / "run", "--steps", str(stopped_at + 5), "--batch", "1")
    subprocess.run(words, check=True, capture_output=True)
    assert last_validation(tmp_path / "run")["step"] == stopped_at + 5


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
    description = (tmp_path / "half" / "run.json").read_bytes()
    for stage, words, reason in (
        ("coarse", ["--resolution", "16"], "a run of other sizes"),
        ("coarse", ["--phase", "encoder"], "learns other parts"),
        ("coarse", ["--seed", "5"], "holds a run of seed"),
        ("color-upsampler", [], "a run of the stage core"),
    ):
        result = runner.invoke(cli, ["train", stage, *common, "--out", str(tmp_path / "half"), *words])
        assert (result.exit_code, reason in result.output) == (2, True), result.output
        assert (tmp_path / "half" / "run.json").read_bytes() == description
    result = runner.invoke(cli, ["train", "coarse", *common, "--out", str(tmp_path / "half"), "--steps", "3"])
    assert result.exit_code == 0, result.output  # goes on with the sizes of the run


def test_a_core_with_a_backbone_does_not_start_from_random_weights_of_it(tmp_path: Path) -> None:
    photos = write_colors(tmp_path / "photos", 2)
    common = ["--data", str(photos), "--val", str(photos), "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(cli, ["train", "coarse", *common, "--out", str(tmp_path / "run"), "--steps", "1"])
    assert result.exit_code == 2
    assert "give its weights by --backbone" in result.output


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--lr", "nan"], "no finite number"),
        (["--lr", "-1"], "not in the range"),
        (["--weight-decay", "inf"], "no finite number"),
        (["--minutes", "nan"], "no finite number"),
        (["--ema", "nan"], "no finite number"),
        (["--window", "100"], "the canvas has 64 pixels a side"),
        (["--window", "16", "--encoder-window", "65"], "--encoder-window 65: the canvas"),
        (["--resolution", "128"], "the canvas of this stage is 64 a side"),
        (["--leave-out", "photo00.png"], "--leave-out photo00.png: no photograph"),
        (["--leave-out", "photo00", "--leave-out", "photo01"], "no photographs but those left out"),
        (["--data", "{photos}/photo00.png"], "is no .tar or .tar.gz"),
        (["--out", "{photos}/photo00.png"], "is a file"),
        (["--out", "/proc/run"], "/proc/run"),
    ],
)
def test_training_that_cannot_be_is_refused_before_it_begins(tmp_path: Path, words: list[str], reason: str) -> None:
    photos = write_colors(tmp_path / "photos", 2)
    config = tmp_path / "core.json"
    config.write_text('{"hidden": 8, "feed_forward": 8, "heads": 2, "encoder_layers": 1, "outer_layers": 1}')
    common = ["--data", str(photos), "--val", str(photos), "--cache", str(tmp_path / "cache"), "--steps", "1"]
    common += ["--out", str(tmp_path / "run"), "--config", str(config)]
    words = [word.format(photos=photos) for word in words]
    result = CliRunner().invoke(cli, ["train", "coarse", *common, *words])
    assert (result.exit_code, reason in result.output) == (2, True), result.output
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_over_says_so_and_writes_nothing_more(tmp_path: Path) -> None:
    photos = write_colors(tmp_path / "photos", 2)
    words = train_words(photos, tmp_path / "run", "--steps", "2", "--batch", "1")[1:]
    assert CliRunner().invoke(cli, words).exit_code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "give more --minutes or --steps" in result.output
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")} == files


def test_a_run_that_broke_down_or_was_damaged_is_not_exported(
    color_photos: PhotoCache, tiny_model: Path, tmp_path: Path
) -> None:
    tiny_run(color_photos, tmp_path / "run", "joint", 1)
    words = ["train", "export", str(tmp_path / "run"), "--base", str(tiny_model), "-o", str(tmp_path / "model")]
    for option in ("--temperature", "--guidance"):
        result = CliRunner().invoke(cli, [*words, option, "nan"])
        assert (result.exit_code, "no finite number" in result.output) == (2, True), result.output
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    state["average"]["head.weight"][0, 0] = torch.nan
    torch.save(state, checkpoint)
    result = CliRunner().invoke(cli, words)
    assert (result.exit_code, "not finite" in result.output) == (2, True), result.output
    torch.save({"weights": torch.ones(2)}, tmp_path / "other.pt")
    whole = checkpoint.read_bytes()
    for content, reason in (
        (whole[:1000], "cannot be read as weights"),
        (b"a line of text\n", "cannot be read as weights"),
        ((tmp_path / "other.pt").read_bytes(), "is no checkpoint of a run"),
    ):
        checkpoint.write_bytes(content)
        result = CliRunner().invoke(cli, words)
        assert (result.exit_code, reason in result.output) == (2, True), result.output
    assert not (tmp_path / "model").exists()


def test_a_gradient_that_is_not_finite_ends_the_run_and_leaves_its_checkpoint(
    color_photos: PhotoCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny_run(color_photos, tmp_path / "run", "joint", 1)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    nan = torch.tensor(torch.nan, requires_grad=True)
    monkeypatch.setattr("colorize_cli.training.core_task.CoreTask.loss", lambda self, model, *_: (
        nan * sum(parameter.sum() for parameter in model.parameters()), {}
    ))  # fmt: skip
    with pytest.raises(ModelError, match="gradient of step 1 is not finite"):
        tiny_run(color_photos, tmp_path / "run", "joint", 1)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("share", ["0", "-1", "nan", "much"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: str) -> None:
    photos = write_colors(tmp_path / "photos", 2)
    words = ["--data", f"{photos}@{share}", "--val", str(photos), "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(cli, ["train", "coarse", *words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert f"@{share}" in result.output


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
    described = (tmp_path / "model" / "model.json").read_bytes()
    result = CliRunner().invoke(cli, [*words, "--temperature", "0.5"])
    assert (result.exit_code, "holds a model" in result.output) == (2, True), result.output
    assert (tmp_path / "model" / "model.json").read_bytes() == described
    assert CliRunner().invoke(cli, [*words, "--temperature", "0.5", "--force"]).exit_code == 0
    assert load_model(str(tmp_path / "model")).temperature == 0.5
    result = CliRunner().invoke(cli, ["train", "export", str(tmp_path / "run"), "-o", str(tmp_path / "other")])
    assert result.exit_code == 2
    assert "no run of core, spatial_upsampler" in result.output


def test_runs_of_one_stage_are_exported_as_the_mean_of_their_weights(
    color_photos: PhotoCache, tiny_model: Path, tmp_path: Path
) -> None:
    for name, steps in (("a", 2), ("b", 4)):
        tiny_run(color_photos, tmp_path / name, "joint", steps)
    words = ["train", "export", str(tmp_path / "a"), str(tmp_path / "b"), "--base", str(tiny_model)]
    result = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    found = load_model(str(tmp_path / "model")).core.state_dict()
    a, b = (averaged_stage(tmp_path / name)[1].state_dict() for name in "ab")
    assert not torch.equal(a["head.weight"], b["head.weight"])
    assert all(torch.equal(found[key].float(), ((a[key] + b[key]) / 2).bfloat16().float()) for key in a)
    result = CliRunner().invoke(cli, [*words, "--decoders", str(tmp_path / "b"), "-o", str(tmp_path / "mixed")])
    assert result.exit_code == 0, result.output
    mixed = load_model(str(tmp_path / "mixed")).core.state_dict()
    assert torch.equal(mixed["head.weight"], b["head.weight"].bfloat16().float())
    assert torch.equal(mixed["parallel_head.weight"], found["parallel_head.weight"])
    tiny_run(color_photos, tmp_path / "other", "joint", 0, replace(TINY["core"], feed_forward=32))  # type: ignore[arg-type]
    result = CliRunner().invoke(cli, [*words, str(tmp_path / "other"), "-o", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "has other sizes" in result.output
    assert not (tmp_path / "none").exists()
