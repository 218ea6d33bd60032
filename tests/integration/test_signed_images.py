"""Images signed by the real Apptainer, passed on through a real registry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ca_hpc import processes
from ca_hpc.errors import CaHpcError
from ca_hpc.images.contents import content_sha256
from ca_hpc.images.signatures import Policy, UntrustedImage, check
from ca_hpc.images.signed_since import signed_since
from tests.command_line import Call, called
from tests.integration.signing import apptainer_does, key_pair, sign, small_image, tamper
from tests.oci_registry import Registry, serving


@dataclass(frozen=True)
class Signer:
    """Two PEM keys and a PGP key, with the folder of its keyring."""

    folder: Path

    def public(self, name: str) -> Path:
        return self.folder / f"{name}.pub.pem"

    @property
    def pgp(self) -> Path:
        return self.folder / "lab.asc"

    def sign(self, image: Path, name: str) -> None:
        if name == "pgp":
            apptainer_does("sign", "--keyidx", 0, image, keys=self.folder / "keyring")
        else:
            sign(image, self.folder / f"{name}.pem")


@pytest.fixture(scope="module")
def signer(apptainer: str, tmp_path_factory: pytest.TempPathFactory) -> Signer:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("lab", "other"):
        key_pair(folder, name)
    ring = folder / "keyring"
    of_lab = ("-N", "lab", "-C", "", "-E", "lab@example.org", "-P", "", "-b", 2048, "-U=false")
    apptainer_does("key", "newpair", *of_lab, keys=ring)
    # `key export` asks on a terminal; the keyring's file is what it writes
    (folder / "lab.asc").write_bytes((ring / "pgp-public").read_bytes())
    return Signer(folder)


@pytest.fixture(scope="module")
def unsigned(apptainer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def signed(signer: Signer, unsigned: Path, tmp_path: Path) -> Callable[..., Path]:
    """``signed("lab")``: a copy that this key has signed."""

    def make(*names: str) -> Path:
        image = tmp_path / f"{'-'.join(names) or 'un'}signed.sif"
        image.write_bytes(unsigned.read_bytes())
        for name in names:
            signer.sign(image, name)
        return image

    return make


def test_an_image_is_trusted_by_the_key_that_signed_it(
    signer: Signer, signed: Callable[..., Path]
) -> None:
    keys = (signer.public("other"), signer.public("lab"))
    by = check(signed("lab"), Policy(keys), run=processes.run)
    assert by is not None and by.key == "lab.pub.pem"
    by = check(signed("pgp"), Policy((signer.pgp,)), run=processes.run)
    assert by is not None and by.fingerprint is not None
    assert check(signed(), Policy(keys, required=False), run=processes.run) is None


@pytest.mark.parametrize(
    ("names", "key", "told"),
    [
        ((), "lab", "is not signed"),
        ((), "pgp", "is not signed"),
        (("other",), "lab", "another key"),
        (("pgp",), "lab", "another key"),
        (("lab",), "pgp", "another key"),
    ],
)
def test_another_image_is_refused_with_the_reason(
    names: tuple[str, ...], key: str, told: str, signer: Signer, signed: Callable[..., Path]
) -> None:
    trusted = signer.pgp if key == "pgp" else signer.public(key)
    with pytest.raises(UntrustedImage, match=told):
        check(signed(*names), Policy((trusted,)), run=processes.run)


@pytest.mark.parametrize("name", ["lab", "pgp"])
def test_a_byte_changed_after_signing_is_refused(
    name: str, signer: Signer, signed: Callable[..., Path]
) -> None:
    image = signed(name)
    tamper(image)
    trusted = signer.pgp if name == "pgp" else signer.public(name)
    with pytest.raises(UntrustedImage, match="is not as it was signed"):
        check(image, Policy((trusted,)), run=processes.run)


def test_a_file_signed_after_it_was_recorded_is_the_recorded_one_until_more_is_added(
    signer: Signer, signed: Callable[..., Path]
) -> None:
    image = signed()
    recorded = {"sha256": digest(image), "size_bytes": image.stat().st_size}
    for name in ("lab", "other", "pgp"):
        signer.sign(image, name)
        assert signed_since(image, **recorded)
    overlay = image.with_name("overlay.img")
    apptainer_does("overlay", "create", "--size", 64, overlay)
    of_a_partition = ["--partfs", "2", "--parttype", "4", "--partarch", "2", "--groupid", "1"]
    apptainer_does("sif", "add", "--datatype", 4, *of_a_partition, image, overlay)
    assert not signed_since(image, **recorded)
    with pytest.raises(CaHpcError, match="holds 2 file systems"):
        content_sha256(image)


@pytest.mark.parametrize("group", [1, 2, 10])
def test_a_signed_image_that_got_something_added_is_not_taken_for_an_unsigned_one(
    group: int, signer: Signer, signed: Callable[..., Path]
) -> None:
    image = signed("lab")
    overlay = image.with_name("overlay.img")
    overlay.write_bytes(bytes(4096))
    of_a_partition = ["--partfs", "2", "--parttype", "4", "--partarch", "2", "--groupid", group]
    apptainer_does("sif", "add", "--datatype", 4, *of_a_partition, image, overlay)
    policy = Policy((signer.public("lab"),), required=False)
    with pytest.raises(UntrustedImage, match="parts that were not signed"):
        check(image, policy, run=processes.run)


def test_a_private_key_is_no_key_to_verify_with(
    signer: Signer, signed: Callable[..., Path]
) -> None:
    with pytest.raises(CaHpcError, match="is no public key"):
        check(signed("lab"), Policy((signer.folder / "lab.pem",)), run=processes.run)


# --- through the command line, and a registry ----------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with serving(tmp_path / "registry") as found:
        yield found


@pytest.fixture
def image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """``ca-hpc image …`` with a store, a cache and a home of its own."""
    for name, place in (("HOME", "home"), ("CA_HPC_STORE", "store"), ("XDG_CACHE_HOME", "cache")):
        monkeypatch.setenv(name, str(tmp_path / place))
    return lambda *words: called("image", *map(str, words), monkeypatch=monkeypatch, capsys=capsys)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_tampered_and_an_unsigned_image_come_into_no_store_of_a_policy(
    image: Call, signer: Signer, signed: Callable[..., Path], registry: Registry
) -> None:
    key = ("--key", signer.public("lab"))
    tampered = signed("lab", "lab")
    tamper(tampered)
    for file, told in ((signed(), "is not signed"), (tampered, "not as it was signed")):
        to = f"oras://{registry.host}/lab/{file.stem}:v1"
        assert image("push", file, to).code == 0
        for what in (file, to):
            shown = image("pull", what, *key)
            assert shown.code == 3 and told in shown.err, shown
        assert image("verify", file, *key).code == 3
    assert json.loads(image("list", "--json").out) == {"images": []}

    good = signed("lab")
    to = f"oras://{registry.host}/lab/good:v1"
    assert image("push", good, to, *key).code == 0
    found = json.loads(image("pull", to, *key, "--json").out)
    assert digest(Path(found["file"])) == digest(good)
    shown = image("verify", *key)
    assert shown.code == 0 and "signed with lab.pub.pem" in shown.out


def test_what_ca_hpc_pushes_apptainer_pulls_and_the_other_way_round(
    image: Call, signed: Callable[..., Path], registry: Registry, tmp_path: Path
) -> None:
    file = signed("lab")
    told = json.loads(image("push", file, f"oras://{registry.host}/ours:v1", "--json").out)
    for reference in (told["tagged"], f"oras://{registry.host}/ours:sha256-{told['sha256']}"):
        out = tmp_path / "out.sif"
        apptainer_does("pull", "--force", "--disable-cache", out, reference)
        assert digest(out) == told["sha256"] == digest(file)

    apptainer_does("push", file, f"oras://{registry.host}/theirs:v1")
    for reference in (
        f"oras://{registry.host}/theirs:v1",
        f"oras://{registry.host}/theirs@sha256:{digest(file)}",
    ):
        found = json.loads(image("pull", reference, "--json").out)
        assert digest(Path(found["file"])) == digest(file)
