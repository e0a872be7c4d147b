"""`colorize train STAGE` and `colorize train export`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import click

from colorize_cli.errors import ColorizeError

STAGE_NAMES = ["core", "color-upsampler", "spatial-upsampler"]


@click.group("train", context_settings={"help_option_names": ["-h", "--help"]})
def train() -> None:
    """Train a stage on photographs, or make a model folder of what was trained."""


@train.command("export")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The model folder to write.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="The one to recommend.")
def export(runs: tuple[Path, ...], output: Path, temperature: float) -> int:
    """Write a model folder from the averaged weights of three RUNs, one a stage."""
    from colorize_cli.checkpoints import save_model
    from colorize_cli.config import STAGES
    from colorize_cli.training.start import averaged_stage

    try:
        stages = dict(averaged_stage(run) for run in runs)
        if set(stages) != set(STAGES):
            raise ColorizeError(f"a model needs the stages {', '.join(STAGES)}; given: {', '.join(stages)}")
        save_model(output, output.name, stages, temperature=temperature)
    except ColorizeError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"wrote {output}")
    return 0


@train.command("judge")
@click.option("--data", required=True, type=click.Path(path_type=Path), metavar="PATH",
              help="A folder, .tar or .tar.gz of colour photographs named CLASS_NUMBER.")  # fmt: skip
@click.option("--photos", "count", type=click.IntRange(min=100), default=20_000, show_default=True, metavar="N",
              help="How many of them to look at.")  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/cache"), show_default=True,
              help="Where decoded photographs are kept.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE",
              help="The .safetensors file to write.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
def judge(data: Path, count: int, cache: Path, output: Path, seed: int) -> int:
    """Train the classifier by which `colorize evaluate` judges drawn colours."""
    from rich.progress import Progress

    from colorize_cli.judge import save_judge
    from colorize_cli.training.data import cached_photos
    from colorize_cli.training.judge import train_judge

    try:
        photos = cached_photos(data, cache)
        with Progress(transient=True) as bar:
            task = bar.add_task("looking at photographs", total=min(count, len(photos)))
            trained, accuracy = train_judge(
                photos, count=count, seed=seed, progress=lambda done: bar.update(task, completed=done)
            )
        save_judge(trained, output)
    except ColorizeError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"wrote {output}; it names {accuracy:.1%} of the photographs it did not learn from")
    return 0


def _stage_command(name: str) -> click.Command:
    """The command that trains stage `name`."""
    core = name == "core"

    @train.command(name, help=f"Train the {name.replace('-', ' ')} stage; resumes where --out holds a run.")
    @click.option(
        "--data",
        "data",
        multiple=True,
        required=True,
        metavar="PATH[@SHARE]",
        help="A folder, .tar or .tar.gz of photographs and its share of every batch; several may be given.",
    )
    @click.option(
        "--val",
        "validation",
        multiple=True,
        required=True,
        metavar="PATH",
        help="Photographs to validate on; several may be given.",
    )
    @click.option(
        "--cache",
        type=click.Path(path_type=Path),
        default=Path("runs/cache"),
        show_default=True,
        help="Where decoded photographs are kept.",
    )
    @click.option("--leave-out", multiple=True, metavar="NAME", help="Photographs not to train on, by stem.")
    @click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder.")
    @click.option(
        "--init-from",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="MODEL|RUN",
        help="Model folders, or earlier runs, whose weights to start from.",
    )
    @click.option(
        "--encoder-from",
        type=click.Path(path_type=Path),
        metavar="MODEL|RUN",
        hidden=not core,
        help="A model folder or an earlier run whose encoder and parallel head to take, over --init-from.",
    )
    @click.option(
        "--backbone",
        type=click.Path(path_type=Path),
        metavar="FILE",
        hidden=not core,
        help="The published EfficientNet-Lite2 weights (.pth), for a run from nothing.",
    )
    @click.option(
        "--phase",
        type=click.Choice(["encoder", "decoders", "joint"]),
        default="joint",
        show_default=True,
        hidden=not core,
        help="Which part learns.",
    )
    @click.option("--unfreeze-backbone", is_flag=True, hidden=not core, help="Let the backbone learn too.")
    @click.option(
        "--parallel-weight",
        type=float,
        default=0.01,
        show_default=True,
        hidden=not core,
        help="Share of the parallel head in the joint loss.",
    )
    @click.option(
        "--drop-colors",
        type=float,
        default=0.0,
        show_default=True,
        hidden=not core,
        help="Share of the decoders' colour inputs replaced by another pixel's.",
    )
    @click.option(
        "--soften",
        type=float,
        default=0.05,
        show_default=True,
        hidden=core,
        help="Weight of the mean level's error beside the cross entropy.",
    )
    @click.option("--window", type=int, default=64, show_default=True, help="Side of the canvas piece a step sees.")
    @click.option("--minutes", type=float, default=60.0, show_default=True, help="How long, resumed parts included.")
    @click.option("--batch", type=int, default=8, show_default=True, help="Photographs a step.")
    @click.option("--lr", type=float, default=1.5e-3, show_default=True, help="Peak learning rate.")
    @click.option("--warmup", type=int, default=100, show_default=True, help="Steps until the peak.")
    @click.option("--ema", type=float, default=0.998, show_default=True, help="Polyak averaging.")
    @click.option("--seed", type=int, default=1, show_default=True)
    @click.option("--threads", type=int, default=1, show_default=True)
    def command(**options: Any) -> int:
        try:
            _train(name.replace("-", "_"), **options)
        except ColorizeError as error:
            raise click.UsageError(str(error)) from error
        return 0

    return command  # fmt: skip


for _name in STAGE_NAMES:
    _stage_command(_name)


def _train(stage: str, **options: Any) -> None:
    import torch

    from colorize_cli.backbone_import import import_backbone
    from colorize_cli.models.coarse import ColTranCore
    from colorize_cli.training import start
    from colorize_cli.training.data import cached_photos
    from colorize_cli.training.loop import TrainingOptions, run_training
    from colorize_cli.training.tasks import CoreTask, Source, Task, UpsamplerTask, count_table

    if "WORLD_SIZE" in os.environ:  # started by torchrun
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    torch.set_num_threads(options["threads"])
    torch.manual_seed(options["seed"])
    leave_out = frozenset(options["leave_out"])
    sources = []
    for item in options["data"]:
        path, _, share = item.partition("@")
        sources.append(Source(cached_photos(Path(path), options["cache"], leave_out), float(share or 1)))
    validation = {}
    for path in options["validation"]:
        validation[Path(path).name.partition(".")[0]] = cached_photos(Path(path), options["cache"])

    config = start.SMALL[stage]
    backbone = None
    if options["backbone"] is not None:
        backbone = import_backbone(torch.load(options["backbone"], weights_only=True, map_location="cpu"))
    table = count_table(sources) if stage == "core" and not options["init_from"] else None
    model = start.fresh_stage(config, gray_bias=table, backbone=backbone)
    for run in options["init_from"]:
        model.load_state_dict(start.earlier_stage(run, stage).state_dict(), strict=True)
    if options["encoder_from"] is not None:
        earlier = start.earlier_stage(options["encoder_from"], stage).state_dict()
        state = {name: tensor for name, tensor in earlier.items() if not start.of_decoders(name)}
        model.load_state_dict({**model.state_dict(), **state}, strict=True)
    task: Task
    if isinstance(model, ColTranCore):
        start.choose_learned(model, options["phase"], options["unfreeze_backbone"])
        task = CoreTask(
            sources, validation, batch=options["batch"], phase=options["phase"], window=options["window"],
            parallel_weight=options["parallel_weight"], drop_colors=options["drop_colors"], seed=options["seed"],
        )  # fmt: skip
    else:
        task = UpsamplerTask(
            sources, validation, batch=options["batch"], window=options["window"],
            soften=options["soften"], seed=options["seed"],
        )  # fmt: skip
    start.write_run(options["out"], stage, config)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    run_training(
        model,
        task,
        options["out"],
        TrainingOptions(
            minutes=options["minutes"],
            learning_rate=options["lr"],
            warmup_steps=options["warmup"],
            ema=options["ema"],
        ),
        report=lambda row: click.echo("  ".join(f"{key} {value:.4g}" for key, value in row.items())),
        should_stop=lambda: bool(stopped),
    )
