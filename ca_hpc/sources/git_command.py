"""Calls of ``git`` and ``git annex`` that ask nothing, run nothing of the repository's, tell no
password.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from ca_hpc.errors import CaHpcError
from ca_hpc.processes import Finished, ProgramMissing, ProgramTimedOut, Run

#: what the address is called in calls
ORIGIN: Final = "origin"
# a transport helper such as ext:: is a command line of the address's own
_PROTOCOLS: Final = "file:git:http:https:ssh"
_LAST_LINES: Final = 6
_LEAST_SECRET: Final = 4  # letters; a shorter one would be found in every word
# of a repository that ca-hpc was started in, by one of its hooks, say; and a window that asks
_NOT_OURS: Final = frozenset(
    {
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_COMMON_DIR",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "SSH_ASKPASS",
    }
)
_SETTINGS: Final[Mapping[str, str]] = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "gc.auto": "0",  # goes on in the background, after the lock is given back
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "user.name": "ca-hpc",  # git-annex commits to a branch of its own, which stays here
    "user.email": "ca-hpc@localhost",
    "annex.alwayscommit": "false",  # what is not committed leaves no stale lock when killed
}


class GitFailed(CaHpcError):
    """git ended with an error; the message holds what it said last."""


@dataclass(frozen=True, slots=True)
class Git:
    """``git`` with the repository at ``url`` as its remote ``origin``.

    The address travels in the environment: arguments are seen by all users of the machine, and the
    clone's config would keep a password.
    """

    run: Run
    url: str = field(repr=False)

    def __call__(self, *arguments: str, cwd: Path, timeout_s: float | None = None) -> Finished:
        """Run it; a failure is the caller's to judge. Raises CaHpcError if there is no git."""
        try:
            done = self.run(
                ("git", *arguments),
                env=self._environment(cwd),
                cwd=cwd,
                timeout_s=timeout_s,
            )
        except ProgramMissing as error:
            raise CaHpcError(
                "git is not installed on this machine, or not on PATH",
                hint="install it, or load its module; or make a pack of the data where there is "
                "one: ca-hpc data pack",
            ) from error
        except ProgramTimedOut as error:
            return Finished(returncode=-1, stderr=error.message)
        return Finished(done.returncode, done.stdout, without_secrets(done.stderr, self.url))

    def checked(self, *arguments: str, cwd: Path, timeout_s: float | None = None) -> str:
        """Its output. Raises GitFailed."""
        done = self(*arguments, cwd=cwd, timeout_s=timeout_s)
        if done.returncode:
            raise GitFailed(f"{shown(self.url)}: {last_words(done)}")
        return done.stdout

    def _environment(self, cwd: Path) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
        settings = {**_SETTINGS, f"remote.{ORIGIN}.url": self.url}
        first = int(own.get("GIT_CONFIG_COUNT") or 0)
        numbered = list(enumerate(settings.items(), start=first))
        return {
            "GIT_HTTP_LOW_SPEED_LIMIT": "1",  # bytes a second, for so many seconds
            "GIT_HTTP_LOW_SPEED_TIME": "60",
            **own,
            **{f"GIT_CONFIG_KEY_{number}": key for number, (key, _) in numbered},
            **{f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in numbered},
            "GIT_CONFIG_COUNT": str(first + len(settings)),
            # a folder that is no repository must not be taken for a part of one above it
            "GIT_CEILING_DIRECTORIES": os.path.realpath(cwd.parent),
            "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
            "GIT_TERMINAL_PROMPT": "0",
            "GCM_INTERACTIVE": "never",
            "GIT_SSH_COMMAND": f"{self._ssh(own, cwd)} -oBatchMode=yes -oConnectTimeout=30",
            "GIT_ANNEX_USE_GIT_SSH": "1",
        }

    def _ssh(self, environment: Mapping[str, str], cwd: Path) -> str:
        """The user's own ssh command: the variable that adds to it would hide the setting."""
        if command := environment.get("GIT_SSH_COMMAND"):
            return command
        if program := environment.get("GIT_SSH"):
            return shlex.quote(program)
        asked = ("git", "config", "--global", "--get", "core.sshCommand")
        return self.run(asked, env=environment, cwd=cwd).stdout.strip() or "ssh"


def last_words(done: Finished) -> str:
    """The end of what a program said, or how it ended."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return "\n".join(lines[-_LAST_LINES:]) or f"git ended with status {done.returncode}"


def shown(url: str) -> str:
    """An address as it may be shown: without password, tokens and what the query says."""
    scheme, colon, rest = url.partition("://")
    if not colon:  # a path, or host:path of ssh, which has no place for a password
        return url
    rest, question, _ = rest.partition("?")
    place, slash, path = rest.partition("/")
    if "@" not in place and ":" in place and "@" in path:  # a password with a slash in it
        place, slash, path = f"…@{path.rpartition('@')[2]}", "", ""
    user, at, host = place.rpartition("@")
    # of https the user alone may be a token; of ssh it is a name that the address needs
    kept = user.partition(":")[0] if scheme.endswith("ssh") else "…"
    return f"{scheme}://{kept + at if at else ''}{host}{slash}{path}{question and '?…'}"


def without_secrets(text: str, url: str) -> str:
    """``text`` without what ``shown`` leaves out of ``url``."""
    text = text.replace(url, shown(url))
    if (found := re.match(r"[^:/]+://(.*)@", url)) is None:
        return text
    user, _, password = found[1].partition(":")
    secrets = [password, unquote(password)]
    if url.startswith("http"):
        secrets += [user, unquote(user)]
    for secret in sorted(set(secrets), key=len, reverse=True):
        text = text.replace(secret, "…") if len(secret) >= _LEAST_SECRET else text
    return text
