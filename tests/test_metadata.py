"""What a photo's file says beside its pixels stays, but for what is no longer true."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from colorize_cli import xmp
from colorize_cli.config import OutputOptions
from colorize_cli.photo import Metadata, Page, Photo, open_photo, save_photo
from colorize_cli.photo import exif as exif_block
from colorize_cli.photo.metadata import resources
from colorize_cli.provenance import Provenance, read_provenance
from tests.conftest import write_gray

LUMA = np.add.outer(np.arange(40) * 3, np.arange(60) * 2).astype(np.uint8)
ARTIST = "Zoë Müller".encode()
NOTES = b"Notes\0\xff\xd8\xff a gray preview \xff\xd9 and more"
IPTC = b"\x1c\x02\x5a\x00\x06Nipomo"
RESOURCES = (
    b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC + b"\0"
    b"8BIM" + struct.pack(">HHI", 0x040C, 0, 4) + b"\xff\xd8\xff\xd9"  # a preview
)  # fmt: skip


def camera_block(order: exif_block.Order, orientation: int = 6) -> bytes:
    """EXIF with text of UTF-8, GPS, a maker's notes that hold a preview, and a size."""
    short, long = order + "H", order + "I"
    values = {
        exif_block.ORIENTATION: (3, struct.pack(short, orientation)),
        exif_block.ACROSS: (5, struct.pack(order + "II", 300, 1)),
        exif_block.DOWN: (5, struct.pack(order + "II", 150, 1)),
        exif_block.UNIT: (3, struct.pack(short, 2)),
        0x013B: (2, ARTIST + b"\0"),
        exif_block.EXIF_POINTER: (4, bytes(4)),
        exif_block.GPS_POINTER: (4, bytes(4)),
    }
    below = {
        exif_block.EXIF_POINTER: {
            0x9003: (2, b"1936:03:06 00:00:00\0"),
            0x927C: (7, NOTES),
            exif_block.COLOR_SPACE: (3, struct.pack(short, 0xFFFF)),
            exif_block.PIXELS_ACROSS: (4, struct.pack(long, 60)),
            exif_block.PIXELS_DOWN: (4, struct.pack(long, 40)),
        },
        exif_block.GPS_POINTER: {1: (2, b"N\0"), 2: (5, struct.pack(order + "6I", 35, 1, 2, 1, 28, 1))},
    }
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    start = 8 + len(exif_block.laid_out(order, values, 8))
    behind = b""
    for pointer, tags in below.items():
        values[pointer] = (4, struct.pack(long, start + len(behind)))
        behind += exif_block.laid_out(order, tags, start + len(behind))
    return head + exif_block.laid_out(order, values, 8) + behind


def tags_of(block: bytes) -> dict[int, bytes]:
    """All tags of a block by number, pointers left out."""
    top = exif_block.first_directory(block)
    found = {}
    for directory in (top, *exif_block.children(block, top).values()):
        found |= {number: tag.value(block) for number, tag in directory.tags.items()}
    return {number: value for number, value in found.items() if number not in exif_block.POINTERS}


def again(photo: Photo, path: Path, options: OutputOptions | None = None) -> Photo:
    """A photo's own gray, written and read."""
    save_photo([np.repeat(page.luma[..., None], 3, axis=2) for page in photo.pages], photo, path, options)
    return open_photo(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".jp2", ".tif"])
def test_exif_stays_byte_for_byte_but_for_what_is_no_longer_true(
    tmp_path: Path, order: exif_block.Order, suffix: str
) -> None:
    block = camera_block(order)
    Image.fromarray(LUMA).save(tmp_path / "in.jpg", exif=b"Exif\0\0" + block)
    photo = open_photo(tmp_path / "in.jpg")
    assert photo.luma.shape == (60, 40)
    kept = again(photo, tmp_path / f"out{suffix}")
    expected = tags_of(block) | {
        0x927C: NOTES.replace(b"\xff\xd8\xff a gray preview \xff\xd9", bytes(21)),
        exif_block.COLOR_SPACE: struct.pack(order + "H", 1),
        exif_block.PIXELS_ACROSS: struct.pack(order + "I", 40),
        exif_block.PIXELS_DOWN: struct.pack(order + "I", 60),
        exif_block.ACROSS: struct.pack(order + "II", 150, 1),
        exif_block.DOWN: struct.pack(order + "II", 300, 1),
    }
    elsewhere = {exif_block.ORIENTATION}
    if suffix == ".tif":  # its resolution is the file's own
        elsewhere |= {exif_block.ACROSS, exif_block.DOWN, exif_block.UNIT}
    found = tags_of(kept.metadata.exif)
    for tag in expected.keys() - elsewhere:
        assert found[tag] == expected[tag], tag
    assert kept.metadata.orientation == 1
    if suffix in {".jpg", ".tif", ".png"}:
        assert kept.metadata.resolution == pytest.approx((150, 300), abs=0.1)
    if suffix == ".jpg":  # nothing moved
        assert len(kept.metadata.exif) == len(block)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_an_avif_stays_byte_for_byte_where_it_names_another_orientation(
    tmp_path: Path, order: exif_block.Order
) -> None:
    block, other = camera_block(order), camera_block(order, orientation=1)
    named, disguised = (struct.pack(order + "HHI", number, 3, 1) for number in (exif_block.ORIENTATION, 0x0111))
    Image.fromarray(LUMA).save(tmp_path / "in.avif", exif=b"Exif\0\0" + block.replace(named, disguised))
    content = (tmp_path / "in.avif").read_bytes()
    (tmp_path / "in.avif").write_bytes(content.replace(disguised, named))
    photo = open_photo(tmp_path / "in.avif")
    assert photo.luma.shape == (40, 60)  # the file's own orientation counts
    found, expected = tags_of(photo.metadata.exif), tags_of(other)
    for tag in (0x013B, 0x9003, 1, 2):
        assert found[tag] == expected[tag], tag
    assert len(photo.metadata.exif) == len(block)
    assert tags_of(again(photo, tmp_path / "out.avif").metadata.exif)[0x013B] == ARTIST + b"\0"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_the_shape_of_a_pixel_stays_where_there_is_no_resolution(tmp_path: Path, suffix: str) -> None:
    photo = again(Photo((Page(LUMA),), "JPEG", Metadata(aspect=(3, 2))), tmp_path / f"in{suffix}")
    # A TIFF keeps it among its tags, which go with the rest.
    again(photo, tmp_path / f"out{suffix}", OutputOptions(strip_metadata=suffix != ".tif"))
    with Image.open(tmp_path / f"out{suffix}") as out:
        if suffix == ".jpg":
            assert (out.info["jfif_unit"], out.info["jfif_density"]) == (0, (3, 2))
        elif suffix == ".png":
            assert out.info["aspect"] == (3, 2)
        else:
            assert [out.tag_v2[tag] for tag in (exif_block.UNIT, exif_block.ACROSS, exif_block.DOWN)] == [1, 3, 2]
    if suffix != ".tif":
        assert photo.metadata.upright(6).aspect == (2, 3)


@pytest.mark.parametrize(("said", "density"), [((300000, 200000), (3, 2)), ((2**32 - 1, 1), (1, 1))])
def test_a_shape_of_a_pixel_that_no_jpeg_can_hold_is_rounded_or_dropped(
    tmp_path: Path, said: tuple[int, int], density: tuple[int, int]
) -> None:
    Image.fromarray(LUMA).save(tmp_path / "in.png")
    content = (tmp_path / "in.png").read_bytes()
    chunk = b"pHYs" + struct.pack(">IIB", *said, 0)  # which Pillow does not write; after the header of 33 bytes
    chunk = struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "in.png").write_bytes(content[:33] + chunk + content[33:])
    again(open_photo(tmp_path / "in.png"), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as out:
        assert (out.info["jfif_unit"], out.info["jfif_density"]) == (0, density)


@pytest.mark.parametrize("mark", [b"AgHg", b"DCSR", b"MeSa", b"PHUT"])
def test_iptc_behind_another_programs_resources_stays(tmp_path: Path, mark: bytes) -> None:
    block = mark + struct.pack(">HHI", 0x0404, 0, 2) + b"no" + RESOURCES
    extra = b"\xff\xed" + struct.pack(">H", 16 + len(block)) + b"Photoshop 3.0\0" + block
    Image.fromarray(LUMA).save(tmp_path / "in.jpg", extra=extra)
    assert again(open_photo(tmp_path / "in.jpg"), tmp_path / "out.jpg").metadata.iptc == IPTC


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".jp2"])
def test_iptc_stays_and_photoshops_preview_goes(tmp_path: Path, suffix: str) -> None:
    extra = b"\xff\xed" + struct.pack(">H", 16 + len(RESOURCES)) + b"Photoshop 3.0\0" + RESOURCES
    Image.fromarray(LUMA).save(tmp_path / "in.jpg", extra=extra)
    first = again(open_photo(tmp_path / "in.jpg"), tmp_path / f"first{suffix}")
    kept = again(first, tmp_path / f"second{suffix}")
    assert kept.metadata.iptc == IPTC
    assert [number for number, _ in resources(kept.metadata.photoshop)] == [0x0404]


def test_xmp_no_longer_tells_of_what_lay_behind_the_photo(tmp_path: Path) -> None:
    packet = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"
 xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MicroVideo="1" GCamera:MicroVideoOffset="2024"
 xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="Aunt"/></rdf:RDF></x:xmpmeta>"""
    kept = again(Photo((Page(LUMA),), "JPEG", Metadata(xmp=packet).upright(1)), tmp_path / "out.jpg")
    assert b"Aunt" in kept.metadata.xmp
    assert b"MicroVideo" not in kept.metadata.xmp
    assert b"hdrgm:Version" not in kept.metadata.xmp


def test_xmp_that_is_no_xml_is_told_to_be_left_out(colorize, tmp_path: Path) -> None:
    write_gray(tmp_path / "in.png", 30, 20)
    with Image.open(tmp_path / "in.png") as image:
        image.save(tmp_path / "broken.jpg", xmp=b"<x:xmpmeta><exif:TIFF/EP>1</exif:TIFF/EP></x:xmpmeta>")
        image.save(tmp_path / "empty.jpg", xmp=b" " * 100)
    told = f"note: {tmp_path / 'broken.jpg'}: left out: its XMP, which is no XML"
    result = colorize(tmp_path / "broken.jpg", tmp_path / "empty.jpg", "-n", 1)
    assert (result.exit_code, result.stderr.splitlines()) == (0, [told])


def test_xmp_that_goes_on_in_further_segments_stays_whole(tmp_path: Path) -> None:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="0123"/>'
        b"</rdf:RDF></x:xmpmeta>"
    )
    more = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + struct.pack(">II", 4, 0) + b"<x/>"
    extra = b"\xff\xe1" + struct.pack(">H", len(more) + 2) + more
    Image.fromarray(LUMA).save(tmp_path / "in.jpg", xmp=packet, extra=extra)
    kept = again(open_photo(tmp_path / "in.jpg"), tmp_path / "out.jpg")
    assert kept.metadata.extended_xmp == (more,)
    assert b"HasExtendedXMP" in kept.metadata.xmp


def test_xmp_of_a_gif_goes_into_its_png(tmp_path: Path) -> None:
    packet = xmp.edited(None, add={("urn:x:", "title"): "Aunt"}, prefixes={"urn:x:": "x"})
    Image.fromarray(LUMA).save(tmp_path / "in.gif")
    content = (tmp_path / "in.gif").read_bytes()
    place = content.index(b",", 13 + 3 * 256)  # behind the palette, where the picture begins
    extension = b"!\xff\x0bXMP DataXMP" + packet + b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    (tmp_path / "in.gif").write_bytes(content[:place] + extension + content[place:])
    photo = open_photo(tmp_path / "in.gif")
    assert np.array_equal(photo.luma, LUMA)
    assert xmp.property_text(again(photo, tmp_path / "out.png").metadata.xmp, ("urn:x:", "title")) == "Aunt"


def test_metadata_too_long_for_a_jpeg_is_left_out_and_said_so(tmp_path: Path) -> None:
    packet = xmp.edited(None, add={("urn:x:", "long"): "-" * 70_000}, prefixes={"urn:x:": "x"})
    block = exif_block.laid_out("<", {0x010E: (2, b"-" * 70_000)}, 8)
    metadata = Metadata(exif=b"II*\0\x08\0\0\0" + block, xmp=packet)
    photo = Photo((Page(LUMA),), metadata=metadata)
    record = Provenance("0", "tiny", "", 1, {}, {}, "cpu", 1, "2", "photo", "")
    pixels = [np.repeat(LUMA[..., None], 3, axis=2)]
    notes = save_photo(pixels, photo, tmp_path / "out.jpg", provenance=record)
    assert [note.split(": ")[1] for note in notes] == ["longer XMP is left out", "longer EXIF is left out"]
    assert read_provenance(tmp_path / "out.jpg") == record
    assert save_photo(pixels, photo, tmp_path / "out.png", provenance=record) == []
    assert xmp.property_text(open_photo(tmp_path / "out.png").metadata.xmp, ("urn:x:", "long")) == "-" * 70_000


def test_texts_of_a_png_and_all_comments_of_a_jpeg_stay(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "Aunt Mary")
    texts.add_itxt("Description", "Zoë", zip=True)
    Image.fromarray(LUMA).save(tmp_path / "in.png", pnginfo=texts)
    photo = open_photo(tmp_path / "in.png")
    again(photo, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        image.load()
        assert (image.info["Title"], image.info["Description"]) == ("Aunt Mary", "Zoë")
    comments = b"".join(b"\xff\xfe" + struct.pack(">H", 3) + letter for letter in (b"a", b"b"))
    Image.fromarray(LUMA).save(tmp_path / "in.jpg", extra=comments)
    assert again(open_photo(tmp_path / "in.jpg"), tmp_path / "out.jpg").metadata.comments == (b"a", b"b")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_stripped_pictures_hold_no_metadata_but_their_resolution(tmp_path: Path, suffix: str) -> None:
    metadata = Metadata(exif=camera_block("<", 1), photoshop=RESOURCES, comments=(b"Mary",), resolution=(300.0, 300.0))
    photo = Photo((Page(LUMA),), metadata=metadata)
    kept = again(photo, tmp_path / f"out{suffix}", OutputOptions(strip_metadata=True)).metadata
    assert (kept.exif, kept.xmp, kept.photoshop, kept.comments) == (b"", b"", b"", ())
    if suffix != ".webp":
        assert kept.resolution == pytest.approx((300, 300), abs=0.1)


def test_a_resolution_in_centimetres_stays_so(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "in.tif", LUMA, resolution=(100, 50), resolutionunit="CENTIMETER")
    again(open_photo(tmp_path / "in.tif"), tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        tags = file.pages.first.tags
        assert (tags[282].value, tags[283].value, tags[296].value) == ((100, 1), (50, 1), 3)


@pytest.mark.parametrize("unit", [1, 2])
def test_what_photoshops_own_files_say_stays(tmp_path: Path, unit: int) -> None:
    syntax = b"http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="%s"/></x:xmpmeta>' % syntax
    block = camera_block(">", orientation=1)
    dots = struct.pack(">IHHIHH", 300 << 16, unit, 1, 150 << 16, unit, 1)
    parts = {0x03ED: dots, 0x0404: IPTC + b"\0", 0x0422: block + bytes(len(block) % 2), 0x0424: packet + b" "}
    parts = {number: part + bytes(len(part) % 2) for number, part in parts.items()}
    listed = b"".join(b"8BIM" + struct.pack(">HHI", number, 0, len(part)) + part for number, part in parts.items())
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, *LUMA.shape, 8, 1)
    rest = struct.pack(">I", 0) + struct.pack(">I", len(listed)) + listed + struct.pack(">I", 0)
    (tmp_path / "in.psd").write_bytes(head + rest + bytes(2) + LUMA.tobytes())
    photo = open_photo(tmp_path / "in.psd")
    assert np.array_equal(photo.luma, LUMA)
    assert (photo.metadata.resolution, photo.metadata.per_centimetre) == ((300, 150), unit == 2)
    found = again(photo, tmp_path / "out.png").metadata
    assert tags_of(found.exif)[0x013B] == ARTIST + b"\0"
    assert found.iptc.startswith(IPTC)
    assert b"xmpmeta" in found.xmp
    assert found.resolution == pytest.approx((300, 150), abs=0.02)


def test_a_resolution_of_a_jpeg_in_centimetres_stays_so(tmp_path: Path) -> None:
    Image.fromarray(LUMA).save(tmp_path / "in.jpg", dpi=(300, 300))
    content = (tmp_path / "in.jpg").read_bytes()
    head, header, rest = content.partition(b"JFIF\0\1\1")
    (tmp_path / "in.jpg").write_bytes(head + header + struct.pack(">BHH", 2, 118, 59) + rest[5:])
    again(open_photo(tmp_path / "in.jpg"), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as out:
        assert (out.info["jfif_unit"], out.info["jfif_density"]) == (2, (118, 59))


def test_comments_of_a_gif_stay_wherever_they_lie(tmp_path: Path) -> None:
    Image.fromarray(LUMA).save(tmp_path / "in.gif", comment=b"before")
    content = (tmp_path / "in.gif").read_bytes()
    assert content.endswith(b";")
    (tmp_path / "in.gif").write_bytes(content[:-1] + b"!\xfe\3beh\3ind\0;")
    photo = open_photo(tmp_path / "in.gif")
    assert photo.metadata.comments == (b"before", b"behind")
    (tmp_path / "cut.gif").write_bytes(content[:-1] + b"!\xfe\3beh")
    assert open_photo(tmp_path / "cut.gif").metadata.comments == (b"before",)


def test_iptc_longer_than_a_jpegs_segment_stays(tmp_path: Path) -> None:
    keyword = b"\x1c\x02\x19\x03\xe8" + b"k" * 1000
    long = keyword * 70
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(long)) + long
    photo = again(Photo((Page(LUMA),), "JPEG", Metadata(photoshop=resource)), tmp_path / "out.jpg")
    assert photo.metadata.iptc == long


def test_xmp_that_others_keep_in_a_pngs_text_stays(tmp_path: Path) -> None:
    syntax = b"http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="%s"><rdf:Description' % syntax
    packet += (
        b' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:Headline="Titel"/></rdf:RDF></x:xmpmeta>'
    )
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type xmp", f"\nxmp\n{len(packet):8}\n{packet.hex()}\n", zip=True)
    Image.fromarray(LUMA).save(tmp_path / "in.png", pnginfo=texts)
    assert b"Titel" in again(open_photo(tmp_path / "in.png"), tmp_path / "out.png").metadata.xmp


def test_comments_of_utf_8_are_read_as_such_from_a_png(tmp_path: Path) -> None:
    for comment in ("Großmutter, Łódź 1912".encode(), b"plain", "Großmutter".encode("latin-1")):
        Image.fromarray(LUMA).save(tmp_path / "in.gif", comment=comment)
        again(open_photo(tmp_path / "in.gif"), tmp_path / "out.png")
        with Image.open(tmp_path / "out.png") as out:
            assert out.info["Comment"] in {"Großmutter, Łódź 1912", "plain", "Großmutter"}


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_interoperability_hangs_under_exif(tmp_path: Path, suffix: str) -> None:
    lowest = exif_block.Tree({1: (2, b"R98\0"), 2: (7, b"0100")}, {})
    lower = exif_block.Tree({0x9003: (2, b"1936:03:06 00:00:00\0")}, {exif_block.INTEROPERABILITY_POINTER: lowest})
    top = exif_block.Tree({0x013B: (2, ARTIST + b"\0")}, {exif_block.EXIF_POINTER: lower})
    block = b"II*\0\x08\0\0\0" + exif_block.tree_laid_out("<", top, 8)
    photo = again(Photo((Page(LUMA),), "JPEG", Metadata(exif=block)), tmp_path / f"one{suffix}")
    found = again(photo, tmp_path / f"two{suffix}").metadata.exif
    trees = exif_block.trees_below(found, exif_block.first_directory(found))
    assert trees[exif_block.EXIF_POINTER].below[exif_block.INTEROPERABILITY_POINTER] == lowest


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".jp2"])
def test_a_resolution_goes_into_exif_where_a_format_has_no_other_place(tmp_path: Path, suffix: str) -> None:
    photo = Photo((Page(LUMA),), "JPEG", Metadata(resolution=(300, 150)))
    assert again(photo, tmp_path / f"out{suffix}").metadata.resolution == (300, 150)
    stripped = again(photo, tmp_path / f"bare{suffix}", OutputOptions(strip_metadata=True))
    assert not stripped.metadata.exif
