"""Torch's zip files (since torch 1.6), read without torch and without running what is in them.

Layout (torch/serialization.py): ``ROOT/data.pkl`` is a pickle of the saved object, in which a
tensor is a window (offset, shape, strides) onto a storage, whose bytes are ``ROOT/data/KEY``.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from ca_hpc.errors import CaHpcError
from ca_hpc.weights import inert_pickle
from ca_hpc.weights.inert_pickle import Opaque
from ca_hpc.weights.tensors import itemsize
from ca_hpc.weights.torch_values import GLOBALS, OTHER_TENSORS, Storage
from ca_hpc.weights.zip_file import DAMAGED, FETCH_AGAIN, open_zip

LONGEST_PICKLE: Final = 1 << 24  # bytes, each good for 64 in memory; 1000 epochs need 0.3 MB
SAVE_AGAIN: Final = "Save the weights again, alone: torch.save(network.state_dict(), FILE)."
TRUST: Final = (
    "If you know where it comes from, --trust leaves that part out (nothing of it is ever run); "
    "or have its author save it again: torch.save(network.state_dict(), FILE)."
)


def read_torch_file(path: Path, *, trust: bool = False) -> Any:
    """The saved object: dicts, lists, plain values, and a ``Tensor`` for each tensor.

    Numpy numbers are Python's, numpy arrays and sets are lists, a device is its name. Tensors'
    values are read when asked for. Raises CaHpcError where the file is damaged, inconsistent or no
    torch zip file, or names anything else; with ``trust`` an ``Opaque`` stands in its place.
    """
    archive = open_zip(path)
    root = _root(archive, path)
    content = _content(archive, path)
    if f"{root}/byteorder" in archive.namelist() and content(f"{root}/byteorder") != b"little":
        raise CaHpcError(
            f"{path} was written on a big-endian machine.",
            hint="Load it with torch, and save it again on an ordinary machine.",
        )
    described = archive.getinfo(f"{root}/data.pkl").file_size
    if described > LONGEST_PICKLE:
        raise CaHpcError(
            f"{path} needs {described} bytes to describe its tensors, which no checkpoint does.",
            hint=SAVE_AGAIN,
        )
    try:
        return inert_pickle.evaluate(
            content(f"{root}/data.pkl"),
            lookup=partial(_meaning, path=path, trust=trust),
            persistent=_storages(archive, root, content=content),
        )
    except inert_pickle.MALFORMED as error:
        raise CaHpcError(
            f"{path} is damaged or was tampered with: {error}.", hint=FETCH_AGAIN
        ) from error


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    """The one folder inside the archive. Raises CaHpcError for zips that are no checkpoint."""
    names = archive.namelist()
    roots = [name.split("/")[0] for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if not roots:
        raise CaHpcError(
            f"{path} is a zip file without data.pkl: torch did not write it.",
            hint="For a release's zip or folder: ca-hpc weights add.",
        )
    if len(roots) > 1:
        raise CaHpcError(
            f"{path} has {len(roots)} data.pkl, in {', '.join(roots)}: one is meant.",
            hint=FETCH_AGAIN,
        )
    if f"{roots[0]}/constants.pkl" in names:
        raise CaHpcError(
            f"{path} is a TorchScript program, not a file of weights.",
            hint="Give the checkpoint that it was made from.",
        )
    return roots[0]


def _content(archive: zipfile.ZipFile, path: Path) -> Callable[[str], bytes]:
    @lru_cache(maxsize=1)  # windows onto one storage often follow one another
    def content(name: str) -> bytes:
        try:
            return archive.read(name)
        except (*DAMAGED, OSError) as error:
            raise CaHpcError(
                f"{path} is damaged: its member {name} cannot be read ({error}).", hint=FETCH_AGAIN
            ) from error

    return content


def _storages(
    archive: zipfile.ZipFile, root: str, *, content: Callable[[str], bytes]
) -> Callable[[Any], Storage | Opaque]:
    """What stands for the pickle's persistent ids: ("storage", type, key, device, values)."""
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    known: dict[tuple[str, str], Storage] = {}

    def storage(identity: Any) -> Storage | Opaque:
        kind, dtype, key, _device, count = identity
        if isinstance(dtype, Opaque):
            return dtype
        if (kind, type(dtype), type(key), type(count)) != ("storage", str, str, int):
            raise TypeError("something outside of the pickle is no storage")
        name, needed = f"{root}/data/{key}", count * itemsize(dtype)
        if sizes.get(name) != needed:
            raise ValueError(f"the values {name} have {sizes.get(name, 'no')} bytes, not {needed}")
        return known.setdefault((dtype, key), Storage(dtype, needed, partial(content, name)))

    return storage


def _meaning(name: str, *, path: Path, trust: bool) -> Any:
    if name in GLOBALS:
        return GLOBALS[name]
    if trust:
        return Opaque(name)
    if name in OTHER_TENSORS:
        raise CaHpcError(f"{path} holds {OTHER_TENSORS[name]}.", hint=SAVE_AGAIN)
    raise CaHpcError(
        f"{path} was not read: it asks for {name[:80]!r}, and weights need nothing but tensors, "
        "numbers and text. Nothing of it was run.",
        hint=TRUST,
    )
