"""Failures injected into one fold of a training, what is said of them, and what runs again."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ca_hpc.attempts.history import history
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.shipped import shipped
from tests.integration.interruptions import SLOW_S, Victim
from tests.integration.jobs import until, why
from tests.integration.watched import Scene
from tests.lab import controls, leftovers, queue
from tests.lab.machine import must

FOLDS = 3
EARLY, LATE = 1, 2  # the fold that a fault hits; the late one starts when another has ended
AT_ONCE = 2
TMPFS_MB = 64


@dataclass(frozen=True)
class Trial:
    """A run with a fault in one of its folds."""

    scene: Scene
    run: Path
    fold: int

    @property
    def victim(self) -> Victim:
        return Victim(self.scene, self.run, task_of(self.fold))

    def task_folder(self) -> Path:
        """Made before the task begins; his who will write there."""
        folder = self.run / "tasks" / task_of(self.fold)
        folder.mkdir(parents=True, exist_ok=True)
        self.scene.site.own(folder.parent, folder)
        return folder

    def in_training(self) -> None:
        """Wait until the others have finished, and the victim trains, slowly."""
        self.task_folder()
        self.victim.pace(SLOW_S)
        self.others_have(finished)
        until(lambda: any(one.iterations for one in self.victim.attempts()), seconds=120)
        self.victim.pace(None)

    def others_have(self, what: Callable[[Victim], bool], *, seconds: float = 300) -> None:
        """Wait until it is true of the two folds that start first."""
        firsts = [Victim(self.scene, self.run, task_of(fold)) for fold in range(AT_ONCE)]
        until(lambda: all(map(what, firsts)), seconds=seconds)


def task_of(fold: int) -> str:
    return f"train-finetune-fold{fold}"


def started(victim: Victim) -> bool:
    return any(one.start for one in victim.attempts())


def finished(victim: Victim) -> bool:
    results = (victim.run / "tasks" / victim.task / "attempts").glob("*/result.json")
    return any('"COMPLETED"' in result.read_text() for result in results)


def nothing(trial: Trial) -> None:
    """It happened once, or cannot be mended."""


@dataclass(frozen=True)
class Fault:
    """``inject`` is called after the submission and may wait for its moment.

    ``failure`` is the class that is to be told, ``words`` a pattern that is to be found in the
    cause. ``comes_back``: by itself. ``change`` and ``profile``: of job and cluster profile.
    """

    name: str
    failure: str
    words: str
    inject: Callable[[Trial], None]
    mend: Callable[[Trial], None] = nothing
    fold: int = EARLY
    comes_back: bool = False
    mendable: bool = True
    folds: Sequence[int] = tuple(range(FOLDS))
    change: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)


def by_trainer(name: str) -> Callable[[Trial], None]:
    """The user's trainer does it, in the task that has a file of that content."""

    def inject(trial: Trial) -> None:
        file = trial.task_folder() / "fault"
        file.write_text(name)
        trial.scene.site.own(file)

    return inject


def output(scene: Scene) -> Path:
    return scene.site.folder / "output"


def fill_disk(trial: Trial) -> None:
    trial.in_training()
    filler = output(trial.scene) / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 12))


def free_disk(trial: Trial) -> None:
    (output(trial.scene) / "filler").unlink()


def results(trial: Trial) -> Path:
    (folder,) = (trial.run / "results").glob("*/*/*__*")
    return folder


def lock_results(trial: Trial) -> None:
    trial.in_training()
    results(trial).chmod(0o555)


def unlock_results(trial: Trial) -> None:
    results(trial).chmod(0o755)


def extra(scene: Scene) -> Path:
    return scene.site.folder / "extra"


def take_bind(trial: Trial) -> None:
    trial.others_have(started)
    extra(trial.scene).rename(extra(trial.scene).with_name("gone"))


def give_bind(trial: Trial) -> None:
    extra(trial.scene).with_name("gone").rename(extra(trial.scene))


def cut_image(trial: Trial) -> None:
    trial.others_have(started)
    image = trial.scene.image
    cut = image.with_name("cut.sif")
    with image.open("rb") as whole, cut.open("wb") as half:
        half.write(whole.read(image.stat().st_size // 2))
    cut.chmod(0o755)
    os.link(image, image.with_name("whole.sif"))
    cut.replace(image)


def restore_image(trial: Trial) -> None:
    image = trial.scene.image
    image.with_name("whole.sif").replace(image)


def lose_node(trial: Trial) -> None:
    """As by a power cut: slurmd, slurmstepd and the job, all at once."""
    victim = trial.victim
    until(lambda: any(len(one.iterations) >= 2 for one in victim.attempts()), seconds=240)
    job = victim.job()
    controls.node_daemon(trial.scene.cluster, job.node).kill()
    attempt = str(sorted((trial.run / "tasks" / victim.task / "attempts").iterdir())[0])
    cluster, run = f"{trial.scene.cluster.root}/", str(trial.run)
    # other labs have jobs of the same number: two marks each
    pids = naming(f"[{job.number}.batch]", cluster) | naming(attempt, run)
    pids |= naming(f"SLURM_JOB_ID={job.number}\0", run)
    for last_sight in (signal.SIGSTOP, signal.SIGKILL):  # none sees another one end
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, last_sight)
    queue.wait_for(trial.scene.cluster, victim.job_id(), ["PENDING"], seconds=120)
    controls.node_daemon(trial.scene.cluster, job.node).start()


def naming(*marks: str) -> set[int]:
    """Processes that name all of them."""
    found = [{pid for pid, _ in leftovers.processes_naming(mark)} for mark in marks]
    return set.intersection(*found) - {os.getpid()}


def cancel_stage_before(trial: Trial) -> None:
    tasks = trial.scene.site.status(trial.run)["tasks"]
    job = next(task["job"] for task in tasks if task["task"] == "preprocess")
    trial.victim.user("scancel", job)


SOON = {"retry": {"crash": {"wait": "5s"}, "unknown": {"wait": "5s"}, "node": {"wait": "5s"}}}

FAULTS = (
    Fault("exception", "code", "the loss is not a number", by_trainer("exception")),
    Fault("os._exit", "crash", "status 7", by_trainer("exit"), comes_back=True, change=SOON),
    Fault("segfault", "crash", "SIGSEGV", by_trainer("segfault"), comes_back=True, change=SOON),
    Fault(
        "memory", "host-memory", "memory", by_trainer("memory"), comes_back=True,
        change={"resources": {"train": {"memory": "2GB"}}},
    ),
    Fault(
        "time", "time", "time", by_trainer("hang"), comes_back=True,
        change={"resources": {"train": {"time": "2min"}}},
    ),
    Fault("disk full", "disk", "full|space", fill_disk, free_disk, fold=LATE),
    Fault(
        "read-only results", "access", "ermission|read-only", lock_results, unlock_results,
        fold=LATE,
    ),
    Fault(
        "missing bind", "access", "extra", take_bind, give_bind, fold=LATE,
        profile={"apptainer": {"binds": ["extra"]}},
    ),
    Fault("corrupt image", "changed", r"image\.sif", cut_image, restore_image, fold=LATE),
    Fault(
        "wrong GPU", "gpu", "torch sees none", nothing, mendable=False, folds=(EARLY,),
        profile={"gpus": {"fake": {
            "flag": "--gres=gpu:{count}", "cpus": 1, "ram": "2500MB", "device": "cuda",
        }}},
    ),
    Fault("node down", "node", "node", lose_node, comes_back=True, change=SOON),
    Fault("dependency failed", "dependency", "stage before", cancel_stage_before),
)  # fmt: skip
BY_NAME: Mapping[str, Fault] = {fault.name: fault for fault in FAULTS}


def fail_and_mend(scene: Scene, faults: Sequence[Fault], *, name: str) -> None:
    """Submit a run whose folds go wrong as planned, see what is said, mend it, retry, and compare.

    Several faults: one fold each, from ``EARLY`` on. Raises AssertionError.
    """
    single = len(faults) == 1
    fold_of = {fault.name: fault.fold if single else EARLY + i for i, fault in enumerate(faults)}
    folds = faults[0].folds if single else range(len(faults) + 1)
    run = submit(scene, faults, name=name, folds=folds)
    trials = {fault.name: Trial(scene, run, fold_of[fault.name]) for fault in faults}
    for fault in faults:
        fault.inject(trials[fault.name])
    status = scene.site.follow(run)
    tasks = {task["task"]: task for task in status["tasks"]}
    told = why(run, status)
    spared = [task_of(fold) for fold in folds if fold not in fold_of.values()]
    everywhere = "dependency" in {fault.failure for fault in faults}
    for task in [] if everywhere else spared:
        assert tasks[task]["state"] == "COMPLETED", told
    for fault in faults:
        check(fault, trials[fault.name], tasks[task_of(fold_of[fault.name])], told=told)
    assert not queue.queued(scene.cluster, name=run.name)

    stopped = [fault for fault in faults if not fault.comes_back and fault.mendable]
    if stopped:
        kept = [t for t in map(task_of, folds) if tasks[t]["state"] == "COMPLETED"]
        before = digests(run, kept)
        for fault in stopped:
            fault.mend(trials[fault.name])
        done = scene.site.ca_hpc("retry", str(run))
        assert done.returncode == 0, done.stderr
        status = scene.site.follow(run)
        again = {task["task"]: task for task in status["tasks"]}
        assert {task["state"] for task in again.values()} == {"COMPLETED"}, why(run, status)
        assert digests(run, kept) == before
        for task in map(task_of, folds):
            more = 0 if task in kept else 1
            assert again[task]["attempts"] == tasks[task]["attempts"] + more, task
    assert not queue.queued(scene.cluster, name=run.name)


def submit(scene: Scene, faults: Sequence[Fault], *, name: str, folds: Sequence[int]) -> Path:
    spec = scene.job(name, folds=0, of=max(FOLDS, len(folds)))
    spec["folds"] = list(folds)
    spec["training"] |= {"epochs": 1, "iterations_per_epoch": 8}
    spec["validation"]["mirroring"] = False
    spec["resources"] = {"train": {"at_once": AT_ONCE if len(faults) == 1 else len(folds)}}
    profile: dict[str, Any] = yaml.safe_load(shipped("configs", "clusters", "lab.yaml").read_text())
    for fault in faults:
        for key, value in fault.change.items():
            spec[key] = merge(spec.get(key, {}), value)
        profile |= fault.profile
    binds = profile.get("apptainer", {}).get("binds", [])
    for bind in binds:
        (scene.site.folder / bind).mkdir()
    if binds:
        profile["apptainer"] = {"binds": [str(scene.site.folder / bind) for bind in binds]}
    options = ["--cluster", str(scene.site.write(f"{name}-cluster", profile))]
    if "disk full" in {fault.name for fault in faults}:
        options += ["--output", str(small_disk(scene))]
    return scene.site.submit(scene.site.write(name, spec), *options)


def merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both; where both have a mapping, theirs are merged too."""
    both = {k: merge(one[k], other[k]) for k in one.keys() & other.keys()
            if isinstance(one[k], Mapping) and isinstance(other[k], Mapping)}  # fmt: skip
    return {**one, **other, **both}


def small_disk(scene: Scene) -> Path:
    folder = output(scene)
    folder.mkdir()
    options = f"size={TMPFS_MB}m,uid={scene.site.user.uid},mode=755"
    must(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder])
    return folder


def unmount(scene: Scene) -> None:
    if output(scene).is_mount():
        must(["umount", "--lazy", output(scene)])


def check(fault: Fault, trial: Trial, task: Mapping[str, Any], *, told: str) -> None:
    """The class, the sentence and the lines; of what came back by itself, those of its first."""
    past = history(RunFolder.open(trial.run), task["task"])
    if fault.comes_back:
        assert task["state"] == "COMPLETED" and task["attempts"] == 2, (fault.name, task, told)
        assert past and past[0].failure.value == fault.failure, (fault.name, past)
        return
    assert task["state"] != "COMPLETED", (fault.name, task)
    assert task["failure"] == fault.failure, (fault.name, task)
    assert re.search(fault.words, task["cause"]), (fault.name, task["cause"])
    assert "\n" not in task["cause"] and len(task["cause"]) < 400
    hosts = [one.node for one in past]
    if fault.failure == "gpu":
        assert len(set(hosts)) > 1, f"tried again on the same node: {hosts}"


def digests(run: Path, tasks: Sequence[str]) -> Mapping[str, str]:
    """Of all files of these folds: what their attempts left, and what they have published."""
    folders = [run / "tasks" / task for task in tasks]
    for task in tasks:
        folders += (run / "results").glob(f"*/*/*/fold_{task[-1]}")
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
