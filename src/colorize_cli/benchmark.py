"""What each stage of one photo costs here: wall time, median of several runs after one that does not count."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from colorize_cli import chroma
from colorize_cli.colorizer import Colorizer, see
from colorize_cli.config import SamplingOptions
from colorize_cli.sampling import SampleRequest, draw_samples, noise_stream, project_context

PHOTO_SIZE = (750, 1000)  # height and width of the photo that is joined


@dataclass(frozen=True)
class StageTime:
    """One stage's cost."""

    stage: str
    seconds: float  # median


def bench(colorizer: Colorizer, samples: int = 4, repeats: int = 3) -> list[StageTime]:
    """Time the stages of one made-up 1000x750 photo with `samples` samples, and the whole of it."""
    y, x = np.mgrid[0 : PHOTO_SIZE[0], 0 : PHOTO_SIZE[1]]
    luma = (128 + 100 * np.sin(x / 90) * np.cos(y / 70)).astype(np.uint8)
    view = see(luma)
    core = colorizer.model.core
    gray = torch.from_numpy(np.array(view.gray_64))[None].int().to(colorizer.device)
    eye = torch.from_numpy(np.array(view.backbone_gray))[None].to(colorizer.device)
    with torch.inference_mode():
        projections = project_context(core, gray, eye)
    (predictions,) = colorizer.predict([view], SamplingOptions(1))

    def encode() -> None:
        with torch.inference_mode():
            project_context(core, gray, eye)

    def coarse() -> None:
        requests = [SampleRequest(projections, noise_stream(0, k, view.gray_256)) for k in range(samples)]
        draw_samples(core, requests)

    def upsamplers() -> None:
        for _ in range(samples):
            colorizer.upsample(predictions[0].bins, view)

    def join() -> None:
        for _ in range(samples):
            chroma.join(luma, predictions[0].rgb)

    def whole() -> None:
        (found,) = colorizer.predict([see(luma)], SamplingOptions(samples, temperature=1.0))
        for prediction in found:
            chroma.join(luma, prediction.rgb)

    stages: dict[str, Callable[[], None]] = {
        "encode": encode,
        "coarse": coarse,
        "upsamplers": upsamplers,
        "join": join,
        "whole": whole,
    }
    return [StageTime(name, _median(run, repeats, colorizer.device)) for name, run in stages.items()]


def _median(run: Callable[[], None], repeats: int, device: torch.device) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
