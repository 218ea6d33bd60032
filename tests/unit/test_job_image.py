"""The image that a job names: found in a file or the store, checked, kept for the run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ca_hpc.actions.image_pull import pull
from ca_hpc.actions.image_site import Site
from ca_hpc.actions.image_verify import verify
from ca_hpc.actions.job_data import silent
from ca_hpc.actions.job_image import find, keep
from ca_hpc.core.model import Pin
from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.images.record import (
    CarriedWeights,
    Contents,
    ImageInfo,
    Origin,
    read_image,
    record_path,
    write_record,
)
from ca_hpc.images.reference import parse
from ca_hpc.images.shelf import Shelf, read_use
from ca_hpc.images.signatures import Policy, UntrustedImage
from ca_hpc.processes import Finished, ProgramMissing, Run
from ca_hpc.store.digests import DigestCache
from tests.sif import DATA, OFFSET, PARTITION, SIGNATURE, add_part, write_sif

with tempfile.TemporaryDirectory() as folder:
    CONTENT = write_sif(Path(folder) / "ca.sif").read_bytes()
    SIGNED = add_part(Path(folder) / "ca.sif", SIGNATURE).read_bytes()
    LAID_OVER = add_part(Path(folder) / "ca.sif", PARTITION, role=DATA).read_bytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DAMAGED = CONTENT[:-1] + b"x"
DESCRIPTION = json.dumps({"versions": {"python": "3.11.2"}, "weights": [], "commit": None})
UNSIGNED = "FATAL: container: integrity: signature not found for object group 1"


@dataclass
class Apptainer:
    """Tells what an image holds, and who signed it: by its bytes."""

    signed: frozenset[bytes] = frozenset()
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        timeout_s: float | None = None,
    ) -> Finished:
        self.calls.append(tuple(argv))
        if argv[1] == "verify":
            good = Path(argv[-1]).read_bytes() in self.signed
            return Finished(0) if good else Finished(255, stderr=UNSIGNED)
        return Finished(0, stdout=DESCRIPTION)

    @property
    def verbs(self) -> list[str]:
        return [argv[1] for argv in self.calls]


@pytest.fixture
def apptainer() -> Apptainer:
    return Apptainer()


@pytest.fixture
def site(tmp_path: Path, apptainer: Apptainer) -> Site:
    return Site(Shelf(tmp_path / "store"), None, tmp_path / "cache", run=apptainer)


@pytest.fixture
def sif(tmp_path: Path) -> Path:
    file = tmp_path / "ca.sif"
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def found(wanted: object, *, site: Site, runs: Path, fetch: bool = True) -> ImageInfo:
    info = find(str(wanted), site=site, runs=runs, fetch=fetch, say=silent)
    assert info is not None
    return info


def kept(site: Site, sif: Path, *, name: str = "training") -> Path:
    """The image in the store, with a name, and gone from where it came from."""
    pulled = pull(parse(str(sif)), site=site, say=silent, progress=lambda done, total: None)
    site.shelf.names.give(name, pulled.sha256)
    sif.unlink()
    return pulled.file


def test_a_file_is_used_where_it_is(site: Site, sif: Path, runs: Path) -> None:
    for wanted in (sif, f"{sif}@sha256:{SHA256}"):
        info = found(wanted, site=site, runs=runs)
        assert (info.path, info.sha256) == (sif, SHA256)
    assert not site.shelf.folder.exists()


def test_a_file_other_than_its_pin_is_refused_with_both_digests(
    site: Site, sif: Path, runs: Path
) -> None:
    with pytest.raises(DigestMismatch) as refused:
        found(f"{sif}@sha256:{'0' * 64}", site=site, runs=runs)
    assert SHA256 in refused.value.message and "0" * 64 in refused.value.message
    with pytest.raises(DigestMismatch, match="does not exist"):
        found(sif.with_name("gone.sif"), site=site, runs=runs)


@pytest.mark.parametrize(
    "wanted", ["training", f"training@sha256:{SHA256}", f"sha256:{SHA256}", f"sha256:{SHA256[:8]}"]
)
@pytest.mark.parametrize("fetch", [True, False])
def test_an_image_of_the_store_is_found_and_pinned_to_its_own_place(
    wanted: str, fetch: bool, site: Site, sif: Path, runs: Path
) -> None:
    file = kept(site, sif)
    info = found(wanted, site=site, runs=runs, fetch=fetch)
    assert (info.path, info.sha256) == (file, SHA256)
    assert info.contents.versions == {"python": "3.11.2"}
    assert file == site.shelf.folder / SHA256 / "image.sif"


def test_a_submission_says_where_its_run_will_be_and_a_dry_run_leaves_no_trace(
    site: Site, sif: Path, runs: Path
) -> None:
    file = kept(site, sif)
    found("training", site=site, runs=runs, fetch=False)
    assert list((file.parent / "uses").iterdir()) == []
    found("training", site=site, runs=runs)
    (use,) = (file.parent / "uses").iterdir()
    read = read_use(use)
    assert read is not None and read.runs == str(runs)


def test_no_run_to_be_no_trace_though_the_image_is_brought(
    site: Site, sif: Path, runs: Path
) -> None:
    file = kept(site, sif)
    info = find("training", site=site, runs=None, fetch=True, say=silent)
    assert info is not None and info.path == file
    assert list((file.parent / "uses").iterdir()) == []
    keep(Pin(str(file), SHA256), site=site, runs=runs, say=silent)
    (use,) = (file.parent / "uses").iterdir()
    read = read_use(use)
    assert read is not None and read.runs == str(runs)


def test_an_image_of_the_store_is_kept_for_a_run_that_names_its_file(
    site: Site, sif: Path, runs: Path, tmp_path: Path
) -> None:
    file = kept(site, sif)
    (tmp_path / "linked").symlink_to(site.shelf.root)
    found(tmp_path / "linked" / file.relative_to(site.shelf.root), site=site, runs=runs)
    assert len(list((file.parent / "uses").iterdir())) == 1


def test_a_file_that_lies_in_another_store_is_kept_there(
    site: Site, sif: Path, runs: Path, tmp_path: Path
) -> None:
    lab = replace(site, shelf=Shelf(tmp_path / "lab"))
    file = kept(lab, sif)
    (tmp_path / "current.sif").symlink_to(file)
    assert found(tmp_path / "current.sif", site=site, runs=runs).path == tmp_path / "current.sif"
    (use,) = (file.parent / "uses").iterdir()
    read = read_use(use)
    assert read is not None and read.runs == str(runs)
    assert not site.shelf.folder.exists()


def test_of_a_copy_that_was_broken_off_nothing_stays(
    site: Site, sif: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full."""

    def full(given: Path, target: Path) -> Path:
        target.write_bytes(given.read_bytes()[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(CaHpcError, match="No space left"):
        kept(site, sif)
    assert [path for path in site.shelf.folder.rglob("*.sif*") if path.is_file()] == []


def test_what_is_not_in_the_store_is_told(site: Site, runs: Path) -> None:
    for fetch in (True, False):
        with pytest.raises(CaHpcError, match="no image training in"):
            found("training", site=site, runs=runs, fetch=fetch)


@pytest.mark.parametrize("pin", [":v1", f"@sha256:{SHA256}"])
def test_what_is_in_a_registry_only_is_not_asked_for_by_a_dry_run(
    pin: str, site: Site, runs: Path
) -> None:
    wanted = f"oras://registry.invalid/lab/ca{pin}"  # asking that host would fail
    assert find(wanted, site=site, runs=runs, fetch=False, say=silent) is None


def test_an_image_of_a_registry_that_is_kept_needs_no_network(
    site: Site, sif: Path, runs: Path
) -> None:
    file = kept(site, sif)
    for fetch in (True, False):
        # a host that does not exist: asking it would fail
        wanted = f"oras://registry.invalid/lab/ca:v1@sha256:{SHA256}"
        assert found(wanted, site=site, runs=runs, fetch=fetch).path == file


def test_a_byte_that_was_changed_in_the_store_is_noticed(site: Site, sif: Path, runs: Path) -> None:
    file = kept(site, sif)
    file.chmod(0o644)
    file.write_bytes(DAMAGED)
    for fetch in (True, False):
        with pytest.raises(DigestMismatch) as refused:
            found("training", site=site, runs=runs, fetch=fetch)
        assert SHA256 in refused.value.message
        assert hashlib.sha256(DAMAGED).hexdigest() in refused.value.message
        hint = str(refused.value.hint)
        assert "pulling it again from where it came" in hint and "remove" not in hint


def test_of_a_file_that_changes_while_it_is_looked_at_nothing_is_to_be_removed(
    site: Site, sif: Path, runs: Path
) -> None:
    def changing(argv: Sequence[str], **_: object) -> Finished:
        sif.write_bytes(DAMAGED)
        return Finished(0, stdout=DESCRIPTION)

    with pytest.raises(DigestMismatch) as refused:
        found(sif, site=replace(site, run=changing), runs=runs)
    assert SHA256 in refused.value.message
    assert hashlib.sha256(DAMAGED).hexdigest() in refused.value.message
    assert refused.value.hint == "submit again when nobody writes to it"


def test_those_who_waited_for_an_image_need_not_read_all_of_it(site: Site, sif: Path) -> None:
    file = kept(site, sif)
    assert DigestCache(site.digests).knows(file)


def test_what_is_known_of_a_file_stays_known_when_it_is_signed_and_only_then(
    site: Site, sif: Path, apptainer: Apptainer
) -> None:
    origin = Origin("i" * 64, None, "2026-01-01T00:00:00Z")
    info = replace(read_image(sif, run=apptainer), origin=origin)
    write_record(info)
    sif.write_bytes(SIGNED)
    signed = read_image(kept(site, sif))
    assert signed.sha256 == hashlib.sha256(SIGNED).hexdigest() != info.sha256
    assert signed.origin == origin

    sif.write_bytes(DAMAGED)
    write_record(replace(info, path=sif))
    with pytest.raises(DigestMismatch, match=f"recorded in ca.sif.json is sha256:{SHA256}"):
        kept(site, sif, name="other")


def test_a_file_that_was_signed_since_it_was_recorded_is_not_damaged(
    site: Site, sif: Path, apptainer: Apptainer
) -> None:
    write_record(read_image(sif, run=apptainer))
    (verified,) = verify([parse(str(sif))], site=site)
    assert (verified.recorded, verified.signed_since) == (True, False)
    for _ in range(2):
        add_part(sif, SIGNATURE)
        (verified,) = verify([parse(str(sif))], site=site)
        assert verified.sha256 == hashlib.sha256(sif.read_bytes()).hexdigest() != SHA256
        assert (verified.recorded, verified.signed_since) == (True, True)


def flipped(content: bytes, *, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        CONTENT + b"x",
        DAMAGED + b"x",
        SIGNED + b"x",
        SIGNED[:-1],
        flipped(SIGNED, at=10),  # the script that starts the image
        flipped(SIGNED, at=OFFSET + 7),
        LAID_OVER,
    ],
)
def test_a_file_that_has_grown_otherwise_is_refused_with_both_digests(
    content: bytes, site: Site, sif: Path, apptainer: Apptainer
) -> None:
    write_record(read_image(sif, run=apptainer))
    sif.write_bytes(content)
    for look in (lambda: list(verify([parse(str(sif))], site=site)), lambda: kept(site, sif)):
        with pytest.raises(DigestMismatch) as refused:
            look()
        assert SHA256 in refused.value.message
        assert hashlib.sha256(content).hexdigest() in refused.value.message


def test_of_a_record_that_came_with_an_image_only_its_origin_is_believed(
    site: Site, sif: Path, apptainer: Apptainer
) -> None:
    true = replace(
        read_image(sif, run=apptainer), origin=Origin("i" * 64, None, "2026-01-01T00:00:00Z")
    )
    weights = CarriedWeights("m", "/etc/passwd", "0" * 64, 1)
    write_record(
        replace(true, contents=Contents({"torch": "\x1b[2J"}, (weights,), commit="f" * 40))
    )
    assert read_image(kept(site, sif)) == replace(true, path=site.shelf.file(SHA256))


def test_a_record_of_other_contents_is_told_and_never_believed(
    site: Site, sif: Path, apptainer: Apptainer
) -> None:
    origin = Origin("i" * 64, None, "2026-01-01T00:00:00Z")
    info = replace(read_image(sif, run=apptainer), origin=origin)
    write_record(replace(info, content_sha256="0" * 64))
    with pytest.raises(DigestMismatch, match=f"{'0' * 64}") as refused:
        list(verify([parse(str(sif))], site=site))
    assert str(info.content_sha256) in refused.value.message
    for wanted in (f"{sif}@sha256:{SHA256}", str(sif)):
        with pytest.raises(DigestMismatch, match=f"{'0' * 64}"):
            pull(parse(wanted), site=site, say=silent, progress=lambda done, total: None)
    assert site.shelf.entries() == ()


def nothing_starts(argv: Sequence[str], **_: object) -> Finished:
    return Finished(255, stderr="FATAL: no user namespaces")


def missing(argv: Sequence[str], **_: object) -> Finished:
    raise ProgramMissing("apptainer: No such file or directory")


@pytest.mark.parametrize("run", [nothing_starts, missing])
def test_where_no_image_starts_the_record_is_believed_and_marked(
    run: Run, site: Site, sif: Path, apptainer: Apptainer
) -> None:
    info = read_image(sif, run=apptainer)
    write_record(info)
    here = replace(site, run=run)
    assert read_image(kept(here, sif)) == replace(info, path=site.shelf.file(SHA256), unasked=True)


def test_an_image_that_cannot_be_asked_is_kept_without_a_record(site: Site, sif: Path) -> None:
    file = kept(replace(site, run=missing), sif)
    assert file.exists() and not record_path(file).exists()


def test_an_image_that_is_damaged_in_the_store_is_mended_by_the_next_pull(
    site: Site, sif: Path, runs: Path
) -> None:
    spare = sif.with_name("spare.sif")
    spare.write_bytes(CONTENT)
    file = kept(site, sif)
    found("training", site=site, runs=runs)
    for content in (DAMAGED, b"short"):
        file.chmod(0o644)
        file.write_bytes(content)
        pulled = pull(parse(str(spare)), site=site, say=silent, progress=lambda done, total: None)
        assert pulled.brought and pulled.file.read_bytes() == CONTENT
        assert read_image(file).sha256 == SHA256
        assert len(list((file.parent / "uses").iterdir())) == 1  # as before
        assert not list((site.shelf.folder / ".incoming").rglob("*.sif"))


def test_an_image_that_another_user_keeps_damaged_is_refused(
    site: Site, sif: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = sif.with_name("spare.sif")
    spare.write_bytes(CONTENT)
    file = kept(site, sif)
    file.chmod(0o644)
    file.write_bytes(DAMAGED)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DigestMismatch) as refused:
        pull(parse(str(spare)), site=site, say=silent, progress=lambda done, total: None)
    assert SHA256 in refused.value.message
    assert hashlib.sha256(DAMAGED).hexdigest() in refused.value.message
    assert file.read_bytes() == DAMAGED


def test_a_named_pipe_keeps_nobody_waiting(site: Site, sif: Path, apptainer: Apptainer) -> None:
    os.mkfifo(record_path(sif))
    (verified,) = verify([parse(str(sif))], site=site)
    assert not verified.recorded
    pipe = sif.with_name("pipe.sif")
    os.mkfifo(pipe)
    with pytest.raises(CaHpcError, match=r"pipe\.sif is no file"):
        list(verify([parse(str(pipe))], site=site))


# --- signatures ----------------------------------------------------------------------------------


@pytest.fixture
def strict(site: Site, tmp_path: Path) -> Site:
    (tmp_path / "lab.pem").write_text("a key")
    return replace(site, policy=Policy((tmp_path / "lab.pem",)))


def test_under_a_policy_an_unsigned_image_runs_nowhere(
    site: Site, strict: Site, sif: Path, runs: Path, apptainer: Apptainer
) -> None:
    with pytest.raises(UntrustedImage) as refused:
        found(sif, site=strict, runs=runs)
    assert refused.value.exit_code == ExitCode.DIGEST_MISMATCH
    with pytest.raises(UntrustedImage, match=re.escape(f"image {sif} is not signed")):
        kept(strict, sif)
    assert site.shelf.entries() == ()
    assert set(apptainer.verbs) == {"verify"}  # nothing of it was run to ask what it is

    kept(site, sif)  # by somebody without that policy
    for fetch in (True, False):
        with pytest.raises(UntrustedImage):
            found("training", site=strict, runs=runs, fetch=fetch)


def test_a_signed_image_is_verified_before_it_is_asked_anything_and_then_once(
    strict: Site, sif: Path, runs: Path
) -> None:
    apptainer = Apptainer(signed=frozenset({CONTENT}))
    strict = replace(strict, run=apptainer)
    kept(strict, sif)
    assert apptainer.verbs == ["verify", "exec"]
    for _ in range(3):
        assert found("training", site=strict, runs=runs).sha256 == SHA256
    assert apptainer.verbs.count("verify") == 1
