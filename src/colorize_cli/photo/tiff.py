"""TIFF files: every page, at full depth, with what their tags say."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from colorize_cli.errors import PhotoError
from colorize_cli.photo import damage, exif, luma
from colorize_cli.photo.metadata import Metadata, lost_in, of_tiff, packet_orientation
from colorize_cli.photo.pillow import check_pixels, opened

REDUCED, MASK = 1, 4  # bits of a page's kind: a preview, a mask of another page
MOST_PAGES = 10_000
MOST_CHANNELS = 16
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED = 0, 1, 2, 3, 5
COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, SEPARATED: 4}  # channels of each
PREMULTIPLIED, STRAIGHT = 1, 2  # kinds of alpha
ALPHA = frozenset({PREMULTIPLIED, STRAIGHT})
NOT_OF_PILLOW = frozenset({50001})  # compressions that it knows by name alone: WebP
STRIP_BYTES = 2**18
SMALL_FILE = 2**32 - 2**26  # beyond this many bytes of pixels a file may outgrow 32-bit offsets
RATIOS = {5: "I", 10: "i"}  # types of tags whose values are pairs of these
POINTER_NAMES = {exif.EXIF_POINTER: "ExifTag", exif.GPS_POINTER: "GPSTag"}


class Content(NamedTuple):
    """What is in a TIFF file."""

    pages: list[luma.Page]  # upright
    metadata: list[Metadata]  # of each
    damage: str  # what is wrong with the file, but was forgiven
    lost: list[str]  # what is in the file and no picture keeps


def read(file: IO[bytes], max_pixels: int) -> Content:
    """Every page of a TIFF file but previews.

    Raises:
        PhotoError: only previews, more than `max_pixels` in all, or of a kind that is not known here.
    """
    content = exif.FileBytes(file)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff, _pillow(file) as image:
        order: exif.Order = "<" if tiff.byteorder == "<" else ">"
        pages, metadata, wrong = [], [], ""
        lost: set[str] = set()
        for number, page in list(_chosen(tiff, max_pixels, lost)):
            if image is not None and _shallow(page) and int(page.compression) not in NOT_OF_PILLOW:
                image.seek(number)
                image.info["icc_profile"] = page.iccprofile  # where a page has none, Pillow keeps an earlier one's
                image.getexif()[exif.ORIENTATION] = 1  # else it turns the page itself
                image.load()
                lying = luma.page_of_image(image)
                wrong = wrong or damage.of_tiff(page)
            else:
                lying = _deep_page(page)
                lying = lying.shallow() if _shallow(page) else lying
            found = exif.directory(content, order, page.offset, large=tiff.is_bigtiff)
            packet = found.tags[exif.XMP].value(content) if exif.XMP in found.tags else b""
            turn = exif.number(content, found, exif.ORIENTATION) or packet_orientation(packet)
            pages.append(lying.turned(turn))
            metadata.append(of_tiff(content, found, turn))
            lost.update(lost_in(packet))
            if _has_unnamed(page):
                lost.add("its channels beside colour and alpha")
        last = tiff.pages[len(tiff.pages) - 1].offset
        if exif.directory(content, order, last, large=tiff.is_bigtiff).next >= file.seek(0, 2):
            wrong = wrong or "it ends before its last pages"
        return Content(pages, metadata, wrong, sorted(lost))


def _chosen(tiff: tifffile.TiffFile, max_pixels: int, lost: set[str]) -> Iterator[tuple[int, tifffile.TiffPage]]:
    """The pages that are pictures of their own, with their numbers; what others are is added to `lost`."""
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
        if int(page.subfiletype) & MASK:
            lost.add("the masks among its pages")
        if int(page.subfiletype) & (REDUCED | MASK):
            continue
        size = page.imagewidth * page.imagelength
        if page.size > MOST_CHANNELS * size:
            raise PhotoError("a TIFF of this many channels is not known here; convert it to PNG")
        pixels += size
        check_pixels(pixels, max_pixels)
        yield number, page
    if not seen:
        raise PhotoError("damaged: the file ends before it says what is in it; copy it again")
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


def _has_unnamed(page: tifffile.TiffPage) -> bool:
    """Whether a page has more channels than its colours and one that says that it is alpha."""
    colors = COLORS.get(int(page.photometric))
    return colors is not None and page.samplesperpixel > colors + (not ALPHA.isdisjoint(page.extrasamples))


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
    bits = page.bitspersample if pixels.dtype.kind == "u" else 0
    if photometric == PALETTE and page.colormap is not None:
        pixels = np.asarray(page.colormap)[:, pixels[..., 0]].transpose(1, 2, 0)
        photometric, bits = RGB, 16
    colors = COLORS.get(photometric, 0)
    if not colors or pixels.shape[2] < colors:
        raise PhotoError(f"a TIFF of this colour model ({photometric}) is not known here; convert it to RGB")
    kinds = dict(enumerate(map(int, page.extrasamples[: pixels.shape[2] - colors]), start=colors))
    place = next((channel for channel, kind in kinds.items() if kind in ALPHA), None)
    alpha = None
    if place is not None and kinds[place] == PREMULTIPLIED:  # one scale for both
        pixels = luma.scaled(pixels[..., : place + 1], bits, from_nought=True)
        alpha = np.ascontiguousarray(pixels[..., place])
        pixels = _straight(pixels[..., :colors], alpha)
    else:  # what lies beside the colours is on a scale of its own
        if place is not None:
            alpha = luma.scaled(np.ascontiguousarray(pixels[..., place]), bits, from_nought=True)
        pixels = luma.scaled(pixels[..., :colors], bits)
    pixels = np.ascontiguousarray(pixels[..., 0] if colors == 1 else pixels)
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


def write(
    file: IO[bytes], pages: Sequence[np.ndarray], metadata: Sequence[Metadata], packets: Sequence[bytes], profile: bytes
) -> None:
    """Write pages `(H, W, 3)` or `(H, W, 4)`, uint8 or uint16, each with its metadata.

    Args:
        file: empty, open for reading and writing.
        packets: XMP of each page, empty for none.
    """
    large = sum(page.nbytes for page in pages) > SMALL_FILE
    tops = [exif.first_directory(one.exif) if one.exif else None for one in metadata]
    order: exif.Order = next((top.order for top in tops if top is not None), "<")
    both = list(zip(metadata, tops, strict=True))
    resolutions = [_resolution(one, top) for one, top in both]
    below = [exif.trees_below(one.exif, top) if top and not large else {} for one, top in both]
    with tifffile.TiffWriter(file, byteorder=order, bigtiff=large) as tiff:
        for number, page in enumerate(pages):
            resolution, unit = resolutions[number]
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
                resolutionunit=unit,
                # By their names, since by their numbers the library takes no pointers.
                extratags=[
                    *_tags(metadata[number], tops[number], packets[number]),
                    *((POINTER_NAMES[pointer], 4, 1, bytes(4), True) for pointer in below[number]),
                ],
                software=False,
                metadata=None,
                contiguous=False,
            )
    content = exif.FileBytes(file)
    start = exif.first_directory(content).start
    for (resolution, _), lower in zip(resolutions, below, strict=True):
        written = exif.directory(content, order, start, large=large)
        start = written.next
        for pointer, tree in lower.items():
            _hang(file, written, pointer, tree)
        if resolution is None:  # the library says one of its own
            file.seek(written.start)
            shorter = written.without(exif.RESOLUTION, file.read(written.end - written.start))
            file.seek(written.start)
            file.write(shorter)
    file.seek(0, 2)


def _tags(metadata: Metadata, top: exif.Directory | None, packet: bytes) -> list[tuple[int, int, int, Any, bool]]:
    """What a page's directory says of it, as the library takes it, but for its resolution."""
    elsewhere = exif.POINTERS | exif.LAYOUT_TAGS | exif.ELSEWHERE_TAGS | exif.RESOLUTION
    tags: list[tuple[int, int, int, Any, bool]] = []
    if top is not None:
        tags = [
            (number, tag.kind, tag.count, _given(tag.kind, tag.value(metadata.exif), top.order), True)
            for number, tag in top.tags.items()
            if number not in elsewhere
        ]
    if packet:
        tags.append((exif.XMP, 1, len(packet), packet, True))
    if metadata.iptc:
        tags.append((exif.IPTC, 7, len(metadata.iptc), metadata.iptc, True))
    if resources := metadata.photoshop_alone:
        tags.append((exif.PHOTOSHOP, 7, len(resources), resources, True))
    return tags


def _given(kind: int, value: bytes, order: exif.Order) -> bytes | tuple[int, ...]:
    """A tag's value as the library takes it: bytes, but of ratios, whose bytes it counts as twice as many."""
    sign = RATIOS.get(kind)
    return value if sign is None else struct.unpack(f"{order}{len(value) // 4}{sign}", value)


def _resolution(metadata: Metadata, top: exif.Directory | None) -> tuple[tuple[Any, Any] | None, int | None]:
    """A page's resolution across and down, and its unit, as the library takes them."""
    if metadata.aspect:
        return metadata.aspect, exif.NO_UNIT
    if metadata.resolution:
        scale, unit = (2.54, exif.CENTIMETRE) if metadata.per_centimetre else (1.0, exif.INCH)
        across, down = metadata.resolution
        return (across / scale, down / scale), unit
    said = exif.ratios(metadata.exif, top) if top is not None else None
    if top is None or said is None:
        return None, None
    unit = exif.number(metadata.exif, top, exif.UNIT) or exif.INCH
    return said, unit if unit in {exif.INCH, exif.CENTIMETRE} else exif.NO_UNIT


def _hang(file: IO[bytes], written: exif.Directory, pointer: int, tree: exif.Tree) -> None:
    """Put a directory behind a TIFF file of 32-bit offsets, and its place into a page's `pointer`."""
    end = file.seek(0, 2)
    file.write(bytes(end % 2))
    start = end + end % 2
    file.write(exif.tree_laid_out(written.order, tree, start))
    file.seek(written.tags[pointer].start)
    file.write(struct.pack(written.order + "I", start))
