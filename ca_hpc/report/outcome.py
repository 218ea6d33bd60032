"""What came out, in plain sentences: for the top of the page and for the terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from statistics import fmean
from typing import Final, Literal

from ca_hpc.report.comparison import ALPHA
from ca_hpc.report.model import VALIDATION, CaseScore, Comparison
from ca_hpc.report.tables import grouped, per_person

Standing = Literal["behind", "level", "ahead", "open", "few"]

# A mean Dice below it is no segmentation: differences between such arms are noise among failures
NOTHING: Final = 0.1
UNSEEN: Final = " (never seen in training)"

# How the pretrained arms stand against a control of each kind
VERDICTS: Final[Mapping[str, Mapping[Standing, str]]] = {
    "random": {
        "behind": "Training from scratch did better here: {baseline} beat {arms}.",
        "level": "Training from scratch did at least as well here: on average {arms} brought no "
        "gain over {baseline}. That {baseline} is better is not clear.",
        "ahead": "Fine-tuning did better here than training from scratch: {arms} beat {baseline}.",
        "open": "Fine-tuning and training from scratch cannot be told apart here: {arms} did "
        "better than {baseline} on average, but not clearly.",
        "few": "{arms} did better than {baseline}, training from scratch, on average; with so few "
        "people no test can tell whether that is chance.",
    },
    "shuffled": {
        "behind": "The shuffled control did better here: {baseline} beat {arms}. "
        "The pretrained features did not help beyond the scale of their values.",
        "level": "The shuffled control did at least as well here: on average {arms} brought no "
        "gain over {baseline}. No help of the pretrained features beyond their scale is seen.",
        "ahead": "The pretrained features helped beyond their scale: {arms} beat {baseline}, the "
        "shuffled control.",
        "open": "Whether the pretrained features helped beyond their scale cannot be told: {arms} "
        "did better than {baseline}, the shuffled control, on average, but not clearly.",
        "few": "{arms} did better than {baseline}, the shuffled control, on average; with so few "
        "people no test can tell whether that is chance.",
    },
}

# What follows from it. "Use it" also when the difference is not clear: nnU-Net from scratch needs
# no foreign weights, and who fine-tunes has to show a gain
ADVICE: Final[Mapping[str, Mapping[Standing, str]]] = {
    "random": {
        "behind": " Fine-tuning is just another baseline: use {baseline}.",
        "level": " Fine-tuning is just another baseline: use {baseline}.",
        "open": " Fine-tuning is just another baseline.",
        "few": " Fine-tuning is just another baseline.",
    },
}


def outcome(
    scores: Sequence[CaseScore], comparisons: Sequence[Comparison], *, weights: Mapping[str, str]
) -> Iterator[str]:
    """Of the validation, label by label: whether anything works, the verdicts, the best arm,
    images without the label, the best arm's comparisons. Then of each test set the same but for
    the verdicts, which it must not pick.

    ``weights``: by arm. Where nothing works nothing is advised.
    """
    several = len({score.label for score in scores}) > 1
    splits = sorted({score.split for score in scores}, key=lambda name: (name != VALIDATION, name))
    parts = grouped(scores, lambda score: (score.split, score.label))
    for (split, label), ours in sorted(parts.items(), key=lambda part: splits.index(part[0][0])):
        compared = [c for c in comparisons if (c.split, c.label) == (split, label)]
        seen = split == VALIDATION
        failure = _failure(ours, label=label, alone=len(weights) == 1)
        means = shared_means(ours, arms=tuple(weights))
        tests = sum(c.p is not None for c in compared)
        place = ([] if seen else [f"Test set {split}"]) + ([label] if several else [])
        name = f"{', '.join(place)}: " if place else ""
        advice = {} if failure else ADVICE
        for sentence in (
            *failure,
            *(_verdicts(compared, weights=weights, advice=advice) if seen else ()),
            _best(means, alone=len(weights) == 1, remark="" if seen else UNSEEN),
            *_without(ours, label=label),
            *(
                comparison_sentence(c, tests=tests)
                for c in compared
                if {c.arm, c.baseline} & set(means.best)
            ),
        ):
            yield name + sentence


@dataclass(frozen=True)
class SharedMeans:
    """Mean Dice of each arm that has scores, over the ``n`` of ``everyone`` whom all of them have
    scored: means over different people say little about arms. Empty if there is nobody."""

    by_arm: Mapping[str, float]
    n: int
    everyone: int

    @property
    def best(self) -> tuple[str, ...]:
        """The arm with the highest mean; several if they are equal."""
        highest = max(self.by_arm.values(), default=0.0)
        return tuple(a for a, mean in self.by_arm.items() if isclose(mean, highest, abs_tol=1e-9))


def shared_means(scores: Sequence[CaseScore], *, arms: tuple[str, ...]) -> SharedMeans:
    """``scores`` are those of one label and split."""
    by_arm = grouped(scores, lambda score: score.arm)
    found = {arm: per_person(by_arm[arm]) for arm in arms if arm in by_arm}
    shared = set.intersection(*map(set, found.values())) if found else set()
    return SharedMeans(
        {arm: fmean(dice[who] for who in shared) for arm, dice in found.items() if shared},
        n=len(shared),
        everyone=len(set().union(*found.values())),
    )


def _failure(scores: Sequence[CaseScore], *, label: str, alone: bool) -> tuple[str, ...]:
    """The sentence that no arm works, if so; each arm counts with everybody whom it has scored."""
    people = [per_person(ours) for ours in grouped(scores, lambda score: score.arm).values()]
    highest = max((fmean(dice.values()) for dice in people if dice), default=None)
    if highest is None or highest >= NOTHING:
        return ()
    if alone:
        return (f"{scores[0].arm} does not segment {label} here.",)
    return (
        f"No arm segments {label} here: the best mean Dice is {highest:.3f}. "
        "What follows compares failures.",
    )


def _verdicts(
    comparisons: Sequence[Comparison],
    *,
    weights: Mapping[str, str],
    advice: Mapping[str, Mapping[Standing, str]],
) -> Iterator[str]:
    """A verdict per control that pretrained arms could be compared with, and what it advises."""
    for control, start in weights.items():
        against = [c for c in comparisons if c.baseline == control and c.n]
        if start in VERDICTS and against and weights[against[0].arm] == "pretrained":
            standing, named = standing_of(against)
            arms = _listed([c.arm for c in named])
            text = VERDICTS[start][standing] + advice.get(start, {}).get(standing, "")
            yield text.format(arms=arms, baseline=control)


def standing_of(against: Sequence[Comparison]) -> tuple[Standing, Sequence[Comparison]]:
    """How arms stand against their one baseline, and which of them make it so."""
    higher = [c for c in against if (c.mean or 0) > 0]
    if not higher:
        return ("behind" if all(map(is_clear, against)) else "level"), against
    clear = [c for c in higher if is_clear(c)]
    if clear:
        return "ahead", clear
    return ("few" if all(c.too_few for c in higher) else "open"), higher


def is_clear(comparison: Comparison) -> bool:
    """The test finds a difference, and zero lies outside the interval.

    Both, since they ask different things: the ranks whether most people differ, the mean by how
    much on the whole. One failed segmentation can set them against each other.
    """
    p, interval = comparison.p, comparison.interval
    return p is not None and interval is not None and p < ALPHA and interval[0] * interval[1] > 0


def _best(means: SharedMeans, *, alone: bool, remark: str) -> str:
    """The sentence on the best arm, or on the only one. ``remark``: of the people."""
    if not means.by_arm:
        return "Nobody has a defined Dice" + ("." if alone else " in every arm.")
    highest = max(means.by_arm.values())
    people = (
        _people(means.everyone)
        if means.n == means.everyone
        else f"the {means.n} of {means.everyone} people who have a Dice in every arm"
    )
    if len(means.by_arm) == 1:
        return f"{means.best[0]} has a mean Dice of {highest:.3f} over {people}{remark}."
    have = "has" if len(means.best) == 1 else "share"
    best = _listed(means.best)
    return f"{best} {have} the highest mean Dice, {highest:.3f} over {people}{remark}."


def _without(scores: Sequence[CaseScore], *, label: str) -> Iterator[str]:
    """The sentence on images without the label, if there are any: their Dice is 0 or undefined."""
    without = [score for score in scores if score.reference_empty]
    if not without:
        return
    images, empty = (len({score.case for score in some}) for some in (scores, without))
    by_arm = {
        arm: sum(not score.prediction_empty for score in ours)
        for arm, ours in grouped(without, lambda score: score.arm).items()
    }
    several = len({score.arm for score in scores}) > 1
    wrong = _listed([f"{n} (by {arm})" if several else f"{n}" for arm, n in by_arm.items()])
    of = "1 image" if images == 1 else f"{images} images"
    have = "has" if empty == 1 else "have"
    yield f"{empty} of {of} {have} no {label}; in {wrong} of these something was predicted."


def comparison_sentence(comparison: Comparison, *, tests: int) -> str:
    """One comparison with everything that is known of it. ``tests``: for so many p is corrected."""
    c = comparison
    pair = f"{c.arm} against {c.baseline}"
    if c.mean is None:
        return f"{pair}: nobody has a Dice in both."
    if not c.higher and not c.lower:
        return f"{pair}: the same Dice in both, for {_people(c.n)}."
    known = (
        []
        if c.interval is None
        else [f"95 % interval {c.interval[0]:+.3f} to {c.interval[1]:+.3f}"]
    )
    known += [] if c.p is None else [p_text(c.p)]
    known += [f"corrected for {tests} comparisons"] if c.p is not None and tests > 1 else []
    brackets = f" ({', '.join(known)})" if known else ""
    return (
        f"{pair}: {c.mean:+.3f} in Dice{brackets}, higher for {c.higher} and lower for {c.lower} "
        f"of {_people(c.n)}.{_caution(c, tests=tests)}"
    )


def _caution(comparison: Comparison, *, tests: int) -> str:
    if comparison.too_few:
        differ = comparison.higher + comparison.lower  # the test leaves the others out
        people = _people(comparison.n)
        if differ < comparison.n:
            people += f", {differ} of them with a difference,"
        why = f"With {tests} comparisons, {people}" if tests > 1 else people
        return f" {why} cannot reach p < {ALPHA}, whatever their scores."
    if comparison.p is not None and comparison.p < ALPHA and not is_clear(comparison):
        return " The test finds a difference, the mean does not: look at the figure for outliers."
    return ""


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
