"""What POSIX and Linux promise of a local file system, one promise a test. Expected values are those of ext4.

pjdfstest (test_pjdfstest.py) covers permissions and error codes in depth; here stands what it leaves out.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import pathlib
import random
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

import harness
import syscalls

MIB = 1 << 20


@contextlib.contextmanager
def opened(path: pathlib.Path, flags: int = os.O_RDWR | os.O_CREAT, mode: int = 0o644):
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fails_with(number: int):
    """The block must raise OSError with this errno."""

    class Expect:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, _trace):
            assert kind is not None, f"succeeded, expected {syscalls.name_of(number)}"
            if not isinstance(error, OSError):
                return False
            got = syscalls.name_of(error.errno)
            assert error.errno == number, f"{got}, expected {syscalls.name_of(number)}"
            return True

    return Expect()


def random_bytes(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


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


# --- content -------------------------------------------------------------------------------------------------------


def test_beyond_four_gibibytes(mount: pathlib.Path):
    path = mount / "big"
    places = [0, (1 << 32) - 3, (1 << 32) + 50, 5 << 30, (1 << 40) + 77]
    with opened(path) as descriptor:
        for place in places:
            os.pwrite(descriptor, f"at {place}".encode(), place)
    assert path.stat().st_size == places[-1] + len(f"at {places[-1]}")
    assert path.stat().st_blocks * 512 < 100 * MIB, "a sparse file is charged for its holes"
    with opened(path, os.O_RDONLY) as descriptor:
        for place in places:
            text = f"at {place}".encode()
            assert os.pread(descriptor, len(text), place) == text
        assert os.pread(descriptor, 4096, 3 << 30) == bytes(4096)


def test_truncate_both_ways(mount: pathlib.Path):
    path = mount / "file"
    data = random_bytes(200_000)
    path.write_bytes(data)
    os.truncate(path, 70_001)
    os.truncate(path, 300_000)
    assert path.read_bytes() == data[:70_001] + bytes(300_000 - 70_001), "cut bytes come back, or zeros are missing"
    os.truncate(path, 0)
    os.truncate(path, 9)
    assert path.read_bytes() == bytes(9)


def holes(descriptor: int) -> list[tuple[int, int]]:
    """The ranges of data, as SEEK_DATA and SEEK_HOLE tell them."""
    ranges, position, size = [], 0, os.fstat(descriptor).st_size
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            break
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        ranges.append((start, position))
    return ranges


def test_seek_data_and_hole(mount: pathlib.Path):
    with opened(mount / "sparse") as descriptor:
        os.ftruncate(descriptor, 64 * MIB)
        assert holes(descriptor) == []
        with fails_with(errno.ENXIO):
            os.lseek(descriptor, 0, os.SEEK_DATA)
        os.pwrite(descriptor, b"x" * MIB, 8 * MIB)
        os.pwrite(descriptor, b"y" * MIB, 32 * MIB)
        assert holes(descriptor) == [(8 * MIB, 9 * MIB), (32 * MIB, 33 * MIB)]
        os.fsync(descriptor)
        assert holes(descriptor) == [(8 * MIB, 9 * MIB), (32 * MIB, 33 * MIB)]
        assert os.lseek(descriptor, 8 * MIB + 5, os.SEEK_DATA) == 8 * MIB + 5
        assert os.lseek(descriptor, 33 * MIB, os.SEEK_HOLE) == 33 * MIB
        with fails_with(errno.ENXIO):
            os.lseek(descriptor, 64 * MIB, os.SEEK_HOLE)


def test_fallocate_modes(mount: pathlib.Path):
    data = random_bytes(MIB)
    with opened(mount / "file") as descriptor:
        os.write(descriptor, data)
        syscalls.fallocate(descriptor, syscalls.FALLOC_KEEP_SIZE, 0, 4 * MIB)
        assert os.fstat(descriptor).st_size == MIB
        syscalls.fallocate(descriptor, 0, 0, 2 * MIB)
        assert os.fstat(descriptor).st_size == 2 * MIB
        assert os.pread(descriptor, MIB, MIB) == bytes(MIB)
        punch = syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE
        syscalls.fallocate(descriptor, punch, 1000, 300_000)
        expected = data[:1000] + bytes(300_000) + data[301_000:]
        assert os.pread(descriptor, MIB, 0) == expected
        syscalls.fallocate(descriptor, punch, 2 * MIB - 10, 100)
        assert os.fstat(descriptor).st_size == 2 * MIB
        syscalls.fallocate(descriptor, syscalls.FALLOC_ZERO, 500_000, 100_000)
        expected = expected[:500_000] + bytes(100_000) + expected[600_000:]
        assert os.pread(descriptor, MIB, 0) == expected
        syscalls.fallocate(descriptor, syscalls.FALLOC_ZERO, 3 * MIB, 10)
        assert os.fstat(descriptor).st_size == 3 * MIB + 10
        with fails_with(errno.EOPNOTSUPP):
            syscalls.fallocate(descriptor, syscalls.FALLOC_PUNCH_HOLE, 0, 10)


def test_punched_space_comes_back(mount: pathlib.Path):
    with opened(mount / "file") as descriptor:
        os.write(descriptor, random_bytes(8 * MIB))
        os.fsync(descriptor)
        before = os.fstat(descriptor).st_blocks
        syscalls.fallocate(descriptor, syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE, 0, 4 * MIB)
        os.fsync(descriptor)
        assert os.fstat(descriptor).st_blocks <= before - 4 * MIB // 512 + 128


def test_copy_file_range(mount: pathlib.Path):
    data = random_bytes(10 * MIB + 123)
    (mount / "from").write_bytes(data)
    with opened(mount / "from", os.O_RDONLY) as source, opened(mount / "to") as target:
        copied = 0
        while copied < len(data):
            count = os.copy_file_range(source, target, len(data) - copied)
            assert count > 0
            copied += count
        assert os.copy_file_range(source, target, 100) == 0
    assert (mount / "to").read_bytes() == data
    with opened(mount / "from") as same:
        assert os.copy_file_range(same, same, 5000, 100, 6 * MIB) == 5000
        with fails_with(errno.EINVAL):
            os.copy_file_range(same, same, 5000, 100, 2000)
    assert (mount / "from").read_bytes() == data[: 6 * MIB] + data[100:5100] + data[6 * MIB + 5000 :]
    # A copy is a copy: changing one changes only that one.
    with opened(mount / "to") as target:
        os.pwrite(target, b"changed", 0)
    assert (mount / "from").read_bytes()[:7] == data[:7]


def test_append(mount: pathlib.Path):
    with opened(mount / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as one:
        with opened(mount / "log", os.O_WRONLY | os.O_APPEND) as two:
            os.write(one, b"a")
            os.write(two, b"b")
            os.lseek(one, 0, os.SEEK_SET)
            os.write(one, b"c")
            os.pwrite(two, b"d", 0)  # Linux appends all the same
    assert (mount / "log").read_bytes() == b"abcd"


APPENDER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(500):
    record = f"{sys.argv[2]} {number:04} ".encode().ljust(63, b".") + b"\\n"
    assert os.write(descriptor, record) == 64
"""


def test_parallel_appends_are_whole(mount: pathlib.Path):
    (mount / "log").touch()
    workers = [subprocess.Popen([sys.executable, "-c", APPENDER, str(mount / "log"), str(name)]) for name in range(4)]
    for worker in workers:
        assert worker.wait(60) == 0
    lines = (mount / "log").read_bytes().split(b"\n")[:-1]
    assert len(lines) == 2000 and {len(line) for line in lines} == {63}
    for name in range(4):
        mine = [int(line.split()[1].rstrip(b".")) for line in lines if line.startswith(b"%d " % name)]
        assert mine == list(range(500))


def test_write_past_the_end_and_back(mount: pathlib.Path):
    with opened(mount / "file") as descriptor:
        os.pwrite(descriptor, b"end", 100_000)
        os.pwrite(descriptor, b"start", 0)
        assert os.pread(descriptor, 200_000, 0) == b"start" + bytes(99_995) + b"end"


def test_vectored_and_direct_io(mount: pathlib.Path):
    data = random_bytes(MIB)
    with opened(mount / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as descriptor:
        buffer = mmap.mmap(-1, MIB)
        buffer[:] = data
        assert os.writev(descriptor, [buffer]) == MIB
        target = mmap.mmap(-1, MIB)
        assert os.preadv(descriptor, [target], 0) == MIB
        assert target[:] == data
    assert (mount / "file").read_bytes() == data


# --- mmap ----------------------------------------------------------------------------------------------------------


def test_shared_writable_mmap(mount: pathlib.Path):
    path = mount / "mapped"
    path.write_bytes(bytes(MIB))
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), MIB)
        memory[5:10] = b"hello"
        memory[700_000:700_005] = b"world"
        with open(path, "rb") as reader:
            reader.seek(5)
            assert reader.read(5) == b"hello", "read() does not see a mapped write"
        os.pwrite(file.fileno(), b"PWRITE", 100)
        assert memory[100:106] == b"PWRITE", "the mapping does not see write()"
        memory.flush()
        memory.close()
    content = path.read_bytes()
    assert content[5:10] == b"hello" and content[700_000:700_005] == b"world"


def test_mmap_outlives_its_descriptor_and_name(mount: pathlib.Path):
    path = mount / "mapped"
    path.write_bytes(b"0" * 8192)
    os.link(path, mount / "other")
    descriptor = os.open(path, os.O_RDWR)
    memory = mmap.mmap(descriptor, 8192)
    os.close(descriptor)
    path.unlink()
    memory[4096:4100] = b"late"
    memory.close()
    assert (mount / "other").read_bytes()[4096:4100] == b"late"


def test_private_mmap_changes_nothing(mount: pathlib.Path):
    path = mount / "mapped"
    path.write_bytes(b"original")
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_COPY)
        memory[:] = b"changed!"
        memory.close()
    assert path.read_bytes() == b"original"


# --- times, modes, owners ------------------------------------------------------------------------------------------


def test_nanosecond_times(mount: pathlib.Path):
    path = mount / "file"
    path.touch()
    for access, change in [(1, 999_999_999), (1_700_000_000_123_456_789, 4_000_000_000_987_654_321), (-1_000_000_001, -5)]:
        os.utime(path, ns=(access, change))
        found = path.stat()
        assert (found.st_atime_ns, found.st_mtime_ns) == (access, change)


def times(path: pathlib.Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize(
    ("name", "action", "mtime_moves", "ctime_moves"),
    [
        ("write", lambda path: path.write_bytes(b"more"), True, True),
        ("append", lambda path: path.open("ab").write(b"x") and None, True, True),
        ("truncate", lambda path: os.truncate(path, 1), True, True),
        ("chmod", lambda path: path.chmod(0o600), False, True),
        ("chown", lambda path: os.chown(path, 0, 0), False, True),
        ("link", lambda path: os.link(path, f"{path}-link"), False, True),
        ("rename", lambda path: (os.rename(path, f"{path}-2"), os.rename(f"{path}-2", path)), False, True),
        ("xattr", lambda path: os.setxattr(path, "user.k", b"v"), False, True),
        ("read", lambda path: path.read_bytes(), False, False),
    ],
)
def test_what_moves_which_time(mount: pathlib.Path, name: str, action, mtime_moves: bool, ctime_moves: bool):
    path = mount / "file"
    path.write_bytes(b"content")
    before = times(path)
    time.sleep(0.03)
    action(path)
    after = times(path)
    assert (after[0] > before[0], after[1] > before[1]) == (mtime_moves, ctime_moves)


def test_directory_times_follow_entries(mount: pathlib.Path):
    for action in (
        lambda: (mount / "f").touch(),
        lambda: (mount / "f").rename(mount / "g"),
        lambda: (mount / "g").unlink(),
        lambda: (mount / "d").mkdir(),
    ):
        before = times(mount)
        time.sleep(0.03)
        action()
        after = times(mount)
        assert after[0] > before[0] and after[1] > before[1]


def test_mapped_write_moves_mtime(mount: pathlib.Path):
    path = mount / "file"
    path.write_bytes(bytes(4096))
    before = times(path)
    time.sleep(0.03)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
        memory[0] = 1
        memory.flush()
    assert times(path)[0] > before[0]


def test_relatime(mount: pathlib.Path):
    path = mount / "file"
    path.write_bytes(b"content")
    os.utime(path, ns=(10**18, 10**18 + 5))  # access older than change: a read moves it
    path.read_bytes()
    assert path.stat().st_atime_ns > 10**18 + 5


def test_umask_and_setgid_directories(mount: pathlib.Path):
    harness.ensure_user("cairn-test-1")
    import grp

    group = grp.getgrnam("cairn-test-1").gr_gid
    folder = mount / "shared"
    folder.mkdir()
    os.chown(folder, 0, group)
    folder.chmod(0o2775)
    old = os.umask(0o027)
    try:
        (folder / "sub").mkdir()
        (folder / "file").touch()
    finally:
        os.umask(old)
    assert (folder / "sub").stat().st_gid == group and (folder / "sub").stat().st_mode & stat.S_ISGID
    assert (folder / "file").stat().st_gid == group
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o640


def as_user(name: str, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs Python code as another user."""
    harness.ensure_user(name)
    return subprocess.run(
        ["/usr/bin/python3", "-c", code, *map(str, arguments)], user=name, group=name, extra_groups=[],
        capture_output=True, text=True, timeout=60, check=False, cwd="/",
    )


def test_a_write_by_others_clears_setuid(mount: pathlib.Path):
    path = mount / "program"
    path.write_bytes(b"#!")
    path.chmod(0o6777)
    result = as_user("cairn-test-1", "import sys; open(sys.argv[1], 'ab').write(b'x')", path)
    assert result.returncode == 0, result.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6777)
    path.write_bytes(b"by root")
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777
    os.chown(path, 1, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_sticky_directory(mount: pathlib.Path):
    folder = mount / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / "roots").touch()
    result = as_user("cairn-test-1", "import os, sys; os.unlink(sys.argv[1])", folder / "roots")
    assert "PermissionError" in result.stderr and (folder / "roots").exists()
    made = as_user("cairn-test-1", "import sys; open(sys.argv[1], 'w').close()", folder / "mine")
    assert made.returncode == 0, made.stderr
    removed = as_user("cairn-test-2", "import os, sys; os.rename(sys.argv[1], sys.argv[1] + 'x')", folder / "mine")
    assert "PermissionError" in removed.stderr


def test_supplementary_groups_open_files(mount: pathlib.Path):
    import grp
    import pwd

    for name in harness.TEST_USERS:
        harness.ensure_user(name)
    group = grp.getgrnam("cairn-test-3").gr_gid
    (mount / "file").write_text("for the group")
    os.chown(mount / "file", 0, group)
    (mount / "file").chmod(0o640)
    command = ["cat", str(mount / "file")]
    user = pwd.getpwnam("cairn-test-1").pw_uid
    for groups, expected in [([], 1), ([group], 0)]:
        result = subprocess.run(command, user=user, group=user, extra_groups=groups, capture_output=True, timeout=30, check=False)
        assert result.returncode == expected, (groups, result)


# --- extended attributes and ACLs ----------------------------------------------------------------------------------


def test_extended_attributes(mount: pathlib.Path):
    path = mount / "file"
    path.touch()
    values = {"user.empty": b"", "user.small": b"\x00\xff", "user.large": random_bytes(3000), "trusted.t": b"t", "security.s": b"s"}
    for name, value in values.items():
        os.setxattr(path, name, value)
    assert set(os.listxattr(path)) == set(values)
    assert {name: os.getxattr(path, name) for name in values} == values
    with fails_with(errno.EEXIST):
        os.setxattr(path, "user.small", b"", os.XATTR_CREATE)
    with fails_with(errno.ENODATA):
        os.setxattr(path, "user.other", b"", os.XATTR_REPLACE)
    with fails_with(errno.ENODATA):
        os.getxattr(path, "user.other")
    os.setxattr(path, "user.small", b"new", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.small") == b"new"
    os.removexattr(path, "user.small")
    with fails_with(errno.ENODATA):
        os.removexattr(path, "user.small")
    with fails_with(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 251, b"")
    os.setxattr(path, "user." + "n" * 250, b"longest name")
    os.setxattr(mount, "user.on-a-directory", b"d")
    os.symlink("file", mount / "link")
    with fails_with(errno.EPERM):
        os.setxattr(mount / "link", "user.x", b"", follow_symlinks=False)
    os.setxattr(mount / "link", "trusted.x", b"on the link", follow_symlinks=False)
    assert os.getxattr(mount / "link", "trusted.x", follow_symlinks=False) == b"on the link"


@pytest.mark.needs_cairn
def test_largest_extended_attribute(mount: pathlib.Path):
    """64 KiB is the kernel's limit; ext4 stops earlier."""
    path = mount / "file"
    path.touch()
    value = random_bytes(65_536)
    os.setxattr(path, "user.max", value)
    assert os.getxattr(path, "user.max") == value


def test_attributes_survive_rename_and_links(mount: pathlib.Path):
    (mount / "a").touch()
    os.setxattr(mount / "a", "user.k", b"v")
    os.link(mount / "a", mount / "b")
    os.rename(mount / "a", mount / "c")
    assert os.getxattr(mount / "b", "user.k") == os.getxattr(mount / "c", "user.k") == b"v"


def run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=60).stdout


def test_access_control_lists(mount: pathlib.Path):
    for name in harness.TEST_USERS:
        harness.ensure_user(name)
    path = mount / "file"
    path.write_text("secret")
    path.chmod(0o600)
    read = "import sys; print(open(sys.argv[1]).read())"
    assert as_user("cairn-test-1", read, path).returncode != 0
    run("setfacl", "-m", "u:cairn-test-1:r,g:cairn-test-2:rw", path)
    assert as_user("cairn-test-1", read, path).stdout == "secret\n"
    assert as_user("cairn-test-2", read, path).returncode == 0
    assert as_user("cairn-test-3", read, path).returncode != 0
    assert as_user("cairn-test-1", "import sys; open(sys.argv[1], 'a')", path).returncode != 0
    assert "user:cairn-test-1:r--" in run("getfacl", "-p", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660, "the group bits show the mask"
    path.chmod(0o600)
    assert as_user("cairn-test-1", read, path).returncode != 0, "chmod narrows the mask"
    run("setfacl", "-b", path)
    assert "cairn-test" not in run("getfacl", "-p", path)


def test_default_access_control_lists(mount: pathlib.Path):
    harness.ensure_user("cairn-test-1")
    folder = mount / "folder"
    folder.mkdir()
    run("setfacl", "-d", "-m", "u:cairn-test-1:rwx,o::---", folder)
    old = os.umask(0o077)
    try:
        (folder / "file").write_text("x")
        (folder / "sub").mkdir()
    finally:
        os.umask(old)
    listing = run("getfacl", "-p", folder / "file")
    assert "user:cairn-test-1:rwx" in listing and "mask::rw-" in listing and "other::---" in listing
    assert "default:user:cairn-test-1:rwx" in run("getfacl", "-p", folder / "sub")
    folder.chmod(0o755)
    assert as_user("cairn-test-1", "import sys; open(sys.argv[1], 'a').close()", folder / "file").returncode == 0


# --- the whole file system -----------------------------------------------------------------------------------------


def test_fsync_of_everything(mount: pathlib.Path):
    with opened(mount / "file") as descriptor:
        os.write(descriptor, b"x" * 100_000)
        os.fdatasync(descriptor)
        os.fsync(descriptor)
        syscalls.syncfs(descriptor)
    with opened(mount, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def test_executable_files(mount: pathlib.Path):
    script = mount / "script"
    script.write_text("#!/bin/sh\necho ran $1\n")
    script.chmod(0o755)
    assert run(script, "well") == "ran well\n"
    import shutil

    shutil.copy("/bin/true", mount / "true")
    run(mount / "true")
    script.chmod(0o644)
    with fails_with(errno.EACCES):
        subprocess.run([str(script)], check=True)


def test_everything_is_there_after_a_remount(mount: pathlib.Path, shared_mount):
    tree = mount / "tree"
    expected: dict[str, tuple] = {}
    for number in range(200):
        folder = tree / f"dir-{number % 7}" / f"sub-{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"file-{number}"
        data = random_bytes(number * 997 % 70_000, number)
        path.write_bytes(data)
        path.chmod(0o600 + number % 64)
        os.setxattr(path, "user.number", str(number).encode())
        os.utime(path, ns=(number * 10**9 + 1, number * 10**9 + 2))
    os.symlink("dir-0", tree / "link")

    def look() -> dict[str, tuple]:
        result: dict[str, tuple] = {}
        for folder, folders, files in os.walk(tree):
            for name in folders + files:
                path = os.path.join(folder, name)
                found = os.lstat(path)
                content = os.readlink(path) if os.path.islink(path) else None
                if stat.S_ISREG(found.st_mode):
                    with open(path, "rb") as file:
                        content = hashlib.sha256(file.read()).hexdigest(), os.getxattr(path, "user.number")
                result[path] = (
                    found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size,
                    found.st_blocks, found.st_mtime_ns, found.st_ctime_ns, content,
                )
        return result

    expected = look()
    shared_mount.remount()
    assert look() == expected
