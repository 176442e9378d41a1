"""flock, POSIX record locks and OFD locks: within one mount and across two."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from support import harness, syscalls

HOLDER = """
import fcntl, os, sys
sys.path.insert(0, sys.argv[4])
from support import syscalls
descriptor = os.open(sys.argv[1], os.O_RDWR)
kind = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX}[sys.argv[3]]
record = {"shared": fcntl.F_RDLCK, "exclusive": fcntl.F_WRLCK}[sys.argv[3]]
if sys.argv[2] == "flock":
    fcntl.flock(descriptor, kind)
elif sys.argv[2] == "posix":
    fcntl.lockf(descriptor, kind, 100, 50)
else:
    syscalls.ofd_lock(descriptor, record, 50, 100, wait=True)
print("held", flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process that holds a lock until told to let go."""

    def __init__(self, path: pathlib.Path, family: str, kind: str):
        here = str(pathlib.Path(__file__).parent)
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), family, kind, here], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == b"held\n"

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(20) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


def try_lock(path: pathlib.Path, family: str, kind: str, start: int = 50, length: int = 100) -> bool:
    """Whether the lock is to be had now; gives it back at once."""
    descriptor = os.open(path, os.O_RDWR)
    flag = fcntl.LOCK_SH if kind == "shared" else fcntl.LOCK_EX
    try:
        if family == "flock":
            fcntl.flock(descriptor, flag | fcntl.LOCK_NB)
        elif family == "posix":
            fcntl.lockf(descriptor, flag | fcntl.LOCK_NB, length, start)
        else:
            syscalls.ofd_lock(descriptor, fcntl.F_RDLCK if kind == "shared" else fcntl.F_WRLCK, start, length)
        return True
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EACCES)
        return False
    finally:
        os.close(descriptor)


FAMILIES = ("flock", "posix", "ofd")


@pytest.mark.parametrize("family", FAMILIES)
def test_locks_exclude_across_mounts(two_mounts, family: str):
    first, second = two_mounts
    (first / "file").write_bytes(bytes(1000))
    for kind, shared_free in (("exclusive", False), ("shared", True)):
        holder = Holder(first / "file", family, kind)
        for path in (first / "file", second / "file"):
            assert not try_lock(path, family, "exclusive")
            assert try_lock(path, family, "shared") == shared_free
        holder.release()
        for path in (first / "file", second / "file"):
            assert harness.wait_until(lambda path=path: try_lock(path, family, "exclusive"), 5, "the lock is free")


def test_families_do_not_mix(two_mounts):
    """flock and record locks do not see each other; POSIX and OFD locks do."""
    first, second = two_mounts
    (first / "file").write_bytes(bytes(1000))
    holder = Holder(first / "file", "flock", "exclusive")
    assert try_lock(second / "file", "posix", "exclusive") and try_lock(second / "file", "ofd", "exclusive")
    holder.release()
    holder = Holder(first / "file", "posix", "exclusive")
    assert try_lock(second / "file", "flock", "exclusive")
    assert not try_lock(second / "file", "ofd", "exclusive")
    holder.release()


def test_ranges(two_mounts):
    first, second = two_mounts
    (first / "file").write_bytes(bytes(1000))
    holder = Holder(first / "file", "posix", "exclusive")  # 50 .. 150
    assert try_lock(second / "file", "posix", "exclusive", 0, 50)
    assert try_lock(second / "file", "posix", "exclusive", 150, 0)
    assert not try_lock(second / "file", "posix", "exclusive", 149, 1)
    assert not try_lock(second / "file", "posix", "exclusive", 0, 0)
    holder.release()


def test_getlk_tells_of_the_owner(mount: pathlib.Path):
    (mount / "file").write_bytes(bytes(1000))
    holder = Holder(mount / "file", "posix", "exclusive")
    descriptor = os.open(mount / "file", os.O_RDWR)
    assert syscalls.lock_owner(descriptor, fcntl.F_WRLCK, 0, 0) == (fcntl.F_WRLCK, holder.process.pid)
    holder.release()
    assert syscalls.lock_owner(descriptor, fcntl.F_WRLCK, 0, 0) is None
    os.close(descriptor)


@pytest.mark.parametrize("family", FAMILIES)
def test_waiting_for_a_lock(two_mounts, family: str):
    first, second = two_mounts
    (first / "file").write_bytes(bytes(1000))
    holder = Holder(first / "file", family, "exclusive")
    waiting: list[Holder] = []
    thread = threading.Thread(target=lambda: waiting.append(Holder(second / "file", family, "exclusive")))
    thread.start()
    time.sleep(0.5)
    assert not waiting, "two hold the same lock"
    holder.release()
    thread.join(10)
    assert waiting, "the waiter was never woken"
    waiting[0].release()


@pytest.mark.parametrize("where", ["same mount", "other mount"])
def test_unlocking_wakes_a_waiter_while_the_file_stays_open(two_mounts, where: str):
    first, second = two_mounts
    (first / "file").write_bytes(bytes(1000))
    path = (first if where == "same mount" else second) / "file"
    with open(first / "file", "r+b") as held:
        for kind in ("shared", "exclusive"):
            fcntl.flock(held, fcntl.LOCK_EX)
            waiting: list[Holder] = []
            thread = threading.Thread(target=lambda kind=kind: waiting.append(Holder(path, "flock", kind)))
            thread.start()
            time.sleep(0.3)
            assert not waiting, "two hold the same lock"
            fcntl.flock(held, fcntl.LOCK_UN)
            thread.join(10)
            assert waiting, "the waiter was never woken"
            waiting[0].release()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_holder_lets_go(two_mounts, family: str):
    first, second = two_mounts
    (first / "file").write_bytes(bytes(1000))
    holder = Holder(first / "file", family, "exclusive")
    holder.kill()
    harness.wait_until(lambda: try_lock(second / "file", family, "exclusive"), 5, "the lock of a dead process is free")


def test_a_waiter_can_be_interrupted(mount: pathlib.Path):
    (mount / "file").write_bytes(bytes(1000))
    holder = Holder(mount / "file", "flock", "exclusive")
    code = "import fcntl, os, sys; print('go', flush=True); fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX)"
    waiter = subprocess.Popen([sys.executable, "-c", code, str(mount / "file")], stdout=subprocess.PIPE)
    assert waiter.stdout is not None and waiter.stdout.readline() == b"go\n"
    time.sleep(0.3)
    waiter.terminate()
    assert waiter.wait(10) == -15
    holder.release()
    assert try_lock(mount / "file", "flock", "exclusive")


def test_closing_any_descriptor_drops_posix_locks(mount: pathlib.Path):
    """The odd rule of POSIX that programs such as SQLite are built around."""
    path = mount / "file"
    path.write_bytes(bytes(1000))
    descriptor = os.open(path, os.O_RDWR)
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 100, 50)
    code = "import sys; sys.path.insert(0, sys.argv[2]); from test_locks import try_lock; import pathlib; " \
           "print(try_lock(pathlib.Path(sys.argv[1]), 'posix', 'exclusive'))"
    ask = lambda: subprocess.run(  # noqa: E731
        [sys.executable, "-c", code, str(path), str(pathlib.Path(__file__).parent)], capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()
    assert ask() == "False"
    os.close(os.open(path, os.O_RDONLY))
    assert ask() == "True"
    os.close(descriptor)


def test_deadlock_is_told(mount: pathlib.Path):
    """Two processes wait for each other's record locks: one of them gets EDEADLK, or the wait can be ended."""
    path = mount / "file"
    path.write_bytes(bytes(1000))
    code = """
import errno, fcntl, os, signal, sys, time
mine, other = int(sys.argv[2]), int(sys.argv[3])
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, mine)
time.sleep(0.5)
signal.signal(signal.SIGALRM, lambda *_: sys.exit(3))
signal.alarm(8)
try:
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, other)
except OSError as error:
    sys.exit(2 if error.errno == errno.EDEADLK else 4)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), *pair]) for pair in (("0", "1"), ("1", "0"))]
    codes = sorted(process.wait(40) for process in processes)
    assert codes[0] == 0 and codes[1] in (2, 3), codes


@pytest.mark.limit(200)
def test_locks_survive_a_server_restart(lab: harness.Lab, server: harness.Server):
    first, second = lab.mount(server, "vol", name="a"), lab.mount(server, "vol", name="b")
    (first.path / "file").write_bytes(bytes(1000))
    holders = [Holder(first.path / "file", "flock", "exclusive"), Holder(first.path / "file", "posix", "exclusive")]
    server.kill()
    server.restart()
    for _ in range(20):
        assert not try_lock(second.path / "file", "flock", "exclusive")
        assert not try_lock(second.path / "file", "posix", "exclusive")
        time.sleep(0.1)
    for holder in holders:
        holder.release()
    harness.wait_until(lambda: try_lock(second.path / "file", "flock", "exclusive"), 10, "the lock is free again")


@pytest.mark.limit(200)
def test_locks_of_a_dead_mount_end(lab: harness.Lab):
    server = lab.server("--lease-ttl", "3s")
    server.create_volume("vol")
    first, second = lab.mount(server, "vol", name="a"), lab.mount(server, "vol", name="b")
    (first.path / "file").write_bytes(bytes(1000))
    holder = Holder(first.path / "file", "flock", "exclusive")
    assert not try_lock(second.path / "file", "flock", "exclusive")
    first.kill()
    harness.wait_until(lambda: try_lock(second.path / "file", "flock", "exclusive"), 20, "the dead mount's lock is free", 0.2)
    holder.kill()
