"""What the labs need of the machine: root, packages, an ordinary user. Starts all processes."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

DEFAULT_USER = "hpcuser"
# Daemons live in sbin, which an ordinary user's PATH need not hold.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
LOGIN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
POLICY = Path("/usr/sbin/policy-rc.d")


class LabError(Exception):
    """The lab cannot be brought up or taken down; the message ends with the next move."""


def as_user(user: str, argv: Sequence[str | Path]) -> tuple[str, ...]:
    """The command that runs ``argv`` as ``user``, with his groups; the environment is not touched.

    setpriv and not sudo or su: no PAM session, no shell, nothing to configure.
    """
    group = pwd.getpwnam(user).pw_gid
    switch = ("setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups", "--")
    return (*switch, *map(str, argv))


def environment_of(user: str) -> dict[str, str]:
    """What ``user`` has after logging in, with nothing of the caller's."""
    home = pwd.getpwnam(user).pw_dir
    return {"HOME": home, "USER": user, "LOGNAME": user, "PATH": LOGIN_PATH, "LC_ALL": "C.UTF-8"}


def run(
    argv: Sequence[str | Path],
    *,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` to its end and return its status and output, whatever they are.

    ``user`` runs it as that account with ``environment_of(user)``, in ``/`` unless ``cwd`` is
    given; ``env`` adds to the environment. ``timeout`` is in seconds; when it passes, the status
    is 124 as in timeout(1).
    """
    if user is None:
        command = tuple(map(str, argv))
        environment = {**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}
    else:
        command, environment, cwd = as_user(user, argv), environment_of(user), cwd or "/"
    try:
        return subprocess.run(
            command,
            env={**environment, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            umask=0o022,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no end after {timeout:.0f} s")


def must(
    argv: Sequence[str | Path],
    *,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    timeout: float = 600,
) -> str:
    """Run ``argv`` as ``run`` does and return its standard output; ``LabError`` if it fails."""
    done = run(argv, user=user, env=env, cwd=cwd, timeout=timeout)
    if done.returncode:
        words = " ".join(str(part) for part in argv)
        raise LabError(f"{words}\nexit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_until(what: str, probe: Callable[[], bool], *, seconds: float, look_at: Path) -> None:
    """Poll ``probe`` until it is true; after ``seconds`` raise ``LabError`` naming a log."""
    end = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > end:
            raise LabError(f"{what} is not ready after {seconds:.0f} s; see {look_at}")
        time.sleep(0.1)


def has(program: str) -> bool:
    return shutil.which(program, path=SEARCH_PATH) is not None


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("this needs root: it installs packages and starts daemons; use sudo")


def ordinary_user(name: str) -> pwd.struct_passwd:
    """The account ``name``, made if there is none: jobs and rootless images are his."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        must(["useradd", "--create-home", "--shell", "/bin/bash", name])
        return pwd.getpwnam(name)


@contextmanager
def services_stay_down() -> Iterator[None]:
    """Installing a package starts no service meanwhile (Debian policy 9.3.3.1, invoke-rc.d)."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def apt_get(*arguments: str | Path) -> str:
    """``apt-get`` without questions, waiting for another apt that holds the lock."""
    if not has("apt-get"):
        raise LabError("no apt-get here: the labs know Debian and Ubuntu only")
    options = ["-y", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=5"]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    return must(["apt-get", *options, *arguments], env=quiet, timeout=1800)


def install(package_of: Mapping[str, str]) -> None:
    """Install the packages of those programs that are missing, by a table program -> package."""
    packages = {package for program, package in package_of.items() if not has(program)}
    if not packages:
        return
    print("lab: installing", *sorted(packages), flush=True)
    apt_get("update")
    with services_stay_down():
        apt_get("install", "--no-install-recommends", *sorted(packages))
