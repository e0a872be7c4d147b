"""EXIF blocks: what stays true of a picture that was turned upright and coloured, byte for byte.

A block is a small TIFF file: directories of tags, whose values lie anywhere in it. Cameras' own notes hold offsets
into it, so that a block is changed in place rather than written anew.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Set
from dataclasses import dataclass, field
from fractions import Fraction
from typing import IO, Literal, NamedTuple

EXIF_POINTER, GPS_POINTER, INTEROPERABILITY_POINTER = 34665, 34853, 40965
FIRST_POINTERS = {EXIF_POINTER, GPS_POINTER}
POINTERS = FIRST_POINTERS | {INTEROPERABILITY_POINTER}
DESCRIPTION, ORIENTATION, ACROSS, DOWN, UNIT = 270, 274, 282, 283, 296
RESOLUTION = frozenset({ACROSS, DOWN, UNIT})
COLOR_SPACE, PIXELS_ACROSS, PIXELS_DOWN = 0xA001, 0xA002, 0xA003
XMP, IPTC, PHOTOSHOP, PROFILE = 700, 33723, 34377, 34675
# Tags of a file's own layout, previews and profile, which are of no use to another file.
LAYOUT_TAGS = frozenset(
    {254, 255, *range(256, 260), 262, 263, 266, 273, *range(277, 282), 284, *range(288, 292), 301}
    | {*range(317, 326), *range(330, 348), 347, *range(512, 522), 529, 530, 531, 532, 559, PROFILE, 37724, 50784}
)
OF_ANY_FILE = frozenset({529, 530, 531, 532})  # of YCbCr, which EXIF wants in a JPEG
ELSEWHERE_TAGS = frozenset({XMP, IPTC, PHOTOSHOP})  # metadata that a picture holds by other means
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
RATIONAL, NO_UNIT, INCH, CENTIMETRE = 5, 1, 2, 3  # TIFF's numbers of a type and of units
MOST_DOTS = 65535  # an inch
LAYOUTS = (b'{"shape":', b"ImageJ=")  # descriptions that some programs write of how the file is laid out
MOST_TAGS = 4096  # of one directory

Order = Literal["<", ">"]


class FileBytes:
    """The bytes of an open file, read when they are asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)

    def __len__(self) -> int:
        """The file's size."""
        return self.size

    def __getitem__(self, place: slice) -> bytes:
        """The bytes from `place.start` to `place.stop`."""
        start = place.start or 0
        self.file.seek(start)
        return self.file.read(max(0, min(place.stop, self.size) - start))


Buffer = bytes | bytearray | FileBytes


@dataclass(frozen=True)
class Tag:
    """One entry of a directory."""

    kind: int  # TIFF's number of its type
    count: int  # of values
    start: int  # where its value lies in the block
    size: int  # of the value, in bytes

    def value(self, block: Buffer) -> bytes:
        """Its bytes, in the block's byte order."""
        return bytes(block[self.start : self.start + self.size])


@dataclass
class Directory:
    """A directory's tags by number, and where it lies."""

    order: Order
    start: int
    entry_size: int  # 12, in large TIFF files 20
    count: int = 0  # of its entries, those that are left out of `tags` too
    tags: dict[int, Tag] = field(default_factory=dict)
    next: int = 0  # where the next directory lies; 0 for none

    @property
    def end(self) -> int:
        """The byte behind its pointer to the next."""
        header, pointer = (8, 8) if self.entry_size == 20 else (2, 4)
        return self.start + header + self.entry_size * self.count + pointer

    def without(self, gone: frozenset[int], content: bytes) -> bytes:
        """Its bytes `content`, from `start` to `end`, without some tags; the pointer to the next moves up."""
        size, layout = (8, "Q") if self.entry_size == 20 else (2, "H")
        behind = size + self.entry_size * self.count
        entries = [content[place : place + self.entry_size] for place in range(size, behind, self.entry_size)]
        kept = [entry for entry in entries if struct.unpack_from(self.order + "H", entry)[0] not in gone]
        head = struct.pack(self.order + layout, len(kept))
        return b"".join([head, *kept, content[behind:]]).ljust(len(content), b"\0")


def first_directory(block: Buffer) -> Directory:
    """The first directory of a block or TIFF file. Raises ValueError where there is none."""
    mark = bytes(block[:4])
    orders: dict[bytes, Order] = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
    if mark not in orders:
        raise ValueError("no TIFF header")
    order = orders[mark]
    if b"+" in mark:
        return directory(block, order, _integer(block, order + "Q", 8), large=True)
    return directory(block, order, _integer(block, order + "I", 4))


def directory(block: Buffer, order: Order, start: int, *, large: bool = False) -> Directory:
    """The directory at `start`; tags whose values lie outside the block, or of no known type, are left out.

    Of a tag that is there twice the first counts, as libtiff and exiftool have it; a description of the file's layout
    is none. Raises ValueError where no directory can be.
    """
    count_format, entry_format, inline = ("Q", "HHQ", 8) if large else ("H", "HHI", 4)
    position = start + struct.calcsize(order + count_format)
    count = _integer(block, order + count_format, start)
    entry_size = struct.calcsize(order + entry_format) + inline
    if start < 8 or count > MOST_TAGS or position + count * entry_size > len(block):
        raise ValueError("no directory")
    found = Directory(order, start, entry_size, count)
    for entry in range(position, position + count * entry_size, entry_size):
        number, kind, values = struct.unpack(order + entry_format, block[entry : entry + entry_size - inline])
        size = SIZES.get(kind, 0) * values
        value = entry + entry_size - inline
        if size > inline:
            value = _integer(block, order + ("Q" if large else "I"), value)
        if size and value + size <= len(block) and number not in found.tags:
            tag = Tag(kind, values, value, size)
            if number != DESCRIPTION or not _tells_of_layout(tag.value(block)):
                found.tags[number] = tag
    behind = position + count * entry_size
    if behind + inline <= len(block):
        found.next = _integer(block, order + ("Q" if large else "I"), behind)
    return found


def _integer(block: Buffer, layout: str, position: int) -> int:
    try:
        (value,) = struct.unpack(layout, block[position : position + struct.calcsize(layout)])
    except struct.error as error:
        raise ValueError("cut short") from error
    return int(value)


def number(block: Buffer, found: Directory, tag: int) -> int | None:
    """The first value of a tag of whole numbers."""
    entry = found.tags.get(tag)
    layout = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(entry.kind) if entry else None
    return _integer(block, found.order + layout, entry.start) if entry and layout else None


def children(block: Buffer, found: Directory) -> dict[int, Directory]:
    """The directories of EXIF, GPS and interoperability that hang under `found`; broken ones are left out."""
    result = {}
    for tag in POINTERS & found.tags.keys():
        start = number(block, found, tag)
        try:
            result[tag] = directory(block, found.order, start or 0, large=found.entry_size == 20)
        except ValueError:
            continue
    return result


def _tells_of_layout(description: bytes) -> bool:
    return description.startswith(LAYOUTS) or description.rstrip(b"\0 \r\n").endswith(b"OME>")


def orientation(block: bytes) -> int | None:
    """1 to 8; None where none is said."""
    try:
        value = number(block, first_directory(block), ORIENTATION)
    except ValueError:
        return None
    return value if value is not None and 1 <= value <= 8 else None


def resolution(block: Buffer, found: Directory) -> tuple[float, float] | None:
    """Dots an inch, across and down, that a directory says."""
    scale = {INCH: 1.0, CENTIMETRE: 2.54}.get(number(block, found, UNIT) or INCH)
    said = ratios(block, found)
    if said is None or scale is None:
        return None
    across, down = (above / below * scale for above, below in said)
    return (across, down) if 1 <= across <= MOST_DOTS and 1 <= down <= MOST_DOTS else None


def ratios(block: Buffer, found: Directory) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The resolution that a directory says as two fractions, of whatever unit."""
    said = []
    for tag in (ACROSS, DOWN):
        entry = found.tags.get(tag)
        if entry is None or entry.kind != RATIONAL:
            return None
        above, below = struct.unpack(found.order + "II", entry.value(block)[:8])
        said.append((above, below or 1))
    return said[0], said[1]


def block_resolution(block: bytes) -> tuple[float, float] | None:
    """Dots an inch, across and down, that an EXIF block says."""
    try:
        return resolution(block, first_directory(block))
    except ValueError:
        return None


def upright(block: bytes, *, lies_down: bool) -> bytes:
    """A block as it is true of the coloured photo, but for its size: upright, sRGB, without a preview.

    All else stays where it was, byte for byte; the layout's tags of the first directory are taken out. Empty where
    `block` is none, or holds nothing else.

    Args:
        lies_down: whether the photo's sides were swapped when it was turned; its two resolutions then are, too.
    """
    data = bytearray(block)
    try:
        top = first_directory(data)
        if top.entry_size != 12:
            return b""
    except ValueError:
        return b""
    _drop_previews(data, top)
    _blank_pictures(data)
    _write(data, top, ORIENTATION, 1)
    if lies_down and {ACROSS, DOWN} <= top.tags.keys():
        across, down = top.tags[ACROSS], top.tags[DOWN]
        if across.size == down.size:
            first, second = across.value(data), down.value(data)
            data[across.start : across.start + across.size] = second
            data[down.start : down.start + down.size] = first
    for child in children(data, top).values():
        _write(data, child, COLOR_SPACE, 1)
    if not _take_out(data, top, LAYOUT_TAGS - OF_ANY_FILE | ELSEWHERE_TAGS):
        return b""
    return bytes(data)


def sized(block: bytes, width: int, height: int) -> bytes:
    """A block as it is true of a picture of `width` x `height` pixels, all else as it was."""
    data = bytearray(block)
    with contextlib.suppress(ValueError):
        for child in children(data, first_directory(data)).values():
            _write(data, child, PIXELS_ACROSS, width)
            _write(data, child, PIXELS_DOWN, height)
    return bytes(data)


def without_orientation(block: bytes) -> bytes:
    """An upright block that does not say so, all else where it was."""
    data = bytearray(block)
    try:
        _take_out(data, first_directory(data), frozenset({ORIENTATION}))
    except ValueError:
        return b""
    return bytes(data)


def _write(data: bytearray, found: Directory, tag: int, value: int) -> None:
    entry = found.tags.get(tag)
    if entry and entry.kind in {3, 4} and entry.count == 1 and value < 256**entry.size:
        struct.pack_into(found.order + ("H" if entry.kind == 3 else "I"), data, entry.start, value)


def _take_out(data: bytearray, found: Directory, gone: frozenset[int]) -> int:
    """Remove tags from a directory, and its pointer to the next; how many tags stay."""
    content = found.without(gone, bytes(data[found.start : found.end - 4]) + bytes(4))
    data[found.start : found.end] = content
    return _integer(content, found.order + "H", 0)


def _drop_previews(data: bytearray, top: Directory) -> None:
    """Cut the preview that the second directory holds, unless something that is kept lies in the same bytes."""
    try:
        second = directory(data, top.order, top.next) if top.next else None
    except ValueError:
        return
    if second is None:
        return
    previews = []
    for start_tag, size_tag in ((513, 514), (273, 279)):
        start, size = number(data, second, start_tag), number(data, second, size_tag)
        if start and size and start + size <= len(data):
            previews.append((start, start + size))
    used = [(0, 8), (top.start, top.end)]
    for found in (top, *children(data, top).values()):
        used += [(found.start, found.end), *((tag.start, tag.start + tag.size) for tag in found.tags.values())]
    for start, end in previews:
        if all(end <= first or last <= start for first, last in used):
            data[start:end] = bytes(end - start)
            if end == len(data):
                del data[start:]


def _blank_pictures(data: bytearray) -> None:
    """Blank the previews that makers' notes hold, whose tags stay where they are."""
    start = data.find(b"\xff\xd8\xff")
    while start >= 0:
        end = data.find(b"\xff\xd9", start)
        if end < 0:
            return
        data[start : end + 2] = bytes(end + 2 - start)
        start = data.find(b"\xff\xd8\xff", end + 2)


def built(block: Buffer, top: Directory, *, gone: frozenset[int] = LAYOUT_TAGS | ELSEWHERE_TAGS) -> bytes:
    """A new block of a page of a TIFF file without some tags, and of what hangs under it; empty without any."""
    tree = Tree(_values(block, top, gone | POINTERS), trees_below(block, top))
    return _block(top.order, tree) if tree.values or tree.below else b""


def of_resolution(across: float, down: float) -> bytes:
    """A block that says the dots an inch and nothing else."""
    across_ratio, down_ratio = (Fraction(value).limit_denominator(10_000) for value in (across, down))
    values = {
        ACROSS: (RATIONAL, struct.pack(">II", *across_ratio.as_integer_ratio())),
        DOWN: (RATIONAL, struct.pack(">II", *down_ratio.as_integer_ratio())),
        UNIT: (3, struct.pack(">H", INCH)),
    }
    return _block(">", Tree(values, {}))


def _block(order: Order, tree: Tree) -> bytes:
    return struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8) + tree_laid_out(order, tree, 8)


class Tree(NamedTuple):
    """A directory and those under it: of each tag its type and bytes, of each pointer what it leads to."""

    values: dict[int, tuple[int, bytes]]
    below: dict[int, Tree]


def trees_below(block: Buffer, top: Directory) -> dict[int, Tree]:
    """What lies under a first directory: those of EXIF and GPS, and interoperability's under the first of them."""
    found = {}
    for pointer, child in children(block, top).items():
        if pointer != INTEROPERABILITY_POINTER:
            lower = children(block, child) if pointer == EXIF_POINTER else {}
            deepest = {tag: Tree(_values(block, one), {}) for tag, one in lower.items() if tag not in FIRST_POINTERS}
            found[pointer] = Tree(_values(block, child), deepest)
    return found


def _values(block: Buffer, found: Directory, gone: Set[int] = POINTERS) -> dict[int, tuple[int, bytes]]:
    return {tag: (entry.kind, entry.value(block)) for tag, entry in found.tags.items() if tag not in gone}


def tree_laid_out(order: Order, tree: Tree, start: int) -> bytes:
    """A directory that lies at `start`, and behind it those under it."""
    values = tree.values | {pointer: (4, bytes(4)) for pointer in tree.below}
    size = len(laid_out(order, values, start))
    behind = b""
    for pointer, lower in tree.below.items():
        place = start + size + len(behind)
        values[pointer] = (4, struct.pack(order + "I", place))
        behind += tree_laid_out(order, lower, place)
    return laid_out(order, values, start) + behind


def laid_out(order: Order, values: dict[int, tuple[int, bytes]], start: int) -> bytes:
    """A directory that lies at `start`, its values behind it; `values` gives each tag's type and bytes."""
    entries, behind = [], b""
    end = start + 2 + 12 * len(values) + 4
    for tag in sorted(values):
        kind, value = values[tag]
        count = len(value) // SIZES[kind]
        if len(value) > 4:
            place = struct.pack(order + "I", end + len(behind))
            behind += value + bytes(len(value) % 2)
        else:
            place = value.ljust(4, b"\0")
        entries.append(struct.pack(order + "HHI", tag, kind, count) + place)
    return struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4) + behind
