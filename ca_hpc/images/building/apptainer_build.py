"""One run of ``apptainer build``: its arguments, its environment, and what its failures mean."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ca_hpc.errors import CaHpcError
from ca_hpc.images.record import last_lines, outside_environment
from ca_hpc.processes import ProgramMissing, Run

# zstd at level 3: 2 % larger than the default, packed in a quarter of the time, read faster. No
# extended attributes: SELinux gives each file one that depends on the machine, nothing needs any.
# Nothing in /dev: root's debootstrap puts nodes there and an ordinary user's cannot; a container
# gets its own
_SQUASH: Final = "-comp zstd -Xcompression-level 3 -no-xattrs -action exclude@pathname(dev/*)"

#: time stamp of every file in an image; equal contents shall give an equal file system
_SOURCE_DATE_EPOCH: Final = "1577836800"

_ELSEWHERE: Final = "or build elsewhere and copy the image with its .json file"
_NO_NAMESPACES: Final = (
    f"this machine does not let you have user namespaces: ask its administrator, {_ELSEWHERE}"
)

# what a failed build wrote, in small letters -> the next move; the first that fits
_HINTS: Final = {
    # where user.max_user_namespaces is 0 the reason given is "No space left on device"
    "failed to create container process": _NO_NAMESPACES,
    "user namespace": _NO_NAMESPACES,
    "no space left on device": "name a folder with 10 GB: export APPTAINER_TMPDIR=FOLDER",
    "/etc/subuid": "no range of user ids is yours: ask your administrator for lines in /etc/subuid"
    " and /etc/subgid (usermod --add-subuids), or take a base built elsewhere: --base FILE",
    "debootstrap": "is the mirror a Debian mirror that this machine can reach? --mirror URL",
    "unknown flag": "this needs Apptainer 1.3 or newer",
}


def build(
    definition: Path,
    *,
    folder: Path,
    arguments: Mapping[str, str],
    fakeroot: bool,
    log: Path,
    run: Run,
) -> None:
    """Build ``folder``/image.sif. Raises CaHpcError with the end of the log."""
    log.unlink(missing_ok=True)
    done = run(
        build_argv(definition, arguments=arguments, fakeroot=fakeroot),
        env=environment(),
        cwd=folder,
        log=log,
    )
    if done.returncode == 0:
        return
    text = log.read_text(errors="replace")
    hint = next((hint for mark, hint in _HINTS.items() if mark in text.lower()), None)
    raise CaHpcError(
        f"building the image failed; the end of {log}:\n{last_lines(text, count=6)}",
        hint=hint or f"the whole story is in {log}",
    )


def build_argv(
    definition: Path, *, arguments: Mapping[str, str], fakeroot: bool
) -> tuple[str, ...]:
    """``apptainer build`` of image.sif in the working folder, where the context lies.

    Names in that folder are relative, so its own path may hold any character.
    """
    options = ["--fakeroot"] if fakeroot else []
    for name, value in arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    squash = ("--mksquashfs-args", _SQUASH)
    # without --force Apptainer keeps its own build date where a recipe gives one
    return ("apptainer", "build", "--force", *options, *squash, "image.sif", str(definition))


def environment() -> dict[str, str]:
    """The environment that ``apptainer build`` runs in."""
    # debootstrap lies in /usr/sbin, which an ordinary user's PATH may lack
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    return {**outside_environment(), "PATH": path, "SOURCE_DATE_EPOCH": _SOURCE_DATE_EPOCH}


def fakeroot_here() -> bool:
    """Whether ``--fakeroot`` is the way on this machine.

    Ordinary users need it. Root takes it where root has a range of ids of its own, since some
    machines give root too few capabilities to do without.
    """
    if os.geteuid() != 0:
        return True
    with contextlib.suppress(OSError):
        lines = Path("/etc/subuid").read_text().splitlines()
        return any(line.split(":")[0] in ("root", "0") for line in lines)
    return False


def tool_versions(run: Run) -> dict[str, str]:
    """Versions of what packs an image, as far as they tell them.

    Raises CaHpcError if there is no Apptainer.
    """
    try:
        said = {"apptainer": run(("apptainer", "--version")).stdout}
    except ProgramMissing as error:
        raise CaHpcError(
            "apptainer is not installed on this machine, or not on PATH",
            hint=f"install Apptainer 1.3 or newer, load its module, {_ELSEWHERE}",
        ) from error
    # Apptainer may have one of its own, off PATH
    with contextlib.suppress(ProgramMissing):
        said["squashfs-tools"] = run(("mksquashfs", "-version"), env=environment()).stdout
    found = {name: re.search(r"version (\S+)", text) for name, text in said.items()}
    return {name: match.group(1) for name, match in found.items() if match}
