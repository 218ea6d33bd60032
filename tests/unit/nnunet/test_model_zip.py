"""What an exported model is made of."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import pytest

from ca_hpc.nnunet.model_zip import trainer_source, write_zip

OWN = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerOfOurs(nnUNetTrainer):
    pass
"""


def test_nnunets_own_trainers_need_no_source() -> None:
    assert trainer_source("nnUNetTrainer") is None


def test_another_trainers_source_is_loaded_as_sct_does(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_ours.py").write_text(OWN)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    source = trainer_source("nnUNetTrainerOfOurs")
    assert source is not None and source.startswith(OWN.rstrip())
    file = tmp_path_factory.mktemp("model") / "trainer_class.py"
    file.write_text(source)
    # spinalcordtoolbox/deepseg/nnunet.py, load_trainer_class_if_available
    spec = importlib.util.spec_from_file_location("trainer_class", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.get_trainer_class().__name__ == "nnUNetTrainerOfOurs"
    # what SCT finds already is left as it is
    (tmp_path / "of_ours.py").write_text(source)
    assert trainer_source("nnUNetTrainerOfOurs") == source


def test_equal_members_give_equal_zips_in_any_order(tmp_path: Path) -> None:
    members = {name: lambda stream, name=name: stream.write(name.encode()) for name in "cab"}
    write_zip(tmp_path / "one.zip", members, largest=100)
    write_zip(tmp_path / "two.zip", dict(reversed(members.items())), largest=100)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["a", "b", "c"]
        assert archive.read("b") == b"b"
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o644}


def test_a_member_beyond_the_old_limit_is_announced(tmp_path: Path) -> None:
    """zipfile refuses a member that grows beyond 2 GB unless it was told before."""
    write_zip(tmp_path / "large.zip", {"a": lambda stream: stream.write(b"a")}, largest=1 << 32)
    with zipfile.ZipFile(tmp_path / "large.zip") as archive:
        assert archive.getinfo("a").extract_version == 45  # zip64
        assert archive.read("a") == b"a"
