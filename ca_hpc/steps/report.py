"""Stage report: one self-contained HTML page about the run, and its record."""

from __future__ import annotations

from datetime import datetime, timezone

from ca_hpc.report.gather import gather
from ca_hpc.report.html import write_report
from ca_hpc.report.run_files import write_run_files
from ca_hpc.report.scores import write_comparison
from ca_hpc.steps.entry import StepCall, main


def report(call: StepCall) -> None:
    """Write the page, ``evaluation/comparison.json`` and the run's record, which names both.

    Also about a run that failed.
    """
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    target = call.run.file("report.html")
    content = gather(call.run, created=created)
    write_comparison(content.comparisons, call.run.path, summary=content.summary)
    write_report(content, target)
    write_run_files(call.run)
    call.say(f"report: {target}")


if __name__ == "__main__":
    main(report)
