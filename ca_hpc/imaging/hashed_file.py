"""Bytes of a file, gunzipped if need be, and the SHA-256 of the file as it is: in one reading."""

from __future__ import annotations

import hashlib
import zlib
from typing import BinaryIO, Final

GZIP_MAGIC: Final = b"\x1f\x8b"
CHUNK: Final = 1 << 18
MOST_DEFLATED: Final = 1032  # deflate makes no more bytes than that of one


class CutOff(Exception):
    """The file ends before its content does."""

    def __str__(self) -> str:
        return "it is cut off"


class HashedFile:
    """Content of ``stream`` from its beginning, whose ``size`` in bytes is known.

    Compressed or not is told by the first bytes, not by a name. Raises CutOff, and zlib.error where
    a checksum is wrong.
    """

    def __init__(self, stream: BinaryIO, *, size: int) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._ahead = b""
        self._ahead = self._read(len(GZIP_MAGIC))
        self._member = zlib.decompressobj(wbits=31) if self._ahead == GZIP_MAGIC else None
        self.longest = size if self._member is None else size * MOST_DEFLATED

    def take(self, count: int) -> bytearray:
        """The next ``count`` bytes of the content."""
        # before anything is allocated for a number that a broken header gave
        if count > self.longest:
            raise CutOff
        out = bytearray(count)
        self.fill(memoryview(out))
        return out

    def fill(self, room: memoryview) -> None:
        """The next bytes of the content, as many as there is room for."""
        while room:
            some = self._some(len(room))
            room[: len(some)] = some
            room = room[len(some) :]

    def sha256(self) -> str:
        """Of the whole file, read to its end. What is compressed must end well, too.

        Bytes after that are no matter: some tools pad files.
        """
        while self._member is not None and not self._member.eof:
            self._some(CHUNK)
        while self._read(CHUNK):
            pass
        return self._digest.hexdigest()

    def _some(self, most: int) -> bytes:
        if self._member is None:
            some = self._ahead[:most] or self._read(min(most, CHUNK))
            self._ahead = self._ahead[len(some) :] if self._ahead else b""
            if not some:
                raise CutOff
            return some
        if self._member.eof:  # bgzip and pigz write one member after another
            self._ahead = self._member.unused_data or self._read(CHUNK)
            if not self._ahead.startswith(GZIP_MAGIC):
                raise CutOff
            self._member = zlib.decompressobj(wbits=31)
        given = self._ahead or self._read(CHUNK)
        some = self._member.decompress(given, most)
        self._ahead = self._member.unconsumed_tail
        if not given and not some and not self._member.eof:
            raise CutOff
        return some

    def _read(self, most: int) -> bytes:
        some = self._stream.read(most)
        self._digest.update(some)
        return some
