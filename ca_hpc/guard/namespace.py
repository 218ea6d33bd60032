"""A mount that only one process and its children see, made without privileges.

user_namespaces(7), mount_namespaces(7). Nothing has to unmount it: it is gone when the last
process of the namespace is, whatever ended that.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

# linux/sched.h, linux/mount.h
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_REC: Final = 16384
MS_SLAVE: Final = 1 << 19


def enter() -> None:
    """Move this process into a user and a mount namespace of its own; it stays the same user.

    Raises OSError where the kernel or the site forbids it.
    """
    user, group = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # what the node mounts later (automounted homes) still comes in, nothing goes out
    _call("mount", None, b"/", None, MS_REC | MS_SLAVE, None)


def mount_fuse(folder: Path) -> int:
    """Mount FUSE read-only on ``folder``. Returns the descriptor that its server has to answer.

    To be called in the namespace: the kernel wants ``/dev/fuse`` opened where it is mounted.
    Raises OSError. Until a server answers, whoever looks into ``folder`` waits.
    """
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
        flags = MS_RDONLY | MS_NOSUID | MS_NODEV
        _call(
            "mount", b"squashfuse_ll", os.fsencode(folder), b"fuse.squashfuse_ll", flags,
            options.encode(),
        )  # fmt: skip
    except OSError:
        os.close(device)
        raise
    return device


def _call(name: str, *arguments: bytes | int | None) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
