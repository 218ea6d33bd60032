"""Durations, sizes and lengths as people and SLURM write them.

Inside the program a duration is whole seconds (``*_s``), a size whole MiB (``*_mib``) and a length
mm (``*_mm``).
"""

from __future__ import annotations

import re

_CLOCK = re.compile(r"^(?:(?P<d>\d{1,4})-)?(?P<h>\d{1,3}):(?P<m>[0-5]\d):(?P<s>[0-5]\d)$")
_NUMBER_UNIT = re.compile(r"^(?P<n>\d{1,9}(?:\.\d{1,9})?)\s*(?P<u>[A-Za-z]+)$")

_SECONDS = {
    "s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400,
}  # fmt: skip
# As in SLURM, 1 GB is 1024 MB; nobody asks a cluster for a power of ten.
_MIB = {
    "MB": 1, "MiB": 1, "M": 1, "GB": 1024, "GiB": 1024, "G": 1024,
    "TB": 1024**2, "TiB": 1024**2, "T": 1024**2,
}  # fmt: skip

_MM = {"mm": 1, "cm": 10}

# more is a slip of the pen, and could not be printed and read back exactly
MOST_S = 9999 * 86400
MOST_MIB = 64 * 1024**2
MOST_MM = 1000


def parse_duration(text: str) -> int:
    """Seconds in ``"24:00:00"``, ``"1-00:00:00"``, ``"90min"``, ``"3h"``, ``"45s"`` or ``"2d"``.

    Raises ValueError for anything else, zero and what no machine has included.
    """
    if clock := _CLOCK.match(text):
        days, hours, minutes, seconds = (int(clock[k] or 0) for k in "dhms")
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    elif (amount := _NUMBER_UNIT.match(text)) and amount["u"] in _SECONDS:
        total = round(float(amount["n"]) * _SECONDS[amount["u"]])
    else:
        raise ValueError(
            f'{text!r} is not a duration; write "24:00:00", "1-00:00:00", "90min", "3h" or "2d"'
        )
    if total <= 0:
        raise ValueError(f"{text!r}: a duration must be longer than nothing")
    if total > MOST_S:
        raise ValueError(f"{text!r}: a duration is at most {format_duration(MOST_S)}")
    return total


def parse_size(text: str) -> int:
    """MiB in ``"512MB"``, ``"16GB"`` or ``"1.5TB"`` (1 GB = 1024 MB, as in SLURM).

    Raises ValueError for anything else, zero and what no machine has included.
    """
    amount = _NUMBER_UNIT.match(text)
    if amount is None or amount["u"] not in _MIB:
        raise ValueError(f'{text!r} is not a size; write it with a unit, like "512MB" or "16GB"')
    total = round(float(amount["n"]) * _MIB[amount["u"]])
    if total <= 0:
        raise ValueError(f"{text!r}: a size must be at least 1MB")
    if total > MOST_MIB:
        raise ValueError(f"{text!r}: a size is at most {format_size(MOST_MIB)}")
    return total


def parse_length(text: str) -> float:
    """Millimetres in ``"30mm"``, ``"2.5 cm"`` or ``"0mm"``. Raises ValueError for anything else."""
    amount = _NUMBER_UNIT.match(text)
    if amount is None or amount["u"] not in _MM:
        raise ValueError(f'{text!r} is not a length; write it with a unit, like "30mm" or "3cm"')
    total = float(amount["n"]) * _MM[amount["u"]]
    if total > MOST_MM:
        raise ValueError(f"{text!r}: a length is at most {MOST_MM}mm")
    return total


def format_length(mm: float) -> str:
    """``30mm``."""
    return f"{mm:.12g}mm"


def format_duration(seconds: float) -> str:
    """``1-02:03:04`` or ``02:03:04``, the form that SLURM prints."""
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    clock = f"{hours:02d}:{minutes:02d}:{secs:02d}"
    return f"{days}-{clock}" if days else clock


def format_size(mib: int) -> str:
    """``16GB``, ``1.5GB`` or ``1300MB``: exact, since it is read back."""
    return f"{mib / 1024:g}GB" if mib % 512 == 0 and mib >= 1024 else f"{mib}MB"
