"""What became of all cases together: which cannot be used, which are left out, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ca_hpc.core.record import Case
from ca_hpc.imaging.prepared import Record


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Reasons by case id. ``left_out``: nothing is wrong, and the job wants to do without."""

    problems: Mapping[str, str]
    left_out: Mapping[str, str]

    @property
    def unused(self) -> Mapping[str, str]:
        """Both."""
        return {**self.left_out, **self.problems}


def verdicts(cases: Sequence[Case], records: Mapping[str, Record]) -> Verdicts:
    """By the records of all ``cases``. Of cases with the same images all but the first by id are
    a problem."""
    problems: dict[str, str] = {}
    left_out: dict[str, str] = {}
    first: dict[str, Case] = {}
    for case in sorted(cases, key=lambda case: case.id):
        record = records[case.id]
        if record.problem is not None or record.converted is None:
            problems[case.id] = record.problem or "was not converted"
        elif record.converted.left_out is not None:
            left_out[case.id] = record.converted.left_out
        else:
            same = first.setdefault(record.converted.content_sha256, case)
            if same is not case:
                problems[case.id] = f"{_images(case)}: holds the same image as {_images(same)}"
    return Verdicts(problems, left_out)


def _images(case: Case) -> str:
    return (f"{case.archive}: " if case.archive else "") + ", ".join(case.images)
