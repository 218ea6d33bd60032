"""What a task finds in its environment, and its share of the GPUs."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.environment import job_environment, share, task_environment, visible_gpus

gpus = st.lists(st.integers(0, 99).map(str), unique=True, max_size=8).map(tuple)
slots = st.integers(1, 12)


@given(gpus.filter(len), slots)
def test_every_slot_gets_a_gpu_and_every_gpu_a_slot_as_far_as_they_go(
    items: tuple[str, ...], slots: int
) -> None:
    shares = [share(items, slot=slot, slots=slots) for slot in range(slots)]
    assert all(shares)
    uses = Counter(gpu for one in shares for gpu in one)
    if slots <= len(items):
        assert uses == Counter(items)  # each GPU in one slot only
    else:
        assert max(uses.values()) - min(uses.values()) <= 1  # shared out evenly


@given(slots, st.data())
def test_no_slot_gets_a_gpu_where_there_is_none(slots: int, data: st.DataObject) -> None:
    assert share((), slot=data.draw(st.integers(0, slots - 1)), slots=slots) == ()


def test_a_task_without_gpus_sees_none() -> None:
    found = task_environment(threads=1, cpus=1, work_folder="/w", visible_gpus="")
    assert found["CUDA_VISIBLE_DEVICES"] == ""


def test_libraries_use_the_slots_share_and_not_the_nodes_cpus() -> None:
    found = task_environment(threads=3, cpus=6, work_folder="/w", visible_gpus="1")
    assert {found[key] for key in found if key.endswith("_THREADS")} == {"3"}
    assert found["nnUNet_def_n_proc"] == "6"
    assert found["CUDA_VISIBLE_DEVICES"] == "1"


def test_caches_lie_in_the_work_folder() -> None:
    found = task_environment(threads=1, cpus=1, work_folder="/w/a b", visible_gpus=None)
    caches = {key: value for key, value in found.items() if "CACHE" in key or "CONFIG" in key}
    assert len(caches) == 4
    assert all(value.startswith("/w/a b/cache") for value in caches.values())


def test_a_site_that_confines_jobs_to_unnamed_gpus_keeps_its_choice() -> None:
    found = task_environment(threads=1, cpus=1, work_folder="/w", visible_gpus=None)
    assert "CUDA_VISIBLE_DEVICES" not in found


def test_a_task_has_one_locale_and_one_time_zone_everywhere() -> None:
    found = task_environment(threads=1, cpus=1, work_folder="/w", visible_gpus=None)
    assert (found["LC_ALL"], found["TZ"]) == ("C.UTF-8", "UTC")


def test_a_job_gets_what_is_named_and_there() -> None:
    shell = {"HOME": "/home/me", "PYTHONPATH": "/evil", "EMPTY": ""}
    names = ("HOME", "EMPTY", "MODULEPATH")
    assert job_environment(shell, names=names) == {"HOME": "/home/me", "EMPTY": ""}


@pytest.mark.parametrize(
    ("chosen", "found"),
    [(None, ("0", "1")), ("3,5,7", ("3", "5")), ("7", ("7",)), ("", ()), ("GPU-ab", ("GPU-ab",))],
)
def test_on_a_shared_machine_a_user_has_the_gpus_that_he_chose(
    chosen: str | None, found: tuple[str, ...]
) -> None:
    shell = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_gpus(shell, count=2) == found
