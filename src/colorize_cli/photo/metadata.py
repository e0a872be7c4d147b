"""What a photo's file says beside its pixels, as it is true of the coloured picture."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from PIL import Image

from colorize_cli import xmp
from colorize_cli.photo import avif, jp2
from colorize_cli.photo import exif as exif_block
from colorize_cli.photo.pillow import MOST_TEXT

TIFF_NAMESPACE = "http://ns.adobe.com/tiff/1.0/"
EXIF_NAMESPACE = "http://ns.adobe.com/exif/1.0/"
GAIN_MAP_NAMESPACE = "http://ns.adobe.com/hdr-gain-map/1.0/"
CONTAINER_NAMESPACE = "http://ns.google.com/photos/1.0/container/"
CAMERA_NAMESPACE = "http://ns.google.com/photos/1.0/camera/"
XMP_NAMESPACE = "http://ns.adobe.com/xap/1.0/"
PHOTOSHOP_NAMESPACE = "http://ns.adobe.com/photoshop/1.0/"
_TIFF_NAMES = """Orientation ImageWidth ImageLength BitsPerSample Compression PhotometricInterpretation SamplesPerPixel
PlanarConfiguration YCbCrSubSampling YCbCrPositioning YCbCrCoefficients ReferenceBlackWhite TransferFunction"""
_MOVING_NAMES = """MicroVideo MicroVideoVersion MicroVideoOffset MicroVideoPresentationTimestampUs
MotionPhoto MotionPhotoVersion MotionPhotoPresentationTimestampUs"""
# What XMP says of the gray file's layout, profile, previews and what else lies in the file.
STALE = frozenset(
    {(TIFF_NAMESPACE, name) for name in _TIFF_NAMES.split()}
    | {(EXIF_NAMESPACE, name) for name in ("PixelXDimension", "PixelYDimension", "ColorSpace")}
    | {(PHOTOSHOP_NAMESPACE, name) for name in ("ColorMode", "ICCProfile")}
    | {(XMP_NAMESPACE, "Thumbnails"), (GAIN_MAP_NAMESPACE, "Version"), (CONTAINER_NAMESPACE, "Directory")}
    | {(CAMERA_NAMESPACE, name) for name in _MOVING_NAMES.split()}
)
EXIF_HEADER = b"Exif\0\0"
EXTENSION_HEADER = b"http://ns.adobe.com/xmp/extension/\0"
PHOTOSHOP_HEADER = b"Photoshop 3.0\0"
PHOTOSHOP_MARK = b"8BIM"
RESOURCE_MARKS = frozenset({PHOTOSHOP_MARK, b"AgHg", b"DCSR", b"MeSa", b"PHUT"})
IPTC_RESOURCE = 0x0404
RESOLUTION_RESOURCE, EXIF_RESOURCE, XMP_RESOURCE = 0x03ED, 0x0422, 0x0424  # of Photoshop's own files
GIF_EXTENSION, GIF_FRAME, GIF_END, GIF_COMMENT = 0x21, 0x2C, 0x3B, 0xFE
# IPTC, copyright flag, address, IPTC's checksum: what stays true of a picture with other pixels.
KEPT_RESOURCES = frozenset({IPTC_RESOURCE, 0x040A, 0x040B, 0x0425})
LONGEST_SEGMENT = 65_533  # bytes of a JPEG's
MOST_OF_ASPECT = 65535  # what a JPEG holds


@dataclass(frozen=True)
class Metadata:
    """A photo's metadata, upright, without layout, profile or previews; every part may be empty."""

    exif: bytes = b""  # a TIFF block, without the "Exif" before it
    xmp: bytes = b""
    extended_xmp: tuple[bytes, ...] = ()  # segments of a JPEG that go on where its XMP had no more room
    photoshop: bytes = b""  # resources, among them IPTC, without the header before them
    comments: tuple[bytes, ...] = ()
    texts: tuple[bytes, ...] = ()  # whole chunks of a PNG, from their type on, without length and checksum
    resolution: tuple[float, float] | None = None  # dots an inch, across and down
    per_centimetre: bool = False  # whether the file says so a centimetre
    aspect: tuple[int, int] | None = None  # dots across for so many down, where they differ; never with a resolution

    @property
    def orientation(self) -> int:
        """1 to 8: what EXIF says, or else XMP; 1 where neither does."""
        found = exif_block.orientation(self.exif)
        return packet_orientation(self.xmp) if found is None else found

    def upright(self, turn: int) -> Metadata:
        """As it is true of the photo whose orientation `turn` was undone, but for its size."""
        lies_down = turn > 4
        return replace(
            self,
            exif=exif_block.upright(self.exif, lies_down=lies_down),
            xmp=upright_packet(self.xmp),
            photoshop=kept_resources(self.photoshop),
            resolution=self.resolution[::-1] if self.resolution and lies_down else self.resolution,
            aspect=self.aspect[::-1] if self.aspect and lies_down else self.aspect,
        )

    def sized(self, width: int, height: int) -> Metadata:
        """As it is true of a picture of `width` x `height` pixels."""
        return replace(self, exif=exif_block.sized(self.exif, width, height))

    def stripped(self) -> Metadata:
        """The resolution alone."""
        return Metadata(resolution=self.resolution, per_centimetre=self.per_centimetre, aspect=self.aspect)

    @property
    def iptc(self) -> bytes:
        """IPTC's records."""
        return dict(resources(self.photoshop)).get(IPTC_RESOURCE, b"")

    @property
    def photoshop_alone(self) -> bytes:
        """Photoshop's resources without IPTC's records."""
        return _packed(_but_iptc(self.photoshop))


def of_image(image: Image.Image, content: bytes) -> Metadata:
    """What a loaded image of any format but TIFF says, as it lies.

    Args:
        content: the file's bytes; empty for an image that was made or changed in memory.
    """
    info = image.info
    packet, aspect = info.get("xmp"), _aspect(info)
    block = avif.exif(content) if image.format == "AVIF" and content else pillows_exif(image)
    if not block and not content:
        with contextlib.suppress(Exception):  # whatever odd tags make of it
            block = image.getexif().tobytes().removeprefix(EXIF_HEADER)
    comment = info.get("comment")
    # What Pillow takes from a JPEG's EXIF is one number for both directions.
    says = image.format not in {"JPEG", "MPO"} or info.get("jfif_unit") in {1, 2}
    found = Metadata(
        exif=block,
        xmp=packet if isinstance(packet, bytes) else b"",
        comments=(comment,) if isinstance(comment, bytes) else (),
        resolution=(_resolution(info) if says else None) or (None if aspect else exif_block.block_resolution(block)),
        aspect=aspect,
        per_centimetre=info.get("jfif_unit") == 2,
    )
    segments = getattr(image, "applist", None)
    if segments:  # a JPEG
        parts = [part for name, part in segments if name == "APP13" and part.startswith(PHOTOSHOP_HEADER)]
        found = replace(
            found,
            extended_xmp=tuple(part for name, part in segments if name == "APP1" and part.startswith(EXTENSION_HEADER)),
            photoshop=b"".join(part.removeprefix(PHOTOSHOP_HEADER) for part in parts),
            comments=tuple(part for name, part in segments if name == "COM"),
        )
    if image.format == "PNG" and content:
        return _of_png(found, content, {name: str(text) for name, text in info.items() if isinstance(name, str)})
    if image.format == "GIF" and content:
        return replace(found, xmp=xmp.gif_packet(content) or b"", comments=gif_comments(content))
    if image.format == "JPEG2000" and content:
        iptc, block = xmp.jp2_uuid(content, jp2.IPTC_UUID), xmp.jp2_uuid(content, jp2.EXIF_UUID)
        return replace(
            found,
            exif=block,
            resolution=found.resolution or exif_block.block_resolution(block),
            xmp=xmp.jp2_uuid(content),
            photoshop=_packed([(IPTC_RESOURCE, iptc)]) if iptc else b"",
        )
    if image.format == "PSD" and content:
        return _of_psd(found, content)
    return found


def _of_psd(found: Metadata, content: bytes) -> Metadata:
    """Photoshop's own files say it all in their resources, which lie behind the header and the palette."""
    start = 26
    (size,) = struct.unpack_from(">I", content, start)
    start += 4 + size
    (size,) = struct.unpack_from(">I", content, start)
    block = content[start + 4 : start + 4 + size]
    by_number = dict(resources(block))
    dots = by_number.get(RESOLUTION_RESOURCE, b"")
    if len(dots) == 16:  # dots an inch in 65536ths, whatever unit they are shown in
        across, unit, _, down, _, _ = struct.unpack(">IHHIHH", dots)
        says = {"dpi": (across / 65536, down / 65536)}
        found = replace(found, resolution=_resolution(says), per_centimetre=unit == 2)
    return replace(
        found,
        exif=by_number.get(EXIF_RESOURCE, b"").removeprefix(EXIF_HEADER),
        xmp=by_number.get(XMP_RESOURCE, b""),
        photoshop=block,
    )


def gif_comments(content: bytes) -> tuple[bytes, ...]:
    """A GIF's comments, wherever they lie among its frames, as far as the file goes."""
    found = []
    with contextlib.suppress(IndexError):  # it is cut off
        position = 13 + _palette_bytes(content[10])
        while content[position] != GIF_END:
            kind = content[position]
            if kind == GIF_FRAME:
                position += 10 + _palette_bytes(content[position + 9]) + 1
            else:
                label = content[position + 1]
                position += 2
            parts = []
            while size := content[position]:
                parts.append(content[position + 1 : position + 1 + size])
                position += 1 + size
            position += 1
            if kind == GIF_EXTENSION and label == GIF_COMMENT:
                found.append(b"".join(parts))
    return tuple(found)


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def pillows_exif(image: Image.Image) -> bytes:
    """The EXIF block of a loaded image, as Pillow gives it."""
    block = image.info.get("exif")
    return block.removeprefix(EXIF_HEADER) if isinstance(block, bytes) else b""


def _of_png(found: Metadata, content: bytes, info: Mapping[str, str]) -> Metadata:
    """PNG keeps some behind the pixels, which need not be decoded for it."""
    texts = []
    for kind, start, size in png_chunks(content):
        chunk = content[start : start + size]
        if kind == b"eXIf":
            found = replace(found, exif=chunk)
        elif kind in {b"tEXt", b"zTXt", b"iTXt"} and size < MOST_TEXT:
            if kind == b"iTXt" and chunk.startswith(xmp.PNG_KEYWORD + b"\0"):
                found = replace(found, xmp=xmp.international_text(chunk))
            elif not chunk.startswith((xmp.PNG_KEYWORD, b"Raw profile type ")):
                texts.append(kind + chunk)
    if not found.exif:
        found = replace(found, exif=_raw_profile(info, "exif", "APP1").removeprefix(b"Exif\0\0"))
    if not found.xmp:
        found = replace(found, xmp=_raw_profile(info, "xmp"))
    return replace(found, texts=tuple(texts), photoshop=_png_photoshop(info))


def of_tiff(file: exif_block.Buffer, top: exif_block.Directory, turn: int) -> Metadata:
    """The metadata of a page of a TIFF file; `turn` is the orientation that was undone.

    A resolution that is none in dots an inch, such as the shape of a pixel, stays in the block.
    """
    if turn in {5, 6, 7, 8} and {exif_block.ACROSS, exif_block.DOWN} <= top.tags.keys():
        across, down = top.tags[exif_block.ACROSS], top.tags[exif_block.DOWN]
        top.tags |= {exif_block.ACROSS: down, exif_block.DOWN: across}
    values = {tag: top.tags[tag].value(file) for tag in exif_block.ELSEWHERE_TAGS & top.tags.keys()}
    gone = exif_block.LAYOUT_TAGS | exif_block.ELSEWHERE_TAGS | {exif_block.ORIENTATION}
    dots = exif_block.resolution(file, top)
    photoshop = kept_resources(values.get(exif_block.PHOTOSHOP, b""))
    if exif_block.IPTC in values:
        photoshop = _packed([(IPTC_RESOURCE, values[exif_block.IPTC]), *_but_iptc(photoshop)])
    return Metadata(
        exif=exif_block.built(file, top, gone=gone | (exif_block.RESOLUTION if dots else frozenset())),
        xmp=upright_packet(values.get(exif_block.XMP, b"")),
        photoshop=photoshop,
        resolution=dots,
        per_centimetre=exif_block.number(file, top, exif_block.UNIT) == exif_block.CENTIMETRE,
    )


def packet_orientation(packet: bytes) -> int:
    """1 to 8, by an XMP packet; 1 where it does not say."""
    text = xmp.property_text(packet, (TIFF_NAMESPACE, "Orientation")) or "1"
    return int(text) if text in set("12345678") else 1


def upright_packet(packet: bytes) -> bytes:
    """An XMP packet without what is no longer true; empty where there is none."""
    return xmp.edited(packet, drop=STALE, add={}, prefixes={}) if xmp.is_packet(packet) else b""


def lost_in(packet: bytes) -> list[str]:
    """What is lost of an XMP packet as it lies in a file: all of it, if it cannot be read."""
    return [] if not packet.strip(b"\0 \t\r\n") or xmp.is_packet(packet) else ["its XMP, which is no XML"]


def _resolution(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    with contextlib.suppress(Exception):  # whatever odd metadata makes of it
        across, down = (float(value) for value in info["dpi"])
        if 1 <= across <= 65535 and 1 <= down <= 65535:  # also false for what is no number
            return across, down
    return None


def _aspect(info: Mapping[Any, Any]) -> tuple[int, int] | None:
    """What a JPEG or PNG says of the shape of its pixels alone; None where they are square."""
    said = info.get("jfif_density") if info.get("jfif_unit") == 0 else info.get("aspect")
    if not said or said[0] == said[1] or not all(said):
        return None
    if max(said) > MOST_OF_ASPECT:
        said = Fraction(*said).limit_denominator(MOST_OF_ASPECT).as_integer_ratio()
    return (said[0], said[1]) if 0 < said[0] <= MOST_OF_ASPECT else None  # else no pixel has that shape


def resources(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Photoshop's own resources by number, as far as they can be read, without those of other programs among them."""
    position = 0
    while content[position : position + 4] in RESOURCE_MARKS and position + 12 <= len(content):
        mark = content[position : position + 4]
        (number,) = struct.unpack_from(">H", content, position + 4)
        position += 6
        position += (content[position] + 2) // 2 * 2  # its name, of an even length with its own
        if position + 4 > len(content):
            return
        (size,) = struct.unpack_from(">I", content, position)
        if mark == PHOTOSHOP_MARK:
            yield number, content[position + 4 : position + 4 + size]
        position += 4 + (size + 1) // 2 * 2


def _but_iptc(photoshop: bytes) -> list[tuple[int, bytes]]:
    return [(number, content) for number, content in resources(photoshop) if number != IPTC_RESOURCE]


def _packed(items: list[tuple[int, bytes]]) -> bytes:
    return b"".join(
        PHOTOSHOP_MARK + struct.pack(">HHI", number, 0, len(content)) + content + bytes(len(content) % 2)
        for number, content in items
    )


def kept_resources(content: bytes) -> bytes:
    """Photoshop's resources without its preview, layers and settings."""
    return _packed([(number, part) for number, part in resources(content) if number in KEPT_RESOURCES])


def png_chunks(file_bytes: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and size of the content of each whole chunk."""
    position = 8
    while position + 12 <= len(file_bytes):
        size, kind = struct.unpack_from(">I4s", file_bytes, position)
        if position + 12 + size > len(file_bytes):
            return
        yield kind, position + 8, size
        position += 12 + size


def _raw_profile(texts: Mapping[str, str], *kinds: str) -> bytes:
    """What ImageMagick and others keep in a PNG's text as hexadecimal digits; empty where there is none."""
    for kind in kinds:
        with contextlib.suppress(KeyError, ValueError):
            _name, _size, *lines = texts[f"Raw profile type {kind}"].strip().splitlines()
            return bytes.fromhex("".join(lines))
    return b""


def _png_photoshop(texts: Mapping[str, str]) -> bytes:
    content = _raw_profile(texts, "8bim", "iptc")
    if content and not content.startswith(b"8BIM"):
        return _packed([(IPTC_RESOURCE, content)])
    return content


def jpeg_segments(metadata: Metadata, packet: bytes, profile: bytes) -> bytes:
    """EXIF, XMP, IPTC, profile and comments as segments of a JPEG; what is too long for one is left out."""
    contents = []
    if metadata.exif:
        contents.append((0xE1, EXIF_HEADER + metadata.exif))
    if packet:
        contents.append((0xE1, xmp.JPEG_HEADER + packet))
    contents += [(0xE1, part) for part in metadata.extended_xmp if packet]
    most = LONGEST_SEGMENT - len(PHOTOSHOP_HEADER)  # of resources, which go on in the next
    for start in range(0, len(metadata.photoshop), most):
        contents.append((0xED, PHOTOSHOP_HEADER + metadata.photoshop[start : start + most]))
    contents.append((0xE2, b"ICC_PROFILE\0\1\1" + profile))
    contents += [(0xFE, comment) for comment in metadata.comments]
    return b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in contents
        if len(content) <= LONGEST_SEGMENT
    )


def _png_comment(comment: bytes) -> bytes:
    """A text of UTF-8 as such; any other is taken for Latin-1, as all of ASCII is."""
    with contextlib.suppress(UnicodeDecodeError):
        if not comment.isascii() and comment.decode():
            return b"iTXtComment" + bytes(5) + comment
    return b"tEXtComment\0" + comment


def png_metadata(metadata: Metadata, packet: bytes, profile: bytes) -> bytes:
    """The chunks that go behind a PNG's header."""
    chunks = [b"iCCPsRGB\0\0" + zlib.compress(profile)]
    if metadata.resolution:
        across, down = (round(value / 0.0254) for value in metadata.resolution)
        chunks.append(b"pHYs" + struct.pack(">IIB", across, down, 1))
    elif metadata.aspect:
        chunks.append(b"pHYs" + struct.pack(">IIB", *metadata.aspect, 0))
    if metadata.exif:
        chunks.append(b"eXIf" + metadata.exif)
    if packet:
        chunks.append(b"iTXt" + xmp.PNG_KEYWORD + bytes(5) + packet)
    if metadata.photoshop:
        digits = metadata.photoshop.hex()
        lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
        text = f"\niptc\n{len(metadata.photoshop):8}\n{lines}\n".encode()
        chunks.append(b"zTXtRaw profile type iptc\0\0" + zlib.compress(text))
    chunks += metadata.texts
    chunks += [_png_comment(comment.replace(b"\0", b" ")) for comment in metadata.comments]
    return b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
