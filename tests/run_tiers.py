"""Run the tests tier by tier, show a table, end with "N passed, N failed, N skipped".

Lint, unit tests, fakes and local runs go anywhere. The integration tier needs root on Debian or
Ubuntu, where its fixtures bring up real Apptainer and a throw-away SLURM cluster; what is left of
it is taken down here, however the tier ends.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from tests.lab import slurm
from tests.lab.machine import LabError
from tests.lab.places import CHECKOUT, LOGS, OFFLINE, SECOND, SPARE, cache_root
from tests.tally import Counts, Outcome, complaints, counts_in, table, total

BIN: Final = Path(sys.executable).parent
TEARDOWN_SECONDS: Final = 180.0


@dataclass(frozen=True)
class Step:
    """One command of a tier; for pytest, ``folders`` says where its tests are."""

    tier: str
    name: str
    argv: tuple[str, ...]
    folders: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        return LOGS / f"{self.tier}-{self.name.replace(' ', '-')}.log"

    @property
    def junit(self) -> Path:
        return LOGS / f"{self.tier}.xml"


def lint(name: str, program: str, *arguments: str) -> Step:
    return Step("lint", name, (str(BIN / program), *arguments))


def pytest(tier: str, *folders: str, options: tuple[str, ...]) -> Step:
    return Step(tier, "pytest", (sys.executable, "-m", "pytest", *options), folders)


STEPS: Final = (
    lint("ruff check", "ruff", "check", "."),
    lint("ruff format", "ruff", "format", "--check", "."),
    lint("mypy", "mypy"),
    lint("imports", "lint-imports"),
    pytest("unit", "tests/unit", "tests/golden", options=("-q", "-n2", "--dist=loadgroup")),
    pytest("fakes", "tests/fakes", options=("-q",)),
    # a line per test: these take minutes; a file's tests share what they set up
    pytest("local", "tests/local", options=("-v", "-n2", "--dist=loadfile", "--durations=10")),
    pytest("integration", "tests/integration", options=("-v", "--durations=10")),
)
TIERS: Final = tuple(dict.fromkeys(step.tier for step in STEPS))


def with_tests(folders: Sequence[str]) -> list[str]:
    return [folder for folder in folders if any((CHECKOUT / folder).rglob("test_*.py"))]


def why_not(step: Step) -> str | None:
    """Why ``step`` cannot run here."""
    if step.folders and not with_tests(step.folders):
        return f"no tests in {' and '.join(step.folders)}"
    if step.name == "imports" and not has_import_contracts():
        return "no import contracts"
    if step.tier == "integration" and os.geteuid() != 0:
        return "needs root: it installs Apptainer and SLURM and brings up a cluster of its own"
    if step.tier == "integration" and shutil.which("apt-get") is None:
        return "needs Debian or Ubuntu: it installs their packages"
    return None


def has_import_contracts() -> bool:
    if (CHECKOUT / ".importlinter").exists():
        return True
    return "[tool.importlinter" in (CHECKOUT / "pyproject.toml").read_text()


def perform(step: Step) -> Outcome:
    """Run one step unless there is a reason not to."""
    reason = why_not(step)
    if reason:
        print(f"\n== {step.tier}: {step.name}: skipped, {reason}", flush=True)
        return Outcome(step.tier, step.name, "skipped", reason)
    print(f"\n== {step.tier}: {step.name} (log: {step.log.relative_to(CHECKOUT)})", flush=True)
    began = time.monotonic()
    argv = step.argv
    if step.folders:
        step.junit.unlink(missing_ok=True)
        argv = (*argv, f"--junitxml={step.junit}", *with_tests(step.folders))
    try:
        with own_cluster() if step.tier == "integration" else nullcontext():
            status = stream(argv, log=step.log)
    except LabError as error:
        print(f"lab: {error}", flush=True)
        status = 1
    seconds = time.monotonic() - began
    counts = tests_of(step, status=status)
    if status == 0:
        return Outcome(step.tier, step.name, "passed", "", counts, seconds)
    why = f"exit status {status}, see {step.log.relative_to(CHECKOUT)}"
    return Outcome(step.tier, step.name, "failed", why, counts, seconds)


def tests_of(step: Step, *, status: int) -> Counts | None:
    if not step.folders:
        return None
    counts = counts_in(step.junit.read_text()) if step.junit.exists() else Counts()
    # pytest that ended before it could name a test that failed has failed all the same
    return counts + Counts(failed=1) if status and not counts.failed else counts


@contextmanager
def own_cluster() -> Iterator[None]:
    """Name a folder for the tier's clusters; whatever is up in it at the end is taken down."""
    if os.environ.get("CA_HPC_TEST_SLURM"):
        yield
        return
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir=cache_root()))
    os.environ["CA_HPC_TEST_SLURM"] = str(root)
    taken_down_by = f"python3.11 -m tests.lab.slurm down --wipe --root {root}"
    print(f"should this be killed: {taken_down_by}", flush=True)
    try:
        yield
    finally:
        del os.environ["CA_HPC_TEST_SLURM"]
        for suffix in ("", SECOND, SPARE, OFFLINE):
            each = root.with_name(f"{root.name}{suffix}")
            slurm.down(each, wipe=True)
            if each.exists():
                each.rmdir()


def stream(argv: Sequence[str], *, log: Path) -> int:
    """Run ``argv``, its output on the terminal and in ``log``; return its exit status.

    It has a session of its own, so that Ctrl-C interrupts it once only: a second interrupt would
    stop pytest in the middle of its teardown.
    """
    with (
        log.open("wb") as file,
        subprocess.Popen(
            argv,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            while chunk := child.stdout.read(65536):
                file.write(chunk)
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            return child.wait()
        except KeyboardInterrupt:
            print("\ninterrupted; taking down what was brought up ...", flush=True)
            child.send_signal(signal.SIGINT)
            file.write(last_words(child))
            raise


def last_words(child: subprocess.Popen[bytes]) -> bytes:
    """What ``child`` says until it ends; it is killed when that takes too long."""
    try:
        return child.communicate(timeout=TEARDOWN_SECONDS)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()[0]


def interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.run_tiers", description=__doc__)
    parser.add_argument("tiers", nargs="*", metavar="TIER", help=f"{', '.join(TIERS)}; none: all")
    parser.add_argument("--require-all", action="store_true", help="a skipped test is a failure")
    given = parser.parse_args()
    unknown = sorted(set(given.tiers) - set(TIERS))
    if unknown:
        parser.error(f"no tier {', '.join(unknown)}; there are {', '.join(TIERS)}")
    signal.signal(signal.SIGTERM, interrupt)
    LOGS.mkdir(parents=True, exist_ok=True)
    if given.require_all:
        os.environ["CA_HPC_TEST_REQUIRE_ALL"] = "1"
    try:
        outcomes = [perform(step) for step in STEPS if not given.tiers or step.tier in given.tiers]
    except KeyboardInterrupt:
        return 130
    found = complaints(outcomes, require_all=given.require_all)
    print("", table(outcomes), *(f"FAIL {line}" for line in found), total(outcomes), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
