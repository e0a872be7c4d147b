"""Photos come in upright and whole, and go out in their own format with what was set aside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from colorize_cli.errors import PhotoError
from colorize_cli.photo import Photo, backbone_gray, open_photo, output_suffix, save_photo, square_grays
from tests.conftest import EXAMPLES

RAMP = np.add.outer(np.arange(40) * 3, np.arange(60) * 2).astype(np.uint8)  # (40, 60)
ORIENTATION = 0x0112


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
    save_photo(Image.fromarray(photo.luma).convert("RGB"), photo, out)
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
    assert photo.luma.dtype == np.uint8
    tolerance = 255 if mode == "1" else 8
    assert np.abs(photo.luma.astype(int) - RAMP).max() <= tolerance
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
        colored = Image.fromarray(photo.luma).convert("RGB")
        colored.putalpha(Image.fromarray(photo.alpha))
        save_photo(colored, photo, tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as out:
            assert out.mode == "RGBA"
            assert np.array_equal(np.asarray(out.getchannel("A")), alpha)


def test_resolution_is_kept(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png", ".tif"):
        Image.fromarray(RAMP).save(tmp_path / f"in{suffix}", dpi=(300, 300))
        photo = open_photo(tmp_path / f"in{suffix}")
        save_photo(Image.fromarray(RAMP).convert("RGB"), photo, tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as out:
            assert out.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_profile_is_applied_and_a_broken_one_ignored(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = Image.fromarray(RAMP).convert("RGB")
    for name, data in (("srgb", profile), ("broken", b"no profile at all")):
        rgb.save(tmp_path / f"{name}.png", icc_profile=data)
        luma = open_photo(tmp_path / f"{name}.png").luma
        assert np.abs(luma.astype(int) - RAMP).max() <= 1


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
        ("AVIF", ".avif", ".png"),
        ("MPO", ".jpg", ".jpg"),
    ],
)
def test_the_suffix_follows_what_the_file_is(kind: str, given: str, expected: str) -> None:
    assert output_suffix(Photo(RAMP, format=kind), given) == expected


def test_grays_of_a_large_photo_are_boxed_twice() -> None:
    luma = np.random.default_rng(0).integers(0, 256, (600, 900), dtype=np.uint8)
    full, small = square_grays(luma)
    expected = Image.fromarray(luma).resize((256, 256), Image.Resampling.BOX)
    assert np.array_equal(full, np.asarray(expected))
    assert np.array_equal(small, np.asarray(expected.resize((64, 64), Image.Resampling.BOX)))


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (100, 300), (10, 20000), (256, 256), (63, 65)])
def test_grays_of_any_photo_are_squares(shape: tuple[int, int]) -> None:
    luma = np.full(shape, 77, dtype=np.uint8)
    full, small = square_grays(luma)
    assert (full.shape, small.shape, backbone_gray(full).shape) == ((256, 256), (64, 64), (192, 192))
    assert set(np.unique(full)) == set(np.unique(small)) == {77}


def test_the_small_gray_of_a_small_photo_comes_straight_from_it() -> None:
    luma = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    assert np.array_equal(square_grays(luma)[1], luma)


BAD = {
    "missing.jpg": None,
    "empty.jpg": b"",
    "text.jpg": b"dear diary " * 100,
    "truncated.jpg": (EXAMPLES / "kodim23.jpg").read_bytes()[:30_000],
    "header.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    content = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PhotoError, match=name) as raised:
        open_photo(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_folder_is_no_photo(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="folder"):
        open_photo(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"old")

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(PhotoError, match="No space left"):
        save_photo(Image.new("RGB", (4, 4)), Photo(RAMP), target)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert target.read_bytes() == b"old"


def test_saving_into_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="--output"):
        save_photo(Image.new("RGB", (4, 4)), Photo(RAMP), tmp_path / "gone" / "out.png")
