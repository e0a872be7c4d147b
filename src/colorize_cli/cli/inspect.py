"""`colorize inspect PICTURE`: what made a picture, and how to make it again."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colorize_cli import __version__
from colorize_cli.cli.printable import printable
from colorize_cli.cli.streams import STANDARD_INPUT

if TYPE_CHECKING:
    from colorize_cli.provenance import Provenance

OUTPUT = "again"  # the folder that the command printed writes into


@click.command("inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--photo", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="PHOTO",
              help="Check that the picture was made of this photo.")  # fmt: skip
@click.option("--model", metavar="NAME|DIR", help="Where the model lies, if it is not a shipped one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def inspect(picture: Path, photo: Path | None, model: str | None, as_json: bool) -> int:
    """Say what made PICTURE, and print the command that makes it again.

    The exit code is 1 where the picture does not say, or was made of another photo.
    """
    from colorize_cli.provenance import read_provenance

    record = read_provenance(picture)
    if record is None:
        click.echo(
            f"error: {printable(picture)}: nothing in it says what made it; colorize says so in the XMP of its "
            "pictures, which BMP and PPM do not hold, unless it is told --no-provenance",
            err=True,
        )
        return 1
    problems, notes = _checks(record, photo, model)
    command = None if problems else shlex.join(again(record, photo, model))
    if as_json:
        checks = {"command": command, "problems": problems, "notes": notes}
        click.echo(json.dumps({"picture": printable(picture), "provenance": asdict(record), **checks}))
    else:
        for name, value in _rows(record):
            click.echo(f"{name:9}{printable(value)}")
        if photo is not None and not problems:
            click.echo(f"{'':9}this is {printable(photo)}, byte for byte")
        if command is not None:
            click.echo(f"{'again':9}{printable(command)}")
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)
    for problem in problems:
        click.echo(f"error: {printable(problem)}", err=True)
    return 1 if problems else 0


def _rows(record: Provenance) -> list[tuple[str, str]]:
    """What a person is told of a record."""
    options = ", ".join(
        f"{name} {value}" for name, value in sorted(record.options.items()) if value not in (None, False)
    )
    dtypes = ", ".join(f"{stage} {dtype}" for stage, dtype in record.dtype.items())
    return [
        ("colours", f"made by a model: colorize {record.version}, {record.model}, sample {record.sample}"),
        ("model", f"sha256 {record.model_sha256}"),
        ("photo", record.input or "no file"),
        ("", f"sha256 {record.input_sha256}" if record.input_sha256 else "given in memory"),
        ("options", options),
        ("machine", f"{record.device}, {record.threads} threads, torch {record.torch}; {dtypes}"),
    ]


def _checks(record: Provenance, photo: Path | None, model: str | None) -> tuple[list[str], list[str]]:
    """What is wrong with the photo given, and what stands in the way of the same bytes."""
    import torch

    from colorize_cli.checkpoints import DESCRIPTION, file_sha256, shipped_models

    problems, notes = [], []
    if photo is not None and file_sha256(photo) != record.input_sha256:
        problems.append(f"{photo}: not the photo of this picture: its sha256 is {file_sha256(photo)}")
    if photo is None and record.input == STANDARD_INPUT:
        notes.append("the photo came from standard input; say with --photo which it was")
    if record.version != __version__:
        notes.append(f"this is colorize {__version__}: its pictures may differ from those of {record.version}")
    if record.torch != torch.__version__:
        notes.append(f"this is torch {torch.__version__}: sums may differ in their last digits from {record.torch}")
    folder = Path(model) if model is not None else None
    folder = shipped_models().get(model or record.model, folder)
    if folder is None or not (folder / DESCRIPTION).is_file():
        notes.append(f"no model named {model or record.model} is here; say with --model where it lies")
    elif file_sha256(folder / DESCRIPTION) != record.model_sha256:
        notes.append(f"{folder} is another model than the one that made the picture")
    return problems, notes


def again(record: Provenance, photo: Path | None = None, model: str | None = None) -> list[str]:
    """The command that makes a picture again, into a folder of its own; samples before it are made, too."""
    name = str(photo) if photo is not None else record.input or "PHOTO"
    words = ["colorize", f"./{name}" if name.startswith("-") else name, "--output", OUTPUT]
    values: dict[str, Any] = {"samples": record.sample, **dict(sorted(record.options.items()))}
    for option, value in values.items():
        flag = "--" + option.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    dtypes = set(record.dtype.values())
    words += ["--dtype", dtypes.pop() if len(dtypes) == 1 else "auto", "--device", record.device]
    return [*words, "--threads", str(record.threads), "--model", model or record.model]
