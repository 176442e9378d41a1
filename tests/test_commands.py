"""The command line: what each command does, what it says when it cannot, and its exit codes."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import stat
import signal
import subprocess
import time

import pytest

from support import harness
from support.helpers import DEAD_MOUNT

FAILURE, USAGE, DAMAGED, UNREACHABLE, REFUSED, CANNOT_MOUNT = 1, 2, 4, 5, 6, 7


def fails(lab: harness.Lab, code: int, *arguments: str, says: str = "", **options) -> str:
    """The command ends with this code and a sentence for people; returns the sentence."""
    result = lab.run(*arguments, check=False, **options)
    assert result.returncode == code, f"{arguments}: {result.returncode}, {result.stdout}{result.stderr}"
    assert "panicked" not in result.stderr and result.stderr.strip()
    assert re.search(says, result.stderr, re.IGNORECASE), result.stderr
    return result.stderr


# --- volumes -------------------------------------------------------------------------------------------------------


def test_the_life_of_a_volume(lab: harness.Lab):
    server = lab.server()
    made = server.create_volume("models", "5GiB", "--data-center", "EU-RO-1", "--chunk-size", "1MiB")
    assert re.fullmatch(r"[a-z0-9]{10}", made["id"])
    assert (made["name"], made["data_center"], made["chunk_size"], made["bytes_limit"]) == ("models", "EU-RO-1", 1 << 20, 5 << 30)
    # Names need not be unique; one that is not must be told apart by id.
    twin = server.create_volume("models", "1GiB")
    fails(lab, REFUSED, "volume", "show", "models", "--server", server.address, says=f"{made['id']}|{twin['id']}")
    server.run("volume", "delete", twin["id"], "--yes")
    assert [volume["id"] for volume in server.json("volume", "list")] == [made["id"]]
    assert server.json("volume", "show", made["id"])["name"] == "models"
    server.run("volume", "resize", "models", "--size", "6GiB")
    server.run("volume", "rename", "models", "renamed")
    assert server.json("volume", "show", "renamed")["bytes_limit"] == 6 << 30
    server.stop()
    server.restart()
    assert server.json("volume", "show", made["id"])["name"] == "renamed"
    fails(lab, FAILURE, "volume", "delete", "renamed", "--server", server.address, says="--yes")
    server.run("volume", "delete", "renamed", "--yes")
    assert server.json("volume", "list") == []
    harness.wait_until(
        lambda: not any((server.data / "volumes").glob("*")), 10, "the data of a deleted volume leave the disk"
    )


def test_a_mounted_volume_is_not_deleted(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    fails(lab, REFUSED, "volume", "delete", "vol", "--yes", "--server", server.address, says="mount")
    (own_mount.path / "file").write_text("still here")
    own_mount.stop()
    server.run("volume", "delete", "vol", "--yes")


@pytest.mark.parametrize("flags", [["--chunk-size", "100KiB"], ["--chunk-size", "32KiB"], ["--chunk-size", "128MiB"], ["--size", "nonsense"], ["--size", "0"]])
def test_values_that_make_no_sense(lab: harness.Lab, flags: list[str]):
    server = lab.server()
    size = [] if "--size" in flags else ["--size", "1GiB"]
    result = lab.run("volume", "create", "new", *size, *flags, "--server", server.address, check=False)
    assert result.returncode in (FAILURE, USAGE, REFUSED) and result.stderr.strip() and "panicked" not in result.stderr
    assert server.json("volume", "list") == []


@pytest.mark.parametrize("name", ["", "with/slash", "x" * 300, ".", "new\nline"])
def test_names_that_are_refused(lab: harness.Lab, name: str):
    server = lab.server()
    result = lab.run("volume", "create", name, "--size", "1GiB", "--server", server.address, check=False)
    assert result.returncode in (FAILURE, USAGE, REFUSED)


# --- mounting ------------------------------------------------------------------------------------------------------


def test_mount_in_the_background(lab: harness.Lab, server: harness.Server):
    directory, log = lab.new_path("bg"), lab.root / "bg.log"
    directory.mkdir()
    lab.tell(f"mount {directory}")
    lab.run("mount", "vol", str(directory), "--server", server.address, "--log-file", str(log))
    try:
        assert harness.is_mounted(directory), "mount returned before the mount was live"
        (directory / "file").write_text("x")
        sessions = server.json("status")["sessions"]
        assert [session["directory"] for session in sessions] == [str(directory)]
        lab.tell(f"process {sessions[0]['pid']}")
        with open(directory / "file", encoding="utf-8"):
            busy = lab.run("umount", str(directory), check=False)
            assert busy.returncode == FAILURE or not harness.is_mounted(directory)
        if harness.is_mounted(directory):
            lab.run("umount", str(directory))
        assert not harness.is_mounted(directory)
        harness.wait_until(lambda: not os.path.exists(f"/proc/{sessions[0]['pid']}"), 15, "the daemon has ended")
        assert server.json("status")["sessions"] == []
        assert log.exists()
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False, stderr=subprocess.DEVNULL)


def test_umount_waits_until_everything_is_written(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    (own_mount.path / "file").write_bytes(b"x" * (50 << 20))
    lab.run("umount", str(own_mount.path))
    server.kill()
    server.restart()
    own_mount.process.popen.wait(30)
    own_mount.start()
    assert (own_mount.path / "file").stat().st_size == 50 << 20
    assert (own_mount.path / "file").read_bytes() == b"x" * (50 << 20)


def test_read_only(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    (own_mount.path / "file").write_text("x")
    reader = lab.mount(server, "vol", "--read-only", name="ro")
    assert (reader.path / "file").read_text() == "x"
    for action in (
        lambda: (reader.path / "new").touch(), lambda: (reader.path / "file").unlink(), lambda: (reader.path / "file").write_text("y"),
        lambda: (reader.path / "file").chmod(0o600), lambda: (reader.path / "d").mkdir(),
    ):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == 30
    (own_mount.path / "file").write_text("changed")
    assert (reader.path / "file").read_text() == "changed"


def test_through_mount_and_fstab(lab: harness.Lab, server: harness.Server):
    """`mount -t fuse.cairn` through the helper, as /etc/fstab does."""
    helper = pathlib.Path("/sbin/mount.fuse.cairn")
    if helper.exists() and not (helper.is_symlink() and "cairn" in os.readlink(helper)):
        pytest.skip(f"{helper} belongs to somebody else")
    made = not helper.is_symlink()
    if made:
        helper.symlink_to(harness.binary())
    directory = lab.new_path("helper")
    directory.mkdir()
    lab.tell(f"mount {directory}")
    try:
        options = f"server={server.address},cache_size=64MiB,log_file={lab.root}/helper.log,nofail,_netdev"
        result = subprocess.run(
            ["mount", "-t", "fuse.cairn", "vol", str(directory), "-o", options],
            env=lab.environment(), capture_output=True, text=True, timeout=60, check=False,
        )
        assert result.returncode == 0, result.stderr
        assert harness.is_mounted(directory)
        for session in server.json("status")["sessions"]:
            lab.tell(f"process {session['pid']}")
        (directory / "file").write_text("x")
        with open("/proc/mounts", encoding="utf-8") as table:
            line = next(line for line in table if str(directory) in line)
        assert " fuse.cairn " in line
        subprocess.run(["umount", str(directory)], check=True, timeout=60)
        harness.wait_until(lambda: server.json("status")["sessions"] == [], 20, "the session has ended")
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False, stderr=subprocess.DEVNULL)
        if made:
            helper.unlink(missing_ok=True)


def test_dev_makes_and_keeps_its_volume(lab: harness.Lab):
    data = lab.root / "devdata"
    mount = lab.dev("--chunk-size", "64KiB", "--cache-size", "64MiB", data=data, size="3GiB")
    assert "mounted default at" in mount.process.log
    (mount.path / "file").write_text("kept")
    volume = lab.run("volume", "show", "default", "--server", f"unix:{data}/cairn.sock", "--json").stdout
    assert (json.loads(volume)["chunk_size"], json.loads(volume)["bytes_limit"]) == (65_536, 3 << 30)
    second = lab.new_path("second")
    fails(lab, FAILURE, "dev", str(second), "--data", str(data), says="use|running|lock", limit=30)
    assert mount.stop(signal.SIGINT) == 0
    mount.start()
    assert (mount.path / "file").read_text() == "kept"


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_an_unknown_volume(lab: harness.Lab, server: harness.Server):
    directory = lab.new_path("x")
    text = fails(lab, REFUSED, "mount", "nosuch", str(directory), "--server", server.address, says="nosuch")
    assert "volume" in text.lower()
    fails(lab, REFUSED, "fsck", "nosuch", "--server", server.address, says="nosuch")
    fails(lab, REFUSED, "volume", "usage", "nosuch", "--server", server.address, says="nosuch")


def test_no_server(lab: harness.Lab):
    fails(lab, UNREACHABLE, "status", "--server", f"unix:{lab.root}/nothing.sock", says="nothing.sock")
    fails(lab, UNREACHABLE, "volume", "list", "--server", "127.0.0.1:1", says="127.0.0.1:1")
    started = time.monotonic()
    fails(lab, UNREACHABLE, "mount", "vol", str(lab.new_path("x")), "--server", "127.0.0.1:1", "--server-timeout", "2s", says="127.0.0.1:1")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("address", ["nonsense", "host:port", ":", "unix:", "tls://", "1.2.3.4:99999"])
def test_an_address_that_is_none(lab: harness.Lab, address: str):
    result = lab.run("status", "--server", address, check=False, limit=30)
    assert result.returncode in (USAGE, UNREACHABLE, FAILURE) and result.stderr.strip() and "panicked" not in result.stderr


def test_a_directory_that_is_not_empty(lab: harness.Lab, server: harness.Server):
    directory = lab.new_path("full")
    directory.mkdir()
    (directory / "precious").write_text("x")
    fails(lab, CANNOT_MOUNT, "mount", "vol", str(directory), "--server", server.address, says="empty")
    assert not harness.is_mounted(directory) and (directory / "precious").exists()
    assert server.json("status")["sessions"] == [], "a mount that failed leaves its session"


def test_a_file_instead_of_a_directory(lab: harness.Lab, server: harness.Server):
    (lab.root / "file").write_text("x")
    fails(lab, CANNOT_MOUNT, "mount", "vol", str(lab.root / "file"), "--server", server.address, says="director")


def test_mounting_twice(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    fails(lab, CANNOT_MOUNT, "mount", "vol", str(own_mount.path), "--server", server.address, says="mounted|empty|use")
    (own_mount.path / "file").write_text("the first mount still works")


def test_a_stale_mount(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    """The mount's process died: the directory answers ENOTCONN until it is unmounted; the message says so or mends it."""
    (own_mount.path / "file").write_text("x")
    own_mount.process.kill()
    with pytest.raises(OSError) as caught:
        os.listdir(own_mount.path)
    assert caught.value.errno in DEAD_MOUNT
    log = lab.root / "stale.log"
    result = lab.run("mount", "vol", str(own_mount.path), "--server", server.address, "--log-file", str(log), check=False)
    if result.returncode == 0:
        for session in server.json("status")["sessions"]:
            if session["directory"] == str(own_mount.path) and session["connected"]:
                lab.tell(f"process {session['pid']}")
        assert (own_mount.path / "file").exists()
        lab.run("umount", str(own_mount.path))
    else:
        assert result.returncode == CANNOT_MOUNT
        assert "umount" in result.stderr, result.stderr
        lab.run("umount", str(own_mount.path))
    assert not harness.is_mounted(own_mount.path)
    own_mount.start()


def test_no_fuse_device(lab: harness.Lab, server: harness.Server):
    """In a container without /dev/fuse the message names the flags for docker."""
    directory = lab.new_path("x")
    prepare = f"mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec {harness.binary()} mount vol {directory} --server {server.address} --log-file {lab.root}/x.log"
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("no right to make a mount namespace")
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", prepare], env=lab.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == CANNOT_MOUNT, (result.returncode, result.stderr)
    assert "/dev/fuse" in result.stderr and "--device" in result.stderr, result.stderr


ORDINARY_USER = r"""
import os, pathlib, subprocess, sys, time
program, home = sys.argv[1], pathlib.Path(sys.argv[2])
os.environ.update(HOME=str(home), XDG_STATE_HOME=str(home / "state"))
live, again = home / "live", home / "again"
live.mkdir(), again.mkdir()
dev = subprocess.Popen([program, "dev", str(live), "--data", str(home / "data")], stdout=subprocess.PIPE, text=True)
try:
    line = dev.stdout.readline()
    while line and not line.startswith("mounted"):
        line = dev.stdout.readline()
    assert os.path.ismount(live), line
    (live / "file").write_text("mine")
    (live / "file").chmod(0o600)
    state = (live / "file").stat()
    assert (state.st_uid, state.st_gid) == (os.getuid(), os.getgid()), state
    table = next(line for line in open("/proc/self/mounts") if str(live) in line)
    assert " fuse.cairn " in table and "nosuid" in table and "nodev" in table, table
    server = ["--server", f"unix:{home}/data/cairn.sock"]
    volume = subprocess.run([program, "volume", "list", "--json", *server], check=True, capture_output=True, text=True).stdout
    name = __import__("json").loads(volume)[0]["name"]
    subprocess.run([program, "mount", name, str(again), "--log-file", str(home / "log"), *server], check=True, timeout=60)
    assert (again / "file").read_text() == "mine"
    subprocess.run([program, "umount", str(again)], check=True, timeout=60)
    assert not os.path.ismount(again)
    dev.terminate()
    assert dev.wait(60) == 0
    assert not os.path.ismount(live)
finally:
    dev.kill()
    for path in (live, again):
        subprocess.run(["fusermount3", "-uzq", str(path)])
print("done")
"""


def test_an_ordinary_user_mounts_with_fusermount(lab: harness.Lab):
    """In a mount namespace whose /dev/fuse everybody may open, as on most machines."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to make a mount namespace")
    harness.ensure_user(harness.TEST_USERS[0])
    home, device, program = lab.root / "user", lab.root / "fuse", lab.root / "cairn"
    home.mkdir()
    lab.root.chmod(0o755)
    shutil.chown(home, harness.TEST_USERS[0], harness.TEST_USERS[0])
    shutil.copy(harness.binary(), program)
    prepare = (
        f"mknod -m 666 {device} c 10 229 && mount --bind {device} /dev/fuse && exec setpriv --reuid "
        f'{harness.TEST_USERS[0]} --regid {harness.TEST_USERS[0]} --clear-groups /usr/bin/python3 -c "$0" {program} {home}'
    )
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", prepare, ORDINARY_USER],
        env=lab.environment(), capture_output=True, text=True, timeout=180, check=False,
    )
    assert result.returncode == 0 and result.stdout.endswith("done\n"), result.stdout + result.stderr


def test_set_id_bits_and_devices_work_only_on_request(lab: harness.Lab, server: harness.Server):
    """Whoever writes to a volume anywhere could otherwise become root wherever it is mounted."""
    harness.ensure_user(harness.TEST_USERS[0])

    def as_user(*command: str) -> str:
        prefix = ["setpriv", "--reuid", harness.TEST_USERS[0], "--regid", harness.TEST_USERS[0], "--clear-groups"]
        return subprocess.run([*prefix, *command], capture_output=True, text=True, check=True, timeout=60).stdout

    safe = lab.mount(server, "vol")
    shutil.copy("/usr/bin/id", safe.path / "id")
    (safe.path / "id").chmod(0o4755)
    os.mknod(safe.path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    lab.root.chmod(0o755)
    assert as_user(str(safe.path / "id"), "-u") == as_user("id", "-u") != "0\n"
    with pytest.raises(PermissionError):
        (safe.path / "null").read_bytes()
    asked = lab.mount(server, "vol", "-o", "suid,dev")
    assert as_user(str(asked.path / "id"), "-u") == "0\n"
    assert (asked.path / "null").read_bytes() == b""


def test_options_of_access_times(lab: harness.Lab, server: harness.Server):
    directory = lab.new_path("mnt")
    directory.mkdir()
    mount = ["mount", "vol", str(directory), "--server", server.address, "--log-file", str(lab.root / "mount.log")]
    fails(lab, USAGE, *mount, "-o", "strictatime", says="relatime")
    lab.tell(f"mount {directory}")
    lab.run(*mount, "-o", "nodiratime,noexec")
    for session in server.json("status")["sessions"]:
        lab.tell(f"process {session['pid']}")
    try:
        (directory / "dir").mkdir()
        (directory / "dir" / "file").write_text("x")
        os.utime(directory / "dir", (1, 1))
        os.utime(directory / "dir" / "file", (1, 1))
        os.listdir(directory / "dir")
        assert (directory / "dir" / "file").read_text() == "x"
        assert (directory / "dir").stat().st_atime == 1
        assert (directory / "dir" / "file").stat().st_atime > 1
    finally:
        lab.run("umount", str(directory))


def test_umount_of_what_is_not_mounted(lab: harness.Lab):
    directory = lab.new_path("plain")
    directory.mkdir()
    fails(lab, FAILURE, "umount", str(directory), says="mount")
    fails(lab, FAILURE, "umount", str(lab.root / "missing"))


def test_two_servers_on_one_data_directory(lab: harness.Lab, server: harness.Server):
    fails(lab, FAILURE, "serve", "--data", str(server.data), "--listen", "none", says="use|running|lock", limit=30)
    server.json("status")


def test_an_address_in_use(lab: harness.Lab):
    first = lab.server(listen="127.0.0.1:0")
    fails(lab, FAILURE, "serve", "--data", str(lab.root / "second"), "--listen", first.tcp, says="in use", limit=30)


def test_a_data_directory_that_cannot_be_written(lab: harness.Lab):
    (lab.root / "file").write_text("x")
    fails(lab, FAILURE, "serve", "--data", str(lab.root / "file" / "sub"), "--listen", "none", says="file", limit=30)


def test_a_full_disk(lab: harness.Lab):
    """The server's disk fills up: an error for the writer, and the volume lives on."""
    disk = lab.root / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no right to mount a tmpfs")
    lab.tell(f"mount {disk}")
    try:
        server = lab.server(data=disk / "data")
        server.create_volume("vol", "1GiB")
        mount = lab.mount(server, "vol")
        (mount.path / "before").write_bytes(b"b" * 1000)
        with open(mount.path / "before", "rb") as file:
            os.fsync(file.fileno())
        with pytest.raises(OSError) as caught:
            with open(mount.path / "big", "wb") as file:
                for _ in range(200):
                    file.write(os.urandom(1 << 20))
                    file.flush()
                os.fsync(file.fileno())
        assert caught.value.errno in (28, 122, 5)
        assert (mount.path / "before").read_bytes() == b"b" * 1000
        (mount.path / "big").unlink()
        assert server.process.alive()
        mount.process.stop()
        server.stop()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


# --- asking --------------------------------------------------------------------------------------------------------


def test_status_and_stats(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    with open(own_mount.path / "file", "wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        os.fsync(file.fileno())
    status = server.json("status")
    assert status["health"] == "good" and len(status["sessions"]) == 1 and status["memory_bytes"] > 0
    assert "vol" in server.run("status").stdout
    stats = json.loads(lab.run("stats", str(own_mount.path), "--json").stdout)
    assert stats
    assert lab.run("stats", str(own_mount.path)).stdout.strip()
    fails(lab, FAILURE, "stats", str(lab.root), says="mount")
    usage = server.usage("vol")
    assert usage["bytes_used"] >= 100_000 and {"bytes_stored", "bytes_metadata"} <= usage.keys()


def test_settings_from_environment_and_file(lab: harness.Lab, server: harness.Server):
    lab.run("volume", "list", env={"CAIRN_SERVER": server.address})
    config = lab.root / "cairn.toml"
    config.write_text(f'[volume.list]\nserver = "{server.address}"\n[status]\nserver = "{server.address}"\n')
    lab.run("status", "--config", str(config))
    config.write_text("this is not TOML = = =")
    result = lab.run("status", "--config", str(config), check=False)
    assert result.returncode != 0 and "cairn.toml" in result.stderr


def test_help_manuals_and_completions(lab: harness.Lab):
    top = lab.run("--help").stdout
    for command in ("dev", "serve", "mount", "umount", "volume", "status", "stats", "fsck", "key"):
        assert command in top
    for command in (["dev"], ["serve"], ["mount"], ["fsck"], ["volume", "create"], ["key", "create"]):
        text = lab.run(*command, "--help").stdout
        assert "Example" in text and ("CAIRN_" in text or command == ["x"]), f"{command} --help lacks examples or variables"
    for shell in ("bash", "zsh", "fish"):
        assert "cairn" in lab.run("completions", shell).stdout
    manuals = lab.root / "man"
    lab.run("man", str(manuals))
    assert any("mount" in path.name for path in manuals.iterdir())
    fails(lab, USAGE, "nosuchcommand")
    fails(lab, USAGE, "mount")
