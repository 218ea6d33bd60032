"""``progress.jsonl`` of an attempt: what it told of its course, and how far it came."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

# Event -> (done, total) of a progress bar, and what to add: epochs are told by their index.
_COUNTERS: Final = {
    "case": ("done", "total", 0),
    "fold": ("done", "total", 0),
    "validation": ("done", "total", 0),
    "epoch": ("epoch", "epochs", 1),
}


def read_events(attempt: Path) -> list[dict[str, Any]]:
    """The whole lines of an attempt's ``progress.jsonl``; one that is being written is left out."""
    file = attempt / "progress.jsonl"
    if not file.is_file():
        return []
    lines = file.read_text(errors="replace").split("\n")[:-1]
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut off by a kill; the next attempt's lines are whole again
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return events


def done_and_total(events: Sequence[Mapping[str, Any]]) -> tuple[int | None, int | None]:
    """Of the last thing that is counted: epochs, cases or folds."""
    for event in reversed(events):
        if event["event"] not in _COUNTERS:
            continue
        done_key, total_key, add = _COUNTERS[event["event"]]
        done, total = event.get(done_key), event.get(total_key)
        if isinstance(done, int) and isinstance(total, int):
            return done + add, total
    return None, None


def reached(events: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """How far an attempt came, to be compared with other attempts of the same task.

    Cases validated, predicted or prepared count before epochs saved, these before iterations.
    """
    place = (0, 0, 0)
    for event in events:
        match event["event"]:
            case "validation" | "case" | "fold":
                place = max(place, (_whole(event.get("done")), 0, 0))
            case "checkpoint":
                place = max(place, (0, _whole(event.get("epoch")), _whole(event.get("iteration"))))
    return place


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
