"""JPEG 2000 files: pixels of more or fewer than 8 bits, and the boxes that hold metadata."""

from __future__ import annotations

import struct

import numpy as np

from colorize_cli import xmp
from colorize_cli.errors import PhotoError
from colorize_cli.photo import luma

EXIF_UUID = b"JpgTiffExif->JP2"
IPTC_UUID = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")


def bits(content: bytes) -> int:
    """How many bits the first channel has; 8 where that cannot be found."""
    start = content.find(b"\xff\x4f\xff\x51")
    return (content[start + 42] & 0x7F) + 1 if 0 <= start < len(content) - 42 else 8


def pillow_reads_well(content: bytes) -> bool:
    """Whether a file is of 8 bits, or of indices into a palette of them: fewer bits Pillow takes for dark ones."""
    return bits(content) == 8 or any(
        True for header in xmp.jp2_boxes(content, b"jp2h") for _ in xmp.jp2_boxes(header, b"pclr")
    )


def read(content: bytes) -> luma.Page:
    """The page of a file of 1 to 16 bits: gray, gray with alpha, RGB or RGB with alpha; of 16 bits from 9 on."""
    import imagecodecs

    pixels = np.asarray(imagecodecs.jpeg2k_decode(content))
    channels = pixels.reshape(*pixels.shape[:2], -1)
    count = channels.shape[2]
    if count > 4 or channels.dtype.kind != "u":
        raise PhotoError(f"a JPEG 2000 of {count} channels, {channels.dtype}, is not known here; convert it to PNG")
    channels = luma.scaled(channels, bits(content))
    alpha = np.ascontiguousarray(channels[..., -1]) if count in {2, 4} else None
    pixels = channels[..., 0] if count < 3 else channels[..., :3]
    space: luma.Space = "gray" if count < 3 else "rgb"
    page = luma.page_of_array(np.ascontiguousarray(pixels), space, profile(content), alpha)
    return page if bits(content) > 8 else page.shallow()


def encoded(pixels: np.ndarray, block: bytes, packet: bytes, iptc: bytes) -> bytes:
    """A lossless file of pixels `(H, W, 3)` or `(H, W, 4)`, uint8 or uint16, that says sRGB by its number.

    Args:
        block: EXIF, empty for none; `packet`, XMP, and `iptc` likewise.
    """
    import imagecodecs

    content = bytes(
        imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="jp2", colorspace="SRGB", mct=True)
    )
    for number, data in ((EXIF_UUID, block), (xmp.JP2_UUID, packet), (IPTC_UUID, iptc)):
        if data:
            content += struct.pack(">I4s", 8 + 16 + len(data), b"uuid") + number + data
    return content


def profile(content: bytes) -> bytes | None:
    """The ICC profile of a file."""
    for header in xmp.jp2_boxes(content, b"jp2h"):
        for color in xmp.jp2_boxes(header, b"colr"):
            if color[:1] == b"\2":
                return color[3:]
    return None
