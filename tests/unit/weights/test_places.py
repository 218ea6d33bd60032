"""The checkpoint is found in the folders and zips that releases and trainings are made of."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from ca_hpc.errors import CaHpcError
from ca_hpc.weights.places import Place, extract, find_checkpoint, is_archive
from tests.torch_files import nnunet, saved, zipped

MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
PLANS = {"plans_name": "nnUNetPlans"}
DATASET = {"labels": {"background": 0, "SC": 1}}


def release(tmp_path: Path, *, names: Sequence[str], packed: bool) -> Path:
    """A folder or zip of files with these names; what each contains is its name or its JSON."""
    contents = {
        name: (
            json.dumps(PLANS if name.endswith("plans.json") else DATASET)
            if name.endswith(".json")
            else name
        ).encode()
        for name in names
    }
    if packed:
        return zipped(tmp_path / "model.zip", contents, method=zipfile.ZIP_DEFLATED)
    for name, content in contents.items():
        file = tmp_path / "model" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "model"


def folds(*names: str, model: str = MODEL, which: str = "final") -> list[str]:
    return [f"{model}/fold_{name}/checkpoint_{which}.pth" for name in names]


LAYOUTS = {
    "nnU-Net's results": (
        [*folds("0"), *folds("0", which="best"), f"{MODEL}/plans.json", f"{MODEL}/dataset.json"],
        folds("0")[0],
    ),
    "below a dataset": ([f"a/Dataset1_x/{folds('2')[0]}"], f"a/Dataset1_x/{folds('2')[0]}"),
    "the first fold": (folds("3", "10", "2"), folds("2")[0]),
    "all cases before the folds": (folds("0", "all"), folds("all")[0]),
    "only the best": (folds("0", which="best"), folds("0", which="best")[0]),
    "only the latest": (folds("0", which="latest"), folds("0", which="latest")[0]),
    "final before latest": (folds("0") + folds("0", which="latest"), folds("0")[0]),
    "a file alone": (["model/nnunet_compatible.pth"], "model/nnunet_compatible.pth"),
    "lightning's": (["logs/epoch=3.ckpt", "logs/best_model.ckpt"], "logs/best_model.ckpt"),
    "safetensors": (["weights.safetensors", "README.md"], "weights.safetensors"),
    "3D beside 2D": (
        folds("0") + folds("0", model=MODEL.replace("3d_fullres", "2d")),
        folds("0")[0],
    ),
    "3D beside a cascade": (
        folds("0", model="3d_lowres") + folds("0", model="3d_cascade_fullres"),
        folds("0", model="3d_lowres")[0],
    ),
    "packed on a Mac": (
        [*folds("0"), f"__MACOSX/{MODEL}/fold_0/._checkpoint_final.pth", ".DS_Store"],
        folds("0")[0],
    ),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(("names", "wanted"), LAYOUTS.values(), ids=LAYOUTS)
def test_known_layouts(tmp_path: Path, names: list[str], wanted: str, packed: bool) -> None:
    given = release(tmp_path, names=names, packed=packed)
    place = find_checkpoint(given)
    assert place.member == (wanted if packed else None)
    assert extract(place, tmp_path).read_text() == wanted
    endings = (".pth", ".ckpt", ".safetensors")
    checkpoints = {n for n in names if n.endswith(endings) and not n.startswith("__MACOSX")}
    assert {*place.others, wanted} == checkpoints


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_what_lies_beside_it_is_read(tmp_path: Path, packed: bool) -> None:
    names, wanted = LAYOUTS["nnU-Net's results"]
    given = release(tmp_path, names=names, packed=packed)
    assert find_checkpoint(given) == Place(
        file=given if packed else given / wanted,
        member=wanted if packed else None,
        plans=PLANS,
        dataset_json=DATASET,
        fold="0",
        configuration="3d_fullres",
        which="final",
        others=(folds("0", which="best")[0],),
    )


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_fold_and_the_best_can_be_asked_for(tmp_path: Path, packed: bool) -> None:
    names = folds("0", "1") + folds("0", "1", which="best")
    given = release(tmp_path, names=names, packed=packed)
    place = find_checkpoint(given, fold="1", which="best")
    assert (place.fold, place.which) == ("1", "best")
    assert extract(place, tmp_path).read_text() == folds("1", which="best")[0]
    with pytest.raises(CaHpcError, match="no fold 4; its folds: 0, 1"):
        find_checkpoint(given, fold="4")


def test_a_wish_that_cannot_be_met_says_what_is_there(tmp_path: Path) -> None:
    given = release(tmp_path, names=folds("0"), packed=False)
    with pytest.raises(CaHpcError, match=r"checkpoint_final\.pth: none is the best one"):
        find_checkpoint(given, which="best")


def test_of_several_best_ones_none_is_taken(tmp_path: Path) -> None:
    given = release(tmp_path, names=["best-1.ckpt", "best-2.ckpt", "last.ckpt"], packed=False)
    with pytest.raises(CaHpcError, match=r"best-1\.ckpt, best-2\.ckpt: which one is meant\?"):
        find_checkpoint(given)


def test_a_file_is_its_own_place(tmp_path: Path) -> None:
    file = saved(nnunet(), tmp_path / "checkpoint_best.pth")
    assert find_checkpoint(file) == Place(file, which="best")
    assert extract(find_checkpoint(file), tmp_path / "nowhere") == file


def test_torchs_own_zips_are_files_of_weights(tmp_path: Path) -> None:
    file = saved(nnunet(), tmp_path / "checkpoint_final.pth")
    packed = release(tmp_path, names=folds("0"), packed=True)
    truncated = zipped(tmp_path / "truncated.zip", {"a": b"a" * 1000})
    truncated.write_bytes(truncated.read_bytes()[:500])
    assert [is_archive(path) for path in (file, packed, truncated)] == [False, True, True]
    file.write_bytes(file.read_bytes()[:500])
    assert not is_archive(file)


def test_plans_that_are_no_json_are_named(tmp_path: Path) -> None:
    given = release(tmp_path, names=[*folds("0"), f"{MODEL}/plans.json"], packed=False)
    (given / MODEL / "plans.json").write_text("{")
    with pytest.raises(CaHpcError, match=rf"{MODEL}/plans\.json is no JSON"):
        find_checkpoint(given)


def test_an_extracted_file_is_never_written_over(tmp_path: Path) -> None:
    given = release(tmp_path, names=folds("0"), packed=True)
    (tmp_path / "checkpoint_final.pth").write_text("mine")
    with pytest.raises(FileExistsError):
        extract(find_checkpoint(given), tmp_path)
    assert (tmp_path / "checkpoint_final.pth").read_text() == "mine"
