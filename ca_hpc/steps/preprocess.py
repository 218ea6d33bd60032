"""Stage preprocess: fingerprint, plan, patch the plans, preprocess once per distinct plans.

Ends with the checks that need the plans as written, so that no GPU waits for a job that would
die at loading the weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ca_hpc.core.profile import Model
from ca_hpc.core.spec import FinetuneSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet import planning
from ca_hpc.nnunet.folders import CONFIGURATION, PLANNER_PLANS, set_folders
from ca_hpc.nnunet.plans import model_from_network, patch_plans
from ca_hpc.steps.entry import StepCall, main
from ca_hpc.store.run_folder import RunFolder


def preprocess(call: StepCall) -> None:
    """Write ``nnunet/preprocessed/DATASET``: plans, splits, data."""
    run, spec = call.run, call.run.spec
    dataset = run.cases.dataset
    set_folders(raw=run.raw, preprocessed=run.preprocessed, results=call.attempt / "results")
    folder = run.preprocessed / dataset
    folder.mkdir(parents=True, exist_ok=True)
    # before any training: nnU-Net writes them check-then-write from every fold (upstream #3064)
    shutil.copyfile(run.file("splits.json"), folder / "splits_final.json")
    checkpoint = _read_weights(run)
    call.say(f"fingerprint of {dataset}")
    planning.fingerprint(dataset, processes=call.cpus)
    plans = {"planner": planning.plan(dataset, spec.plans)}
    if any(arm.plans == "model" for arm in spec.arms.values()):
        model = _model(spec, run, checkpoint)
        plans["model"] = patch_plans(
            plans["planner"], model, plans_name=model_plans_name(model), request=spec.plans
        )
        planning.write_plans(plans["model"], folder)
    done: set[str] = set()
    for kind in sorted({arm.plans for arm in spec.arms.values()}):
        identifier = plans[kind]["configurations"][CONFIGURATION]["data_identifier"]
        if identifier not in done:
            call.say(f"preprocess {dataset} as {identifier}")
            planning.preprocess(dataset, plans_name=plans[kind]["plans_name"], processes=call.cpus)
            done.add(identifier)
    names = {arm: plans[setting.plans]["plans_name"] for arm, setting in spec.arms.items()}
    if checkpoint is not None:
        _check_weights(call, spec, plans, checkpoint, folder)
    run.write("arms.json", names)


def model_plans_name(model: Model) -> str:
    """nnU-Net's name of the patched plans: the results folder is named after it."""
    return f"{PLANNER_PLANS}_{model.name.replace('-', '_')}"


def _read_weights(run: RunFolder) -> dict[str, Any] | None:
    pin = run.pins.weights
    if pin is None:
        return None
    from ca_hpc.nnunet.pretrained import read_checkpoint, verified_sha256

    verified_sha256(Path(pin.path), pin.sha256)
    return read_checkpoint(Path(pin.path))


def _model(spec: FinetuneSpec, run: RunFolder, checkpoint: dict[str, Any] | None) -> Model:
    """The named profile, as recorded at submission, or what the checkpoint says about itself."""
    recorded = run.model
    if recorded is not None:
        return recorded
    from ca_hpc.nnunet.pretrained import describe_network

    network = describe_network(checkpoint) if checkpoint is not None else None
    if network is None:
        raise CaHpcError(
            f"{spec.weights} does not say which network it belongs to (no init_args.plans)",
            hint="name its network: model: NAME (a profile in configs/models)",
        )
    return model_from_network(
        name="pretrained",
        architecture=network.architecture,
        patch_size=network.patch_size,
        spacing=network.spacing,
        transpose_forward=network.transpose_forward,
    )


def _check_weights(
    call: StepCall,
    spec: FinetuneSpec,
    plans: dict[str, dict[str, Any]],
    checkpoint: dict[str, Any],
    folder: Path,
) -> None:
    from ca_hpc.nnunet.pretrained import load_into, network_of

    dataset_json = json.loads((folder / "dataset.json").read_text())
    for kind in sorted({a.plans for a in spec.arms.values() if a.weights == "pretrained"}):
        network = planning.build_network(plans[kind], dataset_json)
        loaded = load_into(network, network_of(checkpoint))
        call.say(f"weights fit the {kind}'s plans: {len(loaded.loaded)} tensors")


if __name__ == "__main__":
    main(preprocess)
