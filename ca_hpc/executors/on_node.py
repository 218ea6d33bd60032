"""The start of a job: give it its pickle under the name that submitit looks for, then go on there.

``python -m ca_hpc.executors.on_node SUBMISSION LOGS``. submitit itself renames its pickles once
sbatch has told it the job's id. When the submitting process dies in between, the job waits a
minute and fails; here nothing is missing from the start.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from submitit.core.submission import process_job
from submitit.core.utils import JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment


def main() -> None:
    """Raises what the call raises, as submitit does."""
    submission, logs = map(Path, sys.argv[1:])
    job = SlurmJobEnvironment()
    wanted = JobPaths(logs, job_id=job.job_id).submitted_pickle
    with contextlib.suppress(FileExistsError):  # queued again
        wanted.symlink_to(submission / f"{job.array_task_id or 0}.pkl")
    process_job(logs)


if __name__ == "__main__":
    main()
