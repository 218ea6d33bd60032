"""Profiles by name (``configs/``, also after ``pip install``) or by file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from ca_hpc.core import door
from ca_hpc.core.profile import Cluster, Model
from ca_hpc.errors import SpecError
from ca_hpc.store.shipped import shipped

T = TypeVar("T", Cluster, Model)
MOST_BYTES = 1_000_000


def cluster(name: str, *, relative_to: Path) -> Cluster:
    """A cluster profile. Raises SpecError."""
    return _load(Cluster, name, folder="clusters", relative_to=relative_to)


def model(name: str, *, relative_to: Path) -> Model:
    """A model profile. Raises SpecError."""
    return _load(Model, name, folder="models", relative_to=relative_to)


def models() -> tuple[str, ...]:
    """Names of the shipped model profiles."""
    return tuple(sorted(file.stem for file in shipped("configs", "models").glob("*.yaml")))


def _load(kind: type[T], name: str, *, folder: str, relative_to: Path) -> T:
    own = name.endswith((".yaml", ".yml"))
    file = relative_to / name if own else shipped("configs", folder) / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in shipped("configs", folder).glob("*.yaml")))
        raise SpecError(
            f"no {kind.__name__.lower()} profile {name}"
            + (f": {file} does not exist" if own else f"; known: {known}"),
            hint="name a known profile, or the path of a .yaml file of your own",
        )
    return door.read(kind, text_of(file), file=str(file))


def text_of(file: Path) -> str:
    """The text of a file that a user wrote. Raises SpecError."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise SpecError(
                f"{file} is larger than {MOST_BYTES // 1000} kB: it is no job and no profile",
                hint="name a YAML file that people write: ca-hpc submit job.yaml",
            )
        return raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        hint = "name a readable YAML file: ca-hpc submit job.yaml"
        raise SpecError(f"{file}: {reason}", hint=hint) from error
