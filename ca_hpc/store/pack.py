"""A pack: the files of a job in one archive, with what is known of them. Any tar reads it.

The first member, ``ca-hpc-pack.json``, is the manifest: the cases, and of every other member its
size, SHA-256 and place. Members are found by their place, never by walking through the archive, and
what is read is checked against its digest; so nothing in a foreign archive can name a path that is
written to, and a hundred gigabytes open as fast as one.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Final

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.record import Case, Cases
from ca_hpc.errors import CaHpcError, DigestMismatch

MANIFEST: Final = "ca-hpc-pack.json"
FORMAT: Final = 1
MOST_IN_MANIFEST: Final = 1 << 30  # bytes; a case takes about 600
_CHUNK: Final = 1 << 20
_ODD: Final = re.compile(r"[^A-Za-z0-9._+@ -]")
_UNKNOWN: Final = "0" * 64  # as long as what takes its place

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Packed:
    """A member. ``offset``: of its first byte, from the end of the manifest's member."""

    sha256: str
    bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a pack says of itself. Paths in ``cases`` are names of members."""

    format: int
    ca_hpc: str
    cases: Cases
    files: Mapping[str, Packed]


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack whose manifest was read. ``sha256``: of the manifest, and so of all that it names."""

    path: Path
    sha256: str
    manifest: Manifest
    start: int  # of what follows the manifest

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Read the manifest alone. Raises CaHpcError for what is no pack."""
        try:
            with path.open("rb") as stream:
                text = _manifest_text(stream, path)
                start = stream.tell() + -len(text) % tarfile.BLOCKSIZE
        except OSError as error:
            raise CaHpcError(
                f"pack {path}: {error.strerror}", hint="carry it here whole, or correct the path"
            ) from error
        try:
            manifest = decode(Manifest, text.decode())
        except ValueError as error:
            raise _no_pack(path, f"its manifest cannot be read ({error})") from error
        if manifest.format != FORMAT:
            raise CaHpcError(
                f"pack {path} has format {manifest.format}, this ca-hpc reads {FORMAT}",
                hint=f"it was made by ca-hpc {manifest.ca_hpc}: use that version, or a later one",
            )
        for name in manifest.files:
            _check_name(name, path)
        lacking = {f for c in manifest.cases.cases for f in c.files} - set(manifest.files)
        if lacking:
            raise _no_pack(path, f"its manifest says nothing of {min(lacking)}")
        return cls(path, hashlib.sha256(text).hexdigest(), manifest, start)

    def take(self, member: str, into: Path) -> Path:
        """Write one member below the folder ``into``; its path.

        Raises DigestMismatch, and then leaves no file.
        """
        target = into / member
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with target.open("xb") as stream:
                self.check(member, each=stream.write)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target

    def check(self, member: str, *, each: Callable[[bytes], object] = lambda chunk: None) -> None:
        """Read one member, its pieces handed to ``each``. Raises DigestMismatch, CaHpcError."""
        packed = self.manifest.files[member]
        digest, left = hashlib.sha256(), packed.bytes
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.start + packed.offset)
                while left and (chunk := stream.read(min(_CHUNK, left))):
                    digest.update(chunk)
                    each(chunk)
                    left -= len(chunk)
        except OSError as error:
            raise CaHpcError(f"pack {self.path}: {error.strerror}") from error
        if left or digest.hexdigest() != packed.sha256:
            found = f"{left} bytes short" if left else f"sha256:{digest.hexdigest()}"
            raise DigestMismatch(
                f"pack {self.path}: {member} is {found}, its manifest says sha256:{packed.sha256}",
                hint="carry the pack here again: ca-hpc data verify tells what is damaged",
            )


def write_pack(cases: Cases, target: Path, *, ca_hpc: str, progress: Progress) -> Pack:
    """Write the files of ``cases`` into a pack, each read once; whole or not at all.

    The same files in the same places give the same bytes. Raises CaHpcError and OSError.
    """
    names = _names(cases)
    members = {name: _Content(file, archive) for (_, file, archive), name in names.items()}
    members = dict(sorted(members.items()))
    sizes = {name: content.size for name, content in members.items()}
    total = sum(sizes.values())
    manifest = Manifest(FORMAT, ca_hpc, _packed(cases, names), _laid_out(sizes))
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as stream:
            # with the digests unknown, and as long as it will be
            stream.write(_member(MANIFEST, encode(manifest).encode()))
            found, done = {}, 0
            for name, content in members.items():
                stream.write(_header(name, sizes[name]))
                digest = hashlib.sha256()
                before = done
                for chunk in content.chunks():
                    stream.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    progress(done, total)
                if done - before != sizes[name]:
                    raise CaHpcError(f"{content.file} changed while it was packed", hint="again")
                stream.write(bytes(-stream.tell() % tarfile.BLOCKSIZE))
                found[name] = replace(manifest.files[name], sha256=digest.hexdigest())
            stream.write(bytes(2 * tarfile.BLOCKSIZE))
            stream.write(bytes(-stream.tell() % tarfile.RECORDSIZE))
            stream.seek(0)
            stream.write(_member(MANIFEST, encode(replace(manifest, files=found)).encode()))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return Pack.open(target)


@dataclass(frozen=True, slots=True)
class _Content:
    """What goes into a member: a file, or a member of another pack."""

    file: str
    archive: str | None

    @property
    def size(self) -> int:
        if self.archive is None:
            return Path(self.file).stat().st_size
        return _opened(self.archive).manifest.files[self.file].bytes

    def chunks(self) -> Iterator[bytes]:
        if self.archive is None:
            with Path(self.file).open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    yield chunk
        else:
            pieces: list[bytes] = []
            _opened(self.archive).check(self.file, each=pieces.append)
            yield from pieces


@lru_cache(maxsize=4)
def _opened(archive: str) -> Pack:
    return Pack.open(Path(archive))


def _names(cases: Cases) -> dict[tuple[str, str, str | None], str]:
    """The member of each file, by source, path and archive."""
    out: dict[tuple[str, str, str | None], str] = {}
    taken: set[str] = set()
    for source in dict.fromkeys(case.source for case in cases.cases):
        own = [case for case in cases.cases if case.source == source]
        folders = [str(PurePosixPath(f).parent) for case in own for f in case.files]
        common = os.path.commonpath(folders) if len({f[:1] for f in folders}) == 1 else ""
        for case in own:
            for file in case.files:
                key = (source, file, case.archive)
                if key in out:
                    continue
                relative = os.path.relpath(file, common) if common else file
                name = "/".join(
                    _ODD.sub("_", part) for part in (source, *PurePosixPath(relative).parts)
                )
                if name in taken or ".." in PurePosixPath(name).parts:
                    # two names that differ in odd characters alone
                    odd = hashlib.sha256(file.encode(errors="surrogateescape")).hexdigest()[:12]
                    name = f"{source}/{odd}/{PurePosixPath(name).name}"
                taken.add(name)
                out[key] = name
    return out


def _laid_out(sizes: Mapping[str, int]) -> dict[str, Packed]:
    """Where each member of these sizes will lie, its digest not known yet."""
    files, offset = {}, 0
    for name, size in sizes.items():
        offset += len(_header(name, size))
        files[name] = Packed(_UNKNOWN, size, offset)
        offset += size + -size % tarfile.BLOCKSIZE
    return files


def _packed(cases: Cases, names: Mapping[tuple[str, str, str | None], str]) -> Cases:
    """``cases`` with members for files. Remarks are about the place that they come from."""

    def packed(case: Case) -> Case:
        def of(file: str) -> str:
            return names[case.source, file, case.archive]

        return replace(
            case,
            images=tuple(map(of, case.images)),
            masks=tuple(map(of, case.masks)),
            labels=tuple(replace(label, path=of(label.path)) for label in case.labels),
            archive=None,
        )

    return replace(cases, cases=tuple(map(packed, cases.cases)), remarks=())


def _header(name: str, size: int) -> bytes:
    """A tar header that says nothing of time and owner."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _member(name: str, content: bytes) -> bytes:
    return _header(name, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _manifest_text(stream: IO[bytes], path: Path) -> bytes:
    try:
        first = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _no_pack(path, "it is no tar archive") from error
    if first.name != MANIFEST or not first.isreg():
        raise _no_pack(path, f"its first member is not {MANIFEST}")
    if first.size > MOST_IN_MANIFEST:
        raise _no_pack(path, f"its manifest has {first.size} bytes")
    text = stream.read(first.size)
    if len(text) < first.size:
        raise _no_pack(path, "it ends within its manifest")
    return text


def _check_name(name: str, path: Path) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise _no_pack(path, f"it holds a member {name!r}")


def _no_pack(path: Path, why: str) -> CaHpcError:
    return CaHpcError(
        f"{path} is no pack: {why}", hint="make one: ca-hpc data pack JOB -o FILE.tar"
    )
