"""Everything Pillow: open a photo, orient it, take its luma, set aside what is not colour, save atomically.

Eight bits a channel; the first frame or page of a file. Deeper files are read at eight bits.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from colorize_cli.config import BACKBONE_SIZE, CORE_SIZE, FULL_SIZE
from colorize_cli.errors import PhotoError

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
# What turns a photo upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# TIFF tags that describe the file's own layout, not the photo: of no use to another file. Resolution goes by `dpi`.
LAYOUT_TAGS = frozenset(
    {*range(254, 260), 262, 263, 266, 273, *range(275, 285), *range(288, 292), 296, 297, 301}
    | {*range(317, 326), *range(330, 348), *range(512, 533), 34675}
)
XMP_TAG = 700  # travels by itself, since only TIFF keeps it among its tags
# What Photoshop puts into a TIFF for itself: layers and a preview, both without the new colour.
PHOTOSHOP_TAGS = frozenset({34377, 37724})
# What broken files and tags make Pillow raise.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
)


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo's luma, and what its result is saved with."""

    luma: np.ndarray  # (H, W) uint8, 0..255, BT.601, orientation applied
    alpha: np.ndarray | None = None  # (H, W) uint8
    format: str = "PNG"  # Pillow's name of the input's format
    exif: bytes = b""  # orientation reset, no thumbnail
    info: dict[str, Any] = field(default_factory=dict)  # dpi, xmp, comment


def open_photo(source: str | Path | Image.Image) -> Photo:
    """Read a photo whole.

    Args:
        source: a path, or an open Pillow image (which stays as it is).

    Raises:
        PhotoError: missing, unreadable, no photo, truncated, or too large to be one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of large photos
        if isinstance(source, Image.Image):
            with _explained("the image given"):
                return _take(source)
        path = Path(source)
        with _explained(str(path)):
            if path.is_dir():
                raise PhotoError(f"{path}: this is a folder, not a photo; name a file in it")
            if path.stat().st_size == 0:
                raise PhotoError(f"{path}: the file is empty; copy it again from where it came")
            # Not by name: Pillow maps a named raw TIFF into memory, and mistakes the sides of one that lies down.
            with path.open("rb") as file, Image.open(file) as image:
                return _take(image)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever reading `name` raises into a `PhotoError` of one line with the next step."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PhotoError(f"{name}: no such file; check the name") from error
    except PermissionError as error:
        raise PhotoError(f"{name}: no permission to read it; change the file's rights or copy it") from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"{name}: not a photo in any format known here; convert it to PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # beyond this Pillow takes it for an attack
        raise PhotoError(f"{name}: more than {most:,} pixels; shrink it first") from error
    except PILLOW_ERRORS as error:
        known = error.strerror if isinstance(error, OSError) else None
        reason = (known or str(error).strip() or type(error).__name__).splitlines()[0]
        raise PhotoError(f"{name}: damaged or unsupported ({reason}); copy it again or convert it") from error


def _take(image: Image.Image) -> Photo:
    image.load()
    exif = _own_exif(image)
    luma, alpha = _luma_and_alpha(image)
    orientation = exif.get(ExifTags.Base.Orientation)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is not None:
        luma = luma.transpose(turn)
        alpha = alpha and alpha.transpose(turn)
    return Photo(
        luma=np.asarray(luma),
        alpha=None if alpha is None else np.asarray(alpha),
        format=image.format or "PNG",
        exif=_kept_exif(exif),
        info=_kept_info(image.info, lies_down=orientation in {5, 6, 7, 8}),
    )


def _own_exif(image: Image.Image) -> Image.Exif:
    """A copy of the image's EXIF, which Pillow would else share with the caller; what cannot be read is left out."""
    copy = Image.Exif()
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation)
        if orientation is not None:
            copy[ExifTags.Base.Orientation] = orientation
        content = exif.tobytes()
    except PILLOW_ERRORS:
        return copy
    copy.load(content)
    return copy


def _kept_exif(exif: Image.Exif) -> bytes:
    """The tags that stay true of the result: all but the layout of the file and the orientation."""
    for tag in LAYOUT_TAGS | PHOTOSHOP_TAGS | {XMP_TAG, ExifTags.Base.Orientation}:
        exif.pop(tag, None)
    if not exif:
        return b""
    exif[ExifTags.Base.Orientation] = 1
    return exif.tobytes()


def _kept_info(info: dict[str | tuple[int, int], Any], lies_down: bool) -> dict[str, Any]:
    """Resolution, XMP and comment, as they are true of the upright photo."""
    kept: dict[str, Any] = {}
    with contextlib.suppress(*PILLOW_ERRORS):
        across, down = (float(value) for value in info["dpi"])
        if 1 <= across <= 65535 and 1 <= down <= 65535:  # also false for what is no number
            kept["dpi"] = (down, across) if lies_down else (across, down)
    if isinstance(info.get("xmp"), bytes):
        kept["xmp"] = re.sub(rb"(tiff:Orientation(?:=[\"']|>))[2-8]", rb"\g<1>1", info["xmp"])
    if isinstance(info.get("comment"), bytes):
        kept["comment"] = info["comment"]
    return kept


def _luma_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Mode "L" pictures of a loaded image's luma and alpha, before any turning."""
    profile = image.info.get("icc_profile")
    alpha = None
    is_gray = image.mode in {"1", "L", "LA", "La"}
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        key = image.info.get("transparency")
        if isinstance(key, int):
            alpha = Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
        image, is_gray = Image.fromarray(_shrink_depth(image)), True
    elif image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode != "CMYK":
        image = image.convert("L" if is_gray else "RGB")
    if profile:
        image = _to_srgb(image, profile)
    return image.convert("L"), alpha


def _shrink_depth(image: Image.Image) -> np.ndarray:
    """A deep gray image `(H, W)` as uint8: 16 bits by their upper byte, others by the range they seem to mean."""
    values: np.ndarray = np.asarray(image)
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        deepest = 4095 if tags.get(ExifTags.Base.BitsPerSample) in {12, (12,)} else 65535
        levels = np.rint(np.arange(65536).clip(0, deepest) * (255 / deepest)).astype(np.uint8)
        if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is nought; Pillow leaves deep ones so
            levels = 255 - levels
        return np.asarray(levels[values])
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((white for white in whites if high <= white), 0.0) if low >= 0 else 0.0
    if not white:  # no usual range: its own, from black to white
        values, white = values - np.float64(low), high - low
    scaled = np.nan_to_num(values * np.float64(255 / (white or 1.0)))
    return np.asarray(np.rint(scaled.clip(0, 255)).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Pixels converted from `profile`; as they are where the profile is broken or of another kind."""
    # Gray has few levels: they alone are converted, without the shortcuts that cost a dark gray several levels.
    is_gray = image.mode == "L"
    pixels = Image.fromarray(np.arange(256, dtype=np.uint8)[None]) if is_gray else image
    flags = ImageCms.Flags.NOOPTIMIZE if is_gray else ImageCms.Flags.NONE
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}.get(source.profile.xcolor_space)
        if space != image.mode:
            return image
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(pixels, source, target, outputMode="RGB", flags=flags)
    except (ImageCms.PyCMSError, *PILLOW_ERRORS):
        return image
    assert converted is not None
    return image.point(list(converted.convert("L").tobytes())) if is_gray else converted


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
    """Write a result in the format of `path`'s suffix with the photo's EXIF, resolution, XMP and comment.

    The file is written under another name in the same folder, flushed and renamed: the old state or the new.

    Args:
        image: RGB, or RGBA; the alpha is dropped where the format holds none. sRGB, written without a profile.
        photo: what `open_photo` gave of the input.
        path: one of the suffixes in `SUFFIXES`; `output_suffix` gives the photo's own.

    Raises:
        PhotoError: the suffix is unknown, the folder is missing or not writable, or the disk is full.
    """
    kind = next((name for name, suffixes in SUFFIXES.items() if path.suffix.lower() in suffixes), None)
    if kind is None:
        known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
        raise PhotoError(f"{path}: no format to write by that suffix; use one of {known}")
    if image.mode == "RGBA" and kind in {"JPEG", "BMP", "PPM"}:
        image = image.convert("RGB")
    # Opened like any new file, so that it gets a new file's rights, which a tempfile does not.
    temporary = path.with_name(f".colorize-{secrets.token_hex(8)}{path.suffix}")
    try:
        with temporary.open("xb") as file:
            _encode(image, photo, file, kind)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except PILLOW_ERRORS as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise PhotoError(f"{path}: cannot be written ({reason}); choose another --output") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _encode(image: Image.Image, photo: Photo, file: IO[bytes], kind: str) -> None:
    """Write `image` with all that `photo` set aside, or without it where the format's writer refuses it."""
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options = {
            "quality": JPEG_QUALITY,
            "subsampling": 0,
        }  # no "optimize": Pillow cannot write noise with it
    elif kind == "WEBP":
        options = {"quality": WEBP_QUALITY, "method": 4}
    elif kind == "TIFF":
        options = {"compression": "tiff_adobe_deflate"}
    try:
        image.save(file, kind, **options | _metadata(photo, kind))
    except OSError:
        raise
    except PILLOW_ERRORS:  # too long, or of a type that cannot be written: the picture matters more
        file.seek(0)
        file.truncate()
        image.save(file, kind, **options)


def _metadata(photo: Photo, kind: str) -> dict[str, Any]:
    """What was set aside, as Pillow's options for saving in format `kind`."""
    options: dict[str, Any] = {}
    xmp = photo.info.get("xmp")
    if kind in {"JPEG", "PNG", "TIFF", "WEBP"} and photo.exif:
        options["exif"] = photo.exif
    if kind in {"JPEG", "PNG", "TIFF", "BMP"} and "dpi" in photo.info:
        options["dpi"] = photo.info["dpi"]
    if kind == "JPEG" and "comment" in photo.info:
        options["comment"] = photo.info["comment"]
    if kind in {"JPEG", "WEBP"} and xmp:
        options["xmp"] = xmp
    if kind == "PNG" and xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    if kind == "TIFF":
        exif = Image.Exif()
        exif.load(photo.exif)
        if xmp:
            exif[XMP_TAG] = xmp
        if exif:
            options["exif"] = exif.tobytes()
        if ExifTags.IFD.Exif in exif or ExifTags.IFD.GPSInfo in exif:
            options["compression"] = "raw"  # Pillow's compressed TIFFs cannot hold EXIF's own directories
    return options
