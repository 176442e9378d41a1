"""Real programs at work on a mount: git, pip, cargo, rsync, tar, make-like trees."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time

import pytest


def run(*command: object, cwd: pathlib.Path | None = None, limit: float = 240, **extra_env: str) -> str:
    """Runs a program and returns its output; its error output stands in the failure."""
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, errors="replace",
        timeout=limit, env=os.environ | extra_env, check=False,
    )
    assert result.returncode == 0, f"{command} ended with {result.returncode}:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture
def scratch():
    """A local directory beside the mount."""
    with tempfile.TemporaryDirectory(prefix="cairn-scratch-") as path:
        yield pathlib.Path(path)


def make_tree(top: pathlib.Path, files: int, seed: int = 7) -> None:
    """A source tree of the usual kind: many small files, a few large ones, links, modes."""
    random_source = random.Random(seed)
    top.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(files):
        folder = top / f"pkg{number % 11}" / f"mod{number % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"file{number}.txt"
        size = random_source.choice([0, 1, 100, 2_000, 4_096, 9_000, 70_000])
        path.write_bytes(random_source.randbytes(size // 2) + b"text line\n" * (size // 20))
        path.chmod(random_source.choice([0o644, 0o755, 0o600, 0o444]))
        paths.append(path)
    (top / "large.bin").write_bytes(random_source.randbytes(9 << 20))
    os.symlink("pkg0", top / "link-to-directory")
    os.symlink("../nowhere", top / "pkg0" / "dangling")
    for path in paths[:20]:
        os.link(path, f"{path}.hard")
    age_directories(top)


def age_directories(top: pathlib.Path) -> None:
    """Gives directories times of long ago: rsync looks at whole seconds when it mends a directory's time at the end."""
    for number, (folder, _, _) in enumerate(os.walk(top)):
        os.utime(folder, ns=(10**18, 10**18 + number * 1_000_000_007))


def describe(top: pathlib.Path, xattrs: bool = False) -> dict[str, tuple]:
    """Everything about a tree that a faithful copy keeps."""
    first_names: dict[int, str] = {}
    result: dict[str, tuple] = {}
    for folder, folders, files in os.walk(os.fsencode(top)):
        for name in sorted(folders) + sorted(files):
            path = os.path.join(folder, name)
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(top)))
            found = os.lstat(path)
            content: object = None
            if stat.S_ISLNK(found.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(found.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            attributes = ()
            if xattrs and not stat.S_ISLNK(found.st_mode):
                attributes = tuple(sorted((key, os.getxattr(path, key)) for key in os.listxattr(path)))
            links = found.st_nlink if stat.S_ISREG(found.st_mode) else 0
            same_as = first_names.setdefault(found.st_ino, relative) if links > 1 else relative
            mtime = 0 if stat.S_ISLNK(found.st_mode) else found.st_mtime_ns
            result[relative] = (found.st_mode, found.st_uid, found.st_gid, links, same_as, mtime, found.st_rdev, content, attributes)
    return result


@pytest.mark.limit(300)
def test_git(mount: pathlib.Path, scratch: pathlib.Path):
    git = ("git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main")
    make_tree(scratch / "source", 400)
    run(*git, "init", "-q", scratch / "source")
    run(*git, "add", "-A", cwd=scratch / "source")
    run(*git, "commit", "-qm", "first", cwd=scratch / "source")
    run(*git, "clone", "-q", "--bare", scratch / "source", scratch / "bare.git")

    run(*git, "clone", "-q", f"file://{scratch}/bare.git", mount / "clone")
    clone = mount / "clone"
    assert run(*git, "status", "--porcelain", cwd=clone) == ""
    for number in range(3):
        run(*git, "checkout", "-q", "-b", f"topic{number}", cwd=clone)
        (clone / f"new{number}.txt").write_text(f"new {number}\n")
        (clone / "pkg1/mod1/file1.txt").unlink(missing_ok=True)
        run(*git, "add", "-A", cwd=clone)
        run(*git, "commit", "-qm", f"topic {number}", cwd=clone)
    run(*git, "stash", "list", cwd=clone)
    run(*git, "checkout", "-q", "main", cwd=clone)
    run(*git, "merge", "-q", "topic2", cwd=clone)
    run(*git, "gc", "-q", cwd=clone)
    run(*git, "fsck", "--full", "--strict", cwd=clone)
    assert run(*git, "status", "--porcelain", cwd=clone) == ""
    run(*git, "push", "-q", "origin", "main", cwd=clone)
    run(*git, "worktree", "add", "-q", mount / "worktree", "topic0", cwd=clone)
    assert (mount / "worktree/new0.txt").read_text() == "new 0\n"
    assert int(run(*git, "rev-list", "--count", "main", cwd=clone)) == 4




def make_wheel(folder: pathlib.Path, modules: int = 150) -> pathlib.Path:
    """A wheel without dependencies, made by hand so that no network is needed."""
    import base64
    import zipfile

    files = {"cairnsample/__init__.py": "def main():\n    print('it works')\n" + "".join(f"from . import m{n}\n" for n in range(modules))}
    for number in range(modules):
        files[f"cairnsample/m{number}.py"] = f"VALUE = {number}\n" + "# padding\n" * (number % 40)
    meta = "cairnsample-1.2.3.dist-info"
    files[f"{meta}/METADATA"] = "Metadata-Version: 2.1\nName: cairnsample\nVersion: 1.2.3\n"
    files[f"{meta}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{meta}/entry_points.txt"] = "[console_scripts]\ncairnsample = cairnsample:main\n"
    record = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(text.encode())}")
    files[f"{meta}/RECORD"] = "\n".join([*record, f"{meta}/RECORD,,"]) + "\n"
    path = folder / "cairnsample-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


@pytest.mark.limit(400)
def test_pip(mount: pathlib.Path, scratch: pathlib.Path):
    wheel = make_wheel(scratch)
    run(sys.executable, "-m", "venv", mount / "venv")
    python = mount / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", wheel)
    assert run(python, "-c", "import cairnsample; print(cairnsample.m149.VALUE)") == "149\n"
    assert run(mount / "venv/bin/cairnsample") == "it works\n"
    assert "cairnsample" in run(python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check")
    run(python, "-m", "pip", "check")
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "cairnsample")
    assert not (mount / "venv/bin/cairnsample").exists()


@pytest.mark.limit(400)
def test_pip_from_the_index(mount: pathlib.Path):
    """Real packages, as a person installs them; needs pip to be able to reach its index."""
    run(sys.executable, "-m", "venv", mount / "venv")
    python = mount / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "six", "requests")
    code = "import requests, six, urllib3, idna, certifi; print(six.PY3, requests.Session().headers['Accept'])"
    assert run(python, "-c", code) == "True */*\n"


@pytest.mark.limit(400)
def test_cargo_build(mount: pathlib.Path):
    """Several crates, a build script, tests, a change and a build again: cargo trusts mtimes, locks and hard links."""
    if shutil.which("cargo") is None:
        pytest.skip("no cargo")
    work = mount / "work"
    members = [f"part{number}" for number in range(4)]
    (work / "app/src").mkdir(parents=True)
    (work / "Cargo.toml").write_text(f'[workspace]\nresolver = "2"\nmembers = {["app", *members]!r}\n'.replace("'", '"'))
    for member in members:
        (work / member / "src").mkdir(parents=True)
        (work / member / "Cargo.toml").write_text(f'[package]\nname = "{member}"\nversion = "0.1.0"\nedition = "2021"\n')
        (work / member / "src/lib.rs").write_text(
            "pub fn value() -> u32 { 10 }\n#[cfg(test)] mod tests { #[test] fn ten() { assert_eq!(super::value(), 10); } }\n"
        )
    dependencies = "".join(f'{member} = {{ path = "../{member}" }}\n' for member in members)
    (work / "app/Cargo.toml").write_text(f'[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\n{dependencies}')
    (work / "app/build.rs").write_text(
        'fn main() { let out = std::env::var("OUT_DIR").unwrap(); '
        'std::fs::write(format!("{out}/made.rs"), "pub const MADE: u32 = 2;").unwrap(); }\n'
    )
    total = " + ".join(f"{member}::value()" for member in members)
    (work / "app/src/main.rs").write_text(
        f'include!(concat!(env!("OUT_DIR"), "/made.rs"));\nfn main() {{ println!("{{}}", MADE + {total}); }}\n'
    )
    cargo = lambda *arguments: run("cargo", *arguments, "--offline", cwd=work, CARGO_TARGET_DIR=str(work / "target"))  # noqa: E731
    assert cargo("run", "--quiet") == "42\n"
    cargo("test", "--quiet", "--workspace")
    time.sleep(0.02)
    (work / "part0/src/lib.rs").write_text("pub fn value() -> u32 { 11 }\n")
    assert cargo("run", "--quiet") == "43\n"
    cargo("build", "--quiet")
    before = (work / "target/debug/app").stat().st_mtime_ns
    cargo("build", "--quiet")
    assert (work / "target/debug/app").stat().st_mtime_ns == before, "built again although nothing had changed"


@pytest.mark.limit(300)
def test_rsync_there_and_back(mount: pathlib.Path, scratch: pathlib.Path):
    source = scratch / "source"
    make_tree(source, 300)
    for number, path in enumerate(sorted(source.rglob("*.txt"))[:40]):
        os.setxattr(path, "user.number", str(number).encode())
        os.utime(path, ns=(10**18 + number, 10**18 + 123_456_789 + number))
    run("setfacl", "-m", "u:1:rwx,g:2:r", source / "pkg0")
    run("setfacl", "-d", "-m", "u:1:rwx", source / "pkg0")
    os.mkfifo(source / "fifo")
    os.utime(source / "fifo", ns=(10**18, 10**18))
    with open(source / "sparse", "wb") as sparse:
        sparse.truncate(50 << 20)
        sparse.seek(20 << 20)
        sparse.write(b"middle")
    age_directories(source)
    expected = describe(source, xattrs=True)
    run("rsync", "-aHAXS", f"{source}/", f"{mount}/copy/")
    assert describe(mount / "copy", xattrs=True) == expected
    assert run("rsync", "-aHAXn", "--itemize-changes", f"{source}/", f"{mount}/copy/") == "", "rsync would copy again"
    run("rsync", "-aHAXS", "--delete", f"{mount}/copy/", f"{scratch}/back/")
    assert describe(scratch / "back", xattrs=True) == expected
    # Checksums instead of times, and rewriting in place.
    (source / "large.bin").write_bytes(random.Random(3).randbytes(9 << 20))
    run("rsync", "-aHAX", "--inplace", "--no-whole-file", "--checksum", f"{source}/", f"{mount}/copy/")
    assert describe(mount / "copy", xattrs=True) == describe(source, xattrs=True)


@pytest.mark.limit(300)
def test_tar_round_trip(mount: pathlib.Path, scratch: pathlib.Path):
    source = scratch / "source"
    make_tree(source, 300)
    os.setxattr(source / "large.bin", "user.kind", b"large")
    expected = describe(source, xattrs=True)
    tar = ("tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--format=posix")
    run(*tar, "-cf", scratch / "in.tar", "-C", source, ".")
    (mount / "out").mkdir()
    run(*tar, "-xpf", scratch / "in.tar", "-C", mount / "out")
    assert describe(mount / "out", xattrs=True) == expected
    run(*tar, "-czf", mount / "again.tar.gz", "-C", mount / "out", ".")
    (scratch / "again").mkdir()
    run(*tar, "-xpzf", mount / "again.tar.gz", "-C", scratch / "again")
    assert describe(scratch / "again", xattrs=True) == expected


@pytest.mark.limit(200)
def test_cp_mv_rm_find_du(mount: pathlib.Path):
    make_tree(mount / "tree", 300)
    run("cp", "-a", mount / "tree", mount / "copy")
    assert describe(mount / "copy") == describe(mount / "tree")
    run("cp", "-a", "--reflink=auto", "--sparse=always", mount / "tree", mount / "sparse-copy")
    assert describe(mount / "sparse-copy") == describe(mount / "tree")
    run("mv", mount / "copy", mount / "moved")
    assert describe(mount / "moved") == describe(mount / "tree")
    run("diff", "-r", "--no-dereference", mount / "tree", mount / "moved")
    assert len(run("find", mount / "tree", "-type", "f").splitlines()) == 321
    first, second = (run("du", "-s", "--apparent-size", mount / name).split()[0] for name in ("tree", "moved"))
    assert first == second
    run("rm", "-rf", mount / "tree", mount / "moved", mount / "sparse-copy")
    assert os.listdir(mount) == []
