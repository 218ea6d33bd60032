"""Writing a pack (``store/pack.py``): each file is read once, memory stays small."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import glob
import hashlib
import os
import shutil
import stat
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from ca_hpc.core.codec import encode
from ca_hpc.core.record import Case, Cases
from ca_hpc.errors import CaHpcError
from ca_hpc.store.pack import (
    BLOCK,
    CHUNK,
    FORMAT,
    MANIFEST,
    Manifest,
    Member,
    Pack,
    Progress,
    fits,
    is_pack,
    problems,
)

_NOT_YET: Final = "0" * 64
_MOST_TOLD: Final = 20
_ROOM: Final = 16  # bytes of a member's name, for what tells it from others
_ENDINGS: Final = (".nii.gz", ".nii")  # which tell an image; of others none is kept
_READ: Final = "fetch or repair it, or exclude its subject"


@dataclass(frozen=True, slots=True)
class _Content:
    """What a member is made of: a file, or a member of another pack."""

    name: str
    size: int
    chunks: Callable[[], Iterator[bytes]]


def write_pack(cases: Cases, target: Path, *, ca_hpc: str, progress: Progress) -> str:
    """Write the files of ``cases`` as a pack; its sha256. Raises CaHpcError, as check_target does.

    ``target`` appears when it is whole. The same cases and files give the same bytes. Each file is
    read once: digests have a fixed length, so that the manifest's room is known before they are. A
    file that is used twice is there once.
    """
    check_target(target)
    named, contents = _members(cases)
    total = sum(content.size for content in contents)
    _check_space(target, total)
    manifest = Manifest(FORMAT, ca_hpc, named, _places(contents))
    if problem := next(problems(manifest), None):  # nobody could read it
        raise CaHpcError(f"this cannot be packed: {problem}", hint="correct it in the data")
    room = len(encode(manifest).encode())
    with _draft(target) as stream:
        stream.write(_header(MANIFEST, room) + bytes(room + -room % BLOCK))
        done, files = 0, {}
        for content in contents:
            stream.write(_header(content.name, content.size))
            digest = hashlib.sha256()
            for chunk in _exactly(content):
                stream.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
            stream.write(bytes(-content.size % BLOCK))
            known = manifest.files[content.name]
            files[content.name] = replace(known, sha256=digest.hexdigest())
        stream.write(bytes(2 * BLOCK))  # how a tar ends
        text = encode(replace(manifest, files=files)).encode()
        stream.seek(BLOCK)
        stream.write(text)
    return hashlib.sha256(text).hexdigest()


def check_target(target: Path) -> None:
    """Refuse what a pack must not take the place of: all but an older pack. Raises CaHpcError."""
    if not target.parent.is_dir():
        raise CaHpcError(f"{target.parent} is no folder", hint="make it, or name another one")
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFREG: "no pack"}
    kind = kinds.get(stat.S_IFMT(mode), "no regular file")
    if not stat.S_ISREG(mode) or not is_pack(target):
        raise CaHpcError(
            f"{target} is {kind}, and would be overwritten",
            hint="name a new file: -o study.tar",
        )


def _places(contents: list[_Content]) -> dict[str, Member]:
    files: dict[str, Member] = {}
    at = 0
    for content in contents:
        at += len(_header(content.name, content.size))
        files[content.name] = Member(_NOT_YET, content.size, at)
        at += content.size + -content.size % BLOCK
    return files


def _exactly(content: _Content) -> Iterator[bytes]:
    """Its bytes, as many as were announced. Raises CaHpcError."""
    size = 0
    for chunk in content.chunks():
        size += len(chunk)
        if size <= content.size:
            yield chunk
    if size != content.size:
        raise CaHpcError(
            f"{content.name} had {content.size} bytes when packing began, and has others now",
            hint="let nobody write to the data meanwhile, and pack again",
        )


@contextlib.contextmanager
def _draft(target: Path) -> Iterator[BinaryIO]:
    """A file that becomes ``target`` at the end, unless there is an exception.

    Each is locked before anything is written: so what a killed process left is told from what is
    being written.
    """
    start = f".{target.name}.draft-"
    for left in target.parent.glob(f"{glob.escape(start)}*"):
        with contextlib.suppress(OSError), left.open("r+b") as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if left.stat().st_size:
                left.unlink()
    draft = target.with_name(start + uuid.uuid4().hex)
    try:
        with draft.open("xb") as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        check_target(target)  # hours may have passed
        draft.replace(target)
    except OSError as error:
        raise CaHpcError(
            f"cannot write {target}: {error.strerror}",
            hint="check folder, permissions, disk and quota",
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _check_space(target: Path, size: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise CaHpcError(
            f"the pack takes {size / 1e9:.1f} GB, and {target.parent} has {free / 1e9:.1f} GB left",
            hint="free some space, or name a folder on another disk",
        )


def _members(cases: Cases) -> tuple[Cases, list[_Content]]:
    """``cases`` with members as paths, and the members by name. Raises CaHpcError."""
    tops = _tops(cases)
    names: dict[tuple[str | None, str], str] = {}
    contents: dict[str, _Content] = {}
    unread: list[str] = []
    opened = functools.cache(lambda archive: Pack.open(Path(archive)))

    def name_of(case: Case, path: str) -> str:
        real = path if case.archive else os.path.realpath(path)
        if (case.archive, real) not in names:
            wanted = path if case.archive else _name(case.source, path, tops[case.source])
            name = _unused(_fitting(wanted, source=case.source), contents)
            names[case.archive, real] = name
            pack = None if case.archive is None else opened(case.archive)
            try:
                contents[name] = _content(name, pack, path)
            except OSError as error:
                unread.append(f"{path}: {error.strerror}")
                contents[name] = _Content(name, 0, _nothing)
        return names[case.archive, real]

    packed = []
    for case in cases.cases:
        images = tuple(name_of(case, path) for path in case.images)
        masks = tuple(name_of(case, path) for path in case.masks)
        labels = tuple(replace(of, path=name_of(case, of.path)) for of in case.labels)
        packed.append(replace(case, images=images, masks=masks, labels=labels, archive=None))
    if unread:
        told = "\n".join(unread[:_MOST_TOLD])
        raise CaHpcError(f"{len(unread)} files cannot be packed\n{told}", hint=_READ)
    return replace(cases, cases=tuple(packed)), [contents[name] for name in sorted(contents)]


def _tops(cases: Cases) -> Mapping[str, str]:
    """The folder that all files of a source lie in."""
    folders: dict[str, set[str]] = {}
    for case in cases.cases:
        if case.archive is None:
            parents = folders.setdefault(case.source, set())
            parents.update(str(_absolute(path).parent) for path in case.files)
    return {source: os.path.commonpath(parents) for source, parents in folders.items()}


def _name(source: str, path: str, top: str) -> str:
    relative = os.path.relpath(_absolute(path), top)
    plain = "".join(c if c.isprintable() and c != "\\" else "_" for c in relative)
    return f"{source}/{plain}"


def _fitting(name: str, *, source: str) -> str:
    """``name``; of one that is too long the source, its digest and the ending."""
    if fits(name, room=_ROOM):
        return name
    ending = next(filter(name.endswith, _ENDINGS), "")
    return f"{source}/{hashlib.sha256(name.encode()).hexdigest()}{ending}"


def _absolute(path: str) -> Path:
    return Path(os.path.normpath(Path(path).absolute()))


def _unused(name: str, taken: Mapping[str, object]) -> str:
    number, unused = 1, name
    while unused in taken:
        number += 1
        folder, _, last = name.rpartition("/")
        unused = f"{folder}/{number}-{last}"
    return unused


def _content(name: str, pack: Pack | None, path: str) -> _Content:
    """Raises OSError and CaHpcError."""
    if pack is not None:
        return _Content(name, pack.member(path).bytes, lambda: pack.chunks(path))
    with Path(path).open("rb") as stream:  # that it may be read, while nothing is written yet
        size = os.fstat(stream.fileno()).st_size
    return _Content(name, size, lambda: _chunks(path))


def _chunks(path: str) -> Iterator[bytes]:
    try:
        with Path(path).open("rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except OSError as error:
        raise CaHpcError(f"{path} cannot be read: {error.strerror}", hint=_READ) from error


def _nothing() -> Iterator[bytes]:
    return iter(())


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)  # of nobody, at no time: the same bytes everywhere
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)
