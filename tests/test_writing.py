"""Pictures go out in the format asked for, with all that it holds; what it cannot hold is told or refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from colorize_cli.config import OutputOptions
from colorize_cli.errors import PhotoError
from colorize_cli.photo import Metadata, Page, Photo, likely_suffix, open_photo, output_suffix, save_photo
from colorize_cli.photo.luma import SRGB
from colorize_cli.steps import Shaping, StepError, look
from tests.conftest import RAMP, gray, saved_again, write_gray
from tests.zoo import gray_profile


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("JPEG", ".JPG", ".JPG"),
        ("JPEG", ".jpeg", ".jpeg"),
        ("PNG", ".jpg", ".png"),
        ("GIF", ".gif", ".png"),
        ("PPM", ".pgm", ".ppm"),
        ("WEBP", ".webp", ".webp"),
        ("TIFF", ".tiff", ".tiff"),
        ("AVIF", ".avif", ".avif"),
        ("JPEG2000", ".jp2", ".jp2"),
        ("MPO", ".jpg", ".jpg"),
    ],
)
def test_the_suffix_follows_what_the_file_is(kind: str, given: str, expected: str) -> None:
    assert output_suffix(Photo((Page(RAMP),), format=kind), given) == expected


def test_what_a_format_cannot_hold_does_not_stop_the_picture(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP).convert("RGB")
    for suffix in (".jpg", ".png", ".bmp"):
        metadata = Metadata(exif=b"x" * 70_000, xmp=b"<" * 70_000, comments=(b"-" * 70_000,))
        photo = Photo((Page(RAMP),), metadata=metadata)
        save_photo([np.asarray(image)], photo, tmp_path / f"out{suffix}")
        assert np.abs(open_photo(tmp_path / f"out{suffix}").luma.astype(int) - RAMP).max() <= 3


def test_the_srgb_profile_of_the_package_is_attached(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "in.png", icc_profile=gray_profile(1.8))
    photo = open_photo(tmp_path / "in.png")
    for suffix in (".jpg", ".png", ".tif", ".webp", ".avif"):
        save_photo([gray(photo.luma)], photo, tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as image:
            assert image.info["icc_profile"] == SRGB
    assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(SRGB))).strip() == "sRGB"


def test_a_turned_picture_of_one_column_is_written(tmp_path: Path) -> None:
    page = np.arange(90, dtype=np.uint8).reshape(1, 30, 3).transpose(1, 0, 2)
    save_photo([page], Photo((Page(page[..., 0]),)), tmp_path / "out.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), page)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_a_saved_picture_keeps_its_luma_and_its_grain_can_be_saved(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    luma = np.asarray(Image.fromarray(noise).convert("L")).astype(int)
    save_photo([noise], Photo((Page(RAMP),)), tmp_path / f"out{suffix}")
    saved = open_photo(tmp_path / f"out{suffix}").luma
    assert abs(saved.mean() - luma.mean()) <= 1
    if suffix in {".png", ".tif"}:
        assert np.array_equal(saved, luma)
    if suffix == ".jpg":
        with Image.open(tmp_path / "out.jpg") as image:
            assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # 4:4:4


def test_alpha_survives_webp_and_is_dropped_from_jpeg(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP).convert("RGBA")
    image.putalpha(Image.fromarray(RAMP))
    image.save(tmp_path / "in.webp", lossless=True)
    assert np.array_equal(open_photo(saved_again(tmp_path / "in.webp")).alpha, RAMP)
    assert open_photo(saved_again(tmp_path / "in.webp", ".jpg")).alpha is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [(".JPG", ".JPG"), (".pgm", ".ppm"), (".mpo", ".jpg"), (".j2k", ".jp2"), (".hif", ".heic"), (".gif", ".png")],
)
def test_the_suffix_is_foreseen_by_the_name_alone(given: str, expected: str) -> None:
    assert likely_suffix(given, None) == expected
    assert likely_suffix(given, "webp") == ".webp"
    assert likely_suffix(given, "jpeg") == (".JPG" if given == ".JPG" else ".jpeg")


def test_a_photo_too_large_for_a_format_is_refused_before_it_is_drawn(tmp_path: Path) -> None:
    photo = write_gray(tmp_path / "long.png", 16_384, 2)
    webp = OutputOptions(format="webp")
    with pytest.raises(StepError, match="WEBP holds 16,383 pixels a side at most"):
        look(str(photo), Shaping(output=webp))
    assert look(str(photo), Shaping(output=webp, size="256")).suffix == ".webp"


def test_sixteen_bits_that_become_eight_and_iptc_that_goes_are_told(tmp_path: Path) -> None:
    photo = Photo((Page(RAMP.astype(np.uint16)),), metadata=Metadata(photoshop=b"8BIM\4\4\0\0\0\0\0\2IP"))
    notes = save_photo([gray(RAMP.astype(np.uint16))], photo, tmp_path / "out.webp")
    assert notes == [
        "WEBP holds no IPTC: the photo's is left out",
        "WEBP holds 8 bits a channel: the photo's 16 are rounded",
    ]
    assert save_photo([gray(RAMP.astype(np.uint16))], photo, tmp_path / "out.png") == []


def test_the_longest_avif_that_is_written_can_be_read(tmp_path: Path) -> None:
    luma = np.full((8, 32_768), 90, dtype=np.uint8)
    save_photo([gray(luma)], Photo((Page(luma),)), tmp_path / "out.avif")
    assert open_photo(tmp_path / "out.avif").luma.shape == luma.shape
    longer = np.full((8, 32_769), 90, dtype=np.uint8)
    with pytest.raises(PhotoError, match="32,768 pixels"):
        save_photo([gray(longer)], Photo((Page(longer),)), tmp_path / "longer.avif")
