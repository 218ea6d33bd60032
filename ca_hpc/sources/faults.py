"""What is wrong with the images that are taken, each in a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ca_hpc.core.data_spec import BidsSource, GitSource, MsdSource, NnunetSource, Scanned
from ca_hpc.core.record import Case
from ca_hpc.core.spec import JobSpec
from ca_hpc.sources.bids import no_labels
from ca_hpc.sources.files import trouble
from ca_hpc.sources.found import Found, Listing
from ca_hpc.sources.names import IMAGE_ENDINGS, first_three


def of_image(found: Found, *, fetched_later: bool) -> Iterator[str]:
    """Files that are not there or not files, one that is two things, names that are no names."""
    yield from found.problems
    start = f"{found.place}: " if found.place else ""
    images = [*map(str, found.images)]
    others = [*found.masks, *(label.path for label in found.labels)]
    for file in dict.fromkeys((*images, *others)):
        if not file.endswith(IMAGE_ENDINGS):
            yield f"{start}{file} is no .nii and no .nii.gz"
        elif (wrong := trouble(file, fetched_later=fetched_later)) is not None:
            yield start + wrong
    for file in sorted(set(images) & set(others)):
        yield f"{start}{file} is an image and its own label"
    for what in ("subject", "session", "contrast", "pathology"):
        value = getattr(found, what)
        if value is not None and not value.isprintable():  # cells of a table may hold lines
            yield f"{start}{found.stem}: its {what} {value!r} is more than a line of text"


def uneven(found: Sequence[Found], names: tuple[str, ...]) -> Iterator[str]:
    """Images with another number of channels than there are ``names``, or than the first has."""
    whole = [each for each in found if not each.problems]
    for each in whole:
        count = len(names or whole[0].images)
        if len(each.images) != count:
            like = "channel_names" if names else whole[0].images[0]
            yield f"{each.images[0]} has {len(each.images)} channels, {like} {count}"


def partial(found: Iterable[Found], *, name: str) -> Iterator[str]:
    """Of the source ``name``, images that have some of their files only, by what they lack."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in found:
        there = [label.label or "label" for label in each.labels]
        there += ["mask"] * (bool(each.masks) and not there)
        if there and each.lacking:
            key = (" and a ".join(there), " and no ".join(each.lacking))
            groups.setdefault(key, []).append(each.stem)
    for (has, lacks), stems in groups.items():
        images = (
            f"1 image of {name} has" if len(stems) == 1 else f"{len(stems)} images of {name} have"
        )
        yield f"{images} a {has} but no {lacks} file; left out: {first_three(stems)}"


def unlabelled(found: Sequence[Found], *, name: str) -> Iterator[str]:
    """Of a source of which some images have labels, those that have none."""
    none = [each.stem for each in found if not each.labels]
    if none and len(none) < len(found):
        images = "1 image" if len(none) == 1 else f"{len(none)} images"
        yield f"{images} of {name} without a label, left out: {first_three(none)}"


def nameless(source: Scanned, found: Sequence[Found], *, name: str) -> Iterator[str]:
    """Of a source whose files need not tell a subject, those that tell none."""
    if not isinstance(source, MsdSource | NnunetSource) or source.person is not None:
        return
    unnamed = (each for each in found if not each.row.get("subject"))
    none = [each.stem for each in unnamed if not each.subject.startswith("sub-")]
    if len(none) > 1:
        which = "" if len(none) == len(found) else f" that tells no subject ({first_three(none)})"
        yield (
            f"each image of {name}{which} counts as a person of its own; if some are of one "
            "person, say so: person: {pattern: …}"
        )


def nothing(
    source: Scanned,
    spec: JobSpec,
    listing: Listing,
    taken: Sequence[Found],
    *,
    name: str,
    remarks: Sequence[str],
) -> str:
    """Why a source has no cases. ``remarks``: of the filters."""
    if not listing.found:
        return listing.empty
    if not taken:
        keys = ("include", "exclude", "where", "contrasts", "sessions")
        given = [key for key in keys if getattr(source, key, ())]
        told = f"none of its {len(listing.found)} images is left by {' and '.join(given)}"
        return "; ".join([told, *remarks])
    if some := [*partial(taken, name=name)]:
        return "; ".join(some)
    if isinstance(source, BidsSource | GitSource):
        return no_labels(source, spec, taken[0])
    return f"none of its {len(taken)} images has a label"


def doubles(cases: Iterable[Case]) -> Iterator[str]:
    """Images that would become the same case."""
    seen: dict[str, str] = {}
    for case in cases:
        if case.id in seen:
            yield f"{case.images[0]} and {seen[case.id]} would both become case {case.id}"
        seen[case.id] = case.images[0]


def same_sources(by_key: Mapping[str, Sequence[Case]]) -> Iterator[str]:
    """Sources of one name: in a pack they have names of their own, and a name tells people apart.

    ``by_key``: the cases by what stands before problems.
    """
    seen: dict[str, str] = {}
    for key, cases in by_key.items():
        for name in dict.fromkeys(case.source for case in cases):
            if name in seen:
                yield f"{key}: has a source named {name}, as {seen[name]} has; give it another name"
            seen[name] = key
