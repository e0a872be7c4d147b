"""Photographs for training: decoded once into a memory-mapped cache, cropped and aged on the fly."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import lzma
import math
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from colorize_cli.config import BACKBONE_SIZE, CORE_SIZE, FULL_SIZE, LEARNING_SIZE
from colorize_cli.errors import PhotoError
from colorize_cli.photo import backbone_view, squash

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


def read_photos(source: Path) -> Iterator[tuple[str, Image.Image]]:
    """Names and RGB photos of a folder, a tar or a tar.gz, in their order there (a folder's: sorted).

    Raises `PhotoError` for a source that is none of these, and for a photo that cannot be read.
    """
    if source.is_dir():
        for path in photo_files(source):
            yield path.stem, _rgb(path, str(path))
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                if not member.isfile() or Path(member.name).suffix.lower() not in PHOTO_SUFFIXES:
                    continue
                file = archive.extractfile(member)
                assert file is not None
                yield Path(member.name).stem, _rgb(io.BytesIO(file.read()), f"{member.name} in {source}")
    except OSError as error:
        raise PhotoError(f"{source}: cannot be read ({error.strerror or error})") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise PhotoError(
            f"{source} is no .tar or .tar.gz, or a damaged one; give a folder or an archive of photographs"
        ) from error


def photo_files(folder: Path) -> list[Path]:
    """The photographs in a folder and all below it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)


def _rgb(file: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PhotoError(f"{name}: cannot be read ({error}); mend it or take it away") from error


def build_cache(source: Path, folder: Path) -> None:
    """Decode `source` into `folder`: `photos.u8` (raw HWC bytes) and `index.json` (names and places).

    Raises `PhotoError` where there are none, or one cannot be read.
    """
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    offset = 0
    with (folder / "photos.u8").open("wb") as out:
        for name, image in read_photos(source):
            out.write(image.tobytes())
            names.append(name)
            places.append((offset, image.height, image.width))
            offset += image.height * image.width * 3
    if not names:
        raise PhotoError(f"{source} holds no photographs")
    (folder / "index.json").write_text(json.dumps({"names": names, "places": places}))


class PhotoCache:
    """Photos of a cache folder by number but for those of the names in `leave_out`: `HWC uint8`, memory-mapped."""

    def __init__(self, folder: Path, leave_out: Collection[str] = ()) -> None:
        index = json.loads((folder / "index.json").read_text())
        kept = [number for number, name in enumerate(index["names"]) if name not in leave_out]
        self.names: list[str] = [index["names"][number] for number in kept]
        self.places = np.array(index["places"], dtype=np.int64)[kept]
        self.left_out = set(leave_out) & set(index["names"])
        self.bytes = np.memmap(folder / "photos.u8", dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> np.ndarray:
        offset, height, width = self.places[number]
        return self.bytes[offset : offset + height * width * 3].reshape(height, width, 3)


def photos_to_learn(sources: Sequence[Path], folder: Path, leave_out: Collection[str]) -> list[PhotoCache]:
    """The photographs of `sources` by caches below `folder`, but for those of the names in `leave_out`.

    Raises `PhotoError` for a name that no photograph has: after a slip the one that was meant would be learnt from.
    """
    caches = [cached_photos(source, folder, leave_out) for source in sources]
    unknown = set(leave_out).difference(*(cache.left_out for cache in caches))
    if unknown:
        raise PhotoError(f"--leave-out {min(unknown)}: no photograph of --data has this name; give names without "
                         "folder and suffix")  # fmt: skip
    return caches


def cached_photos(source: Path, folder: Path, leave_out: Collection[str] = ()) -> PhotoCache:
    """The decoded photographs of `source`, from a cache below `folder`, which is made where it is missing."""
    if not source.exists():
        raise PhotoError(f"{source} does not exist; give a folder, a .tar or a .tar.gz of photographs")
    key = hashlib.sha256(f"{source.resolve()}:{source.stat().st_mtime_ns}".encode())
    for path in photo_files(source) if source.is_dir() else ():
        try:
            status = path.stat()
        except OSError as error:
            raise PhotoError(f"{path}: cannot be read ({error.strerror}); mend it or take it away") from error
        key.update(f"{path.relative_to(source)}:{status.st_size}:{status.st_mtime_ns}\0".encode())
    place = folder / f"{source.name.partition('.')[0]}-{key.hexdigest()[:12]}"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{place.name}-", dir=folder, ignore_cleanup_errors=True) as temporary:
            build_cache(source, Path(temporary))
            # Whole or not at all; where another run was faster, its cache is as good.
            with contextlib.suppress(OSError):
                Path(temporary).rename(place)
    photos = PhotoCache(place, leave_out)
    if not len(photos):
        raise PhotoError(f"{source} holds no photographs but those left out")
    return photos


def random_box(
    rng: np.random.Generator, height: int, width: int, least_area: float
) -> tuple[float, float, float, float]:
    """A crop `(left, top, right, bottom)` of at least `least_area` of the photo, aspect 1:2 to 2:1."""
    for _ in range(8):
        area = height * width * rng.uniform(least_area, 1.0)
        aspect = (width / height) * math.exp(rng.normal(0, 0.25))
        aspect = min(max(aspect, 0.5), 2.0)
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def crop(photo: np.ndarray, rng: np.random.Generator, size: int, least_area: float) -> np.ndarray:
    """A random crop and flip squashed to `(size, size, 3)` uint8, as the command squashes a photo."""
    image = Image.fromarray(photo)
    box = random_box(rng, photo.shape[0], photo.shape[1], least_area)
    shrinks = box[2] - box[0] >= size and box[3] - box[1] >= size
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    pixels = np.asarray(image.resize((size, size), method, box=box))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def age(rgb: np.ndarray, rng: np.random.Generator, share: float = 1.0) -> np.ndarray:
    """A photo as an old print shows it: other tones, blur, grain; the colour stays, the luma changes.

    `rgb` `(H, W, 3)` uint8; returns the same. A `share` of the photos has defects, each drawn on its own, so that most
    keep most of theirs.
    """
    if share < 1 and rng.random() >= share:
        return rgb
    image = Image.fromarray(rgb)
    luma: np.ndarray = np.asarray(image.convert("L"), dtype=np.float32)
    new = luma
    if rng.random() < 0.25:  # orthochromatic film: blue light, red dark
        weights = np.array([0.299, 0.587, 0.114]) + rng.uniform(0, 1) * np.array([-0.25, 0.0, 0.25])
        new = rgb.astype(np.float32) @ weights.astype(np.float32)
    if rng.random() < 0.25:
        radius = rng.uniform(0.3, 1.5) * rgb.shape[0] / FULL_SIZE
        blurred = Image.fromarray(new.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
        new = np.asarray(blurred, dtype=np.float32)
    if rng.random() < 0.5:
        new = 255 * (new.clip(0, 255) / 255) ** np.float32(math.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.25:
        low, high = rng.uniform(0, 60), rng.uniform(190, 255)
        new = low + new * np.float32((high - low) / 255)
    if rng.random() < 0.25:
        grain = rng.standard_normal(new.shape, dtype=np.float32)
        new = new + grain * np.float32(rng.uniform(2, 12))
    if rng.random() < 0.1:
        new = scratched(new, rng)
    aged = rgb
    if new is not luma:
        aged = (rgb + (new - luma)[..., None]).clip(0, 255).round().astype(np.uint8)
    return bordered(aged, rng) if rng.random() < 0.08 else aged


def scratched(luma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A few thin lines, light or dark, nearly upright as film has them, across `(H, W)` float32."""
    height, width = luma.shape
    out = luma.copy()
    for _ in range(int(rng.integers(1, 5))):
        first, last = sorted(rng.integers(0, height + 1, 2))
        rows = np.arange(first, last)
        columns = (rng.uniform(0, width) + rng.normal(0, 0.1) * (rows - first)).astype(int)
        inside = (columns >= 0) & (columns < width)
        out[rows[inside], columns[inside]] += np.float32(rng.choice([-1, 1]) * rng.uniform(30, 120))
    return out


def bordered(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A print's paper border around `(H, W, 3)` uint8: light, and without colour."""
    height, width = rgb.shape[:2]
    margin = max(1, round(rng.uniform(0.01, 0.08) * min(height, width)))
    out = np.full_like(rgb, int(rng.integers(190, 252)))
    out[margin : height - margin, margin : width - margin] = rgb[margin : height - margin, margin : width - margin]
    return out


def luma(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma `(H, W)` uint8 of `(H, W, 3)` uint8: Pillow's mode "L"."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).convert("L"))


class CoreSample(NamedTuple):
    """One photo as the core sees it, all uint8."""

    gray: np.ndarray  # (S, S) at the core's resolution
    eye: np.ndarray  # (192, 192), or (224, 224) of a whole photo: the backbone's gray
    rgb: np.ndarray  # (S, S, 3)
    sharp: np.ndarray  # (64, 64, 3) or (256, 256, 3): what all of these were made of


def core_sample(
    photo: np.ndarray, rng: np.random.Generator | None, resolution: int = CORE_SIZE, aged: float = 1.0
) -> CoreSample:
    """A crop of `photo` `HWC uint8` as the core sees it; a share `aged` of them through `age`.

    A photo larger than 64x64 goes through 256x256, as in the command. Without `rng` nothing is random, and the backbone
    sees the whole photo as in the command.
    """
    small = max(photo.shape[:2]) <= CORE_SIZE
    size = CORE_SIZE if small else FULL_SIZE
    if rng is None:
        rgb = squash(photo, size)
    else:
        rgb = age(crop(photo, rng, size, 0.5 if small else 0.2), rng, aged)
    gray = luma(rgb)
    eye = backbone_view(gray, BACKBONE_SIZE if rng is None else LEARNING_SIZE)
    return CoreSample(squash(gray, resolution), eye, squash(rgb, resolution), rgb)
