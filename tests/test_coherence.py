"""Readers beside writers: what the kernel keeps of a file while its mount gives a lease back, takes a write in or is told of a node.

Each test does many rounds, because what it looks for depends on who comes first by microseconds.
"""

from __future__ import annotations

import mmap
import os
import pathlib
import random
import time

import pytest

from support import helpers


def until(moment: float) -> None:
    while time.monotonic() < moment:
        pass


@pytest.mark.limit(240)
def test_a_write_that_a_recall_overtakes_is_seen(two_mounts):
    """Two writers of one place and a reader beside each: when all have ended, both mounts have the same bytes."""

    def write(path: pathlib.Path, begin: float, tag: bytes) -> None:
        source = random.Random(tag)
        with helpers.opened(path, os.O_RDWR) as file:
            until(begin)
            for number in range(3):
                os.pwrite(file, (tag + b"%d" % number) * 8, 1000)
                time.sleep(source.random() * 0.003)

    def read(path: pathlib.Path, begin: float) -> None:
        with helpers.opened(path, os.O_RDONLY) as file:
            until(begin)
            while time.monotonic() < begin + 0.06:
                os.pread(file, 16, 1000)

    for number in range(250):
        paths = [mount / f"file{number}" for mount in two_mounts]
        paths[0].write_bytes(bytes(8192))
        begin = time.monotonic() + 0.02
        helpers.at_once(
            lambda: write(paths[0], begin, b"A"), lambda: write(paths[1], begin, b"B"),
            lambda: read(paths[0], begin), lambda: read(paths[1], begin),
        )
        one, other = (path.read_bytes() for path in paths)
        assert one == other, f"round {number}: {one[1000:1016]} here, {other[1000:1016]} there"


@pytest.mark.limit(240)
def test_a_change_is_seen_by_who_looked_the_file_up_meanwhile(two_mounts):
    """The answer to a first look-up is on its way to the kernel while the lease behind it is recalled."""
    first, second = two_mounts

    def look(path: pathlib.Path, begin: float) -> None:
        until(begin)
        path.stat()

    for number in range(400):
        with helpers.opened(first / f"file{number}", mode=0o600) as file:
            begin = time.monotonic() + 0.004

            def change() -> None:
                until(begin + number % 20 * 0.00005)
                os.fchmod(file, 0o644)
                os.write(file, b"x" * 100)

            helpers.at_once(change, lambda: look(second / f"file{number}", begin))
            found = (second / f"file{number}").stat()
            assert (found.st_size, found.st_mode & 0o777) == (100, 0o644), f"round {number}"


def test_a_mapped_page_is_written_before_another_mount_may_write(two_mounts):
    """What one mount has synced is not overwritten by another's page from before."""
    first, second = two_mounts
    for number in range(20):
        one, two = ((first, second) if number % 2 else (second, first))
        name = f"file{number}"
        with helpers.opened(one / name) as file:
            os.pwrite(file, bytes(8192), 0)
            os.fsync(file)
            with helpers.opened(two / name, os.O_RDWR) as mapped, mmap.mmap(mapped, 8192) as memory:
                memory[100:101] = b"B"
                os.pwrite(file, b"AAAA", 200)
                os.fsync(file)
                memory.flush()
                for mount in two_mounts:
                    data = (mount / name).read_bytes()
                    assert (data[100:101], data[200:204]) == (b"B", b"AAAA"), f"round {number}, {mount.name}"


def test_a_mapped_change_is_seen_by_who_reads_the_file_first(two_mounts):
    """Programs need not sync a mapping for others who come to the file."""
    first, second = two_mounts
    for number in range(20):
        one, two = ((first, second) if number % 2 else (second, first))
        with helpers.opened(one / f"file{number}") as file:
            os.pwrite(file, bytes(8192), 0)
            with mmap.mmap(file, 8192) as memory:
                memory[300:301] = b"C"
                assert (two / f"file{number}").read_bytes()[300:301] == b"C", f"round {number}"
