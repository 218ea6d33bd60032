"""Before a task is started: whether what the run is made of is still what it was."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from ca_hpc.errors import DigestMismatch
from ca_hpc.store.digests import DigestCache
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, read_seals, refuse_changed, refuse_other
from ca_hpc.worker.staging import Staged

# Stages whose work goes into trainings and predictions. What is made of these later must not fail
# for a source file that has changed since.
SEALED: Final = frozenset({"prepare", "preprocess", "train", "predict"})


def refuse_changes(run: RunFolder, stage: str, staged: Staged) -> None:
    """Compare image, weights, source files, trainers, splits and plans with what was recorded.

    What is gone is not refused: who needs it says so, and a training that goes on does not need its
    weights any more. Raises DigestMismatch with both digests, CaHpcError where there is no image.
    """
    _refuse_other_image(run, staged)
    if stage not in SEALED:
        return
    cache = DigestCache(run.digests)
    try:
        weights = run.pins.weights
        if weights is not None:
            with contextlib.suppress(FileNotFoundError):  # in the image, too
                refuse_other(Path(weights.path), weights.sha256, what="weights", cache=cache)
        seals = read_seals(run.data_seals)
        gone = refuse_changed(seals, what="source file", folder=run.path, cache=cache)
        if gone:
            print(f"ca-hpc: {len(gone)} source files are gone, first {gone[0]}", flush=True)
        # of the data set, then of what was planned for it
        planned = run.preprocessed.glob(f"*/{SEALS}")
        for file in (run.trainers / SEALS, run.file(SEALS), *planned):
            refuse_changed(read_seals(file), what="file", folder=file.parent, cache=cache)
    finally:
        cache.save()


def _refuse_other_image(run: RunFolder, staged: Staged) -> None:
    pin = run.workflow.runtime.image
    if pin is None:
        return
    if staged.image_sha256 is None:
        from ca_hpc.images.record import verify_image

        verify_image(Path(pin.path), pin.sha256, cache=run.digests)
    elif staged.image_sha256 != pin.sha256:  # of the bytes as they were copied
        raise DigestMismatch(
            f"image {pin.path} is sha256:{staged.image_sha256}, recorded is sha256:{pin.sha256}",
            hint="put the recorded image back, or submit the job again with this one",
        )
