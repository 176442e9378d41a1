"""Emulation profiles: what is measured on a mount is what the table says, to within a tenth, and every quirk has its switch.

The expected figures come from the program itself (`cairn profiles --json`), and docs/profiles.md must agree with them.
Times are medians; a machine that is busy with something else gets more attempts, never a wider bound.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import pathlib
import random
import re
import statistics
import subprocess
import time
from collections.abc import Callable

import pytest

from support import harness, helpers

KIB, MIB = 1 << 10, 1 << 20
EMULATED = ("runpod-standard", "runpod-high-performance", "moosefs")
TOLERANCE = 0.10
ATTEMPTS_LIMIT = 45.0
SOURCE = "mfs#localhost:9421"
POOL = 2330 << 40


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(us|ms|s)", text).groups()
    return int(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMGT]B)", text).groups()
    return int(number) * 1000 ** ("KMGT".index(unit[0]) + 1)


@pytest.fixture
def table(lab: harness.Lab) -> dict[str, dict[str, str]]:
    return json.loads(lab.run("profiles", "--json").stdout)


class TooSlow(Exception):
    """The machine itself does not move bytes so fast at the moment."""


def settles(expected: float, measure: Callable[[], float], what: str) -> None:
    """`measure` must come within a tenth of `expected`, in some attempt."""
    deadline = time.monotonic() + ATTEMPTS_LIMIT
    seen = []
    while True:
        seen.append(measure())
        if abs(seen[-1] / expected - 1) <= TOLERANCE:
            return
        assert time.monotonic() < deadline, f"{what}: {seen}, and the table says {expected}"


def settles_beside(expected: float, measure: Callable[[], float], native: Callable[[], float], what: str) -> None:
    """As `settles`, of bytes a second. TooSlow if a native mount did not do half as much again in any attempt."""
    speeds = []

    def attempt() -> float:
        found = measure()
        speeds.append(native())
        return found

    try:
        settles(expected, attempt, what)
    except AssertionError:
        if max(speeds) < 1.5 * expected:
            raise TooSlow(f"{what}: natively {max(speeds) / 1e6:.0f} MB/s, {expected / 1e6:.0f} are to be shown") from None
        raise


def median_time(operation: Callable[[int], object], count: int = 61) -> float:
    times = []
    for number in range(count):
        begun = time.perf_counter()
        operation(number)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def tail(marks: list[tuple[float, int]]) -> tuple[float, float]:
    """Slope and start of the line through the second half of `marks` (time, bytes so far)."""
    points = marks[len(marks) // 2 :]
    slope, start = statistics.linear_regression([at for at, _ in points], [done for _, done in points])
    return slope, start


def write_out(path: pathlib.Path, length: int) -> list[tuple[float, int]]:
    piece = random.Random(1).randbytes(MIB)
    marks, begun = [], time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for number in range(length // MIB):
            file.write(piece)
            marks.append((time.perf_counter() - begun, (number + 1) * MIB))
    return marks


def read_in(path: pathlib.Path) -> list[tuple[float, int]]:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    buffer = bytearray(MIB)
    marks, done, begun = [], 0, time.perf_counter()
    while count := os.readv(descriptor, [buffer]):
        done += count
        marks.append((time.perf_counter() - begun, done))
    os.close(descriptor)
    return marks


def requests(mount: harness.Mount) -> int:
    """How many requests the mount has served."""
    stats = json.loads(mount.lab.run("stats", str(mount.path), "--json").stdout)
    return sum(count for name, count in stats.items() if name.startswith("fuse_") and name.endswith("_count"))


@pytest.fixture(params=EMULATED)
def emulated(request: pytest.FixtureRequest, lab: harness.Lab, table):
    """Name, row of the table and mount of a profile. Its burst is short, so that a test soon sees the bandwidth."""
    server = lab.server()
    server.create_volume("v", "8GiB", "--profile", f"{request.param},burst=16MB")
    return request.param, table[request.param], lab.mount(server, "v"), server


@pytest.mark.limit(300)
def test_operations_take_the_time_of_the_table(emulated):
    _, row, mount, _ = emulated
    metadata, data = seconds(row["metadata-latency"]), seconds(row["data-latency"])
    top = mount.path
    (top / "file").write_bytes(random.Random(2).randbytes(4 * MIB))
    # A name is never cached, its attributes come with it.
    settles(metadata, lambda: median_time(lambda _: os.stat(top / "file")), "stat")
    # Changes: the kernel also looks for the name first, and asks for the folder's attributes, which the last one changed.
    numbers = iter(range(10**6))

    def for_each_request(operation: Callable[[int], object]) -> float:
        before, count = requests(mount), 61
        took = median_time(operation, count)
        return took / round((requests(mount) - before) / count)

    settles(metadata, lambda: for_each_request(lambda _: os.mkdir(top / f"d{next(numbers)}")), "mkdir")
    settles(metadata, lambda: for_each_request(lambda _: os.symlink("x", top / f"l{next(numbers)}")), "symlink")

    descriptor = os.open(top / "file", os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4096)
    settles(data, lambda: median_time(lambda number: os.preadv(descriptor, [buffer], number * 4096)), "read of 4 KiB")
    os.close(descriptor)

    def close_written() -> float:
        times = []
        for _ in range(41):
            descriptor = os.open(top / "file", os.O_WRONLY)
            os.write(descriptor, b"x")
            begun = time.perf_counter()
            os.close(descriptor)
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    settles(data, close_written, "close after a write")


@pytest.mark.limit(300)
def test_bytes_pass_at_the_bandwidth_of_the_table(emulated, lab: harness.Lab):
    _, row, mount, server = emulated
    write, read = size(row["write-bandwidth"]), size(row["read-bandwidth"])
    native = lab.mount(server, "v", "--profile", "native")

    def both_ways(mount: harness.Mount, write: int, read: int) -> None:
        write_out(native.path / "in", int(0.6 * read))
        (native.path / "native").unlink(missing_ok=True)
        settles_beside(
            write, lambda: tail(write_out(mount.path / "out", int(0.6 * write)))[0],
            lambda: tail(write_out(native.path / "native", int(0.6 * write)))[0], "write",
        )
        settles_beside(
            read, lambda: tail(read_in(mount.path / "in"))[0], lambda: tail(read_in(native.path / "in"))[0], "read"
        )

    # At an eighth, every machine can tell; at the table's figures, one that is not busy with something else.
    slow = f"burst=1MB,write-bandwidth={write // 8},read-bandwidth={read // 8}"
    both_ways(lab.mount(server, "v", "--profile", f"{mount_profile(mount)},{slow}"), write // 8, read // 8)
    try:
        both_ways(mount, write, read)
    except TooSlow as error:
        pytest.skip(str(error))


@pytest.mark.limit(300)
def test_several_streams_share_the_bandwidth(lab: harness.Lab):
    mount = lab.dev("--profile", "runpod-standard,read-bandwidth=50MB,burst=native")
    length = 16 * MIB
    for number in range(2):
        (mount.path / f"{number}").write_bytes(random.Random(number).randbytes(length))
    mount.remount()

    def measure() -> float:
        for number in range(2):
            descriptor = os.open(mount.path / f"{number}", os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        begun = time.perf_counter()
        readers = [
            subprocess.Popen(["cat", str(mount.path / f"{number}")], stdout=subprocess.DEVNULL) for number in range(2)
        ]
        assert [reader.wait(60) for reader in readers] == [0, 0]
        return 2 * length / (time.perf_counter() - begun)

    settles(50e6, measure, "two readers together")


@pytest.mark.limit(300)
def test_a_burst_passes_at_full_speed(lab: harness.Lab, table):
    """What has passed after a time t is the burst and the bandwidth times t."""
    row = table["runpod-standard"]
    # At a bandwidth that every machine exceeds by far.
    bandwidth, burst = 40 * 10**6, size(row["burst"])
    mount = lab.dev("--profile", "runpod-standard,write-bandwidth=40MB")

    def measure() -> float:
        time.sleep(burst / bandwidth)  # the bucket is full again
        slope, start = tail(write_out(mount.path / "out", 400 * MIB)[-150:])
        return start if abs(slope / bandwidth - 1) <= TOLERANCE else 0.0

    settles(burst, measure, "burst")


def mount_profile(mount: harness.Mount) -> str:
    return json.loads(mount.lab.run("stats", str(mount.path), "--json").stdout)["profile"]


def used(server: harness.Server, volume: str) -> int:
    return server.usage(volume)["bytes_used"]


def test_small_files_cost_blocks_and_headers(lab: harness.Lab):
    """Exactly as many files fit as the quota has room for, and the write that goes over fails, although all is buffered."""
    server = lab.server()
    cost, fit = 72 * KIB, 100
    server.create_volume("v", str(fit * cost + 64 * KIB - 1), "--profile", "moosefs,metadata-latency=native,data-latency=native")
    mount = lab.mount(server, "v")
    for number in range(fit):
        (mount.path / f"{number}").write_bytes(b"a")
    with helpers.fails_with(errno.EDQUOT), open(mount.path / "over", "wb", buffering=0) as file:
        file.write(b"a")
    assert sum(path.stat().st_blocks * 512 for path in mount.path.iterdir()) == fit * 512, "du shows the logical size"
    mount.remount()
    assert [(mount.path / f"{number}").read_bytes() for number in range(fit)] == [b"a"] * fit
    assert used(server, "v") == fit * cost
    server.assert_clean("v", "--data")
    # Within its blocks a file grows for nothing; beyond, by a whole one.
    (mount.path / "over").unlink()
    with open(mount.path / "0", "r+b", buffering=0) as file:
        file.write(b"b" * 64 * KIB)
        os.fsync(file.fileno())
        assert used(server, "v") == fit * cost
        with helpers.fails_with(errno.EDQUOT):
            file.write(b"b")
        (mount.path / "1").unlink()
        file.write(b"b")
        os.fsync(file.fileno())
    assert used(server, "v") == fit * cost - cost + 64 * KIB
    for number in (0, *range(2, fit)):
        (mount.path / f"{number}").unlink()
    mount.stop_orderly()
    assert used(server, "v") == 0
    server.assert_clean("v", "--data")


def test_random_files_are_counted_as_the_table_says(lab: harness.Lab):
    server = lab.server()
    server.create_volume("v", "4GiB", "--profile", "moosefs,metadata-latency=native,data-latency=native")
    mount = lab.mount(server, "v")
    randomly = random.Random(3)
    expected = 0
    for number in range(120):
        length = randomly.choice([0, 1, 4096, 65535, 65536, 65537, randomly.randrange(3 * MIB)])
        (mount.path / f"{number}").write_bytes(randomly.randbytes(length))
        expected += -(-length // (64 * KIB)) * 64 * KIB + (8 * KIB if length else 0)
    # Each 64 MiB have a header.
    (mount.path / "large").write_bytes(bytes(65 * MIB))
    expected += 65 * MIB + 2 * 8 * KIB
    mount.stop_orderly()
    assert used(server, "v") == expected
    server.assert_clean("v")
    server.kill()
    server.restart()
    assert used(server, "v") == expected
    assert server.json("volume", "show", "v")["profile"].startswith("moosefs,")


def test_the_profile_of_a_volume_with_content_changes(lab: harness.Lab):
    server = lab.server()
    server.create_volume("v", "1GiB")
    mount = lab.mount(server, "v")
    for number in range(50):
        (mount.path / f"{number}").write_bytes(b"x" * 1000)
    os.sync()
    refused = server.run("volume", "set", "v", "--profile", "moosefs", check=False)
    assert refused.returncode == 6 and "unmount or end it first" in refused.stderr, refused.stderr
    # What does not touch the counting may change under the mount, for the next one.
    assert server.json("volume", "set", "v", "--profile", "moosefs,allocation=native")["profile"] == "moosefs,allocation=native"
    mount.stop_orderly()
    assert used(server, "v") == 50 * 1024
    server.run("volume", "set", "v", "--profile", "moosefs")
    assert used(server, "v") == 50 * 72 * KIB
    server.assert_clean("v")
    mount.start()
    assert len(os.listdir(mount.path)) == 50
    stats = json.loads(lab.run("stats", str(mount.path), "--json").stdout)
    assert stats["profile"] == "moosefs" and stats["profile_delayed_operations"] > 0, stats
    status = server.json("status")
    assert status["volumes"][0]["profile"] == "moosefs" and status["sessions"][0]["profile"] == "moosefs"
    assert re.search(r"^\S+ +v .* moosefs$", server.run("status").stdout, re.MULTILINE)
    mount.stop_orderly()
    server.run("volume", "set", "v", "--profile", "native")
    assert used(server, "v") == 50 * 1024
    server.assert_clean("v")
    mount.start()
    stats = json.loads(lab.run("stats", str(mount.path), "--json").stdout)
    assert stats["profile"] == "native" and "profile_delayed_operations" not in stats, "native has no layer"


def mount_line(path: pathlib.Path) -> list[str]:
    lines = [line.split() for line in pathlib.Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    return next(fields for fields in lines if fields[1] == str(path))


def refuses_chown(mount: harness.Mount) -> bool:
    path = mount.path / "owned"
    path.touch()
    try:
        os.chown(path, 1, 1)
    except OSError as error:
        assert error.errno == errno.EPERM
        return True
    assert (path.stat().st_uid, path.stat().st_gid) == (1, 1)
    return False


def fixes_modes(mount: harness.Mount) -> bool:
    path, folder = mount.path / "file", mount.path / "folder"
    path.touch(mode=0o640)
    path.chmod(0o600)
    folder.mkdir(mode=0o750)
    modes = [found.stat().st_mode & 0o7777 for found in (path, folder)]
    assert modes in ([0o666, 0o777], [0o600, 0o750]), modes
    return modes[0] == 0o666


def shows_the_pool(mount: harness.Mount) -> bool:
    found = os.statvfs(mount.path)
    total = found.f_blocks * found.f_frsize
    assert total == POOL or total <= 1 << 30, total
    return total == POOL


def looks_like_moosefs(mount: harness.Mount) -> bool:
    source, _, kind, options, *_ = mount_line(mount.path)
    source = source.replace(r"\043", "#")
    if (source, kind) == ("cairn:v", "fuse.cairn"):
        return False
    assert (source, kind) == (SOURCE, "fuse")
    assert {"rw", "nosuid", "nodev", "relatime", "user_id=0", "group_id=0", "allow_other"} <= set(options.split(","))
    return True


def forgets_names(mount: harness.Mount) -> bool:
    """Whether a name is asked for again each time."""
    path = mount.path / "name"
    path.touch()

    def lookups() -> int:
        return json.loads(mount.lab.run("stats", str(mount.path), "--json").stdout).get("fuse_lookup_count", 0)

    path.stat()
    before = lookups()
    for _ in range(10):
        path.stat()
    return lookups() - before >= 10


def counts_blocks(mount: harness.Mount) -> bool:
    path = mount.path / "small"
    server = next(owner for owner in mount.lab.owners if isinstance(owner, harness.Server))
    before = used(server, "v")
    with open(path, "wb", buffering=0) as file:
        file.write(b"x")
        os.fsync(file.fileno())
    cost = used(server, "v") - before
    assert cost in (512, 72 * KIB)
    return cost != 512


QUIRKS: dict[str, Callable[[harness.Mount], bool]] = {
    "chown": refuses_chown,
    "modes": fixes_modes,
    "df": shows_the_pool,
    "source": looks_like_moosefs,
    "caching": forgets_names,
    "allocation": counts_blocks,
}


@pytest.mark.parametrize("profile", EMULATED)
def test_a_profile_has_the_quirks_of_the_table(lab: harness.Lab, table, profile: str):
    server = lab.server()
    server.create_volume("v", "1GiB", "--profile", profile)
    mount = lab.mount(server, "v")
    for quirk, shows in QUIRKS.items():
        assert shows(mount) == (table[profile][quirk] != "native"), quirk
    assert lab.run("umount", str(mount.path)).returncode == 0, "cairn umount knows its own mount"


@pytest.mark.parametrize("quirk", QUIRKS)
def test_each_quirk_has_its_switch(lab: harness.Lab, table, quirk: str):
    server = lab.server()
    server.create_volume("v", "1GiB", "--profile", f"native,{quirk}={table['runpod-standard'][quirk]}")
    mount = lab.mount(server, "v")
    assert {name for name, shows in QUIRKS.items() if shows(mount)} == {quirk}
    mount.stop_orderly()
    server.run("volume", "delete", "v", "--yes")
    server.create_volume("v", "1GiB", "--profile", f"runpod-standard,{quirk}=native")
    mount.start()
    assert {name for name, shows in QUIRKS.items() if not shows(mount)} == {quirk}


def test_a_mount_may_have_another_profile(lab: harness.Lab):
    server = lab.server()
    server.create_volume("v", "1GiB", "--profile", "runpod-standard")
    own = lab.mount(server, "v")
    native = lab.mount(server, "v", "--profile", "native")
    (native.path / "file").touch(mode=0o640)
    (native.path / "file").chmod(0o640)
    assert (native.path / "file").stat().st_mode & 0o777 == 0o640
    assert (own.path / "file").stat().st_mode & 0o777 == 0o666
    assert not looks_like_moosefs(native) and looks_like_moosefs(own)
    assert counts_blocks(native), "the quota counts the same for all"
    assert "quota of v still follows" in native.process.log


def test_options_of_mount_name_a_profile(lab: harness.Lab):
    """As /etc/fstab gives it to the helper: a comma would end the option, so parts are joined by `+`."""
    server = lab.server()
    server.create_volume("v", "1GiB")
    helper, directory = lab.root / "mount.fuse.cairn", lab.new_path("mnt")
    helper.symlink_to(harness.binary())
    directory.mkdir()
    options = f"server={server.address},log_file={lab.root}/helper.log,profile=moosefs+source=native"
    lab.tell(f"mount {directory}")
    try:
        subprocess.run([str(helper), "v", str(directory), "-o", options], check=True, timeout=60, env=lab.environment())
        for session in server.json("status")["sessions"]:
            lab.tell(f"process {session['pid']}")
        stats = json.loads(lab.run("stats", str(directory), "--json").stdout)
        assert stats["profile"] == "moosefs,source=native"
    finally:
        lab.run("umount", str(directory), check=False)


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [("fast", "there is no profile"), ("moosefs,chown=maybe", "refused or native"), ("moosefs,x=1", "no parameter")],
)
def test_a_wrong_profile_is_refused(lab: harness.Lab, profile: str, sentence: str):
    result = lab.run("volume", "create", "v", "--size", "1GiB", "--profile", profile, check=False)
    assert result.returncode == 2 and sentence in result.stderr, result.stderr


def test_the_documented_table_is_the_programs(table):
    text = (harness.ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]
    documented = {row[0]: row[1:5] for row in rows}
    names = ("native", *EMULATED)
    for parameter in table["native"]:
        assert documented[parameter] == [table[name][parameter] for name in names], parameter
