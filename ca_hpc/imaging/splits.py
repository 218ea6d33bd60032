"""Splits by person, never by case: sessions and contrasts of one person stay together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ca_hpc.core.record import Case
from ca_hpc.errors import CaHpcError


def k_folds(cases: Sequence[Case], *, folds: int, seed: int) -> list[dict[str, list[str]]]:
    """nnU-Net's ``splits_final.json``: per fold the case ids of ``train`` and ``val``.

    People are dealt out so that the folds hold nearly equal numbers of cases; people with equally
    many are in an order that depends on ``seed`` and their own name alone. Raises CaHpcError with
    fewer people than folds.
    """
    people: dict[str, list[str]] = {}
    for case in cases:
        people.setdefault(case.person, []).append(case.id)
    if len(people) < folds:
        raise CaHpcError(
            f"{folds} folds need at least {folds} people, the data have {len(people)} "
            f"({len(cases)} images)",
            hint=f"set splits.folds to {len(people)} or less" if len(people) > 1 else "add data",
        )

    def rank(person: str) -> tuple[int, str]:
        return -len(people[person]), hashlib.sha256(f"{seed}:{person}".encode()).hexdigest()

    held_out: list[list[str]] = [[] for _ in range(folds)]
    for person in sorted(people, key=rank):
        min(held_out, key=len).extend(people[person])
    return [
        {
            "train": sorted(case.id for case in cases if case.id not in out),
            "val": sorted(out),
        }
        for out in map(frozenset, held_out)
    ]
