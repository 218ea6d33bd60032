"""A network without a way out, for a test and what it starts: network_namespaces(7)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# linux/sched.h, linux/sockios.h, linux/if.h
CLONE_NEWNET: Final = 0x40000000
SIOCSIFFLAGS: Final = 0x8914
SIOCSIFADDR: Final = 0x8916
SIOCSIFNETMASK: Final = 0x891C
IFF_UP: Final = 1

# nobody's address (RFC 5737)
OWN: Final = "198.51.100.1"


@contextmanager
def cut_off() -> Iterator[None]:
    """Within, this thread and all that it starts reach this machine's loopback and nothing else.

    What is started within stays cut off for as long as it lives. Needs root; raises OSError.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", CLONE_NEWNET)
        try:
            _loopback_up()
            yield
        finally:
            _call("setns", before, CLONE_NEWNET)
    finally:
        os.close(before)


def has_way_out() -> bool:
    """Whether there is a route to the world. Nothing is sent: a UDP socket only asks for one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # nobody's address (RFC 5737)
        except OSError as error:
            if error.errno != errno.ENETUNREACH:
                raise
            return False
    return True


def _loopback_up() -> None:
    """With its own address, and another: SLURM asks for names with AI_ADDRCONFIG, for which a
    machine that has none but 127.0.0.1 has none (getaddrinfo(3))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
        for request, address in ((SIOCSIFADDR, OWN), (SIOCSIFNETMASK, "255.255.255.255")):
            given = struct.pack("16sH2x4s16x", b"lo:1", socket.AF_INET, socket.inet_aton(address))
            fcntl.ioctl(any_socket, request, given)


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
