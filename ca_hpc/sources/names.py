"""What file names tell: the stem, BIDS entities, nnU-Net's identifier of a case."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

IMAGE_ENDINGS: Final = (".nii.gz", ".nii")
MOST_ID: Final = 180  # bytes; a file system has 255 for the name that begins with it

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9-]+")


def stem(name: str) -> str:
    """``sub-01_T2w.nii.gz`` -> ``sub-01_T2w``."""
    return name.removesuffix(".gz").removesuffix(".nii")


def is_image(name: str) -> bool:
    """Whether a file is NIfTI by its name, and not the shadow that macOS makes of one (``._…``)."""
    return name.endswith(IMAGE_ENDINGS) and not name.startswith(".")


def entities(name: str) -> Mapping[str, str]:
    """BIDS entities: ``sub-01_ses-02_T2w.nii.gz`` -> ``{"sub": "01", "ses": "02"}``."""
    parts = (part.partition("-") for part in stem(name).split("_"))
    return {key: value for key, dash, value in parts if dash}


def subject_of(image: Path) -> str:
    """``sub-01`` of the file's name, else of a folder on the way to it, else the file's stem."""
    for part in (image.name, *reversed(image.parts[:-1])):
        if label := entities(part).get("sub"):
            return f"sub-{label}"
    return stem(image.name)


def rivals(files: Sequence[object]) -> Iterator[str]:
    """What is wrong with files of which there should be one: ``a.nii`` beside ``a.nii.gz``."""
    if len(files) > 1:
        yield f"{files[0]} and {files[1]} are both there: leave one"


def told_apart(stem: str, *, subject: str) -> str:
    """``stem``, begun with the subject unless it is: each person's folder may hold a ``t2``."""
    return stem if stem.startswith(subject) else f"{subject}_{stem}"


def case_id(source: str, stem: str) -> str:
    """The identifier of a case: letters, digits and dashes, at most ``MOST_ID`` of them."""
    whole = f"{source}_{stem}"
    plain = _UNSAFE.sub("-", whole)
    if len(plain) <= MOST_ID:
        return plain
    mark = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{plain[: MOST_ID - 11]}-{mark}"


def first_three(names: list[str]) -> str:
    """Of many names, as many as a sentence can hold."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
