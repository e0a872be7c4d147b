"""From a file to a `Photo`: which reader takes it, what may go wrong, and what is said then."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from colorize_cli import xmp
from colorize_cli.config import DEFAULT_MAX_PIXELS
from colorize_cli.errors import LimitError, PhotoError, no_such_file
from colorize_cli.photo import damage, exif, jp2, luma
from colorize_cli.photo import metadata as meta
from colorize_cli.photo.metadata import Metadata
from colorize_cli.photo.pillow import check_pixels, opened

# What broken files and tags make the readers raise.
READER_ERRORS = (
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
    AssertionError,
)
TIFF_MARKS = frozenset({b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"})
NETPBM = re.compile(rb"P([56])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
ANIMATION_FRAME = 16  # bytes of a WebP's frame before its own chunks
NONSENSE = (TypeError, ArithmeticError, LookupError, AttributeError)  # what readers say then helps nobody
TURNED = frozenset({"AVIF", "HEIF"})
BYTES_A_PIXEL = 16  # more than any format here needs: a file that is longer than its pixels allow is no photo


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo's luma, and what its result is saved with."""

    pages: tuple[luma.Page, ...]  # upright; one, except in TIFF files of several
    format: str = "PNG"  # Pillow's name of the input's format
    metadata: Metadata = field(default_factory=Metadata)  # of the first page
    further: tuple[Metadata, ...] = ()  # of the pages behind it
    lossless: bool = True  # whether the format kept its pixels exactly
    name: str = ""  # of the file, without its folder
    sha256: str = ""  # of the file
    damage: str = ""  # what is wrong with the file that its reader forgave, in the reader's words
    lost: tuple[str, ...] = ()  # what of the file no picture keeps

    @property
    def luma(self) -> np.ndarray:
        """The first page's, `(H, W)` uint8 or uint16."""
        return self.pages[0].luma

    @property
    def alpha(self) -> np.ndarray | None:
        """The first page's, of the luma's shape and kind."""
        return self.pages[0].alpha

    @property
    def page_metadata(self) -> list[Metadata]:
        """That of every page."""
        known = [self.metadata, *self.further]
        return known + [Metadata()] * (len(self.pages) - len(known))

    @property
    def has_color(self) -> bool:
        """Whether any page is in colour itself."""
        return any(page.has_color for page in self.pages)


def open_photo(
    source: str | Path | bytes | Image.Image, *, name: str = "", max_pixels: int = DEFAULT_MAX_PIXELS
) -> Photo:
    """Read a photo whole: all pages, at full depth, upright.

    Args:
        source: a path, a file's bytes, or an open Pillow image (which stays as it is).
        name: what to call bytes or an image in errors and in the picture's provenance.
        max_pixels: refuse a photo of more, in all its pages.

    Raises:
        PhotoError: missing, unreadable, no photo, damaged, or too large to be one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # readers warn of odd metadata and of large photos
        if isinstance(source, Image.Image):
            with _explained(name or "the image given"):
                check_pixels(source.width * source.height, max_pixels)
                return _of_image(source, b"", name)
        if isinstance(source, bytes):
            with _explained(name or "the bytes given"):
                return _of_file(io.BytesIO(source), Path(name).name, max_pixels)
        path = Path(source)
        with _explained(str(path)):
            _check_file(path.stat(), max_pixels)
            # Not by name: Pillow maps a named raw TIFF into memory, and mistakes the sides of one that lies down.
            with path.open("rb") as file:
                return _of_file(file, path.name, max_pixels)


def _check_file(state: os.stat_result, max_pixels: int) -> None:
    if stat.S_ISDIR(state.st_mode):
        raise PhotoError("this is a folder, not a photo; name a file in it")
    if not stat.S_ISREG(state.st_mode):
        raise PhotoError("this is no regular file; copy the photo into one")
    if state.st_size == 0:
        raise PhotoError("the file is empty; copy it again from where it came")
    if state.st_size > BYTES_A_PIXEL * max_pixels + 2**26:
        raise LimitError(f"{state.st_size:,} bytes are no photo; allow larger ones with --max-pixels")


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever reading `name` raises into a `PhotoError` of one line with the next step."""
    try:
        yield
    except PhotoError as error:
        raise type(error)(f"{name}: {error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PhotoError(no_such_file(name)) from error
    except PermissionError as error:
        raise PhotoError(f"{name}: no permission to read it; change the file's rights or copy it") from error
    except Image.DecompressionBombError as error:  # of a picture within the file
        raise PhotoError(f"{name}: damaged, or many more pixels than a photo has; convert it to PNG") from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"{name}: not a photo in any format known here; convert it to PNG or JPEG") from error
    except READER_ERRORS as error:
        known = error.strerror if isinstance(error, OSError) else None
        said = "its parts do not fit together" if isinstance(error, NONSENSE) else str(error).strip()
        reason = (known or said or type(error).__name__).splitlines()[0]
        raise PhotoError(f"{name}: damaged or unsupported ({reason}); copy it again or convert it") from error


def _of_file(file: io.BytesIO | io.BufferedReader, name: str, max_pixels: int) -> Photo:
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    if file.read(4) in TIFF_MARKS:
        from colorize_cli.photo import tiff  # not sooner: its library takes its time

        found = tiff.read(file, max_pixels)
        first, *further = found.metadata
        return Photo(
            tuple(found.pages),
            "TIFF",
            first,
            tuple(further),
            name=name,
            sha256=sha256,
            damage=found.damage,
            lost=tuple(found.lost),
        )
    file.seek(0)
    content = file.read()
    with _opened(content, max_pixels) as image:
        return _of_image(image, content, name, sha256)


@contextlib.contextmanager
def _opened(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Pillow's image of a file, whose pixels are not decoded yet."""
    if xmp.is_heic(content[:12]):
        try:
            xmp.teach_heic()
        except ImportError as error:
            raise PhotoError("HEIC needs another package: pip install pillow-heif") from error
    try:
        image = opened(io.BytesIO(content))
    except UnidentifiedImageError as error:
        if content.startswith(b"\xff\xd8\xff"):
            raise PhotoError(
                "damaged, or a JPEG of 12 or 16 bits, which is not known here; convert it to PNG"
            ) from error
        if content.startswith(b"8BPS"):
            raise PhotoError("a PSD of this kind is not known here, 8 bits a channel are; save it as TIFF") from error
        raise
    with image:
        check_pixels(image.width * image.height, max_pixels)
        yield image


def _of_image(image: Image.Image, content: bytes, name: str, sha256: str = "") -> Photo:
    kind, mode = image.format or "PNG", image.mode
    page = _deep_page(image, content)
    if page is None:
        image.load()
        _scale_key(image, content)
        page = luma.page_of_image(image)
    metadata = meta.of_image(image, content)
    # The formats of TURNED say it themselves, and their readers put that into EXIF: XMP's counts for nothing there.
    turn = (exif.orientation(meta.pillows_exif(image)) or 1) if kind in TURNED else metadata.orientation
    page = page.turned(turn)
    lossy = kind in {"JPEG", "MPO", "AVIF", "HEIF"} or (kind == "WEBP" and not _lossless_webp(content))
    upright, lost = metadata.upright(turn), tuple(meta.lost_in(metadata.xmp))
    wrong = damage.of_jpeg(content, mode) if content and kind in {"JPEG", "MPO"} else ""
    return Photo((page,), kind, upright, lossless=not lossy, name=name, sha256=sha256, damage=wrong, lost=lost)


def _scale_key(image: Image.Image, content: bytes) -> None:
    """The transparent level of a PNG of 2 or 4 bits as Pillow's of 8: it scales the pixels alone."""
    key, bits = image.info.get("transparency"), content[24:25]
    if image.format == "PNG" and image.mode == "L" and isinstance(key, int) and bits in {b"\2", b"\4"}:
        image.info["transparency"] = key * 255 // (2 ** bits[0] - 1)


def _lossless_webp(content: bytes) -> bool:
    """Whether a WebP's first frame is; among several it lies within a chunk."""
    position = 12
    while position + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, position)
        if kind in {b"VP8L", b"VP8 "}:
            return bool(kind == b"VP8L")
        position += 8 + (ANIMATION_FRAME if kind == b"ANMF" else size + size % 2)
    return False


def _deep_page(image: Image.Image, content: bytes) -> luma.Page | None:
    """The page of a file that Pillow would spoil, as it lies: most of more than 8 bits a channel. None for others."""
    if image.format == "PNG" and content[24:25] == b"\x10":
        return _deep_png(content, image.info.get("icc_profile"))
    if image.format == "JPEG2000" and not jp2.pillow_reads_well(content):
        return jp2.read(content)
    if image.format == "PPM" and (header := NETPBM.match(content)):
        kind, width, height, white = (int(part) for part in header.groups())
        if white > 255:
            channels = 3 if kind == 6 else 1
            values = np.frombuffer(content, ">u2", width * height * channels, header.end())
            pixels = np.empty((height, width, channels), dtype=np.uint16)
            shaped = values.reshape(pixels.shape)
            for rows in luma.strips(pixels.shape):
                pixels[rows] = np.rint(shaped[rows].clip(0, white) * np.float64(luma.WHITE / white))
            return luma.page_of_array(pixels[..., 0] if kind == 5 else pixels, "gray" if kind == 5 else "rgb", None)
    return None


def _deep_png(content: bytes, profile: bytes | None) -> luma.Page:
    import imagecodecs

    pixels = np.asarray(imagecodecs.png_decode(content))
    channels = pixels.reshape(*pixels.shape[:2], -1)
    count = channels.shape[2]
    alpha = np.ascontiguousarray(channels[..., -1]) if count in {2, 4} else None
    colors = channels[..., 0] if count < 3 else channels[..., :3]
    return luma.page_of_array(np.ascontiguousarray(colors), "gray" if count < 3 else "rgb", profile, alpha)
