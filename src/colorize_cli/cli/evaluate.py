"""`colorize evaluate`: how good a model is on photographs in colour."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colorize_cli.atomic import check_writable, replacing
from colorize_cli.cli.photos import model_options
from colorize_cli.cli.printable import printable
from colorize_cli.cli.refusal import Refusal
from colorize_cli.config import MOST_GUIDANCE, SamplingOptions
from colorize_cli.errors import ColorizeError

if TYPE_CHECKING:
    from colorize_cli.evaluation import Report, Scores, SetScores
    from colorize_cli.judge import Judge

JUDGE = "judge.safetensors"  # among the weights of a checkout; the installed package has none


@click.command("evaluate", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", required=True, type=click.Path(path_type=Path), metavar="PATH",
              help="A folder, .tar or .tar.gz of photographs in colour.")  # fmt: skip
@model_options
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N photographs.")
@click.option("-n", "--samples", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Also draw N samples of each photograph and judge them.")  # fmt: skip
@click.option("-t", "--temperature", type=float, metavar="T",
              help="Of the drawing.  [default: the model's own]")  # fmt: skip
@click.option("--guidance", type=float, metavar="G",
              help=f"Weight of the parallel head in the drawing, 0..{MOST_GUIDANCE}."
                   "  [default: the model's own]")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Of the drawing.")
@click.option("--judge", "judge_file", type=click.Path(path_type=Path), metavar="FILE",
              help="The judge of samples, made by 'colorize train judge'.  [default: a checkout's own]")  # fmt: skip
@click.option("--inception", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="torch-fidelity's Inception weights, for the Frechet Inception distance of samples.")  # fmt: skip
@click.option("--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write the figures of every photograph there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def evaluate(
    data: Path,
    model: str,
    device: str,
    dtype: str,
    limit: int | None,
    samples: int,
    temperature: float | None,
    guidance: float | None,
    seed: int,
    judge_file: Path | None,
    inception: Path | None,
    csv_file: Path | None,
    as_json: bool,
) -> int:
    """Measure a model on photographs in colour.

    Bits per pixel of the core; bits, PSNR and CIEDE2000 of the upsamplers given the true coarse image, beside plain
    bicubic enlargement of it, on photographs larger than 64x64. With --samples also colourfulness and diversity of what
    is drawn, and how much of the gap between gray and true photographs it closes in the eyes of a classifier.
    """
    from itertools import islice

    from rich.console import Console
    from rich.progress import Progress

    from colorize_cli.colorizer import Colorizer
    from colorize_cli.evaluation import evaluate as measure
    from colorize_cli.training.data import read_photos

    console = Console(stderr=True)
    try:
        if csv_file is not None:
            _check_csv(csv_file)
        options = SamplingOptions(samples, temperature, seed, guidance=guidance) if samples else None
        judge = _judge(judge_file) if options else None
        colorizer = Colorizer.from_pretrained(model, device, dtype)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(data.name, total=limit)
            report = measure(
                colorizer,
                islice(read_photos(data), limit),
                options,
                judge=judge,
                inception=None if inception is None else str(inception),
                progress=lambda: bar.advance(task),
            )
    except ColorizeError as error:
        raise Refusal(str(error)) from error
    if report.left_out:
        click.echo(f"left out, as they have no colour: {printable(', '.join(report.left_out))}", err=True)
    if options and judge is None:
        click.echo(f"no classifier: give --judge {JUDGE}, which 'colorize train judge' makes", err=True)
    if options and inception is None:
        click.echo("no FID: give --inception with torch-fidelity's Inception weights", err=True)
    record: dict[str, Any] = {"model": colorizer.model.name, "data": data.name, "photos": len(report.rows)}
    if options:
        record |= {"samples": samples, "temperature": colorizer.temperature(options)}
        record |= {"guidance": colorizer.guidance(options), "seed": seed}
    record |= _measured(report.mean) | _measured(report.whole)
    if as_json:
        click.echo(json.dumps(record))
    else:
        for key, value in record.items():
            click.echo(f"{key:32} {value:.3f}" if isinstance(value, float) else f"{key:32} {value}")
    if csv_file is not None:
        _write_csv(csv_file, report)
    return 0


def _judge(path: Path | None) -> Judge | None:
    from colorize_cli.checkpoints import shipped_folders
    from colorize_cli.judge import load_judge

    if path is None:
        path = next((folder / JUDGE for folder in shipped_folders() if (folder / JUDGE).is_file()), None)
    return None if path is None else load_judge(path)


def _measured(scores: Scores | SetScores) -> dict[str, float]:
    return {key: value for key, value in asdict(scores).items() if not math.isnan(value)}


def _check_csv(path: Path) -> None:
    """Raises `ColorizeError` before there is anything to lose."""
    try:
        if not path.exists() or path.is_file():
            check_writable(path.resolve().parent)
    except OSError as error:
        raise ColorizeError(f"{path}: cannot be written ({error.strerror}); choose another --csv") from error


def _write_csv(path: Path, report: Report) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["photo", *asdict(report.mean)])
    for name, scores in report.rows:
        writer.writerow([name, *("" if math.isnan(x) else f"{x:.6g}" for x in asdict(scores).values())])
    content = text.getvalue().encode(errors="surrogateescape")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            path.write_bytes(content)
            return
        with replacing(path.resolve()) as file:
            file.write(content)
    except OSError as error:
        raise Refusal(f"{path}: cannot be written ({error.strerror}); choose another --csv") from error
