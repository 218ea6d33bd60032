"""Packs: what goes in comes out; what somebody else put together does no harm."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ca_hpc.core.codec import encode
from ca_hpc.core.data_spec import PackSource
from ca_hpc.core.record import Case, Cases, LabelFile, Origin
from ca_hpc.errors import CaHpcError, DigestMismatch
from ca_hpc.sources.pack import packed_cases
from ca_hpc.store.pack import MANIFEST, Pack
from ca_hpc.store.pack_writer import write_pack


def case(folder: Path, name: str, **given: Any) -> Case:
    """A case of two files of random bytes."""
    files = [folder / f"sub-{name}/anat/{name}.nii.gz", folder / f"labels/{name}_seg.nii.gz"]
    for size, file in enumerate(files, start=1000):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_bytes(hashlib.sha256(name.encode()).digest() * size)
    image, label = map(str, files)
    names = {"subject": f"sub-{name}", "person": f"sub-{name}", "session": None, "contrast": "T2w"}
    own = {"images": (image,), "labels": (LabelFile(label),), **names, **given}
    return Case(id=f"brno-{name}", source="brno", **own)


@pytest.fixture
def cases(tmp_path: Path) -> Cases:
    found = tuple(case(tmp_path / "data", name) for name in ("01", "02", "03"))
    origin = Origin("brno", "https://example.org/brno", ref="r1", commit="1" * 40)
    return Cases("Dataset501_x", {"cord": 1}, found, origins=(origin,), remarks=("a remark",))


def packed(cases: Cases, target: Path) -> str:
    return write_pack(cases, target, ca_hpc="0.1", progress=lambda done, total: None)


@pytest.fixture
def pack(tmp_path: Path, cases: Cases) -> Path:
    packed(cases, tmp_path / "study.tar")
    return tmp_path / "study.tar"


def verified(path: Path) -> None:
    Pack.open(path).verify(lambda done, total: None)


def test_what_goes_in_comes_out(tmp_path: Path, cases: Cases, pack: Path) -> None:
    found = Pack.open(pack)
    assert [replace(c, images=(), labels=()) for c in found.cases.cases] == [
        replace(c, images=(), labels=()) for c in cases.cases
    ]
    assert replace(found.cases, cases=()) == replace(cases, cases=())
    for before, after in zip(cases.cases, found.cases.cases, strict=True):
        for file, member in zip(before.files, after.files, strict=True):
            taken = found.take(member, tmp_path / "out")
            assert taken == tmp_path / "out" / member
            assert taken.read_bytes() == Path(file).read_bytes()
    assert found.cases.cases[0].images == ("brno/sub-01/anat/01.nii.gz",)
    verified(pack)


def test_the_same_data_give_the_same_bytes_wherever_they_lie(
    tmp_path: Path, cases: Cases, pack: Path
) -> None:
    (tmp_path / "data").rename(tmp_path / "moved")
    for file in (tmp_path / "moved").rglob("*"):
        os.utime(file, (1, 1))
    moved = tuple(case(tmp_path / "moved", name) for name in ("01", "02", "03"))
    again = packed(replace(cases, cases=moved), tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == pack.read_bytes()
    assert again == Pack.open(pack).sha256


def test_any_tar_reads_it_and_its_first_member_has_the_packs_digest(
    tmp_path: Path, pack: Path
) -> None:
    out = subprocess.run(("tar", "-xOf", pack, MANIFEST), check=True, capture_output=True).stdout
    assert hashlib.sha256(out).hexdigest() == Pack.open(pack).sha256
    subprocess.run(("tar", "-xf", pack, "-C", tmp_path), check=True)
    for member, known in Pack.open(pack).files.items():
        assert hashlib.sha256((tmp_path / member).read_bytes()).hexdigest() == known.sha256


def test_a_file_that_is_used_twice_is_there_once(tmp_path: Path, cases: Cases) -> None:
    first = cases.cases[0]
    link = tmp_path / "data/link.nii.gz"
    link.symlink_to(first.images[0])
    twice = replace(first, id="brno-04", images=(str(link),))
    packed(replace(cases, cases=(first, twice)), tmp_path / "s.tar")
    found = Pack.open(tmp_path / "s.tar")
    assert len(found.files) == 2
    assert found.cases.cases[1].images == found.cases.cases[0].images
    both = replace(first, images=(str(link), first.images[0]))
    with pytest.raises(CaHpcError, match="as an image more than once"):
        packed(replace(cases, cases=(both,)), tmp_path / "none.tar")
    assert not (tmp_path / "none.tar").exists()


def test_names_of_files_may_hold_anything(tmp_path: Path, cases: Cases) -> None:
    names = ["a\nb", "back\\slash", "a_b", "größe", "x" * 200, os.fsdecode(b"\xff")]
    files = [tmp_path / "data" / f"{name}.nii.gz" for name in names]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 10)
    odd = replace(cases.cases[0], images=tuple(map(str, files)))
    packed(replace(cases, cases=(odd,)), tmp_path / "s.tar")
    found = Pack.open(tmp_path / "s.tar")
    for number, member in enumerate(found.cases.cases[0].images):
        assert found.take(member, tmp_path / "out").read_bytes() == bytes([number]) * 10
    verified(tmp_path / "s.tar")


def test_a_pack_is_packed_again_with_other_sources(
    tmp_path: Path, cases: Cases, pack: Path
) -> None:
    again = packed_cases(PackSource(type="pack", path=str(pack)))
    more = replace(case(tmp_path / "more", "09"), id="more-09", source="more")
    both = replace(again, cases=(*again.cases, more))
    packed(both, tmp_path / "both.tar")
    found = Pack.open(tmp_path / "both.tar")
    assert found.cases.cases[0].images == Pack.open(pack).cases.cases[0].images
    assert found.cases.cases[-1].images == ("more/sub-09/anat/09.nii.gz",)
    verified(tmp_path / "both.tar")


def test_cases_of_a_pack_name_it_and_where_they_came_from(cases: Cases, pack: Path) -> None:
    sha256 = Pack.open(pack).sha256
    found = packed_cases(PackSource(type="pack", path=str(pack), sha256=sha256))
    assert {c.archive for c in found.cases} == {str(pack)}
    assert found.origins == (replace(cases.origins[0], sha256=sha256),)
    with pytest.raises(DigestMismatch, match=sha256):
        packed_cases(PackSource(type="pack", path=str(pack), sha256="0" * 64))
    (unknown,) = packed_cases(
        PackSource(type="pack", path=str(without_origins(pack, cases)))
    ).origins
    assert (unknown.source, unknown.commit) == ("brno", None)


def without_origins(pack: Path, cases: Cases) -> Path:
    packed(replace(cases, origins=()), pack.with_name("plain.tar"))
    return pack.with_name("plain.tar")


LONG = {
    "a name": ("n" * 240 + ".nii.gz", 64),
    "many folders": ("f/" * 600 + "x.nii.gz", 64),
    "nothing": ("n" * 150 + ".nii.gz", 150),
}


@pytest.mark.parametrize(("name", "stem"), LONG.values(), ids=LONG)
def test_what_is_long_on_disk_gets_a_name_that_finds_room(
    tmp_path: Path, cases: Cases, name: str, stem: int
) -> None:
    first = cases.cases[0]
    file = tmp_path / "data" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"long")
    packed(replace(cases, cases=(replace(first, images=(str(file),)),)), tmp_path / "s.tar")
    found = Pack.open(tmp_path / "s.tar")
    (member,) = found.cases.cases[0].images
    assert member.startswith("brno/") and member.endswith(".nii.gz")
    assert len(member.removesuffix(".nii.gz").rpartition("/")[2]) == stem
    assert found.take(member, tmp_path / "out").read_bytes() == b"long"


def at_a_file(target: Path) -> None:
    target.write_bytes(b"an image")


def at_a_link(target: Path) -> None:
    target.symlink_to(target.with_name("pack.tar"))


OCCUPIED: dict[str, Callable[[Path], object]] = {
    "a file": at_a_file,
    "an empty file": Path.touch,
    "a link to a pack": at_a_link,
    "a link to nothing": lambda target: target.symlink_to("nothing"),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("occupy", OCCUPIED.values(), ids=OCCUPIED)
def test_nothing_but_an_older_pack_is_overwritten(
    tmp_path: Path, cases: Cases, occupy: Callable[[Path], object]
) -> None:
    packed(replace(cases, remarks=()), tmp_path / "pack.tar")
    target = tmp_path / "s.tar"
    occupy(target)
    before = target.lstat()
    with pytest.raises(CaHpcError, match="would be overwritten"):
        packed(cases, target)
    assert target.lstat() == before and not list(tmp_path.glob(".*"))
    packed(cases, tmp_path / "pack.tar")
    assert Pack.open(tmp_path / "pack.tar").cases.remarks == cases.remarks


def test_a_file_that_came_while_it_was_written_is_kept(tmp_path: Path, cases: Cases) -> None:
    target = tmp_path / "s.tar"
    with pytest.raises(CaHpcError, match="would be overwritten"):
        write_pack(cases, target, ca_hpc="0", progress=lambda done, total: at_a_file(target))
    assert target.read_bytes() == b"an image" and not list(tmp_path.glob(".*"))


def test_a_damaged_pack_is_written_again(tmp_path: Path, cases: Cases, pack: Path) -> None:
    whole = pack.read_bytes()
    pack.write_bytes(whole[: len(whole) // 2])
    packed(cases, pack)
    assert pack.read_bytes() == whole


# --- damaged, or made by somebody else ---------------------------------------------------------


def rewritten(pack: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The pack with another manifest, and everything else where the manifest says it is."""
    with tarfile.open(pack) as tar:
        first, *others = tar.getmembers()
        manifest = json.loads(tar.extractfile(first).read())  # type: ignore[union-attr]
        parts = [(info, tar.extractfile(info).read()) for info in others]  # type: ignore[union-attr]
    change(manifest)
    return assembled(pack.with_name("other.tar"), manifest, parts)


def assembled(target: Path, manifest: object, parts: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    raw = json.dumps(manifest).encode()
    first = tarfile.TarInfo(MANIFEST)
    first.size = len(raw)
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in [(first, raw), *parts]:
            tar.addfile(info, io.BytesIO(content))
    return target


def renamed(name: str) -> Callable[[dict[str, Any]], object]:
    def change(manifest: dict[str, Any]) -> None:
        case = manifest["cases"]["cases"][0]
        manifest["files"][name] = manifest["files"].pop(case["images"][0])
        case["images"] = [name]

    return change


def inside_a_file(manifest: dict[str, Any]) -> None:
    image = manifest["cases"]["cases"][0]["images"][0]
    renamed(f"{manifest['cases']['cases'][1]['images'][0]}/{image}")(manifest)


def in_case(**given: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["cases"]["cases"][0].update(given)


def in_file(**given: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: next(iter(manifest["files"].values())).update(given)


LIES = {
    "out of the folder": renamed("../../outside.nii.gz"),
    "out by a detour": renamed("brno/../../outside.nii.gz"),
    "absolute": renamed("/tmp/outside.nii.gz"),
    "no name": renamed(""),
    "a name of dots": renamed("brno/./x.nii.gz"),
    "a folder": renamed("brno/x/"),
    "a null character": renamed("brno/\0x"),
    "a newline": renamed("brno/a\nb"),
    "a backslash": renamed("brno\\..\\x"),
    "the manifest itself": renamed(MANIFEST),
    "a part too long": renamed("brno/" + "x" * 201),
    "too long": renamed("brno/" + "x/" * 500),
    "below another file": inside_a_file,
    "case id of a path": in_case(id="a/b"),
    "no case id": in_case(id=""),
    "no source": in_case(source=""),
    "an empty split": in_case(split=""),
    "an image twice": lambda m: in_case(images=m["cases"]["cases"][0]["images"] * 2)(m),
    "case id out of the folder": in_case(id="../../x"),
    "case id of two lines": in_case(id="a\nb"),
    "split out of the folder": in_case(split="../x"),
    "source out of the folder": in_case(source="../x"),
    "subject of two lines": in_case(subject="a\nb"),
    "a file that is not in it": in_case(images=["brno/other.nii.gz"]),
    "a file of this machine": in_case(images=["/etc/passwd"]),
    "no image": in_case(images=[]),
    "no label": in_case(labels=[]),
    "another archive": in_case(archive="/tmp/other.tar"),
    "a negative place": in_file(at=-1000),
    "a negative size": in_file(bytes=-1),
    "no digest": in_file(sha256="x"),
    "text as a size": in_file(bytes="1"),
    "two cases of one id": lambda m: m["cases"]["cases"].append(m["cases"]["cases"][0]),
    "no cases": lambda m: m["cases"].update(cases=[]),
    "another format": lambda m: m.update(format=2),
    "not a manifest": lambda m: m.clear(),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_manifest_that_does_harm_is_refused(
    tmp_path: Path, pack: Path, lie: Callable[[dict[str, Any]], object]
) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(CaHpcError) as refused:
        Pack.open(rewritten(pack, lie))
    assert refused.value.exit_code == 2 and refused.value.hint
    assert "\n" not in refused.value.message
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "other.tar"}


FALSE = {
    "another digest": in_file(sha256="0" * 64),
    "another place": in_file(at=0),
    "a shorter file": in_file(bytes=5),
}


@pytest.mark.parametrize("lie", FALSE.values(), ids=FALSE)
def test_a_manifest_that_is_false_gives_no_file(
    tmp_path: Path, pack: Path, lie: Callable[[dict[str, Any]], object]
) -> None:
    found = Pack.open(rewritten(pack, lie))
    member = next(iter(found.files))
    with pytest.raises(DigestMismatch, match=member):
        found.take(member, tmp_path / "out")
    assert not (tmp_path / "out" / member).exists()


@pytest.mark.parametrize("at", [10**18, 10**30])
def test_a_place_behind_the_end_is_a_pack_cut_off_or_none(pack: Path, at: int) -> None:
    with pytest.raises(CaHpcError):
        Pack.open(rewritten(pack, in_file(at=at)))


def test_a_flipped_byte_is_found_when_its_file_is_taken(tmp_path: Path, pack: Path) -> None:
    found = Pack.open(pack)
    member, known = list(found.files.items())[2]
    raw = bytearray(pack.read_bytes())
    raw[found.start + known.at + 7] ^= 1
    pack.write_bytes(raw)
    with pytest.raises(DigestMismatch, match=known.sha256):
        found.take(member, tmp_path / "out")
    assert not (tmp_path / "out" / member).exists()
    found.take(next(iter(found.files)), tmp_path / "out")
    with pytest.raises(DigestMismatch) as refused:
        verified(pack)
    assert refused.value.message.count("\n") == 0  # this one only
    assert member in refused.value.message and known.sha256 in refused.value.message


def test_every_place_to_cut_it_off_is_noticed(tmp_path: Path, pack: Path) -> None:
    raw = pack.read_bytes()
    found = Pack.open(pack)
    last = list(found.files.values())[-1]
    whole = found.start + last.at + last.bytes
    for size in (0, 1, 511, 512, 1000, found.start, found.start + 100, len(raw) // 2, whole - 1):
        pack.write_bytes(raw[:size])
        with pytest.raises(CaHpcError):
            Pack.open(pack)
    pack.write_bytes(raw[:whole])  # only the padding and the end mark are missing
    with pytest.raises(CaHpcError):
        verified(pack)


def linked(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("brno/more.nii.gz")
    info.type, info.linkname = kind, target
    return info


STRANGE = {
    "a link": linked(tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": linked(tarfile.LNKTYPE, "brno/sub-01/anat/01.nii.gz"),
    "a device": linked(tarfile.CHRTYPE, ""),
    "a pipe": linked(tarfile.FIFOTYPE, ""),
    "a folder": linked(tarfile.DIRTYPE, ""),
    "another file": linked(tarfile.REGTYPE, ""),
    "one out of the folder": tarfile.TarInfo("../outside"),
    "an absolute one": tarfile.TarInfo("/tmp/outside"),
    "a second manifest": tarfile.TarInfo(MANIFEST),
    "a file of the same name": tarfile.TarInfo("brno/sub-01/anat/01.nii.gz"),
}


@pytest.mark.parametrize("info", STRANGE.values(), ids=STRANGE)
def test_what_the_manifest_does_not_tell_of_is_never_read(
    tmp_path: Path, pack: Path, info: tarfile.TarInfo
) -> None:
    with tarfile.open(pack, "a") as tar:
        tar.addfile(info)
    found = Pack.open(pack)
    for member in found.files:
        found.take(member, tmp_path / "out")  # its digest is right
    files = {str(f.relative_to(tmp_path / "out")) for f in (tmp_path / "out").rglob("*.gz")}
    assert files == set(found.files)
    with pytest.raises(CaHpcError, match="not a pack"):
        verified(pack)  # before anybody unpacks it with another program


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path, pack: Path) -> None:
    with tarfile.open(pack) as tar:
        first, second, *others = tar.getmembers()
        manifest = json.loads(tar.extractfile(first).read())  # type: ignore[union-attr]
    link = linked(tarfile.SYMTYPE, "/etc/passwd")
    link.name = second.name
    other = assembled(
        tmp_path / "other.tar", manifest, [(link, b""), *[(o, bytes(o.size)) for o in others]]
    )
    with pytest.raises(CaHpcError):
        Pack.open(other).take(second.name, tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.gz"))


def test_what_is_no_pack_is_told(tmp_path: Path, pack: Path) -> None:
    nothing, text, plain = (tmp_path / name for name in ("nothing", "text", "plain.tar"))
    nothing.touch()
    text.write_text("no tar at all\n" * 100)
    with tarfile.open(plain, "w") as tar:
        tar.add(text, "x")
    compressed = tmp_path / "x.tar.gz"
    subprocess.run(("tar", "-czf", compressed, text), check=True, capture_output=True)
    for file in (nothing, text, plain, compressed):
        with pytest.raises(CaHpcError, match="is not a pack"):
            Pack.open(file)
    for file in (tmp_path / "missing", tmp_path):
        with pytest.raises(CaHpcError, match="cannot be read"):
            Pack.open(file)


def test_a_huge_manifest_takes_no_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo(MANIFEST)
    for size in (1 << 40, -1, -5):  # read(-1) reads all that there is
        info.size = size
        (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
        with pytest.raises(CaHpcError, match="manifest would have"):
            Pack.open(tmp_path / "x.tar")
    info.size = 1 << 27  # would be allowed, and is not there
    with (tmp_path / "x.tar").open("wb") as stream:
        stream.write(info.tobuf(tarfile.PAX_FORMAT))
    with pytest.raises(DigestMismatch, match="cut off"):
        Pack.open(tmp_path / "x.tar")


def test_a_manifest_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    raw = b"[" * 1_000_000
    info = tarfile.TarInfo(MANIFEST)
    info.size = len(raw)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(info, io.BytesIO(raw))
    with pytest.raises(CaHpcError, match="is not a pack"):
        Pack.open(tmp_path / "x.tar")


# --- writing -------------------------------------------------------------------------------------


def test_files_that_are_not_there_are_told_before_anything_is_written(
    tmp_path: Path, cases: Cases
) -> None:
    for gone in (cases.cases[0].images[0], cases.cases[2].labels[0].path):
        Path(gone).unlink()
    with pytest.raises(CaHpcError, match="2 files cannot be packed") as refused:
        packed(cases, tmp_path / "s.tar")
    assert cases.cases[2].labels[0].path in refused.value.message
    assert not list(tmp_path.glob("*.tar")) and not list(tmp_path.glob(".*"))


def test_a_file_that_changes_meanwhile_is_no_pack(tmp_path: Path, cases: Cases) -> None:
    last = Path(cases.cases[2].images[0])

    def grow(done: int, total: int | None) -> None:
        last.write_bytes(bytes(last.stat().st_size + 1))

    with pytest.raises(CaHpcError, match="when packing began"):
        write_pack(cases, tmp_path / "s.tar", ca_hpc="0", progress=grow)
    assert not list(tmp_path.glob("*.tar")) and not list(tmp_path.glob(".*"))


def test_a_full_disk_leaves_the_old_pack(
    tmp_path: Path, cases: Cases, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pack.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CaHpcError, match="No space left"):
        packed(cases, pack)
    assert pack.read_bytes() == before and not list(tmp_path.glob(".*"))


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, cases: Cases) -> None:
    with pytest.raises(CaHpcError, match="no folder"):
        packed(cases, tmp_path / "nowhere/s.tar")


WRITE = """
import sys
from pathlib import Path
from ca_hpc.core.codec import decode
from ca_hpc.core.record import Cases
from ca_hpc.store.pack_writer import write_pack
def slow(done, total):
    print(done, flush=True)
    sys.stdin.readline()
cases = decode(Cases, Path(sys.argv[1]).read_text())
write_pack(cases, Path(sys.argv[2]), ca_hpc="0", progress=slow)
"""


def test_killed_while_writing_there_is_no_pack_and_the_next_one_tidies_up(
    tmp_path: Path, cases: Cases
) -> None:
    (tmp_path / "cases.json").write_text(encode(cases))
    argv = (sys.executable, "-c", WRITE, tmp_path / "cases.json", tmp_path / "out/s.tar")
    (tmp_path / "out").mkdir()
    children = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline()
    drafts = set((tmp_path / "out").iterdir())
    assert len(drafts) == 2
    children[0].send_signal(signal.SIGKILL)
    children[0].communicate()
    assert not (tmp_path / "out/s.tar").exists()
    packed(cases, tmp_path / "out/s.tar")
    # the draft of the one that still writes is left alone
    assert len(drafts & set((tmp_path / "out").iterdir())) == 1
    children[1].communicate(b"\n" * 100)
    assert children[1].returncode == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["s.tar"]
    verified(tmp_path / "out/s.tar")


def test_memory_does_not_grow_with_the_files_and_one_of_many_is_found_at_once(
    tmp_path: Path, cases: Cases
) -> None:
    large = tmp_path / "data/large.nii.gz"
    with large.open("wb") as stream:
        stream.truncate(400_000_000)
    first = replace(cases.cases[0], images=(str(large),))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    packed(replace(cases, cases=(first,)), tmp_path / "s.tar")
    found = Pack.open(tmp_path / "s.tar")
    found.take(found.cases.cases[0].images[0], tmp_path / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    begun = time.monotonic()
    found.take(found.cases.cases[0].labels[0].path, tmp_path / "out")
    assert time.monotonic() - begun < 0.1
