"""Archive: everything that another site needs to rerun a run, in one file, and nothing that names.

What is not known to be free of names does not go in: the job's own text, logs, pages, warnings,
the paths of results. Checkpoints stay behind as well: a rerun makes them.
"""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from ca_hpc import __version__, processes
from ca_hpc.actions.archive_readme import readme
from ca_hpc.actions.archive_texts import member_texts, weights_name
from ca_hpc.actions.job_data import Say
from ca_hpc.actions.original import PUT_BACK, Original, given_facts, of_run, trainer_facts
from ca_hpc.core.codec import decode, encode
from ca_hpc.core.drift import drift, refuse
from ca_hpc.core.pseudonyms import owner_of
from ca_hpc.core.run_record import RunRecord
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images.building.host_wheels import fetch_host_wheels
from ca_hpc.images.record import ImageInfo, read_image, record_path
from ca_hpc.report.run_record import compose
from ca_hpc.store import archive as archives
from ca_hpc.store.archive import FORMAT, KIND, Manifest, Names
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.pack import Pack
from ca_hpc.store.run_folder import RunFolder, inside
from ca_hpc.store.sealed_tar import Member, Progress
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
    fills a folder with those of the host side. Raises DigestMismatch where plans, splits, trainers,
    image or weights are not those that were recorded, or change while they are written.
    """
    target = target.absolute()
    check_target(target, KIND, overwrite=overwrite)
    was = of_run(run, compose(run), store=store)
    _refuse_changed(was)
    if "wheels" not in without:
        _refuse_other_wheels(run)
    texts = member_texts(run, was, names=names)
    with tempfile.TemporaryDirectory(prefix="ca-hpc-archive-") as folder:
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
        text = _readme(run, was, left_out, size_bytes=sum(parts.values()))
        contents.append(Content.of_bytes(archives.README, text.encode()))
        sealed = write_sealed(
            sorted(contents, key=lambda content: content.name),
            target,
            kind=KIND,
            manifest=lambda files: _manifest(run, names, files),
            progress=progress,
            overwrite=overwrite,
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


def _refuse_changed(was: Original) -> None:
    """Raises DigestMismatch for what is not what was sealed or recorded."""
    now = given_facts(was.plans, splits=was.splits, test_sets=was.test_sets)
    now |= trainer_facts(was.trainers)
    facts = was.facts
    recorded = {name: facts.get(name, "") for name in now}
    refuse(drift(recorded, now), allowed=(), hint=PUT_BACK)


def _refuse_other_wheels(run: RunFolder) -> None:
    """A rerun wants the run's own version, and wheels are of the one that is installed here."""
    if (version := run.pins.ca_hpc) != __version__:
        raise CaHpcError(
            f"{run.path} was submitted by ca-hpc {version}, and the wheels would be those of "
            f"ca-hpc {__version__}, which reruns it only with --allow ca-hpc",
            hint=f"archive it with ca-hpc {version}, or --without wheels",
        )


def _readme(run: RunFolder, was: Original, left_out: Collection[str], *, size_bytes: int) -> str:
    cases = was.cases.cases
    return readme(
        was.record.name,
        version=run.pins.ca_hpc,
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


def _trainers(run: RunFolder, was: Original) -> Iterator[Content]:
    if was.trainers is not None:
        folder = inside(run.path, Path(was.trainers))
        known = {file.path: file.sha256 for file in was.record.trainers}
        yield from _below(folder, archives.TRAINERS, named="*.py", known=known)


def _below(
    folder: Path, name: str, *, named: str = "*", known: Mapping[str, str] | None = None
) -> Iterator[Content]:
    """The files of a folder. Raises CaHpcError for a link that leads out of it.

    ``known``: the sha256 that members must have.
    """
    for file in sorted(folder.rglob(named)):
        if inside(folder, file).is_file():
            member = f"{name}/{file.relative_to(folder).as_posix()}"
            sha256 = (known or {}).get(member)
            yield Content.of_file(member, file, hint=_READ, sha256=sha256)


def _pinned(run: RunFolder, *, without: Collection[Part], cache: DigestCache) -> Iterator[Content]:
    """The image with its record, and the weights, if they are not in the image."""
    image, weights = run.workflow.runtime.image, run.pins.weights
    if image is not None and "image" not in without:
        path = Path(image.path)
        yield _checked("image", archives.IMAGE, path, sha256=image.sha256, cache=cache)
        if (beside := _described(path)) is not None:
            yield Content.of_bytes(archives.IMAGE_RECORD, encode(beside).encode())
    if weights is not None and "weights" not in without and not _in_image(run):
        name, path = weights_name(weights.path), Path(weights.path)
        yield _checked("weights", name, path, sha256=weights.sha256, cache=cache)
    cache.save()


def _described(image: Path) -> ImageInfo | None:
    """What the record beside an image says, and nothing else that a file of its name may hold."""
    record = record_path(image)
    with contextlib.suppress(OSError, ValueError):
        if record.is_file():
            known = decode(ImageInfo, record.read_text(encoding="utf-8"))
            return ImageInfo(
                path=Path(archives.IMAGE),
                sha256=known.sha256,
                size_bytes=known.size_bytes,
                contents=known.contents,
                origin=known.origin,
                content_sha256=known.content_sha256,
                unasked=known.unasked,
            )
    return None  # then the image itself is asked


def _in_image(run: RunFolder) -> bool:
    """Whether the weights are in the image: then no file here has their path."""
    image, weights = run.workflow.runtime.image, run.pins.weights
    if image is None or weights is None or Path(weights.path).is_file():
        return False
    return any(carried.path == weights.path for carried in read_image(Path(image.path)).weights)


def _checked(what: str, name: str, path: Path, *, sha256: str, cache: DigestCache) -> Content:
    """A file that is the recorded one. Raises CaHpcError, and DigestMismatch."""
    try:
        found = cache.sealed(path).sha256
        content = Content.of_file(name, path, hint=_READ, sha256=sha256)
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
    return Content(name, known.bytes, lambda: pack.chunks(member), sha256)
