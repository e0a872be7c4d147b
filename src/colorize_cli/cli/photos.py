"""`colorize PHOTO...`: the default command."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from colorize_cli.cli.output import output_options
from colorize_cli.cli.refusal import Refusal
from colorize_cli.cli.streams import StandardStreams
from colorize_cli.config import DEFAULT_MODEL, MOST_GUIDANCE, OutputOptions, SamplingOptions
from colorize_cli.errors import ColorizeError, OutputError
from colorize_cli.locations import is_url

if TYPE_CHECKING:
    from collections.abc import Callable


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that loads a model."""
    for option in reversed(
        [
            click.option("--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME|DIR",
                         help="A shipped model, a model folder, or a Hugging Face hub id."),
            click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:i]|mps",
                         help="Where to run; auto is a CUDA device if there is one, else the CPU."),
            click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto",
                         show_default=True, help="Number format of the model's work."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


class Shard(click.ParamType[tuple[int, int]]):
    """`2/8`: the second of eight parts."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The part, from 1, and how many there are."""
        if isinstance(value, tuple):
            return value
        index, _, count = str(value).partition("/")
        if index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return int(index), int(count)
        return self.fail(f"{value!r} is no part of a whole; write I/N with I from 1 to N, such as 2/8", param, ctx)


class UnnamedContext(click.Context):
    """Of a command that needs no name: messages speak of `colorize`, as the user does."""

    @property
    def command_path(self) -> str:
        """What to type for it."""
        return self.parent.command_path if self.parent is not None else super().command_path


class UnnamedCommand(click.Command):
    """The default command."""

    context_class = UnnamedContext


@click.command("PHOTO...", cls=UnnamedCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, metavar="PHOTO...", type=click.Path(allow_dash=True))
@click.option("-o", "--output", type=click.Path(file_okay=False, allow_dash=True), metavar="DIR",
              help="Where the pictures go, with the tree of folders below each PHOTO that is one, and a record of the "
                   "run; beside each photo if not given; - for standard output.")  # fmt: skip
@click.option("-r", "--recursive", is_flag=True, help="Search folders for photos all the way down.")
@click.option("--from-file", type=click.Path(dir_okay=False, exists=True, allow_dash=True), metavar="LIST",
              help="Names of more photos, one a line or separated by NUL; - for standard input.")  # fmt: skip
@click.option("-n", "--samples", type=int, default=3, show_default=True, metavar="N",
              help="How many different colourings of each photo.")  # fmt: skip
@click.option("-t", "--temperature", type=float, metavar="T",
              help="How freely colours are drawn; 0 is the most likely pixel each time and gives one picture."
                   "  [default: the model's own, about 1]")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, metavar="S",
              help="Same photo, seed and options: same pictures.")  # fmt: skip
@click.option("--guidance", type=float, metavar="G",
              help=f"How much the first look at the whole photo counts in drawing, 0..{MOST_GUIDANCE}; more is surer."
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
@click.option("--retry-failed", is_flag=True, help="Try photos again that failed in an earlier run.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--shard", type=Shard(), metavar="I/N",
              help="Only the Ith of N nearly equal parts of the photos, for jobs side by side.")  # fmt: skip
@click.option("--watch", is_flag=True, help="Go on with photos that arrive in the folders given, until interrupted.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="This process, or Ray Data on one machine or many.")  # fmt: skip
@click.option("--address", metavar="ADDRESS", help="Of a running Ray cluster, or auto.  [default: Ray of its own]")
@click.option("--workers", type=click.IntRange(min=1), metavar="N",
              help="Models at work at once under Ray.  [default: as many as there is room for]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON line a photo on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def photos(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    output: str | None,
    from_file: str | None,
    samples: int,
    temperature: float | None,
    seed: int,
    saturation: float,
    guidance: float | None,
    size: Literal["original", "256"],
    written: OutputOptions,
    max_pixels: int,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Colour black-and-white photographs.

    photo.jpg becomes photo_color1.jpg, photo_color2.jpg, ..., each another plausible colouring at the photo's
    own size. PHOTO may be a folder or a quoted pattern such as 'scans/**/*.jpg'; - reads one from standard input.

    With -o, a run that was stopped goes on when the same command is started again.
    """
    try:
        sampling = SamplingOptions(samples, temperature, seed, saturation, guidance)
    except ColorizeError as error:
        raise Refusal(str(error)) from error
    if not inputs and from_file is None:
        raise click.UsageError("Missing argument 'PHOTO...'.", ctx)
    if written.format == "heic" and importlib.util.find_spec("pillow_heif") is None:
        raise Refusal("--format heic needs another package: pip install pillow-heif")
    _check_combination(ctx, inputs, output, from_file, sampling, as_json, options)

    from colorize_cli.cli.reporting import Reporter
    from colorize_cli.cli.session import Request, Session
    from colorize_cli.listing import read_names
    from colorize_cli.steps import Shaping

    with StandardStreams(inputs, output) as streams:
        named = []
        if from_file is not None:
            with click.open_file(from_file, "rb") as file:
                named = read_names(file.read())
        reporter = Reporter(quiet=quiet, as_json=as_json, table=not streams.to_output, aliases=streams.aliases)
        if not named and not inputs:
            reporter.say("nothing to colour: the list is empty")
        shaping = Shaping(saturation, size, written, max_pixels)
        request = Request(
            sampling, shaping, streams.inputs, named, streams.output, keeps_manifest=not streams.to_output, **options
        )
        try:
            code = Session(request, reporter).run()
        except ColorizeError as error:
            raise Refusal(str(error)) from error
        try:
            streams.deliver()
        except OutputError as error:
            reporter.error(str(error))
            return 1
    return code


def _check_combination(
    ctx: click.Context,
    inputs: tuple[str, ...],
    output: str | None,
    from_file: str | None,
    sampling: SamplingOptions,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Options that do not go together."""

    def refuse(message: str) -> None:
        raise click.UsageError(message, ctx)

    if inputs.count("-") + (from_file == "-") > 1:
        refuse("standard input can be read only once")
    if sys.stdin is None and "-" in (*inputs, from_file):
        refuse("standard input is closed; name a file")
    if sys.stdout is None and (as_json or output == "-"):
        refuse("standard output is closed; open it, or leave out " + ("--json" if as_json else "--output -"))
    if "-" in inputs and output is None:
        refuse("a photo from standard input needs --output: a folder, or - for standard output")
    if output == "-":
        if len(inputs) != 1 or from_file is not None or Path(inputs[0]).is_dir():
            refuse("--output - takes one photo")
        if sampling.samples != 1 and sampling.temperature != 0:
            refuse("--output - takes one picture: add --samples 1")
        if as_json:
            refuse("--output - and --json both want standard output")
    if options["watch"] and (
        options["dry_run"]
        or options["shard"]
        or from_file is not None
        or not all(Path(name).is_dir() for name in inputs)
    ):
        refuse("--watch takes folders, and neither --dry-run nor --shard")
    if options["engine"] == "ray":
        if output in {None, "-"} or options["watch"]:
            refuse("--engine ray needs --output with a folder or a URL, and does not --watch")
    elif options["address"] is not None or options["workers"] is not None:
        refuse("--address and --workers are for --engine ray")
    elif any(is_url(name) for name in (*inputs, output or "")):
        refuse("URLs are for --engine ray; give local paths, or add it")
