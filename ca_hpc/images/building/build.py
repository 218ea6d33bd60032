"""Building images: Debian, on it a base (torch, nnU-Net), and on that this package.

Debian and base are kept in a folder of bases under the digests of their recipes, so that they are
built once; the image is built again when the package, the weights or the base change. Only Debian's
layer depends on the day: what is on it is decided by files of this repository. See ``containers/``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ca_hpc.errors import CaHpcError
from ca_hpc.images.building import recipes
from ca_hpc.images.building.apptainer_build import environment
from ca_hpc.images.building.debian import host_mirror
from ca_hpc.images.building.layer import Layer, Made, Prepared, Progress, make
from ca_hpc.images.building.package_wheel import pack_wheel
from ca_hpc.images.building.python_wheels import fetch_wheels
from ca_hpc.images.building.recipes import Recipe, Variant
from ca_hpc.images.changes import Change, changes
from ca_hpc.images.record import ImageInfo, read_image, verify_image
from ca_hpc.processes import Run
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.software import commit_here


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

    ``output``: the image to write. ``bases``: folder where bases and what is below them are kept.
    ``weights``: to carry.
    ``base``: an existing base image, instead of one from there. ``mirror``: Debian mirror
    (``None``: this machine's own). ``wheels``: folder of Python packages (``None``: pip's settings
    decide). ``fakeroot`` (``None``: whenever possible). ``rebuild``: even if nothing changed.
    """

    output: Path
    bases: Path
    weights: tuple[Cargo, ...] = ()
    base: Path | None = None
    variant: Variant = "cpu"
    mirror: str | None = None
    wheels: Path | None = None
    fakeroot: bool | None = None
    rebuild: bool = False


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """The image at the place asked for; ``reused``: it was there already.

    ``changes``: packages that differ from the image that was there before.
    """

    image: ImageInfo
    base: ImageInfo
    reused: bool
    changes: tuple[Change, ...] = ()


def build_image(request: BuildRequest, *, run: Run, progress: Progress, built: str) -> BuiltImage:
    """Make ``request.output``: this package and the weights, on a base that is kept.

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
        made = _make(layer, request, run=run, progress=progress, built=built)
    before = made.before or made.image
    found = changes(before.contents.packages, made.image.contents.packages)
    return BuiltImage(made.image, base, made.reused, found)


def build_base(request: BuildRequest, *, run: Run, progress: Progress, built: str) -> ImageInfo:
    """The base image for ``request.variant``, made if none is kept. Raises CaHpcError."""
    recipe = recipes.base(request.variant)

    def prepare(folder: Path) -> Prepared:
        debian = build_debian(request, run=run, progress=progress, built=built)
        context = _context(folder, recipe)
        for file in filter(None, (recipe.requirements, recipe.tools)):
            progress(f"fetching the Python packages of {file.name}")
            fetch_wheels(file, into=context / "wheels", source=request.wheels, run=run)
        _lay(debian, folder / "debian.sif")
        requirements = recipe.requirements.name if recipe.requirements else ""
        return Prepared({"requirements": requirements}, debian)

    layer = _kept("base", recipe, request=request, prepare=prepare)
    return _make(layer, request, run=run, progress=progress, built=built).image


def build_debian(request: BuildRequest, *, run: Run, progress: Progress, built: str) -> ImageInfo:
    """The image below ``request.variant``'s base, made if none is kept. Raises CaHpcError."""
    recipe = recipes.debian(request.variant)

    def prepare(folder: Path) -> Prepared:
        mirror = _mirror(request)
        _context(folder, recipe)
        return Prepared({"mirror": mirror, "packages": recipe.debian_packages})

    layer = _kept("debian", recipe, request=request, prepare=prepare)
    return _make(layer, request, run=run, progress=progress, built=built).image


def _make(layer: Layer, request: BuildRequest, *, run: Run, progress: Progress, built: str) -> Made:
    return make(
        layer,
        rebuild=request.rebuild,
        fakeroot=request.fakeroot,
        run=run,
        progress=progress,
        built=built,
    )


def _kept(
    name: str, recipe: Recipe, *, request: BuildRequest, prepare: Callable[[Path], Prepared]
) -> Layer:
    """A layer that other images are built on, named after its recipe."""
    output = request.bases / f"{name}-{request.variant}-{recipe.sha256[:12]}.sif"
    return Layer(output=output, recipe=recipe, inputs_sha256=recipe.sha256, prepare=prepare)


def _package_layer(request: BuildRequest, *, base: ImageInfo, wheel: Path, run: Run) -> Layer:
    recipe = recipes.package()
    weights = {_carried_name(cargo): cargo.sha256 for cargo in request.weights}
    inputs = {
        "recipe": recipe.sha256,
        "base": base.sha256,
        "package": sha256_file(wheel),
        "weights": weights,
    }

    def prepare(folder: Path) -> Prepared:
        _lay(base, folder / "base.sif")
        context = _context(folder, recipe)
        # Apptainer follows the links when it copies the context into the image
        (context / "wheels" / wheel.name).symlink_to(wheel)
        for cargo in request.weights:
            file = context / "weights" / _carried_name(cargo)
            file.symlink_to(cargo.file.absolute())
            file.with_suffix(".json").write_text(cargo.manifest, encoding="utf-8")
        said = {"base": base.content_sha256 or "", "commit": commit_here(run=run) or ""}
        return Prepared(said, base)

    return Layer(
        output=request.output,
        recipe=recipe,
        inputs_sha256=recipes.digest(inputs),
        prepare=prepare,
        weights=weights,
    )


def _lay(image: ImageInfo, place: Path) -> None:
    """Put an image where a definition file looks for what it builds on, after checking it."""
    verify_image(image.path, image.sha256, cache=place.with_name("digests.json"))
    place.symlink_to(image.path.absolute())


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
