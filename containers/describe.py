"""Write down what an image holds, as JSON and as labels. Runs inside the image, during a build.

Standard input: one line ``name version`` per Debian package (``dpkg-query``).
The host reads the JSON in ``ca_hpc/images/record.py``; ``apptainer inspect`` shows the labels.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

#: packages whose versions are told apart from the rest
NAMED = ("torch", "nnunetv2", "ca-hpc")


def python_packages() -> dict[str, str]:
    return dict(
        sorted(
            (re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version)
            for found in metadata.distributions()
        )
    )


def cuda_of_torch() -> dict[str, str]:
    """The CUDA that torch was built for, if for any: neither its name nor its metadata tell."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return {"cuda": found[1]} if found else {}


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def weights(folder: Path) -> list[dict[str, str | int]]:
    return [
        {
            "name": path.name,
            "path": str(path),
            "sha256": sha256(path),
            "size_bytes": path.stat().st_size,
            "manifest": path.with_suffix(".json").read_text(encoding="utf-8"),
        }
        for path in sorted(folder.iterdir())
        if path.suffix != ".json"
    ]


def labels(found: dict[str, Any]) -> dict[str, str]:
    versions = {f"version.{name}": version for name, version in found["versions"].items()}
    carried = {f"weights.{entry['name']}": entry["sha256"] for entry in found["weights"]}
    commit = {"org.opencontainers.image.revision": found["commit"]} if found["commit"] else {}
    return versions | carried | commit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights files")
    parser.add_argument("--recipe", default="", help="sha256 of the recipe that makes the image")
    parser.add_argument("--base", default="", help="sha256 of what the image below holds")
    parser.add_argument("--commit", default="", help="commit that ca-hpc was built from")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--labels", type=Path, required=True, help="file to append to")
    given = parser.parse_args()
    packages = python_packages()
    found = {
        "format": 1,
        "versions": {
            "python": platform.python_version(),
            **{name: packages[name] for name in NAMED if name in packages},
            **cuda_of_torch(),
        },
        "commit": given.commit or None,
        "recipe_sha256": given.recipe or None,
        "base_content_sha256": given.base or None,
        "weights": weights(given.weights),
        "python_packages": packages,
        "debian_packages": dict(line.split() for line in sys.stdin),
    }
    given.json.write_text(json.dumps(found, indent=1) + "\n")
    with given.labels.open("a") as stream:
        # Apptainer: a name without blanks, a blank, the value
        stream.writelines(
            f"{'_'.join(name.split())} {value}\n" for name, value in labels(found).items()
        )


if __name__ == "__main__":
    main()
