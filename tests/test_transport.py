"""FUSE over io_uring: what is said of it, and that a mount that uses it ends in every way in which mounts end.

That files behave the same is the business of every other test, run with CAIRN_TRANSPORT=uring.
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

import harness

PARAMETER = pathlib.Path("/sys/module/fuse/parameters/enable_uring")
pytestmark = pytest.mark.skipif(not PARAMETER.exists(), reason="this kernel has no FUSE over io_uring")

URING = ("--transport", "uring")


def said(lab: harness.Lab, mount: harness.Mount) -> str:
    return json.loads(lab.run("stats", str(mount.path), "--json").stdout)["transport"]


def test_stats_and_status_say_which_transport_and_why(lab: harness.Lab, server: harness.Server):
    uring = lab.mount(server, "vol", *URING, name="uring")
    classic = lab.mount(server, "vol", "--transport", "classic", name="classic")
    auto = lab.mount(server, "vol", "--transport", "auto", name="auto")
    assert said(lab, uring).startswith("io_uring: ")
    assert said(lab, classic) == "classic: asked for"
    # Mounting with io_uring as root has allowed it.
    assert PARAMETER.read_text().strip() == "Y" and said(lab, auto).startswith("io_uring: ")
    text = server.run("status").stdout
    assert f"{uring.path}  " in text and "io_uring: " in text and "classic: asked for" in text
    by_directory = {session["directory"]: session["transport"] for session in server.json("status")["sessions"]}
    assert by_directory[str(uring.path)] == said(lab, uring) and by_directory[str(classic.path)] == said(lab, classic)
    (uring.path / "seen").write_text("by all")
    assert (classic.path / "seen").read_text() == (auto.path / "seen").read_text() == "by all"


def test_a_transport_that_does_not_exist_is_refused_with_those_that_do(lab: harness.Lab, server: harness.Server):
    directory = lab.new_path("mnt")
    result = lab.run("mount", "vol", str(directory), "--transport", "fastest", "--server", server.address, check=False)
    assert result.returncode == 2 and "uring" in result.stderr and "classic" in result.stderr


def busy(directory: pathlib.Path) -> subprocess.Popen[bytes]:
    """A program that works in the directory, making, reading and removing files until that fails."""
    program = """
import os, sys
os.chdir(sys.argv[1])
print("begun", flush=True)
try:
    for number in range(10**9):
        path = f"busy{number % 50}"
        with open(path, "wb") as file:
            file.write(b"x" * 200_000)
        with open(path, "rb") as file:
            file.read()
        os.unlink(path)
except OSError:
    pass
"""
    command = [sys.executable, "-c", program, str(directory)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert started.stdout is not None and started.stdout.readline() == b"begun\n"
    return started


@pytest.mark.parametrize("end", ["kill", "abort", "terminate"])
def test_a_busy_mount_ends_without_a_hang_and_can_be_mounted_again(lab: harness.Lab, server: harness.Server, end: str):
    mount = lab.mount(server, "vol", *URING)
    programs = [busy(mount.path) for _ in range(4)]
    try:
        with open(mount.path / "kept", "w", encoding="utf-8") as file:
            file.write("synced")
            file.flush()
            os.fsync(file.fileno())
        if end == "kill":
            mount.kill()
        elif end == "abort":
            subprocess.run(["umount", "-f", str(mount.path)], check=False, stderr=subprocess.DEVNULL)
            assert mount.process is not None
            mount.process.popen.wait(60)
            mount.detach()
        else:
            mount.stop(signal.SIGTERM)  # not clean: the programs are in it to the end
        for program in programs:
            program.wait(30)
    finally:
        for program in programs:
            program.kill()
            program.wait(30)
    mount.start()
    assert said(lab, mount).startswith("io_uring: ")
    assert (mount.path / "kept").read_text() == "synced"
    mount.stop()
    server.assert_clean("vol", "--data")


def test_a_mount_in_the_background(lab: harness.Lab, server: harness.Server):
    directory = lab.new_path("mnt")
    lab.tell(f"mount {directory}")
    log = lab.root / "mount.log"
    lab.run("mount", "vol", str(directory), "--server", server.address, "--log-file", str(log), *URING)
    (directory / "file").write_bytes(b"content" * 100_000)
    assert "io_uring: " in log.read_text()
    lab.run("umount", str(directory))
    assert not harness.is_mounted(directory)
    lab.tell(f"unmounted {directory}")


def test_many_waiting_locks_leave_room_for_the_unlocking(lab: harness.Lab, server: harness.Server):
    mount = lab.mount(server, "vol", *URING)
    path = mount.path / "lock"
    had = threading.Semaphore(0)

    def wait() -> None:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            had.release()

    with open(path, "w+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        waiting = [threading.Thread(target=wait, daemon=True) for _ in range(100)]
        for thread in waiting:
            thread.start()
        threading.Event().wait(1)
        assert not had.acquire(blocking=False)
        (mount.path / "other").write_text("others go on")
    for _ in waiting:
        assert had.acquire(timeout=30), "a waiting lock was never had"
