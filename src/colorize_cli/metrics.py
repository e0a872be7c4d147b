"""Measures of pictures and sets of pictures: error, colourfulness, diversity, distance of distributions."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from colorize_cli.errors import OptionError

NEARLY_GRAY = 5.0  # mean CIELAB chroma below which a picture looks black and white


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images, in dB."""
    error = ((first.astype(np.float64) - second) ** 2).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB `(H, W, 3)` float64 of `(H, W, 3)` uint8 sRGB; raises `OptionError` without scikit-image."""
    try:
        from skimage.color import rgb2lab
    except ModuleNotFoundError as error:
        raise OptionError("evaluating needs another package: pip install scikit-image") from error
    converted: np.ndarray = rgb2lab(rgb)
    return converted


def ciede2000(first: np.ndarray, second: np.ndarray) -> float:
    """Mean CIEDE2000 colour difference of two `(H, W, 3)` uint8 sRGB images."""
    first_lab, second_lab = lab(first), lab(second)  # first, for its error where scikit-image is missing
    from skimage.color import deltaE_ciede2000

    return float(deltaE_ciede2000(first_lab, second_lab).mean())  # type: ignore[no-untyped-call]


def colorfulness(rgb: np.ndarray) -> float:
    """Colourfulness of `(H, W, 3)` uint8 (Hasler and Suesstrunk 2003, metric M3): 0 is gray, over 80 gaudy."""
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = math.hypot(red_green.std(), yellow_blue.std())
    return spread + 0.3 * math.hypot(red_green.mean(), yellow_blue.mean())


def is_nearly_gray(rgb: np.ndarray) -> bool:
    """Whether the mean CIELAB chroma of `(H, W, 3)` uint8 is below `NEARLY_GRAY`."""
    return bool(np.linalg.norm(lab(rgb)[..., 1:], axis=-1).mean() < NEARLY_GRAY)


def diversity(pictures: list[np.ndarray]) -> float:
    """Mean distance in CIELAB of a pixel in two of the pictures, over all pairs; `nan` for a single one."""
    converted = [lab(picture) for picture in pictures]
    distances = [np.linalg.norm(a - b, axis=-1).mean() for a, b in combinations(converted, 2)]
    return float(np.mean(distances)) if distances else math.nan


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance of two sets of features `(N, D)`, each taken as a normal distribution; `nan` for N = 1."""
    if min(len(first), len(second)) < 2:
        return math.nan
    difference = first.mean(axis=0) - second.mean(axis=0)
    one, other = (np.cov(features, rowvar=False) for features in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # The trace of the root of `one @ other`, by a symmetric matrix of the same eigenvalues.
    shared = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0)).sum()
    return float(difference @ difference + np.trace(one) + np.trace(other) - 2 * shared)


def gap_closed(nothing: float, reached: float, everything: float) -> float:
    """The share of the way from `nothing` to `everything` that `reached` has come, 1 is all; `nan` without a gap."""
    return (reached - nothing) / (everything - nothing) if everything != nothing else math.nan
