"""What submitit pickles and calls on the node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ca_hpc.store.run_folder import RunFolder


class ElementCall:
    """Where the run is, which element, by which submission: two strings and a number."""

    def __init__(self, run_folder: str, element_id: str, submission: int) -> None:
        self.run_folder = run_folder
        self.element_id = element_id
        self.submission = submission

    def __call__(self) -> str:
        """Run the element; returns what follows, in words. Raises TaskFailed if it ends here."""
        # not at the top: what follows an element may be a submission of further calls
        from ca_hpc.continuation.element import run_element
        from ca_hpc.store.run_folder import RunFolder
        from ca_hpc.worker.node import Node

        run = RunFolder(Path(self.run_folder))
        return run_element(run, self.element_id, self.submission, node=Node.here())


def calls(run: RunFolder) -> Callable[[str, int], ElementCall]:
    """What makes the call of an element, given the number of its submission."""
    return lambda element, number: ElementCall(str(run.path), element, number)
