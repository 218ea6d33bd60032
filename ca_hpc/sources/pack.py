"""A pack as a source: the cases are in its manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ca_hpc.core.data_spec import PackSource
from ca_hpc.core.record import Cases, Origin
from ca_hpc.errors import DigestMismatch
from ca_hpc.store.pack import Pack


def packed_cases(source: PackSource) -> Cases:
    """The cases of a pack, their files being its members; origins as they were, and the pack.

    Reads the manifest alone. Raises CaHpcError, and DigestMismatch where it is not the pack that
    the job names.
    """
    path = Path(source.path)
    pack = Pack.open(path)
    if source.sha256 not in (None, pack.sha256):
        raise DigestMismatch(
            f"pack {path} is sha256:{pack.sha256}, the job says sha256:{source.sha256}",
            hint="name the pack that is there, or carry the other one here",
        )
    cases = pack.manifest.cases
    return replace(
        cases,
        cases=tuple(replace(case, archive=str(path)) for case in cases.cases),
        origins=(*cases.origins, Origin(path.name, str(path), sha256=pack.sha256)),
    )
