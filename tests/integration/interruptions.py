"""Interruptions of a training on SLURM: every way that a job is stopped, at every phase of it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ca_hpc.store.digests import sha256_file
from tests.integration.jobs import until, why
from tests.integration.watched import (
    EPOCHS,
    ITERATIONS,
    Lived,
    Scene,
    attempts,
    complaints,
    final_weights,
    tell_pace,
    weights,
)
from tests.lab import controls, leftovers, queue
from tests.lab.machine import LabError, must

Phase = Literal["before the first checkpoint", "mid-epoch", "in validation"]
PHASES: tuple[Phase, ...] = ("before the first checkpoint", "mid-epoch", "in validation")
# While a signal is awaited that SLURM sends when it likes: the phase must last until then.
SLOW_S = 2.5
NEXT_ATTEMPT_S = 240.0
FINE = {"PENDING", "RUNNING", "PREEMPTED", "UNKNOWN", "COMPLETED"}


@dataclass(frozen=True)
class Victim:
    """A training under way: its run, its task, the scheduler's job of the moment."""

    scene: Scene
    run: Path
    task: str

    def job(self) -> queue.Job:
        found = queue.job(self.scene.cluster, self.job_id())
        assert found is not None, f"SLURM knows nothing of {self.task}"
        return found

    def job_id(self) -> str:
        return str(self.status()["job"])

    def status(self) -> dict[str, Any]:
        return next(t for t in self.scene.site.status(self.run)["tasks"] if t["task"] == self.task)

    def attempts(self) -> list[Lived]:
        return attempts(self.run, self.task)

    def user(self, *argv: str) -> None:
        """A command of SLURM's, as the user."""
        done = self.scene.site.user.run(argv, env=self.scene.site.environment)
        assert done.returncode == 0, done.stderr

    def root(self, *argv: str) -> None:
        must(argv, env=self.scene.cluster.env, timeout=30)

    def pace(self, told: float | Literal["hold"] | None) -> None:
        """Seconds per iteration; ``hold``: go no further for now; None: as usual."""
        file = self.run / "tasks" / self.task / "pace"
        if told is None:
            return file.unlink(missing_ok=True)
        draft = file.with_name("pace.draft")
        draft.write_text(str(told))
        draft.replace(file)


def time_limit(victim: Victim) -> None:
    """The limit is set to the next whole minute but one, and reset for the time after."""
    job = victim.job()
    elapsed = time.time() - _started(victim, job.number)
    limit = int(elapsed // 60) + 2
    # not by its number: the last element's is that of the whole array
    own = victim.job_id()
    victim.root("scontrol", "update", f"JobId={own}", f"TimeLimit={limit}")
    before = len(victim.attempts())
    until(lambda: victim.job().state != "RUNNING" or len(victim.attempts()) > before, seconds=180)
    now = victim.job()
    if now.number == job.number:  # not another job in its place
        victim.root("scontrol", "update", f"JobId={own}", "TimeLimit=30")


def _started(victim: Victim, number: str) -> float:
    # an array's own number brings all of its elements
    told = must(["squeue", "-h", "-r", "-j", number, "-o", "%A %M"], env=victim.scene.cluster.env)
    clock = next(line.split()[1] for line in told.splitlines() if line.split()[0] == number)
    days, _, hours = clock.rpartition("-")
    parts = [float(part) for part in hours.split(":")]
    seconds: float = sum(part * 60**place for place, part in enumerate(reversed(parts)))
    return time.time() - seconds - 86400 * int(days or 0)


def signal_batch(victim: Victim) -> None:
    victim.user("scancel", "--signal=USR2", "--batch", victim.job_id())


def signal_steps(victim: Victim) -> None:
    """There are none: nobody gets it."""
    victim.user("scancel", "--signal=USR2", victim.job_id())


def signal_full(victim: Victim) -> None:
    victim.user("scancel", "--signal=USR2", "--full", victim.job_id())


def scancel(victim: Victim) -> None:
    """For good, until the user wants it after all."""
    victim.user("scancel", victim.job_id())
    until(lambda: victim.status()["state"] == "CANCELLED", seconds=60)
    until(lambda: victim.job().state in queue.OVER, seconds=60)
    done = victim.scene.site.ca_hpc("retry", str(victim.run), victim.task)
    assert done.returncode == 0, done.stderr


# The setting is the cluster's: one at a time on each.
PREEMPTING: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


def preempted(victim: Victim, *, warned: bool) -> None:
    victim.pace("hold")
    with PREEMPTING[victim.scene.cluster.root]:
        victim.pace(None if warned else SLOW_S)
        controls.set_preempt_signal(victim.scene.cluster, on=warned)
        job = victim.job()
        important = queue.preempt(victim.scene.cluster, job.node)
        queue.wait_for(victim.scene.cluster, important, queue.OVER, seconds=120)


def preempted_with_warning(victim: Victim) -> None:
    preempted(victim, warned=True)


def preempted_without_warning(victim: Victim) -> None:
    preempted(victim, warned=False)


def requeue(victim: Victim) -> None:
    victim.user("scontrol", "requeue", victim.job_id())


@dataclass(frozen=True)
class Kind:
    """``slow``: SLURM takes its time. ``stops``: whether the job is stopped at all."""

    name: str
    act: Callable[[Victim], None]
    slow: bool = False
    stops: bool = True


KINDS = (
    Kind("time limit", time_limit, slow=True),
    Kind("scancel --signal=USR2 --batch", signal_batch),
    Kind("preemption, warned", preempted_with_warning),
    Kind("preemption, not warned", preempted_without_warning),
    Kind("scontrol requeue", requeue),
    Kind("scancel", scancel),
    Kind("scancel --signal=USR2 --full", signal_full),
    Kind("scancel --signal=USR2", signal_steps, stops=False),
)


@dataclass(frozen=True)
class Interruption:
    kind: Kind
    phase: Phase

    def __str__(self) -> str:
        return f"{self.kind.name} {self.phase}"


def plan(kinds: Sequence[Kind], *, rng: random.Random, trainings: int) -> list[list[Interruption]]:
    """Per training one interruption in each phase; the kinds in turn, in random order."""
    endless = itertools.chain.from_iterable(
        rng.sample(kinds, len(kinds)) for _ in itertools.count()
    )
    return [[Interruption(next(endless), phase) for phase in PHASES] for _ in range(trainings)]


def interrupted_run(
    scene: Scene,
    plans: Sequence[Sequence[Interruption]],
    *,
    name: str,
    workers: int,
    rng: random.Random,
) -> list[str]:
    """Submit one training per plan, interrupt each as planned, and wait for the end.

    The same is trained undisturbed besides. ``workers``: augmentation processes. Returns what was
    done, a line per interruption. Raises AssertionError where anything was lost, or the weights
    differ in the end.
    """
    site = scene.site
    spec = scene.job(name, folds=len(plans))
    spec["training"]["workers"] = workers
    spec["resources"] = {"train": {"at_once": 3}}
    run = site.submit(site.write(name, spec))
    spec |= {"name": f"{name}-calm", "resources": {"train": {"at_once": 1}}}
    calm = site.submit(site.write(f"{name}-calm", spec))
    victims = [Victim(scene, run, f"train-finetune-fold{fold}") for fold in range(len(plans))]
    for victim in victims:
        tell_pace(scene, calm / "tasks" / victim.task, 0)
    seeds = [rng.random() for _ in victims]
    with ThreadPoolExecutor(len(victims)) as threads:
        courses = [
            threads.submit(interrupt_all, *each) for each in zip(victims, plans, seeds, strict=True)
        ]
    broken = [str(course.exception()) for course in courses if course.exception()]
    if broken:
        for each in (run, calm):
            site.ca_hpc("cancel", str(each))
    assert not broken, "\n".join(broken)
    for each in (run, calm):
        status = site.follow(each)
        assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(each, status)
        assert not queue.queued(scene.cluster, name=each.name)
    pretrained = sha256_file(weights(site))
    for victim in victims:
        lived = victim.attempts()
        wrong = complaints(lived, pretrained=pretrained, epochs=EPOCHS, per_epoch=ITERATIONS)
        assert not wrong, f"{run} {victim.task}: {wrong}"
    for fold in range(len(plans)):
        assert final_weights(run, fold) == final_weights(calm, fold), f"{workers=}, {fold=}"
    return [line for course in courses for line in course.result()]


@contextmanager
def nothing_left(uid: int) -> Iterator[None]:
    """What the user's jobs do within leaves no process and no mount on the machine."""
    before = leftovers.of_user(uid)
    yield
    end = time.monotonic() + 20
    while (left := leftovers.of_user(uid) - before) and time.monotonic() < end:
        time.sleep(0.5)
    assert not left, left


def interrupt_all(victim: Victim, planned: Sequence[Interruption], seed: float) -> list[str]:
    rng = random.Random(seed)
    told = []
    for each in planned:
        where = f"{victim.scene.cluster.traits.tracking}, {victim.task}: {each}"
        try:
            told.append(f"{where}: {interrupt(victim, each, rng=rng)}")
        except (AssertionError, LabError) as error:
            raise AssertionError(f"{where}: {error}") from error
        print(told[-1], flush=True)
    return told


def interrupt(victim: Victim, planned: Interruption, *, rng: random.Random) -> str:
    """Wait for the phase, interrupt, and wait for the next attempt; says where it went on."""
    MOMENTS[planned.phase](victim, rng)
    count = len(victim.attempts())
    if planned.kind.slow:
        victim.pace(SLOW_S)
    planned.kind.act(victim)
    if not planned.kind.stops:
        return "went on"
    until(lambda: len(victim.attempts()) > count or _over(victim), seconds=NEXT_ATTEMPT_S)
    victim.pace(None)
    now = victim.status()
    assert now["state"] in FINE, f"{planned}: {now}"
    lived = victim.attempts()
    assert len(lived) > count, f"{planned} came too late: {lived[-1].events[-1:]}"
    return f"attempt {count} ended after {len(lived[count - 1].iterations)} iterations"


def _over(victim: Victim) -> bool:
    return bool(victim.attempts()[-1].of("end")) and victim.attempts()[-1].of("end")[0]["finished"]


def before_the_first_checkpoint(victim: Victim, rng: random.Random) -> None:
    until(lambda: len(victim.attempts()) > 0, seconds=240)
    time.sleep(rng.uniform(1, 8))  # from Python's start in the image to the first iterations


def mid_epoch(victim: Victim, rng: random.Random) -> None:
    until(lambda: len(victim.attempts()[-1].iterations) >= 2, seconds=120)
    time.sleep(rng.uniform(0, 3))


def in_validation(victim: Victim, rng: random.Random) -> None:
    def validating() -> bool:
        last = victim.attempts()[-1]
        epochs = {event["epoch"] for event in last.of("epoch")}
        start = last.start
        return EPOCHS - 1 in epochs or (start is not None and start["epoch"] == EPOCHS)

    until(validating, seconds=240)
    time.sleep(rng.uniform(0.5, 5))


MOMENTS: dict[Phase, Callable[[Victim, random.Random], None]] = {
    "before the first checkpoint": before_the_first_checkpoint,
    "mid-epoch": mid_epoch,
    "in validation": in_validation,
}
