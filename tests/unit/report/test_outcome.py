"""The sentences at the top: plain about what is better, and about what cannot be told."""

from __future__ import annotations

from dataclasses import replace
from math import nan

from ca_hpc.report.comparison import compare
from ca_hpc.report.model import CaseScore
from ca_hpc.report.outcome import outcome

TWO = {"finetune": "pretrained", "scratch": "random"}
EASY = tuple(0.9 + k / 1000 for k in range(8))
HARD = tuple(0.8 - k / 1000 for k in range(8))


def scores(*, label: str = "cord", **dice: tuple[float, ...]) -> list[CaseScore]:
    """One image of each person, by arm; ``a_b`` stands for the arm ``a-b``."""
    return [
        CaseScore(
            arm.replace("_", "-"), 0, f"s1-{who}", f"{who}", None, "T2w", "s1", label,
            value, value, value, 0.0,
        )
        for arm, values in dice.items()
        for who, value in enumerate(values)
    ]  # fmt: skip


def told(found: list[CaseScore], weights: dict[str, str] = TWO) -> list[str]:
    return list(outcome(found, compare(found, weights=weights), weights=weights))


def test_a_gain_is_called_one_with_all_its_numbers() -> None:
    assert told(scores(finetune=EASY, scratch=HARD)) == [
        "Fine-tuning did better here than training from scratch: finetune beat scratch.",
        "finetune has the highest mean Dice, 0.903 over 8 people.",
        "finetune against scratch: +0.107 in Dice (95 % interval +0.103 to +0.111, p = 0.008), "
        "higher for 8 and lower for 0 of 8 people.",
    ]


def test_when_scratch_is_better_that_comes_first_and_says_what_to_do() -> None:
    verdict, best, numbers = told(scores(finetune=HARD, scratch=EASY))
    assert verdict == (
        "Training from scratch did better here: scratch beat finetune. "
        "Fine-tuning is just another baseline: use scratch."
    )
    assert best == "scratch has the highest mean Dice, 0.903 over 8 people."
    assert numbers.startswith("finetune against scratch: -0.107 in Dice")


def test_scratch_that_is_ahead_unclearly_is_still_the_one_to_use() -> None:
    behind = (EASY[0] - 0.02, *(dice + 0.001 for dice in EASY[1:]))
    assert told(scores(finetune=behind, scratch=EASY))[0] == (
        "Training from scratch did at least as well here: on average finetune brought no gain "
        "over scratch. That scratch is better is not clear. "
        "Fine-tuning is just another baseline: use scratch."
    )


def test_equal_arms_share_the_place_and_nothing_speaks_for_fine_tuning() -> None:
    verdict, best, numbers = told(scores(finetune=EASY, scratch=EASY))
    assert verdict.startswith("Training from scratch did at least as well here")
    assert best == "finetune and scratch share the highest mean Dice, 0.903 over 8 people."
    assert numbers == "finetune against scratch: the same Dice in both, for 8 people."


def test_a_lead_that_may_be_chance_is_not_called_a_gain() -> None:
    ahead = (EASY[0] + 0.02, *(dice - 0.001 for dice in EASY[1:]))
    assert told(scores(finetune=ahead, scratch=EASY))[0] == (
        "Fine-tuning and training from scratch cannot be told apart here: finetune did better "
        "than scratch on average, but not clearly. Fine-tuning is just another baseline."
    )


def test_five_people_prove_nothing_whatever_their_scores() -> None:
    verdict, _, numbers = told(scores(finetune=EASY[:5], scratch=HARD[:5]))
    assert verdict.startswith(
        "finetune did better than scratch, training from scratch, on average; "
    )
    assert numbers.endswith(" 5 people cannot reach p < 0.05, whatever their scores.")
    assert "corrected" not in numbers, "there is one comparison"


FOUR = {"finetune": "pretrained", **dict.fromkeys(("a", "b", "c", "d"), "random")}


def test_a_p_that_is_corrected_says_for_how_many_comparisons() -> None:
    six = HARD[:6]
    numbers = told(scores(finetune=EASY[:6], a=six, b=six, c=six, d=six), FOUR)[-1]
    assert "p = 0.125, corrected for 4 comparisons)" in numbers
    assert numbers.endswith(
        " With 4 comparisons, 6 people cannot reach p < 0.05, whatever their scores."
    )


def test_a_comparison_that_was_not_made_corrects_nothing() -> None:
    numbers = told(scores(finetune=EASY, a=HARD, b=HARD), FOUR)[-3]
    assert numbers.startswith("finetune against b") and "for 2 comparisons" in numbers


def test_people_without_a_difference_do_not_count_for_the_test() -> None:
    assert told(scores(finetune=(0.9, 0.9), scratch=(0.8, 0.9)))[-1].endswith(
        " 2 people, 1 of them with a difference, cannot reach p < 0.05, whatever their scores."
    )


def test_when_no_arm_works_that_comes_first_and_nothing_is_advised() -> None:
    found = told(scores(finetune=(0.02, 0.03), scratch=(0.03, 0.04)))
    assert found[0] == (
        "No arm segments cord here: the best mean Dice is 0.035. What follows compares failures."
    )
    assert found[1].startswith("Training from scratch did at least as well here")
    assert "baseline:" not in " ".join(found)


def test_one_arm_that_works_is_enough_for_advice() -> None:
    found = told(scores(finetune=(0.02, 0.03), scratch=(0.1, 0.1)))
    assert found[0].endswith("Fine-tuning is just another baseline: use scratch.")


def test_an_arm_counts_as_working_by_everybody_whom_it_has_scored() -> None:
    # over the one whom both have scored its mean would be 0.05
    found = told(scores(finetune=(0.05, 0.9), scratch=(0.04, nan)))
    assert not any(sentence.startswith("No arm") for sentence in found)


def test_a_label_that_no_arm_segments_does_not_speak_for_another() -> None:
    found = told(
        [
            *scores(finetune=HARD, scratch=EASY),
            *scores(label="lesion", finetune=(0.0, 0.0), scratch=(0.0, 0.01)),
        ]
    )
    assert found[0].startswith("cord: Training from scratch did better here")
    lesion = [sentence for sentence in found if sentence.startswith("lesion: ")]
    assert lesion[0].startswith("lesion: No arm segments lesion here: the best mean Dice is 0.005")
    assert not any("use scratch" in sentence for sentence in lesion)


def test_one_failed_segmentation_against_the_ranks_is_pointed_out() -> None:
    ahead = tuple(dice + 0.01 + who / 1000 for who, dice in enumerate(HARD * 2))
    verdict, _, numbers = told(scores(finetune=(*ahead, 0.1), scratch=(*HARD * 2, 0.8)))
    assert verdict.startswith("Training from scratch did at least as well here")
    assert "higher for 16 and lower for 1 of 17 people" in numbers
    assert numbers.endswith("look at the figure for outliers.")


def test_scratch_must_match_every_pretrained_arm_to_be_recommended() -> None:
    weights = {"finetune": "pretrained", "gentle": "pretrained", "scratch": "random"}
    best = tuple(dice + 0.02 + who / 1000 for who, dice in enumerate(EASY))
    assert told(scores(finetune=HARD, gentle=best, scratch=EASY), weights)[0] == (
        "Fine-tuning did better here than training from scratch: gentle beat scratch."
    )
    assert told(scores(finetune=HARD, gentle=HARD, scratch=EASY), weights)[0].startswith(
        "Training from scratch did better here: scratch beat finetune and gentle."
    )


def test_a_shuffled_control_that_wins_says_what_the_weights_did_not_do() -> None:
    weights = {"finetune": "pretrained", "control": "shuffled"}
    assert told(scores(finetune=HARD, control=EASY), weights)[0] == (
        "The shuffled control did better here: control beat finetune. "
        "The pretrained features did not help beyond the scale of their values."
    )
    assert told(scores(finetune=EASY, control=EASY), weights)[0].endswith(
        "No help of the pretrained features beyond their scale is seen."
    )
    assert told(scores(finetune=EASY, control=HARD), weights)[0] == (
        "The pretrained features helped beyond their scale: finetune beat control, the shuffled "
        "control."
    )


def test_every_control_has_its_own_verdict_and_the_best_arm_its_numbers() -> None:
    weights = {**TWO, "same-network": "random", "control": "shuffled"}
    found = told(
        scores(finetune=EASY, scratch=HARD, same_network=EASY, control=HARD),
        weights,
    )
    starts = [sentence.split(":")[0] for sentence in found]
    assert starts == [
        "Fine-tuning did better here than training from scratch",
        "Training from scratch did at least as well here",
        "The pretrained features helped beyond their scale",
        "finetune and same-network share the highest mean Dice, 0.903 over 8 people.",
        "finetune against scratch",
        "finetune against same-network",
        "finetune against control",
    ]


def test_labels_are_never_averaged() -> None:
    found = told(
        [
            *scores(finetune=EASY, scratch=HARD),
            *scores(label="lesion", finetune=HARD, scratch=EASY),
        ]
    )
    cord = [s.removeprefix("cord: ") for s in found if s.startswith("cord: ")]
    lesion = [s.removeprefix("lesion: ") for s in found if s.startswith("lesion: ")]
    assert cord[1] == "finetune has the highest mean Dice, 0.903 over 8 people."
    assert lesion[1] == "scratch has the highest mean Dice, 0.903 over 8 people."
    assert len(cord) + len(lesion) == len(found)


def test_the_best_arm_is_sought_among_the_people_whom_every_arm_has_scored() -> None:
    # scratch has only the two easy people; over all of its own its mean would be the highest
    found = told(scores(finetune=(0.9, 0.9, 0.2), scratch=(0.8, 0.8)))
    assert found[1] == (
        "finetune has the highest mean Dice, 0.900 over the 2 of 3 people who have a Dice in "
        "every arm."
    )


def test_an_arm_without_scores_is_nobodys_loss() -> None:
    assert told(scores(finetune=EASY)) == [
        "finetune has a mean Dice of 0.903 over 8 people.",
        "finetune against scratch: nobody has a Dice in both.",
    ]


def test_arms_without_a_person_in_common_are_not_ranked() -> None:
    found = told(scores(finetune=(0.9, nan), scratch=(nan, 0.8)))
    assert found[0] == "Nobody has a defined Dice in every arm."
    assert not any("highest" in sentence for sentence in found)


def test_pretrained_arms_alone_have_no_verdict_on_scratch() -> None:
    weights = {"finetune": "pretrained", "gentle": "pretrained"}
    found = told(scores(finetune=HARD, gentle=EASY), weights)
    assert found[0] == "gentle has the highest mean Dice, 0.903 over 8 people."
    assert found[1].startswith("gentle against finetune: +0.107 in Dice")


def unseen(found: list[CaseScore], split: str = "site-b") -> list[CaseScore]:
    return [replace(score, split=split, fold="ensemble") for score in found]


def test_a_test_set_is_told_after_the_validation_and_gives_no_advice() -> None:
    found = told(
        [
            *unseen(scores(finetune=HARD, scratch=EASY)),
            *scores(finetune=EASY, scratch=HARD),
        ]
    )
    assert found[:2] == [
        "Fine-tuning did better here than training from scratch: finetune beat scratch.",
        "finetune has the highest mean Dice, 0.903 over 8 people.",
    ]
    assert found[3:] == [
        "Test set site-b: scratch has the highest mean Dice, 0.903 over 8 people "
        "(never seen in training).",
        "Test set site-b: finetune against scratch: -0.107 in Dice (95 % interval -0.111 to "
        "-0.103, p = 0.008), higher for 0 and lower for 8 of 8 people.",
    ]


def test_several_labels_of_several_test_sets_keep_together() -> None:
    one = scores(train=EASY)
    both = [*one, *scores(label="lesion", train=HARD)]
    found = told([*both, *unseen(both, "b"), *unseen(both, "a")], {"train": "random"})
    assert [sentence.split(":")[0] for sentence in found] == [
        "cord",
        "lesion",
        "Test set a, cord",
        "Test set a, lesion",
        "Test set b, cord",
        "Test set b, lesion",
    ]


def test_a_training_alone_is_told_without_comparison() -> None:
    alone = {"train": "random"}
    assert told([*scores(train=EASY), *unseen(scores(train=HARD))], alone) == [
        "train has a mean Dice of 0.903 over 8 people.",
        "Test set site-b: train has a mean Dice of 0.796 over 8 people (never seen in training).",
    ]
    assert told(scores(train=(0.01, 0.02)), alone)[0] == "train does not segment cord here."
    assert told(scores(train=(nan, nan)), alone)[0] == "Nobody has a defined Dice."


def without_lesion(found: list[CaseScore], *, predicted: int) -> list[CaseScore]:
    """The same images, none with a lesion; something was predicted in the first of them."""
    return [
        replace(s, sensitivity=nan, dice=0.0 if wrong else nan, precision=0.0 if wrong else nan)
        for s, wrong in ((s, place < predicted) for place, s in enumerate(found))
    ]


def test_images_without_a_label_are_counted_and_what_was_predicted_in_them() -> None:
    first, *others = scores(label="lesion", train=(0.8,) * 4)
    found = told([first, *without_lesion(others, predicted=2)], {"train": "random"})
    assert found[1] == ("3 of 4 images have no lesion; in 2 of these something was predicted.")
    assert not any("have no" in sentence for sentence in told(scores(train=EASY)))


def test_what_was_predicted_in_images_without_a_label_is_told_by_arm() -> None:
    ours, control = (scores(label="lesion", **{arm: (0.8, 0.8)}) for arm in TWO)
    found = told(
        [
            ours[0], *without_lesion(ours[1:], predicted=1),
            control[0], *without_lesion(control[1:], predicted=0),
        ]
    )  # fmt: skip
    assert (
        "1 of 2 images has no lesion; in 1 (by finetune) and 0 (by scratch) of these something "
        "was predicted."
    ) in found
