"""Does the image work? Import everything and run one forward pass of a tiny network.

Are its papers in order? The bill of materials names what is installed, and no licence text that
the index names is missing.

Runs inside the image at the end of a build and by ``apptainer test IMAGE``.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from importlib import metadata
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

HOME = Path(__file__).parent


def forward_shape() -> tuple[int, ...]:
    """Shape of the output for one image of 16 x 16 x 16 voxels: (batch, class, z, y, x)."""
    network = PlainConvUNet(
        input_channels=1,
        n_stages=2,
        features_per_stage=[4, 8],
        conv_op=torch.nn.Conv3d,
        kernel_sizes=3,
        strides=[1, 2],
        n_conv_per_stage=1,
        num_classes=2,
        n_conv_per_stage_decoder=1,
    )
    with torch.inference_mode():
        return tuple(network(torch.zeros(1, 1, 16, 16, 16)).shape)


def own_modules() -> list[str]:
    """Every module of ca_hpc, imported; none in the base image, which does not hold it."""
    try:
        package = importlib.import_module("ca_hpc")
    except ModuleNotFoundError:
        return []
    found = [module.name for module in pkgutil.walk_packages(package.__path__, "ca_hpc.")]
    # __main__ would run
    names = [name for name in found if not name.endswith("__main__")]
    for name in names:
        importlib.import_module(name)
    return names


def unlisted(home: Path) -> set[str]:
    """Packages ("name@version") that are installed or in the bill of materials, but not both."""
    image = json.loads((home / "image.json").read_text(encoding="utf-8"))
    listed = json.loads((home / "sbom.cdx.json").read_text(encoding="utf-8"))["components"]
    python = {
        f"{re.sub(r'[-_.]+', '-', found.metadata['Name']).lower()}@{found.version}"
        for found in metadata.distributions()
    }
    debian = {f"{name}@{version}" for name, version in image["debian_packages"].items()}
    return (python | debian) ^ {f"{found['name']}@{found['version']}" for found in listed}


def missing_licences(home: Path) -> list[str]:
    """Licence texts that are not where the index says; a Debian package always has one."""
    index = json.loads((home / "licences.json").read_text(encoding="utf-8"))
    files = [file for kind in index.values() for found in kind.values() for file in found]
    bare = [name for name, found in index["debian"].items() if not found]
    return bare + [file for file in files if not Path(file).is_file()]


def main() -> None:
    if wrong := unlisted(HOME):
        raise SystemExit(f"installed or in the bill of materials, not both: {sorted(wrong)}")
    if gone := missing_licences(HOME):
        raise SystemExit(f"licence texts are missing: {gone}")
    shape = forward_shape()
    if shape != (1, 2, 16, 16, 16):
        raise SystemExit(f"the network gave an output of shape {shape}")
    print(
        f"imported {nnUNetTrainer.__name__}, {nnUNetPredictor.__name__} and"
        f" {len(own_modules())} modules of ca_hpc; forward pass ok"
    )


if __name__ == "__main__":
    main()
