"""Repack a Debian package that wants a newer glibc than this machine has."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lab.elf import CannotRemap, remap
from tests.lab.machine import LabError, install, must

SUFFIX = "~oldglibc"  # sorts before the genuine version, so that a later genuine one replaces it
PRIVATE = "usr/lib/apptainer-private-libs"
PRIVATE_PACKAGES = ("libc6", "libseccomp2", "libsqlite3-0")
PRIVATE_LIBRARIES = (
    *("ld-linux-*.so.?", "libc.so.6", "libm.so.6", "libresolv.so.2", "libpthread.so.0"),
    *("libdl.so.2", "libnss_files.so.2", "libnss_dns.so.2", "libseccomp.so.2", "libsqlite3.so.0"),
)

Fetch = Callable[[tuple[str, ...], Path], None]
"""Puts the .deb files of some packages into a folder."""


def glibc_here() -> tuple[int, int]:
    _, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0.0").partition(" ")
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def glibc_wanted(deb: Path) -> tuple[int, int]:
    """The libc6 that ``deb`` depends on, (0, 0) if it names none."""
    depends = must(["dpkg-deb", "--field", deb, "Depends"])
    found = re.search(r"libc6 \(>= (\d+)\.(\d+)", depends)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def repack(
    deb: Path, folder: Path, *, glibc: tuple[int, int], fetch: Fetch, private: bool = False
) -> Path:
    """Write a copy of ``deb`` into ``folder`` that runs with ``glibc`` and return its path.

    Symbols are renamed where that is enough; a program where it is not (every one if ``private``)
    gets a newer glibc of its own inside the package, from what ``fetch`` brings.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tree = Path(scratch) / "tree"
        must(["dpkg-deb", "--raw-extract", deb, tree])
        stubborn = list(_remap_in_place(tree, glibc=glibc, private=private))
        if stubborn:
            _add_private_libraries(tree, Path(scratch), fetch)
        for program in stubborn:
            _use_private_libraries(program, tree)
        _edit_control(tree)
        _write_checksums(tree)
        copy = folder / deb.name.replace("_", "_repacked_", 1)
        must(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, copy])
    return copy


def _elf_files(tree: Path) -> Iterator[Path]:
    for path in sorted((tree / "usr").rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _remap_in_place(tree: Path, *, glibc: tuple[int, int], private: bool) -> Iterator[Path]:
    """Change what can be changed; yield the programs that need the private glibc."""
    for path in _elf_files(tree):
        image, name = path.read_bytes(), path.relative_to(tree)
        try:
            patched = remap(image, glibc=glibc)
        except CannotRemap as reason:
            print(f"lab: {name}: {reason}")
            yield path
            continue
        if patched == image:
            continue
        if private and path.suffix != ".so":
            yield path
            continue
        path.write_bytes(patched)
        print(f"lab: {name}: symbols renamed for glibc {glibc[0]}.{glibc[1]}")


def _add_private_libraries(tree: Path, scratch: Path, fetch: Fetch) -> None:
    install({"patchelf": "patchelf"})
    debs, unpacked = scratch / "debs", scratch / "unpacked"
    debs.mkdir()
    fetch(PRIVATE_PACKAGES, debs)
    for deb in debs.glob("*.deb"):
        must(["dpkg-deb", "--extract", deb, unpacked])
    target = tree / PRIVATE
    target.mkdir(parents=True)
    for pattern in PRIVATE_LIBRARIES:
        # by name, following links: the dynamic linker looks for the short names
        for library in unpacked.rglob(pattern):
            if not (target / library.name).exists():
                shutil.copy(library, target / library.name)


def _use_private_libraries(program: Path, tree: Path) -> None:
    loaders = list((tree / PRIVATE).glob("ld-linux-*"))
    if len(loaders) != 1:
        raise LabError(f"{len(loaders)} dynamic linkers in the private glibc, one expected")
    home = f"/{PRIVATE}"
    must(["patchelf", "--set-interpreter", f"{home}/{loaders[0].name}", program])
    must(["patchelf", "--force-rpath", "--set-rpath", home, program])
    print(f"lab: {program.relative_to(tree)}: uses a private glibc")


def _edit_control(tree: Path) -> None:
    control = tree / "DEBIAN/control"
    text = control.read_text()
    text = re.sub(r"(?m)^(Version: .*)$", rf"\1{SUFFIX}", text)
    text = re.sub(r"(?m)^(Static-)?Built-Using: .*\n", "", text)
    control.write_text(re.sub(r"libc6 \(>= [0-9.]+\)", "libc6", text))


def _write_checksums(tree: Path) -> None:
    """dpkg's own list, which names neither configuration files nor links."""
    files = [path for path in sorted((tree / "usr").rglob("*")) if path.is_file()]
    lines = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
        f"  {path.relative_to(tree)}\n"
        for path in files
        if not path.is_symlink()
    ]
    (tree / "DEBIAN/md5sums").write_text("".join(lines))
