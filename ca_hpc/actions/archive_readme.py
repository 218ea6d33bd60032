"""``README.txt`` of an archive: what to do with it, for somebody who has nothing else. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from ca_hpc.store.archive import IMAGES, MANIFEST, WEIGHTS, WHEELS

_TEXT: Final = """\
{name} is a run of ca-hpc {version}, a program that trains nnU-Net on clusters.
This is what is needed to run it again without internet{missing}.
It was trained and tested on {images} images of {people} people.
{manifest} has the sha256 of every file. No folder is around them: unpack in a new one.

Needed: Linux, {needed}, and {size} of disk for what is unpacked, besides the run.

{host}
  ca-hpc rerun ARCHIVE --cluster CLUSTER{options} --dry-run     # what would differ?
  ca-hpc rerun ARCHIVE --cluster CLUSTER{options}
  ca-hpc compare ARCHIVE RUN     # when it has ended: the same results?

ARCHIVE  this file
{cluster}
{legend}RUN      the folder that the rerun has named

It holds code: run it if you would run programs of those who gave it to you.
"""
_INSTALL: Final = """\
  tar -xf ARCHIVE wheels
  python{python} -m venv host     # Python {python}, on {machine}
  . host/bin/activate
  pip install --no-index wheels/*.whl"""
_INSTALLED: Final = "With ca-hpc {version} installed:"
_PROFILE: Final = """\
CLUSTER  a file that describes yours. here.yaml, for this machine without SLURM:
           name: here
           executor: local
           runtime: apptainer
         with a GPU also:
           node: {{gpus: 1}}
           gpu: card
           gpus: {{card: {{flag: "--gpus={{count}}", cpus: 8, ram: 32GB}}}}
         for a SLURM cluster: a copy of generic.yaml, filled in, which is in the folder that
           python -c "from ca_hpc.store.shipped import shipped; print(shipped('configs/clusters'))"
         shows"""
_BARE: Final = """\
CLUSTER  local, which is this machine; or a file with `runtime: none` that describes yours"""
#: for what is not in the archive: the option that names it, and what it stands for
_ELSEWHERE: Final = {
    IMAGES: (
        "--data FOLDER",
        "the images and labels that it was trained on, under any names: they are known by content",
    ),
    WEIGHTS: ("--weights FILE", "the weights; not needed where `ca-hpc weights list` has them"),
    "image": ("--image IMAGE", "the image; not needed where `ca-hpc image list` has it"),
}


def readme(
    name: str,
    *,
    version: str,
    python: str,
    machine: str,
    imaged: bool,
    images: int,
    people: int,
    size_bytes: int,
    left_out: Collection[str],
) -> str:
    """The text. ``python`` (3.11) and ``machine`` (x86_64) are those that the wheels are for.

    ``imaged``: whether tasks ran in an image. ``images`` of so many ``people`` were used.
    ``size_bytes``: of all members. ``left_out``: the parts that are not in the archive.
    """
    given = [_ELSEWHERE[part] for part in left_out if part in _ELSEWHERE]
    host = _INSTALLED if WHEELS in left_out else _INSTALL
    cluster = _PROFILE if imaged else _BARE
    tasks = "Apptainer 1.3 or later" if imaged else "nnU-Net as the run had it (run.json says)"
    return _TEXT.format(
        name=name,
        version=version,
        missing=f", but for: {in_words(left_out)}" if left_out else "",
        images=images,
        people=people,
        manifest=MANIFEST,
        needed=f"Python {python}, {tasks}",
        size=f"{max(size_bytes, 1_000_000) / 1e6:.0f} MB",
        host=host.format(python=python, machine=machine, version=version),
        cluster=cluster.format(),
        options="".join(f" {option}" for option, _ in given),
        legend="".join(f"{option.split()[1]:<9}{meaning}\n" for option, meaning in given),
    )


def in_words(parts: Iterable[str]) -> str:
    """Parts of an archive, as people call them."""
    return ", ".join("images and labels" if part == IMAGES else part for part in parts)
