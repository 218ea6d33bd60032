"""The environment of a task: everything that nnU-Net and torch read from it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def job_environment(environment: Mapping[str, str], *, names: Iterable[str]) -> dict[str, str]:
    """What a job gets of the submitting shell's variables: those of these names, and no other."""
    return {name: environment[name] for name in names if name in environment}


def task_environment(
    *, threads: int, cpus: int, work_folder: str, visible_gpus: str | None
) -> Mapping[str, str]:
    """Variables of one task in its slot.

    ``threads``: of torch and the numeric libraries; they go into the record, since other numbers
    give other rounding. ``cpus``: of the slot; nnU-Net would otherwise take those of the node.
    ``visible_gpus``: ``"0"`` or ``"0,1"``, empty to hide them all, None to leave the choice to the
    site (one that confines jobs to their GPUs without naming them).
    """
    caches = f"{work_folder}/cache"
    out = {name: str(threads) for name in _THREAD_VARIABLES}
    out |= {
        "nnUNet_def_n_proc": str(cpus),
        "MPLCONFIGDIR": f"{caches}/matplotlib",
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/torchinductor",
        "TRITON_CACHE_DIR": f"{caches}/triton",
        "XDG_CACHE_HOME": caches,
        # names and texts of files, and times, are the same whatever the node's settings are
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    return out if visible_gpus is None else out | {"CUDA_VISIBLE_DEVICES": visible_gpus}


def visible_gpus(environment: Mapping[str, str], *, count: int) -> tuple[str, ...]:
    """The first ``count`` GPUs of a machine; of those that its user has chosen, where he has."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    named = tuple(map(str, range(count))) if chosen is None else tuple(chosen.split(","))
    return tuple(filter(None, named))[:count]


def share(items: tuple[str, ...], *, slot: int, slots: int) -> tuple[str, ...]:
    """The slot's share of GPUs: its own when there are enough, else one, taken in turn."""
    if not items:
        return ()
    if len(items) >= slots:
        return items[slot::slots]
    return (items[slot % len(items)],)
