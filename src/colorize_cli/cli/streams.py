"""Standard input as a photo, standard output as a picture: files in a folder that goes when the command ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from colorize_cli.errors import OutputError

STANDARD_INPUT = "stdin"  # the name of the photo that comes from there


@contextlib.contextmanager
def writing_to_output() -> Iterator[None]:
    """Raises `OutputError` where standard output takes no more."""
    try:
        yield
    except OSError as error:
        raise give_up_output(error) from error


def while_printing(error: OSError) -> bool:
    """Whether it was raised in printing: `OSError` itself does not tell of what."""
    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def give_up_output(error: OSError) -> OutputError:
    """Write nothing more to standard output, which takes no more; returns what to say of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries once more when it ends
    return OutputError(f"standard output: cannot be written ({error.strerror})")


class StandardStreams:
    """`-` among the inputs and as the output, replaced by names of files."""

    def __init__(self, inputs: Sequence[str], output: str | None) -> None:
        self.inputs, self.output = list(inputs), output
        self.to_output = output == "-"
        self.aliases: dict[str, str] = {}  # what to call a file when speaking of it
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        if "-" not in self.inputs and not self.to_output:
            return self
        self._folder = Path(tempfile.mkdtemp(prefix="colorize-"))
        if "-" in self.inputs:
            path = self._folder / STANDARD_INPUT
            try:
                path.write_bytes(sys.stdin.buffer.read())
            except BaseException:  # an interrupt, before there is anything to leave
                shutil.rmtree(self._folder, ignore_errors=True)
                raise
            self.inputs[self.inputs.index("-")] = str(path)
            self.aliases[str(path)] = "-"
        if self.to_output:
            self.output = str(self._folder / "out")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def deliver(self) -> None:
        """Give the picture to standard output, if there is one and it is wanted there.

        Raises `OutputError` where standard output takes no more.
        """
        if self.to_output and self.output is not None:
            for path in Path(self.output).glob("*"):
                with writing_to_output():
                    sys.stdout.buffer.write(path.read_bytes())
                    sys.stdout.buffer.flush()
