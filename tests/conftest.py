"""For all tests: nothing of the caller's cluster or containers reaches them by accident."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Machines are shared and slow at times; a test that is slow once is not wrong.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

CALLERS = ("SLURM_", "SBATCH_", "APPTAINER", "SINGULARITY", "nnUNet_")


@pytest.fixture(scope="session", autouse=True)
def no_cluster_by_accident() -> Iterator[None]:
    """Without the variables of a cluster, and with no configuration that a client could find."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(CALLERS)]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")
        yield


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """What a command sets for its own process, to its end, which is not that of the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    umask = os.umask(0o022)
    os.umask(umask)
    yield
    os.umask(umask)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def demo_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file that fits the model ``demo``."""
    from tests.checkpoints import write_checkpoint

    file = tmp_path_factory.mktemp("weights") / "demo.pth"
    write_checkpoint(file, model="demo")
    return file
