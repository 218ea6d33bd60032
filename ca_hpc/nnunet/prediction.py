"""Test sets predicted by all folds of a model together, from wherever earlier attempts left it.

Importing this module imports neither torch nor nnU-Net: the environment that they read is set
first, and a signal that comes while they load is not lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from ca_hpc.nnunet.calls import PredictionCall
from ca_hpc.nnunet.folders import set_folders
from ca_hpc.nnunet.interruption import StopRequest
from ca_hpc.nnunet.pace import Pace
from ca_hpc.nnunet.uncollected import uncollected


def predict_test_sets(
    call: PredictionCall,
    *,
    emit: Callable[[Mapping[str, object]], None],
    clock: Callable[[], float],
) -> bool:
    """Predict what is not there yet; False where a signal or the job's end cut it short.

    The signals are SIGTERM and SIGUSR2. What nnU-Net's own prediction with these folds gives.
    Predictions by other weights or of another tiling are made again. ``emit`` takes JSON-able
    events; ``clock`` returns seconds. Raises CaHpcError where files do not fit. Sets nnU-Net's
    environment variables and torch's thread count for this process.
    """
    with StopRequest() as stop:
        _set_environment(call)
        with uncollected():
            from ca_hpc.nnunet.ensemble import predict

        pace = Pace(clock=clock, ends_at_s=call.ends_at_s, stop=stop)
        return predict(call, emit=emit, pace=pace)


def _set_environment(call: PredictionCall) -> None:
    """nnU-Net reads some of these when it is imported, so this comes first."""
    set_folders(
        raw=call.raw_folder.parent,
        preprocessed=call.output_folder,  # neither read nor written
        results=call.output_folder,
    )
    # the predictor takes no more threads than this
    os.environ.update(nnUNet_def_n_proc=str(call.torch_threads))
