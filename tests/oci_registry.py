"""A registry of Debian's (package docker-registry) on loopback, an ordinary process of the test."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ca_hpc import processes
from tests.waiting import until

PROGRAM = "docker-registry"
# htpasswd -nbB lab s3cret, at the least cost
LOGIN = "lab:$2b$04$qaL1bvzIrk30ymo402hVCuNi4/PTrotw5aQz1VAI3s5J.Wicdbbr6"
USER, PASSWORD = "lab", "s3cret"


@dataclass(frozen=True)
class Registry:
    """``host`` is 127.0.0.1 and a port that was free."""

    host: str
    folder: Path

    @property
    def log(self) -> str:
        """What it has told so far, a line per request."""
        return (self.folder / "log").read_text(errors="replace")

    def pulls(self, sha256: str) -> list[int]:
        """The statuses of the answers to those who asked for a blob: 200, and 206 for the rest."""
        asked = rf'"GET /v2/[^ ]+/blobs/sha256:{sha256} HTTP/1\.1" (\d+)'
        return [int(status) for status in re.findall(asked, self.log)]

    def blob(self, sha256: str) -> Path:
        """The file that it keeps a blob in."""
        blobs = self.folder / "blobs/docker/registry/v2/blobs/sha256"
        return blobs / sha256[:2] / sha256 / "data"


@contextmanager
def serving(folder: Path, *, private: bool = False) -> Iterator[Registry]:
    """A registry that keeps all in ``folder``; ``private``: for those who log in."""
    if shutil.which(PROGRAM) is None:
        reason = f"{PROGRAM} is not installed"
        (pytest.fail if os.environ.get("CA_HPC_TEST_REQUIRE_ALL") else pytest.skip)(reason)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(LOGIN)
    auth = f"auth: {{htpasswd: {{realm: lab, path: {folder}/htpasswd}}}}" if private else ""
    (folder / "config.yml").write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/blobs}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "127.0.0.1:0"}}\n{auth}\n'
    )
    log = folder / "log"
    log.touch()
    process = processes.start(
        (PROGRAM, "serve", str(folder / "config.yml")), log=log, end_with_us=signal.SIGKILL
    )
    try:
        until(lambda: "listening on" in log.read_text() or process.poll() is not None,
              what="the registry starts")  # fmt: skip
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        assert found is not None, log.read_text()
        yield Registry(found[1], folder)
    finally:
        process.terminate()
        process.wait()
