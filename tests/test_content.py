"""Bytes of files: sparse, large, appended, copied, mapped; and the whole tree after a remount.

pjdfstest (test_pjdfstest.py) covers permissions and error codes in depth; here stands what it leaves out.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import pathlib
import stat
import subprocess
import sys

from support import syscalls
from support.helpers import MIB, fails_with, opened, random_bytes, run

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
