"""Keys, and a small image, for tests of signatures: of the real openssl and the real Apptainer."""

from __future__ import annotations

from pathlib import Path

from ca_hpc.images.record import outside_environment
from ca_hpc.store.sif import system_partition
from tests.changed_bytes import flip
from tests.lab.machine import run

DEFINITION = """
Bootstrap: scratch

%files
    hello /hello
"""


def apptainer_does(*words: object, keys: Path | None = None) -> str:
    """``keys``: the folder of a keyring."""
    env = {**outside_environment(), **({"APPTAINER_KEYSDIR": str(keys)} if keys else {})}
    done = run(("apptainer", *map(str, words)), env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def openssl(*words: object) -> None:
    done = run(("openssl", *map(str, words)), timeout=60)
    assert done.returncode == 0, done.stderr


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    public.chmod(0o644)
    return private, public


def sign(image: Path, private: Path) -> None:
    apptainer_does("sign", "--key", private, image)


def tamper(image: Path) -> None:
    """With its file system, which is what a signature covers."""
    part = system_partition(image)
    flip(image, at=part.offset + part.size // 2)


def small_image(folder: Path) -> Path:
    """An unsigned SIF with one file in it, which no job could run in."""
    (folder / "x.def").write_text(DEFINITION)
    (folder / "hello").write_bytes(b"hello\n" * 1000)
    argv = ("apptainer", "build", "--fakeroot", "x.sif", "x.def")
    done = run(argv, cwd=folder, env=outside_environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "x.sif"
