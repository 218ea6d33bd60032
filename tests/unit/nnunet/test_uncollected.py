"""The collector is off while modules are imported, and leaves them out afterwards."""

from __future__ import annotations

import gc
import weakref

import pytest

from ca_hpc.nnunet.uncollected import uncollected


class Cycle:
    def __init__(self) -> None:
        self.own = self


def test_the_collector_is_off_within_and_on_again_behind() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_on_again_after_an_import_that_failed() -> None:
    with pytest.raises(ModuleNotFoundError), uncollected():
        import nowhere  # type: ignore[import-not-found] # noqa: F401
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_made_within_is_left_out_and_what_was_garbage_before_is_gone() -> None:
    garbage = weakref.ref(Cycle())
    before = gc.get_freeze_count()
    with uncollected():
        kept = [Cycle() for _ in range(100)]
    assert garbage() is None
    assert gc.get_freeze_count() >= before + len(kept)
