"""Make real Apptainer work here, for root and for an ordinary user; leave it alone if it does."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.lab.machine import (
    DEFAULT_USER,
    LabError,
    apt_get,
    has,
    install,
    must,
    ordinary_user,
    require_root,
    run,
)
from tests.lab.repack import Fetch, glibc_here, glibc_wanted, repack

# What Apptainer calls at run time, and what builds a Debian base image.
PACKAGE_OF = {
    "mksquashfs": "squashfs-tools",
    "squashfuse_ll": "squashfuse",
    "fusermount3": "fuse3",
    "fuse-overlayfs": "fuse-overlayfs",
    "newuidmap": "uidmap",
    "fakeroot": "fakeroot",
    "debootstrap": "debootstrap",
}
FUSE = Path("/dev/fuse")
EXPECTED_STATUS = 42
# Debian keeps Apptainer out of its stable releases; the unstable suite has it.
SUITE = "unstable"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def ensure(user: str = DEFAULT_USER) -> str:
    """Install and open up what is missing; return Apptainer's version.

    Where a small image already builds and runs as root and as ``user``, nothing is changed.
    Raises ``LabError`` when it still does not run at the end.
    """
    require_root()
    install(PACKAGE_OF)
    ordinary_user(user)
    if has("apptainer") and not _problems(user):
        return _version()
    if not has("apptainer") or run(["apptainer", "version"]).returncode:
        _install_apptainer()
    _open_fuse()
    for table in (Path("/etc/subuid"), Path("/etc/subgid")):
        # the identity for root: files keep their owners when he builds with --fakeroot
        _grant_ids(table, "root", first=1)
        _grant_ids(table, user, first=100000)
    _give_root_the_capabilities_there_are()
    problems = _problems(user)
    if problems:
        raise LabError("Apptainer is installed but does not run here:\n" + "\n".join(problems))
    return _version()


def _version() -> str:
    return must(["apptainer", "version"]).strip()


def _problems(user: str) -> list[str]:
    """Build an image of one static folder and run it as root and as ``user``: what went wrong."""
    with tempfile.TemporaryDirectory(prefix="apptainer-smoke-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)
        _smallest_root(folder / "root")
        image = folder / "smoke.sif"
        built = run(["apptainer", "build", "--fakeroot", image, folder / "root"])
        if built.returncode:
            return [f"build: {built.stderr}"]
        image.chmod(0o644)
        options = ("--cleanenv", "--no-home")
        shell = ("/bin/sh", "-c", f"exit {EXPECTED_STATUS}")
        script = ("apptainer", "exec", *options, image, *shell)
        tried = {name: run(script, user=name, timeout=60) for name in ("root", user)}
    return [
        f"exec as {name}: status {done.returncode} in place of {EXPECTED_STATUS}: {done.stderr}"
        for name, done in tried.items()
        if done.returncode != EXPECTED_STATUS
    ]


def _smallest_root(root: Path) -> None:
    """A shell and the libraries it needs."""
    libraries = re.findall(r"(/\S+) \(0x", must(["ldd", "/bin/sh"]))
    for path in ("/bin/sh", *libraries):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in ("passwd", "group"):
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc" / name).touch()


def _install_apptainer() -> None:
    apt_get("update")
    if re.search(r"Candidate: \d", run(["apt-cache", "policy", "apptainer"]).stdout):
        apt_get("install", "--no-install-recommends", "apptainer")
        return
    _install_deb()


def _install_deb() -> None:
    """Install the unstable suite's package, repacked where this machine's glibc is too old."""
    with tempfile.TemporaryDirectory(prefix="apptainer-deb-") as scratch:
        folder = Path(scratch)
        fetch = _fetch_from_unstable(folder / "apt")
        fetch(("apptainer",), folder)
        (deb,) = folder.glob("apptainer_*.deb")
        if glibc_wanted(deb) > glibc_here():
            deb = repack(deb, folder, glibc=glibc_here(), fetch=fetch)
        keep_settings = ["-o", "Dpkg::Options::=--force-confold"]
        apt_get("install", "--no-install-recommends", "--allow-downgrades", *keep_settings, deb)


def _fetch_from_unstable(state: Path) -> Fetch:
    """An apt of its own beside the machine's: other sources and lists, the same mirror."""
    mirror = _debian_mirror()
    if not KEYRING.exists():
        apt_get("install", "--no-install-recommends", "debian-archive-keyring")
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    sources = state / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
    options = ["-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-"]
    options += ["-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
    options += ["-o", "APT::Sandbox::User=root"]  # _apt may not write below a private folder
    must(["apt-get", *options, "-o", "Acquire::Retries=5", "update"], timeout=1800)

    def fetch(packages: tuple[str, ...], folder: Path) -> None:
        must(["apt-get", *options, "download", *packages], cwd=folder, timeout=1800)

    return fetch


def _debian_mirror() -> str:
    """The mirror that this machine's own apt settings name for Debian's main archive."""
    listing = ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)"]
    uris = must([*listing, "Created-By: Packages"]).split()
    for uri in uris:
        if urlsplit(uri).path.rstrip("/").endswith("/debian"):
            return uri
    raise LabError(
        "no Debian mirror in this machine's apt sources; install Apptainer by hand as "
        "https://apptainer.org/docs/admin/latest/installation.html says, then repeat"
    )


def _open_fuse() -> None:
    """Without udev the device is root's alone, and a user's SIF cannot be mounted."""
    if not FUSE.exists():
        os.mknod(FUSE, 0o666 | stat.S_IFCHR, os.makedev(10, 229))
    FUSE.chmod(0o666)


def _grant_ids(table: Path, user: str, *, first: int, count: int = 65536) -> None:
    """Give ``user`` a range of subordinate ids in ``table`` that nobody else has."""
    table.touch()
    rows = [line.split(":") for line in table.read_text().splitlines() if line.count(":") == 2]
    if any(name == user for name, _, _ in rows):
        return
    others = [int(start) + int(length) for name, start, length in rows if name != "root"]
    start = first if user == "root" else max([first, *others])
    with table.open("a") as file:
        file.write(f"{user}:{start}:{count}\n")


def _give_root_the_capabilities_there_are() -> None:
    """Where the machine's bounding set lacks one, "full" makes each exec as root fail."""
    bounded = re.search(r"Capability bounding set: (\S*)", must(["setpriv", "--dump"]))
    there = set(bounded[1].split(",")) if bounded else set()
    missing = set(must(["setpriv", "--list-caps"]).split()) - there
    if not missing:
        return
    must(["apptainer", "capability", "add", "--user", "root", "all"])
    for name in sorted(missing):
        # Apptainer may not know the newest names
        run(["apptainer", "capability", "drop", "--user", "root", f"CAP_{name.upper()}"])
    settings = Path(must(["apptainer", "buildcfg", "APPTAINER_CONF_FILE"]).strip())
    pattern = r"(?m)^root default capabilities = .*$"
    settings.write_text(re.sub(pattern, "root default capabilities = file", settings.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.lab.apptainer", description=__doc__)
    parser.add_argument("--user", default=DEFAULT_USER, help="ordinary user to make and to serve")
    given = parser.parse_args()
    began = time.monotonic()
    try:
        version = ensure(given.user)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    print(f"lab: Apptainer {version} runs as root and {given.user}", end=" ")
    print(f"({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
