"""Building images: a base (Debian, Python, torch, nnU-Net), and this package on top of it.

The base is kept in the store under the digest of its recipe, so that it is built once; the layer
on top is built again when the package, the weights or the base change. See ``containers/``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ca_hpc.errors import CaHpcError
from ca_hpc.processes import ProgramMissing, Run
from ca_hpc.store import apptainer_build
from ca_hpc.store.apptainer_build import environment, fakeroot_here, require_apptainer
from ca_hpc.store.debian import host_mirror
from ca_hpc.store.digests import cached_sha256, sha256_file
from ca_hpc.store.images import (
    ImageInfo,
    Origin,
    describe_image,
    read_image,
    record_path,
    write_record,
)
from ca_hpc.store.lock import held
from ca_hpc.store.package_wheel import pack_wheel
from ca_hpc.store.python_wheels import fetch_wheels
from ca_hpc.store.shipped import PACKAGE, shipped

Variant = Literal["cpu", "cuda"]
Progress = Callable[[str], None]

#: Debian packages beyond Python: Triton, behind torch.compile, needs a C compiler at run time
_PACKAGES: Final[Mapping[Variant, str]] = {"cpu": "", "cuda": "gcc libc6-dev python3-dev"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build.

    ``output``: the image to write. ``store``: folder where bases are kept. ``weights``: files to
    carry. ``base``: an existing base image, instead of one from the store. ``mirror``: Debian
    mirror (``None``: this machine's own). ``wheels``: folder of Python packages (``None``: pip's
    settings decide). ``fakeroot`` (``None``: whenever possible). ``rebuild``: even if nothing
    changed.
    """

    output: Path
    store: Path
    weights: tuple[Path, ...] = ()
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
    it runs only if the image is not there yet.
    """

    output: Path
    definition: Path
    recipe_sha256: str
    inputs_sha256: str
    base_sha256: str | None
    prepare: Callable[[Path], Mapping[str, str]]


def build_image(request: BuildRequest, *, run: Run, progress: Progress, built: str) -> BuiltImage:
    """Make ``request.output``: this package and the weights, on a base from the store.

    ``progress`` is told what happens, one sentence at a time; ``built`` is now, in UTC. Of two
    builders of one image the second waits and takes the first one's. Raises CaHpcError.
    """
    _check_weights(request.weights)
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
    requirements = f"requirements-{request.variant}.txt"
    definition = shipped("containers", "base.def")
    files = _shipped_files("requirements.txt", requirements, "describe.py", "selftest.py")
    packages = _PACKAGES[request.variant]
    recipe = _sha256_of_files(definition, *files)
    inputs = _digest({"recipe": recipe, "packages": packages})

    def prepare(folder: Path) -> Mapping[str, str]:
        mirror = _mirror(request)
        wheels = _context(folder, files)
        progress(f"fetching the Python packages of {requirements}")
        fetch_wheels(folder / "context" / requirements, into=wheels, source=request.wheels, run=run)
        return {"mirror": mirror, "packages": packages, "requirements": requirements}

    return _Layer(
        output=request.store / f"base-{request.variant}-{inputs[:12]}.sif",
        definition=definition,
        recipe_sha256=recipe,
        inputs_sha256=inputs,
        base_sha256=None,
        prepare=prepare,
    )


def _package_layer(request: BuildRequest, *, base: ImageInfo, wheel: Path, run: Run) -> _Layer:
    definition = shipped("containers", "ca-hpc.def")
    files = _shipped_files("describe.py", "selftest.py")
    cache = request.store / "digests.json"
    carried = {f"weights/{file.name}": cached_sha256(file, cache=cache) for file in request.weights}
    recipe = _sha256_of_files(definition, *files)
    package = {"package": sha256_file(wheel), "base": base.sha256}

    def prepare(folder: Path) -> Mapping[str, str]:
        # Apptainer follows the links when it copies the context into the image
        (folder / "base.sif").symlink_to(base.path.absolute())
        wheels = _context(folder, files)
        (wheels / wheel.name).symlink_to(wheel)
        for file in request.weights:
            (folder / "context" / "weights" / file.name).symlink_to(file.absolute())
        return {"commit": _commit(run)}

    return _Layer(
        output=request.output,
        definition=definition,
        recipe_sha256=recipe,
        inputs_sha256=_digest({"recipe": recipe, **package, **carried}),
        base_sha256=base.sha256,
        prepare=prepare,
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
            layer.definition,
            folder=folder,
            arguments=arguments,
            fakeroot=fakeroot_here() if request.fakeroot is None else request.fakeroot,
            log=log,
            run=run,
        )
        origin = Origin(layer.recipe_sha256, layer.inputs_sha256, layer.base_sha256, built)
        made = describe_image(folder / "image.sif", origin=origin, run=run)
        return _publish(made, layer.output), False


def _check_weights(weights: tuple[Path, ...]) -> None:
    for file in weights:
        if not file.is_file():
            raise CaHpcError(f"weights file {file} does not exist", hint="correct --weights")
    names = [file.name for file in weights]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CaHpcError(
            f"two weights files are named {twice[0]}, and both would lie in one folder",
            hint="rename one of them",
        )


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


def _context(folder: Path, files: tuple[Path, ...]) -> Path:
    """Make ``folder``/context with the recipe's files; returns its folder for wheels."""
    context = folder / "context"
    (context / "weights").mkdir(parents=True)
    (context / "wheels").mkdir()
    for file in files:
        shutil.copyfile(file, context / file.name)
    return context / "wheels"


@contextlib.contextmanager
def _exclusive(output: Path, *, progress: Progress) -> Iterator[Path]:
    """A temporary folder beside ``output`` while this process alone may make it."""
    parent = output.parent
    lock = parent / f".{output.name}.lock"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise CaHpcError(
            f"cannot write to {parent}: {error.strerror}",
            hint="choose a folder that you may write to: --output FILE, --store FOLDER",
        ) from error
    with (
        held(lock, waiting=lambda: progress(f"another process builds {output.name}: waiting")),
        # the same file system as the image, which is moved into place
        tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=parent) as folder,
    ):
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


def _shipped_files(*names: str) -> tuple[Path, ...]:
    return tuple(shipped("containers", name) for name in names)


def _sha256_of_files(*files: Path) -> str:
    return _digest({file.name: sha256_file(file) for file in files})


def _digest(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
