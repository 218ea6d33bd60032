"""Keep one process company: pass SIGTERM on, wait, leave nobody behind.

Signals are taken one by one with ``sigwait`` and never by a handler: none can be lost before there
is somebody to pass it to, and none can reach a process id that already belongs to another.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ca_hpc import processes
from ca_hpc.errors import CaHpcError

# TERM is passed on. The others are for the worker (USR2: SLURM's warning) or a terminal, and are
# left pending.
HELD: Final = (
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# A signal that comes while a container is set up can be lost (once in 120 such signals): its first
# process has no handlers yet, and the kernel gives it no other signal (pid_namespaces(7)).
STARTS_S: Final = 10.0
AGAIN_S: Final = 1.0


def hold_signals() -> None:
    """Hold signals back for :func:`attend`; what is started from here gets its own (no mask)."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, no child can be awaited
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def attend(
    child: int,
    *,
    noticed: Callable[[int, int], None] = lambda pid, status: None,
    starts_s: float = 0,
) -> int:
    """Wait for a child and pass SIGTERM on to it. Returns its status, negative for a signal.

    ``noticed`` is told the pid and the status of every other child that ends meanwhile.
    For the first ``starts_s`` seconds the child may lose a signal, so it gets it again and again.
    """
    started = time.monotonic()
    asked = False
    while True:
        starting = time.monotonic() - started < starts_s
        if _next_signal(timeout_s=AGAIN_S if asked and starting else None) != signal.SIGCHLD:
            asked = True
            os.kill(child, signal.SIGTERM)
            continue
        for pid, status in _ended():
            if pid == child:
                return status
            noticed(pid, status)


def keep(argv: Sequence[str]) -> int:
    """Run ``argv`` to its end. Returns its status as a shell's. For the keeper.

    When the guard dies the keeper gets SIGTERM and passes it on, and ``argv`` can still save: the
    image's server lives as long as somebody uses the image.
    """
    try:
        payload = processes.start(argv)
    except CaHpcError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return int(error.exit_code)
    return as_shell(attend(payload.pid, starts_s=STARTS_S))


def end_orphans(number: signal.Signals, *, spare: int | None) -> None:
    """Send a signal to what a keeper has left behind, and wait until all of it has ended.

    These are our children by now (:func:`ca_hpc.processes.adopt_orphans`), like ``spare``.
    """
    while left := set(processes.children()) - {spare}:
        for pid in left:
            os.kill(pid, number)
        os.waitpid(-1, 0)  # then the next, and whom that one has left


def as_shell(status: int) -> int:
    """128 + n for a process that signal n ended."""
    return status if status >= 0 else 128 - status


def _next_signal(*, timeout_s: float | None) -> int | None:
    """SIGTERM, SIGCHLD, or None when neither came in time."""
    awaited = (signal.SIGTERM, signal.SIGCHLD)
    if timeout_s is None:
        return signal.sigwait(awaited)
    found = signal.sigtimedwait(awaited, timeout_s)
    return None if found is None else found.si_signo


def _ended() -> Iterator[tuple[int, int]]:
    """Pids and statuses of the children that have ended, reaped one by one; SIGCHLDs may merge."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended[0], os.waitstatus_to_exitcode(ended[1])
