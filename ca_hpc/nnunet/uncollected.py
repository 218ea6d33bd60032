"""The garbage collector, kept out of the way while torch and nnU-Net are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import in here what brings a million objects: meanwhile no garbage is looked for.

    Else the collector goes through all that was imported so far, again and again, for a third of
    the time. What was imported stays as long as the process: it is left out for good (gc.freeze),
    which also keeps its memory shared with the processes that are forked from here.
    """
    collecting = gc.isenabled()
    gc.collect()  # what is garbage now must not be left out with the rest
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
