"""Photos come in upright and whole, and go out in their own format with what was set aside."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from colorize_cli.errors import PhotoError
from colorize_cli.photo import open_photo, save_photo, to_8_bits
from colorize_cli.photo.luma import page_of_array
from colorize_cli.photo.reading import NETPBM
from tests.conftest import RAMP, gray, saved_again
from tests.zoo import ADOBE_RGB, gray_profile, srgb_of_light

ORIENTATION = 0x0112
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"
 xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="Aunt"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_orientation_is_applied_and_reset(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = Image.fromarray(RAMP)
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "Kodak"
    options = {"quality": 100} if suffix == ".jpg" else {"lossless": True} if suffix == ".webp" else {}
    stored.save(tmp_path / f"in{suffix}", exif=exif, **options)
    photo = open_photo(tmp_path / f"in{suffix}")
    assert photo.luma.shape == RAMP.shape
    assert np.abs(photo.luma.astype(int) - RAMP).max() <= 4
    out = tmp_path / f"out{suffix}"
    save_photo([gray(photo.luma)], photo, out)
    with Image.open(out) as image:
        assert image.size == (60, 40)
        assert image.getexif().get(ORIENTATION, 1) == 1
        assert image.getexif()[0x010F] == "Kodak"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"])
def test_every_mode_of_the_same_gray_has_nearly_the_same_luma(mode: str) -> None:
    gray = Image.fromarray(RAMP)
    if mode in {"I;16", "I"}:
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
        image = image if mode == "I;16" else image.convert("I")
    elif mode == "F":
        image = Image.fromarray(RAMP.astype(np.float32) / 255)
    elif mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(gray.convert("RGB"), transform)
        assert image is not None
    elif mode in {"P", "PA"}:
        image = gray.convert("P").convert(mode)
    else:
        image = gray.convert("RGB").convert(mode) if mode not in {"1", "L", "LA"} else gray.convert(mode)
    photo = open_photo(image)
    assert photo.luma.dtype == (np.uint16 if mode in {"I;16", "I", "F"} else np.uint8)
    tolerance = 255 if mode == "1" else 8
    assert np.abs(to_8_bits(photo.luma).astype(int) - RAMP).max() <= tolerance
    assert (photo.alpha is not None) == (mode in {"LA", "PA", "RGBA"})


def test_the_luma_of_an_8_bit_gray_photo_is_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "photo.png")
    assert np.array_equal(open_photo(tmp_path / "photo.png").luma, RAMP)


def test_alpha_is_kept_where_the_format_holds_it(tmp_path: Path) -> None:
    alpha = np.arange(2400, dtype=np.uint8).reshape(40, 60)
    image = Image.fromarray(RAMP).convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    for suffix in (".png", ".tif"):
        image.save(tmp_path / f"in{suffix}")
        photo = open_photo(tmp_path / f"in{suffix}")
        assert photo.alpha is not None
        save_photo([gray(photo.luma)], photo, tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as out:
            assert out.mode == "RGBA"
            assert np.array_equal(np.asarray(out.getchannel("A")), alpha)


def test_resolution_is_kept(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png", ".tif"):
        Image.fromarray(RAMP).save(tmp_path / f"in{suffix}", dpi=(300, 300))
        photo = open_photo(tmp_path / f"in{suffix}")
        save_photo([gray(RAMP)], photo, tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as out:
            assert out.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_profile_is_applied_and_a_broken_one_ignored(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = Image.fromarray(RAMP).convert("RGB")
    for name, data in (("srgb", profile), ("broken", b"no profile at all")):
        rgb.save(tmp_path / f"{name}.png", icc_profile=data)
        luma = open_photo(tmp_path / f"{name}.png").luma
        assert np.abs(luma.astype(int) - RAMP).max() <= 1


def test_an_icon_is_not_taken_for_a_tga(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (190, 190, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "icon.ico", sizes=[(190, 190)])
    assert (tmp_path / "icon.ico").read_bytes()[16] == 1  # its size's third byte, where a TGA has its depth
    photo = open_photo(tmp_path / "icon.ico")
    assert photo.format == "ICO"
    assert np.array_equal(photo.luma, np.asarray(Image.fromarray(noise).convert("L")))


def test_a_pillow_image_given_stays_as_it_is() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "JPEG", exif=exif)
    image = Image.open(buffer)
    assert open_photo(image).luma.shape == open_photo(image).luma.shape == (60, 40)
    assert image.size == (60, 40)
    assert image.getexif()[ORIENTATION] == 6


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_xmp_is_kept_upright(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options: dict[str, Any] = {"xmp": XMP}
    if suffix == ".png":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    if suffix == ".tif":
        exif[700], options = XMP, {}
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / f"in{suffix}", exif=exif, **options)
    out = saved_again(tmp_path / f"in{suffix}")
    with Image.open(out) as image:
        image.load()
        assert b'"Aunt"' in image.info["xmp"]
        assert b'tiff:Orientation="6"' not in image.info["xmp"]
    assert open_photo(out).luma.shape == (60, 40)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_date_and_place_in_the_exif_are_kept(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Kodak"
    exif[ExifTags.IFD.Exif] = {0x9003: "1936:03:06 00:00:00"}
    exif[ExifTags.IFD.GPSInfo] = {2: (35.0, 2.0, 28.0)}
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / f"in{suffix}", exif=exif.tobytes())
    with Image.open(saved_again(tmp_path / f"in{suffix}")) as image:
        kept = image.getexif()
        assert kept[0x010F] == "Kodak"
        assert kept.get_ifd(ExifTags.IFD.Exif)[0x9003] == "1936:03:06 00:00:00"
        assert kept.get_ifd(ExifTags.IFD.GPSInfo)[2] == (35.0, 2.0, 28.0)


def test_the_thumbnail_in_the_exif_is_dropped(tmp_path: Path) -> None:
    thumbnail = b"\xff\xd8 gray thumbnail \xff\xd9"
    exif = b"Exif\0\0MM\0*" + struct.pack(">I", 8)
    exif += struct.pack(">HHHI4sI", 1, 0x010F, 2, 4, b"Box\0", 26)  # at 8, the next directory at 26
    exif += struct.pack(">HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(thumbnail), 0) + thumbnail
    Image.fromarray(RAMP).save(tmp_path / "in.jpg", exif=exif)
    with Image.open(tmp_path / "in.jpg") as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1)[0x0202] == len(thumbnail)
    out = saved_again(tmp_path / "in.jpg")
    assert b"thumbnail" not in out.read_bytes()
    with Image.open(out) as image:
        assert image.getexif()[0x010F] == "Box"


def test_broken_exif_does_not_refuse_the_photo(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "good.jpg")
    raw = (tmp_path / "good.jpg").read_bytes()
    for number, body in enumerate((b"garbage", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08\0\x01\x01\x12", b"")):
        block = b"Exif\0\0" + body
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(raw[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + raw[2:])
        assert open_photo(path).luma.shape == RAMP.shape
        saved_again(path)


def test_a_comment_is_kept_and_a_resolution_turns_with_the_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(RAMP).save(tmp_path / "in.jpg", exif=exif, dpi=(300, 150), comment=b"Aunt Mary")
    with Image.open(saved_again(tmp_path / "in.jpg")) as image:
        assert image.info["dpi"] == (150, 300)
        assert image.info["comment"] == b"Aunt Mary"


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_gray_profile_is_applied(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RAMP.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(RAMP).convert(mode)
    image.save(tmp_path / "linear.png", icc_profile=gray_profile(1.0))
    light = RAMP / 255
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    luma = open_photo(tmp_path / "linear.png").luma
    assert np.abs(luma / (257 if mode == "I;16" else 1) - expected).max() <= (0.05 if mode == "I;16" else 1)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("gamma", [1.0, 1.75, 2.25])
def test_each_deep_gray_of_a_profile_is_within_a_level_of_what_it_means(
    tmp_path: Path, gamma: float, suffix: str
) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / f"in{suffix}", icc_profile=gray_profile(gamma))
    luma = open_photo(tmp_path / f"in{suffix}").luma
    assert np.abs(luma - srgb_of_light((values / 65535) ** gamma) * 65535).max() <= 1


def test_each_deep_colour_of_a_profile_is_within_a_level_of_what_it_means() -> None:
    rgb = np.random.default_rng(0).integers(0, 65536, (400, 400, 3), dtype=np.uint16)
    options = {"colorspace": "rgb", "outcolorspace": "rgb", "flags": imagecodecs.CMS.FLAGS.NOOPTIMIZE}
    exact = imagecodecs.cms_transform(rgb / 65535, ADOBE_RGB, imagecodecs.cms_profile("srgb"), outdtype="f8", **options)
    luma = page_of_array(rgb, "rgb", ADOBE_RGB).luma
    assert np.abs(luma - exact.clip(0, 1) @ [0.299, 0.587, 0.114] * 65535).max() <= 1


def test_deep_gray_keeps_its_depth_and_is_scaled_by_what_its_values_mean(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 257 + 3
    Image.fromarray(deep).save(tmp_path / "deep.png", transparency=3)
    photo = open_photo(tmp_path / "deep.png")
    assert np.array_equal(photo.luma, deep)
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha == 0, deep == 3)
    Image.fromarray(65535 - deep).save(tmp_path / "negative.tif", tiffinfo={262: 0})
    assert np.array_equal(open_photo(tmp_path / "negative.tif").luma, deep)
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    assert np.array_equal(open_photo(tmp_path / "deep.tif").luma, deep)
    level = RAMP.astype(np.uint16) * 257
    assert np.array_equal(open_photo(Image.fromarray(RAMP.astype(np.int32))).luma, level)
    assert np.array_equal(open_photo(Image.fromarray(RAMP.astype(np.float32))).luma, level)
    wide = open_photo(Image.fromarray(RAMP.astype(np.int32) * 5_000_000 - 7)).luma
    assert np.abs(wide - RAMP / RAMP.max() * 65535).max() <= 0.5


@pytest.mark.parametrize("bits", [1, 4, 7, 12])
def test_the_white_of_a_jpeg_2000_of_any_depth_is_white(bits: int) -> None:
    values = np.rint(np.tile(np.linspace(0, 2**bits - 1, 60), (40, 1))).astype(np.uint8 if bits < 8 else np.uint16)
    luma = open_photo(imagecodecs.jpeg2k_encode(values, bitspersample=bits, reversible=True, level=0)).luma
    white = 255 if bits < 8 else 65535
    assert luma.dtype == (np.uint8 if bits < 8 else np.uint16)
    assert np.array_equal(luma, np.rint(values * (white / (2**bits - 1))))


def test_a_portable_float_map_is_scaled_by_its_white() -> None:
    values = (RAMP / 255).astype("<f4")
    photo = open_photo(b"Pf\n60 40\n-1.0\n" + values[::-1].tobytes())  # from the bottom up
    assert np.array_equal(photo.luma, RAMP.astype(np.uint16) * 257)


def test_an_orientation_in_exif_counts_before_one_in_xmp(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 1
    image = Image.fromarray(RAMP).convert("RGB")
    image.save(tmp_path / "both.jpg", exif=exif, xmp=XMP)
    image.save(tmp_path / "xmp.jpg", xmp=XMP)
    image.save(tmp_path / "xmp.avif", xmp=XMP)  # which has a place of its own for it
    shapes = [open_photo(tmp_path / name).luma.shape for name in ("both.jpg", "xmp.jpg", "xmp.avif")]
    assert shapes == [(40, 60), (60, 40), (40, 60)]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_gray_of_a_png_of_any_depth_stays_transparent(tmp_path: Path, bits: int) -> None:
    row = 0b00100111 if bits == 2 else 0b10100101  # 0 2 1 3; 1 0 1 0 0 1 0 1; 10 5; 165
    pixels = [row >> shift & 2**bits - 1 for shift in range(8 - bits, -1, -bits)]
    header = struct.pack(">IIBBBBB", len(pixels), 1, bits, 0, 0, 0, 0)
    with (tmp_path / "in.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        key = struct.pack(">H", pixels[0])
        for kind, data in (
            (b"IHDR", header),
            (b"tRNS", key),
            (b"IDAT", zlib.compress(bytes([0, row]))),
            (b"IEND", b""),
        ):
            PngImagePlugin.putchunk(file, kind, data)
    alpha = open_photo(tmp_path / "in.png").alpha
    assert alpha is not None and alpha.tolist() == [[0 if pixel == pixels[0] else 255 for pixel in pixels]]


def test_a_gray_profile_counts_where_a_format_knows_no_gray(tmp_path: Path) -> None:
    image, profile = Image.fromarray(RAMP), gray_profile(1.0)
    image.save(tmp_path / "gray.png", icc_profile=profile)
    image.convert("RGB").save(tmp_path / "gray.webp", icc_profile=profile, lossless=True)
    expected = open_photo(tmp_path / "gray.png").luma
    assert not np.array_equal(expected, RAMP)
    assert np.array_equal(open_photo(tmp_path / "gray.webp").luma, expected)


def test_a_png_may_have_a_large_profile(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = Image.new("RGB", (8, 8), (90, 90, 90))
    gray.save(tmp_path / "in.png", icc_profile=profile + bytes(2**21))
    assert np.array_equal(open_photo(tmp_path / "in.png").luma, np.full((8, 8), 90))


def test_a_psd_of_16_bits_is_refused_as_what_it_is(tmp_path: Path) -> None:
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 1, 4, 4, 16, 1)
    (tmp_path / "in.psd").write_bytes(header + bytes(14) + bytes(32))
    with pytest.raises(PhotoError, match="8 bits a channel"):
        open_photo(tmp_path / "in.psd")


def test_a_netpbm_header_of_nothing_but_blanks_takes_no_time() -> None:
    assert NETPBM.match(b"P5" + b" " * 200 + b"10 10 255#c") is None
    assert NETPBM.match(b"P5 # said\n 3 #\n2\t255\n") is not None
