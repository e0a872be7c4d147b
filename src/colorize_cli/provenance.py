"""What made a picture: everything that it takes to make it again from its photo, kept in its XMP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from colorize_cli import xmp

# IPTC's word for a picture that was recorded in part and made by a trained model in part.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
IPTC_EXTENSION = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
NAMESPACE = "urn:coltran:colorize:1:"
RECORD = (NAMESPACE, "Provenance")
PREFIXES = {IPTC_EXTENSION: "Iptc4xmpExt", NAMESPACE: "colorize"}


@dataclass(frozen=True)
class Provenance:
    """The origin of one picture. It holds no time and no folder, so that equal pictures are equal files.

    The number of samples asked for is not part of it: sample k is the same whatever it is.
    """

    version: str  # of this package
    model: str  # its name
    model_sha256: str  # of its model.json, which holds the sha256 of each stage
    sample: int  # from 1
    options: Mapping[str, Any]  # all that shape the picture: temperature, seed, saturation, size, quality, ...
    dtype: Mapping[str, str]  # by stage
    device: str
    threads: int
    torch: str  # its version
    input: str  # the photo's file name, without its folder; empty if it had none
    input_sha256: str  # of the photo's file; empty if it was none

    def to_json(self) -> str:
        """One line, always the same for the same record."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """The record that `to_json` gave; fields that a later version added are passed over.

        Raises ValueError where it is none.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("no record")
        kinds = {"sample": int, "threads": int, "options": dict, "dtype": dict}
        known: dict[str, Any] = {}
        for entry in fields(cls):
            value = values.get(entry.name)
            if not isinstance(value, kinds.get(entry.name, str)):
                raise ValueError(f"{entry.name} is {value!r}")
            known[entry.name] = value
        return cls(**known)

    def to_xmp(self, packet: bytes | None = None) -> bytes:
        """`packet` (a new one if None) that tells of the model, in IPTC's words and in a record of our own."""
        return xmp.edited(
            packet,
            add={
                (IPTC_EXTENSION, "DigitalSourceType"): SOURCE_TYPE,
                (IPTC_EXTENSION, "AISystemUsed"): "colorize (ColTran)",
                (IPTC_EXTENSION, "AISystemVersionUsed"): f"{self.version}, model {self.model}",
                RECORD: self.to_json(),
            },
            prefixes=PREFIXES,
        )

    @classmethod
    def from_xmp(cls, packet: bytes) -> Provenance | None:
        """The record in a packet, if there is one."""
        if NAMESPACE.encode() not in packet:  # most are not ours
            return None
        text = xmp.property_text(packet, RECORD)
        try:
            return None if text is None else cls.from_json(text)
        except ValueError:
            return None


def read_provenance(path: Path) -> Provenance | None:
    """What made a picture, from its file's headers alone: no pixel is decoded.

    None for a file that this tool did not make, that was told to keep quiet about it, whose format holds no XMP, or
    that cannot be read.
    """
    packet = xmp.read_packet(path)
    return None if packet is None else Provenance.from_xmp(packet)
