"""`colorize bench`: what each stage costs on this machine, and how near that is to the machine's limit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colorize_cli.cli.photos import model_options
from colorize_cli.cli.refusal import Refusal
from colorize_cli.config import BENCH_STAGES, DEFAULT_MAX_PIXELS, JPEG_LONGEST
from colorize_cli.errors import ColorizeError

if TYPE_CHECKING:
    import torch

    from colorize_cli.benchmark import StageCost
    from colorize_cli.machine import Limits

ROW = "{:18} {:>9} {:>7} {:>8} {:>8} {:>8} {:>8} {:>6} {:>8} {:>6}"


class PhotoSize(click.ParamType):  # type: ignore[type-arg]
    """`1000x750`."""

    name = "WIDTHxHEIGHT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Width and height, each at least 1, and no more than a JPEG and a photo may have."""
        width, _, height = str(value).lower().partition("x")
        if not (width.isascii() and height.isascii() and width.isdigit() and height.isdigit()):
            self.fail(f"{value!r} is no size; write it as 1000x750", param, ctx)
        if not (int(width) and int(height)):
            self.fail(f"{value!r} has no pixels", param, ctx)
        size = int(width), int(height)
        if max(size) > JPEG_LONGEST or size[0] * size[1] > DEFAULT_MAX_PIXELS:
            limits = f"{JPEG_LONGEST:,} pixels a side, as JPEG has, and {DEFAULT_MAX_PIXELS:,} in all"
            self.fail(f"{value!r} is too large; the most is {limits}", param, ctx)
        return size


@click.command("bench", context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@click.option("-n", "--samples", type=click.IntRange(min=1), multiple=True, default=(1, 4), show_default=True,
              metavar="N", help="Samples of the photo; may be given several times.")  # fmt: skip
@click.option("--stage", "stages", type=click.Choice(BENCH_STAGES), multiple=True, metavar="STAGE",
              help=f"Only this stage; may be given several times: {', '.join(BENCH_STAGES)}.")  # fmt: skip
@click.option("--photo", "sizes", type=PhotoSize(), multiple=True, default=("1000x750",), show_default=True,
              help="Size of the photo, made up; may be given several times.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, metavar="N",
              help="Runs of each stage after one that does not count, fewer of one that takes long; the median is"
                   " given.")  # fmt: skip
@click.option("--naive", is_flag=True,
              help="Also time the published way of sampling: two rows, the rest extrapolated. Its ratio to what"
                   " encode and coarse take for one sample is given where both are timed.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def bench(
    model: str,
    device: str,
    dtype: str,
    samples: tuple[int, ...],
    stages: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...],
    repeats: int,
    naive: bool,
    as_json: bool,
) -> int:
    """Time every stage of a model on a made-up photo.

    Beside each time stand the least that this machine could do it in, by its own matrix-product peak and memory
    bandwidth, measured in the same run, and the share of that limit that is reached. CPU s is the time of all threads
    and processes together; peak MB the most memory that this process held while the stage ran (a GPU: that was
    allocated there), what was loaded before included and copies of the process not; passes how often the inner
    decoder ran over a row of 64 pixels. Samples are drawn as the model recommends; whole photo is from the file to
    joined pixels, without writing them. `--model published` is the model of the paper with random weights.
    """
    import torch

    from colorize_cli import machine
    from colorize_cli.benchmark import PUBLISHED, Benchmark, random_model, time_naive
    from colorize_cli.checkpoints import find_model
    from colorize_cli.colorizer import resolve_device, resolve_dtypes

    costs: list[StageCost] = []
    wanted = [stage for stage in BENCH_STAGES if stage in (stages or BENCH_STAGES)]
    try:
        torch_device = resolve_device(device)
        if model != PUBLISHED:
            find_model(model)  # before anything takes time
        dtypes = dict.fromkeys((torch.float32, *resolve_dtypes(dtype, torch_device).values()))
        limits = machine.measure_limits(torch_device, list(dtypes))
        with tempfile.TemporaryDirectory(prefix="colorize-bench-") as name:
            folder = Path(name)
            source = str(random_model(folder / PUBLISHED)) if model == PUBLISHED else model
            if not as_json:
                _print_heads(limits, torch_device)
            for size in dict.fromkeys(sizes):
                benchmark = Benchmark(source, device, dtype, size, folder, limits, repeats)
                for cost in benchmark.run(wanted, list(dict.fromkeys(samples))):
                    costs.append(cost)
                    if not as_json:
                        _print_cost(cost)
            published_way = time_naive(benchmark.colorizer, benchmark.view, 2, costs) if naive else None
    except ColorizeError as error:
        raise Refusal(str(error)) from error
    if as_json:
        record: dict[str, Any] = {
            "processor": machine.processor(torch_device),
            "device": str(torch_device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "peak_flops": limits.flops,
            "bandwidth": limits.bandwidth,
            "random_weights": model == PUBLISHED,
            "stages": [cost.to_dict() for cost in costs],
        }
        if published_way is not None:
            record["naive"] = published_way.to_dict()
        click.echo(json.dumps(record))
    elif published_way is not None:
        ratio = "" if published_way.ratio is None else f", {published_way.ratio:.0f} times encode and coarse above"
        click.echo(
            f"the published way of sampling, float32: {published_way.seconds:.0f} s for one coarse image,"
            f" extrapolated from {published_way.rows} rows{ratio}"
        )
    return 0


def _print_heads(limits: Limits, device: torch.device) -> None:
    from colorize_cli import machine

    peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in limits.flops.items())
    click.echo(f"{machine.processor(device)}: {peaks}; memory {limits.bandwidth / 1e9:.1f} GB/s")
    columns = ("stage", "photo", "samples", "dtype", "seconds", "CPU s", "least s", "share", "peak MB", "passes")
    click.echo(ROW.format(*columns))


def _print_cost(cost: StageCost) -> None:
    click.echo(
        ROW.format(
            cost.stage,
            cost.photo,
            cost.samples,
            cost.dtype or "",
            f"{cost.seconds:.3f}",
            f"{cost.cpu_seconds:.3f}",
            "" if cost.least_seconds is None else f"{cost.least_seconds:.3f}",
            "" if cost.share is None else f"{cost.share:.0%}",
            f"{cost.peak_memory / 1e6:.0f}" if cost.peak_memory else "",
            "" if cost.passes_per_row is None else f"{cost.passes_per_row:.1f}",
        )
    )
