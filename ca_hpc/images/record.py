"""Images that exist: what is in them, and whether they are the ones that were recorded.

Beside ``x.sif`` lies ``x.sif.json``, its record, written by whoever built it. A record is a
convenience: what counts is the sha256 of the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.core.codec import decode, encode
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.images.changes import Packages
from ca_hpc.images.contents import content_sha256
from ca_hpc.processes import ProgramMissing, Run
from ca_hpc.store import atomic
from ca_hpc.store.digests import cached_sha256, sha256_file

#: what an image says about itself (``containers/describe.py``)
DESCRIPTION: Final = "/opt/ca-hpc/image.json"

_BUILD: Final = "build one: ca-hpc image build"
#: Apptainer's own status where it cannot start a container
_NOT_STARTED: Final = 255


class CannotAsk(CaHpcError):
    """Nothing starts in an image here, so that it cannot say what it holds."""


@dataclass(frozen=True, slots=True)
class CarriedWeights:
    """A weights file in an image. ``path``: its place inside; ``manifest``: what is known about it,
    as JSON (``ca_hpc/weights/manifest.py``).
    """

    name: str
    path: str
    sha256: str
    size_bytes: int
    manifest: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image says about itself. ``versions``: python, torch, nnunetv2, ca-hpc.

    Of all packages the versions are in ``debian_packages`` and ``python_packages``.
    ``recipe_sha256`` covers the definition file and the files that it reads;
    ``base_content_sha256`` is what the base held, for an image on one.
    """

    versions: Mapping[str, str]
    weights: tuple[CarriedWeights, ...] = ()
    commit: str | None = None
    recipe_sha256: str | None = None
    base_content_sha256: str | None = None
    debian_packages: Mapping[str, str] = field(default_factory=dict)
    python_packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def packages(self) -> Packages:
        """All packages, to compare them."""
        return Packages(self.debian_packages, self.python_packages)


@dataclass(frozen=True, slots=True)
class Origin:
    """How an image was made, as far as it does not say so itself.

    ``inputs_sha256`` covers everything that decides about the contents (recipe, base, package,
    weights), ``base_sha256`` is the base image's. ``built``: UTC, ISO 8601. ``tools``: versions of
    apptainer and squashfs-tools, on which the content's bytes depend too.
    """

    inputs_sha256: str
    base_sha256: str | None
    built: str
    tools: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image file. ``origin`` is unknown where no record lies beside the image.

    ``sha256`` names this file, ``content_sha256`` what is in it, which two builds of one recipe
    on one base share; unknown in records of older versions. ``unasked``: ``contents`` is what a
    record said that came with the file; Apptainer could not start the image to ask it.
    """

    path: Path
    sha256: str
    size_bytes: int
    contents: Contents
    origin: Origin | None = None
    content_sha256: str | None = None
    unasked: bool = False

    @property
    def weights(self) -> tuple[CarriedWeights, ...]:
        """The weights files inside."""
        return self.contents.weights


def read_image(path: Path, *, run: Run = processes.run) -> ImageInfo:
    """What is known about an image: from its record or, without one, from the image itself.

    Raises CaHpcError, DigestMismatch if the file is not the recorded one by its size already.
    The bytes are not read here if there is a record: see :func:`verify_image`.
    """
    try:
        size = path.stat().st_size
        content = record_path(path).read_bytes()
    except FileNotFoundError:
        if not path.is_file():
            raise CaHpcError(f"image {path} does not exist", hint=_BUILD) from None
        return describe_image(path, origin=None, run=run)
    except OSError as error:
        raise CaHpcError(
            f"image {path} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    try:
        found = decode(ImageInfo, content.decode())
    except ValueError as error:
        raise CaHpcError(
            f"{record_path(path)} is not the record of an image",
            hint="delete it; the image will be asked instead",
        ) from error
    if found.size_bytes != size:
        raise DigestMismatch(
            f"{path} has {size} bytes, its record says {found.size_bytes} (sha256:{found.sha256})",
            hint="copy the image again with its .json file, or delete a .json file that is old; of "
            "an image signed since, `ca-hpc image pull FILE --name NAME` makes a new one",
        )
    return replace(found, path=path)


def verify_image(path: Path, expected_sha256: str, *, cache: Path) -> None:
    """Check an image's bytes. ``cache`` as in :func:`cached_sha256`.

    Raises DigestMismatch, which names both digests, and CaHpcError if there is no such file.
    """
    try:
        found = cached_sha256(path, cache=cache)
    except OSError as error:
        raise CaHpcError(
            f"image {path} cannot be read: {error.strerror}",
            hint="nodes must see it at the same path: check the folder and its permissions",
        ) from error
    if found != expected_sha256:
        raise DigestMismatch(
            f"image {path} is sha256:{found}, recorded is sha256:{expected_sha256}",
            hint="put the recorded image back, or submit the job again with this one",
        )


def describe_image(path: Path, *, origin: Origin | None, run: Run) -> ImageInfo:
    """Hash an image and ask it what it holds. Raises as :func:`ask`."""
    contents = ask(path, run=run)
    return ImageInfo(
        path, sha256_file(path), path.stat().st_size, contents, origin, content_sha256(path)
    )


def ask(path: Path, *, run: Run) -> Contents:
    """What an image says that it holds. Raises CaHpcError; CannotAsk where it does not start."""
    argv = ("apptainer", "exec", "--containall", "--cleanenv", "--no-home")
    try:
        done = run((*argv, str(path), "cat", DESCRIPTION), env=outside_environment())
    except ProgramMissing as error:
        raise CannotAsk(
            f"{path} has no record beside it, and apptainer, to ask the image, is missing",
            hint=f"copy {record_path(path).name} too, or install Apptainer",
        ) from error
    if done.returncode != 0:
        raise (CannotAsk if done.returncode == _NOT_STARTED else CaHpcError)(
            f"{path} does not say what it holds: {last_lines(done.stderr, count=3).strip()}",
            hint=f"copy {record_path(path).name} too, which says it; if there is none, {_BUILD}",
        )
    try:
        return decode(Contents, done.stdout)
    except ValueError as error:
        raise CaHpcError(f"{path}: {DESCRIPTION} in it is damaged", hint=_BUILD) from error


def write_record(image: ImageInfo) -> None:
    """Write the record beside the image; by name, since the two may be moved together."""
    atomic.write_text(record_path(image.path), encode(replace(image, path=Path(image.path.name))))


def record_path(image: Path) -> Path:
    """``x.sif`` -> ``x.sif.json``."""
    return image.with_name(image.name + ".json")


def outside_environment() -> dict[str, str]:
    """This process's environment without what would change a container behind our back.

    Where Apptainer may put its temporary files is the user's to say.
    """
    kept = ("APPTAINER_TMPDIR", "APPTAINER_CACHEDIR")
    return {
        key: value
        for key, value in os.environ.items()
        if key in kept or not key.startswith(("APPTAINER", "SINGULARITY"))
    }


def last_lines(text: str, *, count: int) -> str:
    """The end of a program's output, for a message."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
