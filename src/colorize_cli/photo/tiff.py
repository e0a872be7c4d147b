"""TIFF files: every page, at full depth, with what their tags say."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from colorize_cli.errors import PhotoError
from colorize_cli.photo import exif, luma
from colorize_cli.photo.metadata import Metadata, of_tiff
from colorize_cli.photo.pillow import check_pixels, opened

REDUCED, MASK = 1, 4  # bits of a page's kind: a preview, a mask of another page
MOST_PAGES = 10_000
MOST_CHANNELS = 16
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED = 0, 1, 2, 3, 5
PREMULTIPLIED, STRAIGHT = 1, 2  # kinds of alpha
NOT_OF_PILLOW = frozenset({50001})  # compressions that it knows by name alone: WebP
STRIP_BYTES = 2**18
SMALL_FILE = 2**32 - 2**26  # beyond this many bytes of pixels a file may outgrow 32-bit offsets
LAYOUTS = (b'{"shape":', b"ImageJ=")  # descriptions that some programs write of how the file is laid out


def read(file: IO[bytes], max_pixels: int) -> tuple[list[luma.Page], Metadata]:
    """Every page of a TIFF file, upright, and the metadata of the first.

    Raises:
        PhotoError: only previews, more than `max_pixels` in all, or of a kind that is not known here.
    """
    content = exif.FileBytes(file)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff, _pillow(file) as image:
        chosen = list(_chosen(tiff, max_pixels))
        first = chosen[0][1]
        order: exif.Order = "<" if tiff.byteorder == "<" else ">"
        top = exif.directory(content, order, first.offset, large=tiff.is_bigtiff)
        pages = []
        for number, page in chosen:
            if image is not None and _shallow(page) and int(page.compression) not in NOT_OF_PILLOW:
                image.seek(number)
                image.load()  # Pillow turns these upright itself
                pages.append(luma.page_of_image(image))
            else:
                tag = page.tags.get(exif.ORIENTATION)
                deep = _deep_page(page).turned(int(tag.value) if tag else 1)
                pages.append(deep.shallow() if _shallow(page) else deep)
        return pages, of_tiff(order, content, top, exif.number(content, top, exif.ORIENTATION) or 1)


def _chosen(tiff: tifffile.TiffFile, max_pixels: int) -> Iterator[tuple[int, tifffile.TiffPage]]:
    """The pages that are pictures of their own, with their numbers."""
    pixels = 0
    seen: set[int] = set()
    for number in range(MOST_PAGES):
        try:
            page = tiff.pages[number]
        except IndexError:
            break
        assert isinstance(page, tifffile.TiffPage)
        if page.offset in seen:  # the last page of a broken file points to an earlier one
            break
        seen.add(page.offset)
        if int(page.subfiletype) & (REDUCED | MASK):
            continue
        size = page.imagewidth * page.imagelength
        if page.size > MOST_CHANNELS * size:
            raise PhotoError("a TIFF of this many channels is not known here; convert it to PNG")
        pixels += size
        check_pixels(pixels, max_pixels)
        yield number, page
    if not pixels:
        raise PhotoError("no picture but previews, as in raw files of cameras; develop it to a TIFF first")


@contextlib.contextmanager
def _pillow(file: IO[bytes]) -> Iterator[Image.Image | None]:
    """The file as Pillow opens it; None where it cannot, as for colour of 16 bits."""
    try:
        image = opened(file)
    except UnidentifiedImageError:
        yield None
        return
    with image:
        yield image


def _shallow(page: tifffile.TiffPage) -> bool:
    return page.bitspersample in {1, 2, 4, 8} and page.sampleformat in {1, 4}


def _deep_page(page: tifffile.TiffPage) -> luma.Page:
    """A page as it lies, from tifffile."""
    pixels = page.asarray()
    axes = page.axes
    if axes == "SYX":
        pixels, axes = np.moveaxis(pixels, 0, -1), "YXS"
    if axes not in {"YX", "YXS"} or pixels.dtype.kind not in "uif":
        raise PhotoError(f"a TIFF of this layout ({axes}, {pixels.dtype}) is not known here; convert it to PNG")
    pixels = pixels.reshape(*pixels.shape[:2], -1)  # (H, W, C)
    photometric = int(page.photometric)
    if photometric == PALETTE and page.colormap is not None:
        pixels = np.asarray(page.colormap)[:, pixels[..., 0]].transpose(1, 2, 0)
        photometric = RGB
    else:
        pixels = luma.scaled(pixels, page.bitspersample if pixels.dtype.kind == "u" else 0)
    colors = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, SEPARATED: 4}.get(photometric, 0)
    if not colors or pixels.shape[2] < colors:
        raise PhotoError(f"a TIFF of this colour model ({photometric}) is not known here; convert it to RGB")
    extra = [int(kind) for kind in page.extrasamples]
    alpha = None
    for channel, kind in enumerate(extra[: pixels.shape[2] - colors], start=colors):
        if kind in {PREMULTIPLIED, STRAIGHT}:
            alpha = np.ascontiguousarray(pixels[..., channel])
            if kind == PREMULTIPLIED:
                pixels = _straight(pixels[..., :colors], alpha)
            break
    pixels = np.ascontiguousarray(pixels[..., 0] if colors == 1 else pixels[..., :colors])
    if photometric == WHITE_IS_ZERO:
        pixels = luma.WHITE - pixels
    space: luma.Space = "gray" if colors == 1 else "rgb" if colors == 3 else "cmyk"
    return luma.page_of_array(pixels, space, page.iccprofile, alpha)


def _straight(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours `(H, W, C)` uint16 that were multiplied by their alpha, as they were before."""
    out = np.empty_like(pixels)
    for rows in luma.strips(pixels.shape):
        share = np.maximum(alpha[rows, :, None], 1).astype(np.float32) / luma.WHITE
        out[rows] = np.rint((pixels[rows] / share).clip(0, luma.WHITE))
    return out


def write(file: IO[bytes], pages: Sequence[np.ndarray], metadata: Metadata, packet: bytes, profile: bytes) -> None:
    """Write pages `(H, W, 3)` or `(H, W, 4)`, uint8 or uint16, the metadata with the first.

    Args:
        file: empty, open for reading and writing.
        packet: XMP, empty for none.
    """
    block = metadata.exif
    top = exif.first_directory(block) if block else exif.Directory("<", 8, 12)
    below = exif.children(block, top) if block else {}
    large = sum(page.nbytes for page in pages) > SMALL_FILE
    tags: list[tuple[int | str, int, int, bytes]] = [
        (number, tag.kind, tag.count, tag.value(block))
        for number, tag in top.tags.items()
        if number not in exif.POINTERS | exif.LAYOUT_TAGS | exif.ELSEWHERE_TAGS
        and not (number == exif.DESCRIPTION and tag.value(block).startswith(LAYOUTS))
    ]
    if packet:
        tags.append((exif.XMP, 1, len(packet), packet))
    if metadata.iptc:
        tags.append((exif.IPTC, 7, len(metadata.iptc), metadata.iptc))
    if metadata.photoshop:
        tags.append((exif.PHOTOSHOP, 7, len(metadata.photoshop), metadata.photoshop))
    pointers = [pointer for pointer in (exif.EXIF_POINTER, exif.GPS_POINTER) if pointer in below and not large]
    # By their names, since by their numbers the library takes no pointers.
    names = {exif.EXIF_POINTER: "ExifTag", exif.GPS_POINTER: "GPSTag"}
    tags += [(names[pointer], 4, 1, bytes(4)) for pointer in pointers]
    scale, unit = (2.54, "CENTIMETER") if metadata.per_centimetre else (1.0, "INCH")
    across, down = metadata.resolution or (0.0, 0.0)
    resolution = (across / scale, down / scale) if metadata.resolution else None
    with tifffile.TiffWriter(file, byteorder=top.order, bigtiff=large) as tiff:
        for number, page in enumerate(pages):
            tiff.write(
                page,
                photometric="rgb",
                planarconfig="contig",
                extrasamples=["unassalpha"] if page.shape[2] == 4 else None,
                compression="adobe_deflate",
                predictor=True,
                rowsperstrip=max(1, STRIP_BYTES // (page.nbytes // page.shape[0])),
                subfiletype=2 if len(pages) > 1 else 0,
                iccprofile=profile,
                resolution=resolution,
                resolutionunit=unit if resolution else None,
                extratags=[(*tag, True) for tag in tags] if number == 0 else (),
                software=False,
                metadata=None,
                contiguous=False,
            )
    for pointer in pointers:
        directory = below[pointer]
        values = {number: (tag.kind, tag.value(block)) for number, tag in directory.tags.items()}
        _hang(file, top.order, pointer, {tag: value for tag, value in values.items() if tag not in exif.POINTERS})


def _hang(file: IO[bytes], order: exif.Order, pointer: int, values: dict[int, tuple[int, bytes]]) -> None:
    """Put a directory behind a TIFF file of 32-bit offsets, and its place into the first directory's `pointer`."""
    end = file.seek(0, 2)
    file.write(bytes(end % 2))
    start = end + end % 2
    file.write(exif.laid_out(order, values, start))
    file.seek(4)
    (top,) = struct.unpack(order + "I", file.read(4))
    file.seek(top)
    (count,) = struct.unpack(order + "H", file.read(2))
    for entry in range(top + 2, top + 2 + 12 * count, 12):
        file.seek(entry)
        if struct.unpack(order + "H", file.read(2)) == (pointer,):
            file.seek(entry + 8)
            file.write(struct.pack(order + "I", start))
    file.seek(0, 2)
