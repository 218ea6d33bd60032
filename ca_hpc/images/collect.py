"""Remove images that nothing needs: no name, no run, and nobody who asked for them lately.

A run needs the image whose sha256 its ``workflow.json`` names. Which folders to look for runs in
is what the uses of an image tell. What cannot be judged from here keeps an image: a run that is
private, and a folder that is gone or empty, which is what one looks like that is not mounted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

from ca_hpc.errors import CaHpcError
from ca_hpc.images.shelf import INCOMING, Entry, Shelf, read_use
from ca_hpc.store.lock import Busy
from ca_hpc.store.shared import is_own

#: longer than any job waits and runs: its image may still be read after its run was deleted
GRACE_S: Final = 30 * 86400.0

_REMOVING: Final = ".removing-"
_WORKFLOW: Final = "workflow.json"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Unseen(Enum):
    """Why it cannot be told from here what the runs of a folder are pinned to."""

    GONE = (
        ", where jobs were submitted to, is empty or gone "
        "(not mounted? moved: --runs FOLDER; gone for good: --gone FOLDER)"
    )
    CLOSED = " cannot be looked into from here"


#: what the runs of a folder are pinned to, each with one run
Pinned: TypeAlias = "Mapping[str, str] | Unseen"


@dataclass(frozen=True, slots=True)
class Places:
    """Where runs are, beside the folders that jobs were submitted to.

    ``runs``: further folders of runs, such as those that runs were moved to. ``gone``: folders that
    keep no image where they are empty or gone.
    """

    runs: tuple[str, ...] = ()
    gone: frozenset[str] = frozenset()

    def pinned(self, folder: str) -> Pinned:
        """As ``pinned_in``."""
        found = pinned_in(folder)
        return {} if found is Unseen.GONE and folder in self.gone else found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of an image. ``kept``: all reasons; none: nothing needs it. ``removed``: it is
    gone."""

    entry: Entry
    kept: tuple[str, ...]
    removed: bool = False


def collect(
    shelf: Shelf,
    *,
    now: float,
    grace_s: float = GRACE_S,
    places: Places = Places(),
    delete: bool,
) -> tuple[Outcome, ...]:
    """What may go, and with ``delete`` its removal, oldest first.

    ``now``: seconds since the epoch. Raises CaHpcError where the images may not be seen, and for
    further folders without runs.
    """
    for folder in places.runs:
        _check(Path(folder))
    pinned = cache(places.pinned)
    outcomes = []
    for entry in shelf.entries():
        outcome = Outcome(entry, _kept(entry, pinned, places.runs, now=now, grace_s=grace_s))
        if delete and not outcome.kept:
            outcome = _remove(shelf, entry, places, now=now, grace_s=grace_s)
        outcomes.append(outcome)
    if delete:
        _clear(shelf, now=now, grace_s=grace_s)
    return tuple(outcomes)


def reasons_to_keep(
    sha256: str,
    *,
    names: tuple[str, ...],
    idle_s: float,
    grace_s: float,
    runs: Mapping[str, Pinned],
) -> tuple[str, ...]:
    """Why an image stays; nothing: it need not. Pure.

    ``idle_s``: since it was added or last asked for. ``runs``: by folder, what is pinned there.
    """
    reasons = [f"named {', '.join(names)}"] if names else []
    if idle_s < grace_s:
        reasons.append(f"added or asked for {_ago(int(idle_s // 86400))}")
    for folder, pinned in runs.items():
        if isinstance(pinned, Unseen):
            reasons.append(f"{folder}{pinned.value}")
        elif sha256 in pinned:
            reasons.append(f"run {pinned[sha256]}")
    return tuple(reasons)


def _ago(days: int) -> str:
    return {0: "within the last 24 hours", 1: "1 day ago"}.get(days, f"{days} days ago")


def pinned_in(folder: str) -> Pinned:
    """What the runs of a folder are pinned to: sha256, and one run that names it.

    Any digest in a run's ``workflow.json`` counts, whatever wrote it.
    """
    found: dict[str, str] = {}
    try:
        inside = sorted(Path(folder).iterdir())
        for run in inside:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                file = run / _WORKFLOW
                if stat.S_ISREG(file.stat().st_mode):  # a pipe may never end
                    text = file.read_text(encoding="utf-8", errors="replace")
                    found.update(dict.fromkeys(_DIGEST.findall(text), str(run)))
    except (FileNotFoundError, NotADirectoryError):
        return Unseen.GONE
    except OSError:  # private, or a stale handle
        return Unseen.CLOSED
    return found if inside else Unseen.GONE


def _check(folder: Path) -> None:
    """What a user names, and has nothing in it, was named by mistake."""
    found = pinned_in(str(folder))
    if found is Unseen.GONE:
        raise CaHpcError(
            f"{folder} has no runs in it: it is empty or gone",
            hint="mount it, or correct --runs",
        )
    if found is not Unseen.CLOSED and (folder / _WORKFLOW).is_file():
        raise CaHpcError(
            f"{folder} is a run", hint=f"name the folder of runs: --runs {folder.parent}"
        )


def _kept(
    entry: Entry,
    pinned: Callable[[str], Pinned],
    further: tuple[str, ...],
    *,
    now: float,
    grace_s: float,
) -> tuple[str, ...]:
    folders = dict.fromkeys(further)
    try:
        last = max(entry.added, entry.uses.stat().st_mtime)  # who asks for no run, touches it
        for file in sorted(entry.uses.iterdir()):
            if file.name.startswith("."):  # being written
                continue
            last = max(last, file.stat().st_mtime)
            use = read_use(file)
            if use is None:
                return (f"{file} cannot be read",)
            folders[use.runs] = None
    except OSError as error:
        return (f"{error.filename} cannot be read",)
    reasons = reasons_to_keep(
        entry.sha256,
        names=entry.names,
        idle_s=now - last,
        grace_s=grace_s,
        runs={folder: pinned(folder) for folder in folders},
    )
    # the owner of the folder above could move it away, but not remove what is in it
    ours = os.access(entry.file.parent, os.W_OK)
    return reasons if reasons or ours else (f"{entry.by} added it, and may remove it",)


def _remove(
    shelf: Shelf,
    entry: Entry,
    places: Places,
    *,
    now: float,
    grace_s: float,
) -> Outcome:
    """Judged anew with nobody else at the image: who asks for it now waits, and brings it back."""
    aside = shelf.folder / f"{_REMOVING}{uuid.uuid4().hex}"
    try:
        with shelf.locked(entry.sha256, waiting=lambda: None, patience_s=0):
            named = entry.sha256 in shelf.names.all().values()
            kept = _kept(entry, places.pinned, places.runs, now=now, grace_s=grace_s)
            if named or kept:
                return Outcome(entry, kept or ("named a moment ago",))
            entry.file.parent.replace(aside)
    except Busy:
        return Outcome(entry, ("asked for at this moment",))
    except OSError as error:
        return Outcome(entry, (f"{error.strerror}: {error.filename}",))
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        return Outcome(entry, (f"moved to {aside}, where not all of it can be removed",))
    return Outcome(entry, (), removed=True)


def _clear(shelf: Shelf, *, now: float, grace_s: float) -> None:
    """What this user's commands left behind when they were killed."""
    own = f"-{os.getuid()}"
    for place in shelf.folder.glob(f"{_REMOVING}*"):
        shutil.rmtree(place, ignore_errors=True)
    for node in (shelf.folder / INCOMING).glob(f"*{own}"):
        for part in node.iterdir() if is_own(node) else ():  # another's link leads anywhere
            with contextlib.suppress(OSError):
                if now - max(f.stat().st_mtime for f in (part, *part.rglob("*"))) > grace_s:
                    shutil.rmtree(part)
