"""XMP packets: found in picture files, read, and changed without touching their other bytes."""

from __future__ import annotations

import contextlib
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat
from xml.sax.saxutils import escape

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
JP2_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # of the box that holds XMP in JPEG 2000
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
JPEG_HEADER = b"http://ns.adobe.com/xap/1.0/\0"  # of the segment that holds XMP
PNG_MARK = b"\x89PNG\r\n\x1a\n"
PNG_KEYWORD = b"XML:com.adobe.xmp"  # of the text that is XMP
GIF_HEADER = b"!\xff\x0bXMP DataXMP"  # of the extension that holds XMP as it is, not in blocks
GIF_TRAILER = b"\x01\xff\xfe\xfd"  # by which readers of blocks find their way out of it
TIFF_TAG = 700
MOST_BYTES = 2**24  # of a packet that is read; longer ones are no packets

# It logs what is odd about a file, which Python prints where nobody else listens.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

Name = tuple[str, str]  # namespace, local name

_TAG = re.compile(rb"<(?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">\n</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
).encode()


@dataclass
class _Outline:
    """Where a packet's properties stand: those directly in the descriptions of its first `rdf:RDF`."""

    texts: dict[Name, str] = field(default_factory=dict)  # of properties that are plain text
    spans: list[tuple[Name, int, int]] = field(default_factory=list)  # name, first byte, byte behind the last
    descriptions: list[tuple[set[Name], int, int]] = field(default_factory=list)  # with the properties in each
    end: int = -1  # where `</rdf:RDF>` begins


def property_text(packet: bytes, name: Name) -> str | None:
    """A plain property's text; None where it is missing or the packet is no XMP."""
    try:
        return _outline(_as_utf8(packet)).texts.get(name)
    except ValueError:
        return None


def is_packet(packet: bytes) -> bool:
    """Whether these bytes are XMP that can be read."""
    try:
        _outline(_as_utf8(packet))
    except ValueError:
        return False
    return True


def edited(
    packet: bytes | None, *, drop: Collection[Name] = (), add: Mapping[Name, str], prefixes: Mapping[str, str]
) -> bytes:
    """A packet with some properties dropped and plain ones added; every other byte stays.

    Args:
        packet: the packet to change; an empty one is made for None, or in place of one that is no XMP.
        drop: names to remove, wherever an `rdf:Description` holds them. Those to add are removed too.
        add: the texts of the properties to add.
        prefixes: the prefix of each namespace of `add`.
    """
    try:
        packet = _as_utf8(packet or _EMPTY)
        outline = _outline(packet)
    except ValueError:
        packet = _EMPTY
        outline = _outline(packet)
    gone = {*drop, *add}
    cuts = [(start, end) for name, start, end in outline.spans if name in gone]
    cuts += [(start, end) for names, start, end in outline.descriptions if names and names <= gone]
    pieces, position = [], 0
    for start, end in sorted(cuts):
        if start >= position:
            pieces.append(packet[position:start])
            position = end
    pieces.append(packet[position : outline.end])
    if add:
        namespaces = "".join(f' xmlns:{prefixes[uri]}="{escape(uri)}"' for uri in sorted({uri for uri, _ in add}))
        lines = [f'<rdf:Description xmlns:rdf="{RDF}" rdf:about=""{namespaces}>']
        for (uri, local), text in add.items():
            lines.append(f" <{prefixes[uri]}:{local}>{escape(text)}</{prefixes[uri]}:{local}>")
        pieces.append("\n".join([*lines, "</rdf:Description>"]).encode())
    pieces.append(packet[outline.end :])
    return b"".join(pieces)


def _as_utf8(packet: bytes) -> bytes:
    """The packet in UTF-8: most are, some are UTF-16, with or without a byte order mark."""
    encodings = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\0<": "utf-16-be", b"<\0": "utf-16-le"}
    encoding = encodings.get(packet[:2])
    if encoding is not None:
        text = packet[: len(packet) // 2 * 2].decode(encoding)  # a UnicodeDecodeError is a ValueError
        packet = text.replace("\ufffe", "").encode()  # a byte order mark, the wrong way round
    return packet.strip(b"\0")


def _outline(packet: bytes) -> _Outline:
    """Parse a UTF-8 packet; ValueError for what is no XMP."""
    outline = _Outline()
    parser = expat.ParserCreate("utf-8", "\n")
    parser.namespace_prefixes = True
    parser.buffer_text = True
    stack: list[Name] = []
    started: list[int] = []
    text: list[str] = []
    properties: set[Name] = set()

    def in_description() -> bool:
        return stack[-2:] == [(RDF, "RDF"), (RDF, "Description")] and outline.end < 0

    def start(qualified: str, attributes: dict[str, str]) -> None:
        position = parser.CurrentByteIndex
        name = _name(qualified)
        stack.append(name)
        started.append(position)
        text.clear()
        if name == (RDF, "Description") and in_description():
            tag = _TAG.match(packet, position)
            properties.clear()
            for attribute, value in attributes.items():
                uri, local, prefix = (*attribute.split("\n"), "", "")[:3]
                found = tag and re.search(
                    rb"\s" + re.escape(f"{prefix}:{local}".encode()) + rb"\s*=\s*(\"[^\"]*\"|'[^']*')", tag[0]
                )
                outline.texts[uri, local] = value
                if (uri, local) != (RDF, "about"):
                    properties.add((uri, local))
                if found:
                    outline.spans.append(((uri, local), position + found.start(), position + found.end()))

    def end(qualified: str) -> None:
        name = stack.pop()
        first = started.pop()
        tag = _TAG.match(packet, parser.CurrentByteIndex)
        if in_description() and tag:
            outline.texts[name] = "".join(text)
            outline.spans.append((name, first, tag.end()))
            properties.add(name)
        elif name == (RDF, "Description") and stack[-1:] == [(RDF, "RDF")] and tag:
            outline.descriptions.append((set(properties), first, tag.end()))
        if name == (RDF, "RDF") and outline.end < 0 and packet.startswith(b"</", parser.CurrentByteIndex):
            outline.end = parser.CurrentByteIndex

    def refuse(*_: object) -> None:
        raise ValueError("XMP holds no document type")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(packet, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
    if outline.end < 0:
        raise ValueError("no rdf:RDF")
    return outline


def _name(qualified: str) -> Name:
    uri, local = (*qualified.split("\n"), "")[:2]
    return uri, local


def read_packet(path: Path) -> bytes | None:
    """The XMP packet of a picture file, found by its headers alone; None where there is none or nothing can be read.

    In a PNG it is looked for before the pixels. JPEG and PNG, of which there are most, take some 50 microseconds.
    """
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # whatever a broken file makes a reader raise
        warnings.simplefilter("ignore")
        if not path.is_file():  # opening a pipe waits for whoever writes into it
            return None
        with path.open("rb") as file:
            magic = file.read(12)
            if magic[:2] == b"\xff\xd8":
                return _jpeg_packet(file)
            if magic[:8] == PNG_MARK:
                return _png_packet(file)
            if magic[4:8] == b"jP  ":
                return jp2_uuid(magic + file.read(MOST_BYTES)) or None
            if magic[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
                return _tiff_packet(path)
            file.seek(0)
            if is_heic(magic):
                teach_heic()
            from PIL import Image

            with Image.open(file) as image:
                packet = image.info.get("xmp")
                return packet if isinstance(packet, bytes) else None
    return None


def _jpeg_packet(file: BinaryIO) -> bytes | None:
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != 0xDA:  # until the pixels
        size = int.from_bytes(head[2:]) - 2
        if head[1] == 0xE1 and (content := file.read(size)).startswith(JPEG_HEADER):
            return content.removeprefix(JPEG_HEADER)
        if head[1] != 0xE1:
            file.seek(size, 1)
    return None


def _png_packet(file: BinaryIO) -> bytes | None:
    file.seek(len(PNG_MARK))
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        size = int.from_bytes(head[:4])
        if head[4:] == b"iTXt" and size < MOST_BYTES:
            content = file.read(size + 4)[:-4]
            if content.startswith(PNG_KEYWORD + b"\0"):
                return international_text(content)
        else:
            file.seek(size + 4, 1)
    return None


def international_text(chunk: bytes) -> bytes:
    """The text of the content of a PNG's iTXt chunk; empty where it is broken."""
    _, _, rest = chunk.partition(b"\0")
    text = rest[2:].split(b"\0", 2)[-1]
    if rest[:1] != b"\1":
        return text
    try:
        return zlib.decompressobj().decompress(text, MOST_BYTES)
    except zlib.error:
        return b""


def is_heic(head: bytes) -> bool:
    """Whether a file that begins so is HEIC."""
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS


def teach_heic() -> None:
    """Let Pillow read HEIC. Raises ImportError where the package for it is missing."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def jp2_uuid(content: bytes, number: bytes = JP2_UUID) -> bytes:
    """What the first box of this number, without one XMP's, holds in a JPEG 2000 file; empty where there is none."""
    return next((data[16:] for data in jp2_boxes(content, b"uuid") if data[:16] == number), b"")


def jp2_boxes(content: bytes, wanted: bytes) -> Iterator[bytes]:
    """The contents of the boxes of one kind that lie side by side in a JPEG 2000 file, or in a box of it."""
    position = 0
    while position + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        header = 8
        if size == 1 and position + 16 <= len(content):
            (size,), header = struct.unpack_from(">Q", content, position + 8), 16
        elif size == 0:  # until the end
            size = len(content) - position
        if size < header:
            return
        if kind == wanted:
            yield content[position + header : position + size]
        position += size


def gif_packet(content: bytes) -> bytes | None:
    """The XMP of a GIF's bytes."""
    _, found, rest = content.partition(GIF_HEADER)
    packet, ended, _ = rest.partition(GIF_TRAILER)
    return packet if found and ended else None


def _tiff_packet(path: Path) -> bytes | None:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags.get(TIFF_TAG)
        return None if tag is None or tag.count > MOST_BYTES else bytes(tag.value)
