"""A reader of TensorFlow checkpoints: names, shapes and values, without TensorFlow.

A checkpoint is a text file `checkpoint` that names a prefix, `PREFIX.index` (a sorted string table whose values are
`BundleEntryProto` messages) and `PREFIX.data-NNNNN-of-NNNNN` (raw little-endian arrays).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from colorize_cli.errors import ModelError

FOOTER_BYTES = 48
MAGIC = 0xDB4775248B80FB57
PLAIN, SNAPPY = 0, 1  # how a block is stored
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    19: np.dtype("<f2"),
}
CRC_MASK_DELTA = 0xA282EAD8


@dataclass(frozen=True)
class Entry:
    """Where one array lies."""

    dtype: int  # TensorFlow's DataType
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int  # bytes
    checksum: int | None = None  # of the bytes, masked


class Checkpoint:
    """The arrays of a checkpoint folder by their full keys."""

    def __init__(self, folder: Path) -> None:
        """Reads the index; raises `ModelError` where a file is missing or damaged."""
        self.prefix = find_prefix(folder)
        self.entries, self.shards = read_index(Path(f"{self.prefix}.index"))
        for shard in range(self.shards):
            path = self.data_path(shard)
            end = max((e.offset + e.size for e in self.entries.values() if e.shard == shard), default=0)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise ModelError(
                    f"{path}: cannot be read ({error.strerror}); copy all files of the checkpoint"
                ) from error
            if size < end:
                raise ModelError(f"{path}: has {size} bytes of {end}; the file is cut short, copy it again")

    def data_path(self, shard: int) -> Path:
        """The file of one shard."""
        return Path(f"{self.prefix}.data-{shard:05}-of-{self.shards:05}")

    def read(self, key: str) -> np.ndarray:
        """One array, in its own dtype; raises `ModelError` where the data is cut short or of an odd type."""
        entry = self.entries[key]
        path = self.data_path(entry.shard)
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise ModelError(f"{path}: {key} has TensorFlow's type number {entry.dtype}, which is not read here")
        if entry.size != dtype.itemsize * int(np.prod(entry.shape)):
            raise ModelError(f"{self.prefix}.index: {key} of shape {entry.shape} cannot have {entry.size} bytes")
        try:
            with path.open("rb") as file:
                file.seek(entry.offset)
                data = file.read(entry.size)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror}); copy all files of the checkpoint") from error
        if len(data) != entry.size:
            raise ModelError(f"{path}: ends within {key}; the file is cut short, copy it again")
        if entry.checksum is not None and mask(crc32c_long(data)) != entry.checksum:
            raise ModelError(f"{path}: the checksum of {key} is wrong; the file is damaged, copy it again")
        return np.frombuffer(data, dtype).reshape(entry.shape)


def find_prefix(folder: Path) -> Path:
    """The path of the newest checkpoint in `folder`, less its suffixes, as the file `checkpoint` names it."""
    path = folder / "checkpoint"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read; give the folder of a TensorFlow checkpoint") from error
    found = re.search(r'^model_checkpoint_path:\s*"(.+)"', text, re.MULTILINE)
    if found is None:
        raise ModelError(f"{path}: names no model_checkpoint_path")
    # A folder that was moved names a place that is gone: the files lie beside it.
    return folder / re.split(r"[/\\]", found[1])[-1]


def read_index(path: Path) -> tuple[dict[str, Entry], int]:
    """Every key and its entry, and the number of data files."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); copy all files of the checkpoint") from error
    try:
        return _parse_index(data)
    except (ValueError, IndexError) as error:
        raise ModelError(f"{path}: no checkpoint index, or a damaged one ({error})") from error


def _parse_index(data: bytes) -> tuple[dict[str, Entry], int]:
    footer = data[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise ValueError("its last bytes are not those of a string table")
    position = 0
    handles = []
    for _ in range(4):  # the meta index' offset and size, the index' offset and size
        number, position = _varint(footer, position)
        handles.append(number)
    entries: dict[str, Entry] = {}
    shards = 1
    for _, handle in _records(_block(data, handles[2], handles[3])):
        offset, position = _varint(handle, 0)
        size, _ = _varint(handle, position)
        for key, value in _records(_block(data, offset, size)):
            fields = _message(value)
            if key == b"":  # the header: field 1 is the number of shards
                shards = _integer(fields, 1, default=1)
                continue
            dimensions = _messages(_message(b"".join(_messages(fields, 2))), 2)
            shape = tuple(_integer(_message(dimension), 1) for dimension in dimensions)
            checksum = _messages(fields, 6)  # four bytes
            entries[key.decode()] = Entry(
                _integer(fields, 1),
                shape,
                _integer(fields, 3),
                _integer(fields, 4),
                _integer(fields, 5),
                int.from_bytes(checksum[-1], "little") if checksum else None,
            )
    return entries, shards


def _block(data: bytes, offset: int, size: int) -> bytes:
    """A block's contents, checked and unpacked; five bytes behind it say how it is stored and its checksum."""
    stored = data[offset : offset + size + 5]
    if len(stored) != size + 5:
        raise ValueError("a block lies outside the file")
    if mask(crc32c(stored[: size + 1])) != int.from_bytes(stored[size + 1 :], "little"):
        raise ValueError("a block's checksum is wrong")
    kind = stored[size]
    if kind not in (PLAIN, SNAPPY):
        raise ValueError(f"a block is packed in an unknown way, {kind}")
    return stored[:size] if kind == PLAIN else unsnappy(stored[:size])


def _records(block: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of a block; a key shares a prefix with the one before it."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    position, key, records = 0, b"", []
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        records.append((key, block[position : position + length]))
        position += length
    if position != end:
        raise ValueError("a record is cut short")
    return records


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A little-endian base-128 number and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


Fields = dict[int, list[int | bytes]]


def _message(data: bytes) -> Fields:
    """A protocol buffer message: the values of each field number."""
    fields: Fields = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == 0:
            value, position = _varint(data, position)
        else:
            if wire == 2:
                length, position = _varint(data, position)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError(f"a message has wire type {wire}")
            value = data[position : position + length]
            position += length
        fields.setdefault(number, []).append(value)
    return fields


def _integer(fields: Fields, number: int, default: int = 0) -> int:
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} of a message is no number")
    return value


def _messages(fields: Fields, number: int) -> list[bytes]:
    return [value for value in fields.get(number, []) if isinstance(value, bytes)]


def unsnappy(data: bytes) -> bytes:
    """Unpack one Snappy block."""
    length, position = _varint(data, 0)
    out = bytearray()
    while position < len(data):
        tag = data[position]
        position += 1
        kind, size = tag & 3, tag >> 2
        if kind == 0:  # a literal
            if size >= 60:
                extra = size - 59
                size = int.from_bytes(data[position : position + extra], "little")
                position += extra
            out += data[position : position + size + 1]
            position += size + 1
            continue
        if kind == 1:
            count, back, used = (size & 7) + 4, (size >> 3) << 8 | data[position], 1
        else:
            used = 2 if kind == 2 else 4
            count, back = size + 1, int.from_bytes(data[position : position + used], "little")
        position += used
        if not 0 < back <= len(out):
            raise ValueError("a packed block points outside itself")
        for _ in range(count):  # may overlap what it writes
            out.append(out[-back])
    if len(out) != length:
        raise ValueError("a packed block has another length than it says")
    return bytes(out)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """A checksum as it is stored."""
    return ((crc >> 15 | crc << 17) + CRC_MASK_DELTA) & 0xFFFFFFFF


def crc32c_long(data: bytes) -> int:
    """The same checksum of a large array: pieces side by side, then joined in pairs."""
    if len(data) < 64:
        return crc32c(data)
    length = 1 << (len(data).bit_length() // 2)  # of a piece
    lanes = 1 << (-(-len(data) // length) - 1).bit_length()
    padded = np.zeros(lanes * length, np.uint8)  # zeros in front do not count in a checksum that starts from 0
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[lanes * length - len(data) :][:4] ^= 0xFF  # as if it started from all ones
    table = np.array(_CRC_TABLE, np.uint32)
    crc = np.zeros(lanes, np.uint32)
    shift = np.uint32(1) << np.arange(32, dtype=np.uint32)  # what `length` zero bytes make of each bit
    for column in np.ascontiguousarray(padded.reshape(lanes, length).T):
        crc = table[(crc ^ column) & 0xFF] ^ crc >> 8
        shift = table[shift & 0xFF] ^ shift >> 8
    while len(crc) > 1:
        crc = _combine(shift, crc[::2]) ^ crc[1::2]
        shift = _combine(shift, shift)
    return int(crc[0]) ^ 0xFFFFFFFF


def _combine(shift: np.ndarray, crc: np.ndarray) -> np.ndarray:
    """The checksums `crc` after the zero bytes that `shift` stands for."""
    out = np.zeros_like(crc)
    for bit in range(32):
        out ^= (crc >> np.uint32(bit) & np.uint32(1)) * shift[bit]
    return out
