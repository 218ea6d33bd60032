"""A run folder with all that a run leaves behind, made here: two arms, two folds each.

Of one task the first attempt failed. What is in files that only their digests matter of is short.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ca_hpc.core import door
from ca_hpc.core.codec import encode
from ca_hpc.core.expand import expand
from ca_hpc.core.model import Pin, Runtime, TaskState
from ca_hpc.core.profile import Cluster
from ca_hpc.core.record import Attempt, Case, Cases, LabelFile, Origin, Pins, Result
from ca_hpc.core.run_record import File, Gpu, Image, Machine, Software
from ca_hpc.core.spec import JobSpec, completed
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, seal, write_seals

SPEC = """\
kind: finetune
name: neck
cluster: lab
data: [{type: bids, path: /data, label_suffix: _seg}]
weights: /model.pth
splits: {folds: 2}
training: {epochs: 3, seed: 7}
"""
DATASET = "Dataset501_neck"
MODEL = f"{DATASET}/nnUNetTrainer__nnUNetPlans__3d_fullres"
IMAGE = Image(
    File("/images/neck.sif", "ab" * 32, 512 << 20),
    recipe_sha256="12" * 32,
    versions={"ca-hpc": "0.1.0", "torch": "2.13.0", "cuda": "13.0"},
)
MACHINE = Machine(
    "node1", "AMD EPYC 9654", 8, 131072, "6.1.0", (Gpu("NVIDIA H100", 81559, "580.65.06"),)
)
SOFTWARE = Software({"ca-hpc": "0.1.0", "torch": "2.13.0", "cuda": "13.0"}, "0a1b")
RETRIED = "train-finetune-fold1"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def submitted(parent: Path) -> RunFolder:
    """As ``ca-hpc submit`` leaves it."""
    run = RunFolder.create(parent, "neck")
    spec = completed(door.read(JobSpec, SPEC, file="job.yaml"))
    cluster = door.read(Cluster, "name: lab\n", file="lab.yaml")
    flow = expand(
        spec,
        cluster,
        run_folder=str(run.path),
        runtime=Runtime("apptainer", "python3", Pin(IMAGE.file.path, IMAGE.file.sha256)),
        node_python="python3",
        mounts=(),
        test_sets=True,
    )
    run.file("job.yaml").write_text(SPEC)
    run.write_spec("spec.json", spec)
    run.write_spec("cluster.json", cluster)
    origins = (Origin("s1", "https://example.org/neck", ref="r1", commit="0b" * 20),)
    cases = tuple(_case(who, session) for who in ("anna", "ben") for session in ("1", "2"))
    run.write("cases.json", Cases(DATASET, {"cord": 1}, cases, origins=origins))
    run.write(
        "pins.json",
        Pins(
            ca_hpc="0.1.0",
            token="token",
            created="2025-01-01T08:00:00+00:00",
            weights=Pin("/model.pth", "cd" * 32),
            warnings=("few people",),
            image=IMAGE,
            host=Software({"ca-hpc": "0.1.0", "slurm": "22.05.8"}),
        ),
    )
    run.trainers.mkdir()
    (run.trainers / "my trainer.py").write_text("class MyTrainer: ...\n")
    write_seals(run.trainers / SEALS, seal(run.trainers, ("my trainer.py",)))
    compiled = run.trainers / "__pycache__/my trainer.cpython-311.pyc"  # by a task
    compiled.parent.mkdir()
    compiled.write_text(f"compiled from {run.trainers}")
    run.write("workflow.json", flow)
    return run


def finished(parent: Path) -> RunFolder:
    """As the report finds it."""
    run = submitted(parent)
    planned = run.preprocessed / DATASET
    planned.mkdir(parents=True)
    run.plans.mkdir()
    for folder in (planned, run.plans):
        (folder / "nnUNetPlans.json").write_text("{}")
    run.write("arms.json", dict.fromkeys(run.spec.arms, "nnUNetPlans"))
    run.write("splits.json", [])
    run.write("test_sets.json", {"test": []})
    run.write("data.json", {"files": []})
    (run.path / "evaluation").mkdir()
    (run.path / "evaluation" / "scores.csv").write_text("arm,dice\n")
    for page in ("data.html", "report.html"):
        run.file(page).write_text("<html></html>")
    for arm in run.spec.arms:
        for fold in run.spec.fold_indices:
            _publish(run, arm, fold)
        (run.path / "test" / arm / "test").mkdir(parents=True)
    for task in run.workflow.tasks:
        if task.id == RETRIED:
            attempt(run, task.id, state=TaskState.FAILED, hour=9)
        if task.id != "report":
            attempt(run, task.id, hour=10)
    attempt(run, "report", state=None, hour=12)
    return run


def attempt(
    run: RunFolder, task: str, *, state: TaskState | None = TaskState.COMPLETED, hour: int
) -> Path:
    """An attempt of an hour's time; None: it has not ended."""
    number, folder = run.new_attempt(task, job="101", restart=0)
    record = Attempt(number, "101", 0, "node1", 1, _time(hour), (), machine=MACHINE)
    run.write_attempt(folder, record)
    (folder / "software.json").write_text(encode(SOFTWARE))
    if task.startswith("train-"):
        start = {"event": "start", "torch_threads": 4, "workers": 3, "cpu_capability": "AVX2"}
        (folder / "progress.jsonl").write_text(json.dumps({**start, "cudnn": 92000}) + "\n")
    if state is not None:
        end(run, task, state=state, hour=hour)
    return folder


def end(run: RunFolder, task: str, *, state: TaskState, hour: int) -> None:
    """The end of the task's newest attempt, which took an hour."""
    folder = run.attempts(task)[-1]
    failed = state is not TaskState.COMPLETED
    failure = "gpu" if failed else None
    times = (_time(hour), _time(hour + 1), 3600.0)
    result = Result(task, folder.name, state, int(failed), *times, "node1", failure=failure)
    run.write_result(folder, result)


def _time(hour: int) -> str:
    return f"2025-01-01T{hour:02}:00:00+00:00"


def _case(who: str, session: str) -> Case:
    return Case(
        id=f"s1-{who}-{session}",
        source="s1",
        images=(f"/data/{who}-{session}.nii.gz",),
        labels=(LabelFile(f"/data/{who}-{session}-seg.nii.gz"),),
        subject=who,
        person=who,
        session=session,
        contrast="T2w",
    )


def _publish(run: RunFolder, arm: str, fold: int) -> None:
    folder = run.results(arm) / MODEL / f"fold_{fold}"
    (folder / "validation").mkdir(parents=True)
    (folder / "checkpoint_final.pth").write_text(f"{arm} {fold}")
    (folder / "validation" / "summary.json").write_text("{}")
    origin = {"weights_sha256": {str(fold): f"{fold}{fold}" * 32}, "tile_step": 0.5}
    (folder / "validation" / "predicted_by.json").write_text(json.dumps(origin))
