"""One byte of a file changed behind everybody's back, and what must be said of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ca_hpc.store.digests import sha256_file


def flip(file: Path, *, at: int | None = None) -> None:
    """Change the byte ``at``, else the one in the middle, and nothing else that a user can set."""
    before = file.stat()
    with file.open("r+b") as stream:
        place = stream.seek(before.st_size // 2 if at is None else at)
        (byte,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextmanager
def flipped(file: Path) -> Iterator[str]:
    """With a byte changed, put back at the end; yields the sentence with both digests."""
    before = sha256_file(file)
    flip(file)
    yield f"{file} is sha256:{sha256_file(file)}, recorded is sha256:{before}"
    flip(file)


def planned(run: Path) -> tuple[Path, Path]:
    """The plans and the splits that the trainings of a run with one arm, of ``demo``, read."""
    (dataset,) = (run / "nnunet/preprocessed").iterdir()
    (plans,) = (file for file in dataset.glob("nnUNetPlans*.json") if "demo" in file.name)
    return plans, dataset / "splits_final.json"
