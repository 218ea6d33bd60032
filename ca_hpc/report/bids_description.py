"""``dataset_description.json`` of a BIDS derivative: by what program and image it was made. Pure.

BIDS 1.11, "Derived dataset and pipeline description". A container has a type, a tag and a URI; for
its digest there is no field of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ca_hpc.core.record import Origin
from ca_hpc.core.run_record import Image, RunRecord

BIDS_VERSION: Final = "1.11.2"
# BIDS: below derivatives/ the folder is called by this, or begins with it and a hyphen
PIPELINE: Final = "ca-hpc"


def description(
    record: RunRecord, *, arm: str, origins: Iterable[Origin] = ()
) -> Mapping[str, Any]:
    """The description of what the folds of ``arm`` have predicted.

    ``origins``: where the data came from, as far as they have an address.
    """
    versions = record.image.versions if record.image else record.host.versions
    made: dict[str, Any] = {
        "Name": PIPELINE,
        "Version": versions.get("ca-hpc", record.host.versions["ca-hpc"]),
        "Description": f"segmentations by all folds of the arm {arm} of the run {record.name}",
    }
    if record.image is not None:
        made["Container"] = _container(record.image)
    sources = [source for origin in origins if (source := _source(origin))]
    return {
        "Name": f"{record.name}: segmentations by {arm}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [made],
        **({"SourceDatasets": sources} if sources else {}),
    }


def _container(image: Image) -> Mapping[str, str]:
    """``Tag`` is the SIF's own sha256, under which an image is pushed (images/registry.py).

    A registry's digest in ``URI`` is that of its manifest, another number.
    """
    sha256 = image.file.sha256
    return {
        "Type": "apptainer",
        "Tag": f"sha256-{sha256}",
        "URI": image.reference or f"urn:hash::sha256:{sha256}",
    }


def _source(origin: Origin) -> Mapping[str, str]:
    """Paths of this site, and what has no place, have no URL: BIDS wants a URI."""
    version = origin.commit or (f"sha256:{origin.sha256}" if origin.sha256 else origin.ref)
    url = {"URL": origin.url} if "://" in origin.url else {}
    return {**url, **({"Version": version} if version else {})}
