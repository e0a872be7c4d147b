"""`colorize inspect PICTURE`: what made a picture, and how to make it again."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colorize_cli import __version__
from colorize_cli.cli.printable import printable
from colorize_cli.cli.refusal import Refusal
from colorize_cli.cli.streams import STANDARD_INPUT
from colorize_cli.errors import ModelError, OutputError

if TYPE_CHECKING:
    from colorize_cli.provenance import Provenance

OUTPUT = "again"  # the folder that the command printed writes into
PHOTO, MODEL = "PHOTO", "MODEL"  # what stands in the command for what is not found
AS_PRINTED = "that runs as it is printed"


@click.command(
    "inspect",
    short_help="Say what made a picture, and how to make it again.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--photo", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="PHOTO",
              help="Check that the picture was made of this photo.  [default: its own, here, beside it or where the "
                   "manifest says]")  # fmt: skip
@click.option("--model", metavar="NAME|DIR",
              help="Check that it was made with this model.  [default: its own, if shipped or here]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def inspect(picture: Path, photo: Path | None, model: str | None, as_json: bool) -> int:
    """Say what made PICTURE, and print the command that makes it again.

    A picture holds names, never folders: where its photo or its model is not found by them, --photo and --model say
    where they lie. The exit code is 1 where the picture does not say, or was made of another photo or model.
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
    photo, model = photo or _photo_of(record, picture), model or _model_of(record)
    try:
        problems, notes = _checks(record, photo, model)
    except ModelError as error:
        raise Refusal(str(error)) from error
    command = None if problems else again(record, photo, model)
    if as_json:
        checks = {"command": command, "problems": problems, "notes": notes}
        click.echo(json.dumps({"picture": printable(picture), "provenance": asdict(record), **checks}))
    else:
        for name, value in _rows(record):
            click.echo(f"{name:9}{printable(value)}")
        if photo is not None and not problems:
            click.echo(f"{'':9}this is {printable(photo)}, byte for byte")
        if command is not None:
            click.echo(f"{'again':9}{command}")
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)
    for problem in problems:
        click.echo(f"error: {printable(problem)}", err=True)
    return 1 if problems else 0


def _rows(record: Provenance) -> list[tuple[str, str]]:
    """What a person is told of a record."""
    options = ", ".join(
        f"{name} {value}" for name, value in sorted(record.options.items()) if value is not None and value is not False
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


def _photo_of(record: Provenance, picture: Path) -> Path | None:
    """The photo of a picture, if it lies here, beside it, or where the manifest of the picture's folder says."""
    from colorize_cli.digests import file_sha256

    for path in chain((Path(record.input), picture.parent / record.input), _recorded(record, picture)):
        with contextlib.suppress(OSError):  # a name that no file can have here, a file that may not be read
            if path.is_file() and file_sha256(path) == record.input_sha256:
                return path
    return None


def _recorded(record: Provenance, picture: Path) -> Iterator[Path]:
    """Where photos of these bytes lay, by the manifest of the picture's folder or of the first above that has one."""
    from colorize_cli.manifest import MANIFEST, Manifest

    folder = next((folder for folder in picture.absolute().parents if (folder / MANIFEST).is_file()), None)
    if folder is None or not record.input_sha256:
        return
    with contextlib.suppress(OutputError):
        for line in Manifest(str(folder)).records.values():
            if line.sha256 == record.input_sha256:
                yield Path(line.input)


def _model_of(record: Provenance) -> str | None:
    """The model of a picture by its name, if it is a shipped one or a folder here."""
    from colorize_cli.checkpoints import DESCRIPTION, shipped_models
    from colorize_cli.digests import file_sha256

    path = shipped_models().get(record.model, Path(record.model)) / DESCRIPTION
    with contextlib.suppress(OSError):
        if path.is_file() and file_sha256(path) == record.model_sha256:
            return record.model
    return None


def _checks(record: Provenance, photo: Path | None, model: str | None) -> tuple[list[str], list[str]]:
    """What is wrong with the photo and the model, and what stands in the way of the same bytes.

    Raises `ModelError` where the model cannot be had.
    """
    import torch

    from colorize_cli.checkpoints import DESCRIPTION, find_model
    from colorize_cli.digests import file_sha256

    problems, notes = [], []
    if photo is None and record.input == STANDARD_INPUT:
        notes.append(f"the photo came from standard input; say with --photo which it was, for a command {AS_PRINTED}")
    elif photo is None:
        notes.append(
            f"the photo {record.input or 'given in memory'} is neither here nor beside the picture nor in a manifest; "
            f"say with --photo where it lies, for a command {AS_PRINTED}"
        )
    elif file_sha256(photo) != record.input_sha256:
        problems.append(f"{photo}: not the photo of this picture: its sha256 is {file_sha256(photo)}")
    elif photo.name != record.input != STANDARD_INPUT:
        notes.append(f"the photo was called {record.input}; a picture says what its photo was called: name it so again")
    if record.version != __version__:
        notes.append(f"this is colorize {__version__}: its pictures may differ from those of {record.version}")
    if record.torch != torch.__version__:
        notes.append(f"this is torch {torch.__version__}: sums may differ in their last digits from {record.torch}")
    if model is None:
        notes.append(
            f"the model {record.model} of this picture is not here; "
            f"say with --model where its folder lies, for a command {AS_PRINTED}"
        )
    elif (sha256 := file_sha256(find_model(model) / DESCRIPTION)) != record.model_sha256:
        problems.append(f"{model}: not the model of this picture: its sha256 is {sha256}")
    return problems, notes


def again(record: Provenance, photo: Path | None, model: str | None) -> str:
    """The command that makes a picture again, into a folder of its own; samples before it are made, too."""
    name = PHOTO if photo is None else str(photo)
    from_input = record.input == STANDARD_INPUT
    words = ["colorize", "-" if from_input else f"./{name}" if name.startswith("-") else name, "--output", OUTPUT]
    values: dict[str, Any] = {"samples": record.sample, **dict(sorted(record.options.items()))}
    for option, value in values.items():
        flag = "--" + option.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    dtypes = set(record.dtype.values())
    words += ["--dtype", dtypes.pop() if len(dtypes) == 1 else "auto", "--device", record.device]
    words += ["--threads", str(record.threads), "--model", model or MODEL]
    return " ".join(map(quoted, words)) + (f" < {quoted(name)}" if from_input else "")


def quoted(word: str) -> str:
    """A word for a shell, on one line; one that a terminal cannot show as its bytes, as bash, zsh and ksh read them."""
    if printable(word) == word:
        return shlex.quote(word)
    shown = {ord("'"): "\\'", ord("\\"): "\\\\"}
    return (
        "$'"
        + "".join(
            chr(byte) if 32 <= byte < 127 and byte not in shown else shown.get(byte, f"\\x{byte:02x}")
            for byte in os.fsencode(word)
        )
        + "'"
    )
