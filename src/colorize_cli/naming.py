"""What pictures are called: `photo.jpg` becomes `photo_color1.jpg`, and no two photos share a name."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from colorize_cli.listing import Entry
from colorize_cli.locations import below

LONGEST_NAME = 255  # bytes, on every common file system
LONGEST_ENDING = 24  # bytes of `_color1.jpg`, with room for many samples


@dataclass(frozen=True, slots=True)
class Job:
    """One photo and where its pictures go."""

    source: str  # the photo's path
    folder: str  # where its pictures go
    name: str  # theirs, up to `_color1`, and no other photo's
    place: str  # the photo's own under the output folder: what shards are told by

    def outputs(self, count: int, suffix: str) -> list[str]:
        """The paths of `count` pictures."""
        return [os.path.join(self.folder, f"{self.name}_color{index + 1}{suffix}") for index in range(count)]


def name_jobs(entries: Sequence[Entry], output: str | None) -> list[Job]:
    """Give each photo's pictures a folder and a name, `output`'s tree or (None) the photo's own folder.

    Photos that would share a name get longer ones until none do: `photo`, `photo.jpg`, `folder_photo.jpg`, and at last
    one with a digest of the photo's path. The format of a picture is known only once its photo is opened, so suffixes
    do not tell names apart; nor does the case of letters, which some file systems do not tell.
    """
    folders = [_folder(entry, output) for entry in entries]
    lengths = [0] * len(entries)  # which of the names above each photo has
    while True:
        names = [_name(entry, length) for entry, length in zip(entries, lengths, strict=True)]
        keys = [
            (folder if output is not None else os.path.abspath(folder), _folded(name))
            for folder, name in zip(folders, names, strict=True)
        ]
        users = Counter(keys)
        shared = [index for index, key in enumerate(keys) if users[key] > 1 and lengths[index] < 3]
        if not shared:
            break
        for index in shared:
            lengths[index] += 1
    return [
        Job(entry.source, folder, name, entry.place)
        for entry, folder, name in zip(entries, folders, names, strict=True)
    ]


def named_as_before(jobs: Iterable[Job], every: Iterable[Job], had: Callable[[str, str, str], bool]) -> list[Job]:
    """Jobs under the names that their pictures had in an earlier run, by what `had` says of a folder, name and photo.

    Photos that would share a name may have come or gone since. `every` are all the jobs that names are told apart from.
    """
    taken = {(job.folder, _folded(job.name)) for job in every}
    named = []
    for job in jobs:
        if not had(job.folder, job.name, job.source):
            for name in (_name(job, length) for length in range(4)):
                if (job.folder, _folded(name)) not in taken and had(job.folder, name, job.source):
                    job = replace(job, name=name)
                    break
        named.append(job)
    return named


def in_shard(job: Job, index: int, count: int) -> bool:
    """Whether a job belongs to shard `index` (from 1) of `count`: by its name, so that new photos move no old ones."""
    digest = hashlib.sha256(os.fsencode(job.place)).digest()
    return int.from_bytes(digest[:8], "big") % count == index - 1


def _folder(entry: Entry, output: str | None) -> str:
    if output is None:
        return os.path.dirname(entry.source)
    return below(output, os.path.dirname(entry.place))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _name(entry: Entry | Job, length: int) -> str:
    file = entry.place.rpartition("/")[2]
    if length == 0:
        return _fitting(os.path.splitext(file)[0])
    if length == 1:
        return _fitting(file)
    path = os.path.abspath(entry.source)
    if length == 2:
        return _fitting(f"{os.path.basename(os.path.dirname(path))}_{file}")
    return _fitting(f"{file}-{_digest(path)}")


def _fitting(name: str) -> str:
    """A name short enough for its ending; a cut one has a digest of the whole."""
    most = LONGEST_NAME - LONGEST_ENDING
    if len(os.fsencode(name)) <= most:
        return name
    ending = f"-{_digest(name)}"
    while len(os.fsencode(name)) > most - len(ending):
        name = name[:-1]
    return name + ending


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
