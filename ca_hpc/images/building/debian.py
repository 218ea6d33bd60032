"""The Debian mirror that this machine itself uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

# deb822 ("URIs: URL") and one-line ("deb [options] URL suite ...") alike: the first word that
# ends like the main archive's address, not debian-security's; or a dated snapshot of it
_MAIN_ARCHIVE: Final = re.compile(r"(?:^|\s)(\w+://\S+/debian(?:/\d{8}T\d{6}Z)?)/?(?=\s|$)")


def main_archive(sources: str) -> str | None:
    """The address of the main Debian archive in the text of apt's source lists; None if none."""
    for line in sources.splitlines():
        if not line.lstrip().startswith("#") and (found := _MAIN_ARCHIVE.search(line)):
            return found.group(1)
    return None


def host_mirror(apt: Path = Path("/etc/apt")) -> str | None:
    """The main Debian archive that this machine's apt is set to; None on other systems."""
    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    kept = (path for path in lists if path.suffix in (".list", ".sources") and path.is_file())
    return main_archive("\n".join(path.read_text(errors="replace") for path in kept))
