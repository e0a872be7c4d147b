"""From pixels of any kind and depth to the luma that the model sees and the picture keeps."""

from __future__ import annotations

import functools
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import resources
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

SRGB = (resources.files("colorize_cli.photo") / "sRGB.icc").read_bytes()  # the profile of every picture
WHITE = 65535  # of a deep channel
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # BT.601
BEYOND = 0.1  # of white, below black and above white: where sharpening or resizing of floating-point pixels leads
STRIP_PIXELS = 2**20  # worked on at once
SAMPLED = 1000  # pixels a side that are looked at for colour
COLORED = 24  # levels of 255 between two channels from which on a pixel is in colour
MOST_COLORED = 0.01  # share of such pixels from which on a photo is

Space = Literal["gray", "rgb", "cmyk"]


@dataclass(frozen=True, eq=False)
class Page:
    """One picture of a photo's file; most files have one."""

    luma: np.ndarray  # (H, W) uint8 or uint16, the whole range, BT.601
    alpha: np.ndarray | None = None  # (H, W), of the same kind
    has_color: bool = False  # whether the file's own pixels are more than gray or toned

    def turned(self, orientation: int) -> Page:
        """The page with an EXIF orientation, 1 to 8, undone."""
        alpha = None if self.alpha is None else turned(self.alpha, orientation)
        return replace(self, luma=turned(self.luma, orientation), alpha=alpha)

    def shallow(self) -> Page:
        """The page in 8 bits."""
        return replace(self, luma=to_8_bits(self.luma), alpha=None if self.alpha is None else to_8_bits(self.alpha))


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Luma, alpha or colours of 8 or 16 bits as uint8, to the nearest level."""
    if values.dtype == np.uint8:
        return values
    return np.asarray(_LEVELS[values])


_LEVELS = np.rint(np.arange(WHITE + 1) / 257).astype(np.uint8)


def turned(plane: np.ndarray, orientation: int) -> np.ndarray:
    """A plane `(H, W)` with an EXIF orientation undone: `(W, H)` for 5 to 8."""
    if orientation in {5, 6, 7, 8}:
        plane = plane.T
    if orientation in {3, 4, 7, 8}:
        plane = plane[::-1]
    if orientation in {2, 3, 6, 7}:
        plane = plane[:, ::-1]
    return np.ascontiguousarray(plane)


def page_of_image(image: Image.Image) -> Page:
    """The page of a loaded Pillow image, as it lies."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return _page_of_deep_gray(image)
    profile = image.info.get("icc_profile")
    alpha = None
    is_gray = image.mode in {"1", "L", "LA", "La"}
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    if image.mode != "CMYK":
        image = image.convert("L" if is_gray else "RGB")
    if profile and image.mode == "RGB" and _space_of(profile) == "gray":  # as in a WebP, which knows no gray
        red, green, blue = image.split()
        image = red if red == green == blue else image
    if profile:
        image = _to_srgb(image, profile)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    has_color = image.mode == "RGB" and _has_color(
        np.asarray(image.resize(_sampled(image.size), Image.Resampling.NEAREST))
    )
    image = image.convert("L")  # frees the colours before the pixels are copied
    return Page(np.asarray(image), alpha, has_color)


def _page_of_deep_gray(image: Image.Image) -> Page:
    values = np.asarray(image)
    key = image.info.get("transparency")
    alpha = np.where(values == key, 0, WHITE).astype(np.uint16) if isinstance(key, int) else None
    deep = values.astype(np.uint16) if image.mode.startswith("I;16") else scaled(values)
    if image.format == "PPM" and image.mode != "F":  # Pillow gives its whole range as 0..65535
        deep = values.clip(0, WHITE).astype(np.uint16)
    return page_of_array(deep, "gray", image.info.get("icc_profile"), alpha=alpha)


def scaled(values: np.ndarray, bits: int = 0, *, from_nought: bool = False) -> np.ndarray:
    """Numbers of any kind as uint16, 0..65535.

    Args:
        bits: how many bits a whole number has; 0 where its range must be guessed: the least usual one that holds it,
            or, where none does, its own from black to white.
        from_nought: whether black is nought even where the range is the values' own.
    """
    if bits == 16 and values.dtype == np.uint16:
        return values
    low, high = (0.0, float(2**bits - 1)) if bits else _range(values)
    if from_nought:
        low = 0.0
    white = max(high - low, 0.0) or 1.0
    out = np.empty(values.shape, dtype=np.uint16)
    for rows in strips(values.shape):
        part = (values[rows].astype(np.float64) - low) * (WHITE / white)
        out[rows] = np.rint(np.nan_to_num(part).clip(0, WHITE))
    return out


def _range(values: np.ndarray) -> tuple[float, float]:
    """What is black and what is white, as far as numbers tell."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    whites, beyond = ((1.0, 255.0, 65535.0), BEYOND) if values.dtype.kind == "f" else ((255.0, 65535.0), 0.0)
    for white in whites:
        if high <= white * (1 + beyond):
            return (0.0, white) if low >= -beyond * min(white, max(high, 1.0)) else (low, high)
    return low, high


def strips(shape: tuple[int, ...]) -> list[slice]:
    """Slices of rows that together are an image `(H, W, ...)`."""
    rows = max(1, STRIP_PIXELS // max(1, shape[1]))
    return [slice(top, min(top + rows, shape[0])) for top in range(0, shape[0], rows)]


def page_of_array(pixels: np.ndarray, space: Space, profile: bytes | None, alpha: np.ndarray | None = None) -> Page:
    """The page of deep pixels: `(H, W)` gray, or `(H, W, C)` RGB or CMYK, uint16, and alpha `(H, W)` uint16.

    CMYK is 0 for no ink. A profile that is broken or of another kind of pixels is passed over.
    """
    if profile == SRGB or (profile and _space_of(profile) != space):
        profile = None
    if space == "gray":
        return Page(_gray_table(profile)[pixels] if profile else pixels, alpha)
    luma = np.empty(pixels.shape[:2], dtype=np.uint16)

    def convert(rows: slice) -> None:
        rgb = _rgb(np.ascontiguousarray(pixels[rows]), space, profile)
        luma[rows] = np.rint(rgb.astype(np.float32) @ LUMA_WEIGHTS)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(convert, strips(pixels.shape)))
    step = max(1, max(pixels.shape[:2]) // SAMPLED)
    sample = _rgb(np.ascontiguousarray(pixels[::step, ::step]), space, profile)
    return Page(luma, alpha, _has_color(sample >> 8))


def _rgb(pixels: np.ndarray, space: Space, profile: bytes | None) -> np.ndarray:
    if profile:
        import imagecodecs

        try:
            converted = imagecodecs.cms_transform(
                pixels,
                profile,
                imagecodecs.cms_profile("srgb"),  # by formula: the table in `SRGB` is too coarse here
                colorspace=space,
                outcolorspace="rgb",
                outdtype="u2",
                intent=imagecodecs.CMS.INTENT.PERCEPTUAL,
                flags=imagecodecs.CMS.FLAGS.NOOPTIMIZE,  # its tables are too coarse for 16 bits
            )
            return np.asarray(converted)
        except (RuntimeError, ValueError, TypeError):
            pass
    if space == "cmyk":
        ink = pixels.astype(np.float32) / WHITE
        light = (1 - ink[..., :3]) * (1 - ink[..., 3:])
        return np.rint(light * WHITE).astype(np.uint16)
    return pixels


@functools.lru_cache(maxsize=2)
def _gray_table(profile: bytes) -> np.ndarray:
    """What each of 65,536 grays of a profile is in sRGB; as it is where the profile is broken."""
    ramp = np.arange(WHITE + 1, dtype=np.uint16)
    rgb = _rgb(ramp[None], "gray", profile)
    if rgb.ndim != 3:
        return ramp
    luma: np.ndarray = np.rint(rgb[0].astype(np.float32) @ LUMA_WEIGHTS).astype(np.uint16)
    return luma


def _space_of(profile: bytes) -> str | None:
    """The pixels that a profile is of."""
    return {b"GRAY": "gray", b"RGB ": "rgb", b"CMYK": "cmyk"}.get(profile[16:20])


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """8-bit pixels converted from `profile`; as they are where the profile is broken or of another kind."""
    if profile == SRGB or _space_of(profile) != {"L": "gray", "RGB": "rgb", "CMYK": "cmyk"}[image.mode]:
        return image
    # Not with the shortcuts that cost dark gray several levels and CMYK a dozen. Gray has few levels: they alone are
    # converted.
    is_gray = image.mode == "L"
    pixels = Image.fromarray(np.arange(256, dtype=np.uint8)[None]) if is_gray else image
    flags = ImageCms.Flags.NONE if image.mode == "RGB" else ImageCms.Flags.NOOPTIMIZE
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(pixels, source, target, outputMode="RGB", flags=flags)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    assert converted is not None
    return image.point(list(converted.convert("L").tobytes())) if is_gray else converted


def _sampled(size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    return min(width, SAMPLED), min(height, SAMPLED)


def _has_color(rgb: np.ndarray) -> bool:
    """Whether pixels `(H, W, 3)` of 8 bits are in colour: more than a tone laid over gray."""
    sample = rgb.astype(np.int16)
    chroma = np.stack([sample[..., 0] - sample[..., 1], sample[..., 2] - sample[..., 1]])
    tone = np.median(chroma, axis=(1, 2), keepdims=True)
    away = np.abs(chroma - tone).max(axis=0)
    return bool((away >= COLORED).mean() > MOST_COLORED)
