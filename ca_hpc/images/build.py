"""Building images: a base (Debian, Python, torch, nnU-Net), and this package on top of it.

The base is kept in the store under the digest of its recipe, so that it is built once; the layer
on top is built again when the package, the weights or the base change. See ``containers/``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ca_hpc.errors import CaHpcError
from ca_hpc.images import apptainer_build, recipes
from ca_hpc.images.apptainer_build import environment, fakeroot_here, require_apptainer
from ca_hpc.images.debian import host_mirror
from ca_hpc.images.package_wheel import pack_wheel
from ca_hpc.images.python_wheels import fetch_wheels
from ca_hpc.images.recipes import Recipe, Variant
from ca_hpc.images.record import (
    ImageInfo,
    Origin,
    describe_image,
    read_image,
    record_path,
    verify_image,
    write_record,
)
from ca_hpc.processes import ProgramMissing, Run
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.lock import held
from ca_hpc.store.shipped import PACKAGE

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """Weights for an image to carry: a file, its sha256, and its manifest as JSON. ``name`` becomes
    part of a file name in the image."""

    name: str
    file: Path
    sha256: str
    manifest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build.

    ``output``: the image to write. ``store``: folder where bases are kept. ``weights``: to carry.
    ``base``: an existing base image, instead of one from the store. ``mirror``: Debian mirror
    (``None``: this machine's own). ``wheels``: folder of Python packages (``None``: pip's settings
    decide). ``fakeroot`` (``None``: whenever possible). ``rebuild``: even if nothing changed.
    """

    output: Path
    store: Path
    weights: tuple[Cargo, ...] = ()
    base: Path | None = None
    variant: Variant = "cpu"
    mirror: str | None = None
    wheels: Path | None = None
    fakeroot: bool | None = None
    rebuild: bool = False


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """The image at the place asked for; ``reused``: it was there already."""

    image: ImageInfo
    base: ImageInfo
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One image to make. ``prepare`` fills a folder for Apptainer and returns the build arguments;
    it runs only if the image is not there yet. ``weights``: sha256 by file name.
    """

    output: Path
    recipe: Recipe
    inputs_sha256: str
    prepare: Callable[[Path], Mapping[str, str]]
    base_sha256: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)


def build_image(request: BuildRequest, *, run: Run, progress: Progress, built: str) -> BuiltImage:
    """Make ``request.output``: this package and the weights, on a base from the store.

    ``progress`` is told what happens, one sentence at a time; ``built`` is now, in UTC. Of two
    builders of one image the second waits and takes the first one's. Raises CaHpcError.
    """
    if request.output.is_dir():
        raise CaHpcError(f"{request.output} is a folder", hint="name the image file to write")
    if request.base is None:
        base = build_base(request, run=run, progress=progress, built=built)
    else:
        base = read_image(request.base, run=run)
    with tempfile.TemporaryDirectory() as folder:
        wheel = pack_wheel(Path(folder))
        layer = _package_layer(request, base=base, wheel=wheel, run=run)
        image, reused = _make(layer, request, run=run, progress=progress, built=built)
    return BuiltImage(image, base, reused)


def build_base(request: BuildRequest, *, run: Run, progress: Progress, built: str) -> ImageInfo:
    """The base image for ``request.variant``, made if the store has none. Raises CaHpcError."""
    image, _ = _make(
        _base_layer(request, run=run, progress=progress),
        request,
        run=run,
        progress=progress,
        built=built,
    )
    return image


def _base_layer(request: BuildRequest, *, run: Run, progress: Progress) -> _Layer:
    recipe = recipes.base(request.variant)
    inputs = recipe.sha256

    def prepare(folder: Path) -> Mapping[str, str]:
        mirror = _mirror(request)
        context = _context(folder, recipe)
        requirements = str(recipe.requirements)
        progress(f"fetching the Python packages of {requirements}")
        fetch_wheels(
            context / requirements, into=context / "wheels", source=request.wheels, run=run
        )
        packages = recipe.debian_packages
        return {"mirror": mirror, "packages": packages, "requirements": requirements}

    output = request.store / f"base-{request.variant}-{inputs[:12]}.sif"
    return _Layer(output=output, recipe=recipe, inputs_sha256=inputs, prepare=prepare)


def _package_layer(request: BuildRequest, *, base: ImageInfo, wheel: Path, run: Run) -> _Layer:
    recipe = recipes.package()
    cache = request.store / "digests.json"
    weights = {_carried_name(cargo): cargo.sha256 for cargo in request.weights}
    inputs = {
        "recipe": recipe.sha256,
        "base": base.sha256,
        "package": sha256_file(wheel),
        "weights": weights,
    }

    def prepare(folder: Path) -> Mapping[str, str]:
        verify_image(base.path, base.sha256, cache=cache)
        # Apptainer follows the links when it copies the context into the image
        (folder / "base.sif").symlink_to(base.path.absolute())
        context = _context(folder, recipe)
        (context / "wheels" / wheel.name).symlink_to(wheel)
        for cargo in request.weights:
            file = context / "weights" / _carried_name(cargo)
            file.symlink_to(cargo.file.absolute())
            file.with_suffix(".json").write_text(cargo.manifest, encoding="utf-8")
        return {"commit": _commit(run)}

    return _Layer(
        output=request.output,
        recipe=recipe,
        inputs_sha256=recipes.digest(inputs),
        prepare=prepare,
        base_sha256=base.sha256,
        weights=weights,
    )


def _make(
    layer: _Layer, request: BuildRequest, *, run: Run, progress: Progress, built: str
) -> tuple[ImageInfo, bool]:
    """The image of a layer, and whether it was there already."""
    name = layer.output.name
    if not request.rebuild and (found := _finished(layer)):
        return found, True
    require_apptainer(run)
    with _exclusive(layer.output, progress=progress) as folder:
        # another process may have built it while this one waited
        if not request.rebuild and (found := _finished(layer)):
            return found, True
        arguments = layer.prepare(folder)
        log = layer.output.with_name(f"{name}.log")
        progress(f"building {name}; its log: {log}")
        apptainer_build.build(
            layer.recipe.definition,
            folder=folder,
            arguments=arguments,
            fakeroot=fakeroot_here() if request.fakeroot is None else request.fakeroot,
            log=log,
            run=run,
        )
        origin = Origin(layer.recipe.sha256, layer.inputs_sha256, layer.base_sha256, built)
        made = describe_image(folder / "image.sif", origin=origin, run=run)
        if {carried.name: carried.sha256 for carried in made.weights} != layer.weights:
            raise CaHpcError(
                f"a weights file changed while {name} was built", hint="build it again"
            )
        return _publish(made, layer.output), False


def _carried_name(cargo: Cargo) -> str:
    return f"{cargo.name}{cargo.file.suffix}"


def _mirror(request: BuildRequest) -> str:
    """The Debian mirror to build from, after checking that there is a debootstrap to use it."""
    if shutil.which("debootstrap", path=environment()["PATH"]) is None:
        raise CaHpcError(
            "debootstrap, which makes a base image, is not installed on this machine",
            hint="install it (package debootstrap), or take a base built elsewhere: --base FILE",
        )
    mirror = request.mirror or host_mirror()
    if mirror is None:
        raise CaHpcError(
            "this machine's apt knows no Debian archive to build the base image from",
            hint="name a Debian mirror: --mirror URL, or take a base built elsewhere: --base FILE",
        )
    return mirror


def _context(folder: Path, recipe: Recipe) -> Path:
    """Make ``folder``/context: the recipe's files, and room for wheels and weights."""
    context = folder / "context"
    for name in ("wheels", "weights"):
        (context / name).mkdir(parents=True)
    for file in recipe.files:
        shutil.copyfile(file, context / file.name)
    return context


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
            hint="choose a folder that you may write to: --output FILE, --store FOLDER",
        ) from error
    with held(lock, waiting=lambda: progress(f"another process builds {output.name}: waiting")):
        for (
            left
        ) in parent.iterdir():  # by a builder that was killed: while it lived it had the lock
            if left.name.startswith(prefix) and left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        # the same file system as the image, which is moved into place
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
            yield Path(folder)


def _finished(layer: _Layer) -> ImageInfo | None:
    """The image, if it is there and made of the same things."""
    if not record_path(layer.output).is_file():
        return None
    try:
        found = read_image(layer.output)
    except CaHpcError:
        return None
    same = found.origin is not None and found.origin.inputs_sha256 == layer.inputs_sha256
    return found if same else None


def _publish(made: ImageInfo, output: Path) -> ImageInfo:
    """Move an image into place. Without a record for a moment: one that fits no file is worse."""
    record_path(output).unlink(missing_ok=True)
    made.path.replace(output)
    published = dataclasses.replace(made, path=output)
    write_record(published)
    return published


def _commit(run: Run) -> str:
    """The commit of the checkout that this package runs from; empty for an installed package."""
    git = ("git", "-C", str(PACKAGE.parent))
    if not (PACKAGE.parent / ".git").exists():
        return ""
    with contextlib.suppress(ProgramMissing):
        head = run((*git, "rev-parse", "--verify", "HEAD"))
        changes = run((*git, "status", "--porcelain"))
        if head.returncode == changes.returncode == 0:
            return head.stdout.strip() + ("-dirty" if changes.stdout else "")
    return ""
