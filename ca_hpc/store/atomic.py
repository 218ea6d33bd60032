"""Writing a file so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_text(path: Path, text: str, *, mode: int | None = None) -> None:
    """Replace ``path`` by ``text`` (UTF-8) in one step; permissions: ``mode``, else by the umask.

    Raises OSError, and then leaves ``path`` as it was.
    """
    # beside the target, since a rename is atomic within one file system only; a name of its
    # own, since on a shared file system two hosts can have the same process id
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with part.open("x", encoding="utf-8") as stream:
            stream.write(text)
            if mode is not None:
                os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
