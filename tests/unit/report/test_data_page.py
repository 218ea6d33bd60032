"""``data.html``: all of the data at a glance, before anything is trained."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from ca_hpc.core.record import Origin
from ca_hpc.errors import CaHpcError
from ca_hpc.report.data_page import write_data_page
from ca_hpc.report.read_dataset import read_dataset, read_test_sets
from ca_hpc.store.run_folder import RunFolder
from tests.unit.report.data_runs import assembled, cases_of, row, skipped, write_pair
from tests.unit.report.page import Page

COMMIT = "9a3e5f2b7c1d4e6f8a0b2c4d6e8f0a1b3c5d7e9f"
ROWS = [
    row("a", person="anna", pathology="MS"),
    row("b", person="ben", contrast="T1w"),
    row("c", source="clinic", person="carl", split="site-b", label_voxels="cord:90,lesion:0"),
    skipped("d", person="dora", problem="/d.nii.gz: shape (2, 2) <is> odd"),
]
FOLDS = ({"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = assembled(
        tmp_path,
        ROWS,
        folds=FOLDS,
        test_sets={"site-b": ["c"]},
        origins=(Origin("lab", "https-repository", "r1", COMMIT),),
        remarks=("7 images of clinic have no label.",),
    )
    for case, part in (("a", "Tr"), ("b", "Tr"), ("c", "Ts_site-b")):
        write_pair(made, case, part=part)
    return made


def test_the_page_holds_the_data_from_what_was_skipped_to_where_it_came_from(
    run: RunFolder,
) -> None:
    path = write_data_page(run)
    assert path == run.file("data.html")
    html = path.read_text()
    page = Page(html)
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "Left out",
        "Images and people",
        "Folds",
        "Voxels and orientations",
        "Labels",
        "Pathologies",
        "Images to look at",
        "Origins",
    ]
    assert "3 images of 3 people from 2 sources; 1 case was left out." in page.text
    assert "7 images of clinic have no label." in page.text
    assert ["lab", "dora", "d", "/d.nii.gz: shape (2, 2) <is> odd"] in page.rows
    assert ["lab", "https-repository", "r1", COMMIT] in page.rows
    assert ["clinic", "T2w", "1", "1", "–", "1"] in page.rows
    assert ["lesion", "clinic", "1", "1", "in none"] not in page.rows, "its volume is 4.8"


def test_columns_say_whether_they_are_of_folds_or_of_a_test_set(run: RunFolder) -> None:
    header = ["Source", "Contrast", "Images", "People", "in folds", "test set site-b"]
    assert header in Page(write_data_page(run).read_text()).rows


def test_persons_are_named_only_where_they_are_left_out(run: RunFolder) -> None:
    text = Page(write_data_page(run).read_text()).text
    assert "dora" in text
    assert not [name for name in ("anna", "ben", "carl") if name in text]


def test_each_source_and_contrast_has_a_picture_also_of_a_test_set(run: RunFolder) -> None:
    images = Page(write_data_page(run).read_text()).all("img")
    assert [str(image["alt"]).split(":")[0] for image in images] == ["c", "b", "a"]
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in images)


def test_a_picture_whose_files_are_gone_is_left_out(run: RunFolder) -> None:
    (run.raw / "Dataset501_neck/labelsTr/a.nii.gz").unlink()
    assert len(Page(write_data_page(run).read_text()).all("img")) == 2


def test_the_page_asks_nothing_of_the_network_and_its_parts_are_accessible(run: RunFolder) -> None:
    html = write_data_page(run).read_text()
    page = Page(html)
    written = re.sub(r"base64,[^\"]*", "", html)
    assert not re.search(r"(https?:)?//[a-z]", written, flags=re.IGNORECASE)
    assert not page.all("script") and not page.all("link")
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))


def test_more_than_20_skipped_cases_are_folded_away_but_all_there(tmp_path: Path) -> None:
    rows = [row("fine"), *(skipped(f"case{k:02d}", problem=f"reason {k:02d}") for k in range(25))]
    html = write_data_page(assembled(tmp_path, rows)).read_text()
    seen, _, folded = html.partition("<details>")
    assert [k for k in range(25) if f"reason {k:02d}" in seen] == list(range(20))
    assert [k for k in range(25) if f"reason {k:02d}" in folded] == list(range(20, 25))
    assert "5 more" in folded


def test_a_plain_data_set_has_no_empty_sections(tmp_path: Path) -> None:
    html = write_data_page(assembled(tmp_path, [row("a")])).read_text()
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "Images and people",
        "Voxels and orientations",
        "Labels",
    ]
    assert "1 image of 1 person from 1 source." in Page(html).text


def test_where_nothing_could_be_used_the_page_says_so(tmp_path: Path) -> None:
    run = assembled(tmp_path, [skipped("a", problem="a: bad")])
    text = Page(write_data_page(run).read_text()).text
    assert "No image could be used; 1 case was left out." in text


def test_before_there_is_a_data_set_there_is_no_page(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "neck")
    run.write("cases.json", cases_of(ROWS))
    assert read_dataset(run) is None
    assert read_test_sets(run) == {}
    with pytest.raises(CaHpcError, match="no data set yet"):
        write_data_page(run)


def test_damaged_splits_are_named(run: RunFolder) -> None:
    run.file("splits.json").write_text("[{")
    with pytest.raises(CaHpcError, match=r"splits\.json cannot be read"):
        write_data_page(run)


def test_2000_images_make_a_page_that_still_opens(tmp_path: Path) -> None:
    rows = [
        row(
            f"case{k:04d}",
            source=f"source{k % 15:02d}",
            person=f"{k // 2}",
            contrast=f"C{k % 4}",
            spacing_mm=f"{0.3 + k % 701 / 1000:g}x{0.3 + k % 499 / 1000:g}x{1 + k % 89 / 20:g}",
            volume_mm3=f"cord:{9000 + k * 7919 % 20011},lesion:{1 + k * 104729 % 3001}",
        )
        for k in range(2000)
    ]
    ids = [each["case"] for each in rows]
    folds = [
        {"train": [c for k, c in enumerate(ids) if k % 5 != fold], "val": ids[fold::5]}
        for fold in range(5)
    ]
    run = assembled(tmp_path, rows, folds=folds)
    begun = time.monotonic()
    path = write_data_page(run)
    assert time.monotonic() - begun < 10
    assert path.stat().st_size < 2_000_000, "pictures come on top: 16 of some 40 kB"
