"""Damage on the server's disk is found, never served; what a power cut leaves behind is recovered."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import re
import shutil
import time

import pytest

from support import harness

MIB = 1 << 20


def data(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def find(server: harness.Server, needle: bytes) -> tuple[pathlib.Path, int]:
    """The pack, and the place in it, where these bytes are stored."""
    for pack in server.packs():
        place = pack.read_bytes().find(needle)
        if place >= 0:
            return pack, place
    raise AssertionError("the bytes are in no pack")


def flip(path: pathlib.Path, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))
        file.flush()
        os.fsync(file.fileno())


def names_place(text: str, pack: pathlib.Path, place: int) -> bool:
    """Whether a line names the pack and a record that begins at most a few MiB before `place`."""
    found = re.findall(rf"{re.escape(str(pack))} at (\d+)", text)
    return any(0 <= place - int(offset) < 5 * MIB for offset in found)


def write_synced(path: pathlib.Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_a_flipped_bit_is_an_error(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount, size: int):
    content = data(size)
    write_synced(own_mount.path / "victim", content)
    write_synced(own_mount.path / "healthy", data(size, 2))
    own_mount.stop()
    server.stop()
    pack, place = find(server, content[size // 2 : size // 2 + 400])
    flip(pack, place + 100)
    server.restart()
    own_mount.start()
    with pytest.raises(OSError) as caught:
        (own_mount.path / "victim").read_bytes()
    assert caught.value.errno == 5
    assert (own_mount.path / "healthy").read_bytes() == data(size, 2)

    inode = (own_mount.path / "victim").stat().st_ino
    lines = [line for line in own_mount.process.log.splitlines() if "ERROR" in line]
    assert any(re.search(rf"\bino={inode}\b", line) for line in lines), f"no log line of the mount names the file: {lines}"
    harness.wait_until(lambda: names_place(server.process.log, pack, place + 100), 10, "a line at the server names the place", 0.1)
    result = server.fsck("vol", "--data")
    assert result.returncode == 4, result.stdout + result.stderr
    assert names_place(result.stdout + result.stderr, pack, place + 100), f"fsck does not name the place: {result.stdout}"
    assert f"inode {inode}" in result.stdout + result.stderr, f"fsck does not name the file: {result.stdout}"
    (own_mount.path / "victim").unlink()
    assert (own_mount.path / "healthy").read_bytes() == data(size, 2)


def test_a_flipped_bit_under_a_running_server(server: harness.Server, own_mount: harness.Mount):
    content = data(200_000)
    write_synced(own_mount.path / "victim", content)
    pack, place = find(server, content[150_000:150_400])
    flip(pack, place)
    own_mount.remount()
    with open(own_mount.path / "victim", "rb") as file:
        assert os.pread(file.fileno(), 16_384, 0) == content[:16_384], "a healthy part of the file reads well"
        with pytest.raises(OSError):  # from inside the damaged block: a read that began earlier may end before it
            os.pread(file.fileno(), 1000, 150_000)
    assert server.fsck("vol", "--data").returncode == 4
    assert server.fsck("vol").returncode == 0, "the metadata are well"


@pytest.mark.parametrize("damage", ["garbage", "zeros", "half-record"])
def test_a_torn_pack_tail_is_recovered(server: harness.Server, own_mount: harness.Mount, damage: str):
    """What a power cut leaves: bytes at the end of a pack that nothing points to."""
    write_synced(own_mount.path / "file", data(2 * MIB))
    server.kill()
    own_mount.process.suspend()
    pack = max((path for path in server.packs()), key=lambda path: path.stat().st_mtime)
    tail = {"garbage": data(5001, 9), "zeros": bytes(8192), "half-record": pack.read_bytes()[64:3064]}[damage]
    with open(pack, "ab") as file:
        file.write(tail)
    server.restart()
    own_mount.process.resume()
    assert (own_mount.path / "file").read_bytes() == data(2 * MIB)
    write_synced(own_mount.path / "new", data(2 * MIB, 3))
    own_mount.remount()
    assert (own_mount.path / "file").read_bytes() == data(2 * MIB)
    assert (own_mount.path / "new").read_bytes() == data(2 * MIB, 3)
    server.assert_clean("vol", "--data")


def test_a_truncated_pack_is_reported(server: harness.Server, own_mount: harness.Mount):
    """Synced bytes that are gone: the server starts, says so, serves the rest."""
    write_synced(own_mount.path / "first", data(MIB))
    write_synced(own_mount.path / "last", data(MIB, 2))
    own_mount.stop()
    server.stop()
    pack, place = find(server, data(MIB, 2)[1000:1400])
    with open(pack, "r+b") as file:
        file.truncate(place + 1000)
    server.restart()
    own_mount.start()
    assert (own_mount.path / "first").read_bytes() == data(MIB)
    with pytest.raises(OSError) as caught:
        (own_mount.path / "last").read_bytes()
    assert caught.value.errno == 5
    assert server.fsck("vol", "--data").returncode == 4
    write_synced(own_mount.path / "after", data(MIB, 3))
    assert (own_mount.path / "after").read_bytes() == data(MIB, 3)


def test_a_pack_that_is_gone(server: harness.Server, own_mount: harness.Mount):
    write_synced(own_mount.path / "file", data(MIB))
    own_mount.stop()
    server.stop()
    pack, _ = find(server, data(MIB)[1000:1400])
    pack.unlink()
    server.restart()
    own_mount.start()
    with pytest.raises(OSError) as caught:
        (own_mount.path / "file").read_bytes()
    assert caught.value.errno == 5
    assert server.fsck("vol", "--data").returncode == 4


def test_repair_leaves_a_clean_volume(server: harness.Server, own_mount: harness.Mount):
    for number in range(20):
        write_synced(own_mount.path / f"file{number}", data(50_000, number))
    assert server.fsck("vol", "--repair").returncode == 0
    for number in range(20):
        assert (own_mount.path / f"file{number}").read_bytes() == data(50_000, number)
    own_mount.stop()
    server.assert_clean("vol", "--data")


def test_kill_of_the_server_loses_nothing_while_its_clients_live(server: harness.Server, own_mount: harness.Mount):
    """Not even what was never synced: the mounts send it again."""
    for number in range(100):
        (own_mount.path / f"file{number}").write_bytes(data(5000 + number, number))
    server.kill()
    server.restart()
    for number in range(100):
        assert (own_mount.path / f"file{number}").read_bytes() == data(5000 + number, number)
    own_mount.remount()
    for number in range(100):
        assert (own_mount.path / f"file{number}").read_bytes() == data(5000 + number, number)
    server.assert_clean("vol", "--data")


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_fsync_flushes_bytes_and_then_what_points_to_them(server: harness.Server, own_mount: harness.Mount):
    """What no kill can show, because the machine goes on: fsync is answered after the server's disk has everything."""
    descriptor = os.open(own_mount.path / "file", os.O_RDWR | os.O_CREAT)
    trace = server.lab.root / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=openat,pwrite64,pwritev,fsync,fdatasync", "-o", str(trace), "-p", str(server.pid)]
    tracer = harness.Process(server.lab, "strace", command)
    tracer.wait_for("attached")
    try:
        os.write(descriptor, data(5000))
        os.fsync(descriptor)
        # Nothing is waited for here: what is in the trace by now was done before the answer.
        calls = trace.read_text(encoding="utf-8", errors="replace").splitlines()
        os.write(descriptor, data(5000))
        os.fsync(descriptor)
        calls_of_second = trace.read_text(encoding="utf-8", errors="replace").splitlines()[len(calls) :]
    finally:
        tracer.stop()
        os.close(descriptor)
    written = max(index for index, call in enumerate(calls) if "pwritev(" in call and ".pack" in call)
    flushed = [index for index, call in enumerate(calls) if "fdatasync(" in call and ".pack>" in call and index > written]
    assert flushed, f"the pack was not flushed: {calls}"
    recorded = [index for index, call in enumerate(calls) if "fdatasync(" in call and "meta.redb>" in call]
    assert recorded and recorded[-1] > flushed[0], f"the metadata were not flushed after the bytes: {calls}"
    made = [index for index, call in enumerate(calls) if "O_CREAT" in call and ".pack" in call]
    if made:
        folder = [index for index, call in enumerate(calls) if "sync(" in call and call.rstrip().endswith("= 0") and "/packs>" in call]
        assert folder and made[-1] < folder[-1] < recorded[-1], f"the entry of the new pack was not flushed: {calls}"
    # Few bytes in a pack that is not new go to the log, with what points to them.
    places = [next((at for at, call in enumerate(calls_of_second) if all(part in call for part in parts)), -1)
              for parts in (("pwritev(", ".pack"), ("pwrite64(", "meta.log"), ("fdatasync(", "meta.log>"))]
    assert -1 < places[0] < places[1] < places[2], f"the log was not flushed: {calls_of_second}"


def test_unsynced_work_is_safe_after_a_few_seconds(server: harness.Server, own_mount: harness.Mount):
    """Without fsync, a mount that is killed loses at most what is younger than about a second."""
    (own_mount.path / "dir").mkdir()
    for number in range(30):
        (own_mount.path / "dir" / f"file{number}").write_bytes(data(3000, number))
    held = os.open(own_mount.path / "held", os.O_WRONLY | os.O_CREAT)
    os.write(held, data(100_000))
    time.sleep(4)
    own_mount.process.kill()
    server.kill()
    own_mount.detach()
    with contextlib.suppress(OSError):
        os.close(held)
    server.restart()
    own_mount.start()
    for number in range(30):
        assert (own_mount.path / "dir" / f"file{number}").read_bytes() == data(3000, number)
    assert (own_mount.path / "held").read_bytes() == data(100_000)


def test_stopping_in_good_order_loses_nothing(lab: harness.Lab):
    mount = lab.dev(data=lab.root / "kept")
    (mount.path / "file").write_bytes(data(10 * MIB))
    (mount.path / "dir").mkdir()
    import signal

    assert mount.stop(signal.SIGINT) == 0
    mount.start()
    assert (mount.path / "file").read_bytes() == data(10 * MIB)
    (mount.path / "file2").write_bytes(b"second run")
    assert mount.stop(signal.SIGTERM) == 0
    mount.start()
    assert (mount.path / "file2").read_bytes() == b"second run" and (mount.path / "dir").is_dir()
