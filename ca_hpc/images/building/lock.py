"""``containers/images.lock.yaml``: what images are built from, and what came of it.

Of a base the lock names the content that a build gave, and the Debian packages in it, which are
the mirror's of that day. Of the image on top it cannot: the lock lies in there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from ca_hpc.core.codec import decode
from ca_hpc.errors import CaHpcError
from ca_hpc.images.building import recipes
from ca_hpc.images.building.pins import canonical
from ca_hpc.images.building.recipes import Recipe, digest
from ca_hpc.images.changes import Change, Packages, changes
from ca_hpc.images.record import ImageInfo
from ca_hpc.store.shipped import shipped


@dataclass(frozen=True, slots=True)
class LockedImage:
    """``content_sha256``, ``tools`` and ``debian_packages``: as it was built, if it was."""

    recipe: str
    recipe_sha256: str
    packages: str | None = None
    packages_sha256: str | None = None
    content_sha256: str | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    debian_packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Lock:
    images: Mapping[str, LockedImage]


def lock_file() -> Path:
    """The lock of this version. Raises CaHpcError if it is missing."""
    return shipped("containers", "images.lock.yaml")


def read_lock(text: str) -> Mapping[str, LockedImage]:
    """The images in a lock's text, by name. Raises CaHpcError if it is none."""
    try:
        # all of it text: YAML would read a version, or a digest without letters, as a number
        return decode(_Lock, json.dumps(yaml.load(text, Loader=yaml.BaseLoader))).images
    except (ValueError, yaml.YAMLError) as error:
        raise CaHpcError(
            f"images.lock.yaml cannot be read: {error}", hint="write it anew: ca-hpc image lock"
        ) from error


def lock_text(before: str, *, built: Iterable[ImageInfo] = ()) -> str:
    """The lock for the recipes of this version.

    What came of a recipe is taken from ``built``, else from ``before``, the lock's present text,
    where the recipe is the same. Raises CaHpcError for an image that is no base of this version.
    """
    known = {found.recipe_sha256: found for found in read_lock(before).values()}
    asked = {name: _from_recipe(recipe) for name, recipe in _recipes().items()}
    # the image on top has no packages of its own, and the lock lies in it
    bases = {found.recipe_sha256 for found in asked.values() if found.packages is not None}
    known |= _results(built, wanted=bases)
    return _text({name: _with_result(found, known) for name, found in asked.items()})


def differences(base: ImageInfo, locked: Mapping[str, LockedImage]) -> tuple[Change, ...] | None:
    """Packages of a base that are not those of a lock; None if the lock has none of its recipe.

    Where there are none and yet ``content_sha256`` differs, the versions of the tools do.
    """
    made_from = base.contents.recipe_sha256
    recipe = next((found for found in _recipes().values() if found.sha256 == made_from), None)
    entry = next((found for found in locked.values() if found.recipe_sha256 == made_from), None)
    if recipe is None or entry is None or entry.content_sha256 is None:
        return None
    python = {canonical(pin.name): pin.version for pin in recipe.pins}
    return changes(Packages(entry.debian_packages, python), base.contents.packages)


def _recipes() -> dict[str, Recipe]:
    return {
        "base-cpu": recipes.base("cpu"),
        "base-cuda": recipes.base("cuda"),
        "ca-hpc": recipes.package(),
    }


def _from_recipe(recipe: Recipe) -> LockedImage:
    if recipe.requirements is None:
        return LockedImage(recipe.definition.name, recipe.sha256)
    pins = [str(pin) for pin in recipe.pins]
    return LockedImage(
        recipe.definition.name, recipe.sha256, recipe.requirements.name, digest(pins)
    )


def _results(built: Iterable[ImageInfo], *, wanted: set[str]) -> dict[str, LockedImage]:
    found = {}
    for image in built:
        recipe_sha256 = image.contents.recipe_sha256
        if recipe_sha256 is None or recipe_sha256 not in wanted:
            raise CaHpcError(
                f"{image.path} is no base that a recipe of this version makes",
                hint="name a base that this version built: base-….sif",
            )
        found[recipe_sha256] = LockedImage(
            recipe="",
            recipe_sha256=recipe_sha256,
            content_sha256=image.content_sha256,
            tools=image.origin.tools if image.origin else {},
            debian_packages=image.contents.debian_packages,
        )
    return found


def _with_result(asked: LockedImage, known: Mapping[str, LockedImage]) -> LockedImage:
    found = known.get(asked.recipe_sha256)
    if found is None or asked.packages is None:
        return asked
    return replace(
        asked,
        content_sha256=found.content_sha256,
        tools=found.tools,
        debian_packages=found.debian_packages,
    )


def _text(images: Mapping[str, LockedImage]) -> str:
    lines = ["# made by: ca-hpc image lock [BASE...]", "images:"]
    for name, image in images.items():
        lines += [f"  {name}:", *_lines(image)]
    return "\n".join(lines) + "\n"


def _lines(image: LockedImage) -> Iterator[str]:
    yield f"    recipe: {image.recipe}"
    yield f"    recipe_sha256: {image.recipe_sha256}"
    if image.packages is not None:
        yield f"    packages: {image.packages}"
        yield f"    packages_sha256: {image.packages_sha256}"
    if image.content_sha256 is not None:
        yield f"    content_sha256: {image.content_sha256}"
        yield from _table("tools", image.tools)
        yield from _table("debian_packages", image.debian_packages)


def _table(name: str, versions: Mapping[str, str]) -> Iterator[str]:
    if versions:
        yield f"    {name}:"
    # quoted for readers that take a version for a number
    yield from (f'      {key}: "{value}"' for key, value in sorted(versions.items()))
