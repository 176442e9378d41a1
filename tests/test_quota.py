"""Quota is exact: a full volume fails the write or create that goes over, never later, never with room left."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import shutil
import subprocess
import threading

import pytest

from support import harness, syscalls

MIB = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


def free(path: pathlib.Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def used(path: pathlib.Path) -> int:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def disk_usage(path: pathlib.Path) -> int:
    """What `du` says, in bytes."""
    output = subprocess.run(["du", "-s", "--block-size=1", str(path)], check=True, capture_output=True, text=True, timeout=120).stdout
    return int(output.split()[0])


@pytest.fixture
def small(lab: harness.Lab):
    """A server and a mounted volume of 64 MiB."""
    server = lab.server()
    server.create_volume("small", "64MiB")
    return server, lab.mount(server, "small")


def test_a_full_volume_fails_the_write(small):
    server, mount = small
    descriptor = os.open(mount.path / "file", os.O_WRONLY | os.O_CREAT)
    written = 0
    chunk = random.Random(1).randbytes(MIB)
    with pytest.raises(OSError) as caught:
        for _ in range(100):
            written += os.write(descriptor, chunk)
    assert caught.value.errno in FULL
    assert 63 * MIB <= written <= 64 * MIB, f"{written} bytes fit into 64 MiB"
    os.fsync(descriptor)  # what was accepted is written: no late error
    os.close(descriptor)
    assert (mount.path / "file").stat().st_size == written
    mount.remount()
    assert (mount.path / "file").read_bytes()[-MIB:] == (chunk * 2)[written % MIB :][:MIB] or (mount.path / "file").stat().st_size == written
    # Overwriting needs no room; removing makes room at once.
    with open(mount.path / "file", "r+b") as file:
        file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    (mount.path / "file").unlink()
    (mount.path / "again").write_bytes(chunk * 60)
    server.assert_clean("small", "--data")


def test_there_is_room_until_it_is_used(small):
    """Many rounds of filling and emptying: never ENOSPC while df shows room."""
    _, mount = small
    for number in range(8):
        for index in range(50):
            (mount.path / f"f{index}").write_bytes(bytes([number]) * MIB)
        assert free(mount.path) >= 12 * MIB
        (mount.path / "rest").write_bytes(b"r" * 11 * MIB)
        for path in mount.path.iterdir():
            path.unlink()


def test_two_mounts_share_what_is_left(small, lab: harness.Lab):
    """Room handed to one mount in advance must not make the other believe that the volume is full."""
    server, first = small
    second = lab.mount(server, "small", name="b")
    (first.path / "one").write_bytes(b"1" * MIB)
    (second.path / "two").write_bytes(b"2" * 60 * MIB)
    (first.path / "three").write_bytes(b"3" * 2 * MIB)
    with pytest.raises(OSError) as caught:
        (first.path / "four").write_bytes(b"4" * 3 * MIB)
    assert caught.value.errno in FULL
    (second.path / "two").unlink()
    (first.path / "five").write_bytes(b"5" * 50 * MIB)
    assert (second.path / "five").stat().st_size == 50 * MIB


def test_two_mounts_never_overshoot(small, lab: harness.Lab):
    server, first = small
    second = lab.mount(server, "small", name="b")
    written = [0, 0]

    def fill(index: int, root: pathlib.Path) -> None:
        descriptor = os.open(root / f"file{index}", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                written[index] += os.write(descriptor, b"x" * 100_000)
        except OSError as error:
            assert error.errno in FULL
        os.fsync(descriptor)
        os.close(descriptor)

    threads = [threading.Thread(target=fill, args=(index, mount.path)) for index, mount in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 62 * MIB <= sum(written) <= 64 * MIB, written
    assert server.usage("small")["bytes_used"] <= 64 * MIB
    server.assert_clean("small")


def test_inodes_are_counted_exactly(lab: harness.Lab):
    server = lab.server()
    server.create_volume("few", "1GiB", "--inodes", "100")
    mount = lab.mount(server, "few")
    before = server.usage("few")["inodes_used"]
    made = 0
    with pytest.raises(OSError) as caught:
        for number in range(200):
            (mount.path / f"f{number}").touch()
            made += 1
    assert caught.value.errno in FULL
    assert made == 100 - before
    with pytest.raises(OSError) as caught:
        (mount.path / "dir").mkdir()
    assert caught.value.errno in FULL
    os.link(mount.path / "f0", mount.path / "a link needs no inode")
    (mount.path / "f1").unlink()
    (mount.path / "dir").mkdir()
    found = os.statvfs(mount.path)
    assert (found.f_files, found.f_ffree) == (100, 0)
    server.assert_clean("few")


def test_growing_without_writing(small):
    """Holes are free, reserved space is not."""
    _, mount = small
    with open(mount.path / "sparse", "wb") as file:
        file.truncate(10 << 30)
        assert free(mount.path) > 63 * MIB
        with pytest.raises(OSError) as caught:
            syscalls.fallocate(file.fileno(), 0, 0, 65 * MIB)
        assert caught.value.errno in FULL
        syscalls.fallocate(file.fileno(), 0, 0, 40 * MIB)
    with open(mount.path / "sparse", "r+b") as file:
        file.write(b"x" * 40 * MIB)  # it was reserved, so it fits
        file.flush()
        os.fsync(file.fileno())


def test_mapped_writes_into_a_full_volume(small):
    """A mapped write that goes over the limit is an error (SIGBUS or at msync), not lost bytes without a word."""
    _, mount = small
    (mount.path / "filler").write_bytes(b"x" * 63 * MIB)
    with open(mount.path / "sparse", "wb") as file:
        file.truncate(8 * MIB)
    code = (
        "import mmap, os, sys\n"
        "d = os.open(sys.argv[1], os.O_RDWR)\n"
        "m = mmap.mmap(d, 8 << 20)\n"
        "try:\n"
        "    m[:] = b'y' * (8 << 20)\n"
        "    m.flush()\n"
        "    os.fsync(d)\n"
        "except OSError: sys.exit(9)\n"
    )
    result = subprocess.run(["/usr/bin/python3", "-c", code, str(mount.path / "sparse")], timeout=60, check=False)
    assert result.returncode in (9, -7), result.returncode


def test_df_of_a_volume_that_is_larger_than_the_disk(lab: harness.Lab):
    server = lab.server()
    server.create_volume("vol", "512TiB")
    mount = lab.mount(server, "vol")
    (mount.path / "file").write_bytes(b"x" * MIB)
    assert used(mount.path) == MIB == disk_usage(mount.path)
    found = os.statvfs(mount.path)
    assert 0 < found.f_bavail * found.f_frsize < 512 << 40, "more is said to be free than the disk has"


def test_df_du_and_usage_agree(lab: harness.Lab):
    server = lab.server()
    server.create_volume("vol", "1GiB")
    mount = lab.mount(server, "vol")
    source = random.Random(2)
    for number in range(400):
        folder = mount.path / f"dir{number % 10}"
        folder.mkdir(exist_ok=True)
        (folder / f"file{number}").write_bytes(source.randbytes(source.choice([0, 1, 500, 4096, 10_000, 300_000])))
    with open(mount.path / "sparse", "wb") as file:
        file.truncate(200 * MIB)
        file.seek(100 * MIB)
        file.write(b"x" * MIB)
    os.link(mount.path / "sparse", mount.path / "link")

    def agree(when: str) -> None:
        """`df` and `du` know at once what was written; the server knows when the mount has sent it, seconds later at most."""
        block = os.statvfs(mount.path).f_frsize
        by_df, by_du = used(mount.path), disk_usage(mount.path)
        assert abs(by_df - by_du) <= 2 * block, f"{when}: df {by_df}, du {by_du}"
        harness.wait_until(
            lambda: abs(server.usage("vol")["bytes_used"] - by_df) <= 2 * block, 10,
            f"{when}: the server's usage {server.usage('vol')['bytes_used']} agrees with df {by_df}", 0.3,
        )

    agree("after writing")
    for number in range(0, 400, 3):
        (mount.path / f"dir{number % 10}" / f"file{number}").unlink()
    os.truncate(mount.path / "sparse", 100 * MIB + 10_000)
    (mount.path / "link").unlink()
    agree("after removing")
    mount.remount()
    agree("after a remount")
    shutil.rmtree(mount.path / "dir1")
    server.stop()
    server.restart()
    agree("after a restart of the server")
    server.assert_clean("vol", "--data")


def test_statfs_tells_the_truth(lab: harness.Lab):
    server = lab.server()
    server.create_volume("vol", "3GiB")
    mount = lab.mount(server, "vol")
    found = os.statvfs(mount.path)
    assert found.f_blocks * found.f_frsize == 3 << 30
    assert found.f_namemax == 255
    server.run("volume", "resize", "vol", "--size", "5GiB")
    harness.wait_until(lambda: os.statvfs(mount.path).f_blocks * os.statvfs(mount.path).f_frsize == 5 << 30, 10, "df shows the new size", 0.2)


def test_resizing_below_use(small):
    server, mount = small
    (mount.path / "file").write_bytes(b"x" * 20 * MIB)
    server.run("volume", "resize", "small", "--size", "10MiB", check=False)
    if server.json("volume", "show", "small")["bytes_limit"] == 10 * MIB:
        with pytest.raises(OSError):
            (mount.path / "more").write_bytes(b"x" * MIB)
    assert (mount.path / "file").read_bytes() == b"x" * 20 * MIB
    server.run("volume", "resize", "small", "--size", "100MiB")
    (mount.path / "more").write_bytes(b"x" * 70 * MIB)
