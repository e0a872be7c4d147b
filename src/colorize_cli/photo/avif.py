"""EXIF as it lies in an AVIF file.

Pillow's reader writes it anew where it names another orientation than the file's own, and loses what it cannot spell.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from colorize_cli import xmp

MOST_EXTENTS = 64  # of an item that is no joke


def exif(content: bytes) -> bytes:
    """The TIFF block of a file's EXIF; empty where there is none (ISO 14496-12, section 8.11; 23008-12, annex A)."""
    try:
        for meta in xmp.jp2_boxes(content, b"meta"):
            body = meta[4:]
            wanted = next((number for number, kind in _items(body) if kind == b"Exif"), None)
            if wanted is not None:
                item = _item(body, wanted, content)
                (header,) = struct.unpack_from(">I", item)
                return item[4 + header :]
    except (struct.error, IndexError):  # cut off
        pass
    return b""


def _items(meta: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and kind of each item."""
    for listed in xmp.jp2_boxes(meta, b"iinf"):
        for entry in xmp.jp2_boxes(listed[6 if listed[0] == 0 else 8 :], b"infe"):
            if entry[0] >= 2:
                form = ">HH4s" if entry[0] == 2 else ">IH4s"
                number, _, kind = struct.unpack_from(form, entry, 4)
                yield number, kind


def _item(meta: bytes, wanted: int, content: bytes) -> bytes:
    """An item's bytes, from wherever in the file they lie."""
    (location,) = xmp.jp2_boxes(meta, b"iloc")
    version, sizes = location[0], location[4:6]
    offset_size, length_size, base_size = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_size = sizes[1] & 15 if version > 0 else 0
    position = 6

    def number(size: int) -> int:
        nonlocal position
        if position + size > len(location):
            raise IndexError
        position += size
        return int.from_bytes(location[position - size : position], "big")

    wide = 4 if version == 2 else 2
    for _ in range(number(wide)):
        item = number(wide)
        in_box = version > 0 and number(2) & 15 == 1
        number(2)  # the file itself
        base = number(base_size)
        parts = []
        for _ in range(number(2)):
            number(index_size)
            start = base + number(offset_size)
            parts.append((start, number(length_size)))
        if item == wanted:
            source = b"".join(xmp.jp2_boxes(meta, b"idat")) if in_box else content
            return b"".join(source[start : start + size if size else None] for start, size in parts[:MOST_EXTENTS])
    return b""
