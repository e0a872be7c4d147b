"""One small gray picture as files of every format, depth, mode, orientation and profile that a photo may come in."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from PIL import Image, ImageCms

HEIGHT, WIDTH = 36, 50
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
GRAY = (0.5 + 0.45 * np.sin(X / 6 + Y / 15) * np.cos(Y / 9)) * (0.6 + 0.4 * X / WIDTH)  # (36, 50), 0..1
ALPHA = np.where(X + Y > 40, 1.0, 0.25)
UNDO = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how each orientation is stored, as Pillow turns
SEPIA = np.array([1.0, 0.84, 0.62])
ADOBE_RGB = bytes(imagecodecs.cms_profile("adobergb"))


@dataclass(frozen=True)
class Specimen:
    """One file of the zoo, and what must come of it."""

    name: str
    write: Callable[[Path], Any]
    luma: np.ndarray  # (H, W) float, 0..1, upright
    tolerance: float = 0.6  # levels of 255
    deep: bool = False
    alpha: bool = False
    pages: int = 1
    suffix: str | None = None  # of the result, if another


def levels(values: np.ndarray, bits: int) -> np.ndarray:
    """0..1 as whole numbers of so many bits."""
    return np.rint(values * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


G8, G16, A8, A16 = levels(GRAY, 8), levels(GRAY, 16), levels(ALPHA, 8), levels(ALPHA, 16)


def rgb(gray: np.ndarray) -> np.ndarray:
    """Gray as RGB."""
    return np.repeat(gray[..., None], 3, axis=2)


def toned(bits: int) -> np.ndarray:
    """A sepia print."""
    return levels(GRAY[..., None] * SEPIA, bits)


TONED = GRAY * (SEPIA @ [0.299, 0.587, 0.114])


def image(pixels: np.ndarray, mode: str | None = None) -> Image.Image:
    """Pixels as a Pillow image, of another mode if asked."""
    picture = Image.fromarray(pixels)
    return picture.convert(mode) if mode else picture


def pillow(
    name: str, picture: Image.Image, luma: np.ndarray = GRAY, tolerance: float = 0.6, **options: Any
) -> Specimen:
    """A file that Pillow writes."""
    known = {key: options.pop(key) for key in ("deep", "alpha", "pages", "suffix") if key in options}
    return Specimen(name, lambda path: picture.save(path, **options), luma, tolerance, **known)


def raw(name: str, content: bytes, luma: np.ndarray = GRAY, tolerance: float = 0.6, **known: Any) -> Specimen:
    """A file of these bytes."""
    return Specimen(name, lambda path: path.write_bytes(content), luma, tolerance, **known)


def tiff(name: str, pixels: np.ndarray, luma: np.ndarray = GRAY, tolerance: float = 0.6, **options: Any) -> Specimen:
    """A file that tifffile writes."""
    known = {key: options.pop(key) for key in ("deep", "alpha", "pages", "suffix") if key in options}
    options.setdefault("photometric", "rgb" if pixels.ndim == 3 else "minisblack")
    return Specimen(name, lambda path: tifffile.imwrite(path, pixels, **options), luma, tolerance, **known)


def oriented(orientation: int, picture: Image.Image) -> tuple[Image.Image, Image.Exif]:
    """A picture as it is stored under an EXIF orientation."""
    undo = UNDO[orientation]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Kodak"
    return (picture if undo is None else picture.transpose(Image.Transpose(undo))), exif


def netpbm(kind: int, pixels: np.ndarray, white: int) -> bytes:
    """A binary PGM or PPM with a comment in its header."""
    header = f"P{kind}\n# made by hand\n{WIDTH} {HEIGHT}\n{white}\n".encode()
    return header + pixels.astype(">u2" if white > 255 else np.uint8).tobytes()


def gray_profile(gamma: float) -> bytes:
    """The smallest ICC profile of a gray device: a white point and a tone curve."""
    tags = {
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256)),
    }
    table, content = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(content), len(data))
        content += data
    header = struct.pack(">I4xI4s4s4s12x4s", 132 + 24 + len(content), 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + content


def srgb_of_light(light: np.ndarray) -> np.ndarray:
    """sRGB values, 0..1, of linear light, 0..1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def jpegs() -> Iterator[Specimen]:
    """JPEG, whose loss is a few levels."""
    gray = image(G8)
    yield pillow("gray.jpg", gray, tolerance=6, quality=95)
    yield pillow("gray-progressive.jpg", gray, tolerance=6, quality=95, progressive=True)
    yield pillow("rgb.jpg", image(rgb(G8)), tolerance=6, quality=95, subsampling=0)
    yield pillow("rgb-halved.jpeg", image(rgb(G8)), tolerance=6, quality=95, subsampling=2)
    yield pillow("sepia.jpg", image(toned(8)), TONED, 8, quality=98, subsampling=0)
    yield pillow("cmyk.jpg", image(rgb(G8), "CMYK"), tolerance=6, quality=95)
    ink = 255 - np.dstack([rgb(G8), np.full_like(G8, 255)])
    yield raw("ycck.jpg", imagecodecs.jpeg8_encode(255 - ink, 98, colorspace="cmyk", outcolorspace="ycck"), tolerance=8)
    yield pillow("linear.jpg", gray, srgb_of_light(GRAY), 30, quality=100, icc_profile=gray_profile(1.0))
    yield pillow("adobe.jpg", image(rgb(G8)), tolerance=12, quality=98, icc_profile=ADOBE_RGB)
    yield pillow("broken-profile.jpg", image(rgb(G8)), tolerance=6, quality=95, icc_profile=b"none at all")
    other = pillow("two.mpo", gray, tolerance=9, format="MPO", save_all=True, append_images=[gray], suffix=".jpg")
    yield other
    for orientation in range(1, 9):
        stored, exif = oriented(orientation, gray)
        yield pillow(f"turned-{orientation}.jpg", stored, tolerance=6, quality=95, exif=exif)


def pngs() -> Iterator[Specimen]:
    """PNG, exact in every depth."""
    yield pillow("one-bit.png", image(G8 > 127), (G8 > 127).astype(float))
    for bits in (2, 4):
        few = levels(GRAY, bits)
        palette = Image.fromarray(few).convert("P")
        palette.putpalette(np.repeat(np.arange(2**bits) * (255 // (2**bits - 1)), 3).astype(np.uint8).tobytes())
        yield pillow(f"palette-{bits}.png", palette, few / (2**bits - 1), bits=bits)
        yield raw(f"gray-{bits}.png", packed_png(few, bits), few / (2**bits - 1))
    yield pillow("gray.png", image(G8))
    yield pillow("palette.png", image(G8, "P"))
    yield pillow("palette-clear.png", image(G8, "P"), transparency=bytes(A8.ravel()[:256]), alpha=True)
    yield pillow("gray-clear.png", image(G8), transparency=int(G8[0, 0]), alpha=True)
    yield pillow("gray-alpha.png", image(np.dstack([G8, A8])), alpha=True)
    yield pillow("rgb.png", image(rgb(G8)))
    yield pillow("rgba.png", image(np.dstack([rgb(G8), A8])), alpha=True)
    yield pillow("sepia.png", image(toned(8)), TONED, 1)
    yield pillow("linear.png", image(G8), srgb_of_light(GRAY), 12, icc_profile=gray_profile(1.0))
    stored, exif = oriented(8, image(G8))
    yield pillow("turned-8.png", stored, exif=exif)
    yield pillow("gray-16.png", image(G16), tolerance=0.01, deep=True)
    for name, pixels, alpha in (
        ("gray-alpha-16", np.dstack([G16, A16]), True),
        ("rgb-16", rgb(G16), False),
        ("rgba-16", np.dstack([rgb(G16), A16]), True),
    ):
        yield raw(f"{name}.png", imagecodecs.png_encode(pixels), tolerance=0.01, deep=True, alpha=alpha)
    yield raw("sepia-16.png", imagecodecs.png_encode(toned(16)), TONED, 0.01, deep=True)
    linear = io.BytesIO()
    image(G16).save(linear, "PNG", icc_profile=gray_profile(1.0))
    yield raw("linear-16.png", linear.getvalue(), srgb_of_light(GRAY), 0.2, deep=True)


def packed_png(few: np.ndarray, bits: int) -> bytes:
    """A gray PNG of 2 or 4 bits, which Pillow does not write: a palette one, whose header says gray."""
    file = io.BytesIO()
    palette = Image.fromarray(few).convert("P")
    palette.putpalette(np.repeat(np.arange(2**bits), 3).astype(np.uint8).tobytes())
    palette.save(file, "PNG", bits=bits)
    chunks = file.getvalue()
    start = chunks.index(b"PLTE") - 4
    (size,) = struct.unpack_from(">I", chunks, start)
    chunks = chunks[:start] + chunks[start + 12 + size :]
    header = bytearray(chunks[12:29])
    header[4 + 9] = 0
    return chunks[:12] + bytes(header) + struct.pack(">I", zlib.crc32(header)) + chunks[33:]


def tiffs() -> Iterator[Specimen]:
    """TIFF."""
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield pillow(f"gray-{compression}.tif", image(G8), compression=compression)
    yield pillow("gray-jpeg.tif", image(G8), tolerance=12, compression="jpeg")
    yield tiff("rgb-webp.tif", rgb(G8), tolerance=12, compression="webp")
    yield tiff("rgb-png.tif", rgb(G8), compression="png")
    yield pillow("one-bit-group4.tif", image(G8 > 127), (G8 > 127).astype(float), compression="group4")
    yield pillow("cmyk.tif", image(rgb(G8), "CMYK"), tolerance=1)
    yield pillow("rgba.tiff", image(np.dstack([rgb(G8), A8])), alpha=True)
    yield tiff("white-is-zero.tif", 255 - G8, photometric="miniswhite")
    yield tiff("gray-16.tif", G16, tolerance=0.01, deep=True)
    yield tiff("gray-16-big-endian.tif", G16, tolerance=0.01, deep=True, byteorder=">")
    yield tiff("gray-16-lzw.tif", G16, tolerance=0.01, deep=True, compression="lzw", predictor=True)
    yield tiff("gray-16-tiles.tif", G16, tolerance=0.01, deep=True, tile=(16, 16), compression="zlib")
    yield tiff("gray-16-large.tif", G16, tolerance=0.01, deep=True, bigtiff=True)
    yield tiff("gray-8-large.tif", G8, bigtiff=True)
    yield tiff("white-is-zero-16.tif", 65535 - G16, tolerance=0.01, deep=True, photometric="miniswhite")
    yield tiff("rgb-16.tif", rgb(G16), tolerance=0.01, deep=True)
    yield tiff("sepia-16.tif", toned(16), TONED, 0.01, deep=True)
    yield tiff("rgb-16-planes.tif", rgb(G16).transpose(2, 0, 1), tolerance=0.01, deep=True, planarconfig="separate")
    rgba = np.dstack([rgb(G16), A16])
    yield tiff("rgba-16.tif", rgba, tolerance=0.01, deep=True, alpha=True, extrasamples=["unassalpha"])
    over = np.dstack([levels(rgb(GRAY) * ALPHA[..., None], 16), A16])
    yield tiff("rgba-16-over.tif", over, tolerance=0.02, deep=True, alpha=True, extrasamples=["assocalpha"])
    yield tiff("gray-alpha-16.tif", np.dstack([G16, A16]), tolerance=0.01, deep=True, alpha=True,
               photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])  # fmt: skip
    ink = np.dstack([np.zeros((HEIGHT, WIDTH, 3), np.uint16), 65535 - G16])
    yield tiff("cmyk-16.tif", ink, tolerance=0.01, deep=True, photometric="separated")
    yield tiff("float.tif", GRAY.astype(np.float32), tolerance=0.01, deep=True)
    yield tiff("whole-32.tif", np.rint(GRAY * (2**32 - 1)).astype(np.uint32), tolerance=0.01, deep=True)
    yield tiff("twelve.tif", levels(GRAY, 12), tolerance=0.1, deep=True, bitspersample=12, compression="none")
    yield tiff("pages-16.tif", np.stack([G16, G16]), tolerance=0.01, deep=True, pages=2, photometric="minisblack")
    pages = [image(G8), image(rgb(G8))]
    yield pillow("pages.tif", image(G8), save_all=True, append_images=pages, pages=3)
    stored, _ = oriented(6, image(G8))
    yield pillow("turned-6.tif", stored, tiffinfo={274: 6})
    deep = np.ascontiguousarray(np.rot90(G16, 1))
    yield tiff("turned-6-16.tif", deep, tolerance=0.01, deep=True, extratags=[(274, 3, 1, 6, True)])

    def with_preview(path: Path) -> None:
        with tifffile.TiffWriter(path) as file:
            file.write(np.zeros((9, 9), np.uint8), subfiletype=1)
            file.write(G16, photometric="minisblack")

    yield Specimen("preview-first.tif", with_preview, GRAY, 0.01, deep=True)


def others() -> Iterator[Specimen]:
    """All other formats."""
    yield pillow("lossy.webp", image(rgb(G8)), tolerance=10, quality=95)
    yield pillow("exact.webp", image(rgb(G8)), lossless=True)
    yield pillow("clear.webp", image(np.dstack([rgb(G8), A8])), lossless=True, exact=True, alpha=True)
    moving = {"save_all": True, "append_images": [image(255 - rgb(G8))]}
    yield pillow("moving-lossy.webp", image(rgb(G8)), tolerance=10, quality=95, **moving)
    yield pillow("moving-exact.webp", image(rgb(G8)), lossless=True, **moving)
    yield pillow("gray.bmp", image(G8))
    yield pillow("rgb.bmp", image(rgb(G8)))
    yield pillow("one-bit.bmp", image(G8 > 127), (G8 > 127).astype(float))
    yield pillow("plain.gif", image(G8))
    yield pillow("clear.gif", image(G8, "P"), transparency=int(G8[0, 0]), alpha=True)
    yield pillow("moving.gif", image(G8), save_all=True, append_images=[image(255 - G8)])
    yield pillow("one-bit.pbm", image(G8 > 127), (G8 > 127).astype(float))
    yield raw("gray.pgm", netpbm(5, G8, 255))
    yield raw("gray-16.pgm", netpbm(5, G16, 65535), tolerance=0.01, deep=True)
    yield raw("gray-10.pgm", netpbm(5, levels(GRAY, 10), 1023), tolerance=0.2, deep=True)
    dark = np.rint(GRAY * 200).astype(np.uint16)
    yield raw("dark-16.pgm", netpbm(5, dark, 65535), dark / 65535, 0.01, deep=True)
    text = f"P2 {WIDTH} {HEIGHT} 65535\n" + "\n".join(" ".join(map(str, row)) for row in dark)
    yield raw("text-16.pgm", text.encode(), dark / 65535, 0.01, deep=True)
    yield raw("rgb.ppm", netpbm(6, rgb(G8), 255))
    yield raw("rgb-16.ppm", netpbm(6, rgb(G16), 65535), tolerance=0.01, deep=True)
    yield pillow("gray.jp2", image(G8))
    yield pillow("rgb.jp2", image(rgb(G8)))
    for name, pixels, alpha in (("gray-16", G16, False), ("rgb-16", rgb(G16), False)):
        content = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="jp2", reversible=True)
        yield raw(f"{name}.jp2", content, tolerance=0.01, deep=True, alpha=alpha)
    yield pillow("rgb.avif", image(rgb(G8)), tolerance=12, quality=95)
    yield pillow("clear.avif", image(np.dstack([rgb(G8), A8])), tolerance=12, quality=95, alpha=True)
    yield raw("ten.avif", imagecodecs.avif_encode(rgb(levels(GRAY, 10)), 95, bitspersample=10), tolerance=12)

    def heic(path: Path) -> None:
        pillow_heif.from_pillow(image(rgb(G8))).save(path, quality=95)

    yield Specimen("rgb.heic", heic, GRAY, 12)
    yield pillow("gray.tga", image(G8), suffix=".png")
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    yield pillow("lab.tif", ImageCms.applyTransform(image(rgb(G8)), lab), tolerance=3)  # type: ignore[arg-type]


def zoo() -> list[Specimen]:
    """Every specimen, each of another name."""
    specimens = [*jpegs(), *pngs(), *tiffs(), *others()]
    assert len({specimen.name for specimen in specimens}) == len(specimens)
    return specimens
