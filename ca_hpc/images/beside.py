"""The record that lies beside an image's file, and whether it is of that file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ca_hpc.core.codec import decode
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images.contents import content_sha256
from ca_hpc.images.record import ImageInfo, record_path
from ca_hpc.images.signed_since import signed_since


def recorded(file: Path) -> ImageInfo | None:
    """The record beside a file, whether it fits it or not."""
    record = record_path(file)
    if not record.is_file():  # the end of a named pipe may never come
        return None
    try:
        return decode(ImageInfo, record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def check_record(file: Path, sha256: str, *, known: ImageInfo) -> bool:
    """Whether a file of this sha256 was signed since it was recorded.

    Raises DigestMismatch where it is not what the record says, by its bytes or by what it holds.
    """
    record = record_path(file).name
    since = False
    if sha256 != known.sha256:
        with readable(file):
            since = signed_since(file, sha256=known.sha256, size_bytes=known.size_bytes)
        if not since:
            raise DigestMismatch(
                f"image {file} is sha256:{sha256}, recorded in {record} is sha256:{known.sha256}",
                hint=f"copy the image again with {record}, or delete that file if it is old",
            )
    holds = None
    with contextlib.suppress(CaHpcError):  # no SIF, or something was added
        holds = content_sha256(file) if known.content_sha256 else None
    if holds != known.content_sha256:
        raise DigestMismatch(
            f"what image {file} holds is sha256:{holds or 'unknown'}, recorded in {record} is "
            f"sha256:{known.content_sha256}",
            hint=f"{record} is not of this image: get both again where they are from",
        )
    return since


@contextlib.contextmanager
def readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CaHpcError(
            f"image {file} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
