"""The page: whole, self-contained, escaped, honest about what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest

from ca_hpc.core.record import Origin
from ca_hpc.report.comparison import compare
from ca_hpc.report.dataset import (
    CasePicture,
    CountRow,
    DatasetContent,
    FoldRow,
    FoldTable,
    GridRow,
    LabelRow,
    PathologyRow,
    SkippedRow,
)
from ca_hpc.report.figures import common_limits
from ca_hpc.report.html import duration, mean_sd, render, write_report
from ca_hpc.report.model import (
    NOT_RUN,
    CaseScore,
    Comparison,
    Curve,
    Overlay,
    ReportContent,
    TaskRow,
)
from ca_hpc.report.tables import Spread
from tests.unit.report.page import Page

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c63600000000200015e2b7d190000000049454e44ae426082"
)


def score(arm: str, fold: int, person: str, dice: float) -> CaseScore:
    return CaseScore(
        arm=arm,
        fold=fold,
        case=f"sub-{person}_T2w",
        person=person,
        session=None,
        contrast="T2w",
        source="phantoms",
        label="cord",
        dice=dice,
        precision=0.91,
        sensitivity=0.89,
        relative_volume_difference=-0.02,
    )


WEIGHTS = {"finetune": "pretrained", "scratch": "random"}
SCORES = (
    score("finetune", 0, "01", 0.9),
    score("finetune", 0, "02", 0.8),
    score("finetune", 1, "03", nan),
    score("scratch", 0, "01", 0.7),
    score("scratch", 0, "02", 0.5),
)
CONTENT = ReportContent(
    run_name="demo",
    kind="finetune",
    created="2026-11-21T20:15:00+00:00",
    summary=("Fine-tuning helps.", "One fold is missing."),
    arms=("finetune", "scratch"),
    folds=(0, 1),
    weights=WEIGHTS,
    scores=SCORES,
    comparisons=compare(SCORES, weights=WEIGHTS),
    curves=(
        Curve("finetune", 0, (0, 1, 2), (0.1, -0.4, -0.6), (0.2, -0.3, nan), (0.1, 0.6, 0.8)),
        Curve("finetune", 1, (0, 1, 2), (0.1, -0.5, -0.7), (0.2, -0.3, -0.4), (0.1, 0.6, 0.8)),
        Curve("scratch", 0, (0,), (0.3,), (0.4,), (0.0,)),
    ),
    tasks=(
        TaskRow("train-finetune-fold0", "COMPLETED", 1, "node1", "2026-11-21T20:02", 3723),
        TaskRow("train-scratch-fold1", "FAILED", 3, cause="out of GPU memory"),
    ),
    overlays=(Overlay("finetune", "worst", "sub-02_T2w", 0.8, PIXEL),),
    facts=(("image", "sha256:ab12"), ("nnU-Net", "2.8.1")),
)
HOSTILE = """<script>alert("1")</script>'&{{ 7 * 7 }}"""


def test_the_page_asks_nothing_of_the_network_and_runs_no_script() -> None:
    html = render(CONTENT)
    assert not re.search(r"(https?:)?//[a-z]", html, flags=re.IGNORECASE)
    page = Page(html)
    assert not page.all("script") and not page.all("link") and "@import" not in html
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.all("img"))
    references = [
        str(value)
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("href", "xlink:href", "action", "poster", "srcset")
    ]
    assert all(reference.startswith("#") for reference in references)
    assert all(found == "#" for found in re.findall(r"url\(\s*['\"]?(.)", html))


def test_the_outcome_comes_first_and_sections_follow_in_order() -> None:
    html = render(CONTENT)
    headings = re.findall(r"<h[12]>(.*?)</h[12]>", html)
    assert headings == [
        "demo",
        "Comparison of arms",
        "Dice per fold and arm",
        "Person by person",
        "Dice per contrast",
        "Training",
        "Images to look at",
        "Tasks",
        "Facts",
    ]
    assert html.index("Fine-tuning helps.") < html.index("<table")


def test_missing_and_undefined_cells_say_so() -> None:
    rows = Page(render(CONTENT)).rows
    folds = {row[0]: row[1:] for row in rows if row and row[0] in ("0", "1", "All people")}
    assert folds["0"][0].startswith("0.850 ± 0.071") and "2 people, 2 images" in folds["0"][0]
    assert folds["1"][0].startswith("undefined") and folds["1"][1] == "missing"
    assert folds["All people"][0].startswith("0.850")
    assert "3 images, 1 undefined" in folds["All people"][0]


def compared_rows(content: ReportContent) -> list[list[str]]:
    rows = Page(render(content)).rows
    return [[" ".join(cell.split()) for cell in row] for row in rows if "against" in "".join(row)]


def test_a_comparison_shows_difference_interval_people_effect_and_p() -> None:
    (row,) = compared_rows(CONTENT)
    assert row == [
        "finetune pretrained weightsagainst scratch random weights",
        "+0.250[−0.385, +0.885]",
        "2 / 0of 2 people, 1 left out",
        "+1.00",
        "p = 0.500too few people for p < 0.05",
    ]


def test_a_comparison_that_nobody_can_make_is_missing() -> None:
    scores = tuple(s for s in CONTENT.scores if s.arm == "finetune")
    content = replace(CONTENT, scores=scores, comparisons=compare(scores, weights=WEIGHTS))
    (row,) = compared_rows(content)
    assert row[1:] == ["missing", "0 / 0of 0 people, 3 left out", "–", "–"]
    assert len(Page(render(content)).all("svg")) == len(Page(render(CONTENT)).all("svg")) - 1


def test_comparisons_of_several_labels_are_told_apart_and_drawn_apart() -> None:
    lesion = tuple(replace(s, label="lesion", dice=s.dice / 2) for s in CONTENT.scores)
    scores = CONTENT.scores + lesion
    content = replace(CONTENT, scores=scores, comparisons=compare(scores, weights=WEIGHTS))
    assert [row[0] for row in compared_rows(content)] == ["cord", "lesion"]
    drawn = [str(svg["aria-label"]) for svg in Page(render(content)).all("svg")]
    assert sum("of cord, person by person" in label for label in drawn) == 1
    assert sum("of lesion, person by person" in label for label in drawn) == 1


def test_the_reader_is_told_what_out_of_fold_does_not_cover() -> None:
    assert "What pretrained weights have seen before is not checked" in Page(render(CONTENT)).text


def test_an_arm_alone_is_compared_with_nothing() -> None:
    html = render(replace(CONTENT, arms=("finetune",), comparisons=()))
    assert "Comparison of arms" not in html


def test_tasks_show_state_attempts_and_time() -> None:
    rows = Page(render(CONTENT)).rows
    assert [
        "train-finetune-fold0", "COMPLETED", "1", "node1", "2026-11-21T20:02", "1:02:03"
    ] in rows  # fmt: skip
    assert ["train-scratch-fold1", "FAILED", "3", "", "", ""] in rows


def test_cause_lines_and_hint_have_a_row_of_their_own_below_the_task() -> None:
    task = TaskRow(
        "train-x-fold0", "FAILED", 1, cause="it crashed", hint="mend <it>", failure="crash",
        lines=("Fatal", "  File <a>"),
    )  # fmt: skip
    html = render(replace(CONTENT, tasks=(task, TaskRow("export", NOT_RUN, 0))))
    page = Page(html)
    titles, failed, (why,), not_run, *_ = page.rows[-3 - len(CONTENT.facts) - 1 :]
    assert (titles[0], failed[0], not_run[0]) == ("Task", "train-x-fold0", "export")
    assert "".join(why.split()) == "crash:itcrashedFatalFile<a>Hint:mend<it>"
    assert "Fatal\n  File &lt;a&gt;</pre>" in html
    assert [cell["colspan"] for cell in page.all("td") if "colspan" in cell] == [str(len(titles))]


def test_a_task_that_never_ran_has_not_failed() -> None:
    html = render(replace(CONTENT, tasks=(TaskRow("export", NOT_RUN, 0),)))
    assert "<td>not run</td>" in html


def test_a_cause_of_many_lines_is_a_list_of_which_the_first_20_are_seen() -> None:
    problems = [f"/data/sub-{number:02d}.nii.gz: is truncated" for number in range(33)]
    cause = "33 of 60 cases cannot be used\n" + "\n".join(problems)
    task = TaskRow("assemble", "FAILED", 1, cause=cause, hint="repair them")
    html = render(replace(CONTENT, tasks=(task,)))
    assert "33 of 60 cases cannot be used" in Page(html).text
    listed, _, folded = html[html.index("33 of 60") :].partition("<details>")
    assert [line for line in problems if f"<li>{line}</li>" in listed] == problems[:20]
    assert [line for line in problems if f"<li>{line}</li>" in folded] == problems[20:]
    assert "13 more" in folded and "repair them" in folded


def test_a_short_list_of_causes_hides_nothing() -> None:
    task = TaskRow("assemble", "FAILED", 1, cause="2 cases cannot be used\na: bad\nb: bad")
    html = render(replace(CONTENT, tasks=(task,)))
    assert "<li>b: bad</li>" in html and "more</summary>" not in html


UNSEEN = tuple(
    replace(s, fold="ensemble", split="site-b", case=f"b-{s.case}", source="site-b", dice=dice)
    for s, dice in zip(SCORES[:2] + SCORES[3:], (0.6, 0.5, 0.3, 0.2), strict=True)
)
TESTED = replace(
    CONTENT,
    scores=SCORES + UNSEEN,
    comparisons=compare(SCORES + UNSEEN, weights=WEIGHTS),
    overlays=(
        *CONTENT.overlays,
        Overlay("finetune", "best", "b-sub-01_T2w", 0.6, PIXEL, split="site-b", label="cord"),
    ),
)


def part(html: str, heading: str) -> Page:
    """The page from a heading of second order to the next."""
    begin = html.index(f"<h2>{heading}</h2>")
    return Page(html[begin : html.index("<h2>", begin + 1)])


def test_a_test_set_has_measures_people_contrasts_and_comparisons_of_its_own() -> None:
    found = part(render(TESTED), "Test set site-b")
    rows = {row[0]: row[1:] for row in found.rows}
    assert rows["Dice"][0].startswith("0.550 ± 0.071") and "2 people, 2 images" in rows["Dice"][0]
    assert rows["Precision"] == ["0.910 ± 0.000"] * 2
    persons = [row for row in found.rows if row[:2] == ["site-b", "01"]]
    assert persons == [["site-b", "01", "1", "0.600", "0.300"]]
    contrasts = [row for row in found.rows if row[:2] == ["site-b", "T2w"]]
    assert len(contrasts) == 4 and contrasts[0][2].startswith("0.550 ± 0.071")
    (compared,) = [row for row in found.rows if "against" in row[0]]
    assert compared[1].startswith("+0.300")


def test_the_validation_counts_without_the_test_sets() -> None:
    rows = Page(render(TESTED)).rows
    alone = Page(render(CONTENT)).rows
    totals = [[row for row in found if row[0] == "All people"] for found in (rows, alone)]
    assert totals[0] == totals[1] and len(totals[0]) == 1
    assert "0.550" not in "".join(
        "".join(row) for row in part(render(TESTED), "Person by person").rows
    )


def test_pictures_of_a_test_set_are_apart() -> None:
    html = render(TESTED)
    validation, _, unseen = html.partition("<h3>finetune, test set site-b</h3>")
    assert "<h3>finetune, validation</h3>" in validation
    assert "b-sub-01_T2w" in unseen and 'alt="finetune, best' in unseen


ALONE = replace(
    CONTENT,
    kind="train",
    arms=("train",),
    folds=(0,),
    weights={"train": "random"},
    scores=tuple(replace(s, arm="train", fold=0) for s in SCORES[:3]),
    comparisons=(),
    curves=(replace(CONTENT.curves[0], arm="train"),),
    overlays=(),
)


def test_a_retraining_of_one_fold_reads_without_arms_and_folds() -> None:
    html = render(ALONE)
    page = Page(html)
    assert "<title>demo · Retraining</title>" in html
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings[:3] == ["Dice of the validation", "Person by person", "Dice per contrast"]
    assert not any(row[0] in ("Fold", "All people") for row in page.rows)
    (dice,) = [row for row in page.rows if row[0] == "Dice"]
    assert dice[1].startswith("0.850 ± 0.071") and "3 images, 1 undefined" in dice[1]
    for word in ("baseline", "against", "joins the same person", "same for all arms"):
        assert word not in page.text


def test_an_only_arm_without_any_dice_has_no_figure_of_it() -> None:
    nothing = tuple(replace(s, dice=nan) for s in ALONE.scores)
    page = Page(render(replace(ALONE, scores=nothing)))
    assert len(page.all("svg")) == 2  # of its training
    assert "The same as a table" not in page.text


EMPTY_REFERENCE = "Where the reference is empty, Dice is 0 if anything was predicted"


def test_empty_references_are_explained_and_measures_say_over_whom_they_are() -> None:
    nothing = {"sensitivity": nan, "relative_volume_difference": nan}
    first, second, _ = ALONE.scores
    wrong = replace(first, person="04", case="sub-04", dice=0.0, precision=0.0, **nothing)
    found = Page(render(replace(ALONE, scores=(first, second, wrong))))
    assert EMPTY_REFERENCE in found.text
    rows = {row[0]: row[1] for row in found.rows if len(row) == 2}
    assert "3 people, 3 images" in rows["Dice"]
    assert "people" not in rows["Precision"], "over the same as the Dice"
    assert "2 people, 3 images, 1 undefined" in rows["Sensitivity"]
    assert "2 people, 3 images, 1 undefined" in rows["Relative volume difference"]
    assert EMPTY_REFERENCE not in Page(render(ALONE)).text


def test_several_folds_of_an_only_arm_are_told_apart() -> None:
    html = render(replace(ALONE, folds=(0, 1)))
    assert "<h2>Dice per fold</h2>" in html and "Further measures</h3>" in html


def test_a_run_without_any_result_still_has_a_page() -> None:
    empty = replace(CONTENT, scores=(), curves=(), tasks=(), overlays=(), facts=(), summary=())
    text = Page(render(empty)).text
    assert "No fold has delivered scores yet." in text
    assert "No training curves." in text and "No pictures." in text


def test_an_arm_without_any_score_is_a_missing_column() -> None:
    content = replace(CONTENT, arms=("finetune", "scratch", "resenc"))
    rows = Page(render(content)).rows
    assert next(row for row in rows if row[0] == "All people")[3] == "missing"


def test_every_label_has_its_own_tables() -> None:
    lesion = tuple(replace(s, label="lesion", dice=0.5) for s in CONTENT.scores)
    html = render(replace(CONTENT, scores=CONTENT.scores + lesion))
    assert "<h2>Dice per fold and arm: cord</h2>" in html
    assert "<h2>Dice per fold and arm: lesion</h2>" in html


def test_a_fold_trained_on_everything_is_not_called_held_out() -> None:
    content = replace(CONTENT, folds=("all",), scores=(replace(CONTENT.scores[0], fold="all"),))
    assert "seen in training" in Page(render(content)).text
    assert "seen in training" not in Page(render(CONTENT)).text


def test_everything_foreign_is_escaped() -> None:
    strange = replace(CONTENT.scores[0], arm=HOSTILE, case=HOSTILE, person=HOSTILE, source=HOSTILE)
    other = replace(strange, contrast=HOSTILE, label=HOSTILE, source="b")
    content = ReportContent(
        run_name=HOSTILE,
        kind=HOSTILE,
        created=HOSTILE,
        summary=(HOSTILE,),
        arms=(HOSTILE,),
        folds=(0,),
        weights={HOSTILE: HOSTILE},
        scores=(strange, other),
        comparisons=(Comparison(HOSTILE, HOSTILE, HOSTILE, (0.1,), 0, 0.1, None, 1.0, 1.0, True),),
        curves=(replace(CONTENT.curves[0], arm=HOSTILE),),
        tasks=(TaskRow(HOSTILE, HOSTILE, 1, HOSTILE, HOSTILE, 1.0, HOSTILE),),
        overlays=(Overlay(HOSTILE, HOSTILE, HOSTILE, nan, PIXEL),),
        facts=((HOSTILE, HOSTILE),),
        dataset=DatasetContent(
            splits=(HOSTILE,),
            counts=(CountRow(HOSTILE, HOSTILE, 1, 1, (1,)), CountRow("b", HOSTILE, 1, 1, (1,))),
            grids=(GridRow(HOSTILE, HOSTILE, ((HOSTILE, 1),), (), ()),),
            labels=(LabelRow(HOSTILE, HOSTILE, 1, 0, 0, (1.0, 2.0, 3.0)),),
            pathologies=(PathologyRow(HOSTILE, HOSTILE, 1, 1),),
            folds=(FoldTable(HOSTILE, (HOSTILE,), (FoldRow(0, (1, 1), (1, 1), (1,)),)),),
            skipped=(SkippedRow(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
            origins=(Origin(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
            remarks=(HOSTILE,),
            spacings={HOSTILE: ((1.0, 1.0, 5.0),)},
            volumes={HOSTILE: {HOSTILE: (1.0, 2.0)}},
            pictures=(CasePicture(HOSTILE, HOSTILE, HOSTILE, HOSTILE, PIXEL),),
        ),
    )
    html = render(content)
    assert "<script" not in html
    page = Page(html)
    assert not page.all("script")
    assert page.text.count(HOSTILE) > 35


def test_pictures_have_alternatives_and_tables_have_headers() -> None:
    page = Page(render(CONTENT))
    assert all(image["alt"] for image in page.all("img"))
    drawings = page.all("svg")
    assert len(drawings) == 1 + 1 + 2 * 2
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawings)
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_ids_are_unique_or_name_the_same_thing() -> None:
    html = render(CONTENT)
    defined = re.findall(
        r'<(?:path|clipPath) id="([^"]+)"[^>]*>(.*?)(?:/>|</clipPath>)', html, re.S
    )
    by_id: dict[str, set[str]] = {}
    for name, content in defined:
        by_id.setdefault(name, set()).add(content)
    assert by_id and all(len(contents) == 1 for contents in by_id.values())


def test_arms_named_with_dollar_signs_are_not_taken_for_formulas() -> None:
    renamed = {"finetune": "$x^2$", "scratch": "scratch"}
    scores = tuple(replace(s, arm=renamed[s.arm]) for s in CONTENT.scores)
    comparisons = tuple(replace(c, arm=renamed[c.arm]) for c in CONTENT.comparisons)
    arms = tuple(renamed.values())
    html = render(replace(CONTENT, arms=arms, scores=scores, comparisons=comparisons))
    assert ">$x^2$</text>" in html
    assert ">$x^2$ against scratch</text>" in html


def test_the_same_content_gives_the_same_page() -> None:
    assert render(CONTENT) == render(CONTENT)


def test_a_page_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "a report\nof mine.html"
    path.write_text("old")
    write_report(CONTENT, path)
    assert path.read_text(encoding="utf-8") == render(CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o044 == 0o044


def test_a_failing_render_leaves_the_old_page(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    unequal = replace(CONTENT.curves[0], train_loss=(0.1,))
    with pytest.raises(ValueError, match="dimension"):
        write_report(replace(CONTENT, curves=(unequal,)), path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0, "0:00:00"), (59.6, "0:01:00"), (90061, "25:01:01")]
)
def test_durations_read_as_hours_minutes_seconds(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_one_person_has_no_standard_deviation() -> None:
    assert mean_sd(Spread(mean=-0.5, sd=None, n=1, images=1, undefined=0)) == "−0.500"


def test_limits_ignore_what_is_not_a_number() -> None:
    assert common_limits([(0.0, nan), (1.0,)]) == pytest.approx((-0.05, 1.05))
    assert common_limits([(2.0,)]) == pytest.approx((1.95, 2.05))
    assert common_limits([(nan,), ()]) is None
