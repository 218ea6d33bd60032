"""Errors that a user reads: what is wrong, where, and the next move.

Exit codes are part of the command line's contract (README, "Exit codes").
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees. Values never change: scripts depend on them."""

    OK = 0
    TASK_FAILED = 1
    USAGE = 2
    DIGEST_MISMATCH = 3
    SCHEDULER_UNREACHABLE = 4
    PARTLY_DONE = 5
    INTERRUPTED = 130


class CaHpcError(Exception):
    """A problem that the user can act on.

    ``message`` names the thing and the place, ``hint`` the next move.
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(
        self, message: str, *, hint: str | None = None, exit_code: ExitCode | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class SpecError(CaHpcError):
    """The job spec or a profile is wrong. ``message`` may list several problems, one per line."""


class TaskFailed(CaHpcError):
    """A task ran and did not succeed."""

    exit_code = ExitCode.TASK_FAILED


class DigestMismatch(CaHpcError):
    """A file is not the one that was recorded."""

    exit_code = ExitCode.DIGEST_MISMATCH


class SchedulerUnreachable(CaHpcError):
    """The scheduler's commands are missing, refuse or do not answer."""

    exit_code = ExitCode.SCHEDULER_UNREACHABLE
