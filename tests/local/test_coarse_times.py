"""A file system that keeps whole seconds: a file that is changed twice within one is seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# In a mount namespace of its own, which ends with it.
CHANGES = """
import json, os, subprocess, sys
from pathlib import Path
from ca_hpc.store.digests import DigestCache, sealed_now, sha256_file

image, mount = sys.argv[1:]
subprocess.run(["mount", "-o", "loop", image, mount], check=True)
digests, file, told = DigestCache(Path(mount) / "cache"), Path(mount) / "file", []
for _ in range(3):
    file.write_bytes(b"before")
    seen, sealed = file.stat(), sealed_now(file, name="file")
    digests.sealed(file)
    file.write_bytes(b"behind")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    told.append({
        "whole_seconds": seen.st_ctime_ns % 10**9 == 0,
        "cached": digests.sealed(file).sha256 == sha256_file(file),
        "sealed": digests.sealed(file).identity != sealed.identity,
    })
print(json.dumps(told))
"""


def test_a_file_changed_again_within_a_second_is_another_one(tmp_path: Path) -> None:
    (mount := tmp_path / "mount").mkdir()
    with (image := tmp_path / "image").open("wb") as stream:
        stream.truncate(16 << 20)
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
    if os.getuid() or mkfs is None:
        reason = "needs root and mkfs.ext4: a file system is made and mounted"
        (pytest.fail if os.environ.get("CA_HPC_TEST_REQUIRE_ALL") else pytest.skip)(reason)
    # inodes of 128 bytes have no place for parts of seconds
    subprocess.run([mkfs, "-q", "-I", "128", image], check=True, capture_output=True)
    argv = ["unshare", "--mount", sys.executable, "-c", CHANGES, str(image), str(mount)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120)
    told = json.loads(done.stdout)
    assert told == [{"whole_seconds": True, "cached": True, "sealed": True}] * 3
