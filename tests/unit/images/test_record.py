"""Images: what is known about one, whether it is the recorded one, and building.

Apptainer is a tiny program on a PATH of its own; ``tests/integration`` builds with the real one.
Its images are SIFs whose file system is what they say about themselves.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ca_hpc import __version__, processes
from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.images.building import recipes
from ca_hpc.images.building.apptainer_build import build_argv
from ca_hpc.images.building.build import BuildRequest, BuiltImage, Cargo, build_base, build_image
from ca_hpc.images.changes import Change
from ca_hpc.images.record import read_image, record_path, verify_image, write_record
from ca_hpc.processes import Finished
from tests.sif import contents_of

BUILT = "2026-01-02T03:04:05Z"

# Packs the context that a build would see into image.sif, and prints from it what is asked for.
FAKE_APPTAINER = (
    f"""\
import hashlib, json, os, pathlib, sys, time, uuid

sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.sif import contents_of, write_sif
"""
    + """
home = pathlib.Path(__file__).parent
with (home / "calls").open("a") as calls:
    calls.write(json.dumps([sys.argv[1:], sorted(os.environ)]) + "\\n")
match sys.argv[1]:
    case "build":
        if (home / "fails").exists():
            sys.exit((home / "fails").read_text())
        time.sleep(float(os.environ.get("FAKE_BUILD_SECONDS", "0")))
        files = sorted(p for p in pathlib.Path("context").rglob("*") if p.is_file())
        sums = {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
        weights = [
            {"name": p.name, "path": f"/opt/ca-hpc/weights/{p.name}", "sha256": sums[str(p)],
             "size_bytes": p.stat().st_size, "manifest": p.with_suffix(".json").read_text()}
            for p in files if p.parent.name == "weights" and p.suffix != ".json"
        ]
        versions = {"python": "3.11.2", "torch": "2.13.0+cpu", "nnunetv2": "2.8.1"}
        debian = json.loads((home / "debian").read_text())
        given = dict(word.split("=", 1) for word in sys.argv if "=" in word)
        described = {"recipe_sha256": given["recipe"], "base_content_sha256": given.get("base"),
                     "versions": versions, "weights": weights, "commit": None, "sums": sums,
                     "debian_packages": debian, "python_packages": {}}
        # as real ones: equal contents in a file that is never the same twice
        write_sif(pathlib.Path("image.sif"), contents=json.dumps(described).encode())
        with open("image.sif", "ab") as end:
            end.write(uuid.uuid4().bytes)
    case "exec":
        print(contents_of(pathlib.Path(sys.argv[-3])).decode())
    case "--version":
        print("apptainer version 1.4.5")
    case "-version":
        print("mksquashfs version 4.5.1 (2022/03/17)")
"""
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, with apptainer, debootstrap and mksquashfs.

    Its file ``debian`` is what the mirror has: versions by package.
    """
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "fake.py").write_text(FAKE_APPTAINER)
    (folder / "debian").write_text('{"libc6": "2.36-9"}')
    for name in ("apptainer", "debootstrap", "mksquashfs"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/fake.py" "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    timeout_s: float | None = None,
) -> Finished:
    """The real runner, but no package index is asked: pip has nothing to fetch."""
    if argv[1:3] == ("-m", "pip"):
        return Finished(0)
    return processes.run(argv, env=env, cwd=cwd, log=log, timeout_s=timeout_s)


def calls(programs: Path, command: str) -> list[list[str]]:
    """The argument lists of all calls of ``apptainer COMMAND``."""
    lines = (programs / "calls").read_text().splitlines()
    return [argv for argv, _ in map(json.loads, lines) if argv[0] == command]


@pytest.fixture
def request_(tmp_path: Path) -> BuildRequest:
    folder = tmp_path / 'st ore, "1": a'
    return BuildRequest(
        output=folder / "out" / "ca-hpc.sif", bases=folder, mirror="http://mirror.invalid/debian"
    )


def build(request: BuildRequest) -> BuiltImage:
    return build_image(request, run=run, progress=lambda sentence: None, built=BUILT)


def cargo(tmp_path: Path, contents: bytes = b"weights") -> Cargo:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(contents)
    sha256 = hashlib.sha256(contents).hexdigest()
    return Cargo(name=f"model-{sha256[:4]}", file=path, sha256=sha256, manifest='{"of": "model"}')


# --- images that exist ---------------------------------------------------------------------


def test_a_record_is_read_without_apptainer(
    programs: Path, request_: BuildRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build(request_).image
    monkeypatch.setenv("PATH", "/nonexistent")
    assert read_image(image.path) == image
    assert image.contents.versions["torch"] == "2.13.0+cpu"
    assert image.origin is not None
    assert image.origin.built == BUILT


def test_without_a_record_the_image_is_asked(programs: Path, request_: BuildRequest) -> None:
    image = build(request_).image
    record_path(image.path).unlink()
    assert read_image(image.path) == replace(image, origin=None)


def test_without_record_and_apptainer_the_message_says_what_to_copy(
    request_: BuildRequest, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build(request_).image
    record_path(image.path).unlink()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CaHpcError, match="no record beside it") as raised:
        read_image(image.path)
    assert "ca-hpc.sif.json" in str(raised.value.hint)


def test_a_record_moves_with_its_image(
    programs: Path, request_: BuildRequest, tmp_path: Path
) -> None:
    image = build(request_).image
    moved = tmp_path / "elsewhere.sif"
    record_path(image.path).rename(record_path(moved))
    image.path.rename(moved)
    assert read_image(moved) == replace(image, path=moved)


def test_a_missing_image_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match=r"no\.sif does not exist") as raised:
        read_image(tmp_path / "no.sif")
    assert raised.value.hint == "build one: ca-hpc image build"


def test_half_a_copy_is_not_the_recorded_image(programs: Path, request_: BuildRequest) -> None:
    image = build(request_).image
    image.path.write_bytes(image.path.read_bytes()[:-1])
    with pytest.raises(DigestMismatch, match=f"record says {image.size_bytes}"):
        read_image(image.path)


@pytest.mark.parametrize("content", [b'{"path": 3}', b'{"path": "\xff"}', b""])
def test_a_damaged_record_is_named(content: bytes, programs: Path, request_: BuildRequest) -> None:
    image = build(request_).image
    record_path(image.path).write_bytes(content)
    with pytest.raises(CaHpcError, match=r"ca-hpc\.sif\.json is not the record"):
        read_image(image.path)


def test_another_image_is_refused_and_both_digests_are_named(tmp_path: Path) -> None:
    image, cache = tmp_path / "x.sif", tmp_path / "digests.json"
    image.write_bytes(b"recorded")
    recorded = hashlib.sha256(b"recorded").hexdigest()
    verify_image(image, recorded, cache=cache)
    image.write_bytes(b"tampered")
    with pytest.raises(DigestMismatch) as raised:
        verify_image(image, recorded, cache=cache)
    assert recorded in raised.value.message
    assert hashlib.sha256(b"tampered").hexdigest() in raised.value.message
    assert raised.value.exit_code == ExitCode.DIGEST_MISMATCH


def test_an_image_that_is_gone_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match="cannot be read"):
        verify_image(tmp_path / "x.sif", "0" * 64, cache=tmp_path / "digests.json")


# --- building ------------------------------------------------------------------------------


def test_the_first_build_makes_every_layer_the_second_none(
    programs: Path, request_: BuildRequest
) -> None:
    first = build(request_)
    second = build(request_)
    assert [argv[-1].rpartition("/")[2] for argv in calls(programs, "build")] == [
        "debian.def",
        "base.def",
        "ca-hpc.def",
    ]
    assert not first.reused
    assert second.reused
    assert second.image == first.image
    assert first.image.origin is not None
    assert first.image.origin.base_sha256 == first.base.sha256
    assert first.image.contents.base_content_sha256 == first.base.content_sha256
    assert first.image.contents.recipe_sha256 == recipes.package().sha256
    assert first.base.contents.recipe_sha256 == recipes.base("cpu").sha256
    assert first.image.origin.tools == {"apptainer": "1.4.5", "squashfs-tools": "4.5.1"}


def test_a_base_that_is_there_needs_no_debian_layer(programs: Path, request_: BuildRequest) -> None:
    base = build(request_).base
    next(request_.bases.glob("debian-*.sif")).unlink()
    assert build(replace(request_, output=request_.bases / "other.sif")).base == base
    assert len(calls(programs, "build")) == 4


def test_equal_contents_are_told_from_equal_files(programs: Path, request_: BuildRequest) -> None:
    first = build(request_)
    again = build(replace(request_, rebuild=True))
    assert again.image.sha256 != first.image.sha256
    assert again.image.content_sha256 == first.image.content_sha256
    assert again.base.content_sha256 == first.base.content_sha256
    assert again.changes == ()


def test_a_rebuild_tells_which_packages_changed(programs: Path, request_: BuildRequest) -> None:
    first = build(request_)
    (programs / "debian").write_text('{"libc6": "2.36-10", "zlib1g": "1.2"}')
    again = build(replace(request_, rebuild=True))
    assert again.image.content_sha256 != first.image.content_sha256
    assert again.changes == (
        Change("debian", "libc6", "2.36-9", "2.36-10"),
        Change("debian", "zlib1g", None, "1.2"),
    )


def test_other_weights_make_another_layer_on_the_same_base(
    programs: Path, request_: BuildRequest, tmp_path: Path
) -> None:
    plain = build(request_)
    carrying = build(replace(request_, weights=(cargo(tmp_path),)))
    other = build(replace(request_, weights=(cargo(tmp_path, b"other weights"),)))
    assert plain.image.weights == ()
    assert [w.sha256 for w in carrying.image.weights] == [hashlib.sha256(b"weights").hexdigest()]
    (carried,) = other.image.weights
    assert carried.size_bytes == len(b"other weights")
    name = cargo(tmp_path, b"other weights").name
    assert carried.path == f"/opt/ca-hpc/weights/{name}.safetensors"
    assert carried.manifest == '{"of": "model"}'
    assert plain.base == carrying.base == other.base
    assert len(calls(programs, "build")) == 5


def test_rebuild_builds_though_nothing_changed(programs: Path, request_: BuildRequest) -> None:
    build(request_)
    assert not build(replace(request_, rebuild=True)).reused
    assert len(calls(programs, "build")) == 6


def test_a_base_from_elsewhere_needs_no_debootstrap(
    programs: Path, request_: BuildRequest, tmp_path: Path
) -> None:
    base = build_base(request_, run=run, progress=lambda sentence: None, built=BUILT)
    (programs / "debootstrap").unlink()
    elsewhere = replace(request_, base=base.path, bases=tmp_path / "empty", mirror=None)
    assert build(elsewhere).base == base
    assert len(calls(programs, "build")) == 3


def test_the_image_holds_the_running_package_and_the_recipe_files(
    programs: Path, request_: BuildRequest
) -> None:
    sums = json.loads(contents_of(build(request_).image.path))["sums"]
    assert f"context/wheels/ca_hpc-{__version__}-py3-none-any.whl" in sums
    names = ("describe.py", "licences.py", "sbom.py", "selftest.py")
    assert {f"context/{name}" for name in names} <= sums.keys()


def test_the_callers_apptainer_settings_do_not_reach_a_build(
    programs: Path, request_: BuildRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_BIND", "/etc:/opt")
    monkeypatch.setenv("SINGULARITYENV_PYTHONPATH", "/nowhere")
    monkeypatch.setenv("APPTAINER_TMPDIR", "/var/tmp")
    build(request_)
    seen = [
        environment
        for argv, environment in map(json.loads, (programs / "calls").read_text().splitlines())
        if argv[0] in ("build", "exec")
    ]
    assert len(seen) == 6
    for environment in seen:
        assert "APPTAINER_TMPDIR" in environment
        assert not {"APPTAINER_BIND", "SINGULARITYENV_PYTHONPATH"} & set(environment)


@pytest.mark.parametrize(
    ("end", "hint"),
    [
        ("ERROR: Failed to create container process: No space left on device", "user namespaces"),
        ("FATAL: write /tmp/x: no space left on device", "APPTAINER_TMPDIR"),
        ("FATAL: conveyor failed to get: while debootstrapping: exit status 1", "--mirror"),
        ("INFO: User not listed in /etc/subuid\nFATAL: exit status 1", "usermod --add-subuids"),
        ("FATAL: something new", "the whole story"),
    ],
)
def test_a_failed_build_shows_its_end_and_the_next_move_and_leaves_nothing(
    programs: Path, request_: BuildRequest, end: str, hint: str
) -> None:
    (programs / "fails").write_text(end)
    with pytest.raises(CaHpcError) as raised:
        build(request_)
    assert end.splitlines()[-1] in raised.value.message
    assert hint in str(raised.value.hint)
    assert not list(request_.bases.rglob("*.sif"))
    assert not list(request_.bases.rglob("*.json"))
    assert not [path for path in request_.bases.iterdir() if path.is_dir()]


def test_a_failed_rebuild_keeps_the_old_image(programs: Path, request_: BuildRequest) -> None:
    image = build(request_).image
    (programs / "fails").write_text("FATAL: no")
    with pytest.raises(CaHpcError):
        build(replace(request_, rebuild=True))
    assert read_image(image.path) == image
    verify_image(image.path, image.sha256, cache=request_.bases / "digests.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": Path("no.sif")}, r"no\.sif does not exist"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_built(
    programs: Path, request_: BuildRequest, change: dict[str, object], message: str
) -> None:
    with pytest.raises(CaHpcError, match=message):
        build(replace(request_, **change))  # type: ignore[arg-type]
    assert not request_.bases.exists()


def test_without_apptainer_the_next_move_is_named(programs: Path, request_: BuildRequest) -> None:
    (programs / "apptainer").unlink()
    with pytest.raises(CaHpcError, match="apptainer is not installed") as raised:
        build(request_)
    assert "build elsewhere" in str(raised.value.hint)


def test_beside_an_image_lie_its_record_its_log_and_a_lock_and_nothing_else(
    programs: Path, request_: BuildRequest
) -> None:
    output = build(request_).image.path
    assert sorted(path.name for path in output.parent.iterdir()) == [
        ".ca-hpc.sif.lock",
        "ca-hpc.sif",
        "ca-hpc.sif.json",
        "ca-hpc.sif.log",
    ]
    assert not [path for path in request_.bases.iterdir() if path.name == "digests.json"]


def test_a_tampered_base_is_not_built_on(programs: Path, request_: BuildRequest) -> None:
    base = build(request_).base
    changed = base.path.read_bytes()
    base.path.write_bytes(changed[:-2] + bytes(byte ^ 1 for byte in changed[-2:]))
    with pytest.raises(DigestMismatch, match=base.sha256):
        build(replace(request_, rebuild=True, base=base.path))


def test_of_two_builders_at_once_one_waits_and_takes_the_others_image(
    programs: Path, request_: BuildRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BUILD_SECONDS", "0.5")
    builders = multiprocessing.get_context("fork")
    with builders.Pool(3) as pool:
        made = pool.map(build, [request_] * 3)
    assert len(calls(programs, "build")) == 3  # one of each layer
    assert {image.image.sha256 for image in made} == {made[0].image.sha256}
    assert sorted(image.reused for image in made) == [False, True, True]


def test_a_record_that_fits_no_file_is_never_left(programs: Path, request_: BuildRequest) -> None:
    image = build(request_).image
    write_record(replace(image, size_bytes=1))
    rebuilt = build(request_)
    assert not rebuilt.reused
    assert read_image(image.path) == rebuilt.image


def test_names_in_the_build_folder_are_relative() -> None:
    argv = build_argv(Path("/x/base.def"), arguments={"mirror": "http://m/d"}, fakeroot=True)
    assert argv == (
        "apptainer",
        "build",
        "--force",
        "--fakeroot",
        "--build-arg",
        "mirror=http://m/d",
        "--mksquashfs-args",
        "-comp zstd -Xcompression-level 3 -no-xattrs -action exclude@pathname(dev/*)",
        "image.sif",
        "/x/base.def",
    )
    assert "--fakeroot" not in build_argv(Path("x"), arguments={}, fakeroot=False)


def test_a_build_leaves_image_record_log_and_lock_only(
    programs: Path, request_: BuildRequest
) -> None:
    build(request_)
    assert sorted(path.name for path in request_.output.parent.iterdir()) == [
        ".ca-hpc.sif.lock",
        "ca-hpc.sif",
        "ca-hpc.sif.json",
        "ca-hpc.sif.log",
    ]


def test_what_a_killed_builder_left_is_removed_by_the_next(
    programs: Path, request_: BuildRequest
) -> None:
    left = request_.output.parent / f".{request_.output.name}.building-x"
    left.mkdir(parents=True)
    (left / "image.sif").write_bytes(b"half")
    build(request_)
    assert not left.exists()


def test_a_folder_is_not_overwritten_by_an_image(programs: Path, request_: BuildRequest) -> None:
    request_.output.mkdir(parents=True)
    with pytest.raises(CaHpcError, match="is a folder"):
        build(request_)
    assert not (programs / "calls").exists()


def test_a_build_that_is_asked_to_end_leaves_nothing_half_built(
    programs: Path, request_: BuildRequest, tmp_path: Path
) -> None:
    base = build_base(request_, run=run, progress=lambda sentence: None, built=BUILT)
    output = tmp_path / "made.sif"
    argv = (sys.executable, "-m", "ca_hpc", "image", "build", str(output), "--cpu")
    builder = subprocess.Popen(
        (*argv, "--base", str(base.path)),
        env={**os.environ, "FAKE_BUILD_SECONDS": "60"},
    )
    deadline = time.monotonic() + 30
    while not any(tmp_path.glob(".made.sif.building-*/context")):
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(0.05)
    builder.send_signal(signal.SIGTERM)
    assert builder.wait(timeout=30) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob(".made.sif.building-*"))
    assert not output.exists()
