"""Where the tests keep what they set up: outside the checkout, open to the ordinary user."""

from __future__ import annotations

import os
from pathlib import Path

from tests.lab.machine import LabError

VARIABLE = "CA_HPC_TEST_ROOT"
# Further clusters' folders lie beside the first one's and end in these.
SECOND, SPARE, OFFLINE = "-cgroup", "-spare", "-offline"
CHECKOUT = Path(__file__).resolve().parents[2]
LOGS = CHECKOUT / "build/test-logs"


def cache_root() -> Path:
    """The folder that ``CA_HPC_TEST_ROOT`` names, made if need be; it is a cache between runs."""
    root = Path(os.environ.get(VARIABLE) or f"/var/tmp/ca-hpc-test-{os.getuid()}")
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        # /var/tmp is everybody's: a folder that somebody else has put there is not to be trusted
        raise LabError(f"{root} belongs to another user; name a folder of yours in {VARIABLE}")
    root.chmod(0o755)
    return root
