"""What a rerun is given instead of making it anew: ``RUN/given``, written once at submission.

::

    given/splits.json  given/test_sets.json  given/plans/ARM.json
    rerun.json                               of which run, and what was allowed to differ

Absent in every other run. The texts are those of the run that is rerun, to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ca_hpc.core.codec import decode
from ca_hpc.core.run_record import Rerun
from ca_hpc.core.splits import Division
from ca_hpc.errors import CaHpcError
from ca_hpc.store import atomic
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.run_folder import RERUN, RunFolder
from ca_hpc.store.seal import SEALS, read_seals, refuse_changed, seal, write_seals

FOLDER: Final = "given"
SPLITS: Final = "splits.json"
TEST_SETS: Final = "test_sets.json"
PLANS: Final = "plans"


@dataclass(frozen=True, slots=True)
class Given:
    """JSON texts: folds and test sets as ``steps/assemble.py`` writes them, nnU-Net's plans by arm.

    ``rerun``: the record of what this is a rerun of.
    """

    splits: str
    test_sets: str
    plans: Mapping[str, str]
    rerun: Rerun

    @property
    def division(self) -> Division:
        """The folds and the test sets. Raises CaHpcError."""
        return division_of(self.splits, self.test_sets, place=FOLDER)


def division_of(splits: str, test_sets: str, *, place: Path | str) -> Division:
    """Folds and test sets from their texts. Raises CaHpcError, which names the ``place``."""
    try:
        return Division(
            folds=tuple(decode(list[dict[str, list[str]]], splits)),
            tests=decode(dict[str, tuple[str, ...]], test_sets),
        )
    except ValueError as error:
        raise _damaged(place, error) from error


def write_given(run: RunFolder, given: Given) -> None:
    """Lay down what is given. Raises OSError."""
    texts = {SPLITS: given.splits, TEST_SETS: given.test_sets}
    texts |= {f"{PLANS}/{arm}.json": text for arm, text in given.plans.items()}
    folder = run.file(FOLDER)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(folder / name, text)
    write_seals(folder / SEALS, seal(folder, texts))
    run.write(RERUN, given.rerun)


def read_given(run: RunFolder) -> Given | None:
    """What the run was given; None: nothing.

    Raises CaHpcError where it is damaged, DigestMismatch where a file is another one.
    """
    folder = run.file(FOLDER)
    if not (folder.exists() or run.file(RERUN).exists()):
        return None
    seals, digests = read_seals(folder / SEALS), DigestCache(run.digests)
    gone = refuse_changed(seals, what="file", folder=folder, cache=digests)
    if gone or not seals.files:
        raise _damaged(folder, f"{(*gone, folder / SEALS)[0].relative_to(folder)} is gone")
    try:
        return Given(
            splits=(folder / SPLITS).read_text(encoding="utf-8"),
            test_sets=(folder / TEST_SETS).read_text(encoding="utf-8"),
            plans={
                file.stem: file.read_text(encoding="utf-8")
                for file in sorted((folder / PLANS).glob("*.json"))
            },
            rerun=decode(Rerun, run.file(RERUN).read_text(encoding="utf-8")),
        )
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error


def given_division(run: RunFolder) -> Division | None:
    """The folds and test sets that the run was given; None: it makes them. Raises CaHpcError."""
    given = read_given(run)
    return None if given is None else given.division


def given_plans(run: RunFolder) -> Mapping[str, dict[str, Any]]:
    """nnU-Net's plans by arm; empty: the run plans itself. Raises CaHpcError."""
    given = read_given(run)
    if given is None:
        return {}
    try:
        return {arm: json.loads(text) for arm, text in given.plans.items()}
    except ValueError as error:
        raise _damaged(run.file(FOLDER), error) from error


def _damaged(place: Path | str, error: Exception | str) -> CaHpcError:
    return CaHpcError(
        f"{place} cannot be read: {error}",
        hint="this run's record is damaged; rerun the first run again",
    )
