"""FUSE over io_uring: what is said of it, and that a mount that uses it ends in every way in which mounts end.

That files behave the same is the business of every other test, which take io_uring where there is one, and with CAIRN_TRANSPORT=classic `/dev/fuse`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from support import harness

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


BURST = """
import fcntl, os, sys, time
path, count = sys.argv[1], int(sys.argv[2])
ready, begin, done, holder = os.pipe(), os.pipe(), os.pipe(), os.pipe()

def member(number):
    os.sched_setaffinity(0, {0})
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    file = os.open(path, os.O_RDWR)
    if number == count:
        fcntl.flock(file, fcntl.LOCK_EX)
    os.write(ready[1], b"r")
    os.read(holder[0] if number == count else begin[0], 1)
    fcntl.flock(file, fcntl.LOCK_UN if number == count else fcntl.LOCK_EX)
    os.write(done[1], b"d")

for number in range(count + 1):
    if os.fork() == 0:
        try:
            member(number)
        finally:
            os._exit(0)

def collect(pipe):
    seen = 0
    while seen < count + 1:
        seen += len(os.read(pipe[0], count + 1))

collect(ready)
os.sched_setaffinity(0, {0})
os.setpriority(os.PRIO_PROCESS, 0, -20)
os.write(begin[1], b"g" * count)
os.write(holder[1], b"g")
time.sleep(0.5)
print("begun", flush=True)
collect(done)
print("all had it")
"""


def test_a_burst_that_depends_on_its_last_request_ends(lab: harness.Lab, server: harness.Server):
    """More requests than there are places for come on one CPU before the mount's thread there has its turn, all of
    them waiting for locks, and what gives the locks back comes behind them."""
    mount = lab.mount(server, "vol", *URING)
    path = mount.path / "lock"
    path.write_bytes(b"")
    assert mount.process is not None
    tasks = pathlib.Path(f"/proc/{mount.process.popen.pid}/task").iterdir()
    ring = next(int(task.name) for task in tasks if (task / "comm").read_text().strip() == "fuse-ring-0")
    os.setpriority(os.PRIO_PROCESS, ring, 19)
    program = subprocess.Popen(
        [sys.executable, "-c", BURST, str(path), "200"], stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    try:
        assert program.stdout is not None and program.stdout.readline() == "begun\n"
        os.setpriority(os.PRIO_PROCESS, ring, 0)
        # Not `communicate`: it does not see what came together with the first line.
        assert program.wait(40) == 0
        assert program.stdout.read() == "all had it\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait(30)
