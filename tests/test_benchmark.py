"""The benchmark times every stage."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from colorize_cli.cli import cli


def test_every_stage_and_the_whole_have_a_time(tiny_model: Path) -> None:
    words = ["bench", "--model", str(tiny_model), "-n", "1", "--repeats", "1", "--json"]
    record = json.loads(CliRunner().invoke(cli, words, standalone_mode=False).output)
    assert set(record["seconds"]) == {"encode", "coarse", "upsamplers", "join", "whole"}
    assert all(seconds > 0 for seconds in record["seconds"].values())
    assert record["samples"] == 1
