"""A small data set that nnU-Net itself fingerprinted, planned and preprocessed, and calls on it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.core.record import Cases
from ca_hpc.nnunet.calls import FoldCall
from ca_hpc.nnunet.raw_dataset import dataset_json
from tests.blobs import (
    CASES,
    NESTED,
    Preprocessed,
    environment,
    fold_call,
    preprocess,
    preprocess_blobs,
    write_nested,
)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preprocessed]:
    root = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(root).items():
            patch.setenv(name, value)
        yield preprocess_blobs(root)


@pytest.fixture(scope="session")
def nested(blobs: Preprocessed) -> Preprocessed:
    """Learnt as regions, from an image and a mask. nnU-Net's folders stay those of the blobs."""
    cases = Cases(
        NESTED,
        labels={"cord": 1, "lesion": 2},
        cases=(),
        mask_channels=("around",),
        regions={"cord": (1, 2), "lesion": (2,)},
    )
    dataset = dataset_json(cases, images=1, training=len(CASES), crop=None)
    return preprocess(blobs.root.parent, NESTED, dataset=dataset, write=write_nested)


@pytest.fixture
def make_call(blobs: Preprocessed, tmp_path: Path) -> Iterator[Callable[..., FoldCall]]:
    """``make_call(epochs=3, fold=1)``: a call with the given fields or settings changed."""

    def make(**changes: Any) -> FoldCall:
        return fold_call(blobs, **{"attempt_folder": tmp_path / "attempt-1", **changes})

    before = dict(os.environ)
    yield make
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def make_loader(blobs: Preprocessed) -> Callable[[], Any]:
    """``make_loader()``: nnU-Net's own loader of training patches, with all its augmentation."""
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    patch = (16, 16, 16)
    labels = PlansManager(json.loads(blobs.plans_file.read_text())).get_label_manager(
        json.loads(blobs.dataset_json_file.read_text())
    )
    folder = str(blobs.dataset_folder / "nnUNetPlans_3d_fullres")

    def make() -> Any:
        transforms = nnUNetTrainer.get_training_transforms(
            patch, (-0.5, 0.5), [[1, 1, 1], [0.5] * 3], (0, 1, 2), False, use_mask_for_norm=[False]
        )
        dataset = nnUNetDatasetBlosc2(folder, list(CASES))
        return nnUNetDataLoader(
            dataset, 2, (24, 24, 24), patch, labels, 0.33, transforms=transforms
        )

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All on one worker of pytest-xdist: each that has one of these makes the data set again."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.xdist_group("nnunet"))
