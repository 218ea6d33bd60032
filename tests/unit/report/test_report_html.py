"""The page: whole, self-contained, escaped, honest about what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from math import nan
from pathlib import Path

import pytest

from ca_hpc.report.comparison import compare
from ca_hpc.report.figures import common_limits
from ca_hpc.report.html import duration, mean_sd, render, write_report
from ca_hpc.report.model import CaseScore, Comparison, Curve, Overlay, ReportContent, TaskRow
from ca_hpc.report.tables import Spread

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c63600000000200015e2b7d190000000049454e44ae426082"
)
VOID = {"meta", "img", "br", "link", "hr", "input"}


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


class Page(HTMLParser):
    """What a test wants to know of a page; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if "style" not in self.open:
            self.text += text
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


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
        "Training",
        "Dice per contrast",
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


def test_tasks_show_state_attempts_time_and_cause() -> None:
    rows = Page(render(CONTENT)).rows
    finished = ["train-finetune-fold0", "COMPLETED", "1", "node1", "2026-11-21T20:02", "1:02:03"]
    assert [*finished, ""] in rows
    assert ["train-scratch-fold1", "FAILED", "3", "", "", "", "out of GPU memory"] in rows


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
    )
    html = render(content)
    assert "<script" not in html
    page = Page(html)
    assert not page.all("script")
    assert page.text.count(HOSTILE) > 15


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
