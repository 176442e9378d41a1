"""Local ext4, Cairn and MooseFS, set up alike and measured alike; used by scripts/compare-peers and its kin.

Each peer is a directory, a way to make the client forget everything (a remount), and a folder for what it stores. Cairn and MooseFS
serve over TCP from processes of their own on this machine, MooseFS in a network namespace with an address of its own,
because it refuses localhost (its traffic stays inside that namespace's loopback all the same).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import harness

MIB = 1 << 20


@dataclasses.dataclass
class Peer:
    """A file system under measurement."""

    name: str
    path: pathlib.Path
    remount: Callable[[], None]
    note: str = ""


@contextlib.contextmanager
def local(lab: harness.Lab) -> Iterator[Peer]:
    path = lab.new_path("local")
    path.mkdir()
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=True).stdout.strip()
    yield Peer("local", path, lambda: None, f"the machine's own file system ({kind})")
    shutil.rmtree(path)


@contextlib.contextmanager
def cairn(lab: harness.Lab, *flags: str) -> Iterator[Peer]:
    server = lab.server(listen="127.0.0.1:0")
    server.create_volume("bench", "200GiB")
    mount = lab.mount(server, "bench", *flags, tcp=True)
    yield Peer("cairn", mount.path, mount.remount, "server in a process of its own, TCP over loopback")
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
            yield Peer("moosefs", point, lambda: (unmount(), mount()) and None, "defaults, one copy, in a network namespace")
        finally:
            with contextlib.suppress(subprocess.SubprocessError):
                unmount()
            chunks.stop()
            master.stop()


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


PEERS = {"local": local, "cairn": cairn, "moosefs": moosefs}


# --- what is measured ----------------------------------------------------------------------------------------------


def chill(peer: Peer) -> None:
    """Nothing is cached anywhere: the client is mounted anew, the kernel's caches are empty, the servers' files too."""
    os.sync()
    peer.remount()
    harness.drop_caches()
    time.sleep(0.3)


def timed(action: Callable[[], None]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def write_large(path: pathlib.Path, size: int) -> None:
    """Bytes that no file system can leave out or pack together."""
    block = bytearray(random.Random(0).randbytes(4 * MIB))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in range(size // MIB):
        block[:8] = number.to_bytes(8, "little")
        start = (number * 4096 * 7) % (3 * MIB)
        os.write(descriptor, memoryview(block)[start : start + MIB])
    os.fsync(descriptor)
    os.close(descriptor)


def read_large(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    buffer = bytearray(MIB)
    while os.readv(descriptor, [buffer]):
        pass
    os.close(descriptor)


def large_file(peer: Peer, size: int) -> dict[str, float]:
    """MB/s of a sequential write with fsync, and of a read after everybody forgot."""
    path = peer.path / "large"
    chill(peer)
    write = timed(lambda: write_large(path, size))
    chill(peer)
    read = timed(lambda: read_large(path))
    again = timed(lambda: read_large(path))
    path.unlink()
    return {"write (MB/s)": size / write / 1e6, "cold read (MB/s)": size / read / 1e6, "second read (MB/s)": size / again / 1e6}


def small_files(peer: Peer, count: int, size: int = 4096, folders: int = 20) -> dict[str, float]:
    """Files a second, one caller: create and write, stat, read, delete; the client cold before each."""
    top = peer.path / "small"
    content = random.Random(1).randbytes(size + count)
    names = [f"{top}/d{number % folders}/f{number}" for number in range(count)]
    chill(peer)

    def create() -> None:
        for folder in range(folders):
            os.makedirs(f"{top}/d{folder}")
        for number, name in enumerate(names):
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(descriptor, content[number : number + size])
            os.close(descriptor)
        descriptor = os.open(top, os.O_RDONLY)
        sync_file_system(descriptor)
        os.close(descriptor)

    def look() -> None:
        for name in names:
            os.stat(name)

    def read() -> None:
        for name in names:
            descriptor = os.open(name, os.O_RDONLY)
            os.read(descriptor, size + 1)
            os.close(descriptor)

    def walk() -> None:
        found = sum(len(files) for _, _, files in os.walk(top))
        assert found == count

    def delete() -> None:
        for name in names:
            os.unlink(name)

    result: dict[str, float] = {}
    for label, action in (("create", create), ("stat", look), ("read", read), ("list", walk), ("delete", delete)):
        if label != "create":
            chill(peer)
        result[f"{label} (files/s)"] = count / timed(action)
    shutil.rmtree(top)
    return result


def sync_file_system(descriptor: int) -> None:
    import syscalls

    syscalls.syncfs(descriptor)


def measure(peer: Peer, size: int, count: int) -> dict[str, float]:
    result = large_file(peer, size) if size else {}
    if count:
        result |= small_files(peer, count)
    return result


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {os.uname().release}"


def complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
