"""What ``apptainer verify`` says, and what follows; ``tests/integration`` asks the real one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ca_hpc.errors import CaHpcError, ExitCode
from ca_hpc.images.signatures import Policy, Signed, UntrustedImage, check, check_once
from ca_hpc.processes import Finished, ProgramMissing
from ca_hpc.store.digests import sha256_file

FINGERPRINT = "956FC9A923E646BCFE678C355A380A0CBAB6AF24"
OTHER_FINGERPRINT = "0" * 40
GOOD = Finished(0, stdout="Objects verified:", stderr="INFO:    Verified signature(s)")
UNSIGNED = "container: integrity: signature not found for object group 1"
OTHER_PEM = (
    "container: integrity: signature object 4 not valid: dsse: verify envelope failed: accepted "
    "signatures do not match threshold, Found: 0, Expected 1"
)


def fatal(text: str) -> Finished:
    return Finished(255, stderr=f"INFO:    Verifying image\nFATAL:   Failed to verify {text}\n")


@dataclass
class Apptainer:
    """Recorded answers of 1.4.5, by the name of the key (``local``: with a keyring)."""

    answers: Mapping[str, Finished]
    imported: Finished = field(default_factory=lambda: Finished(0))
    keyring: str = f"0)  User:   lab\n    Fingerprint:       {FINGERPRINT}\n"
    calls: list[tuple[str, ...]] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)

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
        self.environments.append(env or {})
        match argv[1:3]:
            case ["key", "import"]:
                return self.imported
            case ["key", "list"]:
                return Finished(0, stdout=self.keyring)
            case ["verify", "--local"]:
                return self.answers["local"]
            case _:
                return self.answers[Path(argv[argv.index("--key") + 1]).name]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "ca.sif"
    file.write_bytes(b"an image")
    return file


def key(folder: Path, name: str) -> Path:
    file = folder / name
    file.write_text(f"key {name}")
    return file


def test_an_image_that_a_trusted_key_signed_is_let_in(image: Path, tmp_path: Path) -> None:
    one, two = key(tmp_path, "one.pem"), key(tmp_path, "two.pem")
    apptainer = Apptainer({"one.pem": fatal(OTHER_PEM), "two.pem": GOOD})
    signed = check(image, Policy((one, two)), run=apptainer)
    assert signed == Signed("two.pem", sha256_file(two))
    assert apptainer.calls[-1] == ("apptainer", "verify", "--key", str(two), str(image))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (UNSIGNED, "is not signed"),
        ("container: integrity: data object integrity compromised: 3", "not as it was signed"),
        ("container: integrity: header integrity compromised", "not as it was signed"),
        (
            "container: integrity: data object descriptor integrity compromised: 1",
            "not as it was signed",
        ),
        ("container: integrity: object 5: object not signed", "parts that were not signed"),
        ("container: integrity: signature not found for object group 2", "parts that were not"),
        ("container: integrity: signature not found for object group 10", "parts that were not"),
        (OTHER_PEM, "another key"),
        (
            "container: integrity: key material not provided for PGP clear-sign signature",
            "another key",
        ),
    ],
)
def test_an_image_is_refused_with_the_reason(
    text: str, told: str, image: Path, tmp_path: Path
) -> None:
    policy = Policy((key(tmp_path, "one.pem"),))
    with pytest.raises(UntrustedImage, match=told) as refused:
        check(image, policy, run=Apptainer({"one.pem": fatal(text)}))
    assert refused.value.exit_code == ExitCode.DIGEST_MISMATCH
    assert "one.pem" in refused.value.message


def test_what_is_not_required_is_a_signature_and_nothing_else(image: Path, tmp_path: Path) -> None:
    policy = Policy((key(tmp_path, "one.pem"), key(tmp_path, "two.pem")), required=False)
    assert check(image, policy, run=Apptainer({"one.pem": fatal(UNSIGNED)})) is None
    broken = fatal("container: integrity: data object integrity compromised: 3")
    with pytest.raises(UntrustedImage):
        check(image, policy, run=Apptainer({"one.pem": broken}))
    others = Apptainer({"one.pem": fatal(OTHER_PEM), "two.pem": fatal(OTHER_PEM)})
    with pytest.raises(UntrustedImage):
        check(image, policy, run=others)
    for group in (2, 10, 100):
        added = fatal(f"container: integrity: signature not found for object group {group}")
        with pytest.raises(UntrustedImage, match="parts that were not signed"):
            check(image, policy, run=Apptainer({"one.pem": added}))


def test_a_key_that_is_none_is_no_fault_of_the_image(image: Path, tmp_path: Path) -> None:
    answer = fatal("container: load key material: PEM decoding failed")
    with pytest.raises(CaHpcError, match="is no public key") as refused:
        check(image, Policy((key(tmp_path, "a.pem"),)), run=Apptainer({"a.pem": answer}))
    assert refused.value.exit_code == ExitCode.USAGE
    with pytest.raises(CaHpcError, match="No such file"):
        check(image, Policy((tmp_path / "gone.pem",)), run=Apptainer({}))


def test_an_answer_that_nobody_knows_is_not_taken_for_good(image: Path, tmp_path: Path) -> None:
    with pytest.raises(CaHpcError, match="something new"):
        check(
            image,
            Policy((key(tmp_path, "a.pem"),)),
            run=Apptainer({"a.pem": fatal("something new")}),
        )


# --- PGP -----------------------------------------------------------------------------------------


def by(*fingerprints: str) -> Finished:
    signers = [{"Signer": {"Fingerprint": text.lower()}} for text in fingerprints]
    return Finished(0, stdout=json.dumps({"Signatures": 1, "SignerKeys": signers}))


def test_a_pgp_key_is_compared_by_its_fingerprint(image: Path, tmp_path: Path) -> None:
    apptainer = Apptainer({"local": by(FINGERPRINT, FINGERPRINT)})
    signed = check(image, Policy((key(tmp_path, "lab.asc"),)), run=apptainer)
    assert signed is not None and signed.fingerprint == FINGERPRINT.lower()
    assert all(env["APPTAINER_KEYSDIR"] for env in apptainer.environments)


@pytest.mark.parametrize("signers", [(OTHER_FINGERPRINT,), (FINGERPRINT, OTHER_FINGERPRINT), ()])
def test_a_key_of_the_machine_s_own_keyring_is_not_trusted_for_that(
    signers: tuple[str, ...], image: Path, tmp_path: Path
) -> None:
    with pytest.raises(UntrustedImage, match="another key"):
        check(
            image,
            Policy((key(tmp_path, "lab.asc"),)),
            run=Apptainer({"local": by(*signers)}),
        )


def test_a_file_that_holds_no_pgp_key_is_named(image: Path, tmp_path: Path) -> None:
    apptainer = Apptainer({}, imported=Finished(255), keyring="")
    with pytest.raises(CaHpcError, match=r"lab\.asc is no public key"):
        check(image, Policy((key(tmp_path, "lab.asc"),)), run=apptainer)


# --- around it -----------------------------------------------------------------------------------


def test_the_caller_s_apptainer_variables_do_not_choose_keys(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_VERIFY_KEY", "/tmp/mallory.pem")
    monkeypatch.setenv("APPTAINER_LOCAL_VERIFY", "1")
    apptainer = Apptainer({"one.pem": GOOD})
    check(image, Policy((key(tmp_path, "one.pem"),)), run=apptainer)
    assert not [name for env in apptainer.environments for name in env if "VERIFY" in name]


def test_without_apptainer_nothing_is_let_in(image: Path, tmp_path: Path) -> None:
    def missing(argv: Sequence[str], **_: object) -> Finished:
        raise ProgramMissing("apptainer: No such file or directory")

    with pytest.raises(CaHpcError, match="is missing"):
        check(image, Policy((key(tmp_path, "one.pem"),)), run=missing)


def test_a_verified_image_is_not_verified_again_until_it_or_the_key_changes(
    image: Path, tmp_path: Path
) -> None:
    one = key(tmp_path, "one.pem")
    apptainer = Apptainer({"one.pem": GOOD})

    def ask() -> Signed | None:
        return check_once(
            image,
            Policy((one,)),
            sha256=sha256_file(image),
            memory=tmp_path / "cache/signatures.json",
            digests=tmp_path / "cache/digests.json",
            run=apptainer,
        )

    first = ask()
    assert first == ask() and len(apptainer.calls) == 1
    image.write_bytes(b"another image")
    assert ask() == first and len(apptainer.calls) == 2
    one.write_text("another key")
    assert ask() != first and len(apptainer.calls) == 3


def test_an_unsigned_image_is_asked_again_each_time(image: Path, tmp_path: Path) -> None:
    apptainer = Apptainer({"one.pem": fatal(UNSIGNED)})
    for _ in range(2):
        assert (
            check_once(
                image,
                Policy((key(tmp_path, "one.pem"),), required=False),
                sha256=sha256_file(image),
                memory=tmp_path / "cache/signatures.json",
                digests=tmp_path / "cache/digests.json",
                run=apptainer,
            )
            is None
        )
    assert len(apptainer.calls) == 2


def test_an_image_that_changes_while_it_is_verified_is_refused(image: Path, tmp_path: Path) -> None:
    one, before = key(tmp_path, "one.pem"), sha256_file(image)

    def swapping(argv: Sequence[str], **_: object) -> Finished:
        swap = image.with_name("swap")
        swap.write_bytes(b"an imagE")
        os.utime(swap, ns=(image.stat().st_atime_ns, image.stat().st_mtime_ns))
        swap.replace(image)
        return GOOD

    with pytest.raises(UntrustedImage, match="changed while") as refused:
        check_once(
            image,
            Policy((one,)),
            sha256=before,
            memory=tmp_path / "cache/signatures.json",
            digests=tmp_path / "cache/digests.json",
            run=swapping,
        )
    assert before in refused.value.message and sha256_file(image) in refused.value.message
    assert not (tmp_path / "cache/signatures.json").exists()
