"""The benchmark times every stage and sets it beside the machine's limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from colorize_cli import Colorizer, machine
from colorize_cli.benchmark import least_work
from colorize_cli.cli import cli
from colorize_cli.config import BENCH_STAGES


def bench(*words: str) -> str:
    result = CliRunner().invoke(cli, ["bench", *words], standalone_mode=False)
    assert result.exception is None, result.output
    return result.output


def test_every_stage_has_a_time_and_a_share_of_the_limit(tiny_model: Path) -> None:
    record = json.loads(
        bench(
            "--model", str(tiny_model), "-n", "1", "-n", "2", "--photo", "90x60", "--repeats", "1", "--naive", "--json"
        )
    )
    lines = record["stages"]
    assert [(line["stage"], line["samples"]) for line in lines] == [
        (stage, count) for stage in BENCH_STAGES for count in ((1,) if stage in BENCH_STAGES[:3] else (1, 2))
    ]
    assert all(line["seconds"] > 0 and line["peak_memory"] > 0 and line["photo"] == "90x60" for line in lines)
    for line in lines:
        if line["stage"] != "whole photo":
            assert line["share"] == pytest.approx(line["least_seconds"] / line["seconds"])
            assert 0 < line["share"] < 1
    assert all(1 < line["passes_per_row"] <= 65 for line in lines if line["stage"] == "coarse")
    assert set(record["peak_flops"]) == {"float32"} | {line["dtype"] for line in lines if "dtype" in line}
    moved = {line["stage"]: line["moved"] for line in lines if line["samples"] == 1 and "moved" in line}
    gray, colors = 90 * 60, 3 * 256**2
    assert (moved["decode file"], moved["join"], moved["encode file"]) == (gray, 4 * gray + colors, 3 * gray)
    assert record["naive"]["extrapolated"] is True
    assert record["naive"]["seconds"] == pytest.approx(64 * record["naive"]["seconds_per_row"])
    ours = sum(line["seconds"] for line in lines if line["stage"] in ("encode", "coarse") and line["samples"] == 1)
    assert record["naive"]["ratio"] == pytest.approx(record["naive"]["seconds"] / ours)


def test_the_table_names_the_machine_and_the_stages_asked_for(tiny_model: Path) -> None:
    words = ["-n", "1", "--photo", "90x60", "--photo", "30x20"]
    output = bench("--model", str(tiny_model), *words, *words, "--stage", "join", "--stage", "decode file")
    head, columns, *rows = output.splitlines()
    assert "GFLOP/s in float32" in head
    assert columns.split()[:2] == ["stage", "photo"]
    assert [row[:35].split("  ")[0] + row[18:28] for row in rows] == [
        f"{stage} {size:>9}" for size in ("90x60", "30x20") for stage in ("decode file", "join")
    ]


def test_a_model_that_is_not_there_is_told_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measure_limits", lambda *arguments: pytest.fail("timed"))
    result = CliRunner().invoke(cli, ["bench", "--model", "nope"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nope" in result.stderr


@pytest.mark.parametrize("size", ["big", "1000", "0x10", "10x-3", "70000x10", "20000x20000"])
def test_a_photo_size_that_is_none_is_refused_by_its_name(size: str) -> None:
    result = CliRunner().invoke(cli, ["bench", "--photo", size])
    assert result.exit_code == 2
    assert size in result.output


def test_work_is_counted_from_the_architecture(tiny_model: Path) -> None:
    works = least_work(Colorizer.from_pretrained(str(tiny_model), dtype="float32"))
    hidden, pixels = 8, 3 * 256**2  # the spatial upsampler's; one layer: rows, then columns
    products = 2 * (4 * hidden**2 + 2 * hidden**2) + 2 * 2 * 256 * hidden + 256 * hidden
    tables = 2 * (3 * 256 + 256) * hidden * hidden  # its embeddings, merged
    expected = 2 * pixels * products + tables
    assert works["spatial upsampler"].flops == {"float32": pytest.approx(expected, rel=1e-3)}
    core = 2 * 64 * (3 * 16**2 + 2 * 64 * 16 + 16 * 512)  # one pass over a row; q, k and v come from a table
    assert works["coarse"].pass_flops == pytest.approx(core, rel=1e-3)


def test_the_backbones_share_of_the_work_is_counted_in_its_own_format() -> None:
    encode = least_work(Colorizer.from_pretrained(dtype="bfloat16"))["encode"]
    assert encode.flops.keys() == {"bfloat16", "float32"}
    multiplications = 0.65e9  # of EfficientNet-Lite2's maps at 224x224
    assert encode.flops["float32"] == pytest.approx(2 * multiplications, rel=0.2)


def test_the_least_time_is_set_by_what_takes_longer() -> None:
    limits = machine.Limits({"float32": 100.0, "bfloat16": 200.0}, bandwidth=10.0)
    assert limits.least_seconds({"float32": 100.0, "bfloat16": 100.0}, 1.0) == 1.5
    assert limits.least_seconds({"float32": 100.0}, 50.0) == 5.0


def test_a_stage_that_takes_long_is_run_less_often() -> None:
    ticks: list[int] = []
    timed = machine.measure(lambda: ticks.append(1), 3, torch.device("cpu"), most_seconds=0.0)
    assert (timed.runs, len(ticks)) == (1, 2)
