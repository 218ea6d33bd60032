"""Cases of a pack: all that is known of them comes along, where their files came from too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ca_hpc.core.data_spec import PackSource
from ca_hpc.core.record import Cases, Origin
from ca_hpc.errors import DigestMismatch
from ca_hpc.store.pack import Pack


def packed_cases(source: PackSource) -> Cases:
    """The cases, whose files are members of the archive that they name.

    Only the manifest is read: each file's digest is compared when the file is. Raises CaHpcError,
    and DigestMismatch where the pack is not the one that ``source`` means.
    """
    pack = Pack.open(Path(source.path).absolute())
    if source.sha256 not in (None, pack.sha256):
        raise DigestMismatch(
            f"{pack.path} is sha256:{pack.sha256} (of its manifest), the job says "
            f"sha256:{source.sha256}",
            hint="copy the pack that is meant; or take this one, with its sha256 in the job",
        )
    return replace(
        pack.cases,
        cases=tuple(replace(case, archive=str(pack.path)) for case in pack.cases.cases),
        origins=tuple(_origins(pack)),
    )


def _origins(pack: Pack) -> Iterator[Origin]:
    """A line for each source: its own, if it has one, else the pack."""
    own = {origin.source: origin for origin in pack.cases.origins}
    for name in dict.fromkeys(case.source for case in pack.cases.cases):
        origin = own.get(name, Origin(name, str(pack.path)))
        yield replace(origin, sha256=pack.sha256)
