"""A raw data set as nnU-Net wants it: its folders and ``dataset.json``. Pure, without nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ca_hpc.core.data_spec import TEST, Crop
from ca_hpc.core.profile import ORIENTATION
from ca_hpc.core.record import Cases
from ca_hpc.core.regions import class_order

TRAINING_FOLDERS: Final = ("imagesTr", "labelsTr")
# nnU-Net's name of a normalisation that leaves a channel as it is: masks stay 0 and 1
AS_IT_IS: Final = "noNorm"


def folders_of_test_set(test_set: str) -> tuple[str, str]:
    """Folders of images and labels of a test set; nnU-Net's own names for the set ``test``."""
    suffix = "" if test_set == TEST else f"_{test_set}"
    return f"imagesTs{suffix}", f"labelsTs{suffix}"


def dataset_json(data: Cases, *, images: int, training: int, crop: Crop | None) -> dict[str, Any]:
    """``dataset.json`` of ``training`` cases with ``images`` channels and then the masks."""
    masks = data.mask_channels
    unnamed = ("MRI",) if images == 1 else tuple(f"channel{i}" for i in range(images))
    names = data.channel_names or (*unnamed, *(AS_IT_IS for _ in masks))
    return {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        **_labels(data),
        "numTraining": training,
        "file_ending": ".nii.gz",
        "image_orientation": ORIENTATION,
        "crop": {"to": crop.to, "margin_mm": crop.margin} if crop else "none",
        **({"mask_channels": dict(zip(map(str, range(images, len(names))), masks, strict=True))}
           if masks else {}),
    }  # fmt: skip


def _labels(data: Cases) -> Mapping[str, Any]:
    if not data.regions:
        return {"labels": {"background": 0, **data.labels}}
    regions = {
        name: values[0] if len(values) == 1 else list(values)
        for name, values in data.regions.items()
    }
    return {
        "labels": {"background": 0, **regions},
        "regions_class_order": list(class_order(data.regions)),
    }
