"""``README.txt`` of an archive: what to do with it, for somebody who has nothing else. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from ca_hpc.store.archive import IMAGES, MANIFEST, WHEELS

_TEXT: Final = """\
{name} is a run of ca-hpc {version}, a program that trains nnU-Net on clusters.
This is what is needed to run it again without internet{missing}.
{manifest} has the sha256 of every file.

{host}
  ca-hpc rerun ARCHIVE --cluster CLUSTER{data} --dry-run     # what would differ?
  ca-hpc rerun ARCHIVE --cluster CLUSTER{data}
  ca-hpc compare ARCHIVE RUN     # when it has ended: the same results?

ARCHIVE  this file
CLUSTER  a file that describes yours, such as the package's own configs/clusters/generic.yaml,
         filled in; or `local`, which is this machine
{folder}RUN      the folder that the rerun has named

It holds code: run it if you would run programs of those who gave it to you.
"""
_INSTALL: Final = """\
  tar -xf ARCHIVE wheels
  python{python} -m venv host     # Python {python}, on {machine}
  . host/bin/activate
  pip install --no-index wheels/*.whl"""
_INSTALLED: Final = "With ca-hpc {version} installed:"
_FOLDER: Final = """\
FOLDER   the images and labels that it was trained on, under any names: they are known by content
"""


def readme(name: str, *, version: str, python: str, machine: str, left_out: Collection[str]) -> str:
    """The text. ``python`` (3.11) and ``machine`` (x86_64) are those that the wheels are for.

    ``left_out``: the parts that are not in the archive.
    """
    data = IMAGES in left_out
    host = _INSTALLED if WHEELS in left_out else _INSTALL
    return _TEXT.format(
        name=name,
        version=version,
        missing=f", but for: {in_words(left_out)}" if left_out else "",
        manifest=MANIFEST,
        host=host.format(python=python, machine=machine, version=version),
        data=" --data FOLDER" * data,
        folder=_FOLDER * data,
    )


def in_words(parts: Iterable[str]) -> str:
    """Parts of an archive, as people call them."""
    return ", ".join("images and labels" if part == IMAGES else part for part in parts)
