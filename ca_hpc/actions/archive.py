"""Archive: everything that another site needs to rerun a run, in one file, and nothing that names.

What is not known to be free of names does not go in: the job's own text, logs, pages, warnings,
the paths of results. Checkpoints stay behind as well: a rerun makes them.
"""

from __future__ import annotations

import contextlib
import json
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from ca_hpc import __version__, processes
from ca_hpc.actions.archive_readme import readme
from ca_hpc.actions.job_data import Say
from ca_hpc.actions.original import Original, given_facts, of_run, text_sha256
from ca_hpc.core import door
from ca_hpc.core.codec import decode, encode
from ca_hpc.core.data_spec import PairsSource, SplitFile
from ca_hpc.core.drift import drift, refuse
from ca_hpc.core.profile import Cluster
from ca_hpc.core.pseudonyms import Pseudonyms, owner_of, pseudonyms
from ca_hpc.core.record import Cases, Origin
from ca_hpc.core.run_record import AttemptRecord, File, Image, RunRecord
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images.building.host_wheels import fetch_host_wheels
from ca_hpc.images.record import ImageInfo, read_image, record_path
from ca_hpc.images.reference import SCHEME
from ca_hpc.report.model import CaseScore
from ca_hpc.report.run_record import compose
from ca_hpc.report.scores import read_scores, scores_text
from ca_hpc.store import archive as archives
from ca_hpc.store.archive import FORMAT, KIND, Manifest, Names
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.given import PLANS, SPLITS, TEST_SETS, division_of
from ca_hpc.store.pack import Pack
from ca_hpc.store.run_folder import RunFolder, inside
from ca_hpc.store.sealed_tar import Member, Progress, short
from ca_hpc.store.sealed_tar_writer import Content, check_target, write_sealed
from ca_hpc.weights.store import WeightStore

#: what may be left out, because the other site has it, or to be small
Part = Literal["image", "weights", "wheels"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)

_READ: Final = "put back what was recorded, or archive without it"


@dataclass(frozen=True, slots=True)
class Archived:
    """An archive that was written. ``sha256``: of its manifest. ``parts``: their sizes in bytes.

    ``left_out``: parts that a rerun must find elsewhere.
    """

    file: Path
    sha256: str
    size_bytes: int
    members: int
    parts: Mapping[str, int]
    left_out: tuple[str, ...]


def archive(
    run: RunFolder,
    target: Path,
    *,
    store: WeightStore,
    cache: DigestCache,
    without: Collection[Part] = (),
    images: bool = False,
    names: Names = "replaced",
    overwrite: bool = False,
    wheels: Callable[[Path], None] = lambda into: fetch_host_wheels(into, run=processes.run),
    say: Say,
    progress: Progress,
) -> Archived:
    """Write a run as one file; whole or not at all. Raises CaHpcError.

    ``images``: with images and labels, whose headers nobody has looked at. ``names: kept``: ids of
    cases, subjects and sessions as they are. ``overwrite``: an archive that is there. ``wheels``
    fills a folder with those of the host side. Raises DigestMismatch where plans, splits, image or
    weights are not those that were recorded.
    """
    target = target.absolute()
    check_target(target, KIND)
    if target.exists() and not overwrite:
        raise CaHpcError(
            f"{target} is there already", hint="name a new file: -o study.tar; or: --replace"
        )
    was = of_run(run, compose(run), store=store)
    now = given_facts(was.plans, splits=was.splits, test_sets=was.test_sets)
    recorded = {name: was.facts.get(name, "") for name in now}
    refuse(drift(recorded, now), allowed=(), hint="put back what was recorded")
    texts = _texts(run, was, pseudonyms(was.cases) if names == "replaced" else None)
    with tempfile.TemporaryDirectory(prefix="ca-hpc-archive-", dir=target.parent) as folder:
        contents = [Content.of_bytes(name, text.encode()) for name, text in texts.items()]
        contents += _trainers(run, was)
        contents += _pinned(run, without=without, cache=cache)
        if images:
            contents += _images(was, cache=cache)
        if "wheels" not in without:
            say("fetching the wheels of the host side")
            wheels(Path(folder))
            contents += _below(Path(folder), archives.WHEELS)
        parts = _sizes(contents)
        left_out = tuple(part for part in _wanted(run, was.record) if part not in parts)
        text = _readme(was, left_out, size_bytes=sum(parts.values()))
        contents.append(Content.of_bytes(archives.README, text.encode()))
        sealed = write_sealed(
            sorted(contents, key=lambda content: content.name),
            target,
            kind=KIND,
            manifest=lambda files: _manifest(run, names, files),
            progress=progress,
        )
    return Archived(
        file=target,
        sha256=sealed,
        size_bytes=target.stat().st_size,
        members=len(contents),
        parts=parts,
        left_out=left_out,
    )


def _wanted(run: RunFolder, record: RunRecord) -> Iterator[str]:
    """The parts that a rerun needs besides the record."""
    if record.image is not None:
        yield "image"
    if record.weights is not None and not _in_image(run):
        yield archives.WEIGHTS
    yield archives.WHEELS
    yield archives.IMAGES


def _sizes(contents: Iterable[Content]) -> dict[str, int]:
    """Bytes of the image, of the folders that may be left out, and of all else, the record."""
    parts = dict.fromkeys((archives.IMAGE, archives.IMAGE_RECORD), "image")
    parts |= {name: name for name in (archives.WEIGHTS, archives.WHEELS, archives.IMAGES)}
    sizes: Counter[str] = Counter()
    for content in contents:
        sizes[parts.get(content.name.partition("/")[0], "record")] += content.size
    return dict(sizes.most_common())


def _readme(was: Original, left_out: Collection[str], *, size_bytes: int) -> str:
    cases = was.cases.cases
    return readme(
        was.record.name,
        version=__version__,
        python=".".join(platform.python_version_tuple()[:2]),
        machine=platform.machine(),
        imaged=was.record.image is not None,
        images=len(cases),
        people=len({owner_of(case) for case in cases}),
        size_bytes=size_bytes,
        left_out=left_out,
    )


def _manifest(run: RunFolder, names: Names, files: Mapping[str, Member]) -> Manifest:
    return Manifest(FORMAT, __version__, run.path.name, names, files)


# --- texts -------------------------------------------------------------------------------------


def _texts(run: RunFolder, was: Original, new: Pseudonyms | None) -> dict[str, str]:
    """The members that are made here, by name; the record comes last and seals the others."""
    splits, tests = was.splits, was.test_sets
    if new is not None:
        division = division_of(splits, tests, place=run.path)
        folds = [{part: new.ids(ids) for part, ids in f.items()} for f in division.folds]
        splits = _json(folds)
        tests = _json({name: new.ids(ids) for name, ids in division.tests.items()})
    given = archives.GIVEN
    texts = {
        archives.SPEC: door.dump(_spec(was)),
        archives.CLUSTER: door.dump(_cluster(was.cluster)),
        archives.CASES: encode(_cases(was.cases, new)),
        f"{given}/{SPLITS}": splits,
        f"{given}/{TEST_SETS}": tests,
        **{f"{given}/{PLANS}/{arm}.json": text for arm, text in was.plans.items()},
    }
    if was.model is not None:
        texts[archives.MODEL] = door.dump(was.model)
    if scores := read_scores(run.path):
        texts[archives.SCORES] = scores_text(_scores(scores, was, new))
    return {**texts, archives.RECORD: encode(_record(was.record, texts))}


def _spec(was: Original) -> JobSpec:
    """The resolved spec without places: what names the data here names nothing elsewhere."""
    spec = was.spec
    sources = dict.fromkeys(case.source for case in was.cases.cases)
    listed = isinstance(spec.splits, SplitFile)
    return replace(
        spec,
        cluster=was.cluster.name,
        data=tuple(PairsSource(type="pairs", path="cases.json", name=name) for name in sources),
        splits=SplitFile(f"{archives.GIVEN}/{SPLITS}") if listed else spec.splits,
        weights=None if was.record.weights is None else f"sha256:{was.record.weights.sha256}",
        model=None if was.model is None else was.model.name,
        image=None,
        output=None,
        trainers=None if was.trainers is None else archives.TRAINERS,
        resources={},
    )


def _cluster(cluster: Cluster) -> Cluster:
    """What a table of drift tells of it."""
    return Cluster(
        name=cluster.name,
        executor=cluster.executor,
        runtime=cluster.runtime,
        partition=cluster.partition,
    )


def _cases(cases: Cases, new: Pseudonyms | None) -> Cases:
    """The cases; of what was said about the data only what names nobody and no place of a site."""
    return replace(
        cases,
        cases=tuple(new.of(case) if new else case for case in cases.cases),
        origins=tuple(_origin(origin) for origin in cases.origins),
        remarks=(),
    )


def _origin(origin: Origin) -> Origin:
    """Public addresses stay: other sites can get the data there."""
    return origin if origin.url.startswith("https://") else replace(origin, url="")


def _scores(
    scores: Iterable[CaseScore], was: Original, new: Pseudonyms | None
) -> tuple[CaseScore, ...]:
    """Raises CaHpcError for scores of a case that the run does not have."""
    renamed = {case.id: new.of(case) if new else case for case in was.cases.cases}

    def named(score: CaseScore) -> CaseScore:
        if (case := renamed.get(score.case)) is None:
            raise CaHpcError(
                f"{archives.SCORES} of {was.place} has scores of {short(score.case)}, which is "
                "none of its cases",
                hint="it is damaged; the folds' own predictions and summaries are below results/",
            )
        return replace(score, case=case.id, person=case.person, session=case.session)

    return tuple(map(named, scores))


def _record(record: RunRecord, texts: Mapping[str, str]) -> RunRecord:
    """The record of what is in the archive, under the names that it has there; of no node."""

    def sealed(name: str) -> File:
        text = texts[name]
        return File(name, text_sha256(text), len(text.encode()))

    given = archives.GIVEN
    return replace(
        record,
        spec=sealed(archives.SPEC),
        cluster=sealed(archives.CLUSTER),
        splits=sealed(f"{given}/{SPLITS}"),
        test_sets=sealed(f"{given}/{TEST_SETS}"),
        image=None if record.image is None else _image(record.image),
        weights=None
        if record.weights is None
        else replace(record.weights, path=_weights_name(record.weights.path)),
        arms={
            name: replace(arm, plans=sealed(f"{given}/{PLANS}/{name}.json"))
            for name, arm in record.arms.items()
        },
        attempts=tuple(map(_attempt, record.attempts)),
        results=(sealed(archives.SCORES),) if archives.SCORES in texts else (),
        warnings=(),
        rerun=None if record.rerun is None else replace(record.rerun, drift=()),
    )


def _attempt(attempt: AttemptRecord) -> AttemptRecord:
    """What a node is like may decide about bits, what it is called does not."""
    if attempt.machine is None:
        return attempt
    return replace(attempt, machine=replace(attempt.machine, host=""))


def _image(image: Image) -> Image:
    """Of where it came from only what is no path of this site."""
    public = image.reference is not None and image.reference.startswith(SCHEME)
    return replace(
        image,
        file=replace(image.file, path=archives.IMAGE),
        reference=image.reference if public else None,
    )


def _json(content: Any) -> str:
    """As ``steps/assemble.py`` writes it: a rerun makes the same bytes of it."""
    return json.dumps(content, indent=1) + "\n"


# --- files -------------------------------------------------------------------------------------


def _trainers(run: RunFolder, was: Original) -> Iterator[Content]:
    if was.trainers is not None:
        folder = inside(run.path, Path(was.trainers))
        yield from _below(folder, archives.TRAINERS, named="*.py")


def _below(folder: Path, name: str, *, named: str = "*") -> Iterator[Content]:
    """The files of a folder. Raises CaHpcError for a link that leads out of it."""
    for file in sorted(folder.rglob(named)):
        if inside(folder, file).is_file():
            member = f"{name}/{file.relative_to(folder).as_posix()}"
            yield Content.of_file(member, file, hint=_READ)


def _pinned(run: RunFolder, *, without: Collection[Part], cache: DigestCache) -> Iterator[Content]:
    """The image with its record, and the weights, if they are not in the image."""
    image, weights = run.workflow.runtime.image, run.pins.weights
    if image is not None and "image" not in without:
        path = Path(image.path)
        yield _checked("image", archives.IMAGE, path, sha256=image.sha256, cache=cache)
        if (beside := _described(path)) is not None:
            yield Content.of_bytes(archives.IMAGE_RECORD, encode(beside).encode())
    if weights is not None and "weights" not in without and not _in_image(run):
        name, path = _weights_name(weights.path), Path(weights.path)
        yield _checked("weights", name, path, sha256=weights.sha256, cache=cache)
    cache.save()


def _described(image: Path) -> ImageInfo | None:
    """What the record beside an image says, and nothing else that a file of its name may hold."""
    record = record_path(image)
    with contextlib.suppress(OSError, ValueError):
        if record.is_file():
            known = decode(ImageInfo, record.read_text(encoding="utf-8"))
            return replace(known, path=Path(archives.IMAGE))
    return None  # then the image itself is asked


def _in_image(run: RunFolder) -> bool:
    """Whether the weights are in the image: then no file here has their path."""
    image, weights = run.workflow.runtime.image, run.pins.weights
    if image is None or weights is None or Path(weights.path).is_file():
        return False
    return any(carried.path == weights.path for carried in read_image(Path(image.path)).weights)


def _weights_name(path: str) -> str:
    """By what they are: the name of a file may tell more than that."""
    return f"{archives.WEIGHTS}/weights{Path(path).suffix}"


def _checked(what: str, name: str, path: Path, *, sha256: str, cache: DigestCache) -> Content:
    """A file that is the recorded one. Raises CaHpcError, and DigestMismatch."""
    try:
        found = cache.sealed(path).sha256
        content = Content.of_file(name, path, hint=_READ)
    except OSError as error:
        raise CaHpcError(f"{what} {path} cannot be read: {error.strerror}", hint=_READ) from error
    if found != sha256:
        raise DigestMismatch(
            f"{what} {path} is sha256:{found}, recorded is sha256:{sha256}", hint=_READ
        )
    return content


def _images(was: Original, *, cache: DigestCache) -> Iterator[Content]:
    """Images and labels, each once, named by what they hold. Raises DigestMismatch."""
    done: set[str] = set()
    for case in was.cases.cases:
        place = was.former[case.id]
        pack = None if place.archive is None else Pack.open(Path(place.archive))
        for digest, file in zip(case.files, place.files, strict=True):
            name = f"{archives.IMAGES}/{digest}{'.nii.gz' if file.endswith('.gz') else '.nii'}"
            if digest in done:
                continue
            done.add(digest)
            if pack is None:
                yield _checked("image", name, Path(file), sha256=digest, cache=cache)
            else:
                yield _packed(name, pack, file, sha256=digest)


def _packed(name: str, pack: Pack, member: str, *, sha256: str) -> Content:
    known = pack.member(member)
    if known.sha256 != sha256:
        raise DigestMismatch(
            f"image {member} in {pack.path} is sha256:{known.sha256}, recorded is sha256:{sha256}",
            hint=_READ,
        )
    return Content(name, known.bytes, lambda: pack.chunks(member))
