"""A pack: the files of a job's data and all that is known of them, in one uncompressed tar.

``ca-hpc-pack.json`` comes first and tells each file's digest and place, so that one file of 100 GB
is read without looking at the others. The pack's own sha256 is that of this manifest: it stands for
every byte, and is compared in a moment (``tar -xOf PACK ca-hpc-pack.json | sha256sum``).
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from ca_hpc.core.codec import decode
from ca_hpc.core.record import Case, Cases
from ca_hpc.errors import CaHpcError, DigestMismatch

MANIFEST: Final = "ca-hpc-pack.json"
FORMAT: Final = 1

BLOCK: Final = tarfile.BLOCKSIZE
CHUNK: Final = 1 << 20

_MOST_MANIFEST: Final = 1 << 28  # bytes; 100,000 cases take some 150 MB
# bytes of a member's name: a folder to unpack it in, and what a program adds, still find room
MOST_PART: Final = 200
MOST_NAME: Final = 1000
_MOST_TOLD: Final = 80  # characters of a name
_AGAIN: Final = "copy it again, or write it again: ca-hpc data pack"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
# what becomes part of file names where the pack is used
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,180}")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: told the bytes that are done, and how many there are
Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True, slots=True)
class Member:
    """A file: its digest, size in bytes, and where it begins, counted from the manifest's end."""

    sha256: str
    bytes: int
    at: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The first member. ``cases``: with members as paths, and no archive."""

    format: int
    ca_hpc: str
    cases: Cases
    files: Mapping[str, Member]


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack on disk, of which only the manifest was read. ``start``: where it ends, in bytes."""

    path: Path
    cases: Cases
    files: Mapping[str, Member]
    sha256: str
    start: int

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Read and check the manifest. Raises CaHpcError."""
        try:
            with path.open("rb") as stream:
                raw = _first_member(stream, path)
                start, size = stream.tell(), stream.seek(0, os.SEEK_END)
        except OSError as error:
            raise _unreadable(path, error) from error
        start += -start % BLOCK
        try:
            manifest = decode(Manifest, raw.decode())
        except ValueError as error:
            raise _no_pack(path, f"{MANIFEST} in it is not what ca-hpc writes: {error}") from error
        if manifest.format != FORMAT:
            raise CaHpcError(
                f"{path} is a pack of format {manifest.format}, this ca-hpc reads {FORMAT}",
                hint=f"it was written by ca-hpc {manifest.ca_hpc}: use that version",
            )
        if problem := next(problems(manifest), None):
            raise _no_pack(path, problem)
        end = start + max((file.at + file.bytes for file in manifest.files.values()), default=0)
        if size < end:
            raise DigestMismatch(
                f"{path} is cut off: it has {size} bytes of {end}",
                hint=_AGAIN,
            )
        digest = hashlib.sha256(raw).hexdigest()
        return cls(path, manifest.cases, manifest.files, digest, start)

    def take(self, member: str, into: Path) -> Path:
        """Write one file below the folder ``into`` and return it. Raises CaHpcError.

        Of a file whose digest is another one nothing is left, and DigestMismatch is raised.
        """
        self.member(member)  # names are checked in the manifest
        target = into / member
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with target.open("wb") as stream:
                stream.writelines(self.chunks(member))
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target

    def chunks(self, member: str) -> Iterator[bytes]:
        """The bytes of one file, compared at their end. Raises CaHpcError, and DigestMismatch."""
        known, digest = self.member(member), hashlib.sha256()
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.start + known.at)
                left = known.bytes
                while left and (chunk := stream.read(min(left, CHUNK))):
                    left -= len(chunk)
                    digest.update(chunk)
                    yield chunk
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if (found := digest.hexdigest()) != known.sha256:
            raise DigestMismatch(
                f"{self.path}: {member} is sha256:{found}, its manifest says sha256:{known.sha256}",
                hint=_AGAIN,
            )

    def verify(self, progress: Progress) -> None:
        """Read everything again. Raises DigestMismatch for all files that are other ones, and
        CaHpcError for a tar that holds more than the manifest tells of, or other than files.
        """
        self._check_members()
        total, done = sum(file.bytes for file in self.files.values()), 0
        others: list[DigestMismatch] = []
        for member in self.files:
            try:
                for chunk in self.chunks(member):
                    done += len(chunk)
                    progress(done, total)
            except DigestMismatch as error:
                others.append(error)
        if others:
            raise DigestMismatch("\n".join(error.message for error in others), hint=_AGAIN)

    def _check_members(self) -> None:
        """That any program that unpacks it gets these files, and no others."""
        left = {name: (file.bytes, self.start + file.at) for name, file in self.files.items()}
        try:
            with tarfile.open(self.path, "r:") as tar:
                for info in islice(tar, 1, None):
                    place = left.pop(info.name, None)
                    if not _plain(info) or place != (info.size, info.offset_data):
                        raise _no_pack(self.path, f"{info.name!r} in it is none of its files")
        except (tarfile.TarError, OSError) as error:
            raise _no_pack(self.path, str(error)) from error
        if left:
            raise _no_pack(self.path, f"{min(left)} has no place in it")

    def member(self, name: str) -> Member:
        """What is known of one file. Raises CaHpcError."""
        try:
            return self.files[name]
        except KeyError as error:
            raise CaHpcError(f"{self.path} holds no {name}", hint=_AGAIN) from error


def is_pack(path: Path) -> bool:
    """Whether a file begins as a pack does; the rest of it may be damaged. Raises CaHpcError."""
    try:
        with path.open("rb") as stream:
            return _begins(_header(stream))
    except OSError as error:
        raise _unreadable(path, error) from error


def _header(stream: BinaryIO) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(stream.read(BLOCK), "utf-8", "strict")
    except (tarfile.HeaderError, ValueError):
        return None


def _begins(info: tarfile.TarInfo | None) -> bool:
    return info is not None and info.name == MANIFEST and _plain(info)


def _first_member(stream: BinaryIO, path: Path) -> bytes:
    info = _header(stream)
    if info is None:
        raise _no_pack(path, "it is no tar")
    if not _begins(info):
        raise _no_pack(path, f"it does not begin with {MANIFEST}")
    if info.size > _MOST_MANIFEST:
        raise _no_pack(path, f"its manifest would have {info.size} bytes")
    raw = stream.read(info.size)
    if len(raw) < info.size:
        raise DigestMismatch(f"{path} is cut off within its manifest", hint=_AGAIN)
    return raw


def _plain(info: tarfile.TarInfo) -> bool:
    return info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.sparse


def problems(manifest: Manifest) -> Iterator[str]:
    """What a pack of somebody else's could do harm with where it is used."""
    for name, file in manifest.files.items():
        if not _is_member(name):
            yield f"{_short(name)} is no name of a file in it"
        for folder in _folders(name) & manifest.files.keys():
            yield f"{folder!r} is a file in it, and the folder of {name!r}"
        if min(file.bytes, file.at) < 0 or not _SHA256.fullmatch(file.sha256):
            yield f"{name}: size, place or digest are none"
    cases = manifest.cases.cases
    if not cases:
        yield "it has no cases"
    if len({case.id for case in cases}) < len(cases):
        yield "two of its cases have one id"
    for case in cases:
        yield from _of_case(case, manifest.files)
    for text in _texts(msgspec.to_builtins(manifest.cases)):
        if not text.isprintable():
            yield f"{_short(text)} is not a line of text"


def _of_case(case: Case, files: Mapping[str, Member]) -> Iterator[str]:
    named = {"id": _ID.fullmatch(case.id), "source": _NAME.fullmatch(case.source)}
    named["split"] = _NAME.fullmatch("train" if case.split is None else case.split)
    for what, fine in named.items():
        if not fine:
            yield f"case {_short(case.id)}: its {what} is none"
    if case.archive is not None:
        yield f"case {case.id}: lies in another archive"
    if not case.images or not case.labels:
        yield f"case {case.id}: has no image or no label"
    for image, count in Counter(case.images).items():
        if count > 1:
            yield f"case {case.id}: has {_short(image)} as an image more than once"
    for file in case.files:
        if file not in files:
            yield f"case {case.id}: {_short(file)} is not in it"


def _is_member(name: str) -> bool:
    whole = name.isprintable() and "\\" not in name and name != MANIFEST
    return whole and fits(name) and not {"", ".", ".."} & set(name.split("/"))


def fits(name: str, *, room: int = 0) -> bool:
    """Whether a member's name is short enough, with ``room`` bytes to spare."""
    sizes = [len(part.encode("utf-8", "replace")) for part in (*name.split("/"), name)]
    return max(sizes[:-1]) <= MOST_PART - room and sizes[-1] <= MOST_NAME - room


def _folders(name: str) -> set[str]:
    """``a/b/c`` -> ``a``, ``a/b``; of a name that is too long, none."""
    parts = name.split("/") if fits(name) else []
    return {"/".join(parts[:count]) for count in range(1, len(parts))}


def _short(text: str) -> str:
    """For a message, which is read on a screen."""
    return repr(text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]}…")


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from _texts([*value, *value.values()])
        case list() | tuple():
            for part in value:
                yield from _texts(part)


def _no_pack(path: Path, why: str) -> CaHpcError:
    return CaHpcError(
        f"{path} is not a pack that ca-hpc can read: {why}",
        hint="give a tar written by ca-hpc data pack, as it was written",
    )


def _unreadable(path: Path, error: OSError) -> CaHpcError:
    return CaHpcError(
        f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
    )
