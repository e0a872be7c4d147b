"""Every kind of file comes back as it was, only in colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from colorize_cli.chroma import join
from colorize_cli.cli import cli
from colorize_cli.config import OutputOptions
from colorize_cli.photo import FORMATS, Photo, format_of, open_photo, output_suffix, save_photo
from colorize_cli.photo.luma import SRGB
from colorize_cli.provenance import Provenance, read_provenance
from tests.zoo import ALPHA, Specimen, zoo

ZOO = zoo()
COLORS = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
RECORD = Provenance("0", "tiny", "", 1, {}, {}, "cpu", 1, "2", "photo", "")
SUFFIXES = {".gif": ".png", ".pgm": ".ppm", ".pbm": ".ppm"}


def test_the_zoo_is_large() -> None:
    assert len(ZOO) >= 60


def gray_of(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma, unrounded."""
    return rgb[..., :3] @ np.array([0.299, 0.587, 0.114])


def colored(photo: Photo) -> list[np.ndarray]:
    """A photo's pages in colours that have nothing to do with it."""
    return [join(page.luma, COLORS) for page in photo.pages]


@pytest.mark.parametrize("specimen", ZOO, ids=lambda specimen: specimen.name)
def test_every_kind_of_file_comes_back_as_it_was(specimen: Specimen, tmp_path: Path) -> None:
    path = tmp_path / specimen.name
    specimen.write(path)
    photo = open_photo(path)
    white = 65535 if specimen.deep else 255
    assert len(photo.pages) == specimen.pages
    assert (photo.alpha is not None) == specimen.alpha
    for page in photo.pages:
        assert page.luma.dtype == (np.uint16 if specimen.deep else np.uint8)
        assert page.luma.shape == specimen.luma.shape
        assert np.abs(page.luma / white - specimen.luma).max() * 255 <= specimen.tolerance
    if specimen.alpha and photo.alpha is not None and "clear" not in specimen.name:
        assert np.abs(photo.alpha / white - ALPHA).max() <= 1 / 255

    suffix = output_suffix(photo, path.suffix)
    assert suffix == specimen.suffix or suffix == SUFFIXES.get(path.suffix, path.suffix)
    out = tmp_path / f"out{suffix}"
    notes = save_photo(colored(photo), photo, out, provenance=RECORD)
    kind = FORMATS[format_of(out)]
    assert (read_provenance(out) == RECORD) == kind.xmp
    assert any("no XMP" in note for note in notes) == (not kind.xmp)

    again = open_photo(out)
    assert (again.alpha is not None) == (specimen.alpha and kind.alpha)
    if again.alpha is not None and photo.alpha is not None:
        assert np.abs(again.alpha.astype(int) - photo.alpha).max() <= (4 if format_of(out) == "AVIF" else 0)
    assert len(again.pages) == specimen.pages
    deep = specimen.deep and kind.deep
    for page, before in zip(again.pages, photo.pages, strict=True):
        assert page.luma.dtype == (np.uint16 if deep else np.uint8)
        difference = np.abs(page.luma.astype(float) - before.luma)
        if again.lossless:
            assert difference.max() <= 1
        else:
            assert difference.mean() <= gray_loss(before.luma, photo, tmp_path / f"gray{suffix}") + 1.5
    if format_of(out) in {"JPEG", "PNG", "WEBP", "AVIF"} and not deep:
        with Image.open(out) as image:
            assert image.info["icc_profile"] == SRGB
            assert image.getexif().get(0x0112, 1) == 1
            assert image.mode in {"RGB", "RGBA"}
    if format_of(out) == "TIFF":
        with tifffile.TiffFile(out) as tiff:
            for page in tiff.pages:
                assert page.bitspersample == (16 if deep else 8)
                assert page.photometric == tifffile.PHOTOMETRIC.RGB


def gray_loss(luma: np.ndarray, photo: Photo, path: Path) -> float:
    """What the format costs the gray photo itself: the mean difference, in levels."""
    save_photo([np.repeat(luma[..., None], 3, axis=2)], photo, path)
    return float(np.abs(open_photo(path).luma.astype(float) - luma).mean())


@pytest.mark.parametrize("name", ["exact", "moving-exact", "lossy", "moving-lossy"])
def test_a_webp_is_lossless_where_its_photos_first_frame_was(tmp_path: Path, name: str) -> None:
    (specimen,) = (one for one in ZOO if one.name == f"{name}.webp")
    specimen.write(tmp_path / "photo.webp")
    photo = open_photo(tmp_path / "photo.webp")
    save_photo(colored(photo), photo, tmp_path / "out.webp")
    exact = "exact" in name
    assert (photo.lossless, open_photo(tmp_path / "out.webp").lossless) == (exact, exact)
    assert (b"VP8L" in (tmp_path / "out.webp").read_bytes()) == exact


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff", "webp", "avif", "heic", "jp2", "bmp", "ppm"])
def test_a_deep_photo_with_alpha_goes_into_every_format(tmp_path: Path, name: str) -> None:
    (specimen,) = (one for one in ZOO if one.name == "rgba-16.png")
    specimen.write(tmp_path / "photo.png")
    photo = open_photo(tmp_path / "photo.png")
    options = OutputOptions(format=name)
    out = tmp_path / f"out{output_suffix(photo, '.png', options)}"
    notes = save_photo(colored(photo), photo, out, options, RECORD)
    again = open_photo(out)
    kind = FORMATS[format_of(out)]
    assert again.luma.dtype == (np.uint16 if kind.deep else np.uint8)
    assert (again.alpha is not None) == kind.alpha
    assert any("transparency" in note for note in notes) == (not kind.alpha)


def test_the_command_colours_every_page_at_full_depth(tmp_path: Path, tiny_model: Path) -> None:
    (specimen,) = (one for one in ZOO if one.name == "pages-16.tif")
    specimen.write(tmp_path / "pages.tif")
    words = [str(tmp_path / "pages.tif"), "-n", "1", "--model", str(tiny_model)]
    assert CliRunner().invoke(cli, words, standalone_mode=False).return_value == 0
    with tifffile.TiffFile(tmp_path / "pages_color1.tif") as file:
        pages = [page.asarray() for page in file.pages]
    for before, after in zip(open_photo(tmp_path / "pages.tif").pages, pages, strict=True):
        assert after.dtype == np.uint16
        assert np.abs(gray_of(after) - before.luma).max() <= 1
        assert np.ptp(after.astype(int), axis=2).max() > 257  # it is in colour
    refused = CliRunner().invoke(cli, [*words, "--format", "png"], standalone_mode=False)
    assert refused.return_value == 1
    assert "pages.tif: 2 pages do not fit" in refused.stderr
    assert refused.stderr.count("pages.tif") == 1
