"""The network of a job: of the profile that it names, or of its weights; and whether they fit."""

from __future__ import annotations

from dataclasses import replace

from ca_hpc.actions.job_weights import JobWeights, profiles_that_fit
from ca_hpc.core.profile import Model
from ca_hpc.core.spec import JobSpec
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.plans import check_patch
from ca_hpc.weights import check
from ca_hpc.weights.describe import disagreement, known_of_both
from ca_hpc.weights.manifest import Manifest


def model_of(spec: JobSpec, named: Model | None, weights: JobWeights | None) -> Model | None:
    """The model with its network: the ``named`` profile's, else the one that the weights describe.

    None where no arm needs one. Raises CaHpcError where there is none, or the weights do not fit.
    """
    needed = spec.pretrained or any(a.plans == "model" for a in spec.arms.values())
    if not needed:
        return None
    model = named or Model(name=check.UNNAMED)
    own = weights.manifest if weights else None
    network = model.network or (own.network if own else None)
    if network is None:
        raise _no_network(spec, named, own)
    if own is not None:
        if spec.pretrained:
            check.check_fit(own, network, name=model.name)
        if disagreement(model, own.network) is None:  # else it speaks of other axes
            model = replace(model, trained_on=known_of_both(model.trained_on, own.trained_on))
    if spec.plans.spacing == "model" and model.trained_on.spacing is None:
        raise CaHpcError(
            f"plans.spacing: model, but it is not known at which spacing {model.name} was trained",
            hint="spacing: dataset, or mm by axis: {RL: 1, AP: 1, SI: 1}",
        )
    found = replace(model, network=network)
    check_patch_of(spec, found)
    return found


def _no_network(spec: JobSpec, model: Model | None, own: Manifest | None) -> CaHpcError:
    named = f"profile {model.name} leaves its network to the weights" if model else None
    if own is None:
        return CaHpcError(
            f"{named or 'no model is named'}, and none are given",
            hint="weights: NAME-OR-FILE to read it from",
        )
    fitting = profiles_that_fit(own)
    return CaHpcError(
        (f"{named}, and " if named else "")
        + f"weights {spec.weights} do not say on which axes they were trained",
        hint=f"their tensors fit {' and '.join(fitting)}: model: {fitting[0]}, if they are that"
        if fitting
        else "no shipped profile has such a network: write one of your own (model: mine.yaml)",
    )


def check_patch_of(spec: JobSpec, model: Model | None) -> None:
    """Raise CaHpcError for a patch that the network cannot take, where both are known by now."""
    wanted = spec.plans.patch_size
    if model is not None and model.network is not None and wanted != "auto":
        check_patch(wanted or model.network.patch_size, model.network)
