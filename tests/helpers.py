"""Small helpers of the tests of POSIX behaviour."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import subprocess

import harness
import syscalls

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
