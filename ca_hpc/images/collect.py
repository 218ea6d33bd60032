"""Remove images that nothing needs: no name, no run, and nobody who asked for them lately.

A run needs the image whose sha256 its ``workflow.json`` names. Which folders to look for runs in
is what the uses of an image tell. What cannot be judged from here keeps an image: a folder that is
not mounted, a run that is private.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

from ca_hpc.images.shelf import INCOMING, Entry, Shelf, read_use
from ca_hpc.store.lock import Busy

#: longer than any job waits and runs: its image may still be read after its run was deleted
GRACE_S: Final = 30 * 86400.0

_REMOVING: Final = ".removing-"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

#: what the runs of a folder are pinned to, each with one run; None: that cannot be told from here
Pinned: TypeAlias = "Mapping[str, str] | None"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of an image. ``kept``: why; None: nothing needs it. ``removed``: it is gone."""

    entry: Entry
    kept: str | None
    removed: bool = False


def collect(
    shelf: Shelf,
    *,
    now: float,
    grace_s: float = GRACE_S,
    look_in: Iterable[Path] = (),
    delete: bool,
) -> tuple[Outcome, ...]:
    """What may go, and with ``delete`` its removal, oldest first.

    ``now``: seconds since the epoch. ``look_in``: further folders of runs, such as those that runs
    were moved to. Raises CaHpcError where the images may not be seen.
    """
    pinned = cache(pinned_in)
    further = tuple(map(str, look_in))
    outcomes = []
    for entry in shelf.entries():
        outcome = Outcome(entry, _kept(entry, pinned, further, now=now, grace_s=grace_s))
        if outcome.kept is None and delete:
            outcome = _remove(shelf, entry, further, now=now, grace_s=grace_s)
        outcomes.append(outcome)
    if delete:
        _clear(shelf, now=now, grace_s=grace_s)
    return tuple(outcomes)


def reason_to_keep(
    sha256: str,
    *,
    names: tuple[str, ...],
    idle_s: float,
    grace_s: float,
    runs: Mapping[str, Pinned],
) -> str | None:
    """Why an image stays, or None. Pure.

    ``idle_s``: since it was added or last asked for. ``runs``: by folder, what is pinned there.
    """
    if names:
        return f"named {', '.join(names)}"
    if idle_s < grace_s:
        return f"asked for {idle_s / 86400:.0f} days ago"
    for folder, pinned in runs.items():
        if pinned is None:
            return f"{folder} cannot be looked into from here"
        if sha256 in pinned:
            return f"run {pinned[sha256]}"
    return None


def pinned_in(folder: str) -> Pinned:
    """What the runs of a folder are pinned to: sha256, and one run that names it.

    Any digest in a run's ``workflow.json`` counts, whatever wrote it. A folder that is gone has no
    runs, but one whose parent is gone too may just not be mounted here.
    """
    found: dict[str, str] = {}
    try:
        for run in sorted(Path(folder).iterdir()):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                text = (run / "workflow.json").read_text(encoding="utf-8", errors="replace")
                found.update(dict.fromkeys(_DIGEST.findall(text), str(run)))
    except FileNotFoundError:
        return {} if Path(folder).parent.is_dir() else None
    except OSError:  # private, or a stale handle
        return None
    return found


def _kept(
    entry: Entry,
    pinned: Callable[[str], Pinned],
    further: tuple[str, ...],
    *,
    now: float,
    grace_s: float,
) -> str | None:
    last = entry.added
    folders = dict.fromkeys(further)
    try:
        for file in sorted(entry.uses.iterdir()):
            if file.name.startswith("."):  # being written
                continue
            last = max(last, file.stat().st_mtime)
            use = read_use(file)
            if use is None:
                return f"{file} cannot be read"
            folders[use.runs] = None
    except OSError as error:
        return f"{error.filename} cannot be read"
    return reason_to_keep(
        entry.sha256,
        names=entry.names,
        idle_s=now - last,
        grace_s=grace_s,
        runs={folder: pinned(folder) for folder in folders},
    )


def _remove(
    shelf: Shelf,
    entry: Entry,
    further: tuple[str, ...],
    *,
    now: float,
    grace_s: float,
) -> Outcome:
    """Judged anew with nobody else at the image: who asks for it now waits, and brings it back."""
    aside = shelf.folder / f"{_REMOVING}{uuid.uuid4().hex}"
    try:
        with shelf.locked(entry.sha256, waiting=lambda: None, patience_s=0):
            named = entry.sha256 in shelf.names().values()
            kept = _kept(entry, pinned_in, further, now=now, grace_s=grace_s)
            if named or kept is not None:
                return Outcome(entry, kept or "named a moment ago")
            entry.file.parent.replace(aside)
    except Busy:
        return Outcome(entry, "asked for at this moment")
    except OSError as error:
        return Outcome(entry, f"{error.strerror}: {entry.by} added it, and may remove it")
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        return Outcome(entry, f"moved to {aside}: {entry.by} has to remove it there")
    return Outcome(entry, None, removed=True)


def _clear(shelf: Shelf, *, now: float, grace_s: float) -> None:
    """What this user's commands left behind when they were killed."""
    own = f"-{os.getuid()}"
    for place in shelf.folder.glob(f"{_REMOVING}*"):
        shutil.rmtree(place, ignore_errors=True)
    for node in (shelf.folder / INCOMING).glob(f"*{own}"):
        for part in node.iterdir():
            with contextlib.suppress(OSError):
                if now - max(f.stat().st_mtime for f in (part, *part.rglob("*"))) > grace_s:
                    shutil.rmtree(part)
