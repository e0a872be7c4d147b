"""Which photos there are: files, folders, patterns and lists of names; each photo once, in an order that stays."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from colorize_cli import storage
from colorize_cli.errors import PhotoError
from colorize_cli.locations import identity, is_url
from colorize_cli.manifest import MANIFEST

# What folders and patterns are searched for; a file named by hand is tried whatever its name.
_SUFFIXES = """.jpg .jpeg .jpe .jfif .mpo .png .tif .tiff .webp .bmp .dib .gif .pbm .pgm .ppm .pnm .pfm .jp2 .j2k .jpx
.jpf .avif .avifs .heic .heif .hif .tga .pcx .psd .sgi .qoi"""
PHOTO_SUFFIXES = frozenset(_SUFFIXES.split())


@dataclass(frozen=True, slots=True)
class Entry:
    """One photo that was found."""

    source: str  # its path as it was given, or built from what was given
    place: str  # where it lies under an output folder, its own name included, with `/` between the parts


@dataclass
class Listing:
    """What the inputs came to."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)  # an input, and why nothing can be had from it
    hidden: int = 0  # files and folders passed over for their leading dot
    others: int = 0  # files passed over because they are no photos by their names
    manifests: list[str] = field(default_factory=list)  # folders on the way that hold a manifest


def list_photos(inputs: Iterable[str], *, recursive: bool = False, named: Iterable[str] = ()) -> Listing:
    """Find the photos of `inputs`, in their order; a folder's by name, its own before those of its subfolders.

    A file keeps its name under an output folder; a folder's photos keep the tree below the folder, a pattern's the
    tree below its first part with a wildcard.

    Args:
        inputs: files, folders, URLs, or patterns such as `scans/**/*.jpg` where no file has that name.
        recursive: search subfolders too. Linked folders are followed, each folder is entered once.
        named: more files and folders, from a list; each keeps the folders that its name gives.
    """
    search = _Search(recursive)
    for given in inputs:
        if is_url(given):
            search.remote(given)
        elif not os.path.lexists(given) and glob.has_magic(given):
            search.pattern(given)
        else:
            search.path(given, os.path.basename(os.path.abspath(given)))
    for given in named:
        if is_url(given):
            search.remote(given)
            continue
        parts = PurePath(given).parts
        relative = (
            PurePath(os.path.abspath(given)).parts[1:] if PurePath(given).is_absolute() or ".." in parts else parts
        )
        search.path(given, "/".join(relative), keep_tree=True)
    return search.listing


def read_names(content: bytes) -> list[str]:
    """The names of a list: separated by NUL bytes if there are any (`find -print0`), else one a line."""
    names = content.split(b"\0") if b"\0" in content else [line.rstrip(b"\r") for line in content.split(b"\n")]
    return [os.fsdecode(name) for name in names if name]


class _Search:
    def __init__(self, recursive: bool) -> None:
        self.recursive = recursive
        self.listing = Listing()
        self.found: set[str] = set()
        self.met = 0  # photos, again where inputs overlap, and folders of which all is said
        self.searched = 0  # folders given
        self.entered: dict[tuple[int, int], int] = {}  # device and inode of folders, and which of those led there

    def add(self, source: str, place: str) -> None:
        self.met += 1
        absolute = identity(source)
        if absolute not in self.found:
            self.found.add(absolute)
            self.listing.entries.append(Entry(source, place))

    def path(self, given: str, place: str, *, keep_tree: bool = False) -> None:
        if os.path.isdir(given):
            self.folder(given, f"{place}/" if keep_tree else "")
        else:
            self.add(given, place)

    def remote(self, url: str) -> None:
        """Add the photo, or the photos of the folder, at a URL."""
        url = url.rstrip("/")
        met = self.met
        try:
            if not storage.is_folder(url):
                self.add(url, url.rpartition("/")[2])
                return
            for place in storage.files(url, self.recursive):
                if any(part.startswith(".") for part in place.split("/")):
                    self.listing.hidden += 1
                elif os.path.splitext(place)[1].lower() in PHOTO_SUFFIXES:
                    self.add(f"{url}/{place}", place)
                else:
                    self.listing.others += 1
        except PhotoError as error:
            self.listing.problems.append((url, str(error)))
            return
        if self.met == met:
            self.listing.problems.append((url, f"{url}: no photos in this folder"))

    def pattern(self, pattern: str) -> None:
        parts = [*Path(pattern).parts]
        if parts[-1] == "**":
            parts.append("*")
        first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:first])
        try:
            matches = sorted(root.glob("/".join(parts[first:])))  # pathlib's `**` enters no linked folder
        except (OSError, ValueError) as error:
            self.listing.problems.append((pattern, f"{pattern}: the pattern cannot be searched for ({error})"))
            return
        met = self.met
        for path in matches:
            relative = path.relative_to(root)
            if any(part.startswith(".") for part in relative.parts):
                self.listing.hidden += 1
            elif path.is_dir():
                if "**" not in parts:  # whose matches are also the folders of what it matches
                    self.folder(str(path), f"{relative.as_posix()}/")
            elif path.suffix.lower() in PHOTO_SUFFIXES and _may_be_read(path):
                self.add(str(path), relative.as_posix())
            else:
                self.listing.others += 1
        if self.met == met:
            self.listing.problems.append((pattern, f"{pattern}: no such file, and no photo has a name of that pattern"))

    def folder(self, given: str, place: str) -> None:
        """Add the photos of a folder, whose places begin with `place`."""
        self.searched += 1
        met, closed = self.met, 0
        waiting = [(given, place)]
        while waiting:
            folder, place = waiting.pop()
            try:
                status = os.stat(folder)
                number = (status.st_dev, status.st_ino)
                if number in self.entered and folder != given:
                    self.met += self.entered[number] != self.searched
                    continue
                self.entered[number] = self.searched
                with os.scandir(folder) as items:
                    subfolders = self.items(sorted(items, key=lambda item: item.name), place)
            except OSError as error:
                reason = f"{folder}: the folder cannot be read ({error.strerror}); change its rights or leave it out"
                self.listing.problems.append((folder, reason))
                self.met += 1
                continue
            if self.recursive:
                waiting.extend(reversed(subfolders))
            else:
                closed += len(subfolders)
        if self.met == met:
            hint = f"; add --recursive to search its {closed} subfolders" if closed else ""
            self.listing.problems.append((given, f"{given}: no photos in this folder{hint}"))

    def items(self, items: Sequence[os.DirEntry[str]], place: str) -> list[tuple[str, str]]:
        """Add the photos among a folder's items; returns its subfolders and their places."""
        subfolders = []
        for item in items:
            if item.name.startswith("."):
                self.listing.hidden += 1
            elif _is_folder(item):
                subfolders.append((item.path, f"{place}{item.name}/"))
            elif item.name == MANIFEST:
                self.listing.manifests.append(os.path.dirname(item.path))
            elif os.path.splitext(item.name)[1].lower() in PHOTO_SUFFIXES and _may_be_read(item):
                self.add(item.path, f"{place}{item.name}")
            else:
                self.listing.others += 1
        return subfolders


def _is_folder(item: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link in circles, or to where one may not look, is none."""
    try:
        return item.is_dir()
    except OSError:
        return False


def _may_be_read(item: os.DirEntry[str] | Path) -> bool:
    """Whether it is a file, or a link to one, be it gone: that is told when it is opened."""
    try:
        return item.is_file() or (item.is_symlink() and not os.path.exists(item))
    except OSError:  # a link in circles, or to where one may not look
        return True
