"""A download under way: the bytes that are there, and what they are a part of."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ca_hpc.store import atomic


def shown(url: str) -> str:
    """An address as it may be shown: without user, password, fragment and what the query says."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # such as a password with a slash in it, taken for host and port
        return f"{url.partition(':')[0]}://…"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


@dataclass(frozen=True, slots=True)
class Part:
    """``NAME.part`` and, beside it as JSON, the address and version that it is a part of."""

    file: Path
    source: str

    @property
    def record(self) -> Path:
        """The JSON."""
        return self.file.with_name(f"{self.file.name}.json")

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.file.stat().st_size if self.file.is_file() else 0

    @property
    def _source_sha256(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()

    def resumable(self) -> tuple[int, str | None]:
        """Bytes that are there, and the validator of the file that they belong to; or (0, None)."""
        try:
            record = json.loads(self.record.read_text())
            validator = record["validator"]
            same = record["address_sha256"] == self._source_sha256
        except (OSError, ValueError, KeyError, TypeError):
            return 0, None
        if not same or not isinstance(validator, str) or not self.size:
            return 0, None
        return self.size, validator

    def remember(self, validator: str | None) -> None:
        """Write down what the bytes to come belong to."""
        content = {
            "url": shown(self.source),
            "address_sha256": self._source_sha256,
            "validator": validator,
        }
        atomic.write_text(self.record, json.dumps(content, indent=1) + "\n")

    def remove(self) -> None:
        """Forget all of it."""
        self.file.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def publish(self, target: Path) -> Path:
        """Give the whole file its name, in one step. Raises OSError."""
        with self.file.open("rb") as stream:
            os.fsync(stream.fileno())
        self.file.replace(target)
        self.remove()
        return target
