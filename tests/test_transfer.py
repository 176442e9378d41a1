"""`cairn import` and `cairn export`: trees and archives, goes on after kill -9, and a copy that differs is told."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import re
import signal
import tarfile
import zipfile

import pytest

from support import harness

MIB = 1 << 20
ARCHIVES = ("tar", "tar.gz", "tar.zst", "zip")
MAGIC = {"tar.gz": b"\x1f\x8b", "tar.zst": b"\x28\xb5\x2f\xfd", "zip": b"PK"}


@pytest.fixture
def server(lab: harness.Lab) -> harness.Server:
    server = lab.server()
    server.create_volume("v")
    return server


def make_tree(top: pathlib.Path) -> pathlib.Path:
    """Small and large files, every kind of name, links, a hole, modes and times."""
    randomly = random.Random(4)
    for folder in ("", "deep/er/still", "empty", "größe"):
        (top / folder).mkdir(parents=True, exist_ok=True)
    for number in range(200):
        (top / "deep" / f"f{number}").write_bytes(randomly.randbytes(randomly.choice([0, 1, 100, 4096, 20000])))
    (top / "deep/er/still/large").write_bytes(randomly.randbytes(9 * MIB + 1))
    (top / "größe" / "with blank\nand line").write_bytes(b"text")
    (top / "deep" / "f7").chmod(0o4751)
    (top / "empty").chmod(0o700)
    (top / "link").symlink_to("deep/f7")
    with open(top / "sparse", "wb") as file:
        file.seek(5 * MIB)
        file.write(b"end")
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(10**18, 1_600_000_000_000_000_000 + number * 10**9), follow_symlinks=False)
    return top


def facts(top: pathlib.Path, times: bool = True) -> dict[str, tuple]:
    """What must be the same on both sides: kind, mode, owner, time, and content or target."""
    told = {}
    for path in sorted(top.rglob("*")):
        found = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_dir():
            content = ""
        else:
            content = hashlib.blake2b(path.read_bytes()).hexdigest()
        time = found.st_mtime_ns // 10**9 if times and not path.is_symlink() else 0
        told[str(path.relative_to(top))] = (found.st_mode, found.st_uid, found.st_gid, time, content)
    return told


def test_a_tree_goes_in_and_comes_out_unchanged(lab: harness.Lab, server: harness.Server):
    tree = make_tree(lab.root / "tree")
    os.link(tree / "deep" / "f1", tree / "second-name")
    os.setxattr(tree / "deep" / "f2", "user.colour", b"blue")
    told = server.run("import", str(tree), "v:/in/here").stdout
    assert re.search(r"20\d files, .*, verified: v:/in/here", told), told
    mount = lab.mount(server, "v")
    inside = mount.path / "in" / "here"
    assert facts(inside) == facts(tree)
    assert (inside / "second-name").stat().st_ino == (inside / "deep" / "f1").stat().st_ino
    assert os.getxattr(inside / "deep" / "f2", "user.colour") == b"blue"
    assert (inside / "sparse").stat().st_blocks * 512 < MIB, "the hole is kept"
    back = lab.root / "back"
    server.run("export", "v:/in/here", str(back))
    assert facts(back) == facts(tree)
    assert (back / "second-name").stat().st_ino == (back / "deep" / "f1").stat().st_ino
    # A single file, both ways.
    server.run("import", str(tree / "deep/er/still/large"), "v:/one")
    server.run("export", "v:/one/large", str(lab.root))
    assert (lab.root / "large").read_bytes() == (tree / "deep/er/still/large").read_bytes()
    mount.stop_orderly()
    server.assert_clean("v", "--data")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_comes_out_and_goes_in(lab: harness.Lab, server: harness.Server, kind: str):
    tree = make_tree(lab.root / "tree")
    if kind == "zip":
        (tree / "größe" / "with blank\nand line").unlink()
        (tree / "deep" / "f7").chmod(0o751)  # a zip holds no set-id bits
    server.run("import", str(tree), "v:/tree")
    archive = lab.root / f"packed.{kind}"
    server.run("export", "v:/tree", str(archive))
    if kind in MAGIC:
        assert archive.read_bytes().startswith(MAGIC[kind])
    # Another program reads it, where Python has one.
    outside = lab.root / "outside"
    large = "deep/er/still/large"
    if kind in ("tar", "tar.gz"):
        with tarfile.open(archive) as opened:
            opened.extractall(outside, filter="fully_trusted")
        assert facts(outside) == facts(tree)
    elif kind == "zip":
        with zipfile.ZipFile(archive) as opened:
            assert opened.testzip() is None
            assert hashlib.blake2b(opened.read(large)).digest() == hashlib.blake2b((tree / large).read_bytes()).digest()
    server.run("import", str(archive), "v:/unpacked")
    server.run("import", str(archive), "v:/kept", "--as-file")
    mount = lab.mount(server, "v")
    # A zip counts time in steps of two seconds, in nobody's time zone.
    assert facts(mount.path / "unpacked", times=kind != "zip") == facts(tree, times=kind != "zip")
    assert (mount.path / "kept" / archive.name).read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_archives_of_other_programs_go_in(lab: harness.Lab, server: harness.Server, kind: str):
    tree = make_tree(lab.root / "tree")
    (tree / "größe" / "with blank\nand line").unlink()
    archive = lab.root / f"foreign.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            for path in sorted(tree.rglob("f*")):
                made.write(path, path.relative_to(tree))
    else:
        with tarfile.open(archive, "w:gz" if kind == "tar.gz" else "w") as made:
            made.add(tree, arcname=".")
    server.run("import", str(archive), "v:/in")
    mount = lab.mount(server, "v")
    for path in tree.rglob("f*"):
        assert (mount.path / "in" / path.relative_to(tree)).read_bytes() == path.read_bytes()
    if kind != "zip":
        assert facts(mount.path / "in") == facts(tree)


def many_files(top: pathlib.Path, megabytes: int) -> pathlib.Path:
    """Files of 1 MiB, no two alike, and many small ones between them."""
    randomly = random.Random(5)
    for folder in range(4):
        (top / f"{folder}").mkdir(parents=True)
        for number in range(megabytes // 4):
            (top / f"{folder}" / f"large{number}").write_bytes(randomly.randbytes(MIB))
            for small in range(4):
                (top / f"{folder}" / f"small{number}-{small}").write_bytes(randomly.randbytes(700))
    return top


def begin_import(lab: harness.Lab, server: harness.Server, source: pathlib.Path) -> harness.Process:
    command = [str(harness.binary()), "import", str(source), "v:/in", "--jobs", "2", "--server", server.address]
    return harness.Process(lab, "import", command)


def wait_for_bytes(server: harness.Server, wanted: int) -> None:
    harness.wait_until(lambda: server.usage("v")["bytes_used"] >= wanted, 60, f"{wanted} bytes are in the volume")


@pytest.mark.limit(240)
def test_an_import_that_was_killed_goes_on(lab: harness.Lab, server: harness.Server):
    tree = many_files(lab.root / "tree", 160)
    process = begin_import(lab, server, tree)
    wait_for_bytes(server, 24 * MIB)
    assert process.alive(), "the import must still be running, or this tests nothing"
    process.kill()
    told = server.run("import", str(tree), "v:/in", limit=120).stdout
    kept = int(re.search(r"(\d+) of them there already", told)[1])
    assert 10 <= kept < 800, told
    mount = lab.mount(server, "v")
    assert facts(mount.path / "in") == facts(tree)
    # All is there now: nothing is copied again.
    told = server.run("import", str(tree), "v:/in", limit=120).stdout
    assert re.search(r"800 files.*800 of them there already", told), told
    mount.stop_orderly()
    server.assert_clean("v", "--data")


@pytest.mark.limit(240)
def test_an_export_that_was_killed_goes_on(lab: harness.Lab, server: harness.Server):
    tree, back = many_files(lab.root / "tree", 160), lab.root / "back"
    server.run("import", str(tree), "v:/in", limit=120)
    command = [str(harness.binary()), "export", "v:/in", str(back), "--jobs", "2", "--server", server.address]
    process = harness.Process(lab, "export", command)

    def copied() -> int:
        return sum(path.stat().st_size for path in back.rglob("large*")) if back.exists() else 0

    harness.wait_until(lambda: copied() >= 24 * MIB, 60, "some files have come out", pause=0.002)
    process.send(signal.SIGKILL)
    process.kill()
    told = server.run("export", "v:/in", str(back), limit=120).stdout
    assert facts(back) == facts(tree)
    assert " of them there already" in told, told


def flip(path: pathlib.Path, offset: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 0x10]), offset)


@pytest.mark.limit(240)
def test_a_bit_that_flips_in_the_volume_is_told(lab: harness.Lab, server: harness.Server):
    """While the import is still copying, a byte that is stored already changes: the comparison finds it."""
    tree = many_files(lab.root / "tree", 160)
    process = begin_import(lab, server, tree)
    wait_for_bytes(server, 24 * MIB)
    pack = max(server.packs(), key=lambda path: path.stat().st_size)
    flip(pack, 2 * MIB)
    assert process.alive(), "the import must still be running, or this tests nothing"
    assert process.popen.wait(120) == 1
    assert re.search(r"^cairn: .*(large|small)\d+", process.log, re.MULTILINE), process.log
    # Nobody is given the wrong bytes, either.
    result = server.run("export", "v:/in", str(lab.root / "back"), check=False, limit=120)
    assert result.returncode == 1 and re.search(r"cairn: .*(large|small)\d+", result.stderr), result.stderr
    assert server.fsck("v", "--data").returncode == 4


@pytest.mark.parametrize("kind", ["tar.gz", "tar.zst", "zip"])
def test_a_bit_that_flips_in_an_archive_is_told(lab: harness.Lab, server: harness.Server, kind: str):
    tree = many_files(lab.root / "tree", 8)
    server.run("import", str(tree), "v:/tree")
    archive = lab.root / f"packed.{kind}"
    server.run("export", "v:/tree", str(archive))
    flip(archive, archive.stat().st_size // 2)
    result = server.run("import", str(archive), "v:/in", check=False)
    assert result.returncode == 1 and archive.name in result.stderr, result.stderr


def test_what_leads_out_stays_out(lab: harness.Lab, server: harness.Server):
    archive = lab.root / "evil.tar"
    with tarfile.open(archive, "w") as made:
        for name in ("../outside", "/absolute", "in/../../outside"):
            entry = tarfile.TarInfo(name)
            made.addfile(entry)
    server.run("import", str(archive), "v:/a/b", check=False)
    mount = lab.mount(server, "v")
    names = {str(path.relative_to(mount.path)) for path in mount.path.rglob("*")}
    assert not {"outside", "absolute", "a/outside"} & names, names


def test_what_cannot_be_done_is_told(lab: harness.Lab, server: harness.Server):
    for arguments, code, sentence in (
        (("import", "/nowhere", "v:/"), 1, "/nowhere"),
        (("import", str(lab.root), "v"), 2, "models:/data"),
        (("import", str(lab.logs), "w:/"), 6, "no volume"),
        (("export", "v:/nothing", str(lab.root / "x")), 1, "does not exist"),
    ):
        result = server.run(*arguments, check=False)
        assert result.returncode == code and sentence in result.stderr, (arguments, result)
    assert not (lab.root / "x").exists()
