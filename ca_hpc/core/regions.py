"""Regions: labels that lie within each other (a lesion in the cord), learnt as nnU-Net does. Pure.

nnU-Net gives each region an output of its own, and writes them into one label map in turn: a later
one over an earlier one (``regions_class_order``). So outer regions come first, and each needs a
value for what is in it and in none inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def outer_first(regions: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The regions in the order of nnU-Net's ``labels``, their values ascending.

    Raises ValueError where a label map could not tell them apart.
    """
    found = {name: tuple(sorted(set(values))) for name, values in regions.items()}
    names = sorted(found, key=lambda name: (-len(found[name]), found[name]))
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            shared = set(found[name]) & set(found[other])
            if found[name] == found[other]:
                raise ValueError(f"{name} and {other} are the same values")
            if shared and shared != set(found[other]):
                raise ValueError(
                    f"{name} and {other} share {sorted(shared)} without one being in the other"
                )
    ordered = {name: found[name] for name in names}
    class_order(ordered)
    return ordered


def class_order(regions: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """nnU-Net's ``regions_class_order``: the value that each region is written with.

    ``regions`` as ``outer_first`` gives them. Raises ValueError where one has no value of its own.
    """
    out = []
    for name, values in regions.items():
        inside = [set(other) for other in regions.values() if set(other) < set(values)]
        own = set(values).difference(*inside)
        if not own:
            raise ValueError(f"{name} has no value that is not in the regions inside it")
        out.append(min(own))
    return tuple(out)
