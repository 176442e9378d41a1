"""The local file system, Cairn, MooseFS and GlusterFS, set up alike; used by scripts/compare-peers and its kin.

Each peer is a directory and a way to unmount it and mount it again, by which its client forgets everything. All but the local one
serve over TCP from processes of their own on this machine, MooseFS and GlusterFS in a network namespace with an address of
its own, because they refuse localhost (their traffic stays inside that namespace's loopback all the same).

Not here: what is measured (workloads.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from . import harness, syscalls


@dataclasses.dataclass
class Peer:
    """A file system under measurement."""

    name: str
    path: pathlib.Path
    store: pathlib.Path
    """Folder on the local disk that holds what the peer stores."""
    note: str
    unmount: Callable[[], object] | None = None
    """Takes the client away; `None` where there is none."""
    mount: Callable[[], object] | None = None
    has_disk_cache: bool = False
    mounted: bool = True

    @property
    def has_client(self) -> bool:
        return self.unmount is not None

    def unmounted(self) -> None:
        """Takes the client away, if there is one and it is there."""
        if self.unmount and self.mounted:
            self.unmount()
            self.mounted = False

    def mount_again(self) -> None:
        if self.mount and not self.mounted:
            self.mount()
            self.mounted = True

    def settle(self) -> None:
        """Until all that was written is on the disk. The kernel does not pass sync(2) on to FUSE file systems; an unmount is
        what makes each of them hand over everything, and the disk's own sync does the rest."""
        self.unmounted()
        descriptor = os.open(self.store, os.O_RDONLY)
        syscalls.syncfs(descriptor)
        os.close(descriptor)

    def remount(self) -> None:
        """The client forgets everything; what its servers keep in memory stays."""
        self.settle()
        self.mount_again()

    def chill(self) -> None:
        """Nothing is cached anywhere: the client is mounted anew, and the kernel's caches are empty."""
        self.remount()
        harness.drop_caches()
        time.sleep(0.3)


@contextlib.contextmanager
def local(lab: harness.Lab) -> Iterator[Peer]:
    path = lab.new_path("local")
    path.mkdir()
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=True).stdout.strip()
    yield Peer("local", path, path, f"the machine's own file system ({kind})", has_disk_cache=True)
    shutil.rmtree(path)


@contextlib.contextmanager
def cairn(lab: harness.Lab, *flags: str) -> Iterator[Peer]:
    server = lab.server(listen="127.0.0.1:0")
    server.create_volume("bench", "200GiB")
    mount = lab.mount(server, "bench", *flags, tcp=True)
    note = "server in a process of its own, TCP over loopback"
    peer = Peer("cairn", mount.path, server.data, note, mount.stop_orderly, mount.start, "--cache-dir" in flags)
    yield peer
    if peer.mounted:
        mount.stop()
    server.stop()


@contextlib.contextmanager
def moosefs(lab: harness.Lab) -> Iterator[Peer]:
    """Master, chunk server and mount with their defaults; everything below one temporary folder."""
    for program in ("mfsmaster", "mfschunkserver", "mfsmount"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            raise FileNotFoundError(f"{program} is missing: apt-get install moosefs-master moosefs-chunkserver moosefs-client")
    root = lab.new_path("mfs")
    for name in ("master", "chunkserver", "chunks", "etc", "mnt"):
        (root / name).mkdir(parents=True)
    shutil.copy("/var/lib/mfs/metadata.mfs.empty", root / "master/metadata.mfs")
    with network_namespace() as (enter, address):
        common = "WORKING_USER = root\nWORKING_GROUP = root\nNICE_LEVEL = 0\n"
        (root / "etc/exports").write_text("* / rw,alldirs,maproot=0:0\n* . rw\n")
        (root / "etc/master.cfg").write_text(f"{common}DATA_PATH = {root}/master\nEXPORTS_FILENAME = {root}/etc/exports\n")
        (root / "etc/hdd.cfg").write_text(f"{root}/chunks\n")
        (root / "etc/chunkserver.cfg").write_text(
            f"{common}DATA_PATH = {root}/chunkserver\nHDD_CONF_FILENAME = {root}/etc/hdd.cfg\nMASTER_HOST = {address}\n"
            "MASTER_RECONNECTION_DELAY = 1\nHDD_LEAVE_SPACE_DEFAULT = 256MiB\n"
        )
        env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        master = harness.Process(lab, "mfsmaster", [*enter, "mfsmaster", "-f", "-c", f"{root}/etc/master.cfg", "start"], env)
        master.wait_for("daemon initialized properly|master <-> metaloggers module: listen")
        chunks = harness.Process(lab, "mfschunkserver", [*enter, "mfschunkserver", "-f", "-c", f"{root}/etc/chunkserver.cfg", "start"], env)
        chunks.wait_for("connected to Master")
        point = root / "mnt"
        clients: list[harness.Process] = []

        def mount() -> None:
            lab.tell(f"mount {point}")
            client = harness.Process(lab, "mfsmount", [*enter, "mfsmount", "-f", str(point), "-H", address], env)
            clients.append(client)
            harness.wait_until(lambda: harness.is_mounted(point), 30, "MooseFS is mounted", 0.1)
            harness.wait_until(lambda: os.statvfs(point).f_blocks > 0, 60, "MooseFS has space", 0.2)

        def unmount() -> None:
            subprocess.run(["umount", str(point)], check=True, timeout=60)
            clients.pop().popen.wait(60)
            lab.tell(f"unmounted {point}")

        mount()
        try:
            yield Peer("moosefs", point, root, "defaults, one copy, in a network namespace", unmount, mount)
        finally:
            with contextlib.suppress(subprocess.SubprocessError):
                unmount()
            chunks.stop()
            master.stop()


@contextlib.contextmanager
def glusterfs(lab: harness.Lab) -> Iterator[Peer]:
    """One brick with the defaults; the daemon's files are below one temporary folder."""
    if not shutil.which("glusterd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        raise FileNotFoundError("glusterd is missing: apt-get install glusterfs-server glusterfs-client")
    root = lab.new_path("gluster")
    for name in ("etc", "work", "brick", "mnt", "log"):
        (root / name).mkdir(parents=True)
    with network_namespace() as (enter, address):
        env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        (root / "etc/glusterd.vol").write_text(
            f"volume management\n    type mgmt/glusterd\n    option working-directory {root}/work\n"
            f"    option transport-type socket\n    option transport.socket.bind-address {address}\n"
            f"    option run-directory {root}/work/run\n    option max-port 60999\nend-volume\n"
        )
        daemon = harness.Process(
            lab, "glusterd", [*enter, "glusterd", "-N", "-f", f"{root}/etc/glusterd.vol", "-l", f"{root}/log/glusterd.log",
                              "-p", f"{root}/glusterd.pid"], env,
        )

        def gluster(*command: str) -> None:
            result = subprocess.run(
                [*enter, "gluster", "--mode=script", *command], env=lab.environment(env), capture_output=True, text=True, timeout=120, check=False
            )
            if result.returncode:
                raise harness.Failed(f"gluster {' '.join(command)}: {result.stdout}{result.stderr}")

        harness.wait_until(lambda: not failing(lambda: gluster("pool", "list")), 60, "glusterd answers", 0.5)
        gluster("volume", "create", "bench", f"{address}:{root}/brick", "force")
        gluster("volume", "start", "bench")
        point = root / "mnt"
        clients: list[harness.Process] = []

        def mount() -> None:
            lab.tell(f"mount {point}")
            command = ["glusterfs", "-N", "-s", address, "--volfile-id=bench", "-l", f"{root}/log/mount.log", str(point)]
            clients.append(harness.Process(lab, "glusterfs", [*enter, *command], env))
            harness.wait_until(lambda: harness.is_mounted(point), 60, "GlusterFS is mounted", 0.1)
            harness.wait_until(lambda: not failing(lambda: os.listdir(point)), 60, "GlusterFS answers", 0.2)

        def unmount() -> None:
            subprocess.run(["umount", str(point)], check=True, timeout=60)
            clients.pop().popen.wait(60)
            lab.tell(f"unmounted {point}")

        try:
            mount()
            yield Peer("glusterfs", point, root, "defaults, one brick, in a network namespace", unmount, mount)
        finally:
            with contextlib.suppress(subprocess.SubprocessError, IndexError):
                unmount()
            with contextlib.suppress(subprocess.SubprocessError, harness.Failed):
                gluster("volume", "stop", "bench", "force")
            daemon.stop()


def failing(action: Callable[[], object]) -> bool:
    try:
        action()
    except (OSError, harness.Failed, subprocess.SubprocessError):
        return True
    return False


@contextlib.contextmanager
def network_namespace() -> Iterator[tuple[list[str], str]]:
    """A network namespace with one address of its own: the command prefix that enters it, and the address."""
    name, near, far = (f"cairn-{kind}{os.getpid() % 100_000}" for kind in ("n", "v", "w"))
    address = "10.213.77.1"

    def run(*command: str) -> None:
        subprocess.run(["ip", *command], check=True)

    run("netns", "add", name)
    try:
        # `ip netns exec` would hide mounts from others; entering the network alone does not.
        enter = ["nsenter", f"--net=/run/netns/{name}"]
        run("link", "add", near, "type", "veth", "peer", "name", far)
        run("link", "set", far, "netns", name)
        run("link", "set", near, "up")
        for command in (["link", "set", "lo", "up"], ["addr", "add", f"{address}/24", "dev", far], ["link", "set", far, "up"]):
            subprocess.run([*enter, "ip", *command], check=True)
        yield enter, address
    finally:
        subprocess.run(["ip", "link", "del", near], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "del", name], check=False)


PEERS = {"local": local, "cairn": cairn, "moosefs": moosefs, "glusterfs": glusterfs}


def complain(text: str) -> None:
    """Tells the watcher, beside the table."""
    print(text, file=sys.stderr, flush=True)
