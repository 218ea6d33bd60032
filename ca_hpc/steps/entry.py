"""The frame around every step: arguments in, an exit status and ``error.json`` out."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ca_hpc import processes
from ca_hpc.errors import CaHpcError, ExitCode
from ca_hpc.store import atomic
from ca_hpc.store.run_folder import RunFolder


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
    given = vars(parser.parse_args(argv))
    call = StepCall(**{**given, "run": RunFolder(given["run"])})
    processes.end_with_parent()
    try:
        status = step(call)
    except CaHpcError as error:
        _leave(call, message=error.message, hint=error.hint)
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(int(error.exit_code))
    except (Exception, SystemExit) as error:  # of a trainer's module: no success
        # the trace goes to the task's log for whoever mends it, the sentence to `status`
        traceback.print_exc()
        _leave(call, message=f"{type(error).__name__}: {error}", hint="see the task's log")
        sys.exit(int(ExitCode.TASK_FAILED))
    sys.exit(status or 0)


def _leave(call: StepCall, *, message: str, hint: str | None) -> None:
    atomic.write_text(
        call.attempt / "error.json", json.dumps({"message": message, "hint": hint}, indent=1)
    )
