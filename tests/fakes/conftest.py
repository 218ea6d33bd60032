"""A PATH with tiny scheduler programs: they note what they were asked and answer as told.

They are trusted only because the integration tier runs the same scenario on the real ones.
"""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.actions.prepare import Host
from ca_hpc.imaging.synthetic import write_dataset

PROGRAM = """#!{python} -ISE
import json, os, pathlib, re, signal, sys, time
folder = pathlib.Path({folder!r})
name = pathlib.Path(sys.argv[0]).name
with (folder / "calls.jsonl").open("a") as stream:
    text = pathlib.Path(sys.argv[-1]).read_text() if name == "sbatch" else ""
    marks = ("SLURM", "SBATCH", "SQUEUE", "SACCT", "SCANCEL", "SCONTROL")
    seen = {{key: value for key, value in os.environ.items() if key.startswith(marks)}}
    note = {{"program": name, "arguments": sys.argv[1:], "script": text, "environment": seen}}
    note["all"] = dict(os.environ)
    stream.write(json.dumps(note) + "\\n")
answers = json.loads((folder / "answers.json").read_text()).get(name, [])
count = sum(json.loads(l)["program"] == name for l in (folder / "calls.jsonl").open())
answer = answers[min(count, len(answers)) - 1] if answers else {{}}
queue = folder / "queue.json"
queued = json.loads(queue.read_text()) if queue.exists() else []
found = re.search(r"job (\\d+)", answer.get("stdout", ""))
job = found[1] if found else answer.get("queued")
if name == "sbatch" and not answers:
    job = str(max([100, *(int(j) for j, _ in queued)]) + 1)
    answer = {{"stdout": f"Submitted batch job {{job}}\\n"}}
if name == "sbatch" and job:
    queued.append([str(job), re.search(r"--job-name=(\\S+)", text)[1]])
    queue.write_text(json.dumps(queued))
if "forget" in answer:
    queue.write_text(json.dumps([q for q in queued if q[0] not in answer["forget"]]))
if name == "squeue" and not answers and "--name" in sys.argv:
    asked = sys.argv[sys.argv.index("--name") + 1]
    answer = {{"stdout": "".join(f"{{j}}_0|PENDING||None\\n" for j, n in queued if n == asked)}}
if answer.get("kill"):
    os.kill(os.getppid(), signal.SIGKILL)
time.sleep(answer.get("hang", 0))
sys.stdout.write(answer.get("stdout", ""))
sys.stderr.write(answer.get("stderr", ""))
sys.exit(answer.get("status", 0))
"""


@dataclass(frozen=True)
class FakeSlurm:
    """The fake programs of one test."""

    folder: Path

    def install(self, *names: str) -> None:
        for name in names:
            program = self.folder / "bin" / name
            program.write_text(PROGRAM.format(python=sys.executable, folder=str(self.folder)))
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def answer(self, answers: Mapping[str, list[dict[str, Any]]]) -> None:
        """Per program its answers in order; the last one goes on.

        Without any, ``sbatch`` gives the next id, and ``squeue --name`` knows what was submitted.
        ``queued``: a job all the same; ``kill``: the caller, with -9; ``hang``: seconds;
        ``forget``: jobs that are lost.
        """
        (self.folder / "answers.json").write_text(json.dumps(dict(answers)))

    @property
    def queue(self) -> list[tuple[str, str]]:
        """(id, name) of all jobs."""
        file = self.folder / "queue.json"
        return [(job, name) for job, name in json.loads(file.read_text())] if file.exists() else []

    def forget(self, *jobs: str) -> None:
        """Lose jobs, as a controller does that is killed."""
        left = [(job, name) for job, name in self.queue if job not in jobs]
        (self.folder / "queue.json").write_text(json.dumps(left))

    @property
    def calls(self) -> list[dict[str, Any]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.open()] if file.exists() else []

    def called(self, program: str) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["program"] == program]


def job_ids(*numbers: int) -> list[dict[str, Any]]:
    return [{"stdout": f"Submitted batch job {number}\n"} for number in numbers]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm")
    (fake.folder / "bin").mkdir(parents=True)
    fake.install("sbatch", "sacct", "squeue", "scancel", "scontrol")
    fake.answer({"sbatch": job_ids(101, 102, 103, 104, 105)})
    monkeypatch.setenv("PATH", str(fake.folder / "bin"))
    return fake


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(
        folder=tmp_path,
        python=sys.executable,
        cpus=2,
        cache=tmp_path / "cache",
        store=tmp_path / "store",
    )


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    write_dataset(folder, people=6, seed=3, contrasts=("T2starw",))
    return folder


@pytest.fixture
def job_file(tmp_path: Path, phantoms: Path, demo_checkpoint: Path) -> Path:
    """A small job without an image: what is submitted, not what runs, is looked at here."""
    (tmp_path / "weights.pth").hardlink_to(demo_checkpoint)
    file = tmp_path / "job.yaml"
    file.write_text(
        "kind: finetune\n"
        "name: fake\n"
        "cluster: lab\n"
        "runtime: none\n"
        f"data: [{{type: bids, path: {phantoms}, label_suffix: _label-SC_seg}}]\n"
        "weights: weights.pth\n"
        "model: demo\n"
    )
    return file
