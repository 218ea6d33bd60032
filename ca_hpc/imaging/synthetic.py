"""A synthetic spinal cord data set in BIDS: enough like MRI to train on in seconds.

``python -m ca_hpc.imaging.synthetic FOLDER --people 12 --seed 1``
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from ca_hpc.errors import CaHpcError
from ca_hpc.imaging.anatomy import Anatomy
from ca_hpc.imaging.phantom import CONTRASTS, phantom


@dataclass(frozen=True)
class Scan:
    """One image of the data set: ``person`` and ``session`` are BIDS labels, without prefix."""

    person: str
    session: str | None
    contrast: str
    orientation: str

    @property
    def folder(self) -> Path:
        """``sub-XX/[ses-YY/]anat``, under the data set or under ``derivatives/labels``."""
        session = () if self.session is None else (f"ses-{self.session}",)
        return Path(f"sub-{self.person}", *session, "anat")

    @property
    def stem(self) -> str:
        """``sub-XX[_ses-YY]_CONTRAST``."""
        session = () if self.session is None else (f"ses-{self.session}",)
        return "_".join((f"sub-{self.person}", *session, self.contrast))

    @property
    def image(self) -> Path:
        return self.folder / f"{self.stem}.nii.gz"

    @property
    def label(self) -> Path:
        return "derivatives/labels" / self.folder / f"{self.stem}_label-SC_seg.nii.gz"


def scans_of(index: int, *, contrasts: tuple[str, ...]) -> tuple[Scan, ...]:
    """What person ``index`` (from 0) has: contrasts in turn, every third person two of them,
    every fifth (sub-03, sub-08, ...) in two sessions."""
    shown = [_in_turn(contrasts, index)]
    if index % 3 == 0:
        shown.append(_in_turn(contrasts, index + 1 + index // 3))
    sessions = ("01", "02") if index % 5 == 2 else (None,)
    return tuple(
        Scan(
            person=f"{index + 1:02d}",
            session=session,
            contrast=contrast,
            orientation=_in_turn(CONTRASTS[contrast].orientations, index // 2 + visit),
        )
        for visit, session in enumerate(sessions)
        for contrast in dict.fromkeys(shown)
    )


def _in_turn(choices: tuple[str, ...], number: int) -> str:
    return choices[number % len(choices)]


def write_dataset(
    folder: Path,
    *,
    people: int,
    seed: int,
    contrasts: tuple[str, ...] = tuple(CONTRASTS),
) -> tuple[Scan, ...]:
    """Write a BIDS data set of ``people`` phantoms to ``folder`` and return its scans.

    The same arguments give the same bytes. The folder appears whole or not at all. Raises
    CaHpcError if it exists and is not empty, or for an unknown contrast.
    """
    unknown = sorted(set(contrasts) - set(CONTRASTS))
    if unknown or not contrasts or people < 1:
        raise CaHpcError(
            f"cannot make {people} phantoms with the contrasts {list(contrasts)}",
            hint=f"at least one person, and one or more of {', '.join(CONTRASTS)}",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CaHpcError(f"{folder} is not empty", hint="name a new folder")
    partial = _empty_folder(folder.with_name(f".{folder.name}.partial"))
    scans = tuple(
        scan
        for index in range(people)
        for scan in _write_person(partial, index, seed=seed, contrasts=contrasts)
    )
    _write_description(partial, people=people, seed=seed)
    partial.replace(folder)
    return scans


def _empty_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise CaHpcError(
            f"cannot write in {path.parent}: {error.strerror}", hint="name a writable folder"
        ) from error
    return path


def _write_person(
    folder: Path, index: int, *, seed: int, contrasts: tuple[str, ...]
) -> tuple[Scan, ...]:
    anatomy = Anatomy.draw(np.random.default_rng([seed, index]))
    scans = scans_of(index, contrasts=contrasts)
    for number, scan in enumerate(scans):
        rng = np.random.default_rng([seed, index, number + 1])
        # nobody lies twice in the same way
        lying = replace(anatomy, lordosis=anatomy.lordosis + rng.uniform(-1, 1))
        contrast = CONTRASTS[scan.contrast]
        pair = phantom(lying, contrast, rng=rng, orientation=scan.orientation)
        for volume, path in zip(pair, (scan.image, scan.label), strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            nib.save(volume, folder / path)  # nibabel's gzip header holds neither time nor name
    return scans


def _write_description(folder: Path, *, people: int, seed: int) -> None:
    """The files that make a folder a BIDS data set, and its labels a BIDS derivative."""
    command = f"python -m ca_hpc.imaging.synthetic FOLDER --people {people} --seed {seed}"
    raw = {"Name": "Synthetic spinal cord phantoms", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    labels = {
        **raw,
        "Name": "Spinal cord labels of the synthetic phantoms",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "ca_hpc.imaging.synthetic", "Description": command}],
    }
    _write_json(folder / "dataset_description.json", raw)
    _write_json(folder / "derivatives/labels/dataset_description.json", labels)
    (folder / "README").write_text(f"Computed phantoms, no real person. Made by\n{command}\n")
    rows = ["participant_id", *(f"sub-{index + 1:02d}" for index in range(people))]
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ca_hpc.imaging.synthetic", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    try:
        scans = write_dataset(arguments.folder, people=arguments.people, seed=arguments.seed)
    except CaHpcError as error:
        parser.exit(error.exit_code, f"{error.message}\n{error.hint}\n")
    print(f"{len(scans)} images of {arguments.people} people in {arguments.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
