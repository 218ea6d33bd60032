"""The image that a job names: found in a file or the store, checked, kept for the run."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ca_hpc.actions.images import Site, pull, verify
from ca_hpc.actions.job_data import silent
from ca_hpc.actions.job_image import find
from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.images.record import ImageInfo, Origin, read_image, record_path, write_record
from ca_hpc.images.reference import parse
from ca_hpc.images.shelf import Shelf, read_use
from ca_hpc.images.signatures import Policy, UntrustedImage
from ca_hpc.processes import Finished, ProgramMissing
from ca_hpc.store.digests import DigestCache
from tests.sif import write_sif

with tempfile.TemporaryDirectory() as folder:
    CONTENT = write_sif(Path(folder) / "ca.sif").read_bytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIGNED = CONTENT + b"a signature"  # where Apptainer puts it
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
    site.shelf.give_name(name, pulled.sha256)
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
    with pytest.raises(DigestMismatch) as refused:
        found("training", site=site, runs=runs)
    assert SHA256 in refused.value.message
    assert hashlib.sha256(DAMAGED).hexdigest() in refused.value.message


def test_those_who_waited_for_an_image_need_not_read_all_of_it(site: Site, sif: Path) -> None:
    file = kept(site, sif)
    assert DigestCache(site.digests).knows(file)


def test_what_is_known_of_a_file_stays_known_when_it_is_signed_and_only_then(
    site: Site, sif: Path, apptainer: Apptainer
) -> None:
    origin = Origin("r" * 64, "i" * 64, None, "2026-01-01T00:00:00Z")
    info = replace(read_image(sif, run=apptainer), origin=origin)
    write_record(info)
    sif.write_bytes(SIGNED)
    signed = read_image(kept(site, sif))
    assert signed.sha256 == hashlib.sha256(SIGNED).hexdigest() != info.sha256
    assert signed.origin == origin

    sif.write_bytes(DAMAGED)
    write_record(replace(info, path=sif))
    other = read_image(kept(site, sif, name="other"))
    assert other.sha256 == hashlib.sha256(DAMAGED).hexdigest()
    assert other.origin is None


def test_a_file_that_was_signed_since_it_was_recorded_is_not_damaged(
    site: Site, sif: Path, apptainer: Apptainer
) -> None:
    write_record(read_image(sif, run=apptainer))
    sif.write_bytes(SIGNED)
    (verified,) = verify([parse(str(sif))], site=site)
    assert (verified.sha256, verified.recorded) == (hashlib.sha256(SIGNED).hexdigest(), False)
    sif.write_bytes(DAMAGED + b"a signature")
    with pytest.raises(DigestMismatch, match=SHA256):
        list(verify([parse(str(sif))], site=site))


def test_an_image_that_cannot_be_asked_is_kept_without_a_record(site: Site, sif: Path) -> None:
    def missing(argv: Sequence[str], **_: object) -> Finished:
        raise ProgramMissing("apptainer: No such file or directory")

    file = kept(replace(site, run=missing), sif)
    assert file.exists() and not record_path(file).exists()


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
    with pytest.raises(UntrustedImage):
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
