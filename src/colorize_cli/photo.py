"""Everything Pillow: open a photo, orient it, take its luma, set aside what is not colour, save atomically.

Eight bits a channel; the first frame or page of a file. Deeper files are read at eight bits.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from colorize_cli.config import BACKBONE_SIZE, CORE_SIZE, FULL_SIZE
from colorize_cli.errors import PhotoError

MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow takes a photo beyond this for a decompression bomb
JPEG_QUALITY = 95
WEBP_QUALITY = 95

# Formats that hold 8-bit colour, with the suffixes they go by; anything else is written as PNG.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pnm"),
}
# TIFF tags that describe the file's own layout, not the photo: of no use to another file. Resolution goes by `dpi`.
LAYOUT_TAGS = frozenset(
    {*range(254, 260), 262, 263, 266, 273, *range(275, 285), *range(288, 292), 296, 297, 301}
    | {*range(317, 326), *range(330, 348), *range(512, 533), 34675}
)
# What broken files make Pillow raise.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
)


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo's luma, and what its result is saved with."""

    luma: np.ndarray  # (H, W) uint8, 0..255, BT.601, orientation applied
    alpha: np.ndarray | None = None  # (H, W) uint8
    format: str = "PNG"  # Pillow's name of the input's format
    exif: bytes = b""  # orientation reset, no thumbnail
    info: dict[str, Any] = field(default_factory=dict)  # dpi, xmp


def open_photo(source: str | Path | Image.Image) -> Photo:
    """Read a photo whole.

    Args:
        source: a path, or an open Pillow image (which stays as it is).

    Raises:
        PhotoError: missing, unreadable, no photo, truncated, or too large to be one.
    """
    if isinstance(source, Image.Image):
        return _take(source)
    path = Path(source)
    if path.is_dir():
        raise PhotoError(f"{path}: this is a folder, not a photo")
    try:
        if path.stat().st_size == 0:
            raise PhotoError(f"{path}: the file is empty; copy it again from where it came")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of large photos
            # Not by name: Pillow maps a named raw TIFF into memory, and mistakes the sides of one that lies down.
            with path.open("rb") as file, Image.open(file) as image:
                return _take(image)
    except FileNotFoundError as error:
        raise PhotoError(f"{path}: no such file; check the name") from error
    except PermissionError as error:
        raise PhotoError(f"{path}: no permission to read it") from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"{path}: not a photo in any format known here") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{path}: more than {MAX_PIXELS:,} pixels; shrink it first") from error
    except DECODE_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PhotoError(f"{path}: damaged or unsupported ({reason}); copy it again or convert it") from error


def _take(image: Image.Image) -> Photo:
    kind = image.format or "PNG"
    info: dict[str, Any] = {key: image.info[key] for key in ("dpi", "xmp") if key in image.info}
    profile = image.info.get("icc_profile")
    image.load()
    exif = image.getexif()
    upright = ImageOps.exif_transpose(image)
    luma, alpha = _luma_and_alpha(upright, profile)
    return Photo(luma, alpha, kind, _kept_exif(exif), info)


def _kept_exif(exif: Image.Exif) -> bytes:
    """The tags that stay true of the result: all but the layout of the file and the orientation."""
    for tag in LAYOUT_TAGS | {ExifTags.Base.Orientation}:
        exif.pop(tag, None)
    if not exif:
        return b""
    exif[ExifTags.Base.Orientation] = 1
    try:
        return exif.tobytes()
    except DECODE_ERRORS:  # tags that Pillow reads but cannot write
        return b""


def _luma_and_alpha(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, np.ndarray | None]:
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        image = image.convert("RGB")
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return _shrink_depth(image), None
    if image.mode not in {"1", "L", "RGB", "CMYK"}:
        image = image.convert("L" if image.mode in {"LA", "La"} else "RGB")
    if profile and image.mode in {"L", "RGB", "CMYK"}:
        image = _to_srgb(image, profile)
    return np.asarray(image.convert("L")), alpha


def _shrink_depth(image: Image.Image) -> np.ndarray:
    """A deep gray image `(H, W)` as uint8: 16 bits by their upper byte, floats by their own range."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F":
        finite = np.nan_to_num(values)
        low, high = float(finite.min()), float(finite.max())
        if low >= 0 and high <= 1:
            return np.asarray(np.rint(finite * 255).astype(np.uint8))
        scaled = (finite - low) / max(high - low, 1e-12) * 255 if high > 255 or low < 0 else finite
        return np.asarray(np.rint(scaled).astype(np.uint8))
    return np.asarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Pixels converted from `profile`; as they are where the profile is broken or of another kind."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}.get(source.profile.xcolor_space)
        if space != image.mode:
            return image
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, *DECODE_ERRORS):
        return image
    return converted or image


def square_grays(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole photo squashed to `(256, 256)` and `(64, 64)` uint8.

    Box filter; the small one from the large one, rounding each time. A side under 256 is enlarged by bicubic,
    and the small gray is then taken straight from the photo.
    """
    full = squash(luma, FULL_SIZE)
    straight = min(luma.shape) < FULL_SIZE
    return full, squash(luma if straight else full, CORE_SIZE)


def squash(pixels: np.ndarray, size: int) -> np.ndarray:
    """`(H, W)` or `(H, W, 3)` uint8 to a square: sides shrink by box and grow by bicubic."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if min(image.size) >= size:
        return np.asarray(image.resize((size, size), Image.Resampling.BOX))
    width, height = min(image.width, size), min(image.height, size)
    image = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def backbone_gray(gray: np.ndarray) -> np.ndarray:
    """The backbone's photo `(192, 192)` uint8 from the sharpest square gray there is, by bicubic."""
    image = Image.fromarray(np.ascontiguousarray(gray))
    return np.asarray(image.resize((BACKBONE_SIZE, BACKBONE_SIZE), Image.Resampling.BICUBIC))


def output_suffix(photo: Photo, suffix: str) -> str:
    """The suffix of a photo's result: its own where its format holds colour, else `.png` (or `.ppm` for PGM)."""
    known = SUFFIXES.get(photo.format)
    if photo.format == "MPO":  # a camera's JPEG with more pictures behind the first
        known = SUFFIXES["JPEG"]
    if known is None:
        return ".png"
    return suffix if suffix.lower() in known else known[0]


def save_photo(image: Image.Image, photo: Photo, path: Path) -> None:
    """Write a result in the format of `path`'s suffix with the photo's EXIF, resolution and XMP.

    The file is written under another name in the same folder, flushed and renamed: the old state or the new.

    Raises:
        PhotoError: the folder is missing or not writable, or the disk is full.
    """
    kind = next(name for name, suffixes in SUFFIXES.items() if path.suffix.lower() in suffixes)
    options: dict[str, Any] = {}
    if kind in {"JPEG", "PNG", "TIFF", "WEBP"} and photo.exif:
        options["exif"] = photo.exif
    if kind in {"JPEG", "PNG", "TIFF", "BMP"} and "dpi" in photo.info:
        options["dpi"] = photo.info["dpi"]
    if kind in {"JPEG", "WEBP"} and isinstance(photo.info.get("xmp"), bytes):
        options["xmp"] = photo.info["xmp"]
    if kind == "JPEG":
        options |= {"quality": JPEG_QUALITY, "subsampling": 0, "optimize": True}
    elif kind == "WEBP":
        options |= {"quality": WEBP_QUALITY, "method": 4}
    elif kind == "TIFF":
        options |= {"compression": "tiff_adobe_deflate"}
    if image.mode == "RGBA" and kind in {"JPEG", "BMP", "PPM"}:
        image = image.convert("RGB")
    handle, temporary = -1, ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".colorize-", suffix=path.suffix, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            image.save(file, kind, **options)
            file.flush()
            os.fsync(file.fileno())
        _allow_reading(temporary)
        Path(temporary).replace(path)
    except OSError as error:
        raise PhotoError(f"{path}: cannot be written ({error.strerror or error}); choose another --output") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _allow_reading(path: str) -> None:
    """Give a temporary file, which only its owner may read, the rights of any new file."""
    mask = os.umask(0)
    os.umask(mask)
    Path(path).chmod(0o666 & ~mask)
