"""What a spec must fulfil beyond the types of its keys: every problem, with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ca_hpc.core.data_spec import TAKEN, Folds, PersonByPattern, Shares
from ca_hpc.core.regions import outer_first
from ca_hpc.core.spec import Arm, JobSpec
from ca_hpc.core.yaml_door import Document, Place, Problem

# of https the user alone may be a token; ssh's git@ is none
_SECRET = re.compile(
    r"^https?://[^/]*@|^[a-z+]+://[^/@]*:[^/@]*@|^https?://.*[?&][^=]*(token|key|secret|pass)"
)
# 250 of nnUNetTrainer_250epochs
_EPOCHS = re.compile(r"_(\d+)ep(?:ochs?)?(?:_|$)")


def check(spec: JobSpec, document: Document) -> Iterator[Problem]:
    """All problems of a well-typed spec, ``completed`` with the arms of its kind."""
    yield from _folds(spec, document)
    yield from _labels(spec, document)
    for name, arm in spec.arms.items():
        given = ("arms", name) in document.places
        place = document.place(("arms", name) if given else ("weights",))
        if arm.weights != "random" and spec.weights is None:
            yield Problem(
                place,
                f"arms.{name} starts from {arm.weights} weights, but the job names none "
                "(weights: NAME; without any: kind: train)"
                if spec.kind == "finetune"
                else f"arms.{name} starts from {arm.weights} weights: that is kind: finetune",
            )
        if arm.plans == "model" and spec.weights is None and spec.model is None:
            yield Problem(
                place, f"arms.{name} takes the model's plans, but the job names neither weights "
                "nor model"
            )  # fmt: skip
        yield from _arm(spec, name, arm, document)
    if spec.kind == "train" and spec.weights is not None:
        yield Problem(
            document.place(("weights",)), "kind: train starts from random weights; kind: finetune "
            "starts from these"
        )  # fmt: skip
    yield from _sources(spec, document)


def _folds(spec: JobSpec, document: Document) -> Iterator[Problem]:
    if spec.folds != "all":
        for position, fold in enumerate(spec.folds):
            if fold >= spec.fold_count:
                yield Problem(
                    document.place(("folds", position)),
                    f"folds[{position}]: there is no fold {fold}: {_fold_count(spec)}",
                )
        if len(set(spec.folds)) != len(spec.folds) or not spec.folds:
            yield Problem(document.place(("folds",)), "folds: name each fold once, at least one")
    of_sources = [
        (("data", i, "split"), source.split)
        for i, source in enumerate(spec.data)
        if source.type != "pack"
    ]
    for path, shares in ((("splits",), spec.splits), *of_sources):
        if isinstance(shares, Shares):
            total = shares.train + shares.val + shares.test
            if abs(total - 1) > 1e-6:
                yield Problem(
                    document.place(path),
                    f"{_dotted(path)}: train, val and test are {total:g} together; make them 1",
                )


def _fold_count(spec: JobSpec) -> str:
    if isinstance(spec.splits, Folds):
        last = spec.fold_count - 1
        return f"splits.folds is {spec.fold_count}, so folds are 0 to {last}"
    return "these splits are one division, fold 0"


def _labels(spec: JobSpec, document: Document) -> Iterator[Problem]:
    values = spec.label_values
    if not values or sorted(values.values()) != list(range(1, len(values) + 1)):
        # nnU-Net makes one output per label and takes the values as their indices
        yield Problem(
            document.place(("labels",)), "labels: number them 1, 2, … without gaps; 0 is background"
        )
    if "ignore" in values:
        yield Problem(
            document.place(("labels", "ignore")),
            "labels: nnU-Net's ignore label is not supported here; take another name",
        )
    for key in ("labels", "regions"):
        if "background" in getattr(spec, key):
            yield Problem(
                document.place((key, "background")),
                f"{key}: leave out background, it is always 0",
            )
    for name, wanted in spec.regions.items():
        strange = sorted(set(wanted) - set(values.values()))
        if strange:
            yield Problem(
                document.place(("regions", name)),
                f"regions.{name}: no label has the value {strange[0]}",
            )
    left = [n for n, v in values.items() if not any(v in r for r in spec.regions.values())]
    if spec.regions and left:
        yield Problem(
            document.place(("regions",)), f"regions: the label {left[0]} is in none of them"
        )
    if spec.regions and all(len(set(wanted)) == 1 for wanted in spec.regions.values()):
        # nnU-Net takes them for labels then, and labels must be all there
        yield Problem(
            document.place(("regions",)), "regions: each is one label: leave them out, or join some"
        )
    elif spec.regions:
        try:
            outer_first(spec.regions)
        except ValueError as error:
            yield Problem(document.place(("regions",)), f"regions: {error}")
    of_spec = all(source.type not in ("nnunet", "pack") for source in spec.data)
    if of_spec and spec.crop != "none":
        targets = spec.regions or values
        if spec.crop.to not in targets:
            known = ", ".join(targets)
            yield Problem(
                document.place(("crop", "to")), f"crop.to: no label {spec.crop.to}; labels: {known}"
            )


def _sources(spec: JobSpec, document: Document) -> Iterator[Problem]:
    names = []
    for position, source in enumerate(spec.data):
        if source.type == "pack":  # its sources have names of their own
            continue
        name = source.name or f"s{position + 1}"
        if name in names:
            yield Problem(document.place(("data", position)), f"two sources are named {name}")
        names.append(name)
        if isinstance(source.person, PersonByPattern):
            yield from _pattern(source.person.pattern, position, document)
        if source.type == "git" and _SECRET.match(source.url):
            yield Problem(
                document.place(("data", position, "url")),
                f"data[{position}].url: names a user or a password, which the run's record would "
                "keep: leave them out, git asks its credential store",
            )
        if source.test_set in TAKEN:
            yield Problem(
                document.place(("data", position, "test_set")),
                f"data[{position}].test_set: {source.test_set} is the name of something else; take "
                "another one",
            )
        if source.test_set is not None and source.split is not None:
            yield Problem(
                document.place(("data", position, "split")),
                f"data[{position}]: all of it is the test set {source.test_set}, and yet it is "
                "to be split",
            )
        suffix = getattr(source, "label_suffix", "")
        unnamed = [name for name, rule in spec.label_rules.items() if rule.suffix is None]
        if suffix is None and unnamed:
            yield Problem(
                document.place(("data", position)),
                f"data[{position}].label_suffix is missing: what the label files end in, or "
                f"labels.{unnamed[0]}.suffix",
            )
        if isinstance(suffix, Mapping):
            for label in sorted(set(suffix) - set(spec.labels)):
                yield Problem(
                    document.place(("data", position, "label_suffix", label)),
                    f"data[{position}].label_suffix: no label {label}; labels: "
                    + ", ".join(spec.labels),
                )


def _pattern(pattern: str, position: int, document: Document) -> Iterator[Problem]:
    place = document.place(("data", position, "person", "pattern"))
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        yield Problem(place, f"data[{position}].person.pattern: {error}")
        return
    if groups == 0:
        yield Problem(
            place, f"data[{position}].person.pattern: needs a group (…) around the person"
        )


def _dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def _arm(spec: JobSpec, name: str, arm: Arm, document: Document) -> Iterator[Problem]:
    """What contradicts itself within one arm, the settings of ``training`` counted in."""

    def at(key: str) -> Place:
        """Of an arm's own setting, else of the common one, else of the arm."""
        paths = (("arms", name, key), ("training", key), ("arms", name))
        return document.place(next((p for p in paths if p in document.places), ("weights",)))

    def setting(key: str) -> Any:
        own = getattr(arm, key)
        return getattr(spec.training, key) if own is None else own

    epochs, warmup = setting("epochs"), setting("warmup_epochs")
    if arm.weights == "random":
        if epochs == 0:
            yield Problem(
                at("epochs"), f"arms.{name}: 0 epochs of random weights have learnt nothing"
            )
        if arm.head == "pretrained":
            yield Problem(at("head"), f"arms.{name}: head: pretrained, but its weights are random")
        if arm.frozen_encoder_epochs:  # what ``training`` says is for the others
            yield Problem(
                at("frozen_encoder_epochs"), f"arms.{name} freezes an encoder of random weights"
            )
    elif epochs == 0 and arm.head == "new":
        yield Problem(
            at("epochs"),
            f"arms.{name}: 0 epochs leave a new head untrained; head: pretrained keeps it",
        )
    frozen = setting("frozen_encoder_epochs")
    if arm.weights != "random" and 0 < epochs <= frozen:
        yield Problem(
            at("frozen_encoder_epochs"),
            f"arms.{name}: {frozen} frozen_encoder_epochs leave none of {epochs} epochs in which "
            "the encoder learns",
        )
    if 0 < epochs <= warmup:
        yield Problem(
            at("warmup_epochs"),
            f"arms.{name}: {warmup} warmup_epochs leave none of {epochs} epochs to train",
        )
    if arm.planner is not None and arm.plans == "model":
        yield Problem(at("planner"), f"arms.{name}: planner counts with plans: planner only")
    trainer = setting("trainer")
    named = _EPOCHS.search(trainer)
    if named is not None and int(named[1]) != epochs:
        # nnU-Net has such trainers for a few numbers only; here any number is possible
        yield Problem(
            at("trainer"),
            f"arms.{name}: {trainer} is for {named[1]} epoch{'s' * (named[1] != '1')}, but epochs "
            f"is {epochs}: name the trainer without them, and the number in epochs",
        )
