"""Write an image's bill of materials: CycloneDX 1.6, Python and Debian packages in one document.

Runs inside the image, during a build, in an environment of its own (``requirements-sbom.txt``).
Equal images give equal documents: it holds no time and no random number.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from debian.copyright import Copyright, MachineReadableFormatError, NotMachineReadableError
from debian.deb822 import Packages
from packageurl import PackageURL

#: 1.7 exists; few readers know it yet
SCHEMA = SchemaVersion.V1_6
PIN = re.compile(r"^([\w.-]+)={2,3}(\S+) --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)


def licence_name(package: metadata.PackageMetadata) -> str | None:
    """License-Expression (PEP 639), else a License field of one line, else the classifiers."""
    if expression := package.get("License-Expression"):
        return expression
    field = (package.get("License") or "").strip()
    # older packages put the whole text there
    if field and field != "UNKNOWN" and "\n" not in field and len(field) < 80:
        return field
    classes = [
        line.rsplit(" :: ", 1)[1]
        for line in package.get_all("Classifier", [])
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    return "; ".join(sorted(classes)) or None


def archives(folder: Path) -> dict[tuple[str, str], str]:
    """Of each pinned package, (name, version), the sha256 of the archive that it came in."""
    files = folder.glob("*.txt")
    pins = (pin for file in files for pin in PIN.findall(file.read_text(encoding="utf-8")))
    return {(plain(name), version): sha256 for name, version, sha256 in pins}


def plain(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def python_components(
    site_packages: Path, archive_of: Mapping[tuple[str, str], str]
) -> Iterator[Component]:
    for found in metadata.distributions(path=[str(site_packages)]):
        name = plain(found.metadata["Name"])
        licence = licence_name(found.metadata)
        archive = archive_of.get((name, found.version))
        yield component(
            PackageURL("pypi", None, name, found.version),
            description=found.metadata.get("Summary"),
            licence=LicenseFactory().make_from_string(
                licence, license_acknowledgement=LicenseAcknowledgement.DECLARED
            )
            if licence
            else None,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=archive)] if archive else [],
        )


def debian_licence(copyright_file: Path) -> str | None:
    """Debian's short names ("GPL-2+"); None if the file is not machine-readable (DEP 5)."""
    try:
        with copyright_file.open(encoding="utf-8", errors="replace") as stream:
            found = Copyright(stream, strict=False)
        names = {part.license.synopsis for part in found.all_files_paragraphs() if part.license}
    except (FileNotFoundError, MachineReadableFormatError, NotMachineReadableError):
        return None
    return "; ".join(sorted(names)) or None


def debian_components(root: Path) -> Iterator[Component]:
    with (root / "var/lib/dpkg/status").open(encoding="utf-8") as status:
        for package in Packages.iter_paragraphs(status, use_apt_pkg=False):
            if not package["Status"].endswith(" installed"):
                continue
            name = package["Package"]
            licence = debian_licence(root / "usr/share/doc" / name / "copyright")
            yield component(
                PackageURL(
                    "deb",
                    "debian",
                    name,
                    package["Version"],
                    qualifiers={"arch": package["Architecture"], "distro": "debian-12"},
                ),
                description=package["Description"].splitlines()[0],
                # a name, never an id or an expression: Debian's names are not SPDX's
                licence=LicenseFactory().make_with_name(licence) if licence else None,
                source=package.get("Source", name).split()[0],
            )


def component(
    purl: PackageURL,
    *,
    description: str | None,
    licence: License | None,
    hashes: Iterable[HashType] = (),
    source: str | None = None,
) -> Component:
    return Component(
        name=purl.name,
        version=purl.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
        description=description,
        licenses=[licence] if licence else [],
        hashes=hashes,
        properties=[Property(name="debian:source", value=source)] if source else [],
    )


def document(name: str, *, root: Path) -> Bom:
    """The document of the image below ``root``."""
    home = root / "opt/ca-hpc"
    image = json.loads((home / "image.json").read_text(encoding="utf-8"))
    version, commit = image["versions"].get("ca-hpc"), image["commit"]
    components = [
        *python_components(
            home / "venv/lib/python3.11/site-packages", archives(home / "requirements")
        ),
        *debian_components(root),
    ]
    content = [name, str(version), str(commit), *sorted(str(c.bom_ref.value) for c in components)]
    bom = Bom(
        components=components,
        # derived from the contents where the library would draw one
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(content)),
        properties=[Property(name="ca-hpc:commit", value=commit)] if commit else [],
    )
    bom.metadata.component = Component(
        name=name, version=version, type=ComponentType.CONTAINER, bom_ref=name
    )
    bom.register_dependency(bom.metadata.component, components)
    return bom


def text_of(bom: Bom) -> str:
    """The document as JSON without the time of writing, which the library does not leave out."""
    written = json.loads(make_outputter(bom, OutputFormat.JSON, SCHEMA).output_as_string())
    del written["metadata"]["timestamp"]
    return json.dumps(written, indent=1, sort_keys=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--name", required=True, help="the image's")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the image is unpacked")
    given = parser.parse_args()
    # it warns of each file whose Format line has an old address
    logging.getLogger("debian.copyright").setLevel(logging.ERROR)
    given.out.write_text(text_of(document(given.name, root=given.root)), encoding="utf-8")


if __name__ == "__main__":
    main()
