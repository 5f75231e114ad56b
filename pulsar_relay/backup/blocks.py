"""Blocks: what a backup file is made of. Each is compressed and names a digest of all up to its own end.

    magic ─ block ─ block ─ ... ─ block
    block:  length unpacked, 4 bytes │ length packed, 4 bytes │ digest, 32 bytes │ the packed bytes
    digest: SHA-256 of the digest before it (of the magic, for the first), the two lengths, the packed bytes

So a block that was changed, lost, doubled or moved is noticed where the file is not what it was any more;
what is cut off between two blocks, by the missing last record. Numbers have their highest byte first.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"pulsar-relay backup 1\n"
MAX_BLOCK_BYTES = 1024 * 1024 * 1024
COMPRESSION = 6
_LENGTHS = struct.Struct(">II")
_DIGEST_BYTES = 32


class BackupFileError(Exception):
    """The file is no backup, or not a whole one; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block ends, and the digest up to there: all that is needed to go on from it."""

    offset: int
    digest: bytes


class BlockWriter:
    """Appends blocks to a file that is open for reading and writing."""

    def __init__(self, file: BinaryIO, place: Place | None = None) -> None:
        """Go on at `place`; what is behind it is cut off. None: begin the file."""
        self._file = file
        self.place = Place(0, b"")
        if place is None:
            self._move(Place(0, hashlib.sha256(MAGIC).digest()))
            file.write(MAGIC)
            self.place = Place(len(MAGIC), self.place.digest)
        else:
            self._move(place)

    def write(self, data: bytes) -> None:
        packed = zlib.compress(data, COMPRESSION)
        lengths = _LENGTHS.pack(len(data), len(packed))
        digest = _digest(self.place.digest, lengths, packed)
        self._file.write(lengths + digest + packed)
        self.place = Place(self.place.offset + len(lengths) + _DIGEST_BYTES + len(packed), digest)

    def rewind(self, place: Place) -> None:
        """Take back all blocks behind `place`."""
        self._file.flush()
        self._move(place)

    def _move(self, place: Place) -> None:
        self._file.seek(place.offset)
        self._file.truncate()
        self.place = place


class BlockReader:
    """Reads blocks in their order, each checked before it is handed out."""

    def __init__(self, file: BinaryIO, place: Place | None = None) -> None:
        """Begins at `place`, or where the file does. Raises BackupFileError if it is no backup."""
        self._file = file
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC:
            raise BackupFileError("this is no backup that `pulsar-relay backup` of this version made")
        self.place = place or Place(len(MAGIC), hashlib.sha256(MAGIC).digest())
        file.seek(self.place.offset)

    def blocks(self) -> Iterator[bytes]:
        """Up to the file's end. Raises BackupFileError where a block is damaged or cut."""
        while head := self._file.read(_LENGTHS.size + _DIGEST_BYTES):
            if len(head) < _LENGTHS.size + _DIGEST_BYTES:
                raise self._damage()
            size, packed_size = _LENGTHS.unpack_from(head)
            if size > MAX_BLOCK_BYTES or packed_size > MAX_BLOCK_BYTES:
                raise self._damage()
            packed = self._file.read(packed_size)
            digest = _digest(self.place.digest, head[: _LENGTHS.size], packed)
            if len(packed) < packed_size or digest != head[_LENGTHS.size :]:
                raise self._damage()
            data = self._unpacked(packed, size)
            self.place = Place(self.place.offset + len(head) + packed_size, digest)
            yield data

    def _unpacked(self, packed: bytes, size: int) -> bytes:
        # Not decompress(packed): a few bytes can stand for gigabytes.
        unpacking = zlib.decompressobj()
        try:
            data = unpacking.decompress(packed, size + 1)
        except zlib.error:
            raise self._damage() from None
        if len(data) != size or not unpacking.eof:
            raise self._damage()
        return data

    def _damage(self) -> BackupFileError:
        return BackupFileError(f"the backup is damaged, or was cut off, behind byte {self.place.offset}")


def _digest(before: bytes, lengths: bytes, packed: bytes) -> bytes:
    digest = hashlib.sha256(before)
    digest.update(lengths)
    digest.update(packed)
    return digest.digest()
