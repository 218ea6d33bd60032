"""One run of both arms for all tests here, and the report that their figures go into."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.checkpoints import write_checkpoint
from tests.gpu.figures import Report
from tests.gpu.images import write_images
from tests.gpu.setting import GPU, REHEARSAL, Setting
from tests.local_runs import status, submit, until

PEOPLE = 3
FIGURES = pytest.StashKey[str]()

ONE_GPU = """
name: here
executor: local
runtime: none
gpu: any
gpus: {{any: {{flag: "--gpus={{count}}", cpus: {cpus}, ram: 8GB}}}}
node: {{gpus: 1}}
"""

NO_GPU = """
name: here
executor: local
runtime: none
"""

# Both arms at once on the one GPU, as `pack` has them.
JOB = """
kind: finetune
name: gpu
cluster: here.yaml
data: [{{type: bids, path: data, label_suffix: _label-SC_seg}}]
weights: weights.pth
model: {model}
splits: {{folds: {people}}}
folds: [0]
arms:
  finetune: {{weights: pretrained, plans: model}}
  scratch: {{weights: random, plans: planner}}
plans: {{patch_size: {{RL: {patch[0]}, AP: {patch[1]}, SI: {patch[2]}}}, batch_size: 2}}
training: {{epochs: 1, iterations_per_epoch: 4, validation_iterations_per_epoch: 1}}
validation: {{tile_step: 1.0, mirroring: false}}
resources: {{train: {{cpus: {cpus}, gpus: {gpus}, pack: 2}}}}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rehearsal",
        action="store_true",
        help="the same code on the CPU with a small network; its figures mean nothing",
    )


@pytest.fixture(scope="session")
def setting(request: pytest.FixtureRequest) -> Setting:
    if request.config.getoption("rehearsal", default=False):
        return REHEARSAL
    if not torch.cuda.is_available():
        pytest.fail("torch finds no GPU here: take a machine with one and torch's CUDA build")
    return GPU


@pytest.fixture(scope="session")
def cpus(setting: Setting) -> int:
    """As many as are wanted at most, or as there are."""
    return min(max(setting.cpus), len(os.sched_getaffinity(0)))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, setting: Setting, cpus: int) -> Path:
    """The folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("run")
    write_images(folder / "data", people=PEOPLE, shape=setting.images)
    write_checkpoint(folder / "weights.pth", model=setting.model)
    on_gpu = setting.device == "cuda"
    (folder / "here.yaml").write_text(ONE_GPU.format(cpus=cpus) if on_gpu else NO_GPU)
    job = JOB.format(
        model=setting.model,
        people=PEOPLE,
        patch=setting.patch,
        cpus=cpus,
        gpus=1 if on_gpu else 0,
    )
    made = submit(folder, job)
    until(lambda: status(made)["ended"], seconds=1800, what="the run did not end")
    return made


@pytest.fixture(scope="session")
def report(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, setting: Setting
) -> Iterator[Report]:
    """Shown at the end, also after failures, and kept in the folder ``CA_HPC_GPU_OUT``."""
    report = Report(machine(setting))
    yield report
    out = Path(os.environ.get("CA_HPC_GPU_OUT") or tmp_path_factory.mktemp("figures"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.md").write_text(report.markdown())
    (out / "gpu.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    request.config.stash[FIGURES] = f"{report.markdown()}\nkept in {out}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if FIGURES in config.stash:
        terminalreporter.write_line(f"\n{config.stash[FIGURES]}")


def machine(setting: Setting) -> dict[str, str]:
    from importlib.metadata import version

    on_gpu = setting.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "CPU (a rehearsal: no figures)",
        "CUDA": str(torch.version.cuda),
        "torch": torch.__version__,
        "nnU-Net": version("nnunetv2"),
        "CPUs": str(len(os.sched_getaffinity(0))),
    }
