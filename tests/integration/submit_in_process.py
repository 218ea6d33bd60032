"""Run by the host's Python, as the ordinary user: a submission that is killed, and the next one.

``submit_in_process.py JOB before N``: killed right before its change number N to the file system,
programs counted; ``after N``: by the sbatch on PATH, once that has submitted stage N. Both in forks
of this process, which has everything imported: a start of Python costs more than a submission.
Prints ``{"point": …}``, what it was about to do; null if it made fewer changes, and ended.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from datetime import datetime, timezone
from pathlib import Path

from kills import killed  # a copy beside this file

from ca_hpc.actions import prepare
from ca_hpc.actions.submit import submit
from ca_hpc.cli import private_umask


def call() -> None:
    """``ca-hpc submit``. The controller answers: nothing can come late, and no pause is needed."""
    host = prepare.Host.here()
    job = prepare.read_job(Path(sys.argv[1]), host=host)
    submit(
        job,
        host=host,
        token=secrets.token_hex(4),
        now=datetime.now(timezone.utc),
        warn=lambda text: None,
        sleep=lambda seconds: None,
    )


def main() -> None:
    private_umask()
    number = int(sys.argv[3])
    if sys.argv[2] == "before":
        point = killed(call, change=number)
    else:
        process = os.fork()
        if not process:
            call()
            os._exit(0)
        _, status = os.waitpid(process, 0)
        point = "killed" if os.WIFSIGNALED(status) else "ended"
    if point is not None:
        call()
    print(json.dumps({"point": point}))


if __name__ == "__main__":
    main()
