"""``ca-hpc weights`` as a user meets it: what is added, what is said, what the shell sees."""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from ca_hpc.store.digests import sha256_file
from ca_hpc.weights.topology import canonical_name, tensor_shapes
from tests.checkpoints import network_of
from tests.command_line import Call, Shown, called
from tests.torch_files import lightning, network, nnunet, saved
from tests.web_server import Script, serving

GENUINE: Final = Path(__file__).parents[1] / "fixtures" / "checkpoints"
CHECKPOINT: Final = GENUINE / "2.8.1-ExperimentPlanner.pth"
RESIDUAL: Final = GENUINE / "2.8.1-nnUNetPlannerResEncL.pth"
MODEL: Final = "nnUNetTrainer__nnUNetPlans__3d_fullres"
DATASET_JSON: Final = json.dumps({"labels": {"background": 0, "sc": 1}, "image_orientation": "LPI"})


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """``call("list")`` is ``ca-hpc weights list`` in an empty folder, with an empty store."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CA_HPC_STORE", str(tmp_path / "store"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def run(*arguments: str, command: str = "weights") -> Shown:
        shown = called(command, *arguments, monkeypatch=monkeypatch, capsys=capsys)
        return replace(shown, err=shown.err.strip("\n"))

    return run


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """``serve(content)``: the address of a file with a token in it."""
    with serving(Script(b"")) as site:

        def address(content: bytes) -> str:
            site.script.content = content
            return site.url("/model.zip?token=secret", user="me:secret@")

        yield address


def facts(shown: Shown) -> dict[str, str]:
    """The table of what weights are."""
    assert shown.code == 0, shown.err
    table = shown.out.partition("\n\n")[0].splitlines()
    return dict(re.split("  +", line, maxsplit=1) for line in table)


def for_a_job(shown: Shown) -> list[str]:
    """The lines that are to be written into a job."""
    start, _, lines = shown.out.partition("\nin a job:\n")
    assert start and lines
    return [line.strip() for line in lines.splitlines()]


def release(file: Path, *, inside: str = f"model_20250123/{MODEL}") -> Path:
    """A zip in the layout of release v3.0: two folds of a training."""
    plans = json.dumps({"plans_name": "nnUNetPlans"})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{inside}/plans.json", plans)
        archive.writestr(f"{inside}/dataset.json", DATASET_JSON)
        archive.writestr(f"{inside}/dataset_fingerprint.json", "{}")
        archive.write(CHECKPOINT, f"{inside}/fold_0/checkpoint_final.pth")
        archive.write(CHECKPOINT, f"{inside}/fold_0/checkpoint_best.pth")
        archive.write(RESIDUAL, f"{inside}/fold_1/checkpoint_final.pth")
    return file


def data(folder: Path) -> None:
    for person in ("01", "02"):
        for name in (
            f"sub-{person}/anat/sub-{person}_T2w.nii.gz",
            f"derivatives/labels/sub-{person}/anat/sub-{person}_T2w_seg.nii.gz",
        ):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).touch()


def assert_valid(call: Call, lines: list[str]) -> None:
    """A job with these lines passes every check."""
    data(Path("bids"))
    job = ["kind: finetune", "name: neck", "cluster: local", "runtime: none", "splits: {folds: 2}",
           "data: [{type: bids, path: bids, label_suffix: _seg}]"]  # fmt: skip
    Path("job.yaml").write_text("\n".join([*job, *lines]))
    shown = call("job.yaml", command="validate")
    assert shown.code == 0, shown.err


# --- add -----------------------------------------------------------------------------------------


def test_a_checkpoint_is_added_and_a_job_names_what_was_said_last(call: Call) -> None:
    shown = call("add", str(CHECKPOINT))
    told = facts(shown)
    assert told["source"] == CHECKPOINT.name
    assert told["source sha256"] == sha256_file(CHECKPOINT)
    assert (told["family"], told["trainer"], told["outputs"]) == ("nnU-Net", "nnUNetTrainer", "2")
    assert told["network"] == "PlainConvUNet, 3 stages"
    assert told["axes"] == "SI, AP, RL"
    assert told["patch"] == "SI 16, AP 16, RL 16"
    assert told["trained at"] == "RL 1, AP 1, SI 1 mm"
    assert told["orientation"] == "not known"
    assert told["not kept"] == "optimizer_state (tensors)"
    assert for_a_job(shown) == [f"weights: sha256:{told['tensors sha256']}"]
    assert_valid(call, for_a_job(shown))


def test_a_release_in_a_zip_is_looked_through(call: Call) -> None:
    told = facts(call("add", str(release(Path("model_20250123.zip")))))
    assert told["source"] == (
        f"model_20250123.zip, model_20250123/{MODEL}/fold_0/checkpoint_final.pth"
    )
    assert told["source sha256"] == sha256_file(Path("model_20250123.zip"))
    assert told["network"] == "PlainConvUNet, 3 stages"


def test_a_fold_and_the_best_checkpoint_are_chosen(call: Call) -> None:
    file = str(release(Path("model.zip")))
    assert "ResidualEncoderUNet" in facts(call("add", file, "--fold", "1"))["network"]
    best = facts(call("add", file, "--checkpoint", "best"))
    assert best["source"].endswith("fold_0/checkpoint_best.pth")
    refused = call("add", file, "--fold", "1", "--checkpoint", "best")
    assert refused.code == 2
    assert "checkpoint_final.pth" in refused.err


def test_a_zip_with_an_unknown_inside_is_searched(call: Call) -> None:
    file = Path("model_v2.5_nnunet_compatible.zip")
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(CHECKPOINT, "some/where/deep/nnunet_compatible/best_model.pth")
        archive.writestr("some/where/README.txt", "hello")
    told = facts(call("add", str(file)))
    assert told["source"].endswith("best_model.pth")
    assert told["axes"] == "SI, AP, RL"


def test_a_folder_of_results_is_searched(call: Call) -> None:
    with zipfile.ZipFile(release(Path("model.zip"))) as archive:
        archive.extractall("results")
    told = facts(call("add", "results"))
    assert told["source"] == f"results, model_20250123/{MODEL}/fold_0/checkpoint_final.pth"
    assert told["source sha256"] == sha256_file(CHECKPOINT)


def test_what_lies_beside_bare_weights_counts(call: Call) -> None:
    content = torch.load(CHECKPOINT, weights_only=False)
    folder = Path("results") / MODEL
    (folder / "fold_0").mkdir(parents=True)
    saved(content["network_weights"], folder / "fold_0" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(content["init_args"]["plans"]))
    (folder / "dataset.json").write_text(DATASET_JSON)
    told = facts(call("add", "results"))
    assert (told["family"], told["axes"], told["orientation"]) == (
        ("state dict", "SI, AP, RL", "LPI")
    )


def test_an_address_is_fetched_and_no_secret_of_it_kept(
    call: Call, serve: Callable[[bytes], str], tmp_path: Path
) -> None:
    url = serve(release(Path("model.zip")).read_bytes())
    shown = call("add", url)
    told = facts(shown)
    address = told["source"].partition(",")[0]
    assert address.startswith("http://127.0.0.1:") and address.endswith("/model.zip?…")
    taken = f"taking model_20250123/{MODEL}/fold_0/checkpoint_final.pth"
    others = "one of 3 checkpoints (--fold, --checkpoint take another)"
    assert shown.err == f"fetching {address}\n{taken}, {others}"
    everything = "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())
    assert "secret" not in shown.out + shown.err + everything
    assert not list((tmp_path / "store" / "downloads").glob("model*"))


def test_an_address_without_weights_is_refused_in_plain_words(
    call: Call, serve: Callable[[bytes], str]
) -> None:
    shown = call("add", serve(b"nothing"))
    assert shown.code == 2
    assert "7 bytes" in shown.err
    assert "secret" not in shown.err


def test_a_file_that_names_more_than_numbers_needs_trust(call: Call) -> None:
    content = lightning(options=argparse.Namespace(lr=0.1))
    file = str(saved(content, Path("last.ckpt")))
    refused = call("add", file)
    assert refused.code == 2
    assert "argparse.Namespace" in refused.err and "--trust" in refused.err
    assert call("inspect", file).err == refused.err
    told = facts(call("add", file, "--trust"))
    assert "hyper_parameters (argparse.Namespace)" in told["not kept"]


def test_json_is_the_whole_manifest_and_nothing_else(call: Call) -> None:
    shown = call("add", str(CHECKPOINT), "--json")
    manifest = json.loads(shown.out)
    assert shown.err == ""
    assert manifest["source"]["name"] == CHECKPOINT.name
    assert manifest["network"]["axes"] == ["SI", "AP", "RL"]
    assert len(manifest["tensors"]) == 136
    assert json.loads(call("inspect", manifest["sha256"][:8], "--json").out) == manifest


def test_the_store_is_where_one_says(call: Call, tmp_path: Path) -> None:
    facts(call("add", str(CHECKPOINT), "--store", "ours"))
    assert len(list(Path("ours/weights").glob("*/manifest.json"))) == 1
    assert not (tmp_path / "store").exists()
    assert CHECKPOINT.name in call("list", "--store", "ours").out


# --- profiles ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """contrast-agnostic v2 as its training saves it: true shape, names behind ``net.``, one output.

    Its 123 MB are written once.
    """
    network = network_of("contrast-agnostic-v2")
    shapes = tensor_shapes(
        network.arch_kwargs, network_class_name=network.network_class_name, channels=1, heads=1
    )
    assert shapes is not None
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        tensors.setdefault(canonical_name(name), torch.zeros(shape))
    weights = {f"net.{name}": tensors[canonical_name(name)] for name in shapes}
    content = {"epoch": 140, "pytorch-lightning_version": "2.0.0", "state_dict": weights}
    return saved(content, tmp_path_factory.mktemp("v2") / "best_model.ckpt")


def test_a_checkpoint_of_lightning_becomes_the_profiles_weights(call: Call, released: Path) -> None:
    shown = call("add", str(released), "--profile", "contrast-agnostic-v2")
    told = facts(shown)
    assert told["profile"] == "contrast-agnostic-v2"
    assert told["family"] == "Lightning"
    assert told["names"] == "'net.' taken off"
    assert told["tensors"] == "292, 30.8 M parameters"
    assert told["axes"] == "RL, AP, SI"
    assert told["patch"] == "RL 64, AP 192, SI 320"
    assert told["crop"] == "none, whole images"
    assert for_a_job(shown) == ["weights: contrast-agnostic-v2"]
    assert_valid(call, for_a_job(shown))


def test_without_a_profile_its_axes_are_not_known_and_that_is_said(call: Call) -> None:
    file = saved(lightning(), Path("last.ckpt"))
    shown = call("add", str(file))
    assert facts(shown)["axes"] == "not known; a job must name a model profile that says them"
    weights, model = for_a_job(shown)
    assert weights.startswith("weights: sha256:")
    assert model == "model: mine.yaml  # a profile of yours"


def test_a_profile_without_an_address_says_where_to_get_it(call: Call) -> None:
    shown = call("add", "contrast-agnostic-v2")
    assert shown.code == 2
    error, hint = shown.err.splitlines()
    assert "contrast-agnostic-v2 (contrast-agnostic soft segmentation" in error
    assert "nnunet_compatible" in error
    assert "https://github.com/sct-pipeline/" in hint
    assert hint.endswith("then: ca-hpc weights add FILE --profile contrast-agnostic-v2")


def own_profile(**keys: Any) -> str:
    """``mine.yaml``: a profile of one's own."""
    Path("mine.yaml").write_text(json.dumps({"name": "mine", **keys}))
    return "mine.yaml"


def test_a_profile_with_an_address_is_fetched_by_its_name(
    call: Call, serve: Callable[[bytes], str]
) -> None:
    file = release(Path("model.zip"))
    release_of = {"url": serve(file.read_bytes()), "sha256": sha256_file(file)}
    shown = call("add", own_profile(release=release_of))
    assert facts(shown)["profile"] == "mine"
    assert for_a_job(shown) == ["weights: mine.yaml  # its path from the folder of the job"]
    assert_valid(call, for_a_job(shown))


@pytest.mark.parametrize("where", ["address", "file"])
def test_a_release_that_is_not_the_recorded_one_is_refused(
    call: Call, serve: Callable[[bytes], str], where: str
) -> None:
    file = release(Path("model.zip"))
    profile = own_profile(release={"url": serve(file.read_bytes()), "sha256": "0" * 64})
    if where == "address":
        shown = call("add", profile)
    else:
        shown = call("add", str(file), "--profile", profile)
    assert shown.code == 3
    assert sha256_file(file) in shown.err and "0" * 64 in shown.err
    assert "no weights in" in call("list").out


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ("demo", "do not fit the network of demo: "),
        ("contrast-agnostic-v9", "no model profile contrast-agnostic-v9"),
        ("gone.yaml", "gone.yaml does not exist"),
        ("mine.yaml", "have 1 input channel, profile mine says 2"),
    ],
)
def test_a_profile_that_the_weights_do_not_belong_to_stores_nothing(
    call: Call, profile: str, told: str
) -> None:
    own_profile(trained_on={"channels": 2})
    shown = call("add", str(CHECKPOINT), "--profile", profile)
    assert shown.code == 2
    assert told in shown.err
    assert "no weights in" in call("list").out


def test_a_profile_that_means_other_weights_by_now_is_refused(call: Call) -> None:
    own_profile()
    facts(call("add", str(CHECKPOINT), "--profile", "mine.yaml"))
    refused = call("add", str(RESIDUAL), "--profile", "mine.yaml")
    assert refused.code == 3
    assert CHECKPOINT.name in refused.err and RESIDUAL.name in refused.err
    assert "--replace" in refused.err
    moved = call("add", str(RESIDUAL), "--profile", "mine.yaml", "--replace")
    assert facts(moved)["profile"] == "mine"
    assert facts(call("inspect", "mine"))["source"] == RESIDUAL.name
    assert facts(call("inspect", sha256_file(CHECKPOINT)))["source"] == CHECKPOINT.name


def test_the_same_weights_of_another_file_stay_what_they_were_named(call: Call) -> None:
    own_profile()
    facts(call("add", str(CHECKPOINT), "--profile", "mine.yaml"))
    content = torch.load(CHECKPOINT, weights_only=False)
    file = saved(content["network_weights"], Path("bare.pth"))
    told = facts(call("add", str(file)))
    assert (told["profile"], told["also from"]) == ("mine", "bare.pth")
    assert call("list").out.count("sha256:") == 1


# --- what nnU-Net cannot take --------------------------------------------------------------------


MONAI: Final = {"model.0.conv.unit0.conv.weight": torch.zeros(2, 1, 3, 3, 3)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (MONAI, "the tensors' names are those of MONAI's UNet"),
        ({"state_dict": {f"net.{k}": v for k, v in MONAI.items()}}, "MONAI's UNet"),
        (network(dimensions=2).state_dict(), "the weights belong to a 2D network"),
        ({"optimizer_state": {}}, "holds no weights"),
        ({f"unet.{k}": v for k, v in network().state_dict().items()}, "behind a prefix"),
    ],
    ids=["MONAI", "MONAI behind net.", "2D", "optimizer", "prefix"],
)
def test_a_network_that_is_not_compatible_is_explained(
    call: Call, content: dict[str, Any], told: str
) -> None:
    shown = call("add", str(saved(content, Path("model_v2.4.pth"))))
    assert shown.code == 2
    error, hint = shown.err.splitlines()
    assert "model_v2.4.pth" in error and told in error
    assert hint.startswith("hint: ")


def test_a_file_inside_a_zip_is_named_by_where_the_user_finds_it(call: Call) -> None:
    saved(MONAI, Path("best.pth"))
    with zipfile.ZipFile("model_v2.4.zip", "w") as archive:
        archive.write("best.pth", "model/best.pth")
    shown = call("add", "model_v2.4.zip")
    assert shown.code == 2
    assert "here/model_v2.4.zip, model/best.pth: the tensors' names are those of" in shown.err
    assert "nnunet_compatible" in shown.err
    assert "ca-hpc-weights-" not in shown.err


WRONG: Final = (
    ("add", "nosuch"),
    ("add", "nosuch.pth"),
    ("add", "nosuch.yaml"),
    ("add", "~nobody9/nosuch.pth"),
    ("add", "file:///etc/passwd"),
    ("add", "http://"),
    ("add", "."),
    ("add", "empty.pth"),
    ("add", "text.zip"),
    ("add", "empty.pth", "--checkpoint", "worst"),
    ("add",),
    ("inspect", "nosuch"),
    ("inspect", "empty.pth"),
    ("inspect", "12345678"),
    ("verify", "nosuch"),
    ("remove", "nosuch"),
    (),
)


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_mistakes_end_with_2_and_a_few_lines(call: Call, arguments: tuple[str, ...]) -> None:
    Path("empty.pth").touch()
    Path("text.zip").write_text("hello")
    shown = call(*arguments)
    assert shown.code == 2
    told = shown.err or shown.out
    assert 1 < len(told.splitlines()) < 16
    assert "Traceback" not in told and "unexpected" not in told


# --- list, inspect, verify -----------------------------------------------------------------------


def test_a_list_shows_what_is_kept_and_how_to_add_what_is_not(call: Call) -> None:
    own_profile()
    facts(call("add", str(CHECKPOINT), "--profile", "mine.yaml"))
    facts(call("add", str(RESIDUAL)))
    kept, _, others = call("list").out.partition("\nto add:\n")
    lines = kept.splitlines()
    entries = {lines[i].split()[0]: (lines[i], lines[i + 1]) for i in (0, 2)}
    first, source = entries["mine"]
    assert len(first.split("sha256:")[1]) == 64
    assert source.strip().startswith(f"from {CHECKPOINT.name}, added 20")
    assert entries["(no"][0].startswith("(no profile) ")
    assert others.splitlines() == [
        "  ca-hpc weights add FILE --profile contrast-agnostic-v2",
        "  ca-hpc weights add contrast-agnostic-v3",
        "  ca-hpc weights add contrast-agnostic-v4",
    ]
    told = json.loads(call("list", "--json").out)
    assert {row["name"] for row in told["kept"]} == {"mine", None}
    assert told["not_kept"]["contrast-agnostic-v3"] == "ca-hpc weights add contrast-agnostic-v3"


def test_an_empty_store_is_said_to_be_empty(call: Call, tmp_path: Path) -> None:
    assert call("list").out.splitlines()[0] == f"no weights in {tmp_path}/store/weights"
    assert call("verify").out == f"no weights in {tmp_path}/store/weights\n"
    assert not (tmp_path / "store").exists()


def test_inspecting_a_file_keeps_nothing(call: Call, tmp_path: Path) -> None:
    told = facts(call("inspect", str(release(Path("model.zip")))))
    assert told["network"] == "PlainConvUNet, 3 stages"
    assert "tensors sha256" not in told  # they are not stored, and only the store's file has one
    assert not (tmp_path / "store").exists()


def test_all_kept_weights_are_verified_before_damage_is_told(call: Call, tmp_path: Path) -> None:
    shas = [facts(call("add", str(file)))["tensors sha256"] for file in (CHECKPOINT, RESIDUAL)]
    assert sorted(call("verify").out.splitlines()) == [
        f"{CHECKPOINT.name}: sha256:{shas[0]} as recorded",
        f"{RESIDUAL.name}: sha256:{shas[1]} as recorded",
    ]
    file = tmp_path / "store" / "weights" / shas[0] / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    shown = call("verify")
    assert shown.code == 3
    assert shown.out == f"{RESIDUAL.name}: sha256:{shas[1]} as recorded\n"
    assert f"{file} is sha256:" in shown.err
    assert "hint: add the weights again: ca-hpc weights add" in shown.err
    told = json.loads(call("verify", "--json").out)
    assert told["as_recorded"] == [{"name": None, "sha256": shas[1]}]
    assert told["error"]["exit_code"] == 3
    assert call("verify", f"sha256:{shas[1][:12]}").code == 0
    facts(call("add", str(CHECKPOINT)))
    assert call("verify").code == 0


def test_a_job_with_kept_weights_is_pinned_to_their_tensors(call: Call, tmp_path: Path) -> None:
    genuine = torch.load(CHECKPOINT, weights_only=False)
    file = saved(genuine | {"optimizer_state": nnunet()["optimizer_state"]}, Path("a.pth"))
    shas = {facts(call("add", str(f)))["tensors sha256"] for f in (CHECKPOINT, file)}
    assert len(shas) == 1  # the optimizer is no part of it
    data(Path("bids"))
    Path("job.yaml").write_text(
        "kind: finetune\nname: neck\ncluster: local\nruntime: none\nsplits: {folds: 2}\n"
        "data: [{type: bids, path: bids, label_suffix: _seg}]\n"
        f"weights: sha256:{sha256_file(file)}\n"
    )
    shown = call("-n", "job.yaml", command="submit")
    assert shown.code == 0, shown.err
    kept = tmp_path / "store" / "weights" / shas.pop() / "weights.safetensors"
    assert f"mount       {kept} (read only)\n" in shown.out
