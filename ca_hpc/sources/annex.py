"""Contents that git-annex keeps elsewhere: which of a clone's files lack them, and getting them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ca_hpc.errors import CaHpcError
from ca_hpc.sources.git_command import ORIGIN, Git, last_words

#: the remote that is another commit's clone in this store
OLDER: Final = "older"
_OBJECTS: Final = ".git/annex/objects/"
# git-annex, "key format": backend (E: with an extension), size, digest
_SHA256_KEY: Final = re.compile(r"SHA256E?-s\d+--([0-9a-f]{64})(?:\.|$)")
_POINTER: Final = b"/annex/objects/"  # what an unlocked file holds until it is got
_LFS: Final = b"version https://git-lfs"
_MOST_IN_POINTER: Final = 1024
_MOST_LINKS: Final = 40  # as the kernel follows
_AT_ONCE: Final = 32  # files in a call: few enough to show progress, and for an argument list
_MOST_TOLD: Final = 5
_BUSY: Final = "transfer already in progress"  # or its lock may not be taken, says git-annex
_PATIENCE_S: Final = 1800.0
_BRANCH: Final = f"+refs/heads/git-annex:refs/remotes/{ORIGIN}/git-annex"


def needed(folder: Path, files: Sequence[str]) -> list[str]:
    """Those of ``files`` whose contents are not there, relative to ``folder``, sorted.

    Raises CaHpcError for files of git-lfs, and for links that lead out of the repository.
    """
    top = Path(os.path.realpath(folder))
    found: set[str] = set()
    problems: list[str] = []
    for file in dict.fromkeys(files):
        path = _named(Path(file))
        start = _start(path)
        relative = os.path.relpath(path, top)
        if start.startswith(_LFS):
            problems.append(f"{file} is kept by git LFS")
        elif not _inside(path, top):
            problems.append(f"{file} is a link that leads out of the repository")
        elif start.startswith(_POINTER) or (path.is_symlink() and not path.exists()):
            found.add(relative)
    if problems:
        raise CaHpcError(
            _few(problems),
            hint="of git LFS: clone it with git lfs, and name the clone (type: bids); links: "
            "exclude these subjects",
        )
    return sorted(found)


def get(folder: Path, names: Sequence[str], *, git: Git, say: Callable[[str], None]) -> None:
    """Get the contents of ``names`` (relative to ``folder``). Raises CaHpcError."""
    _check_installed(folder, git)
    # where contents are is told by a branch, which grows without any new commit of the files
    git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", ORIGIN, _BRANCH, cwd=folder)
    if git("config", "annex.version", cwd=folder).returncode:
        git.checked("annex", "init", "--quiet", "ca-hpc", cwd=folder)
    reasons: dict[str, str] = {}
    left: list[str] = []
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        if lacking := _linked(folder, some, git=git):
            reasons |= _got(folder, lacking, git=git, say=say)
        left += _lacking(folder, some)
        say(f"{start + len(some) - len(left)} of {len(names)} files")
    if left:
        told = [f"{name}: {reasons.get(name, 'git-annex gave no reason')}" for name in left]
        raise CaHpcError(
            f"{len(left)} of {len(names)} files cannot be got from {_remotes(folder, git)}\n"
            + _few(told),
            hint="is the VPN on, the key loaded? git-annex needs a remote that has them; or make a "
            "pack on a machine that reaches them: ca-hpc data pack",
        )


def key_sha256(file: Path) -> str | None:
    """The digest that an annexed file is kept under; None for other files, and other keys.

    git-annex has compared it when it got the contents.
    """
    real = Path(os.path.realpath(file))
    found = _SHA256_KEY.match(real.name) if _OBJECTS in str(real) else None
    return found[1] if found else None


def _remotes(folder: Path, git: Git) -> str:
    """The remotes that were asked, by name."""
    names = git("remote", cwd=folder).stdout.split()
    return ", ".join(name for name in names if name != OLDER) or ORIGIN


def _linked(folder: Path, names: Sequence[str], *, git: Git) -> list[str]:
    """Link what another commit's clone has; which files are still lacking.

    Only from there: whoever owns another repository may change its files in place.
    """
    link = ("-c", "annex.hardlink=true", "annex", "get", "--quiet", f"--from={OLDER}")
    if not git("config", f"remote.{OLDER}.url", cwd=folder).returncode:
        git(*link, "--", *names, cwd=folder)
    return _lacking(folder, names)


def _lacking(folder: Path, names: Sequence[str]) -> list[str]:
    return needed(folder, [str(folder / name) for name in names])


def _got(
    folder: Path, names: Sequence[str], *, git: Git, say: Callable[[str], None]
) -> Mapping[str, str]:
    """Why files could not be got. Waits where another process is about to get one."""
    told = False
    while True:
        done = git("annex", "get", "--json", "--json-error-messages", "--", *names, cwd=folder)
        reasons = dict(_reasons(done.stdout))
        if not any(_BUSY in reason for reason in reasons.values()):
            break
        if not told:
            say("git-annex gets files here already: waiting")
            told = True
        time.sleep(1.0)
    if done.returncode and not reasons:
        return dict.fromkeys(names, last_words(done))
    return reasons


def _reasons(output: str) -> Iterator[tuple[str, str]]:
    for line in output.splitlines():
        answer = _answer(line)
        if answer.get("success") is False:
            said = [*answer.get("error-messages", ()), answer.get("note") or ""]
            holders = [where.get("description") for where in answer.get("wanted", ())]
            if holders:
                said.append(f"(kept in: {', '.join(map(str, holders))})")
            yield str(answer.get("file")), " ".join(" ".join(map(str, said)).split())


def _answer(line: str) -> Mapping[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _check_installed(folder: Path, git: Git) -> None:
    if git("annex", "version", "--raw", cwd=folder).returncode:
        raise CaHpcError(
            "git-annex keeps the images of this repository, and is not installed here",
            hint="install it (Debian: apt install git-annex; or conda install -c conda-forge "
            "git-annex), or make a pack where there is one: ca-hpc data pack",
        )


def _named(path: Path) -> Path:
    """Where a file really is; of an annexed one the link that names its contents."""
    for _ in range(_MOST_LINKS):
        path = Path(os.path.realpath(path.parent)) / path.name
        if not path.is_symlink() or _OBJECTS in str(path.readlink()):
            break
        path = path.parent / path.readlink()
    return path


def _inside(path: Path, top: Path) -> bool:
    """Whether a file's contents are the repository's own: tracked, or in its annex."""
    end = Path(os.path.realpath(path))
    if end.is_relative_to(top / ".git"):
        return end.is_relative_to(top / _OBJECTS)
    return end.is_relative_to(top)


def _start(path: Path) -> bytes:
    """The beginning of a file that is small enough to be a pointer."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_IN_POINTER:
            return b""
        with path.open("rb") as stream:
            return stream.read(len(_LFS))
    except OSError:
        return b""


def _few(lines: Sequence[str]) -> str:
    more = len(lines) - _MOST_TOLD
    return "\n".join([*lines[:_MOST_TOLD], *([f"… and {more} more"] if more > 0 else [])])
