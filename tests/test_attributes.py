"""Times, modes, owners, extended attributes and ACLs, as ext4 has them.

pjdfstest (test_pjdfstest.py) covers permissions and error codes in depth; here stands what it leaves out.
"""

from __future__ import annotations

import errno
import mmap
import os
import pathlib
import stat
import struct
import subprocess
import time

import pytest

from support import harness
from support.helpers import as_user, fails_with, random_bytes, run

# --- times, modes, owners ------------------------------------------------------------------------------------------


def test_nanosecond_times(mount: pathlib.Path):
    path = mount / "file"
    path.touch()
    for access, change in [(1, 999_999_999), (1_700_000_000_123_456_789, 4_000_000_000_987_654_321), (-1_000_000_001, -5)]:
        os.utime(path, ns=(access, change))
        found = path.stat()
        assert (found.st_atime_ns, found.st_mtime_ns) == (access, change)


def times(path: pathlib.Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize(
    ("name", "action", "mtime_moves", "ctime_moves"),
    [
        ("write", lambda path: path.write_bytes(b"more"), True, True),
        ("append", lambda path: path.open("ab").write(b"x") and None, True, True),
        ("truncate", lambda path: os.truncate(path, 1), True, True),
        ("chmod", lambda path: path.chmod(0o600), False, True),
        ("chown", lambda path: os.chown(path, 0, 0), False, True),
        ("link", lambda path: os.link(path, f"{path}-link"), False, True),
        ("rename", lambda path: (os.rename(path, f"{path}-2"), os.rename(f"{path}-2", path)), False, True),
        ("xattr", lambda path: os.setxattr(path, "user.k", b"v"), False, True),
        ("read", lambda path: path.read_bytes(), False, False),
    ],
)
def test_what_moves_which_time(mount: pathlib.Path, name: str, action, mtime_moves: bool, ctime_moves: bool):
    path = mount / "file"
    path.write_bytes(b"content")
    before = times(path)
    time.sleep(0.03)
    action(path)
    after = times(path)
    assert (after[0] > before[0], after[1] > before[1]) == (mtime_moves, ctime_moves)


def test_directory_times_follow_entries(mount: pathlib.Path):
    for action in (
        lambda: (mount / "f").touch(),
        lambda: (mount / "f").rename(mount / "g"),
        lambda: (mount / "g").unlink(),
        lambda: (mount / "d").mkdir(),
    ):
        before = times(mount)
        time.sleep(0.03)
        action()
        after = times(mount)
        assert after[0] > before[0] and after[1] > before[1]


def test_mapped_write_moves_mtime(mount: pathlib.Path):
    path = mount / "file"
    path.write_bytes(bytes(4096))
    before = times(path)
    time.sleep(0.03)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
        memory[0] = 1
        memory.flush()
    assert times(path)[0] > before[0]


def test_relatime(mount: pathlib.Path):
    path = mount / "file"
    path.write_bytes(b"content")
    os.utime(path, ns=(10**18, 10**18 + 5))  # access older than change: a read moves it
    path.read_bytes()
    assert path.stat().st_atime_ns > 10**18 + 5


def test_umask_and_setgid_directories(mount: pathlib.Path):
    harness.ensure_user("cairn-test-1")
    import grp

    group = grp.getgrnam("cairn-test-1").gr_gid
    folder = mount / "shared"
    folder.mkdir()
    os.chown(folder, 0, group)
    folder.chmod(0o2775)
    old = os.umask(0o027)
    try:
        (folder / "sub").mkdir()
        (folder / "file").touch()
    finally:
        os.umask(old)
    assert (folder / "sub").stat().st_gid == group and (folder / "sub").stat().st_mode & stat.S_ISGID
    assert (folder / "file").stat().st_gid == group
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o640


def test_a_write_by_others_clears_setuid(mount: pathlib.Path):
    path = mount / "program"
    path.write_bytes(b"#!")
    path.chmod(0o6777)
    result = as_user("cairn-test-1", "import sys; open(sys.argv[1], 'ab').write(b'x')", path)
    assert result.returncode == 0, result.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6777)
    path.write_bytes(b"by root")
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777
    os.chown(path, 1, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_others_lose_privileges_by_fallocate_and_copies(mount: pathlib.Path):
    (mount / "source").write_bytes(b"x" * 10)
    (mount / "source").chmod(0o644)
    code = (
        "import os, sys\n"
        "target, source = os.open(sys.argv[2], os.O_RDWR), os.open(sys.argv[3], os.O_RDONLY)\n"
        "if sys.argv[1] == 'fallocate': os.posix_fallocate(target, 0, 100)\n"
        "else: assert os.copy_file_range(source, target, 10) == 10\n"
    )
    for how in ("fallocate", "copy"):
        path = mount / how
        path.touch()
        path.chmod(0o6777)
        run("/usr/bin/python3", "-c", code, how, path, mount / "source")
        assert stat.S_IMODE(path.stat().st_mode) == 0o6777  # root keeps them
        result = as_user("cairn-test-1", code, how, path, mount / "source")
        assert result.returncode == 0, result.stderr
        assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_reading_moves_no_change_time(mount: pathlib.Path):
    (mount / "file").write_bytes(b"x")
    before = (mount / "file").stat()
    time.sleep(0.02)
    with open(mount / "file", "rb") as file:
        assert file.read() == b"x"
        os.fsync(file.fileno())
    os.sync()
    after = (mount / "file").stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    os.utime(mount / "file", ns=(1, before.st_mtime_ns))
    assert (mount / "file").stat().st_ctime_ns > before.st_ctime_ns


def test_trusted_attributes_are_listed_to_root_alone(mount: pathlib.Path):
    (mount / "file").touch()
    os.setxattr(mount / "file", "trusted.a", b"1")
    os.setxattr(mount / "file", "user.a", b"1")
    assert sorted(os.listxattr(mount / "file")) == ["trusted.a", "user.a"]
    result = as_user("cairn-test-1", "import os, sys; print(os.listxattr(sys.argv[1]))", mount / "file")
    assert result.stdout.strip() == "['user.a']", result.stderr


def test_sticky_directory(mount: pathlib.Path):
    folder = mount / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / "roots").touch()
    result = as_user("cairn-test-1", "import os, sys; os.unlink(sys.argv[1])", folder / "roots")
    assert "PermissionError" in result.stderr and (folder / "roots").exists()
    made = as_user("cairn-test-1", "import sys; open(sys.argv[1], 'w').close()", folder / "mine")
    assert made.returncode == 0, made.stderr
    removed = as_user("cairn-test-2", "import os, sys; os.rename(sys.argv[1], sys.argv[1] + 'x')", folder / "mine")
    assert "PermissionError" in removed.stderr


def test_supplementary_groups_open_files(mount: pathlib.Path):
    import grp
    import pwd

    for name in harness.TEST_USERS:
        harness.ensure_user(name)
    group = grp.getgrnam("cairn-test-3").gr_gid
    (mount / "file").write_text("for the group")
    os.chown(mount / "file", 0, group)
    (mount / "file").chmod(0o640)
    command = ["cat", str(mount / "file")]
    user = pwd.getpwnam("cairn-test-1").pw_uid
    for groups, expected in [([], 1), ([group], 0)]:
        result = subprocess.run(command, user=user, group=user, extra_groups=groups, capture_output=True, timeout=30, check=False)
        assert result.returncode == expected, (groups, result)


# --- extended attributes and ACLs ----------------------------------------------------------------------------------


def test_extended_attributes(mount: pathlib.Path):
    path = mount / "file"
    path.touch()
    values = {"user.empty": b"", "user.small": b"\x00\xff", "user.large": random_bytes(3000), "trusted.t": b"t", "security.s": b"s"}
    for name, value in values.items():
        os.setxattr(path, name, value)
    assert set(os.listxattr(path)) == set(values)
    assert {name: os.getxattr(path, name) for name in values} == values
    with fails_with(errno.EEXIST):
        os.setxattr(path, "user.small", b"", os.XATTR_CREATE)
    with fails_with(errno.ENODATA):
        os.setxattr(path, "user.other", b"", os.XATTR_REPLACE)
    with fails_with(errno.ENODATA):
        os.getxattr(path, "user.other")
    os.setxattr(path, "user.small", b"new", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.small") == b"new"
    os.removexattr(path, "user.small")
    with fails_with(errno.ENODATA):
        os.removexattr(path, "user.small")
    with fails_with(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 251, b"")
    os.setxattr(path, "user." + "n" * 250, b"longest name")
    os.setxattr(mount, "user.on-a-directory", b"d")
    os.symlink("file", mount / "link")
    with fails_with(errno.EPERM):
        os.setxattr(mount / "link", "user.x", b"", follow_symlinks=False)
    os.setxattr(mount / "link", "trusted.x", b"on the link", follow_symlinks=False)
    assert os.getxattr(mount / "link", "trusted.x", follow_symlinks=False) == b"on the link"


@pytest.mark.needs_cairn
def test_largest_extended_attribute(mount: pathlib.Path):
    """64 KiB is the kernel's limit; ext4 stops earlier."""
    path = mount / "file"
    path.touch()
    value = random_bytes(65_536)
    os.setxattr(path, "user.max", value)
    assert os.getxattr(path, "user.max") == value


def test_attributes_survive_rename_and_links(mount: pathlib.Path):
    (mount / "a").touch()
    os.setxattr(mount / "a", "user.k", b"v")
    os.link(mount / "a", mount / "b")
    os.rename(mount / "a", mount / "c")
    assert os.getxattr(mount / "b", "user.k") == os.getxattr(mount / "c", "user.k") == b"v"


def test_access_control_lists(mount: pathlib.Path):
    for name in harness.TEST_USERS:
        harness.ensure_user(name)
    path = mount / "file"
    path.write_text("secret")
    path.chmod(0o600)
    read = "import sys; print(open(sys.argv[1]).read())"
    assert as_user("cairn-test-1", read, path).returncode != 0
    run("setfacl", "-m", "u:cairn-test-1:r,g:cairn-test-2:rw", path)
    assert as_user("cairn-test-1", read, path).stdout == "secret\n"
    assert as_user("cairn-test-2", read, path).returncode == 0
    assert as_user("cairn-test-3", read, path).returncode != 0
    assert as_user("cairn-test-1", "import sys; open(sys.argv[1], 'a')", path).returncode != 0
    assert "user:cairn-test-1:r--" in run("getfacl", "-p", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660, "the group bits show the mask"
    path.chmod(0o600)
    assert as_user("cairn-test-1", read, path).returncode != 0, "chmod narrows the mask"
    run("setfacl", "-b", path)
    assert "cairn-test" not in run("getfacl", "-p", path)


def access_list(mode: int) -> bytes:
    """The ACL that says what a mode says, as `cp -a` sets it on every file."""
    entries = [(1, mode >> 6 & 7), (4, mode >> 3 & 7), (0x20, mode & 7)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, 0xFFFF_FFFF) for tag, bits in entries)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_an_access_control_list_that_repeats_a_mode_is_a_mode(mount: pathlib.Path, kind: str):
    path = mount / "node"
    path.mkdir(0o700) if kind == "directory" else path.touch(0o600)
    before = times(path)
    time.sleep(0.02)
    os.setxattr(path, "system.posix_acl_access", access_list(0o754))
    changed = times(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o754 and changed[0] == before[0] and changed[1] > before[1]
    time.sleep(0.02)
    os.setxattr(path, "system.posix_acl_access", access_list(0o754))
    assert times(path) == changed, "what is so already is no change"
    assert os.listxattr(path) == []
    with fails_with(errno.ENODATA):
        os.getxattr(path, "system.posix_acl_access")
    os.removexattr(path, "system.posix_acl_default")
    os.removexattr(path, "system.posix_acl_access")
    assert times(path) == changed
    with fails_with(errno.EINVAL):
        os.setxattr(path, "system.posix_acl_access", access_list(0o754)[:-3])


def test_default_access_control_lists(mount: pathlib.Path):
    harness.ensure_user("cairn-test-1")
    folder = mount / "folder"
    folder.mkdir()
    run("setfacl", "-d", "-m", "u:cairn-test-1:rwx,o::---", folder)
    old = os.umask(0o077)
    try:
        (folder / "file").write_text("x")
        (folder / "sub").mkdir()
    finally:
        os.umask(old)
    listing = run("getfacl", "-p", folder / "file")
    assert "user:cairn-test-1:rwx" in listing and "mask::rw-" in listing and "other::---" in listing
    assert "default:user:cairn-test-1:rwx" in run("getfacl", "-p", folder / "sub")
    folder.chmod(0o755)
    assert as_user("cairn-test-1", "import sys; open(sys.argv[1], 'a').close()", folder / "file").returncode == 0
