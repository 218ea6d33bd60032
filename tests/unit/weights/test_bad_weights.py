"""Bad weights, one by one: refused with a reason and a way out, and nothing of them is run.

Each case makes a file or folder and is inspected as ``ca-hpc weights add`` does: found, unpacked,
read, its values and its topology looked at.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
import pickletools
import re
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.weights import describe, places
from ca_hpc.weights.checkpoint import read_checkpoint
from tests.torch_files import (
    network,
    nnunet,
    replaced,
    rewritten,
    saved,
    with_pickle,
    zipped,
)

WITNESS = "witness"  # what the code in the files below would make, in the current folder


@dataclass(frozen=True)
class Bad:
    """``make(folder)`` gives the path; the message says ``reason``, the hint ``way_out``."""

    make: Callable[[Path], Path]
    reason: str
    way_out: str


def inspect(path: Path, *, into: Path) -> None:
    if path.is_file() and not places.is_archive(path):
        describe.read(path)
    else:
        place = places.find_checkpoint(path)
        describe.read(places.extract(place, into), plans=place.plans)


# --- files that are damaged, or something else ---


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def truncated(folder: Path) -> Path:
    file = saved(nnunet(), folder / "checkpoint_final.pth")
    file.write_bytes(file.read_bytes()[:-1000])
    return file


def flipped(folder: Path) -> Path:
    """One bit of the values of a tensor is not what was written."""
    file = saved(nnunet(), folder / "checkpoint_final.pth")
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo("checkpoint_final/data/0")
    content[member.header_offset + 300] ^= 1
    file.write_bytes(content)
    return file


def legacy(folder: Path) -> Path:
    torch.save(nnunet(), folder / "a.pth", _use_new_zipfile_serialization=False)
    return folder / "a.pth"


def torchscript(folder: Path) -> Path:
    with pytest.warns(DeprecationWarning, match="script"):
        torch.jit.script(torch.nn.Linear(1, 1)).save(folder / "a.pt")
    return folder / "a.pt"


def of_nnunet_1(folder: Path) -> Path:
    content = {"state_dict": network().state_dict(), "plot_stuff": ([0.5], [0.4], [], [])}
    return saved({"epoch": 1000, **content}, folder / "model_final_checkpoint.pth")


def folder_of_nnunet_1(folder: Path) -> Path:
    model = folder / "Task001" / "nnUNetTrainerV2__nnUNetPlansv2.1" / "fold_0"
    model.mkdir(parents=True)
    for name in ("model_final_checkpoint.model", "model_final_checkpoint.model.pkl"):
        (model / name).write_bytes(b"\x80\x02}.")
    return folder / "Task001"


def packed_as_tar(folder: Path) -> Path:
    saved(nnunet(), folder / "a.pth")
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        archive.add(folder / "a.pth", "a.pth")
    return folder / "model.tar.gz"


# --- zips ---


def checkpoint_bytes() -> bytes:
    stream = io.BytesIO()
    torch.save(nnunet(), stream)
    return stream.getvalue()


def packed(*names: str) -> Callable[[Path], Path]:
    """A release's zip with a checkpoint under each name."""

    def make(folder: Path) -> Path:
        return zipped(folder / "model.zip", dict.fromkeys(names, checkpoint_bytes()))

    return make


def packed_link(folder: Path) -> Path:
    file = packed("m/checkpoint_final.pth")(folder)
    link = zipfile.ZipInfo("m/plans.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    return file


def patched(file: Path, signature: bytes, offset: int, value: bytes) -> Path:
    """All of a zip's records of one kind changed at one place."""
    content = bytearray(file.read_bytes())
    at = content.find(signature)
    while at >= 0:
        content[at + offset : at + offset + len(value)] = value
        at = content.find(signature, at + 1)
    file.write_bytes(content)
    return file


def encrypted(folder: Path) -> Path:
    file = zipped(folder / "model.zip", {"checkpoint_final.pth": b"secret"})
    patched(file, b"PK\x03\x04", 6, b"\x01\0")
    return patched(file, b"PK\x01\x02", 8, b"\x01\0")


def packed_twice(folder: Path) -> Path:
    with (
        zipfile.ZipFile(folder / "model.zip", "w") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        for content in (checkpoint_bytes(), b"other"):
            archive.writestr("checkpoint_final.pth", content)
    return folder / "model.zip"


def bomb(folder: Path) -> Path:
    zeros = {"checkpoint_final.pth": bytes(100_000_000)}
    return zipped(folder / "model.zip", zeros, method=zipfile.ZIP_DEFLATED)


def bomb_that_lies(folder: Path) -> Path:
    """Says 1000 bytes, inflates to 100 MB."""
    file = bomb(folder)
    patched(file, b"PK\x03\x04", 22, struct.pack("<I", 1000))
    return patched(file, b"PK\x01\x02", 24, struct.pack("<I", 1000))


def pickle_bomb(folder: Path) -> Path:
    """A description of 100 MB among values that do not shrink."""
    program = b"\x80\x02" + b"]" * 100_000_000 + b"."
    file = folder / "a.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", program, compress_type=zipfile.ZIP_DEFLATED)
        archive.writestr("a/data/0", np.random.default_rng(0).bytes(8_000_000))
    return file


def packed_inside(folder: Path) -> Path:
    return zipped(folder / "outer.zip", {"model.zip": b"PK"})


# --- folders ---


def trained(*names: str) -> Callable[[Path], Path]:
    """A folder of results with a checkpoint for each ``CONFIGURATION/FILE``."""

    def make(folder: Path) -> Path:
        for name in names:
            configuration, file = name.split("/")
            model = folder / "results" / f"nnUNetTrainer__nnUNetPlans__{configuration}" / "fold_0"
            model.mkdir(parents=True, exist_ok=True)
            (model / file).write_bytes(checkpoint_bytes())
        return folder / "results"

    return make


def empty_folder(folder: Path) -> Path:
    (folder / "results").mkdir()
    return folder / "results"


# --- code ---


class Call:
    """Pickled as a call: ``function(*arguments)`` runs where this is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


MAKE = f"open({WITNESS!r}, 'w').close()"
TOUCH = f"touch {WITNESS}".encode()
LINE = TOUCH + b"\n"
EXTENSION = 241  # of those that copyreg keeps for private use

CODE: dict[str, tuple[bytes, str]] = {
    "os.system by REDUCE": (b"\x80\x02cos\nsystem\nX\x0d\0\0\0" + TOUCH + b"\x85R.", "os.system"),
    "os.system by STACK_GLOBAL": (
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0d" + TOUCH + b"\x85R.",
        "os.system",
    ),
    "posix.system": (b"\x80\x02cposix\nsystem\nX\x0d\0\0\0" + TOUCH + b"\x85R.", "posix.system"),
    "eval": (pickle.dumps(Call(eval, MAKE), protocol=2), "builtins.eval"),
    "exec": (pickle.dumps(Call(exec, MAKE), protocol=4), "builtins.exec"),
    "a state set by BUILD": (
        b"\x80\x02ctypes\nSimpleNamespace\n)R}X\x0c\0\0\0__setstate__cos\nsystem\nsbX\x0d\0\0\0"
        + TOUCH
        + b"b.",
        "types.SimpleNamespace",
    ),
    "INST": (b"(S'" + TOUCH + b"'\nios\nsystem\n.", "INST|STRING"),
    "OBJ": (b"(cos\nsystem\nS'" + TOUCH + b"'\no.", "os.system"),
    "an extension of copyreg": (
        b"\x80\x02\x82" + bytes([EXTENSION]) + b"X\x0d\0\0\0" + TOUCH + b"\x85R.",
        "EXT1",
    ),
    "an attribute by getattr": (
        b"\x80\x02c__builtin__\ngetattr\nc__builtin__\n__import__\nX\x02\0\0\0os\x85R"
        b"X\x06\0\0\0system\x86RX\x0d\0\0\0" + TOUCH + b"\x85R.",
        "builtins.getattr",
    ),
    "a name with dots": (
        b"\x80\x04\x8c\x08builtins\x8c\x0dexec.__call__\x93\x8c"
        + bytes([len(MAKE)])
        + MAKE.encode()
        + b"\x85R.",
        "builtins.exec.__call__",
    ),
}


def code(name: str) -> Callable[[Path], Path]:
    return lambda folder: with_pickle(folder / "a.pt", CODE[name][0])


def hidden_in(place: str) -> Callable[[Path], Path]:
    """Code in an otherwise genuine checkpoint."""
    call = Call(eval, MAKE)

    def make(folder: Path) -> Path:
        return saved(nnunet() | {place: call}, folder / "a.pth")

    return make


def in_a_storage(folder: Path) -> Path:
    """A call in the place of the type of a tensor's storage."""
    call = CODE["os.system by REDUCE"][0].removeprefix(b"\x80\x02").removesuffix(b".")
    file = saved(OrderedDict(weight=torch.ones(1)), folder / "a.pt")
    return replaced(file, b"ctorch\nFloatStorage\n", call)


def loader_of_numpy(folder: Path) -> Path:
    return with_pickle(folder / "a.pt", b"\x80\x02cnumpy\nload\nX\x01\0\0\0a\x88\x86R.")


class Whole(torch.nn.Linear):
    """A network that was saved whole, which is a pickle of its class."""


# --- tensors ---


def torch_file(content: Any) -> Callable[[Path], Path]:
    return lambda folder: saved(content, folder / "a.pt")


def claiming(*, offset: Any = 0, size: Any = 2, stride: Any = 1) -> Callable[[Path], Path]:
    """A tensor of two values that is said to be something else."""

    def opcodes(value: Any) -> bytes:
        return pickletools.optimize(pickle.dumps(value, protocol=2))[2:-1]

    def make(folder: Path) -> Path:
        file = saved(OrderedDict(weight=torch.ones(2)), folder / "a.pt")
        genuine = b"QK\x00K\x02\x85q\tK\x01\x85"
        claim = opcodes(offset) + opcodes(size) + b"\x85q\t" + opcodes(stride) + b"\x85"
        return replaced(file, genuine, b"Q" + claim)

    return make


def without_storage(folder: Path) -> Path:
    file = saved(OrderedDict(weight=torch.ones(2)), folder / "a.pt")
    return rewritten(file, lambda m: {n: c for n, c in m.items() if n != "archive/data/0"})


def short_storage(folder: Path) -> Path:
    file = saved(OrderedDict(weight=torch.ones(2)), folder / "a.pt")
    return rewritten(file, lambda members: members | {"archive/data/0": bytes(7)})


def storage_elsewhere(folder: Path) -> Path:
    file = saved(OrderedDict(weight=torch.ones(2)), folder / "a.pt")
    return replaced(file, b"X\x01\0\0\x000", b"X\x0a\0\0\x00../version")


def two_descriptions(folder: Path) -> Path:
    file = saved(network().state_dict(), folder / "a.pt")
    return rewritten(file, lambda m: m | {"other/data.pkl": m["archive/data.pkl"]})


def big_endian(folder: Path) -> Path:
    file = saved(network().state_dict(), folder / "a.pt")
    return rewritten(file, lambda members: members | {"archive/byteorder": b"big"})


def quantised() -> torch.Tensor:
    with pytest.warns(Warning, match="quantiz"):
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def with_first(value: float) -> dict[str, torch.Tensor]:
    state = network().state_dict()
    state["encoder.stages.0.0.convs.0.conv.weight"][0, 0, 0, 0, 0] = value
    return state


def many_windows(folder: Path) -> Path:
    whole = torch.ones(1000)
    return saved({f"w{n}": whole[n:] for n in range(500)}, folder / "a.pt")


FETCH = "Fetch or copy the file again"
UNSAFE = "fetch it from its own place again"
NNUNET_2 = "trained with nnU-Net 2"
ALONE = r"torch\.save\(network\.state_dict\(\)"
LEFT_OUT = "--trust leaves that part out"
TAMPERED = "is damaged or was tampered with"

STAGES = network().state_dict()
OPTIMIZER = nnunet()["optimizer_state"]

BAD: dict[str, Bad] = {
    # something else
    "an empty file": Bad(written("a.pth", b""), r"\(0 bytes\) is empty", FETCH),
    "a text": Bad(written("a.pth", b"weights"), r"\(7 bytes\) is no checkpoint", FETCH),
    "a web page": Bad(written("a.pth", b"<!DOCTYPE html>"), "is a web page", "Download the file"),
    "a pointer of Git LFS": Bad(
        written("a.pth", b"version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS",
        "lfs pull",
    ),
    "an HDF5 file": Bad(written("a.h5", b"\x89HDF\r\n"), "is an HDF5 file", "nnU-Net 2"),
    "a tar": Bad(packed_as_tar, "is packed with gzip", "Unpack it"),
    "a plain pickle": Bad(written("a.pkl", pickle.dumps({"a": 1})), "is a plain pickle", ALONE),
    "torch's files before 1.6": Bad(legacy, r"torch before 1\.6", "weights_only=True"),
    "TorchScript": Bad(torchscript, "is a TorchScript program", "it was made from"),
    "nnU-Net 1: .model": Bad(written("m.model", b"\x80\x02}."), "by nnU-Net 1", NNUNET_2),
    "nnU-Net 1: .model.pkl": Bad(written("m.model.pkl", b"\x80\x02}."), "by nnU-Net 1", NNUNET_2),
    "nnU-Net 1: renamed": Bad(of_nnunet_1, "by nnU-Net 1", NNUNET_2),
    "nnU-Net 1: a folder": Bad(folder_of_nnunet_1, "holds a model of nnU-Net 1", NNUNET_2),
    "no file": Bad(lambda folder: folder / "a.pth", "There are no weights at", "Check the path"),
    # damaged
    "a truncated file": Bad(truncated, r"truncated or damaged zip file", FETCH),
    "a flipped bit": Bad(flipped, r"data/0 cannot be read \(Bad CRC-32", FETCH),
    "truncated safetensors": Bad(
        written("a.safetensors", b"\x40\0\0\0\0\0\0\0{"), "truncated or damaged safetensors", FETCH
    ),
    # zips
    "a zip without checkpoint": Bad(packed("README.md"), r"no checkpoint.*README\.md", "another"),
    "a zip in a zip": Bad(packed_inside, "holds no checkpoint", r"Unpack it and give model\.zip"),
    "a zip with ../": Bad(packed("../a.pth"), r"'\.\./a\.pth' leads outside", UNSAFE),
    "a zip with ..\\": Bad(packed("m\\..\\..\\a.pth"), "leads outside of its folder", UNSAFE),
    "a zip with /": Bad(packed("/tmp/a.pth"), "'/tmp/a.pth' leads outside", UNSAFE),
    "a zip with C:": Bad(packed("C:/a.pth"), "'C:/a.pth' leads outside", UNSAFE),
    "a zip with a link": Bad(packed_link, r"'m/plans\.json' is a link", UNSAFE),
    "an encrypted zip": Bad(encrypted, "is encrypted", UNSAFE),
    "a name twice in a zip": Bad(packed_twice, "is there twice", UNSAFE),
    "a zip bomb": Bad(bomb, r"would become 100000000", UNSAFE),
    "a zip bomb that lies": Bad(bomb_that_lies, r"damaged: checkpoint_final\.pth cannot", FETCH),
    "a bomb of a description": Bad(pickle_bomb, "100000003 bytes to describe", ALONE),
    # folders
    "an empty folder": Bad(empty_folder, "results holds no checkpoint", "another folder"),
    "only 2d": Bad(trained("2d/checkpoint_final.pth"), "holds 2d only: kernels", "3d_fullres"),
    "only a cascade": Bad(
        trained("3d_cascade_fullres/checkpoint_final.pth"), "cascade needs the first", "3d_fullres"
    ),
    "several configurations": Bad(
        trained("3d_fullres/checkpoint_final.pth", "3d_lowres/checkpoint_final.pth"),
        "holds 2 models: .*3d_fullres, .*3d_lowres",
        "Give the folder of one",
    ),
    "several checkpoints": Bad(
        trained("3d_fullres/a.pth", "3d_fullres/b.pth"), r"a\.pth, .*b\.pth: which", "file itself"
    ),
    # code
    **{
        f"code: {name}": Bad(code(name), reason, LEFT_OUT if "." in reason else FETCH)
        for name, (_, reason) in CODE.items()
    },
    "code: among genuine entries": Bad(hidden_in("extra"), "builtins.eval", LEFT_OUT),
    "code: in init_args": Bad(hidden_in("init_args"), "builtins.eval", LEFT_OUT),
    "code: in a storage": Bad(in_a_storage, "os.system", LEFT_OUT),
    "code: numpy.load": Bad(loader_of_numpy, "numpy.load", LEFT_OUT),
    "code: a whole network": Bad(torch_file(Whole(1, 1)), "asks for '.*Whole'", LEFT_OUT),
    # no weights
    "an optimizer only": Bad(
        torch_file({"optimizer_state": OPTIMIZER}), "only the state of an optimizer", "state dict"
    ),
    "an optimizer's own state": Bad(
        torch_file(OPTIMIZER), "only the state of an optimizer: .*param_groups", "state dict"
    ),
    "no tensors": Bad(torch_file({"epoch": 3}), r"holds no weights: .*\['epoch'\]", "state dict"),
    "an empty state dict": Bad(torch_file(nnunet({})), "holds no weights", "state dict"),
    "a list": Bad(torch_file([torch.ones(1)]), "holds a list", ALONE),
    "a tensor": Bad(torch_file(torch.ones(1)), "holds a Tensor", ALONE),
    "an unknown prefix": Bad(
        torch_file({f"student.backbone.{name}": tensor for name, tensor in STAGES.items()}),
        r"prefix that is not known: 'student\.backbone\.'",
        "without it",
    ),
    "a 2D network": Bad(
        torch_file(network(dimensions=2).state_dict()), "belong to a 2D network", "3d_fullres"
    ),
    # values
    "a NaN": Bad(
        torch_file(with_first(np.nan)), "1 of the 108 values of enc.* are NaN", "diverged"
    ),
    "an infinite value": Bad(torch_file(with_first(np.inf)), "enc.* are infinite", "diverged"),
    "a sparse tensor": Bad(torch_file({"a": torch.eye(2).to_sparse()}), "a sparse tensor", ALONE),
    "a quantised tensor": Bad(
        lambda folder: saved({"a": quantised()}, folder / "a.pt"), "a quantised tensor", ALONE
    ),
    "a tensor without values": Bad(
        torch_file({"a": torch.ones(1, device="meta")}), "a tensor without values", ALONE
    ),
    "a conjugated tensor": Bad(
        torch_file({"a": torch.ones(1, dtype=torch.complex64).conj()}), "a conjugated", FETCH
    ),
    "a file of a big-endian machine": Bad(big_endian, "a big-endian machine", "save it again"),
    # tensors that are not what they say
    "a missing storage": Bad(without_storage, r"data/0 have no bytes, not 8", FETCH),
    "a storage that is too short": Bad(short_storage, r"data/0 have 7 bytes, not 8", FETCH),
    "a storage outside of its folder": Bad(storage_elsewhere, TAMPERED, FETCH),
    "two descriptions": Bad(two_descriptions, r"has 2 data\.pkl, in archive, other", FETCH),
    "a shape beyond the storage": Bad(claiming(size=3), "reaches outside", FETCH),
    "a stride beyond the storage": Bad(claiming(stride=2), "reaches outside", FETCH),
    "an offset beyond the storage": Bad(claiming(offset=1), "reaches outside", FETCH),
    "a negative shape": Bad(claiming(size=-1), r"the shape \(-1,\)", FETCH),
    "a negative stride": Bad(claiming(offset=1, stride=-1), r"strides \(-1,\)", FETCH),
    "a negative offset": Bad(claiming(offset=-1), "offset -1", FETCH),
    "a bomb by shape": Bad(claiming(size=1 << 60), "reaches outside", FETCH),
    "a bomb by a stride of 0": Bad(claiming(size=1 << 40, stride=0), "reaches outside", FETCH),
    "a shape that is text": Bad(claiming(size="a"), "whole numbers", FETCH),
    "a bomb by windows": Bad(many_windows, "too many tensors show the same values", FETCH),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, in which code in a file would leave its witness."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    copyreg.add_extension("os", "system", EXTENSION)
    yield tmp_path / "here"
    copyreg.remove_extension("os", "system", EXTENSION)


def test_the_table_is_long_enough() -> None:
    assert len(BAD) >= 25


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_weights_are_refused_with_a_reason_and_a_way_out(
    bad: Bad, tmp_path: Path, here: Path
) -> None:
    path = bad.make(tmp_path)
    (tmp_path / "unpacked").mkdir()
    with pytest.raises(CaHpcError, match=bad.reason) as caught:
        inspect(path, into=tmp_path / "unpacked")
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 500 + len(str(path))
    assert re.search(bad.way_out, str(caught.value.hint))
    assert not list(here.iterdir())
    assert not list((tmp_path / "unpacked").iterdir())


@pytest.mark.parametrize("name", [name for name in BAD if name.startswith("code: ")])
def test_trust_runs_nothing_either(name: str, tmp_path: Path, here: Path) -> None:
    path = BAD[name].make(tmp_path)
    try:
        checkpoint = read_checkpoint(path, trust=True)
    except CaHpcError as error:
        assert str(path) in error.message
    else:
        assert any("builtins.eval" in told for told in checkpoint.left_out)
    assert not list(here.iterdir())


@pytest.mark.parametrize("name", CODE)
def test_the_code_in_these_files_is_real(name: str, here: Path) -> None:
    """Otherwise that nothing was run would prove nothing."""
    assert not list(here.iterdir())
    with contextlib.suppress(TypeError, AttributeError, pickle.UnpicklingError):
        pickle.loads(CODE[name][0])  # noqa: S301 - shows what the tests above prevent
    assert (here / WITNESS).exists()


@pytest.mark.parametrize("name", [name for name in BAD if "bomb" in name])
def test_a_bomb_takes_no_memory(name: str, tmp_path: Path, here: Path) -> None:
    path = BAD[name].make(tmp_path)
    (tmp_path / "unpacked").mkdir()
    tracemalloc.start()
    try:
        with pytest.raises(CaHpcError):
            inspect(path, into=tmp_path / "unpacked")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_description_that_cannot_be_read_is_named_at_every_cut(tmp_path: Path) -> None:
    """Whatever is left of a pickle, and whatever is done to its bytes, the answer is ours."""
    program = pickle.dumps({"a": [1, 2.5, ("x", None, True)], "b": {"c": "d"}}, protocol=2)
    random = np.random.default_rng(0)
    programs = [program[:length] for length in range(len(program))]
    for _ in range(300):
        changed = bytearray(program)
        changed[random.integers(len(program))] = random.integers(256)
        programs.append(bytes(changed))
    for index, cut in enumerate(programs):
        file = with_pickle(tmp_path / f"{index}.pt", cut)
        with pytest.raises(CaHpcError, match=rf"{index}\.pt"):
            read_checkpoint(file)
