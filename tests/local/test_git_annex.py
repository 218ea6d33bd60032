"""Data sets in git and git-annex, by the real programs: cloned at a commit, fetched as needed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ca_hpc import processes
from ca_hpc.core.data_spec import GitSource
from ca_hpc.errors import CaHpcError, DigestMismatch, ExitCode
from ca_hpc.imaging.synthetic import write_dataset
from ca_hpc.sources import git
from ca_hpc.sources.git import REPOSITORIES, Checkout
from ca_hpc.store.run_folder import RunFolder
from tests.local_runs import ca_hpc
from tests.prepare_runs import contents, make

JOB = """
kind: train
name: annexed
cluster: local
data: [{type: git, name: brno, url: URL, ref: REF, label_suffix: _label-SC_seg, KEYS}]
splits: {folds: 2}
"""


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("git", "git-annex"):
        if shutil.which(program) is None:
            reason = f"{program} is not installed"
            (pytest.fail if os.environ.get("CA_HPC_TEST_REQUIRE_ALL") else pytest.skip)(reason)
    settings = tmp_path / "home/.gitconfig"
    settings.parent.mkdir()
    settings.write_text(
        "[user]\n name = T\n email = t@example.org\n[init]\n defaultBranch = main\n"
    )
    monkeypatch.setenv("HOME", str(settings.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("CA_HPC_STORE", str(tmp_path / "store"))


@dataclass(frozen=True)
class Upstream:
    """A data set that is published: a git-annex repository of a few people."""

    path: Path

    def git(self, *arguments: str) -> str:
        argv = ("git", *arguments)
        return subprocess.run(
            argv, cwd=self.path, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, what: str = "more") -> str:
        self.git("annex", "add", ".")
        self.git("commit", "--quiet", "--allow-empty", "-m", what)
        return self.git("rev-parse", "HEAD")

    def images(self) -> list[str]:
        """Images and labels, relative."""
        tracked = self.git("ls-files", "-z", "--", "*.nii.gz").split("\0")
        return sorted(name for name in tracked if name)


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    made = Upstream(tmp_path / "published data")
    write_dataset(made.path, people=4, seed=3, contrasts=("T2w", "T1w"))
    made.git("init", "--quiet")
    made.git("annex", "init", "--quiet", "published")
    (made.path / ".gitattributes").write_text(
        "* annex.largefiles=nothing\n*.nii.gz annex.largefiles=anything\n"
    )
    made.commit("first")
    made.git("tag", "-a", "r1", "-m", "first release")
    return made


@dataclass(frozen=True)
class Reader:
    """Who uses it, with a store of their own."""

    upstream: Upstream
    store: Path

    def checkout(self, ref: str = "main", *, fetch: bool = True, **given: str) -> Checkout:
        source = GitSource(type="git", **{"url": str(self.upstream.path), "ref": ref, **given})  # type: ignore[arg-type]
        return git.checkout(source, name="brno", store=self.store, run=processes.run, fetch=fetch)

    def get(self, checkout: Checkout, names: list[str]) -> list[str]:
        said: list[str] = []
        files = [str(checkout.folder / name) for name in names]
        git.get(checkout, files, run=processes.run, say=said.append)
        return said

    def refusal(self, ref: str = "main", *, fetch: bool = True, **given: str) -> CaHpcError:
        with pytest.raises(CaHpcError) as refused:
            self.checkout(ref, fetch=fetch, **given)
        return refused.value


@pytest.fixture
def reader(tmp_path: Path, upstream: Upstream) -> Reader:
    return Reader(upstream, tmp_path / "store")


def same(checkout: Checkout, upstream: Upstream, names: list[str]) -> bool:
    return all(
        (checkout.folder / name).read_bytes() == (upstream.path / name).read_bytes()
        for name in names
    )


def test_a_job_gets_the_files_it_needs_at_its_tag_and_no_others(
    tmp_path: Path, upstream: Upstream
) -> None:
    first = upstream.git("rev-parse", "HEAD")
    upstream.commit("later")
    job = tmp_path / "job.yaml"
    text = JOB.replace("URL", str(upstream.path)).replace("REF", "r1")
    job.write_text(text.replace("KEYS", "contrasts: [T2w]"))
    before = ca_hpc("validate", job, cwd=tmp_path)
    assert before.returncode == 2 and "not fetched yet" in before.stderr
    done = ca_hpc("data", "fetch", job, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (origin,) = json.loads(done.stdout)["origins"]
    assert (origin["ref"], origin["commit"]) == ("r1", first)  # the tag itself is another object
    (clone,) = (tmp_path / "store" / REPOSITORIES).glob("*/commits/*")
    assert clone.name == first
    there = sorted(name for name in upstream.images() if (clone / name).exists())
    assert there == [name for name in upstream.images() if "T2w" in name]
    assert len(there) < len(upstream.images())
    assert "files" in done.stderr  # it told how far it was
    assert ca_hpc("validate", job, cwd=tmp_path).returncode == 0


def test_packed_and_carried_away_it_becomes_the_same_data_set(
    tmp_path: Path, upstream: Upstream
) -> None:
    (tmp_path / "job.yaml").write_text(
        JOB.replace("URL", str(upstream.path)).replace("REF", "r1").replace(", KEYS", "")
    )
    done = ca_hpc("data", "pack", "job.yaml", "-o", "study.tar", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sha256 = json.loads(done.stdout)["sha256"]
    here = made(tmp_path, tmp_path / "job.yaml")
    elsewhere = tmp_path / "cluster"
    elsewhere.mkdir()
    (tmp_path / "study.tar").rename(elsewhere / "carried.tar")
    for gone in (upstream.path, tmp_path / "store"):
        gone.rename(tmp_path / f"{gone.name}-gone")
    (elsewhere / "job.yaml").write_text(
        "kind: train\nname: annexed\ncluster: local\nsplits: {folds: 2}\n"
        f"data: [{{type: pack, path: carried.tar, sha256: {sha256}}}]\n"
    )
    there = made(elsewhere, elsewhere / "job.yaml")
    assert contents(there.raw) == contents(here.raw)
    for name in ("cases.tsv", "splits.json"):
        assert there.file(name).read_bytes() == here.file(name).read_bytes()
    (origin,) = there.cases.origins
    assert origin.commit == here.cases.origins[0].commit
    assert origin.sha256 == sha256


def made(folder: Path, job_file: Path) -> RunFolder:
    from ca_hpc.actions import prepare

    host = prepare.Host.here()
    job = prepare.read_job(job_file, host=host)
    run = RunFolder(folder / "run")
    run.write_spec("spec.json", job.spec)
    run.write("cases.json", prepare.find_cases(job, host=host, fetch=True).cases)
    make(run)
    return run


def test_a_branch_that_moved_is_told_once(upstream: Upstream, reader: Reader) -> None:
    old = upstream.git("rev-parse", "HEAD")
    first = reader.checkout()
    assert (first.origin.commit, first.remarks) == (old, ())
    new = upstream.commit()
    moved = reader.checkout()
    (remark,) = moved.remarks
    assert f"from {old} to {new}" in remark and f"commit: {new} pins it" in remark
    assert moved.folder != first.folder and first.folder.is_dir()
    assert reader.checkout().remarks == ()
    assert reader.checkout(fetch=False).origin.commit == new


def test_a_ref_that_is_not_at_its_commit_is_refused(upstream: Upstream, reader: Reader) -> None:
    old = upstream.git("rev-parse", "HEAD")
    reader.checkout(commit=old)
    new = upstream.commit()
    error = reader.refusal(commit=old)
    assert isinstance(error, DigestMismatch) and error.exit_code == ExitCode.DIGEST_MISMATCH
    for word in (old, new, "main", str(upstream.path)):
        assert word in error.message
    # nobody used the new one: what is here is still what the job means
    assert reader.checkout(commit=old, fetch=False).origin.commit == old
    assert reader.checkout(ref=old, commit=old).origin.commit == old
    assert reader.checkout(commit=new).origin.commit == new
    assert isinstance(reader.refusal(commit=old, fetch=False), DigestMismatch)


def test_what_an_older_commit_has_is_not_fetched_again(upstream: Upstream, reader: Reader) -> None:
    names = upstream.images()
    first = reader.checkout()
    reader.get(first, names)
    upstream.git("rm", "--quiet", names[0])
    upstream.commit()
    upstream.git("annex", "drop", "--force", "--quiet", *names[1:])
    second = reader.checkout()
    reader.get(second, names[1:])
    for name in names[1:]:
        assert (second.folder / name).samefile(first.folder / name)
    assert (first.folder / names[0]).exists() and not (second.folder / names[0]).is_symlink()


def test_contents_are_no_links_to_the_files_of_others(upstream: Upstream, reader: Reader) -> None:
    """They could be changed in place there."""
    found = reader.checkout()
    reader.get(found, upstream.images())
    assert {(found.folder / name).stat().st_nlink for name in upstream.images()} == {1}


def test_without_its_remote_the_last_commit_is_used_and_that_is_told(
    upstream: Upstream, reader: Reader
) -> None:
    names = upstream.images()[:2]
    first = reader.checkout()
    reader.get(first, names)
    upstream.path.rename(upstream.path.with_name("away"))
    again = reader.checkout()
    assert again.origin == first.origin
    (remark,) = again.remarks
    assert str(upstream.path) in remark and str(first.origin.commit) in remark
    reader.get(again, names)  # they are here
    assert reader.checkout(fetch=False).remarks == ()
    unknown = reader.refusal("r1")
    assert "VPN" in str(unknown.hint)
    assert "not fetched yet" in reader.refusal("r1", fetch=False).message


def test_what_no_remote_has_is_told_with_a_reason(upstream: Upstream, reader: Reader) -> None:
    names = upstream.images()
    upstream.git("annex", "drop", "--force", "--quiet", names[0])
    found = reader.checkout()
    with pytest.raises(CaHpcError) as refused:
        reader.get(found, names)
    assert refused.value.message.startswith(f"1 of {len(names)} files cannot be got from origin")
    assert names[0] in refused.value.message and "data pack" in str(refused.value.hint)
    assert same(found, upstream, names[1:])


def test_what_is_published_after_the_commit_is_found(upstream: Upstream, reader: Reader) -> None:
    name = upstream.images()[0]
    away = upstream.path / upstream.git("annex", "contentlocation", key(upstream, name))
    kept = away.read_bytes()
    upstream.git("annex", "drop", "--force", "--quiet", name)
    found = reader.checkout()
    with pytest.raises(CaHpcError):
        reader.get(found, [name])
    content = upstream.path / "content.nii.gz"
    content.write_bytes(kept)
    upstream.git("annex", "reinject", str(content), name)
    reader.get(found, [name])
    assert (found.folder / name).read_bytes() == kept


def key(upstream: Upstream, name: str) -> str:
    return upstream.git("annex", "lookupkey", name)


def test_unlocked_files_are_pointers_until_they_are_got(upstream: Upstream, reader: Reader) -> None:
    names = upstream.images()
    upstream.git("annex", "unlock", *names[:3])
    upstream.git("commit", "--quiet", "-m", "unlocked")
    found = reader.checkout()
    assert (found.folder / names[0]).read_bytes().startswith(b"/annex/objects/")
    reader.get(found, names)
    assert same(found, upstream, names)
    assert not (found.folder / names[0]).is_symlink()


def test_a_plain_repository_needs_no_annex(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Upstream(tmp_path / "plain")
    write_dataset(plain.path, people=3, seed=3, contrasts=("T2w",))
    plain.git("init", "--quiet")
    plain.git("add", ".")
    plain.git("commit", "--quiet", "-m", "all")
    without_annex(tmp_path, monkeypatch)
    found = reader.checkout(url=str(plain.path))
    reader.get(found, plain.images())
    assert same(found, plain, plain.images())
    annexed = reader.checkout()
    with pytest.raises(CaHpcError, match=r"git-annex .* is not installed"):
        reader.get(annexed, reader.upstream.images())


def without_annex(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = folder / "bin"
    programs.mkdir()
    (programs / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(programs))


def test_git_lfs_is_named(upstream: Upstream, reader: Reader) -> None:
    pointer = "sub-09/anat/sub-09_T2w.nii.gz"
    (upstream.path / pointer).parent.mkdir(parents=True)
    (upstream.path / pointer).write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    )
    upstream.git("-c", "annex.gitaddtoannex=false", "add", pointer)
    upstream.git("commit", "--quiet", "-m", "a pointer")
    found = reader.checkout()
    with pytest.raises(CaHpcError, match="is kept by git LFS"):
        reader.get(found, [pointer])


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_may_hold_anything(
    upstream: Upstream, reader: Reader, monkeypatch: pytest.MonkeyPatch, locale: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    names = [
        "-x.nii.gz",
        "a b.nii.gz",
        "*[1]?.nii.gz",
        "new\nline.nii.gz",
        ":(top)x.nii.gz",
        "'\".nii.gz",
    ]
    names += ["größe.nii.gz", "--json.nii.gz", "$(touch x).nii.gz"]
    for number, name in enumerate(names):
        (upstream.path / name).write_bytes(b"image %d" % number)
    upstream.commit()
    found = reader.checkout()
    reader.get(found, names)
    assert same(found, upstream, names)


def test_links_between_files_and_folders_are_followed(upstream: Upstream, reader: Reader) -> None:
    name = upstream.images()[0]
    (upstream.path / "linked").symlink_to(Path(name).parent)
    (upstream.path / "again.nii.gz").symlink_to(Path("linked", Path(name).name))
    upstream.commit()
    found = reader.checkout()
    reader.get(found, ["again.nii.gz", f"linked/{Path(name).name}"])
    assert same(found, upstream, ["again.nii.gz", name])


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../../../../../../home/.gitconfig", ".git/config"]
)
def test_a_link_out_of_the_repository_is_refused(
    upstream: Upstream, reader: Reader, target: str
) -> None:
    (upstream.path / "sub-01_T2w.nii.gz").symlink_to(target)
    upstream.commit()
    found = reader.checkout()
    with pytest.raises(CaHpcError, match="leads out of the repository"):
        reader.get(found, ["sub-01_T2w.nii.gz"])


HOSTILE = {
    "an option as ref": {"ref": "--upload-pack=touch MARK"},
    "a pattern as ref": {"ref": "ma*n"},
    "two refs": {"ref": "main other"},
    "a range": {"ref": "main..other"},
    "an option as address": {"url": "--upload-pack=touch MARK"},
    "a helper as address": {"url": "ext::sh -c touch% MARK"},
    "ssh's option as host": {"url": "ssh://-oProxyCommand=touch MARK/x"},
}


@pytest.mark.parametrize("given", HOSTILE.values(), ids=HOSTILE)
def test_nothing_in_an_address_or_a_ref_is_run(
    reader: Reader, tmp_path: Path, given: dict[str, str]
) -> None:
    mark = tmp_path / "mark"
    named = {key: value.replace("MARK", str(mark)) for key, value in given.items()}
    reader.refusal(named.pop("ref", "main"), **named)  # type: ignore[arg-type]
    assert not mark.exists()


def test_neither_hooks_nor_filters_run(
    upstream: Upstream, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, template = tmp_path / "mark", tmp_path / "template"
    (template / "hooks").mkdir(parents=True)
    for name in ("post-checkout", "post-merge", "reference-transaction", "pre-auto-gc"):
        hook = template / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
        hook.chmod(0o755)
    settings = Path(os.environ["GIT_CONFIG_GLOBAL"])
    settings.write_text(
        settings.read_text() + f"[init]\n templateDir = {template}\n"
        f"[core]\n hooksPath = {template}/hooks\n fsmonitor = touch {mark}\n"
        f'[filter "evil"]\n smudge = "touch {mark}; cat"\n required = true\n'
    )
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    (upstream.path / ".gitattributes").write_text("* filter=evil annex.largefiles=nothing\n")
    quiet = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false")
    upstream.git(*quiet, "add", ".gitattributes")
    upstream.git(*quiet, "commit", "--quiet", "-m", "evil")
    names = upstream.images()
    assert mark.exists()  # they would run
    mark.unlink()
    found = reader.checkout()
    reader.get(found, names)
    assert not mark.exists()
    assert (found.folder / ".gitattributes").read_text().startswith("* filter=evil")
    assert same(found, upstream, names)


def test_the_repository_that_a_hook_was_started_in_is_left_alone(
    upstream: Upstream, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Upstream(tmp_path / "store")  # the store itself lies in somebody's repository
    other.path.mkdir()
    other.git("init", "--quiet")
    other.git("remote", "add", "origin", "/nowhere")
    for name, value in (("GIT_DIR", ".git"), ("GIT_INDEX_FILE", ".git/index")):
        monkeypatch.setenv(name, str(other.path / value))
    found = reader.checkout()
    reader.get(found, upstream.images()[:1])
    assert found.folder.parts[-2] == "commits"
    assert not (other.path / ".git/index").exists()


@pytest.fixture
def served(upstream: Upstream) -> Iterator[str]:
    """The published repository over http, without its annex; ``USER:PASSWORD@`` goes before."""
    upstream.git("update-server-info")
    handler = partial(SimpleHTTPRequestHandler, directory=str(upstream.path / ".git"))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("login", ["token-ghp1234", "user:s3cret-pass", "user:s3cret%2Fpass"])
def test_a_password_in_an_address_is_told_nowhere(
    reader: Reader, tmp_path: Path, served: str, login: str
) -> None:
    url = f"http://{login}@{served}"
    found = reader.checkout(url=url)
    words = (login, login.partition(":")[2] or login, "s3cret/pass")
    told = repr(found)
    files = [file for file in (tmp_path / "store").rglob("*") if file.is_file()]
    told += "".join(file.read_text(errors="replace") for file in files)
    told += reader.refusal("nothing", url=url).message
    told += reader.refusal(url=f"http://{login}@127.0.0.1:1/").message
    told += reader.refusal("r1", url=url, fetch=False).message
    assert not any(word in told for word in words)
    assert f"http://…@{served}" in found.origin.url
    assert len(files) > 10


def test_ssh_is_used_as_the_user_set_it_up_and_asks_nothing(
    upstream: Upstream, reader: Reader, tmp_path: Path
) -> None:
    ssh, told = tmp_path / "my ssh", tmp_path / "told"
    ssh.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> '{told}'\n"
        'while [ "$1" != lab ]; do shift; done; shift\nexec sh -c "$*"\n'
    )
    ssh.chmod(0o755)
    subprocess.run(("git", "config", "--global", "core.sshCommand", f"'{ssh}'"), check=True)
    found = reader.checkout(url=f"lab:{upstream.path}")
    assert found.origin.commit == upstream.git("rev-parse", "HEAD")
    names = upstream.images()
    reader.get(found, names)
    assert same(found, upstream, names)
    asked = told.read_text().splitlines()
    assert any("git-annex-shell" in line for line in asked)
    assert all("-oBatchMode=yes" in line for line in asked)


def killed(argv: list[str], *, when: Callable[[], object], after_s: float, group: bool) -> bool:
    """Kill a process once ``when`` is true; whether that was in time."""
    child = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not when() and child.poll() is None:
        time.sleep(0.001)
    time.sleep(after_s)
    in_time = child.poll() is None
    if in_time:
        (os.killpg if group else os.kill)(child.pid, signal.SIGKILL)
    child.wait()
    return in_time


@pytest.mark.parametrize("group", [True, False], ids=["with its children", "alone"])
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, upstream: Upstream, group: bool) -> None:
    for number in range(6):  # large enough that getting takes a while
        (upstream.path / f"large{number}.nii.gz").write_bytes(os.urandom(20_000_000))
    commit = upstream.commit()
    names, store = upstream.images(), tmp_path / "store"
    (tmp_path / "names").write_text("\n".join(names))
    argv = [sys.executable, "-c", FETCH, str(upstream.path), str(store), str(tmp_path / "names")]

    def drafts() -> list[Path]:
        return list(store.glob("*/*/.draft-*"))

    def getting() -> list[Path]:
        return list(store.glob("*/*/commits/*/.git/annex/*"))

    hits = 0
    for step in range(8):  # while it clones
        seen = set(drafts())
        new = partial(lambda seen: set(drafts()) - seen, seen)
        hits += killed(argv, when=new, after_s=0.004 * step, group=group)
        for clone in store.glob("*/*/commits/*"):
            assert whole(clone, commit)
            shutil.rmtree(clone)
    assert hits == 8
    for step in range(8):  # while it gets
        hits += killed(argv, when=getting, after_s=0.05 * step, group=group)
    assert hits > 8
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (clone,) = store.glob("*/*/commits/*")
    for name in names:
        assert (clone / name).read_bytes() == (upstream.path / name).read_bytes()
    assert drafts() == []


FETCH = """
import sys
from pathlib import Path
from ca_hpc import processes
from ca_hpc.core.data_spec import GitSource
from ca_hpc.sources import git
url, store, names = sys.argv[1:]
source = GitSource(type="git", url=url, ref="main")
found = git.checkout(source, name="x", store=Path(store), run=processes.run, fetch=True)
files = [str(found.folder / name) for name in Path(names).read_text().splitlines()]
git.get(found, files, run=processes.run, say=print)
"""


def whole(clone: Path, commit: str) -> bool:
    """Every file of the commit is there, or a link or pointer that stands for it."""
    of = ("git", "-C", str(clone), "ls-tree", "-r", "--name-only", "-z", commit)
    names = subprocess.run(of, check=True, capture_output=True, text=True).stdout.split("\0")
    return all(os.path.lexists(clone / name) for name in names if name)


def test_two_at_once_get_the_same(tmp_path: Path, upstream: Upstream) -> None:
    (tmp_path / "names").write_text("\n".join(upstream.images()))
    argv = [sys.executable, "-c", FETCH, str(upstream.path), str(tmp_path / "store")]
    argv.append(str(tmp_path / "names"))
    both = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for one in both:
        _, told = one.communicate(timeout=120)
        assert one.returncode == 0, told
    (clone,) = (tmp_path / "store").glob("*/*/commits/*")
    for name in upstream.images():
        assert (clone / name).read_bytes() == (upstream.path / name).read_bytes()


def test_many_files_are_got_in_several_calls(upstream: Upstream, reader: Reader) -> None:
    names = [f"{'long-' * 30}{number:04d}.nii.gz" for number in range(300)]
    for name in names:
        (upstream.path / name).write_text(name)
    upstream.commit()
    found = reader.checkout()
    said = reader.get(found, names)
    assert same(found, upstream, names)
    assert said[-1] == "brno: 300 of 300 files" and len(said) > 3
    assert reader.get(found, names) == []


def test_progress_counts_the_files_that_are_there(upstream: Upstream, reader: Reader) -> None:
    names = [f"{number:04d}.nii.gz" for number in range(40)]
    for name in names:
        (upstream.path / name).write_text(name)
    upstream.commit()
    upstream.git("annex", "drop", "--quiet", "--force", "--", *names[:3])
    found = reader.checkout()
    said: list[str] = []
    files = [str(found.folder / name) for name in names]
    with pytest.raises(CaHpcError, match="3 of 40 files cannot be got"):
        git.get(found, files, run=processes.run, say=said.append)
    assert said == ["brno: 29 of 40 files", "brno: 37 of 40 files"]
