"""What a user's jobs have left on the machine: processes, and FUSE mounts with or without one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Leftovers:
    """Processes by (pid, start in clock ticks) with their command lines, and mount points."""

    processes: frozenset[tuple[int, int, str]]
    mounts: frozenset[str]

    def __sub__(self, before: Leftovers) -> Leftovers:
        known = {(pid, start) for pid, start, _ in before.processes}
        return Leftovers(
            frozenset(one for one in self.processes if one[:2] not in known),
            self.mounts - before.mounts,
        )

    def __bool__(self) -> bool:
        return bool(self.processes or self.mounts)


def of_user(uid: int) -> Leftovers:
    """All processes of ``uid``, and the FUSE mounts he owns in any mount namespace."""
    processes, mounts = set(), set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == uid:
                processes.add((int(folder.name), _start(folder), _command(folder)))
        except (OSError, ValueError):
            continue  # it has ended meanwhile
    for namespace in _mount_namespaces():
        mounts |= _fuse_mounts(namespace, uid=uid)
    return Leftovers(frozenset(processes), frozenset(mounts))


def processes_naming(text: str, *, uid: int | None = None) -> list[tuple[int, str]]:
    """Pid and command line of the processes, of ``uid`` alone if given, that name ``text``.

    In the command line, the environment, the current folder or an open file.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if uid is not None and folder.stat().st_uid != uid:
                continue
            if _names(folder, text):
                found.append((int(folder.name), _command(folder)))
        except OSError:
            continue
    return found


def _names(folder: Path, text: str) -> bool:
    said = [(folder / name).read_bytes() for name in ("cmdline", "environ")]
    links = [folder / "cwd", *(folder / "fd").iterdir()]
    return any(text.encode() in one for one in said) or any(
        text in str(link.readlink()) for link in links if link.is_symlink()
    )


def _command(folder: Path) -> str:
    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return line.strip() or f"[{(folder / 'comm').read_text().strip()}]"


def _start(folder: Path) -> int:
    # proc(5): field 22, counted behind the name, which may hold spaces and brackets
    return int((folder / "stat").read_text().rpartition(")")[2].split()[19])


def _mount_namespaces() -> Collection[Path]:
    """One process folder per mount namespace."""
    found: dict[Path, Path] = {}
    for folder in [Path("/proc/self"), *Path("/proc").glob("[0-9]*")]:
        try:
            found.setdefault((folder / "ns/mnt").readlink(), folder)
        except OSError:
            continue
    return found.values()


def _fuse_mounts(folder: Path, *, uid: int) -> set[str]:
    try:
        lines = (folder / "mountinfo").read_text().splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        left, _, right = line.partition(" - ")
        kind, *_, options = right.split(" ")
        if kind.startswith("fuse") and f"user_id={uid}" in options.split(","):
            found.add(left.split(" ")[4])
    return found
