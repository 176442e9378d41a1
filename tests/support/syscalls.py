"""System calls that Python's `os` lacks."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE, FALLOC_ZERO, FALLOC_INSERT = 0x01, 0x02, 0x08, 0x10, 0x20
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(old: os.PathLike | str | bytes, new: os.PathLike | str | bytes, flags: int) -> None:
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    _check(_libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def linkat_descriptor(descriptor: int, new: os.PathLike | str) -> None:
    """Gives a file that has no name (O_TMPFILE) one."""
    at_symlink_follow = 0x400
    path = os.fsencode(f"/proc/self/fd/{descriptor}")
    _check(_libc.linkat(AT_FDCWD, path, AT_FDCWD, os.fsencode(new), at_symlink_follow))


def syncfs(descriptor: int) -> None:
    _check(_libc.syncfs(descriptor))


def _flock_bytes(kind: int, start: int, length: int) -> bytes:
    # struct flock on 64-bit Linux; l_pid must be 0 for OFD locks.
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def ofd_lock(descriptor: int, kind: int, start: int, length: int, wait: bool = False) -> None:
    """Takes or releases (F_UNLCK) an open-file-description lock."""
    fcntl.fcntl(descriptor, F_OFD_SETLKW if wait else F_OFD_SETLK, _flock_bytes(kind, start, length))


def lock_owner(descriptor: int, kind: int, start: int, length: int) -> tuple[int, int] | None:
    """What stands in the way of a POSIX lock: (kind, pid), or None."""
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _flock_bytes(kind, start, length))
    found, _, _, _, pid = struct.unpack("hhqqi4x", answer)
    return None if found == fcntl.F_UNLCK else (found, pid)


def name_of(number: int | None) -> str:
    return "ok" if number is None else errno.errorcode.get(number, str(number))
