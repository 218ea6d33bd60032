"""Writing a sealed tar (``store/sealed_tar.py``): each file is read once, memory stays small."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import stat
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from ca_hpc.core.codec import encode
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.store.sealed_tar import BLOCK, CHUNK, Kind, Member, Progress, begins

_NOT_YET: Final = "0" * 64
# file systems without hard links, as on USB disks (man 2 link)
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class Content:
    """What a member is made of: its name, its size in bytes, and its bytes.

    ``sha256``: what they must have; None: whatever they have when they are read.
    """

    name: str
    size: int
    chunks: Callable[[], Iterator[bytes]]
    sha256: str | None = None

    @classmethod
    def of_bytes(cls, name: str, raw: bytes) -> Content:
        """A member that is in memory."""
        return cls(name, len(raw), lambda: iter((raw,)))

    @classmethod
    def of_file(cls, name: str, path: Path, *, hint: str, sha256: str | None = None) -> Content:
        """A file, whose size is as it is now. Raises OSError.

        ``hint``: the next move where it cannot be read later.
        """
        with path.open("rb") as stream:  # that it may be read, while nothing is written yet
            size = os.fstat(stream.fileno()).st_size
        return cls(name, size, lambda: _chunks(path, hint=hint), sha256)


def write_sealed(
    contents: Sequence[Content],
    target: Path,
    *,
    kind: Kind,
    manifest: Callable[[Mapping[str, Member]], object],
    progress: Progress,
    overwrite: bool = True,
) -> str:
    """Write the members in their order; the tar's sha256. Raises CaHpcError, as check_target does,
    and DigestMismatch for a member that is not what it must be.

    ``manifest`` makes the first member's record of what is known of the files. ``target`` appears
    when it is whole. Equal contents give equal bytes. Each is read once: digests have a fixed
    length, so that the manifest's room is known before they are. ``overwrite``: an older tar of
    this kind; else one that appears meanwhile stays, too.
    """
    check_target(target, kind, overwrite=overwrite)
    total = sum(content.size for content in contents)
    _check_space(target, total, kind)
    known = places(contents)
    room = len(encode(manifest(known)).encode())
    with _draft(target, kind, overwrite=overwrite) as stream:
        stream.write(_header(kind.manifest, room) + bytes(room + -room % BLOCK))
        done, files = 0, {}
        for content in contents:
            stream.write(_header(content.name, content.size))
            digest = hashlib.sha256()
            for chunk in _exactly(content, kind):
                stream.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
            stream.write(bytes(-content.size % BLOCK))
            files[content.name] = replace(known[content.name], sha256=digest.hexdigest())
            _refuse_other(content, files[content.name], kind)
        stream.write(bytes(2 * BLOCK))  # how a tar ends
        text = encode(manifest(files)).encode()
        stream.seek(BLOCK)
        stream.write(text)
    return hashlib.sha256(text).hexdigest()


def check_target(target: Path, kind: Kind, *, overwrite: bool = True) -> None:
    """Refuse what must not be overwritten: all but an older tar of this kind. Raises CaHpcError.

    Without ``overwrite`` that one, too.
    """
    if not target.parent.is_dir():
        raise CaHpcError(f"{target.parent} is no folder", hint="make it, or name another one")
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    taken = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFREG: f"no {kind.name}",
    }.get(stat.S_IFMT(mode), "no regular file")
    if not stat.S_ISREG(mode) or not begins(target, kind):
        raise CaHpcError(
            f"{target} is {taken}, and would be overwritten",
            hint="name a new file: -o study.tar",
        )
    if not overwrite:
        raise _taken(target)


def places(contents: Sequence[Content]) -> dict[str, Member]:
    """Where the members will be; their digests are not known yet."""
    files: dict[str, Member] = {}
    at = 0
    for content in contents:
        at += len(_header(content.name, content.size))
        files[content.name] = Member(_NOT_YET, content.size, at)
        at += content.size + -content.size % BLOCK
    return files


def _exactly(content: Content, kind: Kind) -> Iterator[bytes]:
    """Its bytes, as many as were announced. Raises CaHpcError."""
    size = 0
    for chunk in content.chunks():
        size += len(chunk)
        if size <= content.size:
            yield chunk
    if size != content.size:
        raise CaHpcError(
            f"{content.name} had {content.size} bytes when packing began, and has others now",
            hint=f"let nobody write to it meanwhile, and again: {kind.writer}",
        )


def _refuse_other(content: Content, found: Member, kind: Kind) -> None:
    """Gigabytes lie between the comparison of a file and its reading here."""
    if content.sha256 not in (None, found.sha256):
        raise DigestMismatch(
            f"{content.name} is sha256:{found.sha256} now, and was sha256:{content.sha256} when "
            "packing began",
            hint=f"let nobody write to it meanwhile, and again: {kind.writer}",
        )


@contextlib.contextmanager
def _draft(target: Path, kind: Kind, *, overwrite: bool) -> Iterator[BinaryIO]:
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
        check_target(target, kind, overwrite=overwrite)  # hours may have passed
        if overwrite:
            draft.replace(target)
        else:
            _publish(draft, target)
    except OSError as error:
        raise CaHpcError(
            f"cannot write {target}: {error.strerror}",
            hint="check folder, permissions, disk and quota",
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _publish(draft: Path, target: Path) -> None:
    """As ``target``, unless there is one by now. Raises CaHpcError, OSError."""
    try:
        os.link(draft, target)
    except FileExistsError as error:
        raise _taken(target) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        draft.replace(target)


def _taken(target: Path) -> CaHpcError:
    return CaHpcError(
        f"{target} is there already", hint="name a new file: -o study.tar; or: --replace"
    )


def _check_space(target: Path, size: int, kind: Kind) -> None:
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise CaHpcError(
            f"the {kind.name} takes {size / 1e9:.1f} GB, and {target.parent} has "
            f"{free / 1e9:.1f} GB left",
            hint="free some space, or name a folder on another disk",
        )


def _chunks(path: Path, *, hint: str) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except OSError as error:
        raise CaHpcError(f"{path} cannot be read: {error.strerror}", hint=hint) from error


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)  # of nobody, at no time: the same bytes everywhere
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)
