"""What an address on the network says by itself. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_BYTE: Final = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"  # else it is a name, of anybody's
_LOOPBACK: Final = re.compile(rf"(localhost|127(\.{_BYTE}){{3}}|\[::1\])(:[0-9]+)?")
_PORTS: Final = {"http": 80, "https": 443}


def scheme_of(host: str) -> str:
    """Plain http to this machine only, as Apptainer does."""
    return "http" if _LOOPBACK.fullmatch(host) else "https"


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port (RFC 6454): whose address it is. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def in_the_clear(url: str) -> bool:
    """Whether what goes there can be read on the way. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme == "http" and scheme_of(parts.netloc) != "http"


def stays_here(url: str) -> bool:
    """Whether ``url`` is plain http to this machine, which no proxy may see. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme == "http" and scheme_of(parts.netloc.rpartition("@")[2].lower()) == "http"
