"""What the worker finds on the node. Enters as a value, so that tests can give another."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Node:
    """One job's place: its environment, the host, the time of day."""

    environment: Mapping[str, str]
    host: str
    now: Callable[[], datetime]

    @classmethod
    def here(cls) -> Node:
        """The node that this process runs on."""
        return cls(dict(os.environ), socket.gethostname(), lambda: datetime.now(timezone.utc))

    @property
    def job(self) -> str:
        """``101_0``, ``101``, or ``local`` outside SLURM."""
        array = self.environment.get("SLURM_ARRAY_JOB_ID")
        if array:
            return f"{array}_{self.environment['SLURM_ARRAY_TASK_ID']}"
        return self.environment.get("SLURM_JOB_ID", "local")

    @property
    def restart(self) -> int:
        """How often SLURM has queued this job again."""
        return int(self.environment.get("SLURM_RESTART_COUNT", "0"))

    @property
    def name(self) -> str:
        """SLURM's name of the node, else the host's."""
        return self.environment.get("SLURMD_NODENAME", self.host)

    @property
    def gpus(self) -> tuple[str, ...]:
        """The allocation's GPUs as CUDA numbers or ids them."""
        return tuple(filter(None, self.environment.get("CUDA_VISIBLE_DEVICES", "").split(",")))

    @property
    def ends_at_s(self) -> int | None:
        """Unix seconds at which SLURM ends the job; None where it does not say (before 22.05)."""
        told = self.environment.get("SLURM_JOB_END_TIME", "")
        return int(told) if told.isdigit() else None

    def folder(self, pattern: str | None) -> Path | None:
        """The profile's node-local folder with the job's variables filled in, if it exists."""
        if pattern is None:
            return None
        filled = "/".join(
            self.environment.get(word[1:], "") if word.startswith("$") else word
            for word in pattern.split("/")
        )
        return Path(filled) if filled and Path(filled).is_dir() else None
