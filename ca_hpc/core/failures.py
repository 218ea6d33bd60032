"""Why an attempt did not complete: its class, one sentence, the next move, the lines that show it.

Pure. What is judged is gathered on the node, or asked of the scheduler; the texts that are looked
for are in ``core/signs.py``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from errno import ENOENT
from pathlib import PurePath
from typing import Final, TypeAlias

from ca_hpc.core.log_lines import (
    MOST_CHARACTERS,
    around,
    cut,
    end,
    first,
    place,
    showing,
    trainer_that_crashed,
    trainer_that_raised,
)
from ca_hpc.core.model import INTERRUPTED_STATUS, TaskState
from ca_hpc.core.rules import Failure
from ca_hpc.core.signs import ENDINGS, ERRNOS, SIGNS, SURVIVED, Found, Sign, look
from ca_hpc.core.states import Row
from ca_hpc.errors import CaHpcError, ExitCode

F, S = Failure, TaskState

#: begins the line of the log that stands for an ``error.json`` that could not be written
TOLD_MARK: Final = "ca-hpc error.json: "
#: what a step exits with that could not even write down why (EX_IOERR of sysexits.h)
UNSAID_STATUS: Final = 74
_LOG: Final = "see its log: ca-hpc logs RUN TASK"
_MEND: Final = (
    "mend {} in your own folder (RUN/trainers has the copy that was used), and submit the job again"
)
_MORE: Final = (
    "more resources.STAGE.memory (on a cluster: ca-hpc retry RUN TASK --memory AMOUNT), or fewer "
    "training.workers"
)

_SIGNALS: Final = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM",
    15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip
# what Apptainer may exit with that a signal meets while it sets up a container
_STARTING: Final = (2, 255)
_RAISED: Final = re.compile(r"[\w.]*(?:Error|Exception)(?:: |$)")
_KILL: Final = 9
_TERM: Final = 15
# Signals that say by themselves what went wrong.
_MEANINGS: Final[Mapping[int, tuple[Failure, str, str]]] = {
    4: (F.CRASH, "it ran into an instruction that this processor does not know (SIGILL)",
        "ask for newer nodes (resources.STAGE.sbatch), or build the image for older ones"),
    6: (F.CRASH, "it aborted (SIGABRT)", _LOG),
    7: (F.CRASH, "a file that it had mapped could not be read or written (SIGBUS): image or data "
        "damaged or gone, or a full disk", _LOG),
    8: (F.CRASH, "it crashed in a computation (SIGFPE)", _LOG),
    11: (F.CRASH, "it crashed (SIGSEGV, segmentation fault)", _LOG),
    24: (F.TIME, "it used up the processor time that the site allows (SIGXCPU)", _LOG),
    25: (F.DISK, "a file became larger than the limit allows (SIGXFSZ, ulimit -f)", _LOG),
}  # fmt: skip
# States of the scheduler that settle it.
_STATES: Final[Mapping[TaskState, tuple[Failure, str, str | None]]] = {
    S.TIMEOUT: (F.TIME, "the job reached its time limit", None),
    S.OUT_OF_MEMORY: (
        F.HOST_MEMORY,
        "SLURM ended the job: it used more memory than it had asked for",
        "more resources.STAGE.memory, or fewer training.workers",
    ),
    S.NODE_FAIL: (F.NODE, "the node failed", None),
    S.PREEMPTED: (F.PREEMPTED, "a job of higher priority took its place", None),
}


@dataclass(frozen=True, slots=True)
class Told:
    """What a step said itself. ``kind``: the exception's class. ``ours``: a ``CaHpcError``.

    ``errno``: of the OSError behind it, if there is one.
    """

    message: str
    hint: str | None = None
    kind: str = ""
    errno: int | None = None
    exit_code: int = 1
    ours: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Told:
        """What ``error`` says."""
        kind = type(error).__name__
        if isinstance(error, CaHpcError):
            code = int(error.exit_code)
            return cls(error.message, error.hint, kind, _errno(error), code, ours=True)
        said = f"{kind}: {error}" if str(error) else kind
        return cls(said, None, kind, _errno(error))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of an attempt that did not complete.

    ``exit_status``: as the task's process left it; a signal is negative or 128 + its number; None:
    it left no result. ``lines``: the end of the task's log, then of its element's, where SLURM
    writes. ``oom_kills``: processes that the kernel killed for want of memory during the attempt,
    None where it does not say. ``asked_to_stop``: the worker had passed on a signal.
    """

    exit_status: int | None = None
    told: Told | None = None
    lines: tuple[str, ...] = ()
    row: Row | None = None
    oom_kills: int | None = None
    asked_to_stop: bool = False

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended it."""
        status = self.exit_status
        if status is None or 0 <= status <= 128:
            return None
        number = -status if status < 0 else status - 128
        return number if number in _SIGNALS else None  # 255 is Apptainer's own


@dataclass(frozen=True, slots=True)
class Verdict:
    """``cause``: one sentence; ``hint``: the next move; ``lines``: those that show it, if any."""

    failure: Failure
    cause: str
    hint: str | None = None
    lines: tuple[str, ...] = ()


# As words of their own; a path may begin with them, as in RUN/trainers
_PLACEHOLDER: Final = re.compile(r"(?<![\w/.-])(RUN|TASK)(?![\w-]|\.\w)")


def addressed(verdict: Verdict, *, run: str | PurePath, task: str) -> Verdict:
    """The verdict with a hint that can be typed as it stands: RUN and TASK are filled in."""
    if verdict.hint is None:
        return verdict
    names = {"RUN": shlex.quote(str(run)), "TASK": shlex.quote(task)}
    return replace(verdict, hint=_PLACEHOLDER.sub(lambda m: names[m[1]], verdict.hint))


Rule: TypeAlias = Callable[[Evidence], Verdict | None]


def diagnose(evidence: Evidence) -> Verdict:
    """The first rule that has an answer decides."""
    verdicts = (rule(evidence) for rule in _RULES)
    return next(verdict for verdict in verdicts if verdict is not None)


def _waits_for_nothing(e: Evidence) -> Verdict | None:
    if e.row is not None and "Dependency" in e.row.reason:
        cause = "the stage before it did not succeed"
        return Verdict(F.DEPENDENCY, cause, "see what failed there: ca-hpc status RUN")
    return None


def _ended_from_outside(e: Evidence) -> Verdict | None:
    """SLURM's word, where the step was stopped, killed, or has left nothing at all.

    Before what the step says: what it has left to say under a signal is not the cause.
    """
    if e.exit_status not in (None, INTERRUPTED_STATUS) and e.signal not in (_KILL, _TERM):
        return None
    if e.row is not None and e.row.state in _STATES:
        return Verdict(*_STATES[e.row.state], _said(ENDINGS, e.lines))
    if (found := look(ENDINGS, e.lines)) is not None:
        return _by_sign(found, e.lines)
    if e.row is not None and e.row.state is S.CANCELLED:
        return Verdict(F.CANCELLED, "the job was cancelled")
    if e.exit_status == INTERRUPTED_STATUS:
        if e.asked_to_stop:
            return Verdict(F.PREEMPTED, "stopped by a signal; its state is saved")
        return Verdict(F.TIME, "it stopped before the end of its time; its state is saved")
    if e.signal == _TERM:
        return Verdict(F.PREEMPTED, "stopped by a signal; nothing new was saved")
    if e.signal == _KILL and e.asked_to_stop:
        return Verdict(F.PREEMPTED, "stopped by a signal, and killed before it had saved")
    return None


def _stopped_at_its_start(e: Evidence) -> Verdict | None:
    if e.asked_to_stop and e.told is None and e.exit_status in _STARTING:
        return Verdict(F.PREEMPTED, "stopped by a signal while it started; nothing new was saved")
    return None


def _told(e: Evidence) -> Verdict | None:
    told = e.told
    if told is None or e.signal is not None:
        return None
    shown = showing(e.lines, told.message)
    text = tuple(told.message.splitlines())
    if told.ours and told.exit_code == ExitCode.DIGEST_MISMATCH:
        return Verdict(F.CHANGED, told.message, told.hint, shown)
    if (found := look(SIGNS, text)) is not None:
        verdict = _by_sign(found, text)
        cause = told.message if told.ours else verdict.cause
        return Verdict(verdict.failure, cause, told.hint or verdict.hint, shown)
    if told.errno in ERRNOS:
        failure, cause, hint = ERRNOS[told.errno]
        said = told.message if told.ours else f"{cause} ({first(told.message)})"
        return Verdict(failure, said, told.hint or hint, shown)
    if SURVIVED.search(told.message):
        return _process_lost(e, shown=shown)
    if told.ours:
        return Verdict(F.INPUT, told.message, told.hint, shown)
    return _exception(told.message, e.lines)


def _process_lost(e: Evidence, *, shown: tuple[str, ...]) -> Verdict:
    """One of the task's own processes died, and the others ended for it."""
    if (found := look(SIGNS, e.lines)) is not None:
        return _by_sign(found, e.lines)
    return _killed(e, "one of its processes was killed", shown=shown)


def _shown(e: Evidence) -> Verdict | None:
    """Without a word of its own: what stands in the logs."""
    if e.signal == _KILL and e.oom_kills:
        return _killed(e, "it was killed")
    found = look(SIGNS, e.lines)
    return None if found is None else _by_sign(found, e.lines)


def _signalled(e: Evidence) -> Verdict | None:
    if e.signal is None:
        return None
    if e.signal == _KILL:
        return _killed(e, "it was killed without a word (SIGKILL)")
    failure, cause, hint = _MEANINGS.get(
        e.signal, (F.CRASH, f"it was ended by {_SIGNALS[e.signal]}", _LOG)
    )
    if hint == _LOG:
        hint = _mend(trainer_that_crashed(e.lines))
    return Verdict(failure, cause, hint, end(e.lines))


def _killed(e: Evidence, what: str, *, shown: tuple[str, ...] = ()) -> Verdict:
    """By SIGKILL, which names no reason.

    It is called want of memory only where the kernel has counted that. Else it may as well be an
    administrator, and asking for more memory each time would only make the queue longer.
    """
    lines = shown or end(e.lines)
    if e.oom_kills:
        return Verdict(F.HOST_MEMORY, f"{what} by the kernel for want of memory", _MORE, lines)
    if e.oom_kills is None:
        return Verdict(F.UNKNOWN, f"{what}, most often for want of memory", _MORE, lines)
    return Verdict(F.CRASH, f"{what}, and not for want of memory", _LOG, lines)


def _not_started(e: Evidence) -> Verdict | None:
    """255 is Apptainer's own status."""
    fatal = [line for line in e.lines if line.startswith("FATAL:")]
    if e.exit_status != 255 or not fatal:
        return None
    said = fatal[-1].removeprefix("FATAL:").strip()
    cause = f"Apptainer cannot start the image on this node: {said[:MOST_CHARACTERS]}"
    return Verdict(F.NODE, cause, "try it there: apptainer exec IMAGE true", cut(fatal[-1:]))


def _without_a_word(e: Evidence) -> Verdict:
    lines = end(e.lines)
    match e.exit_status:
        case None | 0:
            return Verdict(F.UNKNOWN, "it ended without leaving a result", _LOG, lines)
        case status if status == UNSAID_STATUS:
            cause = "it could not write down why it ended, most often because the disk is full"
            return Verdict(F.DISK, cause, "free space in the run's folder", lines)
        case _ if lines and _RAISED.match(lines[-1]):  # before the step's frame was there
            return _exception(lines[-1], e.lines)
        case status:
            return Verdict(F.CRASH, f"it ended with status {status} and no error", _LOG, lines)


def _exception(message: str, lines: Sequence[str]) -> Verdict:
    where = place(lines, message)
    cause = first(message) + (f" ({where})" if where else "")
    hint = _mend(trainer_that_raised(lines, message))
    return Verdict(F.CODE, cause, hint, showing(lines, message))


def _mend(trainer: str | None) -> str:
    return _LOG if trainer is None else _MEND.format(trainer)


_RULES: Final[tuple[Rule, ...]] = (
    _waits_for_nothing,
    _ended_from_outside,
    _stopped_at_its_start,
    _told,
    _shown,
    _signalled,
    _not_started,
    _without_a_word,
)


def _errno(error: BaseException) -> int | None:
    """Of the first OSError in the chain that has one.

    Of what was merely being handled ENOENT does not count: looking for a file is no failure.
    """
    for link, handled in _chain(error):
        number = link.errno if isinstance(link, OSError) else None
        if number is not None and not (handled and number == ENOENT):
            return number
    return None


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    link: BaseException | None = error
    handled, seen = False, set[int]()
    while link is not None and id(link) not in seen:
        yield link, handled
        seen.add(id(link))
        handled = handled or link.__cause__ is None
        link = link.__cause__ or link.__context__


def _by_sign(found: Found, lines: Sequence[str]) -> Verdict:
    quoted = f" ({found.quoted[:MOST_CHARACTERS]})" if found.quoted else ""
    sign = found.sign
    return Verdict(sign.failure, sign.cause + quoted, sign.hint, around(lines, found.line))


def _said(signs: Sequence[Sign], lines: Sequence[str]) -> tuple[str, ...]:
    found = look(signs, lines)
    return () if found is None else around(lines, found.line)
