"""Whether the run's data set is there, and made of the files as they are now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ca_hpc.core.codec import encode
from ca_hpc.imaging.prepared import VERSION, Seen, inputs
from ca_hpc.store.run_folder import RunFolder

RECORD = "assembled.json"


@dataclass(frozen=True, slots=True)
class Assembled:
    """``made_of``: digest of the run's spec and cases and of the identities of all files."""

    made_of: str


def assembled(run: RunFolder, files: Iterable[Iterable[Seen]]) -> Assembled:
    """What the data set of ``run`` is made of; ``files`` of each case, in the cases' order."""
    digest = hashlib.sha256(str(VERSION).encode())
    for name in ("spec.json", "cases.json"):
        digest.update(run.file(name).read_bytes())
    for of_case in files:
        digest.update(encode(list(of_case)).encode())
    return Assembled(digest.hexdigest())


def is_assembled(run: RunFolder) -> bool:
    """Whether nothing is left to do. Reads no image."""
    data = run.cases
    try:
        known = run.file(RECORD).read_text()
    except OSError:
        return False
    there = (run.raw / data.dataset).is_dir()
    return there and known == encode(assembled(run, map(inputs, data.cases)))
