"""Container engines of the test's own: Podman and Docker with their own storage and configuration, small images made
here, and `cairn plugin docker` for their volumes.

Everything lives in a lab's folder, so that tests run beside others and beside the machine's own containers. Podman is
configured by files alone, so commands look as a user would write them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile

from . import harness

IMAGE = "localhost/box"
"""BusyBox and nothing else."""

COMMAND_LIMIT = 60.0

# The runtime and the limits are those that work where the tests themselves run in a sandbox without systemd: runc asks less of
# the kernel than crun, control groups are made as folders, and limits are not raised beyond what the sandbox has.
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1000:1000"]
netns = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{root}/tmp"
[engine.volume_plugins]
cairn = "{socket}"
"""

STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{root}/storage"
runroot = "{root}/run"
"""


@functools.cache
def why_not(program: str) -> str | None:
    """The reason why containers cannot be run by this engine here; None if they can."""
    needed = {"podman": ("podman", "runc"), "docker": ("docker", "dockerd")}[program]
    missing = [name for name in (*needed, "busybox") if not shutil.which(name)]
    if missing:
        return f"not installed: {', '.join(missing)} (scripts/setup installs it)"
    if os.geteuid() != 0:
        return "containers with mounts take root"
    try:
        with harness.Lab() as lab, {"podman": Podman, "docker": Docker}[program](lab) as engine:
            engine.container(IMAGE, "true")
    except harness.Failed as error:
        return f"{program} cannot run a container here: {error}"
    return None


def make_root(target: pathlib.Path, busybox: bool = True) -> None:
    """A root file system: the folders that a container expects, and BusyBox under the names of its programs."""
    for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp"):
        (target / name).mkdir(parents=True)
    if not busybox:
        return
    program = shutil.which("busybox")
    assert program is not None
    (target / "bin").mkdir()
    shutil.copy(program, target / "bin" / "busybox")
    for name in subprocess.run([program, "--list"], capture_output=True, text=True, check=True, timeout=20).stdout.split():
        if name != "busybox":
            (target / "bin" / name).symlink_to("busybox")


def python_mounts() -> list[str]:
    """Arguments of `podman run` that bring this Python and its packages into a container made by `import_python`."""
    folders = ["/usr", *(os.path.realpath(path) for path in (sys.base_prefix, sys.prefix))]
    return [f"--volume={folder}:{folder}:ro" for folder in dict.fromkeys(folders) if folder == "/usr" or not folder.startswith("/usr/")]


class Engine:
    """What tests ask of an engine; use it as a context manager."""

    program: str
    driver: str
    """By this name the engine knows the plug-in."""
    run_flags: tuple[str, ...] = ()
    """What `run` needs where the tests run."""
    remove_flags: tuple[str, ...] = ("--force",)

    lab: harness.Lab
    root: pathlib.Path
    environment: dict[str, str]
    """What makes any call of the program use this engine."""

    def __enter__(self):
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError

    def run(
        self, *arguments: object, check: bool = True, limit: float = COMMAND_LIMIT
    ) -> subprocess.CompletedProcess[str]:
        """Any command of the engine."""
        result = subprocess.run(
            [self.program, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=limit, check=False, env=self.lab.environment(self.environment),
        )
        if check and result.returncode != 0:
            command = " ".join([self.program, *map(str, arguments)])
            raise harness.Failed(f"{command} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
        return result

    def container(self, *arguments: object, limit: float = COMMAND_LIMIT) -> str:
        """A container's output, run to its end and removed."""
        return self.run("run", "--rm", *self.run_flags, *arguments, limit=limit).stdout

    def start(self, *arguments: object) -> str:
        """A container in the background; its id. Its process ends with the tests, even if they are killed."""
        container = self.run("run", "--detach", *self.run_flags, *arguments).stdout.strip()
        pid = int(self.run("inspect", "--format", "{{.State.Pid}}", container).stdout)
        if pid:
            self.lab.tell(f"process {pid}")
        return container

    def remove(self, *containers: str) -> None:
        self.run("rm", *self.remove_flags, *containers)

    def create_volume(self, name: str, *flags: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("volume", "create", "--driver", self.driver, *flags, name, check=check)

    def import_image(
        self, name: str, files: dict[str, bytes] | None = None, links: dict[str, str] | None = None
    ) -> None:
        """Makes an image with these files (executable) and symbolic links; of BusyBox unless it has links."""
        with tempfile.TemporaryDirectory(dir=self.root) as scratch:
            root = pathlib.Path(scratch) / "root"
            make_root(root, busybox=not links)
            for link, target in (links or {}).items():
                (root / link).symlink_to(target)
            for path, content in (files or {}).items():
                file = root / path.lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                file.chmod(0o755)
            archive = pathlib.Path(scratch) / "image.tar"
            with tarfile.open(archive, "w") as tar:
                tar.add(root, arcname=".")
            self.run("import", archive, name)

    def import_python(self, name: str, files: dict[str, bytes] | None = None) -> None:
        """Makes an image in which this machine's Python runs, given `python_mounts()`; nothing can be fetched in a test."""
        self.import_image(name, files, links={"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"})


class Podman(Engine):
    program = "podman"
    driver = "cairn"
    remove_flags = ("--force", "--time", "0")

    def __init__(self, lab: harness.Lab, plugin_socket: pathlib.Path | None = None):
        self.lab = lab
        self.root = lab.new_path("podman")
        self.root.mkdir()
        (self.root / "containers.conf").write_text(
            CONFIGURATION.format(root=self.root, socket=plugin_socket or self.root / "none.sock")
        )
        (self.root / "storage.conf").write_text(STORAGE.format(root=self.root))
        self.environment = {
            "CONTAINERS_CONF": str(self.root / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.root / "storage.conf"),
        }
        # Podman mounts its storage onto itself.
        lab.tell(f"mount {self.root}/storage/overlay")
        self.import_image(IMAGE)

    def close(self) -> None:
        with contextlib.suppress(harness.Failed, subprocess.TimeoutExpired):
            self.run("rm", "--all", "--force", "--time", "0")
        # The watchdog unmounts it once more in the end: a container's own cleaning up may come late and mount it again.
        unmount_all_below(self.root)


class Docker(Engine):
    """A Docker daemon without networks; it finds plug-ins by the names of their sockets in one folder of the machine."""

    program = "docker"
    run_flags = ("--network=none",)

    def __init__(self, lab: harness.Lab, plugin_socket: pathlib.Path | None = None):
        self.lab = lab
        self.root = lab.new_path("docker")
        self.root.mkdir()
        self.driver = plugin_socket.stem if plugin_socket else "none"
        self.environment = {"DOCKER_HOST": f"unix://{self.root}/docker.sock", "DOCKER_CONFIG": str(self.root / "config")}
        self.daemon = harness.Process(
            lab, "dockerd",
            ["dockerd", "--data-root", f"{self.root}/data", "--exec-root", f"{self.root}/exec", "--pidfile", f"{self.root}/pid",
             "--host", self.environment["DOCKER_HOST"], "--bridge=none", "--iptables=false", "--ip6tables=false",
             "--storage-driver=overlay2", "--default-ulimit=nofile=20000:20000", "--default-ulimit=nproc=1000:1000"],
        )
        self.daemon.wait_for("API listen on")
        self.import_image(IMAGE)

    def close(self) -> None:
        with contextlib.suppress(harness.Failed, subprocess.TimeoutExpired):
            if containers := self.run("ps", "--all", "--quiet").stdout.split():
                self.remove(*containers)
        with contextlib.suppress(harness.Failed):
            self.daemon.stop(limit=30)
        unmount_all_below(self.root)


def unmount_all_below(folder: pathlib.Path) -> None:
    """Takes away whatever is mounted there, the last first."""
    for _ in range(64):
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            mounted = [line.split()[4] for line in table if f" {folder}/" in line]
        if not mounted:
            break
        subprocess.run(["umount", "-l", mounted[-1]], check=False, timeout=30, stderr=subprocess.DEVNULL)


class Plugin:
    """`cairn plugin docker` for a server."""

    def __init__(self, lab: harness.Lab, server: harness.Server, *flags: str, socket: pathlib.Path | None = None):
        self.lab = lab
        self.server = server
        self.socket = socket or lab.root / "cairn.plugin.sock"
        self.state = lab.new_path("plugin")
        self.flags = flags
        self.start()

    def __enter__(self) -> Plugin:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def start(self) -> None:
        self.process = harness.Process(
            self.lab, "plugin",
            [str(harness.binary()), "plugin", "docker", "--socket", str(self.socket), "--state", str(self.state),
             "--server", self.server.address, *self.flags],
        )
        self.process.wait_for(r"^listening on ")

    def stop(self) -> int:
        return self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    def live(self) -> list[pathlib.Path]:
        """Directories that are mounted for containers."""
        return [path for path in sorted((self.state / "live").glob("*")) if harness.is_mounted(path)]

    def call(self, path: str, **fields: object) -> dict[str, object]:
        """One request as an engine makes it; the answer with its status under `status`."""
        return self.send(path, json.dumps(fields).encode())

    def send(self, path: str, body: bytes) -> dict[str, object]:
        head = f"POST {path} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(90)
            connection.connect(str(self.socket))
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(head.encode() + body)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while received := connection.recv(65536):
                    answer += received
        first, _, rest = answer.partition(b"\r\n")
        return {"status": int(first.split()[1])} | json.loads(rest.partition(b"\r\n\r\n")[2])

    def mount(self, name: str, holder: str) -> pathlib.Path:
        """Mounts as an engine does."""
        answer = self.call("/VolumeDriver.Mount", Name=name, ID=holder)
        assert answer["status"] == 200, answer
        path = pathlib.Path(str(answer["Mountpoint"]))
        self.lab.tell(f"mount {path}")
        return path

    def close(self) -> None:
        if self.process.alive():
            with contextlib.suppress(harness.Failed):
                self.process.stop(limit=40)
        unmount_below(self.lab, self.state / "live")


def unmount_below(lab: harness.Lab, folder: pathlib.Path) -> None:
    """Takes away the mounts in a folder; in good order as long as the server lives."""
    for path in sorted(folder.glob("*")):
        if harness.is_mounted(path):
            lab.run("umount", str(path), "--timeout", "20s", check=False)
        for _ in range(4):
            if not harness.is_mounted(path):
                break
            subprocess.run(["umount", "-l", str(path)], check=False, timeout=30, stderr=subprocess.DEVNULL)
