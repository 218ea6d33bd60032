"""Twelve failures, each in one fold of a run of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tests.integration.failures import BY_NAME, FAULTS, Fault, fail_and_mend, unmount
from tests.integration.interruptions import nothing_left
from tests.integration.watched import Scene, own_image

SIDE_BY_SIDE = 3
# A node that goes down takes the jobs of other runs with it.
ALONE = {"node down"}


def test_twelve_failures_are_told_and_mended(scenes: Sequence[Scene]) -> None:
    def one(fault: Fault) -> None:
        # every other one on the cluster with cgroups
        fail_in(scenes[FAULTS.index(fault) % len(scenes)], fault)

    with nothing_left(scenes[0].site.user.uid):
        together = [fault for fault in FAULTS if fault.name not in ALONE]
        with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
            runs = {fault.name: threads.submit(one, fault) for fault in together}
        failed = {name: str(run.exception()) for name, run in runs.items() if run.exception()}
        assert not failed, "\n".join(f"{name}: {said}" for name, said in failed.items())
        for name in ALONE:
            for scene in scenes:
                fail_in(scene, BY_NAME[name])


def test_memory_without_cgroups_is_told_too(scene: Scene) -> None:
    with nothing_left(scene.site.user.uid):
        fail_in(scene, BY_NAME["memory"])


def fail_in(scene: Scene, fault: Fault) -> None:
    """In a folder of its own, with an image of its own: both are damaged."""
    name = "".join(letter for letter in fault.name if letter.isalpha())
    folder = scene.site.folder / name
    folder.mkdir()
    shutil.chown(folder, scene.site.user.name)
    own = replace(
        scene, site=replace(scene.site, folder=folder), image=own_image(scene.image, folder)
    )
    try:
        fail_and_mend(own, [fault], name=name)
        print(f"{scene.cluster.traits.tracking}: {fault.name}: told as {fault.failure}", flush=True)
    finally:
        unmount(own)
