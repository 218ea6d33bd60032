"""What goes along with an exported model, for people: README.md in the model's folder. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from ca_hpc.core.data_spec import Crop
from ca_hpc.core.spec import Training
from ca_hpc.nnunet.folders import CONFIGURATION
from ca_hpc.nnunet.plans import ARRAY_AXES

# A cropped validation image holds less that could be mistaken for the label than a whole one
CROPPED_SCORES: Final = (
    "validation images too, by their own reference: what lies outside is not scored, and Dice "
    "holds for images cropped like that"
)


@dataclass(frozen=True, slots=True)
class FoldScore:
    """One fold's validation: mean Dice of all labels over ``cases`` images."""

    fold: str
    dice: float
    cases: int


@dataclass(frozen=True, slots=True)
class ModelCard:
    """``facts``, ``pins`` and ``pretrained`` are rows of a table: what, and its value.

    ``trained_on``: images by fold, where it is known.
    ``validated_with`` is the checkpoint that the scores belong to, ``checkpoint`` the one exported.
    """

    dataset: str
    trainer: str
    plans: str
    configuration: str
    checkpoint: str
    validated_with: str
    scores: tuple[FoldScore, ...]
    trained_on: Mapping[str, int]
    facts: tuple[tuple[str, str], ...]
    pins: tuple[tuple[str, str], ...]
    pretrained: tuple[tuple[str, str], ...]
    own_trainer: bool  # its source is in the model's folder


def model_card(card: ModelCard) -> str:
    """Markdown."""
    sections = [
        f"# {card.dataset}\n\n{card.trainer}, {card.plans}, {card.configuration}, "
        f"{len(card.scores)} {'fold' if len(card.scores) == 1 else 'folds'}.",
        "## Validation\n\n" + _validation(card),
        "## Images\n\n" + _table(("", ""), card.facts),
        "## Use\n\n" + _use(card),
        "## Made from\n\n" + _table(("", ""), card.pins),
    ]
    if card.pretrained:
        sections.append("## Pretrained weights\n\n" + _table(("", ""), card.pretrained))
    return "\n\n".join(sections) + "\n"


def _validation(card: ModelCard) -> str:
    rows = [
        (s.fold, _dice(s.dice), str(s.cases), str(card.trained_on.get(s.fold, "not known")))
        for s in card.scores
    ]
    told = (
        "Dice of the images that the fold was not trained on. Each image counts once; the run's "
        "report averages over people.\n\n"
    )
    if card.validated_with != card.checkpoint:
        told += f"Of {card.validated_with}; this zip holds {card.checkpoint}.\n\n"
    return told + _table(("fold", "Dice, mean over images", "images", "images trained on"), rows)


def _dice(value: float) -> str:
    return f"{value:.4f}" if isfinite(value) else "not known"


def _use(card: ModelCard) -> str:
    number = re.sub(r"\D.*", "", card.dataset.removeprefix("Dataset"))
    folds = " ".join(score.fold for score in card.scores)
    text = (
        "nnU-Net does not turn images: bring them into RPI (SCT's code) first. Their names end in "
        "the channel: CASE_0000.nii.gz, of a second channel CASE_0001.nii.gz.\n\n"
        "    nnUNetv2_install_pretrained_model_from_zip FILE.zip\n"
        f"    nnUNetv2_predict -d {number} -c {card.configuration} -tr {card.trainer} "
        f"-p {card.plans} -f {folds} -chk {card.checkpoint} -i IMAGES -o PREDICTIONS\n\n"
        "Without a GPU add `-device cpu`.\n\n"
        f"The Spinal Cord Toolbox takes {card.dataset} as the folder of a nnU-Net model, and turns "
        "images itself.\n\n"
        "The checkpoints hold no optimiser state: they predict, and start another training, but "
        "this one cannot be continued from them."
    )
    if card.own_trainer:
        text += (
            f"\n\n{card.trainer} is not one of nnU-Net's own trainers. Its source is in "
            "trainer_class.py: let nnUNet_extTrainer name the folder of this file. Both nnU-Net "
            "and SCT run that source."
        )
    return text


def training_length(training: Training) -> str:
    """Epochs and iterations. ``training``: with the arm's own settings in it."""
    if not training.epochs:
        return "0 epochs: the network as it began"
    epochs = "1 epoch" if training.epochs == 1 else f"{training.epochs} epochs"
    return f"{epochs} of {training.iterations_per_epoch} iterations"


def crop_text(crop: Crop) -> str:
    """How images were cut."""
    return f"around {crop.to}, margin {crop.margin:g} mm"


def by_axis(plans: Mapping[str, Any], key: str) -> str:
    """``key`` of nnU-Net's plans by anatomical axis: ``RL 64, AP 192, SI 224``.

    ``plans`` are those of images in RPI, and ``key`` has a number for each axis of the network.
    """
    axes = [ARRAY_AXES[axis] for axis in plans["transpose_forward"]]
    found = dict(zip(axes, plans["configurations"][CONFIGURATION][key], strict=True))
    return ", ".join(f"{axis} {found[axis]:g}" for axis in ("RL", "AP", "SI"))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: str) -> str:
    return " ".join(value.replace("|", "\\|").split())
