"""The disk cache of a mount: it survives remounts and kills, is bounded, and never gives stale or damaged bytes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest

from support import harness
from support.helpers import random_bytes

MIB = 1 << 20


class Cached:
    """A volume and a mount of it with a disk cache."""

    def __init__(self, lab: harness.Lab, size: str = "1GiB"):
        self.lab = lab
        self.server = lab.server()
        self.server.create_volume("vol")
        self.cache = lab.new_path("cache")
        self.flags = ("--cache-dir", str(self.cache), "--disk-cache-size", size)
        self.mount = lab.mount(self.server, "vol", *self.flags)

    @property
    def path(self) -> pathlib.Path:
        return self.mount.path

    def stats(self) -> dict:
        return json.loads(self.lab.run("stats", str(self.path), "--json").stdout)

    def fill(self) -> None:
        """Remounts and warms everything: it is in the disk cache afterwards and nowhere else here."""
        self.mount.remount()
        self.lab.run("warm", str(self.path))

    def data_files(self) -> list[pathlib.Path]:
        return sorted(self.cache.glob("*/*.data"))


@pytest.fixture
def cached(lab: harness.Lab) -> Cached:
    return Cached(lab)


def write_tree(root: pathlib.Path) -> dict[str, bytes]:
    contents = {"large": random_bytes(9 * MIB + 12_345), "empty": b"", "one": b"x"}
    contents |= {f"small/{number:03}": random_bytes(number * 97, number) for number in range(200)}
    (root / "small").mkdir()
    for name, content in contents.items():
        (root / name).write_bytes(content)
    with open(root / "sparse", "wb") as file:
        file.seek(3 * MIB)
        file.write(b"end")
    contents["sparse"] = bytes(3 * MIB) + b"end"
    return contents


def check_tree(root: pathlib.Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        assert (root / name).read_bytes() == content, name


def test_what_was_read_once_is_not_fetched_after_a_remount(cached: Cached):
    contents = write_tree(cached.path)
    cached.mount.remount()
    check_tree(cached.path, contents)
    harness.wait_until(lambda: cached.stats()["disk_cache_bytes_written"] >= 9 * MIB, 30, "the cache is written")
    cached.mount.remount()
    check_tree(cached.path, contents)
    stats = cached.stats()
    assert stats["bytes_fetched"] == 0
    assert stats["disk_cache_bytes_read"] >= 9 * MIB
    assert stats["disk_cache_damaged"] == 0


def test_the_cache_is_nobody_elses_to_read(cached: Cached):
    (cached.path / "secret").write_bytes(random_bytes(MIB))
    (cached.path / "secret").chmod(0o600)
    # As an earlier version left it.
    cached.mount.stop()
    for folder in cached.cache.iterdir():
        if folder.is_dir():
            folder.chmod(0o755)
    cached.mount.start()
    cached.fill()
    assert cached.data_files()
    for path in [cached.cache, *cached.cache.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, (path, oct(path.stat().st_mode))


def test_warm_brings_everything_into_the_cache(cached: Cached):
    contents = write_tree(cached.path)
    cached.mount.remount()
    told = cached.lab.run("warm", str(cached.path / "large"), str(cached.path / "small")).stdout
    assert "cached" in told
    assert cached.lab.run("warm", str(cached.path)).returncode == 0
    cached.mount.remount()
    check_tree(cached.path, contents)
    assert cached.stats()["bytes_fetched"] == 0


def test_warm_without_a_disk_cache_fills_the_kernels(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    (own_mount.path / "file").write_bytes(random_bytes(2 * MIB))
    own_mount.remount()
    lab.run("warm", str(own_mount.path))
    before = json.loads(lab.run("stats", str(own_mount.path), "--json").stdout)["bytes_read"]
    assert before >= 2 * MIB
    assert (own_mount.path / "file").read_bytes() == random_bytes(2 * MIB)
    assert json.loads(lab.run("stats", str(own_mount.path), "--json").stdout)["bytes_read"] == before


def test_warm_says_where_it_does_not_belong(lab: harness.Lab):
    (lab.root / "file").write_bytes(b"x")
    result = lab.run("warm", str(lab.root / "file"), check=False)
    assert result.returncode == 1 and "not in a Cairn mount" in result.stderr


def test_damage_is_noticed_and_fetched_again(cached: Cached):
    contents = write_tree(cached.path)
    cached.fill()
    cached.mount.stop_orderly()
    for path in cached.data_files():
        content = bytearray(path.read_bytes())
        for place in range(1000, len(content), 300_000):
            content[place] ^= 0x40
        path.write_bytes(content)
    cached.mount.start()
    check_tree(cached.path, contents)
    assert cached.stats()["disk_cache_damaged"] >= 10


def test_a_torn_cache_is_used_as_far_as_it_goes(cached: Cached):
    contents = write_tree(cached.path)
    cached.fill()
    cached.mount.stop_orderly()
    for path in cached.data_files():
        os.truncate(path, path.stat().st_size * 2 // 3)
    for path in cached.cache.glob("*/*.map"):
        os.truncate(path, path.stat().st_size - 5)
    cached.mount.start()
    check_tree(cached.path, contents)
    stats = cached.stats()
    assert stats["disk_cache_hits"] > 0 and stats["bytes_fetched"] > 0


def test_a_killed_mount_leaves_a_usable_cache(cached: Cached):
    contents = write_tree(cached.path)
    cached.fill()
    cached.mount.kill()
    cached.mount.start()
    check_tree(cached.path, contents)
    assert cached.stats()["bytes_fetched"] == 0


def test_what_another_mount_writes_is_seen_through_the_cache(cached: Cached):
    path = cached.path / "file"
    path.write_bytes(random_bytes(3 * MIB))
    cached.fill()
    assert path.read_bytes() == random_bytes(3 * MIB)
    other = cached.lab.mount(cached.server, "vol", name="other")
    with open(other.path / "file", "r+b") as file:
        file.seek(MIB + 5)
        file.write(b"changed")
    wanted = bytearray(random_bytes(3 * MIB))
    wanted[MIB + 5 : MIB + 12] = b"changed"
    with open(path, "rb") as file:
        assert file.read() == wanted
    cached.mount.remount()
    assert path.read_bytes() == wanted


def test_the_cache_keeps_its_size(lab: harness.Lab):
    cached = Cached(lab, "24MiB")
    content = random_bytes(10 * MIB)
    for number in range(6):
        (cached.path / f"file{number}").write_bytes(content[number:])
    cached.mount.remount()
    for number in range(6):
        assert (cached.path / f"file{number}").read_bytes() == content[number:]
        stored = sum(path.stat().st_size for path in cached.cache.glob("*/*"))
        assert stored <= 24 * MIB
        assert cached.stats()["disk_cache_bytes"] <= 24 * MIB
    refused = cached.lab.run("warm", str(cached.path), check=False)
    assert refused.returncode == 1 and "--disk-cache-size" in refused.stderr


def test_one_mount_uses_a_cache_directory(cached: Cached):
    again = cached.lab.new_path("again")
    result = cached.lab.run(
        "mount", "vol", str(again), "--server", cached.server.address, "--foreground", *cached.flags, check=False
    )
    assert result.returncode == 7
    assert f"in use by the mount at {cached.path}" in result.stderr and "of its own" in result.stderr
    assert not harness.is_mounted(again)
    cached.mount.stop_orderly()
    cached.mount.start()


def test_show_and_evict(cached: Cached):
    write_tree(cached.path)
    cached.fill()
    shown = json.loads(cached.lab.run("cache", "show", str(cached.cache), "--json").stdout)
    assert str(cached.path) in shown["used_by"]
    assert shown["volumes"][0]["content_bytes"] >= 9 * MIB
    assert "used by the mount" in cached.lab.run("cache", "show", str(cached.cache)).stdout
    refused = cached.lab.run("cache", "evict", str(cached.cache), check=False)
    assert refused.returncode == 1 and "in use by" in refused.stderr
    cached.mount.stop_orderly()
    cached.lab.run("cache", "evict", str(cached.cache))
    assert json.loads(cached.lab.run("cache", "show", str(cached.cache), "--json").stdout)["volumes"] == []
    refused = cached.lab.run("cache", "show", str(cached.server.data), check=False)
    assert refused.returncode == 1 and "no cache directory" in refused.stderr
    cached.mount.start()
    assert (cached.path / "one").read_bytes() == b"x"


def test_a_full_disk_costs_no_read(lab: harness.Lab):
    """The cache's file system is full: reads go on, and the cache leaves space free where there is little."""
    disk = lab.new_path("disk")
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "cache", str(disk)], check=True, timeout=30)
    try:
        server = lab.server()
        server.create_volume("vol")
        mount = lab.mount(server, "vol", "--cache-dir", str(disk / "cache"), "--disk-cache-size", "1GiB")
        content = random_bytes(20 * MIB)
        for number in range(4):
            (mount.path / f"file{number}").write_bytes(content[number:])
        mount.remount()
        for number in range(4):
            assert (mount.path / f"file{number}").read_bytes() == content[number:]
        about = os.statvfs(disk)
        assert about.f_bavail * about.f_frsize >= 2 * MIB - 64 * 1024
        mount.stop_orderly()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False, timeout=30)
