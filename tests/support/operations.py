"""Random operations, and a place that they are done in. The comparison of two places is in model.py.

A sequence is generated from a seed without looking at any state, so any part of it can be run again.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import pathlib
import pwd
import random
import stat
import struct
from collections.abc import Callable

from . import syscalls

SLOTS = 4
NAMES = ["a", "b", "c", "long" * 30, "ünï\udcff"]
# All values of a file together stay below what ext4 has room for.
XATTRS = ["user.one", "user.two", "trusted.three"]
KEEP, PUNCH, ZERO = syscalls.FALLOC_KEEP_SIZE, syscalls.FALLOC_PUNCH_HOLE, syscalls.FALLOC_ZERO

Operation = tuple


def acl(entries: list[tuple[int, int, int]]) -> bytes:
    """The binary form of a POSIX ACL: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, permissions, who) for tag, permissions, who in entries)


_NOBODY = 0xFFFFFFFF
# All let the group execute: setgid without that goes by the writer's groups, which a FUSE file system is not told.
ACLS = [
    acl([(0x01, 6, _NOBODY), (0x02, 7, 1), (0x04, 4, _NOBODY), (0x10, 7, _NOBODY), (0x20, 0, _NOBODY)]),
    acl([(0x01, 7, _NOBODY), (0x04, 5, _NOBODY), (0x08, 6, 2), (0x10, 7, _NOBODY), (0x20, 4, _NOBODY)]),
    acl([(0x01, 7, _NOBODY), (0x04, 5, _NOBODY), (0x20, 5, _NOBODY)]),  # no more than a mode says
]


# --- generation ----------------------------------------------------------------------------------------------------


def random_path(source: random.Random) -> str:
    depth = source.choice([1, 1, 1, 1, 2, 2, 3])
    return "/".join(source.choice(NAMES) for _ in range(depth))


def random_offset(source: random.Random) -> int:
    return source.choice([0, 0, 1, 100, 4095, 4096, 5000, 65_536, 65_535, 200_000, 1 << 20, (4 << 20) - 7, 4 << 20]) + source.choice([0, 0, 0, 13])


def random_length(source: random.Random) -> int:
    return source.choice([0, 1, 10, 100, 4096, 4097, 10_000, 65_536, 150_000])


def _open(source: random.Random) -> Operation:
    flags = source.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR])
    for flag, chance in (
        (os.O_CREAT, 0.7), (os.O_EXCL, 0.15), (os.O_TRUNC, 0.15), (os.O_APPEND, 0.2), (os.O_NOFOLLOW, 0.1), (os.O_DIRECTORY, 0.05),
    ):
        if source.random() < chance:
            flags |= flag
    return ("open", source.randrange(SLOTS), random_path(source), flags | os.O_NONBLOCK, source.choice([0o644, 0o600, 0o666, 0o4755, 0o444]))


def _slot(source: random.Random) -> int:
    return source.randrange(SLOTS)


GENERATORS: list[tuple[float, Callable[[random.Random], Operation]]] = [
    (18, _open),
    (4, lambda s: ("close", _slot(s))),
    (14, lambda s: ("pwrite", _slot(s), random_offset(s), random_length(s), s.randrange(1000))),
    (6, lambda s: ("write", _slot(s), random_length(s), s.randrange(1000))),
    (8, lambda s: ("pread", _slot(s), random_offset(s), random_length(s))),
    (4, lambda s: ("ftruncate", _slot(s), random_offset(s))),
    (3, lambda s: ("truncate", random_path(s), random_offset(s))),
    (4, lambda s: ("fallocate", _slot(s), s.choice([0, KEEP, PUNCH | KEEP, PUNCH | KEEP, ZERO, ZERO | KEEP, PUNCH]), random_offset(s), random_length(s))),
    (4, lambda s: ("copy", _slot(s), random_offset(s), _slot(s), random_offset(s), random_length(s))),
    (2, lambda s: ("fsync", _slot(s), s.random() < 0.5)),
    (3, lambda s: ("mapwrite", _slot(s), random_offset(s), random_length(s), s.randrange(1000))),
    (3, lambda s: ("mapread", _slot(s))),
    (2, lambda s: ("holes", _slot(s))),
    (3, lambda s: ("fstat", _slot(s))),
    (2, lambda s: ("fchmod", _slot(s), s.choice([0o644, 0o600, 0o4755, 0o2755]))),
    (12, lambda s: ("mkdir", random_path(s), s.choice([0o755, 0o777, 0o1777, 0o2775, 0o700]))),
    (3, lambda s: ("rmdir", random_path(s))),
    (6, lambda s: ("unlink", random_path(s))),
    (8, lambda s: ("rename", random_path(s), random_path(s), s.choice([0, 0, 0, 0, 1, 2, 3]))),
    (4, lambda s: ("link", random_path(s), random_path(s))),
    (4, lambda s: ("symlink", s.choice([random_path(s), "../" + random_path(s), "x" * 300]), random_path(s))),
    (2, lambda s: ("mknod", random_path(s), s.choice([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR]) | 0o640)),
    (5, lambda s: ("stat", random_path(s))),
    (4, lambda s: ("lstat", random_path(s))),
    (3, lambda s: ("list", random_path(s))),
    (1, lambda s: ("readlink", random_path(s))),
    (4, lambda s: ("chmod", random_path(s), s.choice([0o644, 0o600, 0o755, 0o777, 0o4755, 0o2777, 0o1777, 0o000]))),
    # Never -1 for both: the kernel keeps that from a FUSE file system, though it clears setuid elsewhere.
    (3, lambda s: ("chown", random_path(s), *s.choice([(-1, 0), (-1, 2), (0, -1), (1, -1), (0, 0), (1, 2)]), s.random() < 0.5)),
    (3, lambda s: ("utime", random_path(s), s.randrange(10**18), s.choice([0, 1, 999_999_999, 10**9, s.randrange(10**18)]))),
    (4, lambda s: ("setxattr", random_path(s), s.choice(XATTRS), s.randrange(700), s.choice([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE]))),
    (2, lambda s: ("removexattr", random_path(s), s.choice(XATTRS))),
    (2, lambda s: ("setacl", random_path(s), s.choice(["access", "default"]), s.randrange(len(ACLS)))),
    (1, lambda s: ("access", random_path(s), s.choice([os.R_OK, os.W_OK, os.X_OK, os.F_OK]))),
]


def generate(seed: int, count: int) -> list[Operation]:
    """Operations with the side (which mount) and the user each is done by: ("as", side, user, operation)."""
    source = random.Random(seed)
    weights = [weight for weight, _ in GENERATORS]
    makers = [maker for _, maker in GENERATORS]
    result: list[Operation] = []
    for maker in source.choices(makers, weights, k=count):
        result.append((source.randrange(2), "cairn-test-1" if source.random() < 0.15 else "root", maker(source)))
    return result


# --- execution -----------------------------------------------------------------------------------------------------


def content(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


class Place:
    """One of the two places: directories for side 0 and side 1 (the same directory if there is only one mount)."""

    def __init__(self, sides: tuple[pathlib.Path, pathlib.Path]):
        self.sides = sides
        self.side = 0
        self.slots: dict[int, int] = {}
        self.opened_on: dict[int, int] = {}
        # Pipes and devices belong to the kernel's inode, of which two mounts have two: only one mount opens them.
        self.open_special = True

    def close(self) -> None:
        for descriptor in self.slots.values():
            os.close(descriptor)
        self.slots.clear()

    def apply(self, side: int, user: str, operation: Operation) -> object:
        """Result of an operation in comparable form; an OSError as its errno."""
        name, *arguments = operation
        root = self.sides[side]
        self.side = side
        entry = pwd.getpwnam(user)
        try:
            if user != "root":
                os.setegid(entry.pw_gid)
                os.seteuid(entry.pw_uid)
            return getattr(self, f"do_{name}")(root, *arguments)
        except OSError as error:
            return syscalls.name_of(error.errno)
        finally:
            os.seteuid(0)
            os.setegid(0)

    def descriptor(self, slot: int) -> int:
        if slot not in self.slots:
            raise OSError(errno.EBADF, "no such slot")
        return self.slots[slot]

    def do_open(self, root: pathlib.Path, slot: int, path: str, flags: int, mode: int) -> object:
        if not self.open_special and is_special(root / path):
            return "special"
        descriptor = os.open(root / path, flags, mode)
        if slot in self.slots:
            os.close(self.slots[slot])
        self.slots[slot] = descriptor
        self.opened_on[slot] = self.side
        return describe(os.fstat(descriptor))

    def do_close(self, _root: pathlib.Path, slot: int) -> object:
        os.close(self.descriptor(slot))
        del self.slots[slot]
        return None

    def do_pwrite(self, _root: pathlib.Path, slot: int, offset: int, length: int, seed: int) -> object:
        return os.pwrite(self.descriptor(slot), content(seed, length), offset), self.do_fstat(_root, slot)

    def do_write(self, _root: pathlib.Path, slot: int, length: int, seed: int) -> object:
        written = os.write(self.descriptor(slot), content(seed, length))
        return written, os.lseek(self.descriptor(slot), 0, os.SEEK_CUR)

    def do_pread(self, _root: pathlib.Path, slot: int, offset: int, length: int) -> object:
        data = os.pread(self.descriptor(slot), length, offset)
        return len(data), hashlib.sha256(data).hexdigest()[:16]

    def do_ftruncate(self, _root: pathlib.Path, slot: int, length: int) -> object:
        os.ftruncate(self.descriptor(slot), length)
        return self.do_fstat(_root, slot)

    def do_truncate(self, root: pathlib.Path, path: str, length: int) -> object:
        os.truncate(root / path, length)
        return self.do_stat(root, path)

    def do_fallocate(self, _root: pathlib.Path, slot: int, mode: int, offset: int, length: int) -> object:
        syscalls.fallocate(self.descriptor(slot), mode, offset, length)
        return self.do_fstat(_root, slot)

    def do_copy(self, _root: pathlib.Path, source: int, source_offset: int, target: int, target_offset: int, length: int) -> object:
        from_, to = self.descriptor(source), self.descriptor(target)
        if not self.open_special and self.opened_on[source] != self.opened_on[target]:
            return "between two mounts"
        os.fstat(from_)  # the kernel stops at the size it knows; as with any network file system, asking refreshes it
        done = 0
        while done < length:
            count = os.copy_file_range(from_, to, length - done, source_offset + done, target_offset + done)
            if count == 0:
                break
            done += count
        return done, self.do_fstat(_root, target)

    def do_fsync(self, _root: pathlib.Path, slot: int, data_only: bool) -> object:
        return os.fdatasync(self.descriptor(slot)) if data_only else os.fsync(self.descriptor(slot))

    def _map(self, slot: int, access: int) -> mmap.mmap | None:
        descriptor = self.descriptor(slot)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= 16 << 20:
            return None
        return mmap.mmap(descriptor, found.st_size, access=access)

    def do_mapwrite(self, _root: pathlib.Path, slot: int, offset: int, length: int, seed: int) -> object:
        memory = self._map(slot, mmap.ACCESS_WRITE)
        if memory is None:
            return "not mapped"
        end = min(offset + length, len(memory))
        if offset < end:
            memory[offset:end] = content(seed, end - offset)
        memory.flush()
        memory.close()
        return end

    def do_mapread(self, _root: pathlib.Path, slot: int) -> object:
        memory = self._map(slot, mmap.ACCESS_READ)
        if memory is None:
            return "not mapped"
        digest = hashlib.sha256(memory).hexdigest()[:16]
        memory.close()
        return digest

    def do_holes(self, _root: pathlib.Path, slot: int) -> object:
        """File systems may see holes at different grains; what each calls a hole must read as zeros."""
        descriptor = self.descriptor(slot)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or os.get_blocking(descriptor) is None:
            return None
        os.pread(descriptor, 1, 0)
        position = 0
        while position < found.st_size:
            try:
                data = os.lseek(descriptor, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = found.st_size
            hole = os.pread(descriptor, data - position, position)
            if hole.count(0) != len(hole):
                return f"the hole {position}..{data} is not zero"
            if data >= found.st_size:
                break
            position = os.lseek(descriptor, data, os.SEEK_HOLE)
            if position <= data:
                return f"SEEK_HOLE went from {data} to {position}"
        os.lseek(descriptor, 0, os.SEEK_SET)
        return None

    def do_fstat(self, _root: pathlib.Path, slot: int) -> object:
        return describe(os.fstat(self.descriptor(slot)))

    def do_fchmod(self, _root: pathlib.Path, slot: int, mode: int) -> object:
        os.fchmod(self.descriptor(slot), mode)
        return self.do_fstat(_root, slot)

    def do_mkdir(self, root: pathlib.Path, path: str, mode: int) -> object:
        os.mkdir(root / path, mode)
        return self.do_lstat(root, path)

    def do_rmdir(self, root: pathlib.Path, path: str) -> object:
        return os.rmdir(root / path)

    def do_unlink(self, root: pathlib.Path, path: str) -> object:
        return os.unlink(root / path)

    def do_rename(self, root: pathlib.Path, old: str, new: str, flags: int) -> object:
        return syscalls.renameat2(root / old, root / new, flags)

    def do_link(self, root: pathlib.Path, old: str, new: str) -> object:
        os.link(root / old, root / new, follow_symlinks=False)
        return self.do_lstat(root, new)

    def do_symlink(self, root: pathlib.Path, target: str, path: str) -> object:
        os.symlink(target, root / path)
        return self.do_lstat(root, path)

    def do_mknod(self, root: pathlib.Path, path: str, mode: int) -> object:
        os.mknod(root / path, mode, os.makedev(1, 3))
        return self.do_lstat(root, path)

    def do_stat(self, root: pathlib.Path, path: str) -> object:
        return describe(os.stat(root / path))

    def do_lstat(self, root: pathlib.Path, path: str) -> object:
        return describe(os.lstat(root / path))

    def do_list(self, root: pathlib.Path, path: str) -> object:
        with os.scandir(root / path) as entries:
            return sorted((entry.name, kind_of(entry)) for entry in entries)

    def do_readlink(self, root: pathlib.Path, path: str) -> object:
        return os.readlink(root / path)

    def do_chmod(self, root: pathlib.Path, path: str, mode: int) -> object:
        os.chmod(root / path, mode)
        return self.do_stat(root, path)

    def do_chown(self, root: pathlib.Path, path: str, uid: int, gid: int, follow: bool) -> object:
        os.chown(root / path, uid, gid, follow_symlinks=follow)
        return self.do_lstat(root, path)

    def do_utime(self, root: pathlib.Path, path: str, access: int, change: int) -> object:
        os.utime(root / path, ns=(access, change))
        return os.stat(root / path).st_mtime_ns

    def do_setxattr(self, root: pathlib.Path, path: str, name: str, length: int, flags: int) -> object:
        os.setxattr(root / path, name, content(length, length), flags)
        return sorted(os.listxattr(root / path))

    def do_removexattr(self, root: pathlib.Path, path: str, name: str) -> object:
        os.removexattr(root / path, name)
        return sorted(os.listxattr(root / path))

    def do_setacl(self, root: pathlib.Path, path: str, kind: str, which: int) -> object:
        os.setxattr(root / path, f"system.posix_acl_{kind}", ACLS[which])
        return self.do_stat(root, path)

    def do_access(self, root: pathlib.Path, path: str, mode: int) -> object:
        return os.access(root / path, mode, effective_ids=True)


def is_special(path: os.PathLike | str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def kind_of(entry: os.DirEntry) -> str:
    if entry.is_symlink():
        return "link"
    return "directory" if entry.is_dir() else "file" if entry.is_file() else "other"


def describe(found: os.stat_result) -> dict[str, object]:
    """A file's attributes in comparable form."""
    result: dict[str, object] = {
        "mode": oct(found.st_mode), "links": found.st_nlink, "uid": found.st_uid, "gid": found.st_gid, "rdev": found.st_rdev,
    }
    if not stat.S_ISDIR(found.st_mode):
        result["size"] = found.st_size
    return result
