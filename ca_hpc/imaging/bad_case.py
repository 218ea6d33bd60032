"""What is wrong with one case's files: a problem of the data, not of the task."""

from __future__ import annotations

from ca_hpc.errors import CaHpcError


class BadCase(CaHpcError):
    """An image or label that cannot be used. The message names the file and the reason."""
