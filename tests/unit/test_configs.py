"""Profiles by name and by file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ca_hpc import configs
from ca_hpc.errors import SpecError
from ca_hpc.store.shipped import shipped

CLUSTERS = sorted(file.stem for file in shipped("configs", "clusters").iterdir())
MODELS = sorted(file.stem for file in shipped("configs", "models").iterdir())


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_shipped_cluster_is_valid_and_named_as_its_file(name: str) -> None:
    assert configs.cluster(name, relative_to=Path("/nowhere")).name == name


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_is_valid_and_named_as_its_file(name: str) -> None:
    assert configs.model(name, relative_to=Path("/nowhere")).name == name


def test_a_profile_of_ones_own_counts_from_the_folder_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\naccount: def-lab\n")
    assert configs.cluster("mine.yaml", relative_to=tmp_path).account == "def-lab"
    file = str(tmp_path / "mine.yaml")
    assert configs.cluster(file, relative_to=Path("/nowhere")).account == "def-lab"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError) as refused:
        configs.cluster("nowhere", relative_to=Path())
    assert refused.value.message == f"no cluster profile nowhere; known: {', '.join(CLUSTERS)}"
    with pytest.raises(SpecError, match="no model profile v9; known: contrast-agnostic-v2"):
        configs.model("v9", relative_to=Path())


def test_a_name_cannot_leave_the_shipped_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(SpecError, match=r"mine\.yaml: .* does not exist|no cluster profile"):
        configs.cluster("mine", relative_to=tmp_path)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=rf"{tmp_path}/mine\.yaml does not exist"):
        configs.cluster("mine.yaml", relative_to=tmp_path)


def test_mistakes_in_a_profile_have_their_place(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\npartion: long\nlimits: {longest_job: 24:00:00}\n"
    )
    with pytest.raises(SpecError) as refused:
        configs.cluster("mine.yaml", relative_to=tmp_path)
    assert refused.value.message.splitlines() == [
        f"2 problems in {tmp_path}/mine.yaml",
        f"{tmp_path}/mine.yaml:2:1: unknown key partion; did you mean partition?",
        f"{tmp_path}/mine.yaml:3:23: 24:00:00 without quotes is a number to some YAML readers; "
        'write "24:00:00"',
    ]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(SpecError, match=r"mine\.yaml: is not UTF-8 text"):
        configs.cluster("mine.yaml", relative_to=tmp_path)


def test_a_file_that_is_too_large_for_a_profile_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\n" + "# filler\n" * 200_000)
    with pytest.raises(SpecError, match=r"mine\.yaml is larger than 1000 kB"):
        configs.cluster("mine.yaml", relative_to=tmp_path)


@pytest.mark.parametrize("key", ["account", "partition", "qos", "constraint"])
def test_what_goes_into_the_batch_script_is_one_line(tmp_path: Path, key: str) -> None:
    (tmp_path / "mine.yaml").write_text(f'name: mine\n{key}: "a\\ntouch /tmp/b"\n')
    with pytest.raises(SpecError, match=f"{key}: must be one line"):
        configs.cluster("mine.yaml", relative_to=tmp_path)


def test_a_gpu_flag_is_one_line(tmp_path: Path) -> None:
    flag = '"--gres=gpu:{count}\\ntouch /tmp/b"'
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\ngpus: {{a: {{flag: {flag}, cpus: 1, ram: 1GB}}}}\n"
    )
    with pytest.raises(SpecError, match=r"gpus\.a\.flag: must be one line"):
        configs.cluster("mine.yaml", relative_to=tmp_path)


@pytest.mark.parametrize("gpus", ["-1", '"2"'])
def test_a_node_has_a_whole_number_of_gpus(tmp_path: Path, gpus: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: mine\nnode: {{gpus: {gpus}}}\n")
    with pytest.raises(SpecError, match=r"node\.gpus: should be"):
        configs.cluster("mine.yaml", relative_to=tmp_path)


@pytest.mark.parametrize(
    "strides", ["null", "2", "[]", "[1, 2, 2]", "[[1, 1]]", "[[0, 1, 1]]", "[[1.5, 1, 1]]"]
)
def test_a_model_needs_the_strides_that_its_patch_is_checked_against(
    tmp_path: Path, strides: str
) -> None:
    text = shipped("configs", "models", "demo.yaml").read_text()
    text = re.sub("strides: .*", f"strides: {strides}", text)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SpecError, match="arch_kwargs: needs strides"):
        configs.model("mine.yaml", relative_to=tmp_path)


def test_a_model_has_each_axis_once(tmp_path: Path) -> None:
    text = shipped("configs", "models", "demo.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("[RL, AP, SI]", "[RL, RL, SI]"))
    with pytest.raises(SpecError, match="axes: name each of RL, AP and SI once"):
        configs.model("mine.yaml", relative_to=tmp_path)
