"""Starts servers and mounts of the real program for tests and scripts, and takes them away again.

Everything belongs to a `Lab`: one temporary folder, the processes started in it, and a watchdog (watchdog.py) that
ends them even if this process is killed. Every wait has a limit.

Not here: what is tested. The tests know the program only through its command line and the mounted directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_LIMIT = 30.0
STOP_LIMIT = 60.0
COMMAND_LIMIT = 60.0


def binary() -> pathlib.Path:
    """The program under test: $CAIRN_BINARY, or the release build of this tree."""
    named = os.environ.get("CAIRN_BINARY")
    if named:
        return pathlib.Path(named).resolve()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "cairn"


def tools() -> pathlib.Path:
    """Where scripts/setup puts pjdfstest, fsx and the Python environment."""
    return ROOT / "target" / "tools"


def transport() -> str:
    """How mounts get their requests: $CAIRN_TRANSPORT (`uring`, `classic`), or `auto`."""
    return os.environ.get("CAIRN_TRANSPORT", "auto")


def wait_until(condition: Callable[[], object], limit: float, what: str, pause: float = 0.02):
    """Waits until `condition` gives something true and returns it; TimeoutError after `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {limit:g} s still not: {what}")
        time.sleep(pause)


def is_mounted(directory: os.PathLike | str) -> bool:
    """Whether something is mounted at exactly this directory; reads the kernel's table, touches no mount."""
    wanted = os.fspath(directory).encode()
    with open("/proc/self/mountinfo", "rb") as table:
        points = (line.split()[4] for line in table)
        return any(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), point) == wanted for point in points)


class Failed(AssertionError):
    """A command of the program did not do what it was started for."""


class Process:
    """A program in the background with its output in a file."""

    def __init__(self, lab: Lab, name: str, arguments: list[str], env: dict[str, str] | None = None):
        self.lab = lab
        self.name = name
        self.log_path = lab.logs / f"{len(lab.processes):02d}-{name}.log"
        self.arguments = arguments
        with open(self.log_path, "wb") as log:
            self.popen = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=lab.environment(env), start_new_session=True
            )
        lab.tell(f"process {self.popen.pid}")
        lab.processes.append(self)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def alive(self) -> bool:
        return self.popen.poll() is None

    def wait_for(self, pattern: str, limit: float = START_LIMIT) -> re.Match[str]:
        """Waits for a line of output that matches; fails at once if the process ends first."""

        def look() -> re.Match[str] | None:
            ended = not self.alive()
            found = re.search(pattern, self.log, re.MULTILINE)
            if not found and ended:
                raise Failed(f"{self.name} ended with {self.popen.returncode} before {pattern!r}:\n{self.log[-4000:]}")
            return found

        try:
            return wait_until(look, limit, f"{self.name} prints {pattern!r}")
        except TimeoutError as error:
            raise Failed(f"{error}\n{self.log[-4000:]}") from None

    def send(self, number: int) -> None:
        if self.alive():
            os.kill(self.pid, number)

    def suspend(self) -> None:
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM, limit: float = STOP_LIMIT) -> int:
        """Asks the process to end and returns its exit code."""
        self.send(number)
        try:
            code = self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self.name} did not end within {limit:g} s of signal {number}:\n{self.log[-4000:]}") from None
        self.lab.tell(f"forget {self.pid}")
        return code

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        self.send(signal.SIGKILL)
        self.popen.wait(30)
        self.lab.tell(f"forget {self.pid}")


class Server:
    """`cairn serve` on a data directory, and commands addressed to it."""

    def __init__(
        self, lab: Lab, data: pathlib.Path, *flags: str, listen: str = "none", prefix: tuple[str, ...] = ()
    ):
        self.lab = lab
        self.data = data
        self.prefix = prefix
        self.socket = data / "cairn.sock"
        self.flags = flags
        self.listen = listen
        self.tcp: str | None = None
        self.process: Process | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        command = [*self.prefix, str(binary()), "serve", "--data", str(self.data), "--listen", self.tcp or self.listen, *self.flags]
        self.process = Process(self.lab, "server", command)
        self.process.wait_for(r"^listening on .*cairn\.sock")
        if self.listen != "none":
            self.tcp = self.process.wait_for(r"^listening on (?:tcp://|tcp:|tls://)?([\d.]+:\d+)")[1]

    def stop(self) -> int:
        assert self.process is not None
        return self.process.stop()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def restart(self) -> None:
        """Starts again after stop() or kill(), on the same addresses."""
        self.start()

    def run(self, *arguments: str, check: bool = True, limit: float = COMMAND_LIMIT) -> subprocess.CompletedProcess[str]:
        return self.lab.run(*arguments, "--server", self.address, check=check, limit=limit)

    def json(self, *arguments: str):
        return json.loads(self.run(*arguments, "--json").stdout)

    def create_volume(self, name: str, size: str = "10GiB", *flags: str):
        return self.json("volume", "create", name, "--size", size, *flags)

    def create_key(self, *flags: str) -> str:
        return self.run("key", "create", *(flags or ("--admin",))).stdout.strip().splitlines()[0]

    def usage(self, volume: str):
        return self.json("volume", "usage", volume)

    def fsck(self, volume: str, *flags: str, limit: float = 600.0) -> subprocess.CompletedProcess[str]:
        return self.run("fsck", volume, *flags, check=False, limit=limit)

    def assert_clean(self, volume: str, *flags: str) -> None:
        result = self.fsck(volume, *flags)
        assert result.returncode == 0, f"fsck {volume} {' '.join(flags)}:\n{result.stdout}{result.stderr}"

    def memory(self) -> int:
        """Resident bytes of the server's process."""
        return resident_bytes(self.pid)

    def packs(self) -> list[pathlib.Path]:
        """Every pack file of every volume."""
        return sorted(path for path in self.data.glob("volumes/*/packs/**/*") if path.is_file())


class Mount:
    """`cairn mount --foreground` or `cairn dev`: a directory and the process behind it."""

    def __init__(self, lab: Lab, directory: pathlib.Path, arguments: list[str], prefix: tuple[str, ...] = ()):
        self.lab = lab
        self.path = directory
        self.prefix = prefix
        self.arguments = arguments
        self.process: Process | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.start()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        self.lab.tell(f"mount {self.path}")
        self.process = Process(self.lab, f"mount-{self.path.name}", [*self.prefix, str(binary()), *self.arguments])
        self.process.wait_for(r"^mounted .* at ")
        if not is_mounted(self.path):
            raise Failed(f"the program said it had mounted {self.path}, but nothing is mounted there")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """An orderly end; the exit code of the process."""
        assert self.process is not None
        code = self.process.stop(number)
        if is_mounted(self.path):
            self.detach()
            raise Failed(f"{self.path} is still mounted after its process ended:\n{self.process.log[-2000:]}")
        self.lab.tell(f"unmounted {self.path}")
        return code

    def kill(self) -> None:
        """kill -9 of the mount's process, and the dead mount taken away."""
        assert self.process is not None
        self.process.kill()
        self.detach()

    def detach(self) -> None:
        """Unmounts lazily whatever state the mount is in."""
        for _ in range(8):  # somebody may have mounted over it
            if not is_mounted(self.path):
                break
            subprocess.run(["umount", "-l", str(self.path)], check=False, timeout=30, stderr=subprocess.DEVNULL)
        self.lab.tell(f"unmounted {self.path}")

    def stop_orderly(self) -> None:
        """Stops; Failed unless the process says that everything was written."""
        code = self.stop()
        if code != 0:
            raise Failed(f"the mount process ended with {code}:\n{self.process.log[-4000:]}")

    def remount(self) -> None:
        """Stops and starts: nothing is cached afterwards."""
        self.stop_orderly()
        self.start()


class Lab:
    """A temporary folder with servers and mounts; use it as a context manager."""

    def __init__(self, folder: str | None = None):
        base = folder or os.environ.get("CAIRN_TEST_DIR") or tempfile.gettempdir()
        # Short, because a Unix socket's path has at most 107 bytes.
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="cairn-", dir=base))
        self.root.chmod(0o755)
        self.logs = self.root / "logs"
        self.logs.mkdir()
        self.processes: list[Process] = []
        self.owners: list[Server | Mount] = []
        self.watchdog = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).parent / "watchdog.py")], stdin=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            assert self.watchdog.stdin is not None
            self.watchdog.stdin.write(os.fsencode(line) + b"\n")
            self.watchdog.stdin.flush()

    def arm(self, seconds: float) -> None:
        """From now on everything that the lab started is killed after so many seconds."""
        self.tell(f"arm {seconds} {self.root}/hang.txt")

    def disarm(self) -> None:
        self.tell("disarm")

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """The environment of the program under test: nothing of the caller's configuration gets in."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("CAIRN_")}
        env["HOME"] = env["XDG_STATE_HOME"] = env["XDG_CONFIG_HOME"] = str(self.root / "home")
        env["CAIRN_LOG"] = os.environ.get("CAIRN_TEST_LOG", "info")
        env["RUST_BACKTRACE"] = "1"
        env["CAIRN_TRANSPORT"] = transport()
        return env | (extra or {})

    def run(
        self, *arguments: str, check: bool = True, limit: float = COMMAND_LIMIT, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs the program to its end."""
        result = subprocess.run(
            [str(binary()), *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=limit, env=self.environment(env), check=False,
        )
        if check and result.returncode != 0:
            raise Failed(f"cairn {' '.join(arguments)} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
        return result

    def new_path(self, name: str) -> pathlib.Path:
        """A path in the lab that does not exist yet."""
        for number in range(1000):
            path = self.root / (name if number == 0 else f"{name}{number}")
            if not path.exists():
                return path
        raise Failed(f"too many paths named {name}")

    def server(self, *flags: str, data: pathlib.Path | None = None, listen: str = "none") -> Server:
        server = Server(self, data or self.new_path("data"), *flags, listen=listen)
        self.owners.append(server)
        return server

    def mount(
        self, server: Server, volume: str, *flags: str, name: str = "mnt", tcp: bool = False, key: str | None = None
    ) -> Mount:
        directory = self.new_path(name)
        address = server.tcp if tcp else server.address
        command = ["mount", volume, str(directory), "--server", str(address), "--foreground", *flags]
        if tcp:
            command += ["--key", key or server.create_key("--volume", volume)]
        mount = Mount(self, directory, command)
        self.owners.append(mount)
        return mount

    def dev(self, *flags: str, data: pathlib.Path | None = None, size: str = "20GiB") -> Mount:
        directory = self.new_path("dev")
        data = data or self.new_path("data")
        mount = Mount(self, directory, ["dev", str(directory), "--data", str(data), "--size", size, *flags])
        self.owners.append(mount)
        return mount

    def all_logs(self, tail: int = 6000) -> Iterator[tuple[str, str]]:
        """Name and end of the output of each process, in the order they were started."""
        for process in self.processes:
            state = "running" if process.alive() else f"ended with {process.popen.returncode}"
            yield f"{process.log_path.name} (pid {process.pid}, {state})", process.log[-tail:]
        hang = self.root / "hang.txt"
        if hang.exists():
            yield "the watchdog stopped this test; what everybody was waiting for", hang.read_text()[:20000]

    def close(self) -> None:
        """Ends everything, mounts first, and removes the folder."""
        for owner in reversed(self.owners):
            process = owner.process
            if process is not None and process.alive():
                process.resume()
                with contextlib.suppress(Failed, subprocess.TimeoutExpired):
                    process.stop(limit=20)
            if isinstance(owner, Mount):
                owner.detach()
        for process in self.processes:
            if process.alive():
                process.kill()
        assert self.watchdog.stdin is not None
        self.watchdog.stdin.close()
        self.watchdog.wait(60)
        if os.environ.get("CAIRN_TEST_KEEP"):
            print(f"kept: {self.root}", file=sys.stderr)
        elif not any(is_mounted(owner.path) for owner in self.owners if isinstance(owner, Mount)):
            shutil.rmtree(self.root, ignore_errors=True)


def resident_bytes(pid: int) -> int:
    """Memory of a process; 0 once it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def drop_caches() -> bool:
    """Empties the kernel's caches of clean pages, entries and inodes; False where that is not allowed."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as control:
            control.write("3")
    except OSError:
        return False
    return True


def ensure_user(name: str) -> None:
    """Makes a system user with a group of the same name unless it exists; needs root."""
    import pwd

    with contextlib.suppress(KeyError):
        pwd.getpwnam(name)
        return
    subprocess.run(
        ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
         "--shell", "/usr/sbin/nologin", name],
        check=True,
    )


TEST_USERS = ("cairn-test-1", "cairn-test-2", "cairn-test-3")
