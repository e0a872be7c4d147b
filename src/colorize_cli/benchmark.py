"""What each stage costs here, and which share of the machine's own limit it reaches.

A stage's least time comes from its floating-point operations, counted by running the very same modules without numbers
(on torch's "meta" device, attention with a single head unfolded), and from the bytes that must move at least: every
weight, and what goes in and out, once; of a file its pixels.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from colorize_cli import chroma, machine
from colorize_cli.checkpoints import build_stage, cast_stage, save_model
from colorize_cli.colorizer import Colorizer
from colorize_cli.config import BACKBONE_SIZE, BENCH_STAGES, FULL_SIZE, STAGES
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.rows import RowDecoder, Tile, project_context
from colorize_cli.models.upsamplers import ChannelUpsampler
from colorize_cli.photo import open_photo, save_photo
from colorize_cli.sampling import CoarseSample, SampleRequest, draw_naively, draw_samples, noise_stream
from colorize_cli.views import GrayPhoto, see
from colorize_cli.workers import Report

Result = TypeVar("Result")

PUBLISHED = "published"  # the model of the paper, with random weights
PER_SAMPLE = frozenset(BENCH_STAGES[3:])
MOST_SECONDS = 20.0  # spent on repeating one stage


@dataclass(frozen=True)
class Work:
    """What a stage has to do for one sample (what comes before drawing: for one photo)."""

    flops: dict[str, float] = field(default_factory=dict)  # by dtype
    pass_flops: float = 0  # of one pass of the inner decoder over a row
    weights: float = 0  # bytes of the weights, read once for all samples
    other: float = 0  # bytes of what goes in and out, for each


@dataclass(frozen=True)
class StageCost:
    """One line of the benchmark."""

    model: str
    stage: str
    samples: int
    photo: str  # WIDTHxHEIGHT
    dtype: str | None
    seconds: float
    cpu_seconds: float
    runs: int
    peak_memory: int  # bytes
    flops: float | None = None
    moved: float | None = None  # bytes
    least_seconds: float | None = None
    share: float | None = None  # of the machine's limit
    passes_per_row: float | None = None  # of the inner decoder, in the coarse stage

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what does not apply is left out."""
        return applying(asdict(self))


@dataclass(frozen=True)
class NaiveCost:
    """The published way of sampling, with the same modules in float32; a few rows, the rest extrapolated."""

    model: str
    rows: int  # that were timed
    seconds_per_row: float
    seconds: float  # of one coarse image: extrapolated
    ratio: float | None  # to encode and draw one here, where both were timed; its own encoder was not

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what does not apply is left out."""
        return applying(asdict(self)) | {"extrapolated": True}


def applying(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record is known."""
    return {name: value for name, value in record.items() if value is not None}


def random_model(folder: Path) -> Path:
    """A model folder of the published sizes with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = {stage: build_stage(config()) for stage, config in STAGES.items()}
    save_model(folder, PUBLISHED, modules)
    return folder


def made_up_photo(path: Path, width: int, height: int) -> Path:
    """A gray JPEG of waves and grain."""
    y, x = np.ogrid[0:height, 0:width]
    waves = 128 + 100 * np.sin(x / (width / 11)).astype(np.float32) * np.cos(y / (height / 10)).astype(np.float32)
    waves += np.random.default_rng(0).normal(0, 4, (height, width)).astype(np.float32)
    Image.fromarray(waves.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return path


class Benchmark:
    """The stages of one model on one photo."""

    def __init__(
        self,
        model: str,
        device: str,
        dtype: str,
        size: tuple[int, int],
        folder: Path,
        limits: machine.Limits,
        repeats: int = 3,
    ) -> None:
        """`size` is the photo's width and height; `folder` takes what is written."""
        self.source, self.device, self.dtype, self.limits, self.repeats = model, device, dtype, limits, repeats
        self.colorizer = Colorizer.from_pretrained(model, device, dtype)
        self.size, self.folder = size, folder
        self.path = made_up_photo(folder / "photo.jpg", *size)
        self.opened = open_photo(self.path)
        self.view = see(self.opened.luma)
        self.works = least_work(self.colorizer)
        if self.colorizer.device.type == "cpu":  # whose memory was measured
            self.works |= moving_work(size)
        self.passes: list[float] = []

    def run(self, stages: Sequence[str], samples: Sequence[int]) -> Iterator[StageCost]:
        """Time each stage; those that every sample passes once for each number of `samples`."""
        runs = self.runs()
        for stage in stages:
            for count in samples if stage in PER_SAMPLE else [1]:
                self.passes = []
                run = functools.partial(runs[stage], count)
                timed = machine.measure(run, self.repeats, self.colorizer.device, MOST_SECONDS)
                yield self.cost(stage, count, timed)

    @torch.inference_mode()
    def runs(self) -> dict[str, Callable[[int], object]]:
        """Each stage for a number of samples, its input at hand."""
        model = self.colorizer.model
        requests = self.colorizer.requests(self.view, 0, 1)
        gray_64, gray_256 = (
            torch.from_numpy(np.array(gray))[None].long().to(self.colorizer.device)
            for gray in (self.view.gray_64, self.view.gray_256)
        )
        levels = torch.full((*gray_64.shape, 3), 3, device=gray_64.device)
        enlarged = torch.full((*gray_256.shape, 3), 127, device=gray_256.device)
        waves = np.stack([self.view.gray_256, 255 - self.view.gray_256, self.view.gray_256.T], axis=-1)
        picture = chroma.join(self.opened.luma, waves)

        def draw(report: Report, numbers: Sequence[int]) -> list[CoarseSample]:
            streams = (noise_stream(0, number, self.view.gray_256) for number in numbers)
            batch = [SampleRequest(requests[0].projections, noise) for noise in streams]
            return draw_samples(self.colorizer.decoder, batch, model.temperature, model.guidance)

        @torch.inference_mode()
        def coarse(count: int) -> None:
            samples = self.colorizer.share(draw, lambda number, sample: sample, count, lambda rows: None)
            self.passes = [sample.passes for sample in samples]

        @torch.inference_mode()
        def upsample(stage: ChannelUpsampler, levels: torch.Tensor, gray: torch.Tensor, count: int) -> None:
            for _ in range(count):
                stage.upsample(levels, gray)

        return {
            "load": lambda count: Colorizer.from_pretrained(self.source, self.device, self.dtype),
            "decode file": lambda count: open_photo(self.path),
            "encode": lambda count: self.colorizer.requests(self.view, 0, 1),
            "coarse": coarse,
            "color upsampler": functools.partial(upsample, model.color_upsampler, levels, gray_64),
            "spatial upsampler": functools.partial(upsample, model.spatial_upsampler, enlarged, gray_256),
            "join": lambda count: [chroma.join(self.opened.luma, waves) for _ in range(count)],
            "encode file": lambda count: [
                save_photo([picture], self.opened, self.folder / f"color{index}.jpg") for index in range(count)
            ],
            # From the file to joined pixels. While one sample is joined another one is drawn or enlarged.
            "whole photo": lambda count: self.colorizer.colorize(self.path, count),
        }

    def cost(self, stage: str, count: int, timed: machine.Measurement) -> StageCost:
        """A line of the result."""
        weights = {"encode": "core", "coarse": "core"}.get(stage, stage.replace(" ", "_"))
        dtype = self.colorizer.dtypes.get(weights)
        line = StageCost(
            model=self.colorizer.model.name,
            stage=stage,
            samples=count,
            photo=f"{self.size[0]}x{self.size[1]}",
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            **asdict(timed),
        )
        if stage not in self.works:
            return line
        work = self.works[stage]
        passes = sum(self.passes)  # none but in the coarse stage
        flops = {dtype: each * count for dtype, each in work.flops.items()}
        if line.dtype is not None:
            flops[line.dtype] += work.pass_flops * passes
        moved = work.weights + work.other * count
        least = self.limits.least_seconds(flops, moved)
        per_row = passes / count / self.colorizer.model.core.config.resolution
        return replace(
            line,
            flops=sum(flops.values()) or None,
            moved=moved,
            least_seconds=least,
            share=least / timed.seconds,
            passes_per_row=per_row or None,
        )


def least_work(colorizer: Colorizer) -> dict[str, Work]:
    """What each stage of the model has to do for one sample, by running copies of it that hold no numbers."""
    modules: dict[str, Any] = {}
    for stage in STAGES:
        actual = getattr(colorizer.model, stage)
        with torch.device("meta"):
            modules[stage] = build_stage(actual.config).eval()
        cast_stage(modules[stage], colorizer.dtypes[stage])
    parameters = {stage: bytes_of(module.parameters()) for stage, module in modules.items()}
    names = {stage: str(dtype).removeprefix("torch.") for stage, dtype in colorizer.dtypes.items()}
    works = {}
    with torch.device("meta"), torch.inference_mode():
        core: ColTranCore = modules["core"]
        side = core.config.resolution
        gray = torch.zeros(1, side, side, dtype=torch.int64)
        eye = torch.zeros(1, BACKBONE_SIZE, BACKBONE_SIZE, dtype=torch.uint8)
        flops, projections = count_flops(lambda: project_context(core, gray, eye))
        inputs = (projections.outer_input, projections.outer_qkv, projections.inner_input)
        projected = bytes_of((*inputs, *projections.outer, *projections.inner))
        seen = 0.0 if core.backbone is None else count_flops(lambda: core.backbone(eye))[0]  # type: ignore[misc]
        by_dtype = {names["core"]: flops - seen}
        by_dtype["float32"] = by_dtype.get("float32", 0.0) + seen
        works["load"] = Work(weights=sum(parameters.values()))
        works["encode"] = Work(by_dtype, 0, parameters["core"], projected)
        bins = torch.zeros(1, side, dtype=torch.int64)
        tile = Tile(RowDecoder(core, 1), [projections])
        row, context = count_flops(lambda: tile.outer_row(1, bins))
        once, logits_of = count_flops(lambda: tile.inner_row(0, context))
        each, _ = count_flops(lambda: logits_of(bins, 0))
        decoders = bytes_of(p for part in (core.outer, core.inner, core.head) for p in part.parameters())
        flops = (side - 1) * row + side * once
        works["coarse"] = Work({names["core"]: flops}, each, decoders, projected)
        for stage in ("color_upsampler", "spatial_upsampler"):
            module = modules[stage]
            side = module.config.resolution
            levels = torch.zeros(1, side, side, 3, dtype=torch.int64)
            flops, out = count_flops(lambda m=module, x=levels: m.upsample(x, x[..., 0]))  # type: ignore[misc]
            works[stage.replace("_", " ")] = Work({names[stage]: flops}, 0, parameters[stage], 2 * out.numel())
    return works


def moving_work(size: tuple[int, int]) -> dict[str, Work]:
    """That of the stages that only move pixels, of a gray photo of this width and height."""
    gray, colors = size[0] * size[1], 3 * FULL_SIZE**2
    return {
        "decode file": Work(other=gray),
        "join": Work(other=gray + colors + 3 * gray),
        "encode file": Work(other=3 * gray),
    }


def count_flops(run: Callable[[], Result]) -> tuple[float, Result]:
    """Of the matrix products and convolutions in `run`, two a multiplication and addition; and what it gave."""
    with FlopCounterMode(display=False) as counter:
        result = run()
    return float(counter.get_total_flops()), result


def bytes_of(tensors: Iterable[torch.Tensor]) -> float:
    """Of all of them together."""
    return float(sum(t.numel() * t.element_size() for t in tensors))


def time_naive(colorizer: Colorizer, view: GrayPhoto, rows: int, costs: Sequence[StageCost]) -> NaiveCost:
    """Time `rows` rows of the published way of sampling, in float32, and extrapolate to a whole image.

    `costs` are what it is compared with.
    """
    core = copy.deepcopy(colorizer.model.core).float()
    gray, eye = (colorizer.tensor(array) for array in (view.gray_64, view.backbone_gray))
    model, noise = colorizer.model, noise_stream(0, 0, view.gray_256)
    drawing = draw_naively(core, gray.int(), eye, noise, model.temperature, model.guidance)
    next(drawing)  # with the encoder, and not timed
    machine.synchronize(colorizer.device)
    started = time.perf_counter()
    for _ in range(rows):
        next(drawing)
    machine.synchronize(colorizer.device)
    seconds = (time.perf_counter() - started) / rows
    whole = seconds * core.config.resolution
    ours = {cost.stage: cost.seconds for cost in costs if cost.samples == 1 and cost.stage in {"encode", "coarse"}}
    return NaiveCost(colorizer.model.name, rows, seconds, whole, whole / sum(ours.values()) if len(ours) == 2 else None)
