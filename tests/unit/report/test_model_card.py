"""The page that goes along with an exported model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ca_hpc.core.spec import Training
from ca_hpc.report.model_card import (
    FoldScore,
    ModelCard,
    by_axis,
    model_card,
    training_length,
)

CARD = ModelCard(
    dataset="Dataset501_lesions",
    trainer="nnUNetTrainer",
    plans="nnUNetPlans_v4",
    configuration="3d_fullres",
    checkpoint="checkpoint_final.pth",
    validated_with="checkpoint_final.pth",
    scores=(FoldScore("0", 0.93456, 12), FoldScore("2", math.nan, 3)),
    trained_on={"0": 48, "1": 50},
    facts=(("labels", "background 0, cord 1"),),
    pins=(("image", "sha256:ab"),),
    pretrained=(),
    own_trainer=False,
)


def test_each_fold_has_its_dice_and_what_it_was_trained_on() -> None:
    text = model_card(CARD)
    assert "| fold | Dice, mean over images | images | images trained on |" in text
    assert "| 0 | 0.9346 | 12 | 48 |" in text
    assert "| 2 | not known | 3 | not known |" in text
    assert "| 50 |" not in text, "fold 1 is not in the zip"
    assert "Of checkpoint" not in text


def test_the_commands_name_what_is_in_the_zip() -> None:
    text = model_card(CARD)
    assert "nnUNetv2_install_pretrained_model_from_zip FILE.zip" in text
    assert (
        "nnUNetv2_predict -d 501 -c 3d_fullres -tr nnUNetTrainer -p nnUNetPlans_v4 -f 0 2 "
        "-chk checkpoint_final.pth -i IMAGES -o PREDICTIONS"
    ) in text


def test_the_use_says_what_stock_nnunet_wants_of_the_images_and_without_a_gpu() -> None:
    use = model_card(CARD).split("## Use")[1].split("##")[0]
    assert "into RPI" in use and "CASE_0000.nii.gz" in use
    assert "Without a GPU add `-device cpu`." in use


def test_numbers_of_the_plans_are_told_by_anatomical_axis() -> None:
    numbers = {"patch_size": [16, 32, 64], "spacing": [3.0, 1.0, 0.5]}
    plans = {"transpose_forward": [2, 0, 1], "configurations": {"3d_fullres": numbers}}
    assert by_axis(plans, "patch_size") == "RL 16, AP 64, SI 32"
    assert by_axis(plans, "spacing") == "RL 3, AP 0.5, SI 1"


@pytest.mark.parametrize(
    ("epochs", "told"),
    [
        (0, "0 epochs: the network as it began"),
        (1, "1 epoch of 250 iterations"),
        (7, "7 epochs of 250 iterations"),
    ],
)
def test_the_length_of_a_training_is_told(epochs: int, told: str) -> None:
    assert training_length(Training(epochs=epochs)) == told


def test_scores_of_another_checkpoint_than_the_exported_one_say_so() -> None:
    text = model_card(replace(CARD, checkpoint="checkpoint_best.pth"))
    assert "Of checkpoint_final.pth; this zip holds checkpoint_best.pth." in text


def test_pretrained_weights_have_a_section_only_if_there_were_any() -> None:
    assert "Pretrained weights" not in model_card(CARD)
    text = model_card(replace(CARD, pretrained=(("licence", "MIT"),)))
    assert "## Pretrained weights" in text and "| licence | MIT |" in text


def test_a_trainer_of_ones_own_is_told_with_how_to_use_it() -> None:
    assert "nnUNet_extTrainer" not in model_card(CARD)
    assert "let nnUNet_extTrainer name the folder" in model_card(replace(CARD, own_trainer=True))


def test_a_text_cannot_break_out_of_its_cell() -> None:
    text = model_card(replace(CARD, pretrained=(("citation", "A | B\nand C"),)))
    assert "| citation | A \\| B and C |" in text
