"""The job on a node that looks after an element: who it is, and who takes over from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ca_hpc.attempts.history import current_result
from ca_hpc.core.model import Stage, TaskState
from ca_hpc.core.record import Submission, tasks_of
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.worker.node import Node


@dataclass(frozen=True, slots=True)
class Job:
    """One execution of a SLURM job of ours, seen from inside."""

    run: RunFolder
    node: Node
    submission: Submission
    element: str

    @property
    def id(self) -> str:
        return self.node.job

    @property
    def stage(self) -> Stage:
        return self.run.workflow.stage_of(self.element)[0]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that it is for: of the element's, what nobody has submitted anew since."""
        _, element = self.run.workflow.stage_of(self.element)
        return tasks_of(
            self.submission,
            self.element,
            [task.id for task in element.tasks],
            submissions=self.run.submissions(),
            job=self.id,
        )

    @property
    def open_tasks(self) -> tuple[str, ...]:
        """Of its tasks those that have not completed."""
        results = {task: current_result(self.run, task) for task in self.tasks}
        return tuple(
            task for task, r in results.items() if r is None or r.state is not TaskState.COMPLETED
        )

    @property
    def link(self) -> int:
        """Its index in a chain of links; 0 outside of chains."""
        if self.submission.links == 1:
            return 0
        return int(self.node.environment.get("SLURM_ARRAY_TASK_ID", "0"))

    @property
    def heirs(self) -> Sequence[Submission]:
        """Submissions that take over when this job has ended, whatever became of it."""
        return [s for s in self.run.submissions() if s.by == self.id and s.after == (self.id,)]
