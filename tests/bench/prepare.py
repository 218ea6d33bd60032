"""Conversion beside plainly loading and saving the same files with nibabel; and how it grows.

With ``CA_HPC_SHARED_DATA`` (or the folder beside the checkout) real pairs are measured, too.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ca_hpc.core.data_spec import Folds, Label
from ca_hpc.core.record import Case
from ca_hpc.imaging.conversion import Conversion
from ca_hpc.imaging.convert import convert_case
from ca_hpc.store.run_folder import RunFolder
from tests.bench.pairs import seconds
from tests.lab.places import CHECKOUT
from tests.prepare_runs import case, mask, pair, run_of, save

CORD = Conversion({"cord": Label(1)}, {"cord": (1,)})
ROUNDS = 7
MANY = 1000
# voxels
SMALL = (96, 96, 24)
LARGE = (384, 384, 96)


def measure(folder: Path) -> None:
    here = folder / "prepare"
    here.mkdir()
    for name, one in (*_made(here / "made"), *_real()):
        _cpu(name, one, here)
    _memory(here)
    _growth(here)


# --- one pair ------------------------------------------------------------------------------------


def _made(folder: Path) -> Iterator[tuple[str, Case]]:
    """Smooth images with noise, as scanners make them, in what types and orders are met with."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    shape = (320, 320, 48)
    ramp = np.add.outer(np.add.outer(np.arange(320.0), np.arange(320.0)), np.zeros(48))
    voxels = ramp + rng.normal(scale=20, size=shape)
    label = save(mask(shape=shape), folder / "seg.nii.gz", np.diag([0.5, 0.5, 3, 1]))
    for dtype, scale in (("int16", 1.0), ("int16", 0.37), ("float32", 1.0), ("float64", 1.0)):
        image = nib.Nifti1Image(voxels.astype(dtype), np.diag([0.5, 0.5, 3, 1]))
        image.header.set_slope_inter(scale, 0)
        nib.save(image, file := folder / f"{dtype}-{scale}.nii.gz")
        yield f"{dtype}, slope {scale:g}", case("c", [str(file)], label)
    turned = nib.orientations.axcodes2ornt(("P", "S", "R"))  # AIL to SCT
    files = []
    for source in (folder / "int16-1.0.nii.gz", folder / "seg.nii.gz"):
        nib.save(nib.load(source).as_reoriented(turned), file := folder / f"ail-{source.name}")
        files.append(str(file))
    yield "int16, stored in AIL", case("c", files[:1], files[1])


def _real() -> Iterator[tuple[str, Case]]:
    shared = Path(os.environ.get("CA_HPC_SHARED_DATA") or CHECKOUT.parent / "shared/data")
    for image in sorted((shared / "gm-challenge").glob("sub-*/anat/*.nii.gz"))[:4]:
        labels = shared / "gm-challenge/derivatives/labels" / image.parent.parent.name / "anat"
        label = labels / image.name.replace(".nii.gz", "_seg-manual.nii.gz")
        yield f"real, {image.parent.parent.name}", case("c", [str(image)], str(label))


def _ours(one: Case, folder: Path) -> None:
    convert_case(one, CORD, images=folder, labels=folder)


def _plainly(one: Case, folder: Path) -> None:
    for file in one.files:
        nib.save(nib.load(file), folder / "plainly.nii.gz")


def _cpu(name: str, one: Case, folder: Path) -> None:
    """CPU seconds of this process, one after the other in turn."""

    def spent(work: Callable[[Case, Path], None]) -> float:
        began = time.process_time()
        work(one, folder)
        return time.process_time() - began

    spent(_ours), spent(_plainly)  # warm caches; not counted
    times = [(spent(_ours), spent(_plainly)) for _ in range(ROUNDS)]
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    print(
        f"a pair ({name}): {mine:.3f} CPU s, load and save with nibabel {other:.3f}; "
        f"ratio {ratio:.2f} (medians of {ROUNDS} interleaved pairs)",
        flush=True,
    )


# --- memory --------------------------------------------------------------------------------------

# VmHWM, since getrusage's maximum is handed on by whoever started the process
PEAK = """
import re, sys
from pathlib import Path
from tests.bench import prepare
from ca_hpc.core.codec import decode
from ca_hpc.core.record import Case
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
getattr(prepare, sys.argv[1])(decode(Case, sys.argv[2]), Path(sys.argv[3]))
print(peak() - before)
"""


def _memory(folder: Path) -> None:
    """What a process needs at most, beyond what it needs for its imports."""
    from ca_hpc.core.codec import encode

    for dtype in ("int16", "float32", "float64"):
        voxels = np.random.default_rng(1).normal(size=LARGE).astype("float32") * 1000
        file = save(voxels.astype(dtype), folder / f"large-{dtype}.nii")
        one = case("c", [file], save(mask(shape=LARGE), folder / "large-seg.nii"))
        size = Path(file).stat().st_size / 2**20

        def peak(work: str, one: Case = one) -> float:
            argv = (sys.executable, "-c", PEAK, work, encode(one), str(folder))
            done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=CHECKOUT)
            return int(done.stdout) / 2**10

        print(
            f"peak memory, {dtype} image of {size:.0f} MiB: {peak('_ours'):.0f} MiB, "
            f"load and save with nibabel {peak('_plainly'):.0f} MiB",
            flush=True,
        )


# --- many ----------------------------------------------------------------------------------------


def _growth(folder: Path) -> None:
    """The two tasks as processes of their own, two workers; twice as many; and nothing to do."""
    cases = [pair(folder / "many", f"sub-{n}", seed=n, shape=SMALL) for n in range(2 * MANY)]
    rounds = [_round(folder / f"round{number}", cases) for number in range(3)]
    once, twice, again, after = (statistics.median(of) for of in zip(*rounds, strict=True))
    ratio = statistics.median(two / one for one, two, _, _ in rounds)
    print(
        f"{MANY} pairs with 2 workers: {once:.1f} s; {2 * MANY}: {twice:.1f} s; ratio {ratio:.2f}\n"
        f"nothing to do: {again:.2f} s ({100 * again / once:.1f} %) before assembling, "
        f"{after:.2f} s ({100 * after / once:.1f} %) after it (medians of 3 rounds)",
        flush=True,
    )


def _round(folder: Path, cases: Sequence[Case]) -> tuple[float, float, float, float]:
    folder.mkdir()
    one, two = (
        run_of(folder / str(len(some)), some, splits=Folds(5)) for some in (cases[:MANY], cases)
    )
    once = seconds(lambda: _task(one, "prepare"))
    again = seconds(lambda: _task(one, "prepare"))
    once += seconds(lambda: _task(one, "assemble"))
    twice = seconds(lambda: (_task(two, "prepare"), _task(two, "assemble")))
    after = seconds(lambda: (_task(one, "prepare"), _task(one, "assemble")))
    shutil.rmtree(folder)
    return once, twice, again, after


def _task(run: RunFolder, task: str) -> Any:
    _, attempt = run.new_attempt(task, job="local", restart=0)
    argv = (sys.executable, "-m", f"ca_hpc.steps.{task}", "--run", str(run.path))
    subprocess.run(
        (*argv, "--attempt", str(attempt), "--cpus", "2"), check=True, stdout=subprocess.DEVNULL
    )
