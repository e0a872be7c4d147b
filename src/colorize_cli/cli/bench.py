"""`colorize bench`: what each stage costs on this machine."""

from __future__ import annotations

import json

import click

from colorize_cli.cli.photos import model_options
from colorize_cli.errors import ColorizeError


@click.command("bench", context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@click.option("-n", "--samples", type=click.IntRange(min=1), default=4, show_default=True, metavar="N",
              help="Samples of the photo.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, metavar="N",
              help="Runs of each stage; the median is given.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.pass_context
def bench(ctx: click.Context, model: str, device: str, dtype: str, samples: int, repeats: int, as_json: bool) -> int:
    """Time the stages of one 1000x750 photo, the model loaded and warm."""
    import torch

    from colorize_cli.benchmark import bench as measure
    from colorize_cli.colorizer import Colorizer

    try:
        colorizer = Colorizer.from_pretrained(model, device, dtype)
    except ColorizeError as error:
        raise click.UsageError(str(error), ctx) from error
    times = {stage.stage: round(stage.seconds, 3) for stage in measure(colorizer, samples, repeats)}
    record = {
        "model": colorizer.model.name,
        "device": str(colorizer.device),
        "dtype": {stage: str(dtype).removeprefix("torch.") for stage, dtype in colorizer.dtypes.items()},
        "threads": torch.get_num_threads(),
        "samples": samples,
        "seconds": times,
    }
    if as_json:
        click.echo(json.dumps(record))
    else:
        for stage, seconds in times.items():
            click.echo(f"{stage:12} {seconds:8.3f} s")
    return 0
