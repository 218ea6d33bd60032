"""An uncompressed tar whose first member, a manifest, tells each file's digest and place.

So one file of 100 GB is read without looking at the others. The tar's own sha256 is that of its
manifest: it stands for every byte, and is compared in a moment
(``tar -xOf TAR MANIFEST | sha256sum``). Packs and archives are such tars.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, Generic, Protocol, TypeVar

from ca_hpc.core.codec import decode
from ca_hpc.errors import CaHpcError, DigestMismatch

BLOCK: Final = tarfile.BLOCKSIZE
CHUNK: Final = 1 << 20

_MOST_MANIFEST: Final = 1 << 28  # bytes; 100,000 cases take some 150 MB
# bytes of a member's name: a folder to unpack it in, and what a program adds, still find room
MOST_PART: Final = 200
MOST_NAME: Final = 1000
_MOST_TOLD: Final = 80  # characters of a name
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

#: told the bytes that are done, and how many there are
Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """What such a tar is: what people call it, its first member, and the command that writes it."""

    name: str
    manifest: str
    writer: str
    format: int

    @property
    def word(self) -> str:
        """The name with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    @property
    def again(self) -> str:
        """The next move where one is damaged."""
        return f"copy it again, or write it again: {self.writer}"


@dataclass(frozen=True, slots=True)
class Member:
    """A file: its digest, size in bytes, and where it begins, counted from the manifest's end."""

    sha256: str
    bytes: int
    at: int


class Manifest(Protocol):
    """What every first member says."""

    @property
    def format(self) -> int: ...
    @property
    def ca_hpc(self) -> str: ...
    @property
    def files(self) -> Mapping[str, Member]: ...


M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True, slots=True)
class Head(Generic[M]):
    """A manifest, its sha256, and where it ends, in bytes."""

    manifest: M
    sha256: str
    start: int


@dataclass(frozen=True, slots=True)
class SealedTar:
    """A tar on disk, of which only the manifest was read. ``start``: where that ends, in bytes."""

    KIND: ClassVar[Kind]

    path: Path
    files: Mapping[str, Member]
    sha256: str
    start: int

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
            raise unreadable(self.path, error) from error
        if (found := digest.hexdigest()) != known.sha256:
            raise DigestMismatch(
                f"{self.path}: {member} is sha256:{found}, its manifest says sha256:{known.sha256}",
                hint=self.KIND.again,
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
            raise DigestMismatch("\n".join(error.message for error in others), hint=self.KIND.again)

    def _check_members(self) -> None:
        """That any program that unpacks it gets these files, and no others."""
        left = {name: (file.bytes, self.start + file.at) for name, file in self.files.items()}
        try:
            with tarfile.open(self.path, "r:") as tar:
                for info in islice(tar, 1, None):
                    place = left.pop(info.name, None)
                    if not _plain(info) or place != (info.size, info.offset_data):
                        why = f"{info.name!r} in it is none of its files"
                        raise not_ours(self.path, self.KIND, why)
        except (tarfile.TarError, OSError) as error:
            raise not_ours(self.path, self.KIND, str(error)) from error
        if left:
            raise not_ours(self.path, self.KIND, f"{min(left)} has no place in it")

    def member(self, name: str) -> Member:
        """What is known of one file. Raises CaHpcError."""
        try:
            return self.files[name]
        except KeyError as error:
            raise CaHpcError(f"{self.path} holds no {name}", hint=self.KIND.again) from error


def read_head(
    path: Path, kind: Kind, manifest_of: type[M], *, problems: Callable[[M], Iterator[str]]
) -> Head[M]:
    """Read and check the manifest; ``problems``: what else it must not say. Raises CaHpcError."""
    try:
        with path.open("rb") as stream:
            raw = _first_member(stream, path, kind)
            start, size = stream.tell(), stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise unreadable(path, error) from error
    start += -start % BLOCK
    try:
        manifest = decode(manifest_of, raw.decode())
    except ValueError as error:
        why = f"{kind.manifest} in it is not what ca-hpc writes: {error}"
        raise not_ours(path, kind, why) from error
    if manifest.format != kind.format:
        raise CaHpcError(
            f"{path} is {kind.word} of format {manifest.format}, this ca-hpc reads {kind.format}",
            hint=f"it was written by ca-hpc {short(manifest.ca_hpc)}: use that version",
        )
    if problem := next(problems(manifest), None):
        raise not_ours(path, kind, problem)
    end = start + max((file.at + file.bytes for file in manifest.files.values()), default=0)
    if size < end:
        raise DigestMismatch(
            f"{path} is cut off: it has {size} bytes of {end}",
            hint=kind.again,
        )
    return Head(manifest, hashlib.sha256(raw).hexdigest(), start)


def begins(path: Path, kind: Kind) -> bool:
    """Whether a file begins as such a tar does; the rest may be damaged. Raises CaHpcError."""
    try:
        with path.open("rb") as stream:
            return _is_manifest(_header(stream), kind)
    except OSError as error:
        raise unreadable(path, error) from error


def file_problems(files: Mapping[str, Member], kind: Kind) -> Iterator[str]:
    """What names, sizes and digests of somebody else's could do harm with where they are used."""
    for name, file in files.items():
        if not _is_member(name, kind):
            yield f"{short(name)} is no name of a file in it"
        for folder in _folders(name) & files.keys():
            yield f"{folder!r} is a file in it, and the folder of {name!r}"
        if min(file.bytes, file.at) < 0 or not _SHA256.fullmatch(file.sha256):
            yield f"{name}: size, place or digest are none"


def text_problems(content: Any) -> Iterator[str]:
    """Texts in a manifest's ``content`` (plain values) that a screen cannot show."""
    for text in _texts(content):
        if not text.isprintable():
            yield f"{short(text)} is not a line of text"


def fits(name: str, *, room: int = 0) -> bool:
    """Whether a member's name is short enough, with ``room`` bytes to spare."""
    sizes = [len(part.encode("utf-8", "replace")) for part in (*name.split("/"), name)]
    return max(sizes[:-1]) <= MOST_PART - room and sizes[-1] <= MOST_NAME - room


def short(text: str) -> str:
    """For a message, which is read on a screen."""
    return repr(text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]}…")


def not_ours(path: Path, kind: Kind, why: str) -> CaHpcError:
    """The error for a file that is no such tar."""
    return CaHpcError(
        f"{path} is not {kind.word} that ca-hpc can read: {why}",
        hint=f"give a tar written by {kind.writer}, as it was written",
    )


def unreadable(path: Path, error: OSError) -> CaHpcError:
    """The error for a file that the operating system does not give."""
    return CaHpcError(
        f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
    )


def _header(stream: BinaryIO) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(stream.read(BLOCK), "utf-8", "strict")
    except (tarfile.HeaderError, ValueError):
        return None


def _is_manifest(info: tarfile.TarInfo | None, kind: Kind) -> bool:
    return info is not None and info.name == kind.manifest and _plain(info)


def _first_member(stream: BinaryIO, path: Path, kind: Kind) -> bytes:
    info = _header(stream)
    if info is None:
        raise not_ours(path, kind, "it is no tar")
    if not _is_manifest(info, kind):
        raise not_ours(path, kind, f"it does not begin with {kind.manifest}")
    if not 0 <= info.size <= _MOST_MANIFEST:
        raise not_ours(path, kind, f"its manifest would have {info.size} bytes")
    raw = stream.read(info.size)
    if len(raw) < info.size:
        raise DigestMismatch(f"{path} is cut off within its manifest", hint=kind.again)
    return raw


def _plain(info: tarfile.TarInfo) -> bool:
    return info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.sparse


def _is_member(name: str, kind: Kind) -> bool:
    whole = name.isprintable() and "\\" not in name and name != kind.manifest
    return whole and fits(name) and not {"", ".", ".."} & set(name.split("/"))


def _folders(name: str) -> set[str]:
    """``a/b/c`` -> ``a``, ``a/b``; of a name that is too long, none."""
    parts = name.split("/") if fits(name) else []
    return {"/".join(parts[:count]) for count in range(1, len(parts))}


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from _texts([*value, *value.values()])
        case list() | tuple():
            for part in value:
                yield from _texts(part)
