"""Scanning sources written as in a job's YAML; HERE stands for the test's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from ca_hpc.core import door
from ca_hpc.core.record import Case, Cases
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.sources.git import Checkout
from ca_hpc.sources.scan import scan

BIDS = "{type: bids, path: HERE/bids, label_suffix: _seg}"
LABELS = "bids/derivatives/labels"
NOTHING: Mapping[str, Checkout] = MappingProxyType({})


def spec_of(here: Path, *sources: str, more: str = "") -> JobSpec:
    """A job with these sources and, in ``more``, further keys."""
    text = "kind: finetune\nname: my-job\ncluster: local\nweights: w.pth\n"
    text += f"{more}\ndata:\n" + "".join(f"  - {source}\n" for source in sources)
    return door.read(JobSpec, text.replace("HERE", str(here)), file="job.yaml")


def scanned(
    here: Path, *sources: str, more: str = "", checkouts: Mapping[str, Checkout] = NOTHING
) -> Cases:
    return scan(spec_of(here, *sources, more=more), checkouts=checkouts)


def problems(here: Path, *sources: str, more: str = "") -> list[str]:
    """The lines of the refusal, whose count is right."""
    with pytest.raises(CaHpcError) as refused:
        scanned(here, *sources, more=more)
    count, *lines = refused.value.message.splitlines()
    assert count.startswith(f"{len(lines)} problem")
    assert refused.value.exit_code == 2
    assert refused.value.hint
    return lines


def by_id(cases: Cases) -> dict[str, Case]:
    return {case.id: case for case in cases.cases}


def stems(cases: Cases) -> list[str]:
    """The images' names without their ending, sorted."""
    return sorted(Path(case.images[0]).name.removesuffix(".nii.gz") for case in cases.cases)


def with_keys(source: str, keys: str) -> str:
    return source.replace("}", f", {keys}}}") if keys else source
