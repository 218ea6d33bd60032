"""Write an index of the licence texts in an image, which stay where their packages put them.

Runs inside the image, during a build. JSON: of each Python package ("name version") and of each
Debian package the files, as paths in the image.
"""

from __future__ import annotations

import argparse
import json
import re
from importlib import metadata
from pathlib import Path, PurePosixPath

#: for packages older than PEP 639, which do not name their files
LIKELY = re.compile(r"(licen[cs]e|copying|notice|copyright|authors|third.?party)", re.IGNORECASE)
TEXT = {"", ".txt", ".md", ".rst", ".apache", ".bsd", ".mit"}


def is_licence(path: PurePosixPath, named: set[str]) -> bool:
    """Whether a package's file is a licence text, by what the package says or by its own name."""
    folder = next((part for part in path.parts if part.endswith(".dist-info")), None)
    if folder is None:
        # bundled third parties'
        return bool(LIKELY.match(path.name)) and path.suffix.lower() in TEXT
    # PEP 639: below dist-info/licenses; before it: directly in dist-info
    inside = path.relative_to(*path.parts[: path.parts.index(folder) + 1]).as_posix()
    return inside.removeprefix("licenses/") in named or bool(LIKELY.match(path.name))


def python_licences(site_packages: Path) -> dict[str, list[str]]:
    found = {}
    for package in metadata.distributions(path=[str(site_packages)]):
        named = set(package.metadata.get_all("License-File", []))
        files = [
            Path(str(package.locate_file(file)))
            for file in package.files or []
            if is_licence(PurePosixPath(file), named)
        ]
        label = f"{package.metadata['Name']} {package.version}"
        found[label] = sorted(str(file) for file in files if file.is_file())
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def debian_licences(names: list[str], doc: Path) -> dict[str, list[str]]:
    files = {name: doc / name / "copyright" for name in names}
    return {name: [str(file)] if file.is_file() else [] for name, file in files.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the image is unpacked")
    given = parser.parse_args()
    home = given.root / "opt/ca-hpc"
    image = json.loads((home / "image.json").read_text(encoding="utf-8"))
    index = {
        "python": python_licences(home / "venv/lib/python3.11/site-packages"),
        "debian": debian_licences(list(image["debian_packages"]), given.root / "usr/share/doc"),
    }
    given.out.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
