"""What the pages of a TIFF say, each of itself: tags, texts, profiles and resolutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from colorize_cli import xmp
from colorize_cli.config import OutputOptions
from colorize_cli.photo import Metadata, Page, Photo, open_photo, save_photo
from colorize_cli.photo import exif as exif_block
from colorize_cli.provenance import Provenance, read_provenance
from tests.test_metadata import ARTIST, LUMA, again, camera_block, tags_of
from tests.zoo import gray_profile


@pytest.mark.parametrize("kind", ["<", ">"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_tiffs_own_tags_and_directories_stay(tmp_path: Path, kind: exif_block.Order, depth: type) -> None:
    block = camera_block(kind, orientation=1)
    top = exif_block.first_directory(block)
    photo = Photo((Page(LUMA.astype(depth)),), metadata=Metadata(exif=block, resolution=(300, 150)))
    first = again(photo, tmp_path / "first.tif")
    second = again(first, tmp_path / "second.tif")
    for kept in (first, second):
        assert tags_of(kept.metadata.exif)[0x013B] == ARTIST + b"\0"
        assert tags_of(kept.metadata.exif)[2] == exif_block.children(block, top)[exif_block.GPS_POINTER].tags[2].value(
            block
        )
        assert kept.metadata.resolution == (300, 150)
    jpeg = again(second, tmp_path / "third.jpg")
    assert tags_of(jpeg.metadata.exif)[0x9003] == b"1936:03:06 00:00:00\0"


@pytest.mark.parametrize(
    ("description", "kept"),
    [("Aunt Mary", True), ('{"shape": [3, 8, 9]}', False), ("ImageJ=1.11a", False), ("<?xml?><OME></OME>", False)],
)
def test_a_description_is_kept_unless_a_program_wrote_the_old_layout_in_it(
    tmp_path: Path, description: str, kept: bool
) -> None:
    tifffile.imwrite(tmp_path / "in.tif", LUMA, description=description, metadata=None)
    again(open_photo(tmp_path / "in.tif"), tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert (file.pages.first.description == description) == kept


TEXTS = {  # of a page: a description, a scanner and the rest, by TIFF's numbers
    269: "Album %d", 270: "Aunt %d", 271: "Maker %d", 272: "Model %d", 285: "Leaf %d", 305: "Scan %d",
    306: "1936:03:0%d 00:00:00", 315: "Artist %d", 33432: "Heirs %d",
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png"])
@pytest.mark.parametrize("layout", [-1, 0, 1, 2])
def test_of_two_descriptions_the_first_is_kept_that_is_none_of_the_layout(
    tmp_path: Path, layout: int, suffix: str
) -> None:
    descriptions = [b"Aunt Mary\0", b"Uncle Tom\0"]
    if layout >= 0:
        descriptions.insert(layout, b'{"shape": [40, 60]}\0')
    tags = [("ImageDescription", 2, len(text), text, True) for text in descriptions]
    with tifffile.TiffWriter(tmp_path / "in.tif") as file:
        file.write(LUMA, metadata=None, extratags=tags)
        file.write(LUMA, metadata=None)
    kept = [each.exif for each in open_photo(tmp_path / "in.tif").page_metadata]
    assert [tags_of(block).get(exif_block.DESCRIPTION) for block in kept] == [b"Aunt Mary\0", None]
    photo = Photo((Page(LUMA),), metadata=Metadata(exif=kept[0]))
    assert tags_of(again(photo, tmp_path / f"out{suffix}").metadata.exif)[exif_block.DESCRIPTION] == b"Aunt Mary\0"


def told(path: Path) -> list[tuple[dict[int, str], tuple[object, ...]]]:
    """Of each page of a TIFF file the texts that it says, and its resolution."""
    with tifffile.TiffFile(path) as file:
        return [
            (
                {number: page.tags[number].value for number in TEXTS if number in page.tags},
                tuple(page.tags[number].value for number in sorted(exif_block.RESOLUTION) if number in page.tags),
            )
            for page in file.pages
        ]


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["minisblack", "miniswhite", "rgb"])
def test_every_page_of_a_tiff_keeps_its_own_texts_and_resolution(
    tmp_path: Path, kind: str, order: exif_block.Order, depth: type
) -> None:
    resolutions = [((300, 150), "INCH"), ((4, 3), "NONE"), ((100, 50), "CENTIMETER"), ((72, 36), "INCH")]
    with tifffile.TiffWriter(tmp_path / "in.tif", byteorder=order) as file:
        for number, (resolution, unit) in enumerate(resolutions):
            pixels = np.full((20 + number, 30 - number, 3 if kind == "rgb" else 1), 7, depth).squeeze()
            texts = TEXTS.items() if number != 1 else ()
            tags = [(tag, 2, 0, text % number, True) for tag, text in texts]
            orientation = [(exif_block.ORIENTATION, 3, 1, 6 if number == 3 else 1, True)]
            file.write(pixels, photometric=kind, resolution=resolution, resolutionunit=unit, metadata=None,
                       software=False, extratags=tags + orientation)  # fmt: skip
    before = told(tmp_path / "in.tif")
    assert len(before[0][0]) == len(TEXTS)
    photo = open_photo(tmp_path / "in.tif")
    again(photo, tmp_path / "out.tif")
    texts, (across, down, unit) = before[3]
    assert told(tmp_path / "out.tif") == [*before[:3], (texts, (down, across, unit))]  # it lay down
    again(photo, tmp_path / "bare.tif", OutputOptions(strip_metadata=True))
    assert [texts for texts, _ in told(tmp_path / "bare.tif")] == [{}] * 4
    assert [dots[:1] for _, dots in told(tmp_path / "bare.tif")] == [((300, 1),), (), ((100, 1),), ((36, 1),)]


def test_a_page_of_a_tiff_without_a_resolution_gets_none(tmp_path: Path) -> None:
    Image.fromarray(LUMA).save(tmp_path / "in.tif", save_all=True, append_images=[Image.fromarray(LUMA[:20])])
    assert [dots for _, dots in told(tmp_path / "in.tif")] == [(), ()]
    photo = open_photo(tmp_path / "in.tif")
    again(photo, tmp_path / "out.tif")
    assert [dots for _, dots in told(tmp_path / "out.tif")] == [(), ()]


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_page_of_a_tiff_keeps_its_own_xmp_and_place(tmp_path: Path, order: exif_block.Order) -> None:
    title = ("urn:x:", "title")
    pages = [
        Metadata(exif=camera_block(order), xmp=xmp.edited(None, add={title: name}, prefixes={"urn:x:": "x"}))
        for name in ("Mary", "Zoë")
    ]
    photo = Photo((Page(LUMA), Page(LUMA), Page(LUMA)), metadata=pages[0], further=(Metadata(), pages[1]))
    record = Provenance("0", "tiny", "", 1, {}, {}, "cpu", 1, "2", "photo", "")
    path = tmp_path / "out.tif"
    save_photo([np.repeat(LUMA[..., None], 3, axis=2)] * 3, photo, path, provenance=record)
    first, second, third = open_photo(path).page_metadata
    assert read_provenance(path) == record
    assert (second.exif, second.xmp) == (b"", b"")
    assert [xmp.property_text(kept.xmp, title) for kept in (first, third)] == ["Mary", "Zoë"]
    assert tags_of(first.exif) == tags_of(third.exif)
    assert tags_of(third.exif)[0x9003] == b"1936:03:06 00:00:00\0"


def test_ratios_of_a_tiff_stay_as_many_as_they_were(tmp_path: Path) -> None:
    said = {286: (5, 1, (3, 2)), 50730: (10, 1, (-1, 2)), 65000: (5, 2, (1, 2, 3, 4))}
    extra = [(tag, kind, count, value, True) for tag, (kind, count, value) in said.items()]
    tifffile.imwrite(tmp_path / "in.tif", LUMA, photometric="minisblack", extratags=extra)
    again(open_photo(tmp_path / "in.tif"), tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as out:
        tags = out.pages.first.tags
        assert {tag: (int(tags[tag].dtype), tags[tag].count, tags[tag].value) for tag in said} == said


def test_a_page_without_a_profile_does_not_get_the_last_ones(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "in.tif") as file:
        for profile in (gray_profile(1.0), None, gray_profile(1.0)):
            file.write(LUMA, photometric="minisblack", iccprofile=profile, metadata=None)
    first, second, third = (page.luma for page in open_photo(tmp_path / "in.tif").pages)
    assert np.array_equal(second, LUMA)
    assert np.array_equal(first, third)
    assert not np.array_equal(first, LUMA)


RAMP = np.tile(np.linspace(0, 1, 40), (30, 1))


@pytest.mark.parametrize(
    ("pixels", "white"),
    [
        (np.rint(RAMP * 65535).astype(np.int32), 2**31 - 1),
        (np.rint(RAMP * 255).astype(np.int16), 255),
        (RAMP.astype(np.float32), 1.0),
        (RAMP.astype(np.float32), 200.0),
        (np.rint(RAMP * 65535).astype(np.uint16), 65535),
    ],
)
@pytest.mark.parametrize("kind", ["unassalpha", "unspecified"])
def test_what_lies_beside_the_colours_does_not_decide_what_is_white(
    tmp_path: Path, pixels: np.ndarray, white: float, kind: str
) -> None:
    beside = np.full_like(pixels, white)
    beside[:, :20] = 0
    tifffile.imwrite(
        tmp_path / "in.tif", np.dstack([pixels, beside]), photometric="minisblack", planarconfig="contig",
        extrasamples=[kind],
    )  # fmt: skip
    photo = open_photo(tmp_path / "in.tif")
    assert np.abs(photo.luma - RAMP * 65535).max() <= 257
    if kind == "unspecified":
        assert photo.alpha is None
    else:
        assert photo.alpha is not None
        assert (photo.alpha[:, :20] == 0).all()
        assert len(np.unique(photo.alpha)) == 2
        assert (photo.alpha[:, 20:] == 65535).all() == (white != 200)


@pytest.mark.parametrize(("low", "high"), [(0, 1.02), (-0.05, 1.08), (-10, 270), (-100, 65600)])
def test_a_little_beyond_black_and_white_is_cut_off(tmp_path: Path, low: float, high: float) -> None:
    white = 1 if high < 2 else 255 if high < 1000 else 65535
    pixels = (RAMP * white).astype(np.float32)
    pixels[:, 0], pixels[:, -1] = low, high
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    assert np.abs(open_photo(tmp_path / "in.tif").luma - RAMP * 65535).max() <= 1


@pytest.mark.parametrize("most", [1, 2, 20, 200])
def test_far_beyond_black_and_white_pixels_are_stretched(tmp_path: Path, most: int) -> None:
    tifffile.imwrite(tmp_path / "in.tif", ((RAMP * 2 - 1) * most).astype(np.float32))
    assert np.abs(open_photo(tmp_path / "in.tif").luma - RAMP * 65535).max() <= 1


@pytest.mark.parametrize(("kind", "white"), [(np.int32, 65535), (np.int16, 255), (np.float32, 1)])
def test_premultiplied_colours_share_a_scale_with_their_alpha(tmp_path: Path, kind: type, white: int) -> None:
    alpha = np.full(RAMP.shape, white, dtype=kind)
    alpha[:, :20] = 0
    dark = (RAMP * white / 300).astype(kind) * (alpha > 0)
    tifffile.imwrite(
        tmp_path / "in.tif", np.dstack([dark, alpha]), photometric="minisblack", planarconfig="contig",
        extrasamples=["assocalpha"],
    )  # fmt: skip
    photo = open_photo(tmp_path / "in.tif")
    assert photo.luma.max() <= 65535 / 290
    assert photo.alpha is not None
    assert set(np.unique(photo.alpha)) == {0, 65535}


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ({"extrasamples": ["unassalpha"]}, ()),
        ({"extrasamples": ["unspecified"]}, ("its channels beside colour and alpha",)),
        ({"extrasamples": ["unassalpha"], "extratags": [(exif_block.XMP, 1, 4, b"<a><", True)]},
         ("its XMP, which is no XML",)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_what_no_picture_of_a_tiff_keeps_is_told(
    tmp_path: Path, depth: type, options: dict[str, object], lost: tuple[str, ...]
) -> None:
    pixels = np.dstack([LUMA.astype(depth)] * 4)
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb", **options)  # type: ignore[arg-type]
    photo = open_photo(tmp_path / "in.tif")
    assert photo.lost == lost
    assert (photo.alpha is None) == (options["extrasamples"] == ["unspecified"])


def test_a_mask_among_the_pages_of_a_tiff_is_told_to_be_left_out(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "in.tif") as file:
        file.write(LUMA, photometric="minisblack")
        file.write(LUMA > 100, photometric="mask", subfiletype=4)
    photo = open_photo(tmp_path / "in.tif")
    assert (len(photo.pages), photo.lost) == (1, ("the masks among its pages",))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_an_orientation_that_stands_in_a_tiffs_xmp_alone_is_applied(tmp_path: Path, depth: type) -> None:
    packet = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""
    resolution = {"resolution": (300, 150), "resolutionunit": "INCH", "metadata": None}
    tifffile.imwrite(tmp_path / "in.tif", LUMA.astype(depth), **resolution,
                     extratags=[(exif_block.XMP, 1, len(packet), packet, True)])  # fmt: skip
    kept = again(open_photo(tmp_path / "in.tif"), tmp_path / "out.tif")
    assert np.array_equal(kept.luma, np.rot90(LUMA, -1).astype(depth))
    assert kept.metadata.resolution == (150, 300)
    assert kept.metadata.orientation == 1
