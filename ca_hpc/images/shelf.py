"""Images by sha256, for one user or a group: the folder ``images`` of a store.

::

    SHA256/image.sif, image.sif.json     the image, read-only, and its record
    SHA256/uses/USER-RUNS                a folder of runs that may be pinned to it (see collect)
    names/NAME                           a sha256
    .locks/SHA256                        who brings or removes an image is alone with it
    .incoming/NODE-USER/SHA256/          what is being brought, in a folder of that user's

An image is there whole or not at all: it is filled in ``.incoming`` and moved into place in one
step. The store is as shared as its root (``store/shared.py``): a group may add to it, and who added
an image may remove it, but nobody else.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc.core.codec import decode, encode
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images.names import OWN_STORE, Names, listed
from ca_hpc.images.record import record_path
from ca_hpc.images.reference import InStore
from ca_hpc.store import atomic
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.lock import held
from ca_hpc.store.shared import (
    ENTRY,
    READABLE,
    STICKY,
    is_own,
    is_shared,
    make,
    owner,
    small_text,
    user_name,
)

FOLDER: Final = "images"
IMAGE: Final = "image.sif"
USES: Final = "uses"
NAMES: Final = "names"
LOCKS: Final = ".locks"
INCOMING: Final = ".incoming"

#: not sticky: there fs.protected_regular refuses to open a file of somebody else's with O_CREAT
_LOCKS: Final = 0o2775
_LOCK_FILE: Final = 0o664
_IMAGE: Final = 0o444

_OTHERS: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Use:
    """Runs in the folder ``runs`` may be pinned to an image."""

    runs: str
    user: str
    host: str

    @classmethod
    def here(cls, runs: Path) -> Use:
        """By this user, on this machine."""
        return cls(str(runs), user_name(os.getuid()), os.uname().nodename)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an image comes from, and what is asked of it.

    ``bring`` fills a folder, which may hold a part of an earlier try, and returns the file.
    ``admit`` sees it before it is there for others: it may put a record beside it, or raise.
    ``whole`` sees it in its place, brought or found, one process at a time: False for one that is
    damaged.
    """

    bring: Callable[[Path], Path]
    admit: Callable[[Path], None] = lambda image: None
    whole: Callable[[Path], bool] = lambda image: True


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that is there. ``added``: seconds since the epoch; ``by``: who added it."""

    file: Path
    sha256: str
    size_bytes: int
    added: float
    by: str
    names: tuple[str, ...] = ()

    @property
    def uses(self) -> Path:
        """The folder of its uses."""
        return self.file.parent / USES


@dataclass(frozen=True, slots=True)
class Shelf:
    """The images of a store. ``root``: the store's folder."""

    root: Path

    @property
    def folder(self) -> Path:
        """Where the images are."""
        return self.root / FOLDER

    @property
    def listing(self) -> str:
        """The command that lists them."""
        return f"ca-hpc image list --store {shlex.quote(str(self.root))}"

    def file(self, sha256: str) -> Path:
        """Where an image is, if it is there."""
        return self.folder / sha256 / IMAGE

    def has(self, sha256: str) -> bool:
        """Whether an image is there, and this user may see it."""
        try:
            return self.file(sha256).is_file()
        except OSError:
            return False

    @property
    def names(self) -> Names:
        """What people call the images."""
        return Names(self.folder / NAMES, self.listing)

    # --- looking -----------------------------------------------------------------------------

    def entries(self) -> tuple[Entry, ...]:
        """All images, oldest first. Raises CaHpcError where they may not be seen."""
        names: dict[str, list[str]] = {}
        for name, sha256 in sorted(self.names.all().items()):
            names.setdefault(sha256, []).append(name)
        places = [place for place in listed(self.folder) if len(place.name) == 64]
        found = [_entry(place / IMAGE, names=names.get(place.name, ())) for place in places]
        there = [entry for entry in found if entry is not None]
        return tuple(sorted(there, key=lambda entry: (entry.added, entry.sha256)))

    def find(self, reference: InStore) -> Entry | None:
        """The image that is meant. Raises CaHpcError for digits that several begin with, and
        DigestMismatch for a name that stands for another image than its digest says."""
        entries = self.entries()
        if reference.name is None:
            digits = reference.digits or ""
            found = [entry for entry in entries if entry.sha256.startswith(digits)]
            if len(found) > 1:
                raise CaHpcError(
                    f"{reference} names {len(found)} images in {self.folder}",
                    hint=f"write more digits: {self.listing}",
                )
            return found[0] if found else None
        named = self.names.all().get(reference.name)
        if named is None:
            return None
        if reference.digits not in (None, named):
            raise DigestMismatch(
                f"image {reference.name} in {self.folder} is sha256:{named}, recorded is "
                f"sha256:{reference.digits}",
                hint=f"the name was given to another image: name it sha256:{reference.digits}",
            )
        return next((entry for entry in entries if entry.sha256 == named), None)

    # --- adding ------------------------------------------------------------------------------

    def ensure(
        self, sha256: str, source: Source, *, use: Use | None, say: Callable[[str], None]
    ) -> tuple[Path, bool]:
        """The image, brought by one of all who ask for it while the others wait; and whether it was
        brought now. One that is damaged is brought anew where this user may.

        ``use``: what keeps it; None: that somebody asked, for a while. ``say`` is told who has to
        wait, and what cannot be noted. Raises CaHpcError, DigestMismatch where what was brought is
        another file.
        """
        file = self.file(sha256)
        brought = False
        try:
            self._prepare()
            with self.locked(
                sha256, waiting=lambda: say("another process brings the image: waiting")
            ):
                if not self._stays(sha256, source):
                    self._bring(sha256, source)
                    brought = True
                    source.whole(file)
                self._note(use, file.parent / USES)
        except OSError as error:
            # a store that others keep is used all the same
            if error.errno not in _OTHERS or not self.has(sha256):
                raise _not_writable(self.folder, error) from error
            if use is not None:
                say(self._unnoted(sha256, use))
        return file, brought

    def _unnoted(self, sha256: str, use: Use) -> str:
        return (
            f"cannot note in {self.folder} that runs in {use.runs} need image sha256:{sha256}: gc "
            f"will not know; ask {owner(self.file(sha256))} to give it a name that stays with it"
        )

    def _stays(self, sha256: str, source: Source) -> bool:
        """Whether an image is there; also a damaged one that this user may not replace."""
        file = self.file(sha256)
        return self.has(sha256) and (source.whole(file) or not os.access(file.parent, os.W_OK))

    @contextlib.contextmanager
    def locked(
        self, sha256: str, *, waiting: Callable[[], None], patience_s: float | None = None
    ) -> Iterator[None]:
        """Alone with one image, on all nodes where locks work. Raises Busy as ``held`` does.

        Where a file system locks within a node only, two nodes bring an image twice: each fills a
        folder of its own, and the second finds the first one's in place.
        """
        path = self.folder / LOCKS / sha256
        if not path.exists():
            self._make_lock(path)
        with held(path, waiting=waiting, patience_s=patience_s):
            yield

    @property
    def _shared(self) -> bool:
        return is_shared(self.root)

    def _prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for folder, mode in (
            (self.folder, STICKY),
            (self.folder / NAMES, STICKY),
            (self.folder / LOCKS, _LOCKS),
            (self.folder / INCOMING, STICKY),
        ):
            make(folder, shared=self._shared, mode=mode)

    def _make_lock(self, path: Path) -> None:
        """By link(2): nobody may find it there before it is open to all."""
        made = path.with_name(f".{uuid.uuid4().hex}")
        try:
            made.touch()
            if self._shared:
                made.chmod(_LOCK_FILE)
            with contextlib.suppress(FileExistsError):
                os.link(made, path)
        finally:
            made.unlink(missing_ok=True)

    def _bring(self, sha256: str, source: Source) -> None:
        into = self._incoming() / sha256
        into.mkdir(exist_ok=True)
        came = source.bring(into)  # when it raises, what it has got so far stays for the next try
        # not in ``into``: what came has a name that its sender chose
        draft = into.with_name(f"{sha256}.draft")
        try:
            self._publish(came, sha256, draft=draft, admit=source.admit)
        finally:
            shutil.rmtree(into, ignore_errors=True)
            shutil.rmtree(draft, ignore_errors=True)

    def _incoming(self) -> Path:
        """A folder of this user's on this node: the one of the last try, unless somebody else has
        put one of that name there."""
        name = f"{os.uname().nodename}-{os.getuid()}"
        own = self.folder / INCOMING / name
        with contextlib.suppress(FileExistsError):
            own.mkdir(mode=0o700)
        return own if is_own(own) else Path(tempfile.mkdtemp(suffix=f"-{name}", dir=own.parent))

    def _publish(
        self, came: Path, sha256: str, *, draft: Path, admit: Callable[[Path], None]
    ) -> None:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        image, uses = draft / IMAGE, draft / USES
        if not stat.S_ISREG(came.lstat().st_mode):
            raise CaHpcError(f"what came for the image, {came}, is no file", hint="pull it again")
        came.replace(image)
        if (found := sha256_file(image)) != sha256:
            raise DigestMismatch(
                f"what came for the image is sha256:{found}, recorded is sha256:{sha256}",
                hint="get it again; if it stays so, its source has changed or is damaged",
            )
        admit(image)
        uses.mkdir()
        image.chmod(_IMAGE)
        if self._shared:
            uses.chmod(STICKY)
            if record_path(image).exists():
                record_path(image).chmod(READABLE)
            draft.chmod(ENTRY)
        try:
            draft.replace(self.folder / sha256)
        except OSError:
            if not (self.folder / sha256).is_dir():
                raise
            # it was damaged, or another node brought it meanwhile; what is known of its uses stays
            with contextlib.suppress(PermissionError):
                for file in filter(Path.exists, (record_path(image), image)):
                    file.replace(self.folder / sha256 / file.name)

    def _note(self, use: Use | None, uses: Path) -> None:
        """That somebody asked, now, and for which runs. Raises OSError for runs that cannot be
        noted."""
        if use is None:
            with contextlib.suppress(OSError):  # not this user's to note
                os.utime(uses)
            return
        place = hashlib.sha256(use.runs.encode(errors="surrogateescape")).hexdigest()[:16]
        file = uses / f"{use.user}-{place}"
        atomic.write_text(file, encode(use), mode=READABLE if self._shared else None)


def _entry(file: Path, *, names: Iterable[str]) -> Entry | None:
    try:
        seen, added = file.stat(), file.parent.stat().st_mtime
    except OSError:  # somebody removes it now
        return None
    return Entry(
        file=file,
        sha256=file.parent.name,
        size_bytes=seen.st_size,
        added=added,
        by=user_name(seen.st_uid),
        names=tuple(names),
    )


def shelf_of(image: Path, sha256: str) -> Shelf | None:
    """The store that a file lies in as the image of this sha256, links followed; None: in none."""
    file = image.resolve()
    shelf = Shelf(file.parent.parent.parent)
    return shelf if file == shelf.file(sha256) and (file.parent / USES).is_dir() else None


def read_use(file: Path) -> Use | None:
    """A use; None for a file that is none, or that may not be read."""
    try:
        return decode(Use, small_text(file))
    except (OSError, ValueError):
        return None


def _not_writable(folder: Path, error: OSError) -> CaHpcError:
    return CaHpcError(
        f"cannot write to {folder}: {error.filename or ''} {error.strerror}".replace(":  ", ": "),
        hint=OWN_STORE,
    )
