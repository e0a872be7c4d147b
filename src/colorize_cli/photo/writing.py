"""From colours to a file: which format, what it can hold, and never half a file."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from colorize_cli import xmp
from colorize_cli.atomic import replacing
from colorize_cli.config import JPEG_LONGEST, OutputOptions
from colorize_cli.errors import PassingError, PhotoError, is_shortage, shortage
from colorize_cli.photo import exif, jp2, luma
from colorize_cli.photo import metadata as meta
from colorize_cli.photo.metadata import Metadata
from colorize_cli.photo.reading import READER_ERRORS, Photo
from colorize_cli.provenance import RECORD, Provenance

Parts = Sequence[bytes | memoryview]  # of a file, one behind the other: together they would be there twice

JPEG_QUALITY = 95
WEBP_QUALITY = 95
AVIF_QUALITY = 90
HEIC_QUALITY = 90
JFIF_HEADER = b"JFIF\0\1\1"  # as Pillow writes it; unit and densities follow
PNG_HEADER = 33  # bytes until its other chunks may begin
# Behind the filter "up" (32), the quick level costs a tenth of the size of the slow one, in a tenth of the time. What
# runs of equal bytes leave of 16 bits is grain, for which looking further costs twice the time for another tenth.
PNG_COMPRESSION = {1: {"level": 1, "filter": 32}, 2: {"level": 1, "filter": 32, "strategy": 3}}  # by bytes a channel


@dataclass(frozen=True)
class Format:
    """What a kind of file can hold."""

    suffixes: tuple[str, ...]
    others: tuple[str, ...] = ()  # of photos alone: their pictures have the first of the above
    deep: bool = False  # 16 bits a channel
    alpha: bool = True
    xmp: bool = True
    iptc: bool = True
    dots_in_exif: bool = False  # whether nothing else in it says the dots an inch
    pages: bool = False
    longest: int = 2**31  # pixels a side


# By Pillow's name; photos of other formats become PNG.
FORMATS: dict[str, Format] = {
    "JPEG": Format((".jpg", ".jpeg", ".jpe", ".jfif"), alpha=False, others=(".mpo",), longest=JPEG_LONGEST),
    "PNG": Format((".png",), deep=True),
    "TIFF": Format((".tif", ".tiff"), deep=True, pages=True),
    "WEBP": Format((".webp",), longest=16_383, iptc=False, dots_in_exif=True),
    "AVIF": Format((".avif", ".avifs"), longest=32_768, iptc=False, dots_in_exif=True),
    "HEIF": Format((".heic", ".heif"), others=(".hif",), longest=16_384, iptc=False, dots_in_exif=True),
    "JPEG2000": Format((".jp2",), others=(".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), deep=True, dots_in_exif=True),
    "BMP": Format((".bmp",), others=(".dib",), alpha=False, xmp=False, iptc=False),
    "PPM": Format((".ppm", ".pnm"), others=(".pgm", ".pbm", ".pfm"), deep=True, alpha=False, xmp=False, iptc=False),
}


def output_suffix(photo: Photo, suffix: str, options: OutputOptions | None = None) -> str:
    """The suffix of a photo's result.

    Its own, `suffix`, where its format holds colour, else `.png` (or `.ppm` for PGM); or the one that
    `options.format` asks for.

    Raises:
        PhotoError: the photo has several pages and the format asked for has one.
    """
    wanted = options.format if options is not None else None
    if wanted is not None and len(photo.pages) > 1 and not FORMATS[_kind(f".{wanted}")].pages:
        raise PhotoError(f"{len(photo.pages)} pages do not fit into one {wanted} file; use --format tiff")
    kind = {"MPO": "JPEG"}.get(photo.format, photo.format)  # a camera's JPEG with more pictures behind the first
    return _suffix(kind, suffix, wanted)


def likely_suffix(suffix: str, wanted: str | None) -> str:
    """The `output_suffix` of a photo that is in the format that its own suffix says."""
    return _suffix(_kind(suffix), suffix, wanted)


def _suffix(kind: str, suffix: str, wanted: str | None) -> str:
    if wanted is not None:
        return suffix if suffix.lower() in FORMATS[_kind(f".{wanted}")].suffixes else f".{wanted.lower()}"
    known = FORMATS.get(kind, FORMATS["PNG"])
    return suffix if suffix.lower() in known.suffixes else known.suffixes[0]


def _kind(suffix: str) -> str:
    """The format, by Pillow's name, of photos of a suffix; nothing that is one for all others."""
    suffix = suffix.lower()
    return next((kind for kind, known in FORMATS.items() if suffix in (*known.suffixes, *known.others)), "")


def format_of(path: Path) -> str:
    """Pillow's name of the format that a suffix stands for. Raises PhotoError for one that cannot be written."""
    for kind, known in FORMATS.items():
        if path.suffix.lower() in known.suffixes:
            return kind
    suffixes = ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes)
    raise PhotoError(f"{path}: no format to write by that suffix; use one of {suffixes}")


def check_size(kind: str, longest: int) -> None:
    """Raises `PhotoError` where a format, by Pillow's name, does not hold so many pixels a side."""
    if longest > FORMATS[kind].longest:
        raise PhotoError(f"{kind} holds {FORMATS[kind].longest:,} pixels a side at most; use --format png")


def save_photo(
    pages: Sequence[np.ndarray],
    photo: Photo,
    path: Path,
    options: OutputOptions | None = None,
    provenance: Provenance | None = None,
) -> list[str]:
    """Write a result in the format of `path`'s suffix, with the photo's alpha and metadata and the sRGB profile.

    At every moment there is the old file or the new, never half of one.

    Args:
        pages: `(H, W, 3)` uint8 or uint16 sRGB, one a page of the photo; of any size. Sixteen bits become eight
            where the format holds no more; alpha goes where it holds none, or where the size is another.
        photo: what `open_photo` gave of the input.
        path: one of the suffixes in `FORMATS`; `output_suffix` gives the photo's own.
        options: quality, and what to leave out.
        provenance: what made the picture; left out if `options` say so.

    Returns:
        What the format could not hold, in sentences for people.

    Raises:
        PhotoError: the suffix is unknown, the picture too large for the format, the folder is missing or not
            writable, or the disk is full.
    """
    kind = format_of(path)
    options = options or OutputOptions()
    notes: list[str] = []
    try:
        with replacing(path) as file:
            notes = write_photo(file, kind, pages, photo, options, provenance)
    except READER_ERRORS as error:
        if is_shortage(error):
            raise PassingError(f"{path}: {shortage(error)}") from error
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise PhotoError(f"{path}: cannot be written ({reason}); choose another --output") from error
    return notes


def write_photo(
    file: IO[bytes],
    kind: str,
    pages: Sequence[np.ndarray],
    photo: Photo,
    options: OutputOptions,
    provenance: Provenance | None = None,
) -> list[str]:
    """As `save_photo`, into an open empty file that can be read and sought, in the format of that Pillow name."""
    known = FORMATS[kind]
    check_size(kind, max(max(page.shape[:2]) for page in pages))
    metadata, *further = [
        each.stripped() if options.strip_metadata else each.sized(page.shape[1], page.shape[0])
        for each, page in zip(photo.page_metadata, pages, strict=True)
    ]
    provenance = provenance if options.provenance else None
    if metadata.resolution and not metadata.exif and known.dots_in_exif and not options.strip_metadata:
        metadata = replace(metadata, exif=exif.of_resolution(*metadata.resolution))
    packet = _packet(metadata, provenance)
    notes = []
    if kind == "JPEG":
        if len(packet) > meta.LONGEST_SEGMENT - len(xmp.JPEG_HEADER):
            notes.append("a JPEG holds 65,504 bytes of XMP: longer XMP is left out")
            packet = b"" if provenance is None else provenance.to_xmp()
        if len(metadata.exif) > meta.LONGEST_SEGMENT - len(meta.EXIF_HEADER):
            notes.append("a JPEG holds 65,527 bytes of EXIF: longer EXIF is left out")
    if packet and not known.xmp:
        notes.append(f"{kind} holds no XMP: nothing in the file says that a model made its colours")
    if metadata.iptc and not known.iptc:
        notes.append(f"{kind} holds no IPTC: the photo's is left out")
    if not known.deep and any(page.dtype != np.uint8 for page in pages):
        notes.append(f"{kind} holds 8 bits a channel: the photo's 16 are rounded")
        pages = [luma.to_8_bits(page) for page in pages]
    if known.alpha:
        pages = [_with_alpha(page, source.alpha) for page, source in zip(pages, photo.pages, strict=True)]
    elif photo.alpha is not None:
        notes.append(f"{kind} holds no transparency: the photo's is left out")
    if kind == "TIFF":
        from colorize_cli.photo import tiff

        packets = [packet, *(_packet(each, None) for each in further)]
        tiff.write(file, pages, [metadata, *further], packets, luma.SRGB)
    else:
        lossless = photo.lossless and options.quality is None
        for part in _ENCODERS[kind](pages[0], metadata, packet, options.quality, lossless):
            file.write(part)
    return notes


def _packet(metadata: Metadata, provenance: Provenance | None) -> bytes:
    if provenance is not None:
        return provenance.to_xmp(metadata.xmp or None)
    if metadata.xmp and xmp.property_text(metadata.xmp, RECORD) is not None:  # of the picture that was the photo
        return xmp.edited(metadata.xmp, drop={RECORD}, add={}, prefixes={})
    return metadata.xmp


def _with_alpha(page: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    if alpha is None or alpha.shape != page.shape[:2]:
        return page
    alpha = luma.to_8_bits(alpha) if page.dtype == np.uint8 else alpha
    return np.dstack([page, alpha])


def _jpeg(page: np.ndarray, metadata: Metadata, packet: bytes, quality: int | None, lossless: bool) -> Parts:
    # No "optimize": Pillow cannot write noise with it.
    extra = meta.jpeg_segments(metadata, packet, luma.SRGB)
    options: dict[str, Any] = {"quality": quality or JPEG_QUALITY, "subsampling": 0, "extra": extra}
    if metadata.resolution:
        options["dpi"] = metadata.resolution
    content = _pillow(page, "JPEG", options)
    density = None
    if metadata.aspect:
        density = (0, *metadata.aspect)
    elif metadata.resolution and metadata.per_centimetre:
        across, down = (value / 2.54 for value in metadata.resolution)
        if max(abs(across - round(across)), abs(down - round(down))) < 1e-3:  # else inches may be nearer
            density = (2, round(across), round(down))
    if density:
        head, header, rest = content.partition(JFIF_HEADER)
        content = head + header + struct.pack(">BHH", *density) + rest[5:]
    return [content]


def _png(page: np.ndarray, metadata: Metadata, packet: bytes, quality: int | None, lossless: bool) -> Parts:
    import imagecodecs

    if page.shape[1] == 1:
        page = page.copy()  # a turned picture of one column has strides that the encoder does not take
    content = memoryview(imagecodecs.png_encode(page, **PNG_COMPRESSION[page.itemsize]))
    return [content[:PNG_HEADER], meta.png_metadata(metadata, packet, luma.SRGB), content[PNG_HEADER:]]


def _webp(page: np.ndarray, metadata: Metadata, packet: bytes, quality: int | None, lossless: bool) -> Parts:
    options: dict[str, Any] = {"quality": quality or WEBP_QUALITY, "method": 4, "use_sharp_yuv": True}
    if lossless:
        options = {"lossless": True, "quality": 50, "method": 2, "exact": True}
    return [_pillow(page, "WEBP", options | _usual(metadata, packet))]


def _avif(page: np.ndarray, metadata: Metadata, packet: bytes, quality: int | None, lossless: bool) -> Parts:
    options: dict[str, Any] = {"quality": quality or AVIF_QUALITY, "subsampling": "4:4:4", "speed": 6}
    # Pillow writes EXIF that names an orientation anew, and loses what it cannot spell.
    metadata = replace(metadata, exif=exif.without_orientation(metadata.exif))
    return [_pillow(page, "AVIF", options | _usual(metadata, packet))]


def _heif(page: np.ndarray, metadata: Metadata, packet: bytes, quality: int | None, lossless: bool) -> Parts:
    try:
        import pillow_heif
    except ImportError as error:
        raise PhotoError("HEIC needs another package: pip install pillow-heif") from error
    file = io.BytesIO()
    mode, size = "RGBA" if page.shape[2] == 4 else "RGB", (page.shape[1], page.shape[0])
    options = {"quality": quality or HEIC_QUALITY, "chroma": 444, **_usual(metadata, packet)}
    pillow_heif.encode(mode, size, page.tobytes(), file, **options)
    return [file.getvalue()]


def _jp2(page: np.ndarray, metadata: Metadata, packet: bytes, quality: int | None, lossless: bool) -> Parts:
    return [jp2.encoded(page, metadata.exif, packet, metadata.iptc)]


def _bmp(page: np.ndarray, metadata: Metadata, packet: bytes, quality: int | None, lossless: bool) -> Parts:
    return [_pillow(page, "BMP", {"dpi": metadata.resolution} if metadata.resolution else {})]


def _ppm(page: np.ndarray, metadata: Metadata, packet: bytes, quality: int | None, lossless: bool) -> Parts:
    header = f"P6\n{page.shape[1]} {page.shape[0]}\n{np.iinfo(page.dtype).max}\n".encode()
    return [header, np.ascontiguousarray(page.astype(page.dtype.newbyteorder(">"), copy=False)).view(np.uint8).data]


def _usual(metadata: Metadata, packet: bytes) -> dict[str, Any]:
    """Metadata as the options by which most of Pillow's writers take it."""
    options: dict[str, Any] = {"icc_profile": luma.SRGB}
    if metadata.exif:
        options["exif"] = b"Exif\0\0" + metadata.exif
    if packet:
        options["xmp"] = packet
    return options


def _pillow(page: np.ndarray, kind: str, options: dict[str, Any]) -> bytes:
    """Encoded in memory, since Pillow does not say why a file could not be written."""
    file = io.BytesIO()
    Image.fromarray(page).save(file, kind, **options)
    return file.getvalue()


_ENCODERS: dict[str, Callable[[np.ndarray, Metadata, bytes, int | None, bool], Parts]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "AVIF": _avif,
    "HEIF": _heif,
    "JPEG2000": _jp2,
    "BMP": _bmp,
    "PPM": _ppm,
}
