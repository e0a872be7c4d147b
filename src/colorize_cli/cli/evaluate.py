"""`colorize evaluate`: how good a model is on photographs in colour."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import click

from colorize_cli.cli.photos import model_options
from colorize_cli.errors import ColorizeError


@click.command("evaluate", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", required=True, type=click.Path(path_type=Path), metavar="PATH",
              help="A folder, .tar or .tar.gz of photographs in colour.")  # fmt: skip
@model_options
@click.option("--limit", type=int, metavar="N", help="Only the first N photographs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.pass_context
def evaluate(
    ctx: click.Context, data: Path, model: str, device: str, dtype: str, limit: int | None, as_json: bool
) -> int:
    """Measure a model on photographs in colour.

    Bits per pixel of the core; PSNR and CIEDE2000 of the upsamplers given the true coarse image, beside plain
    bicubic enlargement of it, on photographs larger than 64x64.
    """
    from itertools import islice

    from colorize_cli.colorizer import Colorizer
    from colorize_cli.evaluation import evaluate as measure
    from colorize_cli.training.data import read_photos

    try:
        colorizer = Colorizer.from_pretrained(model, device, dtype)
        photos = (image for _, image in islice(read_photos(data), limit))
        count, scores = measure(colorizer, photos)
    except ColorizeError as error:
        raise click.UsageError(str(error), ctx) from error
    figures = {key: value for key, value in asdict(scores).items() if not math.isnan(value)}
    if as_json:
        click.echo(json.dumps({"model": colorizer.model.name, "data": data.name, "photos": count, **figures}))
    else:
        click.echo(f"{colorizer.model.name} on {count} photographs of {data.name}")
        for key, value in figures.items():
            click.echo(f"  {key:26} {value:.3f}")
    return 0
