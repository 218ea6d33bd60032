"""How the payload gets its image, best first. A way that this node does not offer says why.

- ``namespace``: mounted by us where only the payload sees it.
- ``fusermount``: mounted by us in sight of all of the node's processes, with fuse3's setuid
  helper; for nodes that give user namespaces to named programs only (Ubuntu since 23.10).
- ``apptainer``: mounted by Apptainer. Nothing protects its server, if it uses one, and a signal
  to the whole job may pull the image away before the payload has saved.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_hpc import processes
from ca_hpc.errors import CaHpcError
from ca_hpc.guard import namespace
from ca_hpc.guard.payload import keep
from ca_hpc.store.sif import Partition

# libfuse leaves a signal alone that is ignored when it starts (fuse_set_signal_handlers)
IGNORED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
MOUNT_LIMIT_S: Final = 20.0


class NotHere(Exception):
    """This node does not offer that way; the text says why."""


@dataclass(frozen=True, slots=True)
class Payload:
    """``argv`` is an ``apptainer exec`` of ``image``, to be given ``mount_point`` in its place."""

    argv: tuple[str, ...]
    image: str
    partition: Partition
    mount_point: Path

    def argv_for(self, *options: str) -> tuple[str, ...]:
        """The command that runs the mounted image."""
        place = self.argv.index(self.image)
        return (*self.argv[:place], *options, str(self.mount_point), *self.argv[place + 1 :])


@dataclass(frozen=True, slots=True)
class Started:
    """Pids of the keeper and of the image's server. ``clean_up``: what unmounts the image."""

    keeper: int
    server: processes.Child | None = None
    clean_up: tuple[str, ...] | None = None


def in_namespace(payload: Payload) -> Started:
    """The keeper enters a namespace, mounts, and hands the mount's descriptor to the guard.

    The server stays outside: the mount, and with it the server, ends with the last process inside.
    """
    program = _server_program(payload)
    ours, theirs = socket.socketpair()

    def keeper() -> int:
        ours.close()
        try:
            namespace.enter()
            device = namespace.mount_fuse(payload.mount_point)
            socket.send_fds(theirs, [b"mounted"], [device])
            os.close(device)
            next(payload.mount_point.iterdir(), None)  # waits for the server, fails when it is gone
        except OSError as error:
            theirs.send(str(error).encode())
            return 1
        theirs.send(b"served")
        theirs.close()
        # Where Apptainer is installed setuid it would drop into a namespace that has no root
        return keep(payload.argv_for("--userns"))

    pid = processes.fork(keeper)
    theirs.close()
    with ours:
        said, devices, _, _ = socket.recv_fds(ours, 1000, 1)
        server = None
        if devices:
            source = f"/dev/fd/{devices[0]}"  # libfuse: mounted already
            server = _serve(program, payload, source=source, options=(), descriptors=devices)
            os.close(devices[0])
            said = ours.recv(1000)
    if server is None or said != b"served":
        os.waitpid(pid, 0)
        reason = said.decode() or "the keeper died"
        if server is not None:
            server.wait()  # nobody has it mounted any more
            reason += f"; squashfuse_ll: {_server_said(payload)}"
        raise NotHere(reason)
    return Started(pid, server)


def by_fusermount(payload: Payload) -> Started:
    """The guard mounts; whoever of guard and keeper is left when the payload has ended unmounts."""
    program = _server_program(payload)
    helper = _found("fusermount3")
    folder = payload.mount_point
    server = _serve(program, payload, source=str(folder), options=("auto_unmount",))
    deadline = time.monotonic() + MOUNT_LIMIT_S
    while not os.path.ismount(folder):
        if server.poll() is not None:
            raise NotHere(f"squashfuse_ll: {_server_said(payload)}")
        if time.monotonic() > deadline:
            server.kill()
            server.wait()
            raise NotHere(f"not mounted within {MOUNT_LIMIT_S:g} s")
        time.sleep(0.005)
    clean_up = (helper, "-u", "-z", str(folder))

    def keeper() -> int:
        status = keep(payload.argv_for())
        processes.run(clean_up)
        return status

    return Started(processes.fork(keeper), server, clean_up)


def by_apptainer(payload: Payload) -> Started:
    """The command as it is."""

    def keeper() -> int:
        return keep(payload.argv)

    return Started(processes.fork(keeper))


WAYS: Final[Mapping[str, Callable[[Payload], Started]]] = {
    "namespace": in_namespace,
    "fusermount": by_fusermount,
    "apptainer": by_apptainer,
}


def must_be_here(program: str) -> None:
    """Raise CaHpcError where the node does not have ``program``."""
    if _first(program, [Path(folder) for folder in os.get_exec_path()]) is None:
        raise CaHpcError(f"{program} is not on this node")


def _server_program(payload: Payload) -> str:
    if not payload.partition.squashfs:
        raise NotHere("the image's file system is not squashfs")
    return _found("squashfuse_ll", beside=payload.argv[0])


def _serve(
    program: str,
    payload: Payload,
    *,
    source: str,
    options: Sequence[str],
    descriptors: Sequence[int] = (),
) -> processes.Child:
    # No session of its own: where more runs than there are cores, Linux shares them out by session
    # (sched_autogroup), and the payload would wait for its own server. Importing torch took 2.7 s
    # in place of 1.4 s (medians of 7, two cores, load 8).
    words = ("ro", f"offset={payload.partition.offset}", *options)
    return processes.start(
        (program, "-f", "-o", ",".join(words), payload.image, source),
        log=_server_log(payload),
        ignoring=IGNORED,
        descriptors=descriptors,
    )


def _server_log(payload: Payload) -> Path:
    # not the task's log: libfuse may call the end of the mount an error ("connection abort")
    return payload.mount_point.with_name(f"{payload.mount_point.name}-server.log")


def _server_said(payload: Payload) -> str:
    return " ".join(_server_log(payload).read_text(errors="replace").split())


def _found(program: str, *, beside: str | None = None) -> str:
    """The path of a program on PATH, or of one that came with Apptainer. Raises NotHere."""
    folders = [Path(folder) for folder in os.get_exec_path()]
    if beside is not None and (caller := _first(beside, folders)) is not None:
        # packages of apptainer.org and SingularityCE: PREFIX/bin/NAME, PREFIX/libexec/NAME/bin
        caller = caller.resolve()
        folders.append(caller.parent.parent / "libexec" / caller.name / "bin")
    found = _first(program, folders)
    if found is None:
        raise NotHere(f"no {program} on this node")
    return str(found)


def _first(program: str, folders: Sequence[Path]) -> Path | None:
    paths = (folder / program for folder in folders)  # an absolute program stays itself
    # not is_file(), which raises for folders of PATH that are closed to this user
    return next((path for path in paths if os.access(path, os.X_OK)), None)
