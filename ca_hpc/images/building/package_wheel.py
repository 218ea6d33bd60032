"""A wheel of the ca_hpc that is running, for the image.

Made from the package's own files, so that a checkout and an installation give the same wheel,
no build tool or index is asked, and the image holds what the host runs, to the byte.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from ca_hpc import __version__
from ca_hpc.store.shipped import FOLDERS, PACKAGE, shipped

#: the earliest time a zip file can hold: equal contents give equal wheels
_TIME: Final = (1980, 1, 1, 0, 0, 0)


def pack_wheel(folder: Path) -> Path:
    """Write ``ca_hpc-<version>-py3-none-any.whl`` into ``folder``; equal code, equal bytes."""
    dist_info = f"ca_hpc-{__version__}.dist-info"
    contents = dict(_contents()) | {
        f"{dist_info}/METADATA": (
            f"Metadata-Version: 2.4\nName: ca-hpc\nVersion: {__version__}\n"
            "License-Expression: Apache-2.0\nLicense-File: LICENSE\n".encode()
        ),
        f"{dist_info}/licenses/LICENSE": _licence(),
        f"{dist_info}/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: ca-hpc\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        f"{dist_info}/entry_points.txt": b"[console_scripts]\nca-hpc = ca_hpc.__main__:main\n",
    }
    rows = [f"{name},{_record_hash(found)},{len(found)}\n" for name, found in contents.items()]
    record = f"{dist_info}/RECORD"
    contents[record] = "".join([*rows, f"{record},,\n"]).encode()
    wheel = folder / f"ca_hpc-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, found in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), found, zipfile.ZIP_DEFLATED)
    return wheel


def _contents() -> Iterator[tuple[str, bytes]]:
    """(path in the wheel, bytes) of the package and of what is shipped with it, sorted."""
    roots = {"ca_hpc": PACKAGE} | {f"ca_hpc/_shipped/{name}": shipped(name) for name in FOLDERS}
    for prefix, root in roots.items():
        for path in sorted(root.rglob("*")):
            inner = path.relative_to(root)
            skipped = any(part.startswith((".", "__pycache__", "_shipped")) for part in inner.parts)
            if path.is_file() and not skipped:
                yield f"{prefix}/{inner.as_posix()}", path.read_bytes()


def _licence() -> bytes:
    """The text of this package's licence: in a checkout beside it, else with its metadata."""
    if not (PACKAGE / "_shipped").is_dir():
        return (PACKAGE.parent / "LICENSE").read_bytes()
    return (metadata.distribution("ca-hpc").read_text("licenses/LICENSE") or "").encode()


def _record_hash(contents: bytes) -> str:
    """As RECORD writes it: URL-safe base64 without padding (Python's wheel specification)."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(contents).digest())
    return "sha256=" + digest.rstrip(b"=").decode()
