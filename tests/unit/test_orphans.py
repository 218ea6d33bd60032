"""What is killed takes along what it has started, though it can no longer do anything itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ca_hpc import __version__
from ca_hpc.core import door
from ca_hpc.core.record import Case, Cases, LabelFile, Pins
from ca_hpc.core.spec import JobSpec
from ca_hpc.store.progress import read_events
from ca_hpc.store.run_folder import RunFolder
from tests.waiting import lives, until

SPEC = """\
kind: finetune
name: neck
cluster: local
data: [{type: bids, path: /nowhere, label_suffix: _seg}]
weights: w.pth
splits: {folds: 2}
"""
# A parent whose child says that it is ready, and then waits for ever.
CHILD = "import time\n{call}\nprint('ready', flush=True)\ntime.sleep(600)"
PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)"
)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_process_that_asked_for_it_ends_with_its_parent() -> None:
    call = "from ca_hpc import processes; processes.end_with_parent()"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(child=CHILD.format(call=call))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert lives(child)
    parent.kill()
    parent.communicate()
    until(lambda: not lives(child), what="the child lives on")


def test_a_prepare_that_is_killed_leaves_no_converter_behind(tmp_path: Path) -> None:
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[20] = 1
    file = str(tmp_path / "mask.nii")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), file)
    nib.save(nib.Nifti1Image(mask, np.eye(4)), image := str(tmp_path / "image.nii"))
    label = LabelFile(file)
    cases = [
        Case(f"c{i}", "s1", (image,), (label,), f"{i}", f"{i}", None, "T2w") for i in range(1000)
    ]
    run = RunFolder.create(tmp_path, "neck")
    run.write_spec("spec.json", door.read(JobSpec, SPEC, file="job.yaml"))
    run.write("cases.json", Cases("Dataset501_neck", {"cord": 1}, tuple(cases)))
    run.write("pins.json", Pins(__version__, token="t", created="2026", weights=None))
    _, attempt = run.new_attempt("prepare", job="local", restart=0)
    argv = (sys.executable, "-I", "-m", "ca_hpc.steps.prepare", "--run", str(run.path))
    step = subprocess.Popen((*argv, "--attempt", str(attempt), "--cpus", "2"))
    # some way into the work, so that both have begun
    until(lambda: len(read_events(attempt)) > 20, what="nothing was converted")
    converters = children(step.pid)
    assert len(converters) == 2
    step.send_signal(signal.SIGTERM)
    step.wait()
    until(lambda: not any(map(lives, converters)), what="converters live on")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_check_that_is_killed_leaves_no_reader_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    # ca-hpc handles SIGTERM: workers that inherit this would outlive it
    image = np.random.default_rng(1).integers(0, 1000, (128, 128, 128), np.int16)
    mask = np.zeros(image.shape, np.uint8)
    mask[20] = 1
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "image.nii")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "mask.nii")
    rows = ["image,label,subject"]
    for i in range(400):
        for name in ("image", "mask"):
            (tmp_path / f"{name}{i}.nii").symlink_to(f"{name}.nii")
        rows.append(f"image{i}.nii,mask{i}.nii,p{i}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    (tmp_path / "job.yaml").write_text(
        "kind: train\nname: neck\ncluster: local\ndata: [{type: pairs, path: pairs.csv}]\n"
    )
    (tmp_path / "tmp").mkdir()
    check = subprocess.Popen(
        (sys.executable, "-m", "ca_hpc", "data", "check", "job.yaml", "--workers", "2"),
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    try:
        # both are at work: each has a folder in the one that the check has made
        until(
            lambda: len(list((tmp_path / "tmp").glob("ca-hpc-check-*/*"))) > 1,
            what="nothing was read",
        )
        readers = children(check.pid)
        assert len(readers) == 2
    finally:
        check.send_signal(number)
        check.wait()
    until(lambda: not any(map(lives, readers)), what="readers live on")
    assert len(list((tmp_path / "tmp").iterdir())) <= 1
