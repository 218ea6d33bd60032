"""A training whose iterations are called for one by one, so that two of them can take turns."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.bench.pairs import Timed

TRAINERS: Final = Path(__file__).parent / "trainers"
LIMIT_S: Final = 120.0
LOOK_S: Final = 1.0


@contextmanager
def training(
    start: Callable[[], subprocess.Popen[bytes]], *, attempt: Path, user: str
) -> Iterator[Timed]:
    """Yields what does one iteration, once the first has been done. See ``trainers/in_turns.py``.

    ``start`` starts the training in the folder ``attempt``, as ``user``; it is ended afterwards.
    """
    go, done = attempt / "go", attempt / "done"
    for pipe in (go, done):
        os.mkfifo(pipe)
        shutil.chown(pipe, user)
    with ExitStack() as stack:
        # neither waits for the other side: Linux opens a pipe for both ways at once
        told = stack.enter_context(done.open("r+b", buffering=0))
        child = stack.enter_context(start())
        telling = stack.enter_context(go.open("r+b", buffering=0))
        stack.callback(child.terminate)  # before the pipe is closed, which lets it go on and see

        def until_done() -> None:
            end = time.monotonic() + LIMIT_S
            while not select.select([told], [], [], LOOK_S)[0]:
                alive = child.poll() is None and time.monotonic() < end
                assert alive, f"no further iteration:\n{(attempt / 'log.txt').read_text()[-3000:]}"
            told.read(1)

        def iterate() -> None:
            telling.write(b".")
            until_done()

        until_done()
        yield iterate
