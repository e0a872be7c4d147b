"""How good a model is on photographs in colour: bits, the error of the upsamplers, the worth of drawn samples.

A photo larger than 64x64 is judged as the model sees it, squashed to 256x256; a smaller one at 64x64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from colorize_cli import chroma, palette
from colorize_cli.colorizer import Colorizer
from colorize_cli.config import CORE_SIZE, FULL_SIZE, SamplingOptions
from colorize_cli.errors import OptionError
from colorize_cli.judge import Judge, class_of
from colorize_cli.metrics import (
    ciede2000,
    colorfulness,
    diversity,
    frechet_distance,
    gap_closed,
    is_nearly_gray,
    lab,
    psnr,
)
from colorize_cli.models.upsamplers import ChannelUpsampler
from colorize_cli.photo import squash
from colorize_cli.views import GrayPhoto, see

PHOTOS_AT_ONCE = 4  # drawn together


@dataclass(frozen=True)
class Scores:
    """Figures of one photo, or their mean. PSNR in dB, CIEDE2000 without unit; `nan` where not measured."""

    # Given the true coarse image; the upsamplers' only for photos larger than 64x64.
    bits_per_pixel: float = math.nan  # autoregressive
    parallel_bits_per_pixel: float = math.nan  # the encoder alone
    color_upsampler_bits_per_dim: float = math.nan
    spatial_upsampler_bits_per_dim: float = math.nan  # given the true 64x64 image
    model_psnr: float = math.nan  # the model's own 256x256 RGB
    joined_psnr: float = math.nan  # the same under the true luma
    joined_ciede2000: float = math.nan
    bicubic_psnr: float = math.nan  # the coarse image's bin centres, enlarged, under the true luma
    bicubic_ciede2000: float = math.nan
    # Of the true photo and of drawn samples under the true luma.
    true_colorfulness: float = math.nan
    sample_colorfulness: float = math.nan
    sample_diversity: float = math.nan  # mean CIELAB distance of two samples
    sample_nearly_gray: float = math.nan  # share of the samples
    sample_ciede2000: float = math.nan  # mean of the samples
    best_sample_ciede2000: float = math.nan  # of the sample nearest to the truth


@dataclass(frozen=True)
class SetScores:
    """Figures of a whole set of photos, one drawn sample each; `nan` where not measured."""

    gray_accuracy: float = math.nan  # the judge's, on the photos without their colour
    sample_accuracy: float = math.nan
    true_accuracy: float = math.nan
    accuracy_gap_closed: float = math.nan  # 0 is as gray, 1 is as true
    gray_frechet: float = math.nan  # distance of the judge's features from those of the true photos
    sample_frechet: float = math.nan
    frechet_gap_closed: float = math.nan
    fid: float = math.nan


@dataclass(frozen=True)
class Report:
    """What `evaluate` found."""

    rows: list[tuple[str, Scores]]  # name and scores of each photo
    mean: Scores
    whole: SetScores
    left_out: list[str]  # names of photos that have no colour


@dataclass(frozen=True, eq=False)
class TrueColor:
    """A photo in colour as it is judged."""

    name: str
    rgb: np.ndarray  # (256, 256, 3) or (64, 64, 3) uint8
    luma: np.ndarray  # the same without its colour
    view: GrayPhoto
    low_res: np.ndarray  # (64, 64, 3) uint8
    bins: np.ndarray  # (64, 64) int64

    @property
    def is_small(self) -> bool:
        """Whether there is nothing for the upsamplers to be judged by."""
        return len(self.rgb) <= CORE_SIZE


def true_color(name: str, image: Image.Image) -> TrueColor:
    """Squash a photo and take its luma and coarse image."""
    pixels = np.asarray(image.convert("RGB"))
    rgb = squash(pixels, CORE_SIZE if max(pixels.shape[:2]) <= CORE_SIZE else FULL_SIZE)
    low_res = squash(rgb, CORE_SIZE)
    luma = np.asarray(Image.fromarray(rgb).convert("L"))
    return TrueColor(name, rgb, luma, see(luma), low_res, palette.rgb_to_bins(low_res.astype(np.int64)))


def score_photo(colorizer: Colorizer, photo: TrueColor) -> dict[str, float]:
    """The figures that need no drawing, given the true coarse image."""
    scores = dict(zip(("bits_per_pixel", "parallel_bits_per_pixel"), _core_bits(colorizer, photo), strict=True))
    if photo.is_small:
        return scores
    names = ("color_upsampler_bits_per_dim", "spatial_upsampler_bits_per_dim")
    scores |= zip(names, _upsampler_bits(colorizer, photo), strict=True)
    _, model_rgb = colorizer.upsample(photo.bins, photo.view)
    joined = chroma.join(photo.luma, model_rgb)
    centres = palette.bin_centers(photo.bins).astype(np.uint8)
    bicubic = chroma.join(photo.luma, centres)
    return scores | {
        "model_psnr": psnr(photo.rgb, model_rgb),
        "joined_psnr": psnr(photo.rgb, joined),
        "joined_ciede2000": ciede2000(photo.rgb, joined),
        "bicubic_psnr": psnr(photo.rgb, bicubic),
        "bicubic_ciede2000": ciede2000(photo.rgb, bicubic),
    }


def score_samples(photo: TrueColor, samples: list[np.ndarray]) -> dict[str, float]:
    """The figures of drawn samples, each `(H, W, 3)` uint8 under the photo's luma."""
    errors = [ciede2000(photo.rgb, sample) for sample in samples]
    return {
        "true_colorfulness": colorfulness(photo.rgb),
        "sample_colorfulness": float(np.mean([colorfulness(sample) for sample in samples])),
        "sample_diversity": diversity(samples),
        "sample_nearly_gray": float(np.mean([is_nearly_gray(sample) for sample in samples])),
        "sample_ciede2000": float(np.mean(errors)),
        "best_sample_ciede2000": min(errors),
    }


def _cross_entropy(logits: Tensor, truth: Tensor) -> float:
    """Bits of each entry of `truth` `(...)` under `logits` `(..., C)`, their mean."""
    return F.cross_entropy(logits.float().flatten(0, -2), truth.flatten()).item() / math.log(2)


@torch.inference_mode()
def _core_bits(colorizer: Colorizer, photo: TrueColor) -> tuple[float, float]:
    core = colorizer.model.core
    gray, truth = colorizer.tensor(photo.view.gray_64).int(), colorizer.tensor(photo.bins)
    context = core.encode(gray, colorizer.tensor(photo.view.backbone_gray))
    logits = core.decode(context, truth)
    return _cross_entropy(logits, truth), _cross_entropy(core.parallel_logits(context, gray), truth)


@torch.inference_mode()
def _upsampler_bits(colorizer: Colorizer, photo: TrueColor) -> tuple[float, float]:
    color, spatial = colorizer.model.color_upsampler, colorizer.model.spatial_upsampler
    low_res, rgb = colorizer.tensor(photo.low_res).long(), colorizer.tensor(photo.rgb).long()
    gray_64, gray_256 = (colorizer.tensor(x).long() for x in (photo.view.gray_64, photo.view.gray_256))
    levels = palette.bins_to_levels(colorizer.tensor(photo.bins))
    return (
        _channel_bits(color, color.symbols(levels)[0], gray_64, low_res),
        _channel_bits(spatial, spatial.symbols(spatial.enlarge(low_res, gray_256))[0], gray_256, rgb),
    )


def _channel_bits(upsampler: ChannelUpsampler, symbols: Tensor, gray: Tensor, rgb: Tensor) -> float:
    """Mean over the three channels, one at a time: all logits of a large canvas take a lot of memory."""
    bits = [
        _cross_entropy(upsampler.channel_logits(symbols[c : c + 1], gray), rgb[..., c].contiguous()) for c in range(3)
    ]
    return float(np.mean(bits))


class JudgedSet:
    """What a judge says of photos as they are, without colour, and with drawn colour."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.looks: dict[str, list[Tensor]] = {"gray": [], "sample": [], "true": []}
        self.names: list[str] = []

    def add(self, photo: TrueColor, sample: np.ndarray) -> None:
        """One photo and one sample of it."""
        gray = np.repeat(photo.luma[..., None], 3, axis=-1)
        for kind, picture in (("gray", gray), ("sample", sample), ("true", photo.rgb)):
            self.looks[kind].append(self.judge.look(picture))
        self.names.append(class_of(photo.name))

    @torch.inference_mode()
    def scores(self) -> dict[str, float]:
        """Accuracies and Frechet distances, and the shares of their gaps that the samples close.

        Right is the class in a photo's name or, where the names give no class that the judge knows, what it says of
        the true photo.
        """
        looks = {kind: torch.stack(rows) for kind, rows in self.looks.items()}
        with torch.no_grad():
            said = {kind: self.judge(rows).argmax(-1) for kind, rows in looks.items()}
        right = said["true"]
        if set(self.names) <= set(self.judge.classes):
            right = torch.tensor([self.judge.classes.index(name) for name in self.names])
        accuracy = {kind: (answer == right).float().mean().item() for kind, answer in said.items()}
        features = {kind: rows.double().numpy() for kind, rows in looks.items()}
        distance = {kind: frechet_distance(features[kind], features["true"]) for kind in ("gray", "sample")}
        return {f"{kind}_accuracy": value for kind, value in accuracy.items()} | {
            "accuracy_gap_closed": gap_closed(accuracy["gray"], accuracy["sample"], accuracy["true"]),
            "gray_frechet": distance["gray"],
            "sample_frechet": distance["sample"],
            "frechet_gap_closed": gap_closed(distance["gray"], distance["sample"], 0.0),
        }


class InceptionSet:
    """The Frechet Inception distance of drawn samples from the true photos, by torchmetrics."""

    def __init__(self, network: nn.Module | str) -> None:
        """`network`: the path of torch-fidelity's Inception weights, or a module of one's own: uint8
        `(B, 3, H, W)` to features `(B, D)`, with `num_features`."""
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance

            self.metric = (
                FrechetInceptionDistance(feature=network)
                if isinstance(network, nn.Module)
                else FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=network)
            )
        except ModuleNotFoundError as error:
            raise OptionError("FID needs other packages: pip install torchmetrics torch-fidelity") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise OptionError(f"the Inception weights {network} cannot be read ({error})") from error

    def add(self, photo: TrueColor, sample: np.ndarray) -> None:
        """One photo and one sample of it."""
        for picture, real in ((photo.rgb, True), (sample, False)):
            self.metric.update(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None], real=real)

    def scores(self) -> dict[str, float]:
        """The distance."""
        return {"fid": self.metric.compute().item()}


def evaluate(
    colorizer: Colorizer,
    photos: Iterable[tuple[str, Image.Image]],
    options: SamplingOptions | None = None,
    *,
    judge: Judge | None = None,
    inception: nn.Module | str | None = None,
    progress: Callable[[], None] | None = None,
) -> Report:
    """Score photographs in colour; those that have none are left out, as there is nothing to find.

    Args:
        colorizer: the model.
        photos: names and pictures.
        options: how to draw samples; None draws none and leaves their figures out.
        judge: compares what it recognises in gray, drawn and true photos, by the first sample of each.
        inception: for the Frechet Inception distance; see `InceptionSet`.
        progress: called after each photo.

    Raises:
        OptionError: no photos in colour, or a package of the extra "eval" is missing.
    """
    lab(np.zeros((1, 1, 3), np.uint8))  # where its package is missing, that is told at once
    rows: list[tuple[str, Scores]] = []
    left_out: list[str] = []

    def in_color() -> Iterator[TrueColor]:
        for name, image in photos:
            photo = true_color(name, image)
            if (photo.rgb == photo.rgb[..., :1]).all():
                left_out.append(name)
            else:
                yield photo

    sets: list[JudgedSet | InceptionSet] = []
    if options is not None and judge is not None:
        sets.append(JudgedSet(judge))
    if options is not None and inception is not None:
        sets.append(InceptionSet(inception))
    for group in _groups(in_color(), PHOTOS_AT_ONCE):
        drawn = [] if options is None else colorizer.predict([photo.view for photo in group], options)
        for index, photo in enumerate(group):
            scores = score_photo(colorizer, photo)
            if options is not None:
                samples = [chroma.join(photo.luma, p.rgb, options.saturation) for p in drawn[index]]
                scores |= score_samples(photo, samples)
                for judged in sets:
                    judged.add(photo, samples[0])
            rows.append((photo.name, Scores(**scores)))
            if progress is not None:
                progress()
    if not rows:
        raise OptionError("no photographs in colour to evaluate on")
    whole: dict[str, float] = {}
    for judged in sets:
        whole |= judged.scores()
    return Report(rows, _mean([scores for _, scores in rows]), SetScores(**whole), left_out)


def _groups(photos: Iterator[TrueColor], count: int) -> Iterator[list[TrueColor]]:
    while group := list(islice(photos, count)):
        yield group


def _mean(rows: list[Scores]) -> Scores:
    """Means over the photos that have a figure; `nan` where none has."""
    means = {}
    for field in fields(Scores):
        values = [value for row in rows if not math.isnan(value := getattr(row, field.name))]
        means[field.name] = float(np.mean(values)) if values else math.nan
    return Scores(**means)
