"""Stage prepare: one shard of the run's cases is converted into ``RUN/prepared``.

A case that cannot be used does not fail its shard: ``steps/assemble.py`` tells all of them at once.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from functools import partial

from ca_hpc.core.record import Case
from ca_hpc.imaging.conversion import Conversion, conversion_of
from ca_hpc.imaging.pool import in_pool
from ca_hpc.imaging.prepared import PreparedFolder
from ca_hpc.steps.assembled import is_assembled
from ca_hpc.steps.entry import StepCall, main


def prepare(call: StepCall) -> None:
    """Convert the cases of one shard that are not there yet. Raises CaHpcError."""
    spec, data = call.run.spec, call.run.cases
    conversion = conversion_of(spec, data)
    if is_assembled(call.run):
        call.say(f"{data.dataset} is there already")
        return
    mine = [case for case in data.cases if shard_of(case, spec.prepare.shards) == call.shard]
    new = convert_missing(call, mine, conversion, owner=f"shard{call.shard}")
    call.say(f"{len(mine)} cases in {call.run.prepared}, {new} of them new")


def convert_missing(
    call: StepCall, cases: Sequence[Case], conversion: Conversion, *, owner: str
) -> int:
    """Convert what has no record that still holds; how many these were. ``owner``: the task."""
    folder = PreparedFolder(call.run.prepared, call.run.data_seals)
    folder.create()
    folder.clean_drafts(owner)
    missing = [case for case in cases if folder.record(case, conversion) is None]
    drafts = folder.drafts(owner, call.attempt.name)
    work = partial(folder.prepare, conversion=conversion, drafts=drafts)
    there = len(cases) - len(missing)
    hint = "more of it: resources.prepare.memory; fewer at once: resources.prepare.cpus"
    ended = in_pool(work, missing, workers=call.cpus, hint=hint)
    for done, _ in enumerate(ended, start=there + 1):
        call.emit({"event": "case", "done": done, "total": len(cases)})
    shutil.rmtree(drafts)
    return len(missing)


def shard_of(case: Case, shards: int) -> int:
    """Which shard a case belongs to: the same whatever other cases there are."""
    return int(hashlib.sha256(case.id.encode()).hexdigest()[:8], 16) % shards


if __name__ == "__main__":
    main(prepare)
