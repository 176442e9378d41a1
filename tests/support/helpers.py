"""Small helpers of the tests of POSIX behaviour."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import pickle
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable

from . import harness, syscalls

MIB = 1 << 20


@contextlib.contextmanager
def opened(path: pathlib.Path, flags: int = os.O_RDWR | os.O_CREAT, mode: int = 0o644):
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fails_with(number: int):
    """The block must raise OSError with this errno."""

    class Expect:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, _trace):
            assert kind is not None, f"succeeded, expected {syscalls.name_of(number)}"
            if not isinstance(error, OSError):
                return False
            got = syscalls.name_of(error.errno)
            assert error.errno == number, f"{got}, expected {syscalls.name_of(number)}"
            return True

    return Expect()


# What a mount answers whose process is gone. The last two: while the kernel still takes its connection or its rings apart.
DEAD_MOUNT = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED)


def kill_mount(pid: int, path: pathlib.Path) -> None:
    """Kills the process behind a mount and waits until the kernel has noticed: until then requests may still be answered."""

    def dead() -> bool:
        try:
            os.statvfs(path)
        except OSError as error:
            assert error.errno in DEAD_MOUNT, syscalls.name_of(error.errno)
            return error.errno == errno.ENOTCONN
        return False

    os.kill(pid, signal.SIGKILL)
    harness.wait_until(dead, 30, "the kernel notices the end of the mount's process")


def random_bytes(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def as_user(name: str, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs Python code as another user."""
    harness.ensure_user(name)
    return subprocess.run(
        ["/usr/bin/python3", "-c", code, *map(str, arguments)], user=name, group=name, extra_groups=[],
        capture_output=True, text=True, timeout=60, check=False, cwd="/",
    )


def run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=60).stdout


def at_once(*works: Callable[[], object], limit: float = 60) -> list[object]:
    """What the works return, each done in a process of its own, all at the same time: threads of one would wait for each other."""
    children = []
    for work in works:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            outcome: tuple[bool, object] = (False, "nothing")
            try:
                outcome = (True, work())
            except BaseException as error:  # noqa: BLE001 - told to the parent
                outcome = (False, repr(error))
            finally:
                os.write(writing, pickle.dumps(outcome))
                os._exit(0)
        os.close(writing)
        children.append((pid, reading))
    results, wrong = [], []
    deadline = time.monotonic() + limit
    for pid, reading in children:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            wrong.append(f"not done in {limit} s")
        else:
            done, result = pickle.loads(os.read(reading, 65_536))
            (results if done else wrong).append(result)
        os.close(reading)
        os.waitpid(pid, 0)
    assert not wrong, wrong
    return results
