"""What a spec must fulfil beyond the types of its keys: every problem, with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ca_hpc.core.data_spec import PersonByPattern
from ca_hpc.core.spec import Arm, JobSpec
from ca_hpc.core.yaml_door import Document, Place, Problem

# 250 of nnUNetTrainer_250epochs
_EPOCHS = re.compile(r"_(\d+)ep(?:ochs?)?(?:_|$)")


def check(spec: JobSpec, document: Document) -> Iterator[Problem]:
    """All problems of a well-typed spec."""
    if spec.folds != "all":
        for position, fold in enumerate(spec.folds):
            if fold >= spec.splits.folds:
                last = spec.splits.folds - 1
                yield Problem(
                    document.place(("folds", position)),
                    f"folds[{position}]: there is no fold {fold}: splits.folds is "
                    f"{spec.splits.folds}, so folds are 0 to {last}",
                )
        if len(set(spec.folds)) != len(spec.folds) or not spec.folds:
            yield Problem(document.place(("folds",)), "folds: name each fold once, at least one")
    if not spec.labels or sorted(spec.labels.values()) != list(range(1, len(spec.labels) + 1)):
        # nnU-Net makes one output per label and takes the values as their indices
        yield Problem(
            document.place(("labels",)), "labels: number them 1, 2, … without gaps; 0 is background"
        )
    if "background" in spec.labels:
        yield Problem(
            document.place(("labels", "background")), "labels: leave out background, it is always 0"
        )
    for name, arm in spec.arms.items():
        given = ("arms", name) in document.places
        place = document.place(("arms", name) if given else ("weights",))
        if arm.weights != "random" and spec.weights is None:
            yield Problem(
                place, f"arms.{name} starts from {arm.weights} weights, but weights is null"
            )
        if arm.plans == "model" and spec.weights is None and spec.model is None:
            yield Problem(
                place, f"arms.{name} takes the model's plans, but weights and model are null"
            )
        yield from _arm(spec, name, arm, document)
    of_spec = all(source.type != "nnunet" for source in spec.data)
    if of_spec and spec.crop != "none" and spec.crop.to not in spec.labels:
        known = ", ".join(spec.labels)
        yield Problem(
            document.place(("crop", "to")), f"crop.to: no label {spec.crop.to}; labels: {known}"
        )
    for position, source in enumerate(spec.data):
        if isinstance(source.person, PersonByPattern):
            path = ("data", position, "person", "pattern")
            try:
                groups = re.compile(source.person.pattern).groups
            except re.error as error:
                yield Problem(document.place(path), f"data[{position}].person.pattern: {error}")
                continue
            if groups == 0:
                yield Problem(
                    document.place(path),
                    f"data[{position}].person.pattern: needs a group (…) around the person",
                )
    names = [s.name or f"s{i + 1}" for i, s in enumerate(spec.data)]
    for position, name in enumerate(names):
        if name in names[:position]:
            yield Problem(document.place(("data", position)), f"two sources are named {name}")


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
