"""Stage preprocess: fingerprint, plan, patch the plans, preprocess once per distinct data.

Ends with the checks that need the plans as written, so that no GPU waits for a job that would
die at loading the weights. All is done in the attempt's own folder and published by one rename:
trainings never see a part of it, nor the work of a copy of the task that ends late.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ca_hpc.core.expand import task_gpu_memory
from ca_hpc.core.profile import Model
from ca_hpc.core.spec import Arm, ByAxis, JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet import planning
from ca_hpc.nnunet.folders import CONFIGURATION, PLANNER_PLANS, set_folders, set_trainers
from ca_hpc.nnunet.plans import patch_plans, share_preprocessed, target_spacing
from ca_hpc.nnunet.sizes import memory_gib, patch_and_batch
from ca_hpc.steps.assembled import RECORD
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.steps.publication import publish
from ca_hpc.store import atomic
from ca_hpc.store.given import given_plans
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, seal, write_seals

DRAFT = "preprocessed"  # in the attempt's folder
ANISOTROPIC = 3  # nnU-Net's ANISO_THRESHOLD, which its trainer applies to the patch
MODEL = "model"  # the patched plans, beside those that are named by their planner
# what trainings read beside their plans
PLANNED_WITH = ("dataset.json", "dataset_fingerprint.json", "splits_final.json")

Kinds = Mapping[str, str]  # by arm: which plans it trains by
Plans = Mapping[str, dict[str, Any]]  # by kind


def preprocess(call: StepCall) -> None:
    """Write ``nnunet/preprocessed/DATASET``: plans, splits, data. And ``arms.json``, ``plans``."""
    run = call.run
    published = run.preprocessed / run.cases.dataset
    made_of = run.file(RECORD).read_text()
    if _made_of(published) == made_of:
        call.say(f"{published} is there already")
    else:
        _preprocess(call, made_of)
        _publish(call, published, made_of=made_of)
    _keep_plans(run, published)
    task = call.attempt.parent.parent.name
    for attempt in run.attempts(task):
        if attempt.name <= call.attempt.name:  # of attempts that were killed
            shutil.rmtree(attempt / DRAFT, ignore_errors=True)


def _made_of(preprocessed: Path) -> str | None:
    """The record of the raw data set that a preprocessed one was made of."""
    try:
        return (preprocessed / RECORD).read_text()
    except OSError:
        return None


def _publish(call: StepCall, target: Path, *, made_of: str) -> None:
    run = call.run
    draft = call.attempt / DRAFT / target.name
    if run.file(RECORD).read_text() != made_of:
        raise CaHpcError(
            f"{run.raw / target.name} was made anew meanwhile",
            hint="retry: it is then preprocessed as it is now",
        )
    if target.exists() and _made_of(target) != made_of:
        target.rename(call.attempt / DRAFT / "former")
    if not publish(draft, target):
        call.say(f"another attempt has published {target}: it stays")


def _keep_plans(run: RunFolder, published: Path) -> None:
    """Those that arms train by, to the byte: a rerun needs them when ``nnunet`` is gone."""
    names = sorted({f"{name}.json" for name in run.arm_plans.values()})
    run.plans.mkdir(exist_ok=True)
    for name in names:
        atomic.write_text(run.plans / name, (published / name).read_text(encoding="utf-8"))
    write_seals(run.plans / SEALS, seal(run.plans, names))


def _preprocess(call: StepCall, made_of: str) -> None:
    """Preprocess into the attempt's own folder."""
    run, spec = call.run, call.run.spec
    dataset = run.cases.dataset
    own = call.attempt / DRAFT
    set_folders(raw=run.raw, preprocessed=own, results=call.attempt / "results")
    folder = own / dataset
    folder.mkdir(parents=True, exist_ok=True)
    # before any training: nnU-Net writes them check-then-write from every fold (upstream #3064)
    shutil.copyfile(run.file("splits.json"), folder / "splits_final.json")
    call.say(f"fingerprint of {dataset}")
    planning.fingerprint(dataset, processes=call.cpus)
    kinds, plans = _given(call) or _made(call)
    by = share_preprocessed(list(plans.values()))
    for one in plans.values():
        planning.write_plans(one, folder)
    for name in dict.fromkeys(by):
        call.say(f"preprocess {dataset} by {name}")
        planning.preprocess(dataset, plans_name=name, processes=call.cpus)
    _check_trainers(spec, run)
    _check_weights(
        call, spec, folder / "dataset.json", plans={arm: plans[kind] for arm, kind in kinds.items()}
    )
    sealed = [*(f"{one['plans_name']}.json" for one in plans.values()), *PLANNED_WITH]
    write_seals(folder / SEALS, seal(folder, sealed))
    (folder / RECORD).write_text(made_of)
    # before the data set is there: by this a later attempt sees that nothing is left to do
    run.write("arms.json", {arm: plans[kind]["plans_name"] for arm, kind in kinds.items()})


def _made(call: StepCall) -> tuple[Kinds, Plans]:
    """What the planners make of the data, patched for the model where an arm wants that."""
    run, spec = call.run, call.run.spec
    kinds = {arm: _kind(setting, spec) for arm, setting in spec.arms.items()}
    return kinds, {
        kind: _patched(call, spec, run) if kind == MODEL else _planned(kind, spec, run)
        for kind in sorted(set(kinds.values()))
    }


def _given(call: StepCall) -> tuple[Kinds, Plans] | None:
    """The plans of the run that this is a rerun of; None: they are to be made."""
    given = given_plans(call.run)
    if not given:
        return None
    raw = call.run.raw / call.run.cases.dataset / "dataset.json"
    shutil.copyfile(raw, call.attempt / DRAFT / call.run.cases.dataset / raw.name)  # planners do
    call.say("plans as recorded")
    kinds = {arm: str(given[arm]["plans_name"]) for arm in call.run.spec.arms}
    # those first by whose name others' data go, as when they were made
    ordered = sorted(given.values(), key=_lends_no_data)
    return kinds, {str(one["plans_name"]): one for one in ordered}


def _lends_no_data(plans: Mapping[str, Any]) -> bool:
    identifier = plans["configurations"][CONFIGURATION]["data_identifier"]
    return bool(identifier != f"{plans['plans_name']}_{CONFIGURATION}")


def model_plans_name(model: Model) -> str:
    """nnU-Net's name of the patched plans: the results folder is named after it."""
    return f"{PLANNER_PLANS}_{model.name.replace('-', '_')}"


def _kind(arm: Arm, spec: JobSpec) -> str:
    """Which plans an arm trains by: the patched ones, or those of a planner, by its name."""
    return MODEL if arm.plans == "model" else arm.planner or spec.plans.planner


def _planned(planner: str, spec: JobSpec, run: RunFolder) -> dict[str, Any]:
    fixed = spec.plans.spacing
    return planning.plan(
        run.cases.dataset,
        planner,
        gpu_memory_mib=spec.plans.gpu_memory,
        spacing=target_spacing(fixed) if isinstance(fixed, ByAxis) else None,
    )


def _patched(call: StepCall, spec: JobSpec, run: RunFolder) -> dict[str, Any]:
    """The default planner's plans at the spacing asked for, with the model's network in them."""
    model = run.model
    if model is None or model.network is None:
        raise CaHpcError("the run's record names no network", hint="submit the job again")
    network, request = model.network, spec.plans
    planned = planning.plan(
        run.cases.dataset,
        "ExperimentPlanner",
        gpu_memory_mib=request.gpu_memory,
        spacing=target_spacing(_spacing(spec, model)),
        plans_name=model_plans_name(model),
    )
    patch, batch = patch_and_batch(
        planned,
        network,
        request,
        cases=len(run.cases.cases),
        memory_mib=request.gpu_memory or task_gpu_memory(spec, run.cluster, run.workflow),
    )
    patched = patch_plans(
        planned,
        network,
        plans_name=model_plans_name(model),
        patch_size=patch,
        batch_size=batch,
        axes=request.axes,
    )
    own = patched["configurations"][CONFIGURATION]
    call.say(
        f"{patched['plans_name']}: patch {_told(network.axes, patch)} voxels, batch {batch}, "
        f"spacing {' x '.join(f'{mm:g}' for mm in own['spacing'])} mm, about "
        f"{memory_gib(network, patch, batch_size=batch):.1f} GB of GPU memory"
    )
    if max(patch) / patch[0] > ANISOTROPIC:
        call.say(
            f"the patch is more than {ANISOTROPIC} times as long as along {network.axes[0]}: "
            "nnU-Net rotates and scales in the other two axes only (dummy 2D augmentation)"
        )
    return patched


def _spacing(spec: JobSpec, model: Model) -> ByAxis | None:
    """mm of the patched plans; None: the planner's choice."""
    wanted = spec.plans.spacing
    if isinstance(wanted, ByAxis):
        return wanted
    if wanted == "dataset" or (wanted is None and spec.plans.axes == "recipe"):
        return None
    return model.trained_on.spacing


def _check_trainers(spec: JobSpec, run: RunFolder) -> None:
    """Raise CaHpcError for a trainer that the trainings would not find."""
    from ca_hpc.nnunet.trainer_search import resolve_trainer

    set_trainers(run.trainers)
    for name in sorted({arm.trainer or spec.training.trainer for arm in spec.arms.values()}):
        resolve_trainer(name)


def _check_weights(
    call: StepCall, spec: JobSpec, dataset: Path, *, plans: Mapping[str, dict[str, Any]]
) -> None:
    """Load the weights into the network of each arm's plans, as the trainings will.

    ``dataset``: its ``dataset.json``.
    """
    pin = call.run.pins.weights
    if pin is None or not spec.pretrained:
        return
    from ca_hpc.nnunet.pretrained import load_into, verified_sha256
    from ca_hpc.nnunet.torch_tensors import as_torch
    from ca_hpc.weights.checkpoint import read_checkpoint

    verified_sha256(Path(pin.path), pin.sha256)
    tensors = as_torch(read_checkpoint(Path(pin.path)).tensors)
    for name, arm in spec.arms.items():
        if arm.weights != "random":
            network = planning.build_network(plans[name], json.loads(dataset.read_text()))
            loaded = load_into(network, tensors, stem=spec.stem, head=arm.head)
            call.say(f"weights fit the network of {name}: {len(loaded.loaded)} tensors")


def _told(axes: tuple[str, ...], numbers: list[int]) -> str:
    return " x ".join(f"{axis} {n}" for axis, n in zip(axes, numbers, strict=True))


if __name__ == "__main__":
    main(preprocess)
