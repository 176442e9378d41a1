"""Reading ahead: the next file of a series, several streams of one file, and a mount that has little memory."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pathlib
import threading

import pytest

import harness
from helpers import random_bytes

MIB = 1 << 20


def stats(lab: harness.Lab, mount: harness.Mount) -> dict:
    return json.loads(lab.run("stats", str(mount.path), "--json").stdout)


def test_the_next_file_of_a_series_is_begun(lab: harness.Lab, own_mount: harness.Mount):
    content = random_bytes(20 * MIB)
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    for name in names:
        (own_mount.path / name).write_bytes(content)
    own_mount.remount()
    assert (own_mount.path / names[0]).read_bytes() == content
    harness.wait_until(
        lambda: stats(lab, own_mount)["bytes_fetched"] >= 36 * MIB, 20, "the beginning of the second file is fetched"
    )
    assert stats(lab, own_mount)["bytes_fetched"] < 45 * MIB, "the third is not begun"
    assert (own_mount.path / names[1]).read_bytes() == content


@pytest.mark.parametrize("mapped", [False, True])
def test_streams_of_one_file_are_read_ahead_of_each(lab: harness.Lab, own_mount: harness.Mount, mapped: bool):
    streams, part = 4, 8 * MIB
    content = random_bytes(streams * part)
    path = own_mount.path / "file"
    path.write_bytes(content)
    own_mount.remount()
    wrong: list[int] = []
    with open(path, "rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

        def read(stream: int) -> None:
            for offset in range(stream * part, (stream + 1) * part, 64 * 1024):
                got = view[offset : offset + 65_536] if mapped else os.pread(file.fileno(), 65_536, offset)
                if got != content[offset : offset + 65_536]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(stream,)) for stream in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        view.close()
    assert wrong == []
    counted = stats(lab, own_mount)
    assert counted["bytes_read_ahead"] >= len(content) // 4
    assert counted["bytes_fetched"] <= len(content) + streams * MIB, "nothing is fetched twice"


@contextlib.contextmanager
def memory_group(limit: int):
    """A control group with so many bytes of memory; what puts a process into it."""
    groups = ((pathlib.Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (pathlib.Path("/sys/fs/cgroup"), "memory.max"))
    for root, name in groups:
        group = root / f"cairn-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(str(limit))
        except OSError:
            group.rmdir()
            continue
        try:
            yield ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"')
        finally:
            harness.wait_until(lambda: not (group / "cgroup.procs").read_text(), 30, "the group is empty")
            group.rmdir()
        return
    pytest.skip("no memory control group can be made here")


def test_a_mount_stays_within_its_control_group(lab: harness.Lab):
    """With a cache that is asked to be larger than the memory there is."""
    limit = 200 * MIB
    server = lab.server()
    server.create_volume("vol")
    with memory_group(limit) as prefix:
        directory = lab.new_path("mnt")
        arguments = ["mount", "vol", str(directory), "--server", server.address, "--foreground", "--cache-size", "2GiB"]
        mount = harness.Mount(lab, directory, arguments, prefix=prefix)
        lab.owners.append(mount)
        content = random_bytes(16 * MIB)
        most = 0
        with open(directory / "file", "wb") as file:
            for _ in range(20):
                file.write(content)
                most = max(most, harness.resident_bytes(mount.pid))
        mount.remount()
        with open(directory / "file", "rb") as file:
            while piece := file.read(len(content)):
                assert piece == content
                most = max(most, harness.resident_bytes(mount.pid))
        assert "is limited to" in mount.process.log
        assert stats(lab, mount)["cached_bytes"] <= limit // 4
        assert most <= limit * 3 // 4, f"{most / MIB:.0f} MiB resident"
        mount.stop_orderly()
