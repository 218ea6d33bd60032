"""One fold, from wherever earlier attempts left it to its validation scores.

Importing this module imports neither torch nor nnU-Net: the environment that they read is set
first, and a signal that comes while they load is not lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from ca_hpc.nnunet.calls import FoldCall, FoldOutcome
from ca_hpc.nnunet.folders import set_folders
from ca_hpc.nnunet.interruption import StopRequest
from ca_hpc.nnunet.uncollected import uncollected


def train_fold(
    call: FoldCall, *, emit: Callable[[Mapping[str, object]], None], clock: Callable[[], float]
) -> FoldOutcome:
    """Train and validate one fold, going on from earlier attempts.

    ``emit`` takes JSON-able events; ``clock`` returns seconds. SIGTERM, SIGUSR2 and the job's end
    coming near end the call early with ``finished=False``, everything saved. Raises CaHpcError
    where files or settings do not fit. Sets nnU-Net's environment variables and torch's thread
    count for this process.
    """
    with StopRequest() as stop:
        _set_environment(call)
        with uncollected():
            from ca_hpc.nnunet.continuation import go_on

        return go_on(call, emit=emit, clock=clock, stop=stop)


def _set_environment(call: FoldCall) -> None:
    """nnU-Net reads some of these when it is imported, so this comes first."""
    set_folders(
        raw=call.preprocessed_root,  # never read in training
        preprocessed=call.preprocessed_root,
        results=call.attempt_folder / "results",
    )
    os.environ.update(
        nnUNet_n_proc_DA="0",  # the loaders' processes are ours
        nnUNet_def_n_proc="1",
    )
