"""What the image costs: starting in it, importing the trainer, training, verifying it.

As an ordinary user, by the commands that the worker starts. Beside it the same without an image, by
the image's own packages: they are unpacked, so both sides have the same files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from ca_hpc.core.environment import task_environment
from ca_hpc.core.model import Command, Mount, Pin, Runtime, Stage, Task
from ca_hpc.images.record import verify_image
from ca_hpc.runtimes import wrap
from ca_hpc.store.digests import sha256_file
from ca_hpc.store.run_folder import RunFolder
from ca_hpc.store.seal import SEALS, read_seals
from ca_hpc.store.sif import system_partition
from ca_hpc.worker.command import Place, started_command
from ca_hpc.worker.staging import Staged
from ca_hpc.worker.unchanged import refuse_changes
from tests.bench.pairs import Timed, compare, in_turn, seconds, tell
from tests.bench.turns import TRAINERS, training
from tests.checkpoints import true_sized
from tests.integration.jobs import QUICK, HpcUser, Site, why
from tests.integration.watched import data_set, readable, weights
from tests.lab import apptainer
from tests.lab.host import host_python, system_python
from tests.lab.image import built_image
from tests.lab.machine import DEFAULT_USER, LOGIN_PATH, must, ordinary_user
from tests.lab.places import CHECKOUT, cache_root

PAIRS: Final = 7
QUICK_PAIRS: Final = 15
ITERATIONS: Final = 40
PACKAGES: Final = "opt/ca-hpc/venv/lib"
FLAGS: Final = ("-I", "-u", "-X", "faulthandler", "-c")  # as the worker starts Python
TRAINER: Final = "import ca_hpc.nnunet.trainer, nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
# glibc gives memory back and asks for it anew, 3000 to 9000 pages in an iteration, as chance has
# laid it out in a process: with an image or without, one is up to 5 % slower than the next.
STEADY: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


@dataclass(frozen=True)
class Bench:
    """An ordinary user's folder, and the two runtimes that are compared."""

    site: Site
    image: Path
    packages: Path

    @property
    def inside(self) -> Runtime:
        return Runtime("apptainer", "python3", Pin(str(self.image), ""))

    @property
    def outside(self) -> Runtime:
        return Runtime("none", str(self.packages / "bin/python"))

    def command(self, runtime: Runtime, *argv: str) -> Command:
        """``argv`` as a task of one thread."""
        work = self.work_folder(runtime)
        seen = "/tmp" if runtime.image else str(work)
        environment = task_environment(threads=1, cpus=1, work_folder=seen, visible_gpus="")
        return wrap(
            Command(argv, environment),
            runtime,
            mounts=(Mount(str(self.site.folder), writable=True),),
            work_folder=str(work),
            gpu=False,
            host_environment=self.environment,
            node_python=str(self.site.python),
        )

    def work_folder(self, runtime: Runtime) -> Path:
        folder = self.site.folder / f"work-{runtime.kind}"
        (folder / "home").mkdir(parents=True, exist_ok=True)
        self.site.own(folder, folder / "home")
        return folder

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": LOGIN_PATH, "HOME": str(self.site.folder)}

    def start(self, command: Command, *, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as stream:
            return subprocess.Popen(
                command.argv,
                env=dict(command.environment),
                cwd=self.site.folder,
                user=self.site.user.uid,
                group=self.site.user.uid,
                extra_groups=(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def timed(self, runtime: Runtime, *argv: str) -> Timed:
        return self.run(self.command(runtime, *argv))

    def run(self, command: Command) -> Timed:
        log = self.site.folder / "log.txt"

        def work() -> None:
            with self.start(command, log=log) as child:
                assert child.wait() == 0, log.read_text()

        return work


def measure(folder: Path) -> None:
    with_image = _bench(folder)
    _start(with_image)
    _imports(with_image)
    run = _finished_run(with_image)
    _verification(run)
    _iterations(with_image, run)


def _start(bench: Bench) -> None:
    ours, without = bench.timed(bench.inside, "true"), bench.timed(bench.outside, "true")
    target = "at most 0.2 s more"
    compare("exec true", ours, without, pairs=QUICK_PAIRS, what="no image", target=target)
    plain = ("apptainer", "exec", "--containall", str(bench.image), "true")
    compare(
        "exec true",
        ours,
        bench.run(Command(plain, bench.environment)),
        pairs=QUICK_PAIRS,
        what="apptainer exec --containall",
    )


def _imports(bench: Bench) -> None:
    inside = bench.timed(bench.inside, "python3", *FLAGS, TRAINER)
    outside = bench.timed(bench.outside, bench.outside.python, *FLAGS, TRAINER)
    files = [file for file in bench.packages.rglob("*") if file.is_file() and not file.is_symlink()]
    name, target = "importing the trainer", "at most 1.4 times"
    compare(name, inside, outside, pairs=PAIRS, what="no image", target=target)
    times = [(_cold(inside, [bench.image]), _cold(outside, files)) for _ in range(PAIRS)]
    tell(f"{name}, from the disk", times, what="no image")


def _cold(work: Timed, files: Iterable[Path]) -> float:
    """How long it takes when nothing of the files is in memory."""
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return seconds(work)


def _verification(run: RunFolder) -> None:
    pin = run.workflow.runtime.image
    assert pin is not None
    image, digest = Path(pin.path), pin.sha256
    target = "at most 5 ms"
    hashing = f"hashing its {image.stat().st_size / 1e6:.0f} MB"
    compare(
        "verifying the image, known",
        lambda: verify_image(image, digest, cache=run.digests),
        lambda: _hash(image, digest),
        pairs=PAIRS,
        what=hashing,
        target=target,
    )
    files = [file for file in (run.data_seals, *run.path.rglob(SEALS)) if file.exists()]
    count = 2 + sum(len(read_seals(file).files) for file in files)  # the image and the weights, too
    compare(
        f"verifying all {count} files of a training, known",
        lambda: refuse_changes(run, "train", Staged()),
        lambda: _hash(image, digest),
        pairs=PAIRS,
        what=hashing,
    )


def _hash(image: Path, expected: str) -> None:
    assert sha256_file(image) == expected


def _iterations(bench: Bench, run: RunFolder) -> None:
    """Two trainings at a time take turns; a pair is the median of either's iterations."""
    times = [_in_turns(bench, run) for _ in range(PAIRS)]
    name = f"a training iteration, one thread, {ITERATIONS} in turns"
    tell(name, times, what="no image", target="at most 1.03 times")


def _in_turns(bench: Bench, run: RunFolder) -> tuple[float, float]:
    _, task = _the_training(run)
    # nothing to continue, and nothing that is finished
    for made in (run.file("results"), run.file("tasks", task.id)):
        shutil.rmtree(made, ignore_errors=True)
    with ExitStack() as stack:
        inside, outside = (
            stack.enter_context(_training(bench, run, runtime))
            for runtime in (bench.inside, bench.outside)
        )
        pairs = in_turn(inside, outside, pairs=ITERATIONS)
    mine, other = (median(column) for column in zip(*pairs, strict=True))
    return mine, other


def _the_training(run: RunFolder) -> tuple[Stage, Task]:
    (stage,) = (stage for stage in run.workflow.stages if stage.name == "train")
    (task,) = stage.tasks
    return stage, task


def _training(bench: Bench, run: RunFolder, runtime: Runtime) -> AbstractContextManager[Timed]:
    flow = run.workflow
    stage, task = _the_training(run)
    _, attempt = run.new_attempt(task.id, job=runtime.kind, restart=0)
    bench.site.own(attempt)
    place = Place(
        attempt=str(attempt),
        work_folder=str(bench.work_folder(runtime)),
        slots=1,
        visible_gpus="",
        environment=bench.environment,
        runtime=runtime,
    )
    command = started_command(task, stage, replace(flow, threads=1), place)
    steady = STEADY | {f"APPTAINERENV_{name}": value for name, value in STEADY.items()}
    command = Command(command.argv, {**command.environment, **steady})
    return training(
        lambda: bench.start(command, log=attempt / "log.txt"),
        attempt=attempt,
        user=bench.site.user.name,
    )


# --- what it takes -------------------------------------------------------------------------------


def _bench(folder: Path) -> Bench:
    name = os.environ.get("CA_HPC_TEST_USER", DEFAULT_USER)
    user = HpcUser(name, ordinary_user(name).pw_uid)
    apptainer.ensure(name)
    python = host_python(CHECKOUT, cache=cache_root(), user=name)
    image = built_image(cache_root(), weights=true_sized(cache_root()))
    here = folder / "image"
    here.mkdir()
    site = Site(user, python, {"PATH": LOGIN_PATH}, here)
    site.own(here)
    return Bench(site, image, _unpacked(image, folder / "packages", user=name))


def _unpacked(image: Path, folder: Path, *, user: str) -> Path:
    """A virtual environment whose packages are the image's, byte code included."""
    must((system_python(user), "-m", "venv", "--without-pip", folder))
    shutil.rmtree(folder / "lib")
    offset = str(system_partition(image).offset)
    parts = folder.with_name("parts")
    must(("unsquashfs", "-no-progress", "-offset", offset, "-dest", parts, image, PACKAGES))
    (parts / PACKAGES).rename(folder / "lib")
    shutil.rmtree(parts)
    return folder


def _finished_run(bench: Bench) -> RunFolder:
    """Through the image, on this machine: its plans and data are what is trained on afterwards."""
    site = bench.site
    profile = site.write("here", {"name": "here", "executor": "local", "runtime": "apptainer"})
    trainers = site.folder / "trainers"
    shutil.copytree(TRAINERS, trainers, ignore=shutil.ignore_patterns("__pycache__"))
    readable(trainers)
    data = {"type": "bids", "path": str(data_set(site, people=4)), "label_suffix": "_label-SC_seg"}
    spec = {
        **QUICK,
        "kind": "finetune",
        "name": "bench",
        "cluster": str(profile),
        "image": str(bench.image),
        "data": [data],
        "weights": str(weights(site)),
        "model": "demo",
        "splits": {"folds": 2},
        "folds": [0],
        "arms": {"finetune": {"weights": "pretrained", "plans": "model"}},
        "trainers": str(trainers),
        "training": {
            "epochs": 1,
            "iterations_per_epoch": 2 * ITERATIONS,
            "validation_iterations_per_epoch": 1,
            "workers": 0,
            "trainer": "nnUNetTrainerInTurns",
        },
    }
    path = site.submit(site.write("bench", spec), "--detach")
    status = site.follow(path)
    assert {task["state"] for task in status["tasks"]} == {"COMPLETED"}, why(path, status)
    return RunFolder(path)
