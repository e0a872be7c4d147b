"""Joining predicted colour to the photo's own luminance, at the photo's own size.

Chroma is `rgb - luma` of each pixel: three numbers whose own luma is nought. It is enlarged smoothly and added
to the photo's luma; where a colour leaves the gamut it loses chroma, never luminance.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # BT.601, as Pillow's mode "L"
STRIP_ROWS = 16  # rows joined at a time: few enough to stay in the processor's cache
LEAST_CHROMA = np.float32(1e-6)  # keeps the division below finite


def chroma_of(rgb: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` uint8 to `(H, W, 3)` float32, each pixel less its own luma."""
    values = rgb.astype(np.float32)
    chroma: np.ndarray = values - (values @ LUMA_WEIGHTS)[..., None]
    return chroma


def join(luma: np.ndarray, rgb: np.ndarray, saturation: float = 1.0, *, strip_rows: int = STRIP_ROWS) -> np.ndarray:
    """The colour of `rgb` under `luma`.

    Args:
        luma: `(H, W)` uint8 or uint16, the whole range, the photo's own.
        rgb: `(h, w, 3)` uint8 or float32, 0..255, the predicted colours of the whole photo at any size.
        saturation: scales the chroma, at least 0.
        strip_rows: how many rows are worked on at once; the result is the same whatever it is.

    Returns:
        `(H, W, 3)` of the luma's kind, whose own luma is within 1 level of it everywhere.
    """
    height, width = luma.shape
    planes = chroma_of(rgb).transpose(2, 0, 1)
    # Columns first, for all rows: then an output row needs a few short rows alone.
    source = np.stack([_resize(plane, width, len(rgb)) for plane in planes], axis=1)  # (h, 3, W)
    weights = _resize(np.eye(len(rgb), dtype=np.float32), len(rgb), height)  # (H, h), Pillow's own filter
    out = np.empty((height, width, 3), dtype=luma.dtype)
    strip = np.empty((min(strip_rows, height), 3, width), dtype=np.float32)
    scratch = np.empty((3, width), dtype=np.float32)
    for top in range(0, height, strip_rows):
        bottom = min(top + strip_rows, height)
        for row in range(top, bottom):
            _mix(source, weights[row], strip[row - top], scratch)
        chroma = strip[: bottom - top].transpose(1, 0, 2)  # (3, rows, W)
        _add(luma[top:bottom], chroma, saturation, out[top:bottom])
    return out


def _resize(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """A float32 plane `(h, w)` to `(height, width)`, one side of which stays: bicubic to grow, box to shrink."""
    grows = width > plane.shape[1] or height > plane.shape[0]
    method = Image.Resampling.BICUBIC if grows else Image.Resampling.BOX
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), method))


def _mix(source: np.ndarray, weights: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    """One output row `(3, W)`: the weighted sum of rows of `source` `(h, 3, W)`, term by term in one fixed order.

    A matrix product would be free to add in another order for another strip, and leave a seam.
    """
    first, *others = np.flatnonzero(weights)
    np.multiply(source[first], weights[first], out=out)
    for other in others:
        np.multiply(source[other], weights[other], out=scratch)
        out += scratch


def _add(luma: np.ndarray, chroma: np.ndarray, saturation: float, out: np.ndarray) -> None:
    """`luma` `(rows, W)` plus chroma `(3, rows, W)` float32, 0..255, drawn towards gray until it is in gamut.

    Writes `out` `(rows, W, 3)` of the luma's kind; `chroma` is used up.
    """
    white = np.float32(np.iinfo(luma.dtype).max)
    y = luma.astype(np.float32)
    if white != 255:
        chroma *= white / 255
    red, green, blue = chroma
    chroma -= red * LUMA_WEIGHTS[0] + green * LUMA_WEIGHTS[1] + blue * LUMA_WEIGHTS[2]  # resizing rounds
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    factor = (white - y) / np.maximum(highest, LEAST_CHROMA)
    np.minimum(factor, y / np.maximum(-lowest, LEAST_CHROMA), out=factor)
    np.minimum(factor, np.float32(min(saturation, 1e30)), out=factor)
    for channel, plane in enumerate(chroma):
        plane *= factor
        plane += y
        # Each channel is within half a level of the exact sum, and so is the luma before Pillow rounds it.
        out[..., channel] = np.rint(plane, out=plane)
