"""`colorize PHOTO...`: the default command."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from colorize_cli.cli.output import output_options
from colorize_cli.config import CORE_SIZE, OutputOptions, SamplingOptions
from colorize_cli.errors import ColorizeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from colorize_cli.batch import Outcome
    from colorize_cli.colorizer import Colorizer


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that loads a model."""
    for option in reversed(
        [
            click.option("--model", default="coltran-small", show_default=True, metavar="NAME|DIR",
                         help="A shipped model, a model folder, or a Hugging Face hub id."),
            click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:i]|mps",
                         help="Where to run."),
            click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto",
                         show_default=True, help="Number format of the model's work."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("photos", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where the pictures go; beside each photo if not given.")  # fmt: skip
@click.option("-n", "--samples", type=int, default=3, show_default=True, metavar="N",
              help="How many different colourings of each photo.")  # fmt: skip
@click.option("-t", "--temperature", type=float, metavar="T",
              help="How freely colours are drawn; 0 is the most likely pixel each time and gives one picture."
                   "  [default: the model's own, about 1]")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, metavar="S",
              help="Same photo, seed and options: same pictures.")  # fmt: skip
@click.option("--guidance", type=float, metavar="G",
              help="How much the first, colourless look at the photo counts in drawing, 0..1; more is calmer."
                   "  [default: the model's own]")  # fmt: skip
@click.option("--saturation", type=float, default=1.0, show_default=True, metavar="F",
              help="Scales the predicted chroma.")  # fmt: skip
@click.option("--size", type=click.Choice(["original", "256"]), default="original", show_default=True,
              help="The photo's own size, or the model's own 256x256 RGB.")  # fmt: skip
@output_options
@model_options
@click.option("--threads", type=click.IntRange(min=1), metavar="N",
              help="Of the model.  [default: one a processor core]")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over pictures that exist.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line a photo on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def photos(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    output: Path | None,
    samples: int,
    temperature: float | None,
    seed: int,
    saturation: float,
    guidance: float | None,
    size: Literal["original", "256"],
    written: OutputOptions,
    max_pixels: int,
    model: str,
    device: str,
    dtype: str,
    threads: int | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Colour black-and-white photographs.

    photo.jpg becomes photo_color1.jpg, photo_color2.jpg, ..., each another plausible colouring at the photo's
    own size. A folder given as PHOTO colours the photos in it.
    """
    try:
        options = SamplingOptions(samples, temperature, seed, saturation, guidance)
    except ColorizeError as error:
        raise click.UsageError(str(error), ctx) from error

    from rich.console import Console

    from colorize_cli.batch import colorize_photos, find_photos

    found, outcomes = find_photos(inputs)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    for problem in outcomes:
        _say(errors, problem)
    if not found:
        return 1

    colorizer = _load(ctx, model, device, dtype, threads)
    if as_json:
        for problem in outcomes:
            click.echo(json.dumps(_record(problem, colorizer, options)))
    said: set[str] = set()
    with _progress(errors, len(found), options, quiet) as advance:
        results = colorize_photos(
            colorizer,
            found,
            options,
            folder=output,
            size=size,
            force=force,
            written=written,
            max_pixels=max_pixels,
            progress=advance,
        )
        for outcome in results:
            outcomes.append(outcome)
            if outcome.status == "failed":
                _say(errors, outcome)
            for note in outcome.notes:
                if not quiet and note not in said:  # once a run
                    errors.print(f"note: {_printable(note)}", markup=False)
                    said.add(note)
            if as_json:
                click.echo(json.dumps(_record(outcome, colorizer, options)))
    if not as_json and not quiet:
        _print_table(outcomes)
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def _load(ctx: click.Context, model: str, device: str, dtype: str, threads: int | None) -> Colorizer:
    import torch

    from colorize_cli.colorizer import Colorizer

    if threads is not None:
        torch.set_num_threads(threads)

    try:
        return Colorizer.from_pretrained(model, device, dtype)
    except ColorizeError as error:
        raise click.UsageError(str(error), ctx) from error


def _say(console: Console, outcome: Outcome) -> None:
    console.print(f"error: {_printable(outcome.error)}", markup=False)


def _printable(text: object) -> str:
    """A name with bytes that are no UTF-8, or with line breaks, as one line that any terminal takes."""
    return " ".join(str(text).encode("utf-8", "replace").decode().splitlines())


@contextmanager
def _progress(
    console: Console, photo_count: int, options: SamplingOptions, quiet: bool
) -> Iterator[Callable[[Path, int], None] | None]:
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        samples = 1 if options.temperature == 0 else options.samples
        task = bar.add_task("", total=photo_count * samples * CORE_SIZE)

        def advance(source: Path, rows: int) -> None:
            bar.update(task, description=_printable(source.name), advance=rows)

        yield advance


def _record(outcome: Outcome, colorizer: Colorizer, options: SamplingOptions) -> dict[str, Any]:
    import torch

    record: dict[str, Any] = {
        "input": str(outcome.source),
        "status": outcome.status,
        "outputs": [str(path) for path in outcome.outputs],
        "size": list(outcome.size) if outcome.size else None,
        "seed": options.seed,
        "temperature": colorizer.temperature(options),
        "saturation": options.saturation,
        "bits_per_pixel": [round(bits, 6) for bits in outcome.bits_per_pixel],
        "model": colorizer.model.name,
        "model_sha256": colorizer.model.sha256,
        "device": str(colorizer.device),
        "dtype": {stage: str(dtype).removeprefix("torch.") for stage, dtype in colorizer.dtypes.items()},
        "threads": torch.get_num_threads(),
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.notes:
        record["notes"] = outcome.notes
    if outcome.error:
        record["error"] = outcome.error
    return record


def _print_table(outcomes: Iterable[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for name in ("photo", "pictures", "size", "bits/pixel", "seconds"):
        table.add_column(name, overflow="fold")  # names stay whole on a narrow screen
    for outcome in outcomes:
        pictures = "\n".join(map(_printable, outcome.outputs)) or "-"
        if outcome.status == "skipped":
            pictures = f"skipped, exists: {pictures}"
        elif outcome.status == "failed":
            pictures = "failed"
        table.add_row(
            Text(_printable(outcome.source)),
            Text(pictures),
            "x".join(map(str, outcome.size)) if outcome.size else "",
            "\n".join(f"{bits:.3f}" for bits in outcome.bits_per_pixel),
            f"{outcome.seconds:.1f}" if outcome.status == "written" else "",
        )
    Console(soft_wrap=True).print(table)
