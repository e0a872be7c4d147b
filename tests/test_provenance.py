"""A picture says what made it, and keeps all else that its metadata said."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from colorize_cli import xmp
from colorize_cli.provenance import IPTC_EXTENSION, SOURCE_TYPE, Provenance, read_provenance

RECORD = Provenance(
    version="0.1.0",
    model="tiny & <small>",
    model_sha256="0" * 64,
    sample=2,
    options={"temperature": 1.0, "seed": 7, "format": None},
    dtype={"core": "float32"},
    device="cpu",
    threads=2,
    torch="2.13.0",
    input='Grandma\'s "photo"\n\udcff]]>.jpg',
    input_sha256="f" * 64,
)
THEIRS = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
 <r:Description r:about='' xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" I:DigitalSourceType = 'a>b'
   xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/jpeg">
  <dc:title><r:Alt><r:li xml:lang="x-default">Aunt Mary &amp; co</r:li></r:Alt></dc:title>
  <I:AISystemUsed>another</I:AISystemUsed>
 </r:Description>
</r:RDF></x:xmpmeta>    <?xpacket end="w"?>"""
SOURCE = (IPTC_EXTENSION, "DigitalSourceType")
DC = "http://purl.org/dc/elements/1.1/"


def test_a_record_comes_back_from_a_packet_of_its_own() -> None:
    packet = RECORD.to_xmp()
    assert Provenance.from_xmp(packet) == RECORD
    assert xmp.property_text(packet, SOURCE) == SOURCE_TYPE


def test_a_record_joins_a_packet_and_leaves_its_other_bytes() -> None:
    packet = RECORD.to_xmp(THEIRS)
    assert Provenance.from_xmp(packet) == RECORD
    assert xmp.property_text(packet, SOURCE) == SOURCE_TYPE
    for kept in (b"Aunt Mary &amp; co", b'dc:format="image/jpeg"', b'    <?xpacket end="w"?>'):
        assert kept in packet
    for gone in (b"a>b", b"another"):
        assert gone not in packet
    assert RECORD.to_xmp(packet) == packet


def test_another_record_takes_the_place_of_the_first() -> None:
    second = replace(RECORD, sample=3)
    packet = second.to_xmp(RECORD.to_xmp(THEIRS))
    assert Provenance.from_xmp(packet) == second
    assert packet.count(b"colorize:Provenance>") == 2
    assert packet.count(b"Description>") == RECORD.to_xmp(THEIRS).count(b"Description>")


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"no XML",
        b"<a><b></a>",
        b"<rdf:RDF/>",
        THEIRS[:300],
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + THEIRS[57:],
        b"\xff\xfe\xd8",
    ],
)
def test_what_is_no_xmp_gives_no_record_and_makes_way_for_one(packet: bytes) -> None:
    assert Provenance.from_xmp(packet) is None
    assert Provenance.from_xmp(RECORD.to_xmp(packet)) == RECORD


def test_a_packet_in_utf_16_is_understood() -> None:
    for encoding in ("utf-16", "utf-16-be", "utf-16-le"):
        packet = RECORD.to_xmp(THEIRS.decode().encode(encoding))
        assert Provenance.from_xmp(packet) == RECORD
        assert b"Aunt Mary" in packet


@pytest.mark.parametrize("record", ["[]", "{}", "nonsense", '{"version": 1}'])
def test_a_broken_record_is_none(record: str) -> None:
    packet = xmp.edited(
        None, add={("urn:coltran:colorize:1:", "Provenance"): record}, prefixes={"urn:coltran:colorize:1:": "c"}
    )
    assert Provenance.from_xmp(packet) is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif"])
def test_a_files_record_is_read_without_its_pixels(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, packet = tmp_path / f"picture{suffix}", RECORD.to_xmp()
    image = Image.new("RGB", (30, 20))
    options: dict[str, Any] = {"xmp": packet}
    if suffix == ".png":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode())
    if suffix == ".tif":  # sixteen bits of colour, which Pillow does not open
        deep = np.zeros((20, 30, 3), dtype=np.uint16)
        tifffile.imwrite(path, deep, photometric="rgb", extratags=[(700, 1, len(packet), packet, True)])
    else:
        image.save(path, **options)

    def forbidden(*args: object) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(Image.Image, "load", forbidden)
    assert read_provenance(path) == RECORD


def test_files_without_a_record_have_none(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "theirs.jpg", xmp=THEIRS)
    (tmp_path / "text.png").write_text("dear diary")
    (tmp_path / "broken.tif").write_bytes(b"II*\0\xff\xff\xff\xff")
    (tmp_path / "broken.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\1")
    for name in ("plain.jpg", "theirs.jpg", "text.png", "broken.tif", "broken.jp2", "missing.jpg", "."):
        assert read_provenance(tmp_path / name) is None, name


def test_a_pipe_has_no_record_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    script = "import sys; from pathlib import Path; from colorize_cli.provenance import read_provenance as read;"
    command = [sys.executable, "-c", f"{script} sys.exit(read(Path(sys.argv[1])) is not None)", tmp_path / "pipe.jpg"]
    subprocess.run(command, check=True, timeout=60)
