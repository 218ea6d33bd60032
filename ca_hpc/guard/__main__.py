"""``python -I -m ca_hpc.guard --image SIF --mount-point FOLDER --record FILE -- argv …``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ca_hpc import processes
from ca_hpc.errors import CaHpcError
from ca_hpc.guard.payload import as_shell, attend, end_orphans, hold_signals
from ca_hpc.guard.ways import WAYS, NotHere, Payload, Started, must_be_here
from ca_hpc.store.sif import system_partition


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on the mounted image. Returns its status, 128 + n for signal n."""
    hold_signals()
    processes.end_with_parent()
    processes.adopt_orphans()
    options = _parser().parse_args(arguments)
    try:
        must_be_here(options.argv[0])
        payload = Payload(
            tuple(options.argv),
            options.image,
            system_partition(Path(options.image)),
            options.mount_point,
        )
        options.mount_point.mkdir(parents=True, exist_ok=True)
        started = _start(payload, ways=options.ways or tuple(WAYS), record=options.record)
    except CaHpcError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return int(error.exit_code)
    return _finish(started)


def _start(payload: Payload, *, ways: Sequence[str], record: Path | None) -> Started:
    """Start the payload by the first way that works here, and write down which that was."""
    for name in ways:
        try:
            started = WAYS[name](payload)
        except NotHere as reason:
            print(f"ca-hpc: image mount: {name}: {reason}", file=sys.stderr, flush=True)
            continue
        if record is not None:
            record.write_text(f"{name}\n")
        return started
    raise CaHpcError(f"{payload.image} cannot be mounted here")


def _finish(started: Started) -> int:
    """Wait for the payload, then see to it that nothing of it is left."""
    server = None if started.server is None else started.server.pid

    def noticed(pid: int, status: int) -> None:
        # it ends by itself, with one status or another, when nobody has the image mounted any more
        if pid == server and status < 0:
            name = signal.Signals(-status).name
            print(f"ca-hpc: the image's server was killed by {name}", file=sys.stderr, flush=True)
            # what the kernel has in its cache may do for saving; waiting can only make it less
            os.kill(started.keeper, signal.SIGTERM)

    status = attend(started.keeper, noticed=noticed)
    if status < 0:  # the keeper was killed, and what it kept can still save
        end_orphans(signal.SIGTERM, spare=server)
    # Apptainer that gets SIGKILL leaves the server of an image that it has mounted itself
    end_orphans(signal.SIGKILL, spare=server)
    if started.clean_up is not None:
        processes.run(started.clean_up)
    if started.server is not None:
        # other containers may have copied a mount in sight of all, and keep it from ending
        started.server.kill()
        started.server.wait()
    return as_shell(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("ca_hpc.guard", description=__doc__)
    parser.add_argument("--image", required=True, help="the SIF, as in the command")
    parser.add_argument("--mount-point", type=Path, required=True, help="in the work folder")
    parser.add_argument("--record", type=Path, help="file that the way's name is written to")
    parser.add_argument("--way", dest="ways", action="append", choices=tuple(WAYS), help="to try")
    parser.add_argument("argv", nargs="+", help="apptainer exec …")
    return parser


if __name__ == "__main__":
    sys.exit(main())
