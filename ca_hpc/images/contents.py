"""What an image holds, told apart from the file that it lies in.

No two builds of a SIF are equal: each has a random id, times and perhaps signatures. Its file
system, a squashfs, is equal for equal contents.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError
from ca_hpc.store.sif import PARTITION, read_parts, system_partition

_CHUNK: Final = 1 << 20


def content_sha256(sif: Path) -> str:
    """SHA-256 of the squashfs in a SIF: what ``apptainer sif dump`` writes, as 64 hex digits.

    Raises CaHpcError for a file that is no SIF, is cut off, or has another file system or a second
    one, which Apptainer would lay over the first.
    """
    partition = system_partition(sif)
    with sif.open("rb") as stream:
        count = sum(part.kind == PARTITION for part in read_parts(stream, sif))
    if count > 1:
        raise CaHpcError(
            f"{sif} holds {count} file systems: something was added to the image",
            hint="get it again where it is from; apptainer sif list FILE shows what is in it",
        )
    if not partition.squashfs:
        raise CaHpcError(
            f"{sif} holds no squashfs", hint="build the image again: ca-hpc image build"
        )
    digest = hashlib.sha256()
    left = partition.size
    with sif.open("rb") as stream:
        stream.seek(partition.offset)
        while left and (chunk := stream.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
