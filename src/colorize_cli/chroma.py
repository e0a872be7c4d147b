"""Joining predicted colour to the photo's own luminance, at the photo's own size.

Chroma is `rgb - luma` of each pixel: three numbers whose own luma is nought. It is enlarged smoothly and added
to the photo's luma; where a colour leaves the gamut it loses chroma, never luminance.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # BT.601, as Pillow's mode "L"
STRIP_ROWS = 256  # rows joined at a time: bounds the memory of a large photo


def chroma_of(rgb: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` uint8 to `(H, W, 3)` float32, each pixel less its own luma."""
    values = rgb.astype(np.float32)
    chroma: np.ndarray = values - (values @ LUMA_WEIGHTS)[..., None]
    return chroma


def join(luma: np.ndarray, rgb: np.ndarray, saturation: float = 1.0, *, strip_rows: int = STRIP_ROWS) -> np.ndarray:
    """The colour of `rgb` under `luma`.

    Args:
        luma: `(H, W)` uint8, 0..255, the photo's own.
        rgb: `(h, w, 3)` uint8, the predicted colours of the whole photo at any size.
        saturation: scales the chroma, at least 0.
        strip_rows: how many rows are worked on at once; changes the result by rounding alone.

    Returns:
        `(H, W, 3)` uint8, whose Pillow luma is within 1 level of `luma` everywhere.
    """
    height, width = luma.shape
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in chroma_of(rgb).transpose(2, 0, 1)]
    source_height, source_width = rgb.shape[:2]
    # Columns first, for all rows: then a strip needs its own rows alone.
    if source_width != width:
        method = Image.Resampling.BICUBIC if width > source_width else Image.Resampling.BOX
        planes = [plane.resize((width, source_height), method) for plane in planes]
    out = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, strip_rows):
        bottom = min(top + strip_rows, height)
        strips = [np.asarray(_rows(plane, top, bottom, height)) for plane in planes]
        out[top:bottom] = _add(luma[top:bottom], np.stack(strips, axis=-1) * np.float32(saturation))
    return out


def _rows(plane: Image.Image, top: int, bottom: int, height: int) -> Image.Image:
    """Rows `top` to `bottom` of `plane` resized to `height` rows; the filter sees past the strip's edges."""
    if plane.height == height:
        return plane.crop((0, top, plane.width, bottom))
    method = Image.Resampling.BICUBIC if height > plane.height else Image.Resampling.BOX
    scale = plane.height / height
    return plane.resize((plane.width, bottom - top), method, box=(0, top * scale, plane.width, bottom * scale))


def _add(luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """`luma` `(h, w)` uint8 plus chroma `(h, w, 3)` float32, drawn towards gray until it is in gamut; uint8."""
    y = luma.astype(np.float32)
    chroma -= (chroma @ LUMA_WEIGHTS)[..., None]  # resizing rounds: take its own luma out once more
    highest, lowest = chroma.max(axis=-1), chroma.min(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(highest > 0, (255 - y) / highest, np.inf)
        below = np.where(lowest < 0, y / -lowest, np.inf)
    chroma *= np.minimum(np.minimum(above, below), 1.0)[..., None]
    rgb = (y[..., None] + chroma).clip(0, 255)
    rounded: np.ndarray = np.rint(rgb).astype(np.uint8)
    return rounded
