"""Stage report: one self-contained HTML page about the run."""

from __future__ import annotations

from datetime import datetime, timezone

from ca_hpc.report.gather import gather
from ca_hpc.report.html import write_report
from ca_hpc.report.scores import write_comparison
from ca_hpc.steps.entry import StepCall, main


def report(call: StepCall) -> None:
    """Write ``report.html`` and ``evaluation/comparison.json``, also about a run that failed."""
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    target = call.run.file("report.html")
    content = gather(call.run, created=created)
    write_comparison(content.comparisons, call.run.path, summary=content.summary)
    write_report(content, target)
    call.say(f"report: {target}")


if __name__ == "__main__":
    main(report)
