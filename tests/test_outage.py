"""The server restarts, stays away or has no room left: pauses, errors after the limit, and recovery."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from support import harness

AWAY = (errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ECONNREFUSED)


class Load:
    """Threads that write, read back and list until stopped; keeps the errors they saw."""

    def __init__(self, root: pathlib.Path, threads: int = 3):
        self.root = root
        self.errors: list[BaseException] = []
        self.done = 0
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(index,)) for index in range(threads)]
        for thread in self.threads:
            thread.start()

    def work(self, me: int) -> None:
        source = random.Random(me)
        try:
            while not self.stopping.is_set():
                path = self.root / f"load-{me}-{source.randrange(40)}"
                content = source.randbytes(source.choice([10, 4096, 70_000]))
                path.write_bytes(content)
                assert path.read_bytes() == content
                with open(path, "r+b") as file:
                    os.fsync(file.fileno())
                if source.random() < 0.2:
                    path.unlink()
                if source.random() < 0.1:
                    os.listdir(self.root)
                self.done += 1
        except BaseException as error:  # noqa: BLE001
            self.errors.append(error)

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.limit(200)
@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_mounts_ride_out_a_restart(lab: harness.Lab, server: harness.Server, how: str):
    mounts = [lab.mount(server, "vol", name=name) for name in ("a", "b")]
    loads = [Load(mount.path / ".", 2) for mount in mounts[:1]]
    (mounts[1].path / "other").mkdir()
    loads.append(Load(mounts[1].path / "other", 2))
    try:
        for _ in range(4):
            time.sleep(0.7)
            if how == "kill":
                server.kill()
            else:
                assert server.stop() == 0
            time.sleep(0.3)
            server.restart()
            before = sum(load.done for load in loads)
            harness.wait_until(
                lambda before=before: sum(load.done for load in loads) > before + 5 or any(load.errors for load in loads), 30, "work goes on"
            )
    finally:
        for load in loads:
            load.stop()
    assert [load.errors for load in loads] == [[], []]
    server.assert_clean("vol", "--data")


@pytest.mark.limit(200)
def test_a_long_read_across_a_restart(server: harness.Server, own_mount: harness.Mount):
    content = random.Random(4).randbytes(64 << 20)
    (own_mount.path / "large").write_bytes(content)
    own_mount.remount()
    with open(own_mount.path / "large", "rb", buffering=0) as file:
        parts = [file.read(8 << 20)]
        server.kill()
        server.restart()
        while part := file.read(8 << 20):
            parts.append(part)
    assert b"".join(parts) == content


@pytest.mark.limit(120)
def test_a_server_that_stays_away(lab: harness.Lab, server: harness.Server):
    """Errors after the limit, no hanging for ever; and the mount works again when the server is back."""
    mount = lab.mount(server, "vol", "--server-timeout", "3s")
    (mount.path / "file").write_bytes(b"before")
    with open(mount.path / "file", "rb") as file:
        os.fsync(file.fileno())
    server.kill()
    started = time.monotonic()
    with pytest.raises(OSError) as caught:
        (mount.path / "new").write_bytes(b"x")
        with open(mount.path / "new", "rb") as file:
            os.fsync(file.fileno())
    waited = time.monotonic() - started
    assert caught.value.errno in AWAY, caught.value
    assert waited < 15, f"the error came after {waited:.0f} s, the limit is 3 s"
    assert mount.process.alive()
    server.restart()
    harness.wait_until(lambda: works(mount.path), 30, "the mount works again", 0.3)
    assert (mount.path / "file").read_bytes() == b"before"
    server.assert_clean("vol", "--data")


def works(root: pathlib.Path) -> bool:
    try:
        (root / "probe").write_bytes(b"works")
        with open(root / "probe", "rb") as file:
            os.fsync(file.fileno())
        return (root / "probe").read_bytes() == b"works"
    except OSError:
        return False


@pytest.mark.limit(120)
def test_a_stopped_server(lab: harness.Lab, server: harness.Server):
    """A server that neither answers nor closes its connections (SIGSTOP) is an absent server."""
    mount = lab.mount(server, "vol", "--server-timeout", "3s")
    (mount.path / "file").write_bytes(b"before")
    server.process.suspend()
    started = time.monotonic()
    with pytest.raises(OSError):
        (mount.path / "new").write_bytes(b"x")
        with open(mount.path / "new", "rb") as file:
            os.fsync(file.fileno())
    assert time.monotonic() - started < 30
    server.process.resume()
    harness.wait_until(lambda: works(mount.path), 30, "the mount works again", 0.3)


@pytest.mark.limit(120)
def test_umount_while_the_server_is_away(lab: harness.Lab, server: harness.Server):
    mount = lab.mount(server, "vol", "--server-timeout", "3s")
    (mount.path / "file").write_bytes(b"x")
    server.kill()
    mount.process.send(signal.SIGTERM)
    mount.process.popen.wait(60)
    harness.wait_until(lambda: not harness.is_mounted(mount.path), 10, "it is unmounted")
    server.restart()
    mount.start()
    assert works(mount.path)


@pytest.mark.limit(120)
def test_waiting_programs_can_be_killed(lab: harness.Lab, server: harness.Server):
    mount = lab.mount(server, "vol", "--server-timeout", "60s")
    server.kill()
    reader = subprocess.Popen([sys.executable, "-c", "import os, sys; os.mkdir(sys.argv[1])", str(mount.path / "dir")])
    time.sleep(1)
    assert reader.poll() is None, "it should wait for the server"
    reader.kill()
    reader.wait(15)
    server.restart()
    harness.wait_until(lambda: works(mount.path), 20, "the mount works again", 0.3)


@pytest.mark.limit(60)
def test_restarts_of_a_mount(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    for number in range(8):
        (own_mount.path / f"file{number}").write_text(str(number))
        own_mount.remount()
        assert (own_mount.path / f"file{number}").read_text() == str(number)
    assert len(server.json("status")["sessions"]) <= 2, "sessions of mounts that have left in good order stay behind"


@pytest.mark.limit(60)
def test_a_killed_dev_starts_again_at_once(lab: harness.Lab):
    """Server and mount died together: nobody can come back, so nobody is waited for."""
    mount = lab.dev()
    for _ in range(3):
        with open(mount.path / "file", "wb", buffering=0) as file:
            file.write(b"synced")
            os.fsync(file.fileno())
        mount.kill()
        started = time.monotonic()
        mount.start()
        assert (mount.path / "file").read_bytes() == b"synced"
        waited = time.monotonic() - started
        assert waited < 3, f"it took {waited:.1f} s to be back"


@pytest.mark.limit(60)
def test_a_killed_mount_is_waited_for_by_nobody(lab: harness.Lab, server: harness.Server):
    """The kernel tells the server that the process at the other end of a Unix socket is no more: leases and locks are free."""
    import fcntl

    first, second = (lab.mount(server, "vol", name=name) for name in ("a", "b"))
    held = os.open(first.path / "file", os.O_RDWR | os.O_CREAT)
    os.write(held, b"synced")
    os.fsync(held)
    fcntl.flock(held, fcntl.LOCK_EX)
    first.kill()
    with contextlib.suppress(OSError):
        os.close(held)
    started = time.monotonic()
    with open(second.path / "file", "r+b", buffering=0) as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        assert file.read() == b"synced"
        file.write(b", and taken over")
        os.fsync(file.fileno())
    waited = time.monotonic() - started
    assert waited < 3, f"the other had to wait {waited:.1f} s"
    assert len(server.json("status")["sessions"]) == 1
    # After a restart of the server nobody waits for it either.
    second.kill()
    server.kill()
    server.restart()
    started = time.monotonic()
    first.start()
    assert (first.path / "file").read_bytes() == b"synced, and taken over"
    assert time.monotonic() - started < 3


@pytest.fixture
def small_disk(lab: harness.Lab):
    """A file system of 128 MiB for the data of a server."""
    path = lab.new_path("disk")
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m,mode=755", "tmpfs", str(path)], check=True)
    yield path
    for owner in lab.owners:
        if isinstance(owner, harness.Server):
            owner.kill()
    subprocess.run(["umount", "-l", str(path)], check=False)


def fill(root: pathlib.Path, sync_each: bool) -> tuple[dict[str, bytes], OSError]:
    """Writes files until there is an error; those that were synced, and the error."""
    source = random.Random(7)
    synced: dict[str, bytes] = {}
    written: dict[str, bytes] = {}
    for number in range(1000):
        name, content = f"fill{number}", source.randbytes(source.choice([100, 5000, 700_000, 3_000_000]))
        try:
            descriptor = os.open(root / name, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                done = 0
                while done < len(content):  # the write before the one that fails may be a short one
                    done += os.write(descriptor, content[done:])
                written[name] = content
                if sync_each or number % 10 == 9:
                    os.fsync(descriptor)
                    synced[name] = content
            finally:
                os.close(descriptor)
        except OSError as error:
            return synced if sync_each else written, error
    raise AssertionError("a disk of 128 MiB took everything")


@pytest.mark.limit(120)
@pytest.mark.parametrize("sync_each", [True, False], ids=["synced", "buffered"])
def test_a_full_disk_at_the_server(lab: harness.Lab, small_disk: pathlib.Path, sync_each: bool):
    """ENOSPC for the writer, nothing that was acknowledged is lost, and it goes on when there is room again."""
    server = lab.server(data=small_disk / "data")
    server.create_volume("vol", "10GiB")
    mount = lab.mount(server, "vol")
    (mount.path / "dir").mkdir()
    kept, error = fill(mount.path, sync_each)
    assert error.errno == errno.ENOSPC, error
    assert sum(map(len, kept.values())) > 60 << 20, "most of the disk can be used"
    os.sync()
    for name, content in kept.items():
        assert (mount.path / name).read_bytes() == content, name
    # Full is full, again and again, but reading, listing and deleting go on; nothing else breaks.
    for number in range(5):
        with pytest.raises(OSError) as caught:
            with open(mount.path / f"more{number}", "wb") as file:
                file.write(random.Random(number).randbytes(4 << 20))
                file.flush()
                os.fsync(file.fileno())
        assert caught.value.errno == errno.ENOSPC
    assert set(kept) <= set(os.listdir(mount.path))
    # A crash of the server with a full disk.
    server.kill()
    server.restart()
    for name, content in kept.items():
        assert (mount.path / name).read_bytes() == content, name
    # Room comes back.
    for name in list(kept)[::2]:
        (mount.path / name).unlink()
        del kept[name]

    def takes_data() -> bool:
        try:
            with open(mount.path / "afterwards", "wb") as file:
                file.write(b"x" * (8 << 20))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            return False
        return True

    harness.wait_until(takes_data, 30, "there is room again", 0.3)
    mount.remount()
    for name, content in kept.items():
        assert (mount.path / name).read_bytes() == content, name
    assert (mount.path / "afterwards").read_bytes() == b"x" * (8 << 20)
    server.assert_clean("vol", "--data")
