"""Joining predicted colour to the photo's own luminance, at the photo's own size and depth.

Chroma is `rgb - luma` of each pixel: three numbers whose own luma is nought. Around each pixel of the predicted colours
it is taken for a straight line of luma, `slope * luma + offset`. Slopes and offsets vary slowly, so that they can be
enlarged smoothly, while the photo's own luma, with all its edges, gives the chroma of each of its pixels. This is the
fast guided filter (He and Sun 2015) but for one thing: offsets are not averaged, so that the predicted colours
themselves come back unchanged at their own size. Where a colour leaves the gamut it loses chroma, never luminance.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # BT.601, as Pillow's mode "L"
STRIP_PIXELS = 2**16  # joined at a time: few enough to stay in the processor's cache
TALL = 4  # times its width: from this height on a photo is worked on lying down
THREADS = 2  # more of them wait for memory
LEAST_CHROMA = np.float32(1e-6)  # keeps the division below finite
RADIUS = 1  # of the window in which a line is fitted, in pixels of the predicted colours
# Luma's variance, in levels of 255, at which the fitted slope is halved: grain has less, edges have more.
GRAIN = 200.0
# How far a pixel's chroma may lie beyond that of its neighbours, as a share of their range: where three colours meet
# no line is true.
BEYOND = 0.2
NEIGHBOURS = 2  # pixels of the predicted colours to each side


def chroma_of(rgb: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` uint8 or float32 to `(H, W, 3)` float32, each pixel less its own luma."""
    values = rgb.astype(np.float32)
    chroma: np.ndarray = values - (values @ LUMA_WEIGHTS)[..., None]
    return chroma


def join(luma: np.ndarray, rgb: np.ndarray, saturation: float = 1.0, *, strip_rows: int = 0) -> np.ndarray:
    """The colour of `rgb` under `luma`, enlarged along the photo's edges.

    Args:
        luma: `(H, W)` uint8 or uint16, the whole range, the photo's own.
        rgb: `(h, w, 3)` uint8 or float32, 0..255, the predicted colours of the whole photo at any size.
        saturation: scales the chroma, at least 0.
        strip_rows: how many rows are worked on at once, 0 for what fits the cache; the result is the same whatever
            it is.

    Returns:
        `(H, W, 3)` of the luma's kind, whose own luma is within 1 level of it everywhere.
    """
    height, width = luma.shape
    if height > TALL * width:  # many short rows are slow
        turned = join(np.ascontiguousarray(luma.T), rgb.transpose(1, 0, 2), saturation, strip_rows=strip_rows)
        return np.ascontiguousarray(turned.transpose(1, 0, 2))
    lines, limits = (_Enlarged(planes, width, height, method) for planes, method in _lines(luma, rgb))
    out = np.empty((height, width, 3), dtype=luma.dtype)
    rows = strip_rows or max(1, STRIP_PIXELS // width)

    def work(top: int) -> None:
        bottom = min(top + rows, height)
        _add(luma[top:bottom], lines.strip(top, bottom), limits.strip(top, bottom), saturation, out[top:bottom])

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(work, range(0, height, rows)):
            pass
    return out


class _Enlarged:
    """Planes at the photo's size, made a few rows at a time."""

    def __init__(self, planes: np.ndarray, width: int, height: int, method: Image.Resampling) -> None:
        """`planes` is `(C, h, w)` float32."""
        rows = planes.shape[1]
        # Columns first, for all rows: then an output row needs a few short rows alone.
        self.source = np.stack([_resize(plane, width, rows, method) for plane in planes], axis=1)  # (h, C, W)
        weights = _resize(np.eye(rows, dtype=np.float32), rows, height, method)  # (H, h), Pillow's own filter
        most = np.count_nonzero(weights, axis=1).max()
        self.rows = np.argsort(weights == 0, axis=1, kind="stable")[:, :most]  # (H, most) of the source
        self.weights = np.take_along_axis(weights, self.rows, axis=1)

    def strip(self, top: int, bottom: int) -> np.ndarray:
        """Rows `top` to `bottom` of all planes, `(C, rows, W)` float32.

        Each is a weighted sum, term by term in one fixed order. A matrix product would be free to add in another
        order for another strip, and leave a seam.
        """
        out = np.zeros((bottom - top, *self.source.shape[1:]), dtype=np.float32)
        term = np.empty_like(out)
        for rows, weights in zip(self.rows[top:bottom].T, self.weights[top:bottom].T, strict=True):
            np.take(self.source, rows, axis=0, out=term, mode="clip")  # the mode that writes to `out` at once
            term *= weights[:, None, None]
            out += term
        return out.transpose(1, 0, 2)


def _lines(luma: np.ndarray, rgb: np.ndarray) -> list[tuple[np.ndarray, Image.Resampling]]:
    """What gives each pixel its chroma, at the size of `rgb` or, where the photo is smaller, at the photo's.

    Returns:
        Slopes and offsets of red and blue, and their least and greatest chroma: `(4, h, w)` float32 each, with the way
        to enlarge it. Limits must not ring, as bicubic does.
    """
    height, width = min(rgb.shape[0], luma.shape[0]), min(rgb.shape[1], luma.shape[1])
    chroma = np.stack([_resize(plane, width, height) for plane in chroma_of(rgb).transpose(2, 0, 1)[::2]], axis=-1)
    gray = _resize(luma if luma.dtype == np.uint8 else (luma >> 8).astype(np.uint8), width, height).astype(np.float32)
    mean, mean_chroma = _window_mean(gray), _window_mean(chroma)
    variance = _window_mean(gray * gray) - mean * mean
    covariance = _window_mean(gray[..., None] * chroma) - mean[..., None] * mean_chroma
    slopes = _window_mean(covariance / (variance + np.float32(GRAIN))[..., None])
    offsets = chroma - slopes * gray[..., None]
    least, greatest = _window_extreme(chroma, np.minimum), _window_extreme(chroma, np.maximum)
    margin = np.float32(BEYOND) * (greatest - least)
    lines = np.concatenate([slopes, offsets], axis=-1).transpose(2, 0, 1)
    limits = np.concatenate([least - margin, greatest + margin], axis=-1).transpose(2, 0, 1)
    return [(lines, Image.Resampling.BICUBIC), (limits, Image.Resampling.BILINEAR)]


def _window_mean(plane: np.ndarray) -> np.ndarray:
    """The mean around each pixel of `(h, w)` or `(h, w, C)` float32; the border repeats."""
    padded = np.pad(plane, [(RADIUS, RADIUS)] * 2 + [(0, 0)] * (plane.ndim - 2), mode="edge")
    side = 2 * RADIUS + 1
    height, width = plane.shape[:2]
    rows = np.add.reduce([padded[start : start + height] for start in range(side)])
    total = np.add.reduce([rows[:, start : start + width] for start in range(side)])
    return np.asarray(total / np.float32(side * side))


def _window_extreme(plane: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """The least or greatest value around each pixel of `(h, w, C)`; the border repeats."""
    padded = np.pad(plane, [(NEIGHBOURS, NEIGHBOURS)] * 2 + [(0, 0)], mode="edge")
    side = 2 * NEIGHBOURS + 1
    rows = extreme.reduce([padded[start : start + plane.shape[0]] for start in range(side)])
    return np.asarray(extreme.reduce([rows[:, start : start + plane.shape[1]] for start in range(side)]))


def _resize(plane: np.ndarray, width: int, height: int, method: Image.Resampling = Image.Resampling.BOX) -> np.ndarray:
    """A plane `(h, w)` to `(height, width)`."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), method))


def _add(luma: np.ndarray, lines: np.ndarray, limits: np.ndarray, saturation: float, out: np.ndarray) -> None:
    """`luma` `(rows, W)` plus its chroma, drawn towards gray until it is in gamut.

    Writes `out` `(rows, W, 3)` of the luma's kind; `lines` and `limits`, `(4, rows, W)` float32, are used up.
    """
    white = np.float32(np.iinfo(luma.dtype).max)
    scale = white / np.float32(255)
    y = luma.astype(np.float32)
    level = y / scale  # 0..255
    red, blue = lines[:2]
    for chroma, offset, least, greatest in zip(lines[:2], lines[2:], limits[:2], limits[2:], strict=True):
        chroma *= level
        chroma += offset
        np.minimum(chroma, greatest, out=chroma)
        np.maximum(chroma, least, out=chroma)
        chroma *= scale
    highest, lowest, scratch, green = limits
    # Green is what makes the chroma's own luma nought.
    np.multiply(red, LUMA_WEIGHTS[0] / -LUMA_WEIGHTS[1], out=green)
    green += np.multiply(blue, LUMA_WEIGHTS[2] / -LUMA_WEIGHTS[1], out=scratch)
    np.maximum(np.maximum(red, green, out=highest), blue, out=highest)
    np.minimum(np.minimum(red, green, out=lowest), blue, out=lowest)
    np.maximum(highest, LEAST_CHROMA, out=highest)
    np.negative(lowest, out=lowest)
    np.maximum(lowest, LEAST_CHROMA, out=lowest)
    factor = np.divide(np.subtract(white, y, out=scratch), highest, out=highest)
    np.minimum(factor, np.divide(y, lowest, out=lowest), out=factor)
    np.minimum(factor, np.float32(min(saturation, 1e30)), out=factor)
    for channel, plane in enumerate((red, green, blue)):
        plane *= factor
        plane += y
        # Each channel is within half a level of the exact sum, and so is the luma before Pillow rounds it.
        out[..., channel] = np.rint(plane, out=plane)
