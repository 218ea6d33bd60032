"""The frame around every step: arguments in, an exit status and ``error.json`` out."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ca_hpc import __version__, processes
from ca_hpc.core.codec import encode
from ca_hpc.core.failures import TOLD_MARK, UNSAID_STATUS, Told
from ca_hpc.errors import CaHpcError
from ca_hpc.images.record import DESCRIPTION
from ca_hpc.store import atomic
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.software import installed


@dataclass(frozen=True, slots=True)
class StepCall:
    """The arguments of a step. ``arm``, ``fold``, ``shard``: of the tasks of one stage alone."""

    run: RunFolder
    attempt: Path
    cpus: int
    threads: int
    device: Literal["cuda", "cpu"]
    arm: str
    fold: int
    shard: int = 0
    ends_at: float | None = None  # when the job ends, in seconds since 1970
    preprocessed: Path | None = None  # nnU-Net's folder, where not the run's own

    def say(self, text: str) -> None:
        """One line into the task's log."""
        print(text, flush=True)

    def emit(self, event: Mapping[str, object]) -> None:
        """One line into ``progress.jsonl``; readers see whole lines only."""
        with (self.attempt / "progress.jsonl").open("a") as stream:
            stream.write(json.dumps(dict(event), default=float) + "\n")


def main(step: Callable[[StepCall], int | None], argv: Sequence[str] | None = None) -> None:
    """Run ``step`` and exit with its status. What goes wrong is left in ``error.json``."""
    parser = argparse.ArgumentParser(prog="python -m ca_hpc.steps.STEP")
    parser.add_argument("--run", type=Path, required=True, help="the run folder")
    parser.add_argument("--attempt", type=Path, required=True, help="this attempt's own folder")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--arm", default="")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--ends-at", type=float, help="when the job ends, seconds since 1970")
    parser.add_argument("--preprocessed", type=Path, help="a copy of the run's own folder")
    given = vars(parser.parse_args(argv))
    call = StepCall(**{**given, "run": RunFolder(given["run"])})
    processes.end_with_parent()
    try:
        _check_version(call)
        _tell_software(call)
        status = step(call)
    except CaHpcError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        sys.exit(_leave(call, Told.of(error), log=f"error: {error.message}{hint}\n"))
    except (Exception, SystemExit) as error:  # of a trainer's module: no success
        # the trace goes to the task's log for whoever mends it, the sentence to `status`
        sys.exit(_leave(call, Told.of(error), log=traceback.format_exc()))
    sys.exit(status or 0)


def _check_version(call: StepCall) -> None:
    """Refuse a run of another version of this package; what is made of it later may be newer."""
    if not call.attempt.is_relative_to(call.run.file("tasks")):
        return
    submitted = call.run.pins.ca_hpc
    if submitted != __version__:
        raise CaHpcError(
            f"the task runs with ca-hpc {__version__}, and the run was submitted with ca-hpc "
            f"{submitted}",
            hint=f"install ca-hpc {submitted} again where tasks run, or submit the job anew",
        )


def _tell_software(call: StepCall) -> None:
    """``software.json``: what this attempt computes with."""
    text = encode(installed(commit=_commit_of_image()))
    _done(lambda: atomic.write_text(call.attempt / "software.json", text))


def _commit_of_image() -> str | None:
    """The commit of ca-hpc that the image says it holds; None without an image."""
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(Path(DESCRIPTION).read_text(encoding="utf-8")).get("commit")
        return str(told) if told else None
    return None


def _leave(call: StepCall, told: Told, *, log: str) -> int:
    """Say why the step failed, by file and in the log. Returns what to exit with."""
    text = encode(told)
    written = _done(lambda: atomic.write_text(call.attempt / "error.json", text))
    if not written:  # a full disk, which must not hide the cause: the log may be on another
        log += TOLD_MARK + "".join(line.strip() for line in text.split("\n")) + "\n"
    logged = _done(lambda: print(log, end="", file=sys.stderr, flush=True))
    return told.exit_code if written or logged else UNSAID_STATUS


def _done(write: Callable[[], object]) -> bool:
    try:
        write()
    except OSError:
        return False
    return True
