"""`colorize train STAGE`, `colorize train judge` and `colorize train export`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colorize_cli.cli.finite import FiniteRange
from colorize_cli.cli.refusal import Refusal
from colorize_cli.cli.streams import while_printing
from colorize_cli.cli.train_parts import model_of, sources_of, task_of
from colorize_cli.config import MOST_GUIDANCE
from colorize_cli.errors import ColorizeError, OptionError

if TYPE_CHECKING:
    from torch import nn


# Names of the stages here and in a model folder.
STAGES = {"coarse": "core", "color-upsampler": "color_upsampler", "spatial-upsampler": "spatial_upsampler"}
PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
DEFAULT_MINUTES = 60.0
INTERRUPTED = 130  # the exit code
CACHE = click.option("--cache", type=FOLDER, default=Path("runs/cache"), show_default=True, metavar="DIR",
                     help="Where decoded photographs are kept.")  # fmt: skip


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What the user has to mend, and what the system refuses, in one line."""
    try:
        yield
    except ColorizeError as error:
        raise Refusal(str(error)) from error
    except BrokenPipeError:
        raise  # nobody reads on: click ends without a word
    except OSError as error:
        if while_printing(error):
            raise
        raise Refusal(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


@click.group(
    "train", short_help="Train a stage, or export a model.", context_settings={"help_option_names": ["-h", "--help"]}
)
def train() -> None:
    """Train a stage on photographs, or make a model folder of what was trained."""


@train.command("export", short_help="Write a model folder from runs.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=FOLDER)
@click.option("-o", "--output", required=True, type=FOLDER, help="The model folder to write.")
@click.option("--base", metavar="MODEL", help="A shipped model or a model folder, for the stages that no RUN trained.")
@click.option("--decoders", multiple=True, metavar="RUN", type=FOLDER,
              help="A run whose decoders to take instead; of several the mean.")  # fmt: skip
@click.option("--temperature", type=FiniteRange(0, 100, max_open=True), metavar="T",
              help="The one to recommend.  [default: the base's, else 1]")  # fmt: skip
@click.option("--guidance", type=FiniteRange(0, MOST_GUIDANCE), metavar="G",
              help="The one to recommend.  [default: the base's, else 0]")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over a model that is there.")
def export(
    runs: tuple[Path, ...],
    output: Path,
    base: str | None,
    decoders: tuple[Path, ...],
    temperature: float | None,
    guidance: float | None,
    force: bool,
) -> int:
    """Write a model folder from the averaged weights of RUNs; those of one stage are averaged once more."""
    from colorize_cli import config
    from colorize_cli.checkpoints import DESCRIPTION, load_model, save_model
    from colorize_cli.training.start import stages_of_runs, take_decoders

    with refusals():
        if not force and (output / DESCRIPTION).exists():
            raise ColorizeError(f"{output} holds a model; name another folder, or write over it by --force")
        stages: dict[str, nn.Module] = {}
        if base is not None:
            model = load_model(base)
            stages = {stage: getattr(model, stage) for stage in config.STAGES}
            temperature = model.temperature if temperature is None else temperature
            guidance = model.guidance if guidance is None else guidance
        stages |= stages_of_runs(runs)
        missing = set(config.STAGES) - set(stages)
        if missing:
            raise ColorizeError(f"no run of {', '.join(sorted(missing))} is given; give one, or a model by --base")
        if decoders:
            take_decoders(stages["core"], decoders)
        save_model(
            output,
            output.name,
            stages,
            temperature=1.0 if temperature is None else temperature,
            guidance=guidance or 0.0,
        )
    click.echo(f"wrote {output}")
    return 0


@train.command("judge", short_help="Train the classifier of evaluate.")
@click.option("--data", multiple=True, required=True, type=PATH, metavar="PATH",
              help="A folder, .tar or .tar.gz of photographs named CLASS_NUMBER; several may be given.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), default=8, show_default=True, metavar="N",
              help="How often it sees each of them.")  # fmt: skip
@CACHE
@click.option("--leave-out", multiple=True, metavar="NAME", help="Photographs not to train on, by stem.")
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="The .safetensors file to write.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def judge(data: tuple[Path, ...], epochs: int, cache: Path, leave_out: tuple[str, ...], output: Path, seed: int) -> int:
    """Train the classifier by which `colorize evaluate` judges drawn colours."""
    from rich.progress import Progress

    from colorize_cli.judge import save_judge
    from colorize_cli.training.data import photos_to_learn
    from colorize_cli.training.judge import train_judge

    with refusals():
        photos = photos_to_learn(data, cache, leave_out)
        with Progress(transient=True) as bar:
            task = bar.add_task("learning", total=epochs * sum(map(len, photos)))
            trained, accuracy = train_judge(
                photos, epochs=epochs, seed=seed, progress=lambda done: bar.update(task, completed=done)
            )
        save_judge(trained, output)
    click.echo(f"wrote {output}; it names {accuracy:.1%} of the photographs it did not learn from")
    return 0


COMMON_OPTIONS = [
    click.option("--data", multiple=True, required=True, metavar="PATH[@SHARE]",
                 help="A folder, .tar or .tar.gz of photographs and its share of every batch; several may be given."),
    click.option("--val", "validation", multiple=True, required=True, metavar="PATH",
                 help="Photographs to validate on; several may be given."),
    click.option("--out", required=True, type=FOLDER, metavar="RUN", help="The run's folder; resumed if it holds one."),
    click.option("--resume/--no-resume", default=True, show_default=True,
                 help="Go on where --out holds a run, or refuse to."),
    click.option("--config", "preset", metavar="small|published|FILE",
                 help="Sizes: a preset, or JSON.  [default: those of --init-from, else small]"),
    click.option("--init-from", metavar="MODEL|RUN", help="A model or an earlier run whose weights to start from."),
    click.option("--minutes", type=FiniteRange(min=0), metavar="M",
                 help=f"How long, resumed parts included.  [default: {DEFAULT_MINUTES:.0f}, or as --steps says]"),
    click.option("--steps", type=click.IntRange(min=0), metavar="N", help="How many steps, resumed parts included."),
    click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, metavar="N",
                 help="Photographs a process learns from at once."),
    click.option("--accumulate", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
                 help="Batches a step."),
    click.option("--lr", type=FiniteRange(min=0, min_open=True), default=1e-3, show_default=True, metavar="RATE",
                 help="Peak learning rate."),
    click.option("--warmup", type=click.IntRange(min=1), default=100, show_default=True, metavar="N",
                 help="Steps until the peak."),
    click.option("--lr-end", type=FiniteRange(0, 1), default=0.05, show_default=True, metavar="SHARE",
                 help="Of the learning rate, what is left at the end."),
    click.option("--weight-decay", type=FiniteRange(min=0), default=0.01, show_default=True, metavar="W",
                 help="Share of the learning rate by which weights shrink a step."),
    click.option("--ema", type=FiniteRange(0, 1), default=0.998, show_default=True, metavar="SHARE",
                 help="Of the running mean of the weights, what each step keeps; that mean is validated and exported."),
    click.option("--resolution", type=click.IntRange(min=8), metavar="N",
                 help="Side of the canvas, below the stage's own, to learn faster at first."),
    click.option("--window", type=click.IntRange(min=8), metavar="N",
                 help="Side of the canvas piece that a step sees.  [default: the canvas, 64 at most]"),
    click.option("--aged", type=FiniteRange(0, 1), default=1.0, show_default=True, metavar="SHARE",
                 help="Of the photographs, those that may get an old print's tones, blur, grain or scratches."),
    click.option("--device", default="cpu", show_default=True, metavar="auto|cpu|cuda[:i]|mps",
                 help="Where to train."),
    click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
                 help="Number format of the products; weights are kept in float32."),
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
                 help="Of each process."),
    click.option("--seed", type=click.IntRange(min=0), metavar="S",
                 help="Of what it sees, and in which order.  [default: from the weights that it starts from]"),
    CACHE,
    click.option("--leave-out", multiple=True, metavar="NAME", help="Photographs not to train on, by stem."),
    click.option("--validate-minutes", type=FiniteRange(min=0), default=4.0, show_default=True, metavar="M",
                 help="Minutes between validations, each with a sample sheet."),
    click.option("--sheet-photos", type=click.IntRange(min=0), default=4, show_default=True, metavar="N",
                 help="Photographs of each --val on a sample sheet."),
    click.option("--checkpoint-minutes", type=FiniteRange(min=0), default=2.0, show_default=True, metavar="M",
                 help="Minutes between checkpoints."),
]  # fmt: skip
CORE_OPTIONS = [
    click.option("--encoder-from", metavar="MODEL|RUN",
                 help="A model or a run whose encoder and parallel head to take, over --init-from."),
    click.option("--backbone", type=FILE, metavar="FILE",
                 help="The published EfficientNet-Lite2 weights (.pth), to start from nothing or for --distillation."),
    click.option("--phase", type=click.Choice(["encoder", "decoders", "joint"]), default="joint", show_default=True,
                 help="Which part learns."),
    click.option("--unfreeze-backbone", is_flag=True,
                 help="Let all of the backbone but its first stages learn too, at a tenth of the rate."),
    click.option("--distillation", type=FiniteRange(min=0), default=0.0, show_default=True, metavar="W",
                 help="Teach it to see in gray photographs what --backbone sees in colour ones: the weight of that."),
    click.option("--parallel-weight", type=FiniteRange(0, 1), metavar="W",
                 help="Share of the parallel head in the loss.  [default: encoder 1, decoders 0, joint 0.01]"),
    click.option("--encoder-window", type=click.IntRange(min=8), metavar="N",
                 help="Side of the piece that the encoder and its parallel head see, around that of the decoders.  "
                      "[default: --window]"),
    click.option("--drop-colors", type=FiniteRange(0, 1), default=0.0, show_default=True, metavar="SHARE",
                 help="Share of the decoders' colour inputs replaced by another pixel's."),
    click.option("--drop-maps", type=FiniteRange(0, 0.9), default=0.0, show_default=True, metavar="SHARE",
                 help="Share of the backbone's maps that is withheld, others of every photograph."),
]  # fmt: skip
UPSAMPLER_OPTIONS = [
    click.option("--soften", type=FiniteRange(min=0), default=0.05, show_default=True, metavar="W",
                 help="Weight of the mean level's error beside the cross entropy."),
]  # fmt: skip
DRAWN_OPTIONS = [
    click.option("--core", metavar="MODEL|RUN", help="A core whose draws to learn from, beside true ones."),
    click.option("--drawn-share", type=FiniteRange(0, 1), default=0.3, show_default=True, metavar="SHARE",
                 help="Share of the photographs whose coarse image is drawn."),
]  # fmt: skip


def _stage_command(name: str) -> None:
    """Add the command that trains stage `name`."""

    def command(**options: Any) -> int:
        with refusals():
            return _train(STAGES[name], **options)

    extra = CORE_OPTIONS if name == "coarse" else UPSAMPLER_OPTIONS
    extra = extra + DRAWN_OPTIONS if name == "color-upsampler" else extra
    decorated: Callable[..., Any] = command
    for option in reversed(COMMON_OPTIONS + extra):
        decorated = option(decorated)
    title = f"Train the {name.replace('-', ' ')} stage."
    train.command(name, help=f"{title} Several processes or machines: start it by torchrun.")(decorated)


for _name in STAGES:
    _stage_command(_name)


def _train(stage: str, **options: Any) -> int:
    """The exit code of a run."""
    import torch

    from colorize_cli.colorizer import DTYPES, resolve_device
    from colorize_cli.models.packed import multiplies_bfloat16
    from colorize_cli.training import start
    from colorize_cli.training.data import cached_photos
    from colorize_cli.training.loop import CHECKPOINT, TrainingOptions, run_training

    device = resolve_device(options["device"])
    resumed = (options["out"] / CHECKPOINT).is_file()
    if resumed and not options["resume"]:
        raise OptionError(f"{options['out']} holds a run already; choose another --out, or leave --no-resume out")
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.set_num_threads(options["threads"])
    torch.manual_seed(start.FIRST_SEED if options["seed"] is None else options["seed"])
    fast = device.type == "cuda" or multiplies_bfloat16()
    dtype = DTYPES.get(options["dtype"], torch.bfloat16 if fast else torch.float32)
    minutes = DEFAULT_MINUTES if options["minutes"] is None and options["steps"] is None else options["minutes"]
    length = TrainingOptions(
        minutes=minutes,
        steps=options["steps"],
        learning_rate=options["lr"],
        warmup_steps=options["warmup"],
        final_fraction=options["lr_end"],
        weight_decay=options["weight_decay"],
        ema=options["ema"],
        accumulate=options["accumulate"],
        validate_minutes=options["validate_minutes"],
        checkpoint_minutes=options["checkpoint_minutes"],
        dtype=dtype,
        device=str(device),
    )
    sources = sources_of(options)
    validation = {_title(path): cached_photos(Path(path), options["cache"]) for path in options["validation"]}
    if len(validation) < len(options["validation"]):
        raise OptionError("two of --val have one name, by which their figures would be told apart; rename one")
    model = model_of(stage, sources, options)
    seed = start.run_seed(options["out"], model)
    if resumed and options["seed"] not in {None, seed}:
        raise OptionError(f"{options['out']} holds a run of seed {seed}; leave --seed out to go on with it, or choose "
                          "another --out")  # fmt: skip
    if options["seed"] is None:
        options["seed"] = seed
    task = task_of(model, sources, validation, {**options, "device": str(device), "dtype": dtype})
    if not resumed:
        start.write_run(options["out"], stage, model.config, options["seed"])  # type: ignore[arg-type]
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        if number == signal.SIGINT and "WORLD_SIZE" not in os.environ:
            signal.signal(number, signal.default_int_handler)  # a second one ends it at once

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        steps = run_training(
            model,
            task,
            options["out"],
            length,
            report=lambda row: click.echo("  ".join(f"{key} {value:.4g}" for key, value in row.items())),
            should_stop=lambda: bool(stopped),
        )
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    first = os.environ.get("RANK", "0") == "0"
    if first and stopped:
        click.echo(f"stopped, and saved in {options['out']}; the same command goes on from here", err=True)
    elif first and resumed and not steps:
        click.echo(f"{options['out']} has been trained for as long already; to go on, give more --minutes or --steps")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # the first process may still be validating
        torch.distributed.destroy_process_group()
        sys.stdout.flush()
        # All is written. Gloo's threads sometimes outlive the interpreter, which then aborts as if the run had failed.
        os._exit(INTERRUPTED if stopped else 0)
    return INTERRUPTED if stopped else 0


def _title(path: str) -> str:
    return Path(path).name.partition(".")[0]
