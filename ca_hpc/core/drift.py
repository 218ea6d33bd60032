"""What of a run is the same in another one, and what drifted. Pure.

A fact is a line of text under a dotted name, ``plans.scratch``: its first part is the aspect, which
is allowed by that name (``ca-hpc rerun --allow plans``). What is not known has no fact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Literal

from ca_hpc.core.codec import encode
from ca_hpc.core.record import Case, Cases
from ca_hpc.core.run_record import AttemptRecord, File, Row, RunRecord
from ca_hpc.core.splits import Division
from ca_hpc.errors import DigestMismatch, SpecError

#: pinned: refused when another one; expected: another one is what a rerun elsewhere means; told: of
#: the node, on which bits may depend, and which nobody can choose beforehand
Kind = Literal["pinned", "expected", "told"]

ASPECTS: Final[Mapping[str, Kind]] = {
    "image": "pinned",
    "weights": "pinned",
    "plans": "pinned",
    "splits": "pinned",
    "data": "pinned",
    "settings": "pinned",
    "seed": "pinned",
    "threads": "pinned",
    "workers": "pinned",
    "trainers": "pinned",
    "ca-hpc": "pinned",
    "software": "pinned",
    "cluster": "expected",
    "partition": "expected",
    "folder": "expected",
    "node": "expected",
    "cpu": "told",
    "gpu": "told",
    "driver": "told",
}

NONE: Final = "none"  # known to be absent
#: ``image.content`` is what the file ``image`` holds: where that is the same, another file is no
#: drift (a signed copy, splits under other names)
CONTENT: Final = ".content"
TRAINING: Final = "train-"  # what ids of training tasks begin with
#: packages that results depend on, where no image pins them
SOFTWARE: Final = ("python", "torch", "nnunetv2", "numpy")
CPU_KERNELS: Final = "torch-cpu-capability"  # AVX2, AVX512, …: on a CPU bits depend on it
# what of a job spec names places and amounts, or is an aspect of its own
_NOT_SETTINGS: Final = frozenset(
    {
        *("name", "cluster", "data", "weights", "model", "image", "runtime", "output", "trainers"),
        *("splits", "threads", "stage", "retry", "max_gpu_hours", "resources", "prepare.shards"),
        *("training.seed", "training.workers", "training.checkpoint_every"),
    }
)
_LISTED: Final = 4  # facts of an aspect that are told one by one


def facts(record: RunRecord) -> dict[str, str]:
    """What a record tells. Data, settings and places are not in it: see below."""
    trainings = [a for a in record.attempts if a.task.startswith(TRAINING)]
    machines = [a.machine for a in trainings if a.machine is not None]
    gpus = [gpu for machine in machines for gpu in machine.gpus]
    settings = [arm.settings for arm in record.arms.values() if arm.settings is not None]
    found = {
        "image": NONE if record.image is None else record.image.file.sha256,
        f"image{CONTENT}": (record.image.content_sha256 or "") if record.image else "",
        "weights": _sha256(record.weights),
        **{f"plans.{name}": arm.plans.sha256 for name, arm in record.arms.items() if arm.plans},
        "splits.folds": record.splits.sha256 if record.splits else "",
        "splits.test": _sha256(record.test_sets),
        "threads": _distinct(one.threads for one in settings),
        "workers": _distinct(one.workers for one in settings),
        **{f"trainers.{file.path}": file.sha256 for file in record.trainers},
        "ca-hpc": record.host.versions.get("ca-hpc", ""),
        **_software(trainings, imaged=record.image is not None),
        "node": _distinct(machine.host for machine in machines),
        "cpu": _distinct(machine.cpu for machine in machines),
        "cpu.torch": _distinct(_version(one, CPU_KERNELS) for one in trainings),
        "gpu": _distinct(gpu.name for gpu in gpus) or (NONE if machines else ""),
        "driver": _distinct(gpu.driver for gpu in gpus) or (NONE if machines else ""),
    }
    return {name: fact for name, fact in found.items() if fact}


def settings(spec: Mapping[str, Any]) -> dict[str, str]:
    """What of a job spec (as plain values) decides about results, and the seed of the trainings."""
    flat = dict(_flat(spec))
    chosen = {f"settings.{name}": value for name, value in flat.items() if not _elsewhere(name)}
    return {**chosen, "seed": flat.get("training.seed", "0")}


def data_fact(cases: Cases) -> dict[str, str]:
    """Of cases whose files are named by their content: which images and labels, in order of ids.

    Neither names nor places count.
    """
    ordered = sorted(cases.cases, key=lambda case: case.id)
    return {"data": _digest([_content(case) for case in ordered])}


def division_facts(cases: Cases, division: Division) -> dict[str, str]:
    """Of folds and test sets by what their cases hold, which go by their content."""
    known = {case.id: _content(case) for case in cases.cases}

    def content(ids: Iterable[str]) -> list[object]:
        return [known.get(each, each) for each in ids]

    folds = [{part: content(ids) for part, ids in fold.items()} for fold in division.folds]
    tests = {name: content(ids) for name, ids in division.tests.items()}
    return {f"splits.folds{CONTENT}": _digest(folds), f"splits.test{CONTENT}": _digest(tests)}


def drift(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[Row, ...]:
    """A row per fact, in the order of ``ASPECTS``. Of many that are the same one tells of all.

    What a file holds is told where it is another file.
    """
    rows: list[Row] = []
    for aspect, kind in ASPECTS.items():
        names = [name for name in dict.fromkeys((*before, *now)) if _aspect(name) == aspect]
        own = [_row(name, before, now, kind=kind) for name in names]
        others = {row.aspect + CONTENT for row in own if row.verdict in ("drift", "expected")}
        own = [row for row in own if not row.aspect.endswith(CONTENT) or row.aspect in others]
        same = [row for row in own if row.verdict == "same"]
        if len(same) > _LISTED:
            told = f"{len(same)} facts"
            rows.append(Row(aspect, told, told, "same"))
            own = [row for row in own if row.verdict != "same"]
        rows += own
    return tuple(rows)


def refuse(rows: Iterable[Row], *, allowed: Collection[str], hint: str | None = None) -> None:
    """Raise DigestMismatch for what must be the same and is not, SpecError for an unknown name.

    What is not known on one side is no difference: the table tells it. ``hint``: the next move,
    where allowing is none.
    """
    check_allowed(allowed)
    refused = [row for row in drifted(rows) if _aspect(row.aspect) not in allowed]
    if refused:
        names = dict.fromkeys(_aspect(row.aspect) for row in refused)
        raise DigestMismatch(
            "\n".join(
                f"{_named(row.aspect)} is {_named(row.now)}, recorded is {_named(row.before)}"
                for row in refused
            ),
            hint=hint
            or "put back what was recorded, or take what there is, on record: "
            + " ".join(f"--allow {name}" for name in names),
        )


def check_allowed(allowed: Iterable[str]) -> None:
    """Raise SpecError for a name that cannot be allowed."""
    pinned = [aspect for aspect, kind in ASPECTS.items() if kind == "pinned"]
    if unknown := sorted(set(allowed) - set(pinned)):
        raise SpecError(
            f"--allow {unknown[0]}: there is no such aspect",
            hint=f"one of: {', '.join(pinned)}",
        )


def drifted(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows of what is pinned, and another one."""
    return tuple(
        row for row in rows if row.verdict == "drift" and ASPECTS[_aspect(row.aspect)] == "pinned"
    )


def _row(name: str, before: Mapping[str, str], now: Mapping[str, str], *, kind: Kind) -> Row:
    old, new = before.get(name, ""), now.get(name, "")
    if not old or not new:
        return Row(name, old, new, "unknown")
    if old == new:
        return Row(name, old, new, "same")
    content = before.get(name + CONTENT)
    holds_the_same = content is not None and content == now.get(name + CONTENT)
    return Row(name, old, new, "expected" if kind == "expected" or holds_the_same else "drift")


def _aspect(name: str) -> str:
    return name.partition(".")[0]


def _named(fact: str) -> str:
    """A fact in a message: digests are said to be some, and a terminal is told nothing else."""
    digits = len(fact) == 64 and not set(fact) - set("0123456789abcdef")
    return f"sha256:{fact}" if digits else fact if fact.isprintable() else repr(fact)


def _sha256(file: File | None) -> str:
    return NONE if file is None else file.sha256


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(sorted({str(value) for value in values if value is not None}))


def _version(attempt: AttemptRecord, name: str) -> str | None:
    return None if attempt.software is None else attempt.software.versions.get(name)


def _software(trainings: Sequence[AttemptRecord], *, imaged: bool) -> dict[str, str]:
    """Of the last training that told; an image pins all of it by its own digest."""
    told = [attempt.software for attempt in trainings if attempt.software is not None]
    if imaged or not told:
        return {}
    versions = told[-1].versions
    return {f"software.{name}": versions.get(name, "") for name in SOFTWARE}


def _content(case: Case) -> object:
    """Of a case whose files go by what they hold."""
    return case.images, case.masks, [(file.path, file.label) for file in case.labels]


def _digest(content: object) -> str:
    return sha256(encode(content).encode()).hexdigest()


def _elsewhere(name: str) -> bool:
    """Whether a key, or one above it, is no setting."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in _NOT_SETTINGS for count in range(1, len(parts) + 1))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """``{"a": {"b": 1}}`` -> ``a.b``, ``1``."""
    match value:
        case Mapping():
            for key, inner in value.items():
                yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        case list() | tuple():
            yield prefix, ", ".join(map(str, value))
        case _:
            yield prefix, str(value)
