"""The command line: parses, builds options, makes one call, renders. The only place that prints."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click
from click_default_group import DefaultGroup

from colorize_cli import __version__
from colorize_cli.cli.bench import bench
from colorize_cli.cli.evaluate import evaluate
from colorize_cli.cli.inspect import inspect
from colorize_cli.cli.photos import photos
from colorize_cli.cli.streams import give_up_output, while_printing
from colorize_cli.cli.train import train
from colorize_cli.errors import is_shortage, shortage

PROGRAM = "colorize"
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # numbers of malloc.h


class ColoringFirst(DefaultGroup):  # type: ignore[misc]
    """A group whose help page shows the default command's usage and options before the other commands."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The default command's help, then the commands."""
        default = click.Context(photos, info_name=ctx.info_name, parent=ctx.parent, **photos.context_settings)
        photos.format_help(default, formatter)
        with formatter.indentation():
            formatter.write_dl([("--version", "Show the version and exit.")], col_spacing=23)
        self.format_commands(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All but the default command, which needs no name."""
        return [name for name in super().list_commands(ctx) if name != photos.name]


@click.group(
    cls=ColoringFirst,
    default=photos.name,
    default_if_no_args=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Colour old photographs."""


cli.add_command(photos)
cli.add_command(bench)
cli.add_command(evaluate)
cli.add_command(inspect)
cli.add_command(train)


def keep_memory() -> None:
    """Tell glibc to keep freed memory, in one place for all threads.

    Giving every large tensor's back and asking anew costs a quarter of a run. Where each thread has a place of its own,
    each keeps as much as a photo ever took.
    """
    if sys.platform != "linux":
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # not every Linux has glibc
        settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26), (M_ARENA_MAX, 1))
        for parameter, value in settings:
            mallopt(parameter, value)


def fill_closed_streams() -> None:
    """Put the null device where a standard stream is closed: else the next file that is opened, a picture, would get
    its number, and with it what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


def main() -> NoReturn:
    """The console script: exit 0 done, 1 a photo failed, 2 a bad option, model or device, 130 interrupted."""
    fill_closed_streams()
    keep_memory()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left lying
    try:
        code = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        click.echo(f"error: {shortage(error)}", err=True)
        sys.exit(1)
    except OSError as error:
        if not while_printing(error):
            raise  # nobody foresaw it
        click.echo(f"error: {give_up_output(error)}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
