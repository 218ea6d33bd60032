"""What is allowed and yet seldom meant: shown before submission, and kept in ``pins.json``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ca_hpc.actions.estimate import estimate, shortage
from ca_hpc.actions.prepare import Inputs, Job
from ca_hpc.core.expand import task_gpu_memory
from ca_hpc.core.model import Workflow
from ca_hpc.core.remarks import remarks
from ca_hpc.nnunet.sizes import check_memory
from ca_hpc.weights import check
from ca_hpc.weights.describe import disagreement


def warnings(job: Job, inputs: Inputs, flow: Workflow) -> tuple[str, ...]:
    """All of a job's, one sentence each."""
    network = inputs.model.network if inputs.model else None
    said = [*check.warnings(job.spec, inputs.model, labels=tuple(inputs.cases.targets))]
    if inputs.weights is not None and inputs.model is not None:
        own = inputs.weights.manifest
        doubt = disagreement(inputs.model, own.network)
        said += [*own.doubts, *([doubt] if doubt else [])]
        said += check.about_head(job.spec, own, labels=inputs.cases.labels)
    if network is not None and any(arm.plans == "model" for arm in job.spec.arms.values()):
        memory = job.spec.plans.gpu_memory or task_gpu_memory(job.spec, job.cluster, flow)
        said += check_memory(network, job.spec.plans, memory_mib=memory)
    said += shortage(estimate(job.spec, inputs.cases, runs=job.runs))
    return (
        *said,
        *_about_image(job, inputs),
        *remarks(inputs.cases),
    )


def _about_image(job: Job, inputs: Inputs) -> Iterator[str]:
    if job.runtime == "apptainer" and inputs.image is None:
        yield (
            f"image: {job.spec.image} is pulled by submission, and what is in it is not checked "
            f"before; now: ca-hpc image pull --cluster {shlex.quote(job.spec.cluster)} "
            f"{job.spec.image}, which prints a name for these bytes alone"
        )
