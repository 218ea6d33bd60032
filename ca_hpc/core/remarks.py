"""What a user should know of the data, in sentences, which may name subjects. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ca_hpc.core.record import Cases


def remarks(cases: Cases) -> tuple[str, ...]:
    """What was found when the data were searched, and what their names look like."""
    return (*cases.remarks, *_about_people(cases))


def _about_people(cases: Cases) -> Iterator[str]:
    """Sessions in subject labels: sub-17Ses1 and sub-17Ses2 would be two people."""
    people: dict[tuple[str, str], set[str]] = {}
    for case in cases.cases:
        joined = re.sub(r"[-_]?[Ss]es(sion)?[-_]?\w+$", "", case.person)
        people.setdefault((case.source, joined), set()).add(case.person)
    several = [(source, sorted(names)) for (source, _), names in people.items() if len(names) > 1]
    for source, (first, second, *_) in several[:1]:
        others = f", and {len(several) - 1} more like them," if len(several) > 1 else ""
        yield (
            f"data: {first} and {second} of {source}{others} count as several people, and may be "
            "in training and validation of one fold; if they are one person, say so: "
            "person: {pattern: '^(.+?)[-_]?[Ss]es'}"
        )
