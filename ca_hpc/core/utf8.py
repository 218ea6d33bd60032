"""Texts that can be written down: records are UTF-8, names in a file system may be any bytes."""

from __future__ import annotations

from ca_hpc.errors import CaHpcError


def check_utf8(text: str) -> None:
    """Raises CaHpcError for a path, as Python has it, with bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise not_utf8(text) from None


def not_utf8(text: str) -> CaHpcError:
    """The error, which can be shown whatever is in ``text``."""
    shown = text.encode(errors="backslashreplace").decode()
    return CaHpcError(
        f"{shown}: its name is no UTF-8 text, so no record can hold it",
        hint="rename it, or give it a link with another name",
    )
