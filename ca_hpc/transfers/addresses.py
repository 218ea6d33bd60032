"""What an address on the network says by itself. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_LOOPBACK: Final = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")
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
