"""A process that ends what a test left behind or what hangs.

A program that waits on a dead FUSE mount cannot be interrupted, and Python cannot run a timer while a page fault on
such a mount holds the interpreter. So the timer lives in this separate process. It reads commands from its standard
input, one a line:

    process PID         this process belongs to the tests: kill it at the end
    forget PID          it has ended by itself
    mount PATH          unmount this at the end
    unmounted PATH      somebody did
    arm SECONDS REPORT  unless disarmed in time, write the state of all processes to REPORT and kill them;
                        killing a mount's process frees everybody who waits on the mount
    disarm

The end of the input is the end of the tests, however they ended. Processes are known by their id and start time,
never by name.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time


def start_time(pid: int) -> str | None:
    """Tells a process from a later one with the same id; None once it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def state_of(pid: int) -> str:
    """What a process and its threads wait for, as far as the kernel tells."""
    lines = []
    for task in sorted(os.listdir(f"/proc/{pid}/task")) if os.path.isdir(f"/proc/{pid}/task") else []:
        parts = []
        for name in ("comm", "wchan", "syscall", "stack"):
            try:
                with open(f"/proc/{pid}/task/{task}/{name}", encoding="utf-8", errors="replace") as file:
                    parts.append(file.read().strip())
            except OSError:
                parts.append("?")
        lines.append(f"  thread {task} {parts[0]}: in {parts[1]}, syscall {parts[2]}\n    " + parts[3].replace("\n", "\n    "))
    return "\n".join(lines)


class Watched:
    def __init__(self) -> None:
        self.processes: dict[int, str] = {}
        self.mounts: list[str] = []

    def kill_all(self) -> None:
        for pid, started in self.processes.items():
            if start_time(pid) == started:
                for number in (signal.SIGCONT, signal.SIGKILL):
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        break

    def unmount_all(self) -> None:
        for path in reversed(self.mounts):
            subprocess.run(["umount", "-l", path], stderr=subprocess.DEVNULL, timeout=20, check=False)

    def report(self, path: str, owner: int) -> None:
        with open(path, "w", encoding="utf-8") as out:
            for pid in [owner, *self.processes]:
                out.write(f"process {pid}:\n{state_of(pid)}\n")


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    owner = os.getppid()
    watched = Watched()
    deadline: float | None = None
    report = ""
    buffer = b""
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([0], [], [], wait)[0]:
            watched.report(report, owner)
            watched.kill_all()
            deadline = None
            continue
        data = os.read(0, 65536)
        if not data:
            break
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            command, _, argument = os.fsdecode(line).partition(" ")
            if command == "process":
                watched.processes[int(argument)] = start_time(int(argument)) or ""
            elif command == "forget":
                watched.processes.pop(int(argument), None)
            elif command == "mount":
                watched.mounts.append(argument)
            elif command == "unmounted" and argument in watched.mounts:
                watched.mounts.remove(argument)
            elif command == "arm":
                seconds, _, report = argument.partition(" ")
                deadline = time.monotonic() + float(seconds)
            elif command == "disarm":
                deadline = None
    watched.kill_all()
    watched.unmount_all()


if __name__ == "__main__":
    sys.exit(main())
