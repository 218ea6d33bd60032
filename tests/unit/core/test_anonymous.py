"""What goes into archives was decided field by field, also of types that are taken as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, get_args, get_type_hints

from ca_hpc.core import door
from ca_hpc.core.anonymous import anonymous_cases, anonymous_spec
from ca_hpc.core.profile import Model
from ca_hpc.core.pseudonyms import pseudonyms
from ca_hpc.core.record import Case, Cases, LabelFile, Origin
from ca_hpc.core.run_record import RunRecord
from ca_hpc.core.spec import JobSpec
from ca_hpc.images.record import ImageInfo
from ca_hpc.report.model import CaseScore

ROOTS: Final = (JobSpec, Model, Cases, RunRecord, ImageInfo, CaseScore)

# built field by field: one that is added stays behind
BUILT: Final = """
core.JobSpec: kind name cluster data weights model stem image runtime output labels regions
  mask_channels crop prepare plans splits folds arms training trainers validation threads stage
  retry max_gpu_hours resources
core.Cases: dataset labels cases channel_names mask_channels regions origins remarks
core.Case: id source images labels subject person session contrast people masks pathology split
  archive
core.Origin: source url ref commit sha256
core.RunRecord: format name created state host job spec cluster cases people ended data image
  weights splits test_sets trainers arms attempts results warnings rerun
core.Image: file content_sha256 recipe_sha256 reference versions
core.ArmRecord: plans settings folds
core.AttemptRecord: task attempt started state ended exit_code failure machine software
core.Machine: host cpu cpus memory_mib kernel gpus
core.Rerun: of allowed drift
images.ImageInfo: path sha256 size_bytes contents origin content_sha256 unasked
report.CaseScore: arm fold case person session contrast source label dice precision sensitivity
  relative_volume_difference split people
"""
# taken as they are: one that is added goes into archives, so it must name nobody and no place
WHOLE: Final = """
core.Label: value suffix from_values empty
core.Crop: to margin
core.Prepare: shards on_error empty_label header_tolerance
core.Plans: planner gpu_memory axes spacing patch_size batch_size
core.ByAxis: RL AP SI
core.PatchSize: RL AP SI
core.Folds: folds seed test
core.Shares: train val test seed
core.SplitFile: file
core.Arm: weights head plans planner epochs iterations_per_epoch initial_learning_rate warmup_epochs
  frozen_encoder_epochs trainer
core.Training: epochs iterations_per_epoch validation_iterations_per_epoch initial_learning_rate
  warmup_epochs frozen_encoder_epochs trainer seed workers checkpoint_every
core.Validation: tile_step mirroring checkpoint probabilities
core.Change: tries wait elsewhere more_memory most_memory
core.Model: name network trained_on release description licence citation
core.Network: axes patch_size batch_size arch_kwargs network_class_name requires_import
core.TrainedOn: orientation spacing crop channels
core.Release: url page sha256
core.LabelFile: path label
core.Software: versions commit
core.File: path sha256 size_bytes
core.Settings: trainer configuration epochs iterations_per_epoch validation_iterations_per_epoch
  seed initial_learning_rate warmup_epochs frozen_encoder_epochs weights threads workers
core.Fold: weights_sha256 checkpoint attempts
core.Gpu: name memory_mib driver
images.Contents: versions weights commit recipe_sha256 base_content_sha256 debian_packages
  python_packages
images.CarriedWeights: name path sha256 size_bytes manifest
images.Origin: inputs_sha256 base_sha256 built tools
"""
# fields of those above whose values stay behind, with whatever they are made of
LEFT: Final = {("JobSpec", "data"), ("JobSpec", "resources"), ("Rerun", "drift")}

CASE: Final = Case(
    id="s1-anna",
    source="s1",
    images=("0" * 64,),
    labels=(LabelFile("1" * 64),),
    subject="anna",
    person="anna",
    session="2024-05-06",
    contrast="T2w",
    archive="/data/anna.tar",
)


def decided(text: str) -> dict[str, list[str]]:
    """The fields of types, by the names of these."""
    lines = text.replace("\n  ", " ").strip().splitlines()
    return {name: told.split() for name, _, told in (line.partition(":") for line in lines)}


def made_of() -> Mapping[type, list[str]]:
    """The fields of everything that an archive's texts may be made of."""
    found: dict[type, list[str]] = {}
    left: list[Any] = list(ROOTS)
    while left:
        for kind in dataclasses_in(left.pop()):
            if kind not in found:
                found[kind] = [field.name for field in fields(kind)]
                hints = get_type_hints(kind).items()
                left += [hint for name, hint in hints if (kind.__name__, name) not in LEFT]
    return found


def dataclasses_in(hint: Any) -> Iterator[type]:
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for part in get_args(hint):
        yield from dataclasses_in(part)


def test_every_field_that_may_go_into_an_archive_was_decided_about() -> None:
    known = decided(BUILT) | decided(WHOLE)
    for kind, names in made_of().items():
        told = f"{kind.__module__.split('.')[1]}.{kind.__name__}"
        assert known.pop(told, None) == names, (
            f"decide in core/anonymous.py what of {told} goes into archives, and write it down here"
        )
    assert not known


def test_cases_go_by_other_names_and_places_stay_behind() -> None:
    cases = Cases(
        "Dataset501_neck",
        {"cord": 1},
        (CASE,),
        origins=(Origin("s1", "/data/anna.git", commit="0b"), Origin("s2", "https://x.org")),
        remarks=("anna has no label",),
    )
    other = anonymous_cases(cases, pseudonyms(cases))
    assert "anna" not in str(other) and "2024" not in str(other)
    assert [origin.url for origin in other.origins] == ["", "https://x.org"]
    kept = anonymous_cases(cases, None)
    assert kept.cases == (replace(CASE, archive=None),) and kept.remarks == ()


SPEC: Final = """\
kind: finetune
name: neck
cluster: /home/anna/lab.yaml
data: [{type: bids, path: /data/anna, label_suffix: _seg, exclude: [anna]}]
weights: /home/anna/model.pth
model: /home/anna/model.yaml
image: /home/anna/neck.sif
output: /home/anna/runs
splits: {file: /home/anna/splits.yaml}
trainers: /home/anna/trainers
resources: {train: {sbatch: {mail-user: anna}}}
"""


def test_of_a_job_all_settings_are_left_and_no_places() -> None:
    spec = door.read(JobSpec, SPEC, file="job.yaml")
    other = anonymous_spec(
        spec,
        cluster="lab",
        sources=["s1"],
        cases="cases.json",
        splits="given/splits.json",
        weights=None,
        model=None,
        trainers="trainers",
    )
    assert "anna" not in str(other)
    places = {"cluster", "data", "weights", "model", "image", "output", "splits", "trainers"}
    changed = {f.name for f in fields(spec) if getattr(spec, f.name) != getattr(other, f.name)}
    assert changed == places | {"resources"}
