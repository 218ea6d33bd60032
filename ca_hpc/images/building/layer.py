"""Making one image in its place: once, by one of all who ask, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ca_hpc.errors import CaHpcError
from ca_hpc.images.building import apptainer_build
from ca_hpc.images.building.apptainer_build import fakeroot_here, tool_versions
from ca_hpc.images.building.recipes import Recipe
from ca_hpc.images.record import (
    ImageInfo,
    Origin,
    describe_image,
    read_image,
    record_path,
    write_record,
)
from ca_hpc.processes import Run
from ca_hpc.store.lock import held

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The arguments of a build, and the image that it builds on."""

    arguments: Mapping[str, str]
    below: ImageInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One image to make. ``prepare`` fills a folder for Apptainer; it runs only if the image is not
    there yet. ``weights``: sha256 by file name.
    """

    output: Path
    recipe: Recipe
    inputs_sha256: str
    prepare: Callable[[Path], Prepared]
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Made:
    """``before``: what it took the place of; None if it was there already, or nothing was."""

    image: ImageInfo
    reused: bool
    before: ImageInfo | None = None


def make(
    layer: Layer,
    *,
    rebuild: bool,
    fakeroot: bool | None,
    run: Run,
    progress: Progress,
    built: str,
) -> Made:
    """The image of a layer, which may be there already; see ``BuildRequest``. Raises CaHpcError."""
    name = layer.output.name
    if not rebuild and (found := _finished(layer)):
        return Made(found, reused=True)
    tools = tool_versions(run)
    with _exclusive(layer.output, progress=progress) as folder:
        before = _recorded(layer.output)
        # another process may have built it while this one waited
        if not rebuild and (found := _finished(layer)):
            return Made(found, reused=True)
        ready = layer.prepare(folder)
        log = layer.output.with_name(f"{name}.log")
        progress(f"building {name}; its log: {log}")
        apptainer_build.build(
            layer.recipe.definition,
            folder=folder,
            arguments={"recipe": layer.recipe.sha256, **ready.arguments},
            fakeroot=fakeroot_here() if fakeroot is None else fakeroot,
            log=log,
            run=run,
        )
        below = ready.below.sha256 if ready.below else None
        origin = Origin(layer.inputs_sha256, below, built, tools=tools)
        made = describe_image(folder / "image.sif", origin=origin, run=run)
        if {carried.name: carried.sha256 for carried in made.weights} != layer.weights:
            raise CaHpcError(
                f"a weights file changed while {name} was built", hint="build it again"
            )
        return Made(_publish(made, layer.output), reused=False, before=before)


@contextlib.contextmanager
def _exclusive(output: Path, *, progress: Progress) -> Iterator[Path]:
    """A temporary folder beside ``output`` while this process alone may make it."""
    parent = output.parent
    lock = parent / f".{output.name}.lock"
    prefix = f".{output.name}.building-"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise CaHpcError(
            f"cannot write to {parent}: {error.strerror}",
            hint="name an image in a folder that you may write to, and such a one for bases: "
            "--bases FOLDER",
        ) from error
    with held(lock, waiting=lambda: progress(f"another process builds {output.name}: waiting")):
        for left in parent.iterdir():
            # by a builder that was killed: while it lived it had the lock
            if left.name.startswith(prefix) and left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        # the same file system as the image, which is moved into place
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
            yield Path(folder)


def _finished(layer: Layer) -> ImageInfo | None:
    """The image, if it is there and made of the same things."""
    found = _recorded(layer.output)
    same = found and found.origin and found.origin.inputs_sha256 == layer.inputs_sha256
    return found if same else None


def _recorded(image: Path) -> ImageInfo | None:
    """What is there, if it has a record that fits."""
    if not record_path(image).is_file():
        return None
    with contextlib.suppress(CaHpcError):
        return read_image(image)
    return None


def _publish(made: ImageInfo, output: Path) -> ImageInfo:
    """Move an image into place. Without a record for a moment: one that fits no file is worse."""
    record_path(output).unlink(missing_ok=True)
    made.path.replace(output)
    published = dataclasses.replace(made, path=output)
    write_record(published)
    return published
