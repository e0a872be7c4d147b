"""How good a model is on photographs in colour: bits, and the error of the upsamplers given the true coarse image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from colorize_cli import chroma, palette
from colorize_cli.colorizer import Colorizer, GrayPhoto, see
from colorize_cli.config import CORE_SIZE, FULL_SIZE
from colorize_cli.errors import OptionError


@dataclass(frozen=True)
class Scores:
    """Figures of one photo, or their mean. PSNR in dB, CIEDE2000 without unit; `nan` where not measured."""

    bits_per_pixel: float  # autoregressive, of the true coarse image
    parallel_bits_per_pixel: float  # the encoder alone
    model_psnr: float  # the model's own 256x256 RGB, given the true coarse image
    joined_psnr: float  # the same under the true luma
    joined_ciede2000: float
    bicubic_psnr: float  # the coarse image's bin centres, enlarged, under the true luma
    bicubic_ciede2000: float


def ciede2000(first: np.ndarray, second: np.ndarray) -> float:
    """Mean CIEDE2000 colour difference of two `(H, W, 3)` uint8 sRGB images."""
    try:
        from skimage.color import deltaE_ciede2000, rgb2lab
    except ModuleNotFoundError as error:
        raise OptionError("evaluating needs scikit-image: pip install 'coltran[eval]'") from error
    return float(deltaE_ciede2000(rgb2lab(first), rgb2lab(second)).mean())  # type: ignore[no-untyped-call]


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images, in dB."""
    error = ((first.astype(np.float64) - second) ** 2).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@torch.inference_mode()
def score_photo(colorizer: Colorizer, rgb: Image.Image, *, upsamplers: bool = True) -> Scores:
    """Scores of one photograph in colour, the whole of it squashed to 256x256 as the command does.

    Photos of at most 64x64 have nothing for the upsamplers to be judged by.
    """
    truth = np.asarray(rgb.convert("RGB"))
    small = max(truth.shape[:2]) <= CORE_SIZE
    if not small:
        truth = np.asarray(Image.fromarray(truth).resize((FULL_SIZE, FULL_SIZE), Image.Resampling.BOX))
    luma = np.asarray(Image.fromarray(truth).convert("L"))
    view = see(luma)
    coarse_rgb = np.asarray(Image.fromarray(truth).resize((CORE_SIZE, CORE_SIZE), Image.Resampling.BOX))
    bins = palette.rgb_to_bins(coarse_rgb.astype(np.int64))
    bits, parallel_bits = _bits(colorizer, view, bins)
    if small or not upsamplers:
        return Scores(bits, parallel_bits, *[math.nan] * 5)
    _, model_rgb = colorizer.upsample(bins, view)
    joined = chroma.join(luma, model_rgb)
    centres = (palette.bins_to_rgb(bins) + palette.STEP // 2).astype(np.uint8)
    bicubic = chroma.join(luma, centres)
    return Scores(
        bits,
        parallel_bits,
        psnr(truth, model_rgb),
        psnr(truth, joined),
        ciede2000(truth, joined),
        psnr(truth, bicubic),
        ciede2000(truth, bicubic),
    )


def _bits(colorizer: Colorizer, view: GrayPhoto, bins: np.ndarray) -> tuple[float, float]:
    core = colorizer.model.core
    gray = torch.from_numpy(np.array(view.gray_64))[None].int().to(colorizer.device)
    eye = torch.from_numpy(np.array(view.backbone_gray))[None].to(colorizer.device)
    truth = torch.from_numpy(bins)[None].to(colorizer.device)
    context = core.encode(gray, eye)
    both = (core.decode(context, truth), core.parallel_logits(context, gray))
    first, second = (F.cross_entropy(x.float().flatten(0, 2), truth.flatten()).item() / math.log(2) for x in both)
    return first, second


def evaluate(
    colorizer: Colorizer,
    photos: Iterable[Image.Image],
    *,
    upsamplers: bool = True,
    progress: Callable[[], None] | None = None,
) -> tuple[int, Scores]:
    """The number of photos and the mean of their scores."""
    rows = []
    for rgb in photos:
        scores = score_photo(colorizer, rgb, upsamplers=upsamplers)
        rows.append([getattr(scores, field.name) for field in fields(Scores)])
        if progress is not None:
            progress()
    if not rows:
        raise OptionError("no photographs to evaluate on")
    return len(rows), Scores(*np.mean(rows, axis=0).tolist())
