"""A rerun is planned from a run folder: with which files, and by what it is compared."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc import configs
from ca_hpc.actions.prepare import Host, Overrides
from ca_hpc.actions.rerun import Planned, plan
from ca_hpc.core.drift import drifted
from ca_hpc.core.model import Pin
from ca_hpc.core.spec import Arm
from ca_hpc.store.run_folder import RunFolder
from tests.recorded_run import sha256
from tests.rerunnable import rerunnable


@pytest.fixture
def run(tmp_path: Path, demo_checkpoint: Path) -> RunFolder:
    """Fine-tuned from weights that fit its model."""
    found = rerunnable(tmp_path / "was")
    weights = Path(shutil.copyfile(demo_checkpoint, tmp_path / "own.pth"))
    found.write("pins.json", replace(found.pins, weights=Pin(str(weights), sha256(weights))))
    found.write_spec("model.json", configs.model("demo", relative_to=tmp_path))
    return found


def planned(run: RunFolder, tmp_path: Path, **overrides: str) -> Planned:
    host = Host(tmp_path / "here", sys.executable, 4, tmp_path / "cache", tmp_path / "store")
    return plan(run.path, host=host, overrides=Overrides(**overrides))  # type: ignore[arg-type]


def verdicts(found: Planned) -> dict[str, str]:
    return {row.aspect: row.verdict for row in found.rows}


def test_files_that_the_command_line_names_count_from_the_current_folder(
    run: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    here = {"weights": "./own.pth", "image": "./neck.sif"}
    (tmp_path / "own.pth").rename(tmp_path / "here/own.pth")
    for name in ("neck.sif", "neck.sif.json"):
        (tmp_path / "was" / name).rename(tmp_path / "here" / name)
    found = planned(run, tmp_path, **here)
    assert verdicts(found)["weights"] == verdicts(found)["image"] == "same"
    places = {name: str(tmp_path / "here" / Path(file).name) for name, file in here.items()}
    assert (found.job.spec.weights, found.job.spec.image) == (places["weights"], places["image"])
    assert found.inputs.weights_pin is not None and found.inputs.image is not None
    assert found.inputs.weights_pin.path == places["weights"]
    assert found.inputs.image.path == places["image"]


def test_weights_of_which_only_the_network_was_used_are_no_drift(
    run: RunFolder, tmp_path: Path
) -> None:
    random = {"scratch": Arm(weights="random", plans="model")}
    run.write_spec("spec.json", replace(run.spec, arms=random))
    run.write("arms.json", {"scratch": "nnUNetPlans"})
    found = planned(run, tmp_path)
    assert verdicts(found)["weights"] == "same"
    assert drifted(found.rows) == ()
    assert found.inputs.weights_pin == run.pins.weights


def test_a_run_without_weights_asks_for_none(run: RunFolder, tmp_path: Path) -> None:
    random = {"scratch": Arm(weights="random", plans="model")}
    run.write_spec("spec.json", replace(run.spec, arms=random))
    run.write("arms.json", {"scratch": "nnUNetPlans"})
    run.write("pins.json", replace(run.pins, weights=None))
    found = planned(run, tmp_path)
    assert verdicts(found)["weights"] == "same"
    assert found.inputs.weights is None
