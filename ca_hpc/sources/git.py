"""Data sets in git repositories: ``STORE/datasets/X/commits/COMMIT``, X by the address.

A clone per commit, whole or not there: a run that waits keeps its files when the ref moves. Clones
share what they have by hard links. Not by ``git worktree``: work tree and repository name each
other by absolute paths, so that neither a draft nor a store could be moved.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final

from ca_hpc.core.codec import decode, encode
from ca_hpc.core.data_spec import GitSource
from ca_hpc.core.record import Origin
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.processes import Run
from ca_hpc.sources import annex
from ca_hpc.sources.git_command import ORIGIN, Git, GitFailed, shown
from ca_hpc.store import atomic
from ca_hpc.store.lock import held

#: the folder below the store
REPOSITORIES: Final = "datasets"

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
# git-check-ref-format(1), and patterns, which `git ls-remote` would match
_NO_REF: Final = re.compile(r"^[-/.]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|(\.lock|[/.])$")
_DRAFT: Final = ".draft-"
_ANSWER_S: Final = 120.0
_REACH: Final = (
    "is the VPN on, the address right, the key loaded (ssh-agent) or the password stored "
    "(git credential)? It must work without asking: git ls-remote"
)


@dataclass(frozen=True, slots=True)
class Checkout:
    """The files of one commit. ``remarks``: such as that the ref has moved since it was last used.

    ``address``: as git needs it; it may hold a password.
    """

    folder: Path
    origin: Origin
    remarks: tuple[str, ...] = ()
    address: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Where a ref was, and the day when it was last looked up."""

    commit: str
    on: str


@dataclass(frozen=True, slots=True)
class _Refs:
    """What a store remembers of a repository."""

    url: str
    refs: Mapping[str, _Seen] = field(default_factory=dict)


def checkout(source: GitSource, *, name: str, store: Path, run: Run, fetch: bool) -> Checkout:
    """The files of ``source`` at its ref; annexed ones may be links to nothing until ``get``.

    ``name``: of the source, for records. Without ``fetch`` nothing is asked of the network and
    nothing written. Raises DigestMismatch where the ref is not at ``source.commit``, CaHpcError
    where it cannot be had.
    """
    _check(source, name)
    place = store / REPOSITORIES / hashlib.sha256(source.url.encode()).hexdigest()[:16]
    if not fetch:
        return _known(source, name, place)
    with _writing(place):
        return _fetched(source, name, place, Git(run, source.url))


def get(
    checkout: Checkout,
    files: Sequence[str],
    *,
    run: Run,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Get the contents of ``files`` (paths below the checkout's folder) that are not there yet.

    git-annex compares them with their keys. Raises CaHpcError that tells which cannot be had.
    """
    git = Git(run, checkout.address or checkout.origin.url)
    needed = annex.needed(checkout.folder, files)
    if not needed:
        return
    with _writing(
        checkout.folder.parent.parent,
        waiting=lambda: say("another process gets files of this repository: waiting"),
    ):
        annex.get(
            checkout.folder,
            annex.needed(checkout.folder, files),
            git=git,
            say=lambda text: say(f"{checkout.origin.source}: {text}"),
        )


def _known(source: GitSource, name: str, place: Path) -> Checkout:
    """What is in the store."""
    last = _refs(place).refs.get(source.ref)
    commit = source.ref if _COMMIT.fullmatch(source.ref) else last.commit if last else None
    wanted = source.commit or commit
    if commit is None or wanted is None or not _folder(place, wanted).is_dir():
        raise CaHpcError(
            f"{shown(source.url)} (ref {source.ref}) is not fetched yet",
            hint="ca-hpc data fetch JOB, or submit, which fetches",
        )
    _check_commit(source, commit)
    return _checkout(source, name, place, commit)


def _fetched(source: GitSource, name: str, place: Path, git: Git) -> Checkout:
    known = _refs(place)
    last = known.refs.get(source.ref)
    remarks: list[str] = []
    asked = True
    try:
        commit = _resolved(source, place, git)
    except GitFailed as error:
        if last is None or not _folder(place, last.commit).is_dir():
            error.hint = _REACH
            raise
        asked, commit = False, last.commit
        remarks.append(
            f"{name}: {error.message.splitlines()[0]}; the commit of {last.on} is used: {commit}"
        )
    _check_commit(source, commit)
    if not _folder(place, commit).is_dir():
        _clone(place, commit, git)
    if last is not None and last.commit != commit:
        remarks.append(
            f"{name}: ref {source.ref} of {shown(source.url)} has moved from {last.commit} to "
            f"{commit} since {last.on} (commit: {commit} pins it)"
        )
    if asked:
        seen = {**known.refs, source.ref: _Seen(commit, date.today().isoformat())}
        atomic.write_text(place / "refs.json", encode(_Refs(shown(source.url), seen)))
    return _checkout(source, name, place, commit, remarks=remarks)


def _resolved(source: GitSource, place: Path, git: Git) -> str:
    """The commit that the ref is at now. Raises GitFailed where the repository is not reached."""
    ref = source.ref
    if _COMMIT.fullmatch(ref):
        return ref
    # as git itself looks them up (gitrevisions(7))
    names = (ref, f"refs/{ref}", f"refs/tags/{ref}", f"refs/heads/{ref}")
    peeled = [f"{name}^{{}}" for name in names]  # the commit of an annotated tag
    listed = git.checked(
        "ls-remote", "--quiet", ORIGIN, *names, *peeled, cwd=place, timeout_s=_ANSWER_S
    )
    lines = (line.split("\t", 1) for line in listed.splitlines() if "\t" in line)
    found = {name: commit for commit, name in lines}
    for name in names:
        commit = found.get(f"{name}^{{}}") or found.get(name)
        if commit is not None and _COMMIT.fullmatch(commit):
            return commit
    raise CaHpcError(
        f"{shown(source.url)} has no branch or tag {ref}",
        hint="what there is: git ls-remote; a commit is given with all its 40 digits",
    )


def _clone(place: Path, commit: str, git: Git) -> None:
    """Publish the files of ``commit``, in one step. The lock is held."""
    for left in place.glob(f"{_DRAFT}*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    draft = place / f"{_DRAFT}{uuid.uuid4().hex}"
    try:
        _start(draft, place, git)
        _fetch(draft, commit, git)
        # filters of the user's own config, too: what they would make is not what was published
        attributes = draft / ".git" / "info" / "attributes"
        attributes.parent.mkdir(exist_ok=True)
        attributes.write_text("* -filter\n")
        git.checked("checkout", "--quiet", "--detach", commit, "--", cwd=draft)
        target = _folder(place, commit)
        target.parent.mkdir(exist_ok=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _start(draft: Path, place: Path, git: Git) -> None:
    """An empty repository, or one that shares what an older commit's has."""
    others = place.glob("commits/*/.git")
    older = max(others, key=lambda folder: folder.stat().st_mtime, default=None)
    if older is not None:
        options = ("--quiet", "--local", "--no-checkout", "--no-tags", "--template=")
        source = ("--origin", annex.OLDER, "--", str(older.parent))
        done = git("clone", *options, *source, str(draft), cwd=place)
        if not done.returncode:
            return
        shutil.rmtree(draft, ignore_errors=True)
    git.checked("init", "--quiet", "--template=", "--", str(draft), cwd=place)


def _fetch(draft: Path, commit: str, git: Git) -> None:
    options = ("fetch", "--quiet", "--no-write-fetch-head")
    if git(*options, "--no-tags", ORIGIN, commit, cwd=draft).returncode:
        # older servers give what a ref names, and no other commit
        all_branches = f"+refs/heads/*:refs/remotes/{ORIGIN}/*"
        git.checked(*options, "--tags", ORIGIN, all_branches, cwd=draft)
    if git("cat-file", "-e", f"{commit}^{{commit}}", cwd=draft).returncode:
        raise CaHpcError(
            f"{shown(git.url)} has no commit {commit}", hint="correct `ref`, or `commit`"
        )


@contextmanager
def _writing(place: Path, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with held(place / ".lock", waiting=waiting):
            yield
    except PermissionError as error:
        raise CaHpcError(
            f"cannot write to {error.filename or place}: {error.strerror}",
            hint="name a store of your own: CA_HPC_STORE=FOLDER, or folders.store of the cluster",
        ) from error


def _refs(place: Path) -> _Refs:
    try:
        return decode(_Refs, (place / "refs.json").read_text())
    except (OSError, ValueError):  # nothing is known then, and asked again
        return _Refs("")


def _folder(place: Path, commit: str) -> Path:
    return place / "commits" / commit


def _checkout(
    source: GitSource, name: str, place: Path, commit: str, *, remarks: Sequence[str] = ()
) -> Checkout:
    origin = Origin(name, shown(source.url), ref=source.ref, commit=commit)
    return Checkout(_folder(place, commit), origin, tuple(remarks), address=source.url)


def _check(source: GitSource, name: str) -> None:
    """Nothing that begins like an option or is no name gets as far as a command."""
    if source.url.startswith("-") or not source.url.isprintable() or "::" in source.url:
        raise CaHpcError(
            f"{name}: {shown(source.url)!r} is no address of a repository",
            hint="url: https://…, ssh://…, host:path, or a folder",
        )
    if _NO_REF.search(source.ref):
        raise CaHpcError(
            f"{name}: {source.ref!r} is no branch, tag or commit",
            hint="ref: its name, such as main or r20250130; or the 40 digits of a commit",
        )


def _check_commit(source: GitSource, commit: str) -> None:
    if source.commit in (None, commit):
        return
    raise DigestMismatch(
        f"ref {source.ref} of {shown(source.url)} is at commit {commit}, the job says "
        f"{source.commit}",
        hint=f"`commit: {commit}` takes what is there now, `ref: {source.commit}` what was meant",
    )
