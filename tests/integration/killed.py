"""Trainers in the image killed by SIGKILL, again and again; each time SLURM starts them anew."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from ca_hpc.store.digests import sha256_file
from tests.integration.interruptions import NEXT_ATTEMPT_S, Victim
from tests.integration.jobs import until, why
from tests.integration.watched import Lived, Scene, final_weights, tell_pace, weights
from tests.lab import queue
from tests.trainer_kills import place

Instant = Literal["starting", "training", "writing", "validating"]
EPOCHS = 24  # of ten iterations: long enough that none ends before its last kill
PACE_S = 0.3
AT_MOST_S = 0.05  # between sight of a half-written checkpoint, which takes 0.2 s, and the kill
PATIENT = {"tries": 1000, "wait": "1s", "elsewhere": 1000}


def killed_and_compared(
    scene: Scene, *, anywhere: int, writing: int, trainings: int, rng: random.Random
) -> str:
    """Kill ``trainings`` side by side at random instants, and others while a checkpoint is written.

    The same is trained undisturbed besides. Returns what was done. Raises AssertionError where an
    attempt began anywhere but at the furthest checkpoint, or the weights differ in the end.
    """
    spec = scene.job("killed", folds=trainings, trainer="SlowWriter")
    spec["training"] |= {"epochs": EPOCHS, "checkpoint_every": "1s"}
    spec["retry"] = {"crash": PATIENT, "unknown": PATIENT, "no-progress": 1000}
    folds = range(trainings)
    run = scene.site.submit(scene.site.write("killed", spec))
    calm = scene.site.submit(scene.site.write("calm", {**spec, "name": "calm"}))
    victims = [Victim(scene, run, f"train-finetune-fold{fold}") for fold in folds]
    for victim in victims:
        for folder, pace in ((run, PACE_S), (calm, 0)):
            tell_pace(scene, folder / "tasks" / victim.task, pace)
    kinds: list[Instant] = ["writing"] * writing
    kinds += ["validating"] * trainings  # each one's last
    kinds += [rng.choice(("starting", "training", "training")) for _ in range(anywhere - trainings)]
    plans = dealt(kinds, trainings, rng=rng)
    seeds = [rng.random() for _ in victims]
    with ThreadPoolExecutor(trainings) as threads:
        courses = [
            threads.submit(kill_all, *each) for each in zip(victims, plans, seeds, strict=True)
        ]
    broken = [str(course.exception()) for course in courses if course.exception()]
    if broken:
        for each in (run, calm):
            scene.site.ca_hpc("cancel", str(each))
    assert not broken, "\n".join(broken)
    for each in (run, calm):
        status = scene.site.follow(each)
        assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(each, status)
        assert not queue.queued(scene.cluster, name=each.name)
    for victim, course in zip(victims, courses, strict=True):
        check(victim.attempts(), course.result(), pretrained=sha256_file(weights(scene.site)))
    for fold in folds:
        assert final_weights(run, fold) == final_weights(calm, fold), f"fold {fold}"
    attempts = sum(len(victim.attempts()) for victim in victims)
    return f"{len(kinds)} kills, {writing} of them while writing, {attempts} attempts"


def dealt(kinds: Sequence[Instant], hands: int, *, rng: random.Random) -> list[list[Instant]]:
    """To each training its share in random order, the validation's at the end."""
    last: Instant = "validating"
    others = [kind for kind in kinds if kind != last]
    rng.shuffle(others)
    return [[*others[hand::hands], last] for hand in range(hands)]


def kill_all(victim: Victim, plan: Sequence[Instant], seed: float) -> dict[int, tuple[int, int]]:
    """Kill as planned. Returns per attempt that followed a kill where it has to begin."""
    rng = random.Random(seed)
    expected: dict[int, tuple[int, int]] = {}
    until(lambda: len(victim.attempts()) > 0, seconds=240)
    for kind in plan:
        while not MOMENTS[kind](victim, rng):
            pass  # it was not as meant, and is tried in the next attempt
        count = len(victim.attempts())
        expected[count] = max(map(place, resume_files(victim)), default=(0, 0))
        print(f"{victim.task}, attempt {count}: killed {kind}, at {expected[count]}", flush=True)
        until(lambda count=count: len(victim.attempts()) > count, seconds=NEXT_ATTEMPT_S)
    victim.pace(0)
    return expected


def resume_files(victim: Victim) -> list[Path]:
    return list((victim.run / "tasks" / victim.task).glob("attempts/*/resume/resume-*.pt"))


def kill(victim: Victim) -> None:
    attempt = newest(victim)
    (pid,) = trainers(attempt)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not trainers(attempt), seconds=10)


def newest(victim: Victim) -> Path:
    return max((victim.run / "tasks" / victim.task / "attempts").glob("[0-9]*-*"))


def trainers(attempt: Path) -> list[int]:
    """The processes in the image that train this attempt; not those around it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            argv = (folder / "cmdline").read_bytes().decode().split("\0")
        except (OSError, ValueError):
            continue
        if "ca_hpc.steps.train" in argv and str(attempt) in argv and "exec" not in argv:
            found.append(int(folder.name))
    return found


def last(victim: Victim) -> Lived:
    return victim.attempts()[-1]


def starting(victim: Victim, rng: random.Random) -> bool:
    until(lambda: bool(trainers(newest(victim))), seconds=120)
    time.sleep(rng.uniform(0, 6))
    kill(victim)
    return True


def training(victim: Victim, rng: random.Random) -> bool:
    until(lambda: len(last(victim).iterations) > 0, seconds=120)
    time.sleep(rng.uniform(0, 4))
    kill(victim)
    return True


def writing(victim: Victim, rng: random.Random) -> bool:
    """While a checkpoint lies there half written; False if it was whole before the kill."""
    until(lambda: bool(trainers(newest(victim))), seconds=120)
    attempt = newest(victim)

    def partial() -> list[Path]:
        found = attempt.glob("results/*/*/*/.partial-*.pth")
        return [*attempt.glob("resume/.partial-*"), *found]

    for _ in range(rng.randint(1, 3)):  # which of the writes
        soon(lambda: not partial(), seconds=60)
        soon(lambda: bool(partial()), seconds=60)
    time.sleep(rng.uniform(0, AT_MOST_S))
    kill(victim)
    if partial():
        return True
    count = len(victim.attempts())
    until(lambda: len(victim.attempts()) > count, seconds=NEXT_ATTEMPT_S)
    return False


def validating(victim: Victim, rng: random.Random) -> bool:
    """After the last epoch, among the cases of the fold's validation."""
    victim.pace(0)
    until(lambda: EPOCHS - 1 in {e["epoch"] for e in last(victim).of("epoch")}, seconds=240)
    victim.pace(PACE_S)
    time.sleep(rng.uniform(0, 4))
    kill(victim)
    return True


MOMENTS: dict[Instant, Callable[[Victim, random.Random], bool]] = {
    "starting": starting,
    "training": training,
    "writing": writing,
    "validating": validating,
}


def soon(true: Callable[[], bool], *, seconds: float) -> None:
    """As ``until``, for what is over in a moment."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.005)


def check(lived: Sequence[Lived], expected: dict[int, tuple[int, int]], *, pretrained: str) -> None:
    """Each attempt after a kill began at the furthest checkpoint, and none was broken."""
    for number, one in enumerate(lived):
        assert not one.of("checkpoint-skipped") and not one.of("start-over"), one.name
        start: dict[str, Any] | None = one.start
        if start is None:  # it was killed before
            continue
        assert start["pretrained_sha256"] == pretrained, one.name
        resumed = Path(start["resumed_from"] or "").name
        if number in expected and resumed != "checkpoint_final.pth":
            assert (start["epoch"], start["iteration"]) == expected[number], one.name
            assert bool(resumed) == (expected[number] > (0, 0)), one.name
