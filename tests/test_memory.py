"""A mount takes no more memory than it may, whatever it is asked to do."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random

import pytest

from support import harness
from support.helpers import random_bytes

MIB = 1 << 20


def stats(lab: harness.Lab, mount: harness.Mount) -> dict:
    return json.loads(lab.run("stats", str(mount.path), "--json").stdout)


def peak(pid: int) -> int:
    """Highest resident size that a process ever had, in bytes, as the kernel keeps it."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@contextlib.contextmanager
def memory_group(limit: int):
    """A control group with so many bytes of memory; what puts a process into it."""
    groups = ((pathlib.Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (pathlib.Path("/sys/fs/cgroup"), "memory.max"))
    for root, name in groups:
        # Elsewhere than in a control file system a file of that name would be made, and limit nothing.
        if not (root / "cgroup.procs").exists():
            continue
        group = root / f"cairn-test-{os.getpid()}-{limit}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            with open(group / name, "r+", encoding="ascii") as control:
                control.write(str(limit))
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


@pytest.mark.limit(300)
def test_every_workload_fits_a_gibibyte(lab: harness.Lab):
    """With the settings that a mount has by itself, the memory cache as large as a gibibyte allows."""
    limit = 1024 * MIB
    server = lab.server()
    server.create_volume("vol")
    with memory_group(limit) as prefix:
        directory = lab.new_path("mnt")
        arguments = ["mount", "vol", str(directory), "--server", server.address, "--foreground", "--cache-size", "4GiB"]
        mount = harness.Mount(lab, directory, arguments, prefix=prefix)
        lab.owners.append(mount)
        found = {}

        def note(workload: str, again: bool) -> None:
            found[workload] = peak(mount.pid)
            if again:
                mount.remount()

        content = random_bytes(16 * MIB)
        with open(directory / "large", "wb") as file:
            for _ in range(48):
                file.write(content)
            os.fsync(file.fileno())
        note("large write", again=True)
        with open(directory / "large", "rb") as file:
            while piece := file.read(len(content)):
                assert piece == content
        note("large read", again=True)
        source = random.Random(1)
        with open(directory / "large", "r+b") as file:
            for _ in range(2000):
                file.seek(source.randrange(48 * 16 * MIB - 4096))
                file.write(content[:4096])
        note("random writes", again=True)
        small = content[:4096]
        for number in range(5000):
            if number % 500 == 0:
                (directory / f"{number}").mkdir()
            (directory / f"{number // 500 * 500}" / f"{number}").write_bytes(small)
        note("small files written", again=True)
        for number in range(5000):
            assert (directory / f"{number // 500 * 500}" / f"{number}").read_bytes() == small
        note("small files read", again=False)
        mount.stop_orderly()
    assert max(found.values()) <= limit * 3 // 4, {name: f"{bytes_ // MIB} MiB" for name, bytes_ in found.items()}
