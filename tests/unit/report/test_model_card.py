"""The page that goes along with an exported model."""

from __future__ import annotations

import math
from dataclasses import replace

from ca_hpc.report.model_card import FoldScore, ModelCard, model_card

CARD = ModelCard(
    dataset="Dataset501_lesions",
    trainer="nnUNetTrainer",
    plans="nnUNetPlans_v4",
    configuration="3d_fullres",
    checkpoint="checkpoint_final.pth",
    validated_with="checkpoint_final.pth",
    scores=(FoldScore("0", 0.93456, 12), FoldScore("2", math.nan, 3)),
    facts=(("labels", "background 0, cord 1"),),
    pins=(("image", "sha256:ab"),),
    pretrained=(),
    own_trainer=False,
)


def test_each_fold_has_its_dice() -> None:
    text = model_card(CARD)
    assert "| 0 | 0.9346 | 12 |" in text
    assert "| 2 | not known | 3 |" in text
    assert "Of checkpoint" not in text


def test_the_commands_name_what_is_in_the_zip() -> None:
    text = model_card(CARD)
    assert "nnUNetv2_install_pretrained_model_from_zip FILE.zip" in text
    assert (
        "nnUNetv2_predict -d 501 -c 3d_fullres -tr nnUNetTrainer -p nnUNetPlans_v4 -f 0 2 "
        "-chk checkpoint_final.pth -i IMAGES -o PREDICTIONS"
    ) in text


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
