"""``python -m ca_hpc.worker RUN ELEMENT [SUBMISSION]``: one element without SLURM."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ca_hpc import processes
from ca_hpc.errors import CaHpcError, ExitCode, TaskFailed
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.execution import Execution, lost
from ca_hpc.worker.node import Node
from ca_hpc.worker.running import Stop


def main() -> None:
    try:
        run = RunFolder.open(Path(sys.argv[1]))
        submission = run.submission(int(sys.argv[3])) if len(sys.argv) > 3 else None
        execution = Execution(run, Node.here(), submission=submission)
        signal.signal(signal.SIGTERM, lambda number, frame: execution.stop(Stop.ENDING))
        processes.end_with_parent()  # a scheduler that was killed can stop nobody any more
        outcomes = execution.run(sys.argv[2])
        if missing := lost(execution.wanted(sys.argv[2]), outcomes):
            raise TaskFailed(missing)
    except CaHpcError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(int(error.exit_code))
    sys.exit(int(ExitCode.OK))


if __name__ == "__main__":
    main()
