"""Names, directories, links, renames and files without a name: what Linux promises of a local file system.

pjdfstest (test_pjdfstest.py) covers permissions and error codes in depth; here stands what it leaves out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import socket
import stat
import threading

from support import harness, syscalls
from support.helpers import MIB, fails_with, opened, random_bytes

# --- names ---------------------------------------------------------------------------------------------------------


def test_names_of_255_bytes(mount: pathlib.Path):
    name = "n" * 255
    (mount / name).write_bytes(b"x")
    assert os.listdir(mount) == [name]
    with fails_with(errno.ENAMETOOLONG):
        (mount / ("n" * 256)).write_bytes(b"x")
    with fails_with(errno.ENAMETOOLONG):
        os.stat(mount / ("n" * 256))


def test_names_of_any_bytes(mount: pathlib.Path):
    folder = os.fsencode(mount)
    names = {bytes([value]) for value in range(1, 256) if value not in (0x2F, 0x2E)}
    names |= {b"\xff\xfe\x00x".replace(b"\x00", b"\x01"), "å".encode("latin-1"), b" lead", b"trail ", b"...", b"new\nline", b"\xc3\x28"}
    for name in names:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(name)
    assert set(os.listdir(folder)) == names
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            assert file.read() == name
        os.unlink(os.path.join(folder, name))
    assert os.listdir(folder) == []


def test_names_are_not_normalised(mount: pathlib.Path):
    composed, decomposed = "\u00e9", "e\u0301"
    (mount / composed).write_text("composed")
    (mount / decomposed).write_text("decomposed")
    (mount / "Case").write_text("upper")
    (mount / "case").write_text("lower")
    assert len(os.listdir(mount)) == 4
    assert (mount / composed).read_text() == "composed"
    assert (mount / "Case").read_text() == "upper"


# --- directories ---------------------------------------------------------------------------------------------------


def test_directory_link_counts(mount: pathlib.Path):
    top = mount / "top"
    top.mkdir()
    assert top.stat().st_nlink == 2
    (top / "a").mkdir()
    (top / "b").mkdir()
    assert top.stat().st_nlink == 4
    (top / "a").rename(mount / "a")
    assert top.stat().st_nlink == 3
    (top / "b").rmdir()
    assert top.stat().st_nlink == 2


def test_rename_of_a_directory_into_itself(mount: pathlib.Path):
    (mount / "a/b/c").mkdir(parents=True)
    with fails_with(errno.EINVAL):
        os.rename(mount / "a", mount / "a/b/c/d")
    with fails_with(errno.ENOTEMPTY):
        os.rename(mount / "a/b/c", mount / "a")


def test_listing_while_entries_change(mount: pathlib.Path):
    """readdir shows each entry that was there all the time exactly once, whatever happens beside it."""
    stable = {f"stable-{number}" for number in range(500)}
    for name in stable:
        (mount / name).touch()
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            path = mount / f"churn-{number % 50}"
            with contextlib.suppress(FileNotFoundError):
                path.unlink() if number % 2 else path.touch()
            number += 1

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        for _ in range(20):
            seen = [entry.name for entry in os.scandir(mount) if entry.name.startswith("stable")]
            assert len(seen) == len(set(seen)), "an entry was listed twice"
            assert set(seen) == stable
    finally:
        stop.set()
        worker.join()


def test_removing_entries_while_listing(mount: pathlib.Path):
    for number in range(3000):
        (mount / f"file-{number}").touch()
    with os.scandir(mount) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(mount) == []


def test_ten_thousand_entries(mount: pathlib.Path):
    names = {f"entry-{number:05}" for number in range(10_000)}
    for name in names:
        os.close(os.open(mount / name, os.O_CREAT | os.O_WRONLY))
    assert set(os.listdir(mount)) == names
    types = {entry.is_file(follow_symlinks=False) for entry in os.scandir(mount)}
    assert types == {True}


def test_removed_working_directory(mount: pathlib.Path):
    (mount / "gone").mkdir()
    descriptor = os.open(mount / "gone", os.O_RDONLY)
    os.rmdir(mount / "gone")
    with fails_with(errno.ENOENT):
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    assert os.listdir(descriptor) == []
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)


def test_removed_special_files_and_links(mount: pathlib.Path):
    """What the kernel still refers to answers fstat, though no file system call ever opened it."""
    os.mkfifo(mount / "fifo", 0o600)
    os.mknod(mount / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.symlink("anywhere", mount / "link")
    (mount / "file").write_bytes(b"12345")
    for name in ("fifo", "null", "link", "file"):
        descriptor = os.open(mount / name, os.O_PATH | os.O_NOFOLLOW)
        before = os.fstat(descriptor)
        (mount / name).unlink()
        after = os.fstat(descriptor)
        assert (after.st_ino, after.st_mode, after.st_size, after.st_nlink) == (before.st_ino, before.st_mode, before.st_size, 0)
        os.close(descriptor)
    os.mkfifo(mount / "fifo", 0o600)
    descriptor = os.open(mount / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    (mount / "fifo").unlink()
    os.fchmod(descriptor, 0o640)
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o640
    os.close(descriptor)


# --- links and special files ---------------------------------------------------------------------------------------


def test_hard_links(mount: pathlib.Path):
    first, second = mount / "first", mount / "second"
    first.write_bytes(b"one")
    os.link(first, second)
    assert first.stat().st_nlink == 2 and first.stat().st_ino == second.stat().st_ino
    second.write_bytes(b"changed")
    assert first.read_bytes() == b"changed"
    first.unlink()
    assert second.stat().st_nlink == 1 and second.read_bytes() == b"changed"
    with fails_with(errno.EPERM):
        os.link(mount, mount / "directory")


def test_symbolic_links(mount: pathlib.Path):
    target = "t" * 4095
    os.symlink(target, mount / "long")
    assert os.readlink(mount / "long") == target
    assert os.lstat(mount / "long").st_size == 4095
    os.symlink("loop", mount / "loop")
    with fails_with(errno.ELOOP):
        os.stat(mount / "loop")


def test_special_files(mount: pathlib.Path):
    os.mkfifo(mount / "fifo")
    os.mknod(mount / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(mount / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(mount, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{folder}/socket")
    listener.listen()
    kinds = {entry.name: stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) for entry in os.scandir(mount)}
    assert kinds == {"fifo": stat.S_IFIFO, "null": stat.S_IFCHR, "block": stat.S_IFBLK, "socket": stat.S_IFSOCK}
    assert os.stat(mount / "block").st_rdev == os.makedev(259, 70_000)
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"/proc/self/fd/{folder}/socket")
    peer = listener.accept()[0]
    client.sendall(b"hello")
    assert peer.recv(5) == b"hello"
    for item in (client, peer, listener):
        item.close()
    os.close(folder)
    writer = threading.Thread(target=lambda: (mount / "fifo").write_bytes(b"through"))
    writer.start()
    assert (mount / "fifo").read_bytes() == b"through"
    writer.join()


# --- rename --------------------------------------------------------------------------------------------------------


def test_rename_noreplace(mount: pathlib.Path):
    (mount / "a").write_text("a")
    (mount / "b").write_text("b")
    with fails_with(errno.EEXIST):
        syscalls.renameat2(mount / "a", mount / "b", syscalls.RENAME_NOREPLACE)
    syscalls.renameat2(mount / "a", mount / "c", syscalls.RENAME_NOREPLACE)
    assert (mount / "c").read_text() == "a" and not (mount / "a").exists()


def test_rename_exchange(mount: pathlib.Path):
    (mount / "file").write_text("file")
    (mount / "one/two").mkdir(parents=True)
    syscalls.renameat2(mount / "file", mount / "one/two", syscalls.RENAME_EXCHANGE)
    assert (mount / "file").is_dir() and (mount / "one/two").read_text() == "file"
    assert mount.stat().st_nlink == 4 and (mount / "one").stat().st_nlink == 2
    with fails_with(errno.ENOENT):
        syscalls.renameat2(mount / "file", mount / "missing", syscalls.RENAME_EXCHANGE)
    with fails_with(errno.EINVAL):
        syscalls.renameat2(mount / "one", mount / "one/two", syscalls.RENAME_EXCHANGE)
    with fails_with(errno.EINVAL):
        flags = syscalls.RENAME_EXCHANGE | syscalls.RENAME_NOREPLACE
        syscalls.renameat2(mount / "file", mount / "one", flags)


def test_rename_onto_an_open_file(mount: pathlib.Path):
    (mount / "old").write_text("old")
    (mount / "new").write_text("new")
    with open(mount / "old", encoding="utf-8") as reader:
        os.rename(mount / "new", mount / "old")
        assert reader.read() == "old"
        assert os.fstat(reader.fileno()).st_nlink == 0
    assert (mount / "old").read_text() == "new"


def test_rename_between_two_links_of_one_file(mount: pathlib.Path):
    (mount / "a").write_text("x")
    os.link(mount / "a", mount / "b")
    os.rename(mount / "a", mount / "b")
    assert sorted(os.listdir(mount)) == ["a", "b"]


# --- files without a name ------------------------------------------------------------------------------------------


def test_unlinked_but_open(mount: pathlib.Path):
    data = random_bytes(3 * MIB)
    with opened(mount / "file") as descriptor:
        os.write(descriptor, data[:MIB])
        os.unlink(mount / "file")
        os.write(descriptor, data[MIB:])
        os.fsync(descriptor)
        assert os.fstat(descriptor).st_nlink == 0 and os.fstat(descriptor).st_size == len(data)
        os.ftruncate(descriptor, 2 * MIB)
        assert os.pread(descriptor, 4 * MIB, 0) == data[: 2 * MIB]
        (mount / "file").write_text("another")
        assert os.pread(descriptor, 10, 0) == data[:10]
        os.fchmod(descriptor, 0o600)
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
    assert (mount / "file").read_text() == "another"


def test_a_directory_keeps_what_is_done_in_it_after_o_tmpfile(own_mount: harness.Mount):
    directory = own_mount.path / "d"
    directory.mkdir()
    os.close(os.open(directory, os.O_TMPFILE | os.O_RDWR))
    (directory / "after").write_text("x")
    (directory / "gone").write_text("y")
    (directory / "gone").unlink()
    (directory / "after").rename(directory / "renamed")
    assert os.listdir(directory) == ["renamed"]
    own_mount.remount()
    assert os.listdir(directory) == ["renamed"]
    assert (directory / "renamed").read_text() == "x"


def test_o_tmpfile(mount: pathlib.Path):
    with opened(mount, os.O_TMPFILE | os.O_RDWR) as descriptor:
        os.write(descriptor, b"nameless")
        assert os.fstat(descriptor).st_nlink == 0
        assert os.listdir(mount) == []
        syscalls.linkat_descriptor(descriptor, mount / "named")
        assert os.fstat(descriptor).st_nlink == 1
    assert (mount / "named").read_bytes() == b"nameless"
    with opened(mount, os.O_TMPFILE | os.O_RDWR | os.O_EXCL) as descriptor:
        with fails_with(errno.ENOENT):
            syscalls.linkat_descriptor(descriptor, mount / "never")
