"""What scripts/compare-peers measures on each peer (peers.py): the rows of its table.

Rows come in groups that share their preparation (the large file, the small files, the source tree, the wheels); a group runs only as
far as the rows that are asked for need. Every timed loop consists of system calls alone: names and bytes are made before.

"Client cold": the client is mounted anew, the servers' page cache stays. "All cold": the kernel's caches are dropped as well.
"Synced": until every byte is on the disk, see `Peer.settle`.
"""

from __future__ import annotations

import dataclasses
import functools
import mmap
import os
import pathlib
import random
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator

from peers import Peer

MIB = 1 << 20
PIP_PACKAGES = ("numpy", "pandas", "scipy", "scikit-learn")


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. Targets: how many times as fast as that peer Cairn must be."""

    name: str
    label: str
    unit: str
    targets: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def larger_is_better(self) -> bool:
        return self.unit.endswith("/s")


ROWS = [
    Row("seq-write", "sequential write with fsync", "MB/s", {"local": 0.9}),
    Row("seq-read-client", "sequential read, client cold", "MB/s", {"moosefs": 2.5}),
    Row("seq-read", "sequential read, all cold", "MB/s", {"moosefs": 2.5, "local": 0.75}),
    Row("seq-read-warm", "sequential read, again", "MB/s"),
    Row("random-1", "random 4 KiB reads, all cold, 1 thread", "reads/s", {"moosefs": 2.5}),
    Row("random-16", "random 4 KiB reads, all cold, 16 threads", "reads/s", {"moosefs": 3.0}),
    Row("create", "create small files", "files/s", {"moosefs": 8.0, "local": 0.12}),
    Row("create-synced", "create small files, synced", "files/s"),
    Row("walk", "walk and stat, all cold", "files/s", {"moosefs": 8.0, "local": 0.4}),
    Row("read", "read in order, all cold", "files/s", {"moosefs": 6.0, "local": 0.8}),
    Row("read-random", "read in random order, all cold", "files/s", {"moosefs": 4.0}),
    Row("read-8", "read with 8 threads, all cold", "files/s", {"moosefs": 4.0}),
    Row("read-warm", "read again, warm", "files/s", {"moosefs": 8.0, "local": 0.25}),
    Row("delete", "delete, client cold", "files/s", {"moosefs": 2.0}),
    Row("create-fsync", "create and fsync one by one", "files/s", {"moosefs": 1.2, "local": 0.35}),
    Row("tar-x", "tar -x of a source tree", "s", {"moosefs": 8.0}),
    Row("cp-a", "cp -a of it into the volume", "s", {"moosefs": 8.0}),
    Row("tar-c", "tar -c of it, all cold", "s", {"moosefs": 4.0}),
    Row("tree-synced", "the tree as single files, synced", "s"),
    Row("archive-synced", "the tree as one archive, synced", "s"),
    Row("pip-install", "pip install " + " ".join(PIP_PACKAGES), "s", {"local": 1 / 1.3}),
    Row("import", "first import of them, all cold", "s", {"local": 1 / 1.5}),
    Row("cached-read", "read of a file in the disk cache", "MB/s", {"local": 0.95}),
    Row("cached-mmap", "the same through mmap", "MB/s", {"local": 0.95}),
]
NAMES = [row.name for row in ROWS]


@dataclasses.dataclass
class Sizes:
    """How much is measured."""

    large: int = 4 << 30
    random_reads: int = 4000
    count: int = 20_000
    small: int = 4096
    fsyncs: int = 1000
    tree_files: int = 3600
    tree_bytes: int = 80_000_000


def measure(peer: Peer, wanted: set[str], sizes: Sizes, cache: pathlib.Path) -> dict[str, float]:
    """Runs the rows that are wanted on one peer; `cache` keeps what was downloaded or collected from run to run."""
    result: dict[str, float] = {}
    for group in (large_file, small_files, create_fsync, source_tree, packages, disk_cache):
        result.update(group(peer, wanted, sizes, cache))
    return {name: result[name] for name in NAMES if name in result}


def timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


# --- one large file ------------------------------------------------------------------------------------------------


def large_file(peer: Peer, wanted: set[str], sizes: Sizes, _cache: pathlib.Path) -> Iterator[tuple[str, float]]:
    reads = {"seq-read-client", "seq-read", "seq-read-warm", "random-1", "random-16"} & wanted
    if not reads and "seq-write" not in wanted:
        return
    path = peer.path / "large"
    peer.chill()
    yield "seq-write", sizes.large / timed(lambda: write_large(path, sizes.large)) / 1e6
    if "seq-read-client" in reads:
        peer.remount()
        if peer.name == "local":
            peer.chill()  # there is no client whose caches alone could be cold
        yield "seq-read-client", sizes.large / timed(lambda: read_large(path)) / 1e6
    if reads & {"seq-read", "seq-read-warm"}:
        peer.chill()
        yield "seq-read", sizes.large / timed(lambda: read_large(path)) / 1e6
    if "seq-read-warm" in reads:
        yield "seq-read-warm", sizes.large / timed(lambda: read_large(path)) / 1e6
    for name, threads in (("random-1", 1), ("random-16", 16)):
        if name in reads:
            peer.chill()
            yield name, sizes.random_reads / timed(lambda: read_random(path, sizes.large, sizes.random_reads, threads))
    path.unlink()


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


def read_mapped(path: pathlib.Path) -> None:
    """Touches every page in order, as a loader of model weights does, by copies of a MiB out of the mapping."""
    descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
        for start in range(0, size, MIB):
            mapped[start : start + MIB]
    os.close(descriptor)


def read_random(path: pathlib.Path, size: int, count: int, threads: int) -> None:
    choice = random.Random(threads)
    offsets = [choice.randrange(size // 4096) * 4096 for _ in range(count)]
    descriptor = os.open(path, os.O_RDONLY)

    def read(mine: list[int]) -> None:
        for offset in mine:
            if len(os.pread(descriptor, 4096, offset)) != 4096:
                raise AssertionError(f"a short read at {offset} of {path}")

    in_threads(threads, offsets, read)
    os.close(descriptor)


def in_threads(threads: int, items: list, work: Callable[[list], None]) -> None:
    """Gives every thread its share; the first error is raised here."""
    errors: list[BaseException] = []

    def run(mine: list) -> None:
        try:
            work(mine)
        except BaseException as error:  # noqa: BLE001  raised again below
            errors.append(error)

    running = [threading.Thread(target=run, args=(items[number::threads],)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


# --- many small files ----------------------------------------------------------------------------------------------


def small_files(peer: Peer, wanted: set[str], sizes: Sizes, _cache: pathlib.Path) -> Iterator[tuple[str, float]]:
    after = {"walk", "read", "read-random", "read-8", "read-warm", "delete"} & wanted
    if not after and not {"create", "create-synced"} & wanted:
        return
    top, count = peer.path / "small", sizes.count
    folders = max(1, count // 1000)
    # A folder after the other, as programs that unpack or check out do it; 1,000 files in each.
    names = [os.fsencode(f"{top}/d{number * folders // count:03}/f{number:06}") for number in range(count)]
    shuffled = random.Random(2).sample(names, count)
    peer.chill()
    os.mkdir(top)
    for folder in range(folders):
        os.mkdir(top / f"d{folder:03}")
    created = timed(lambda: create_files(names, sizes.small))
    synced = created + timed(peer.settle)
    yield "create", count / created
    yield "create-synced", count / synced
    if "walk" in after:
        peer.chill()
        yield "walk", count / timed(lambda: walk(top, count))
    if after & {"read", "read-warm"}:
        peer.chill()
        yield "read", count / timed(lambda: read_files(names, sizes.small))
    if "read-warm" in after:
        yield "read-warm", count / timed(lambda: read_files(names, sizes.small))
    if "read-random" in after:
        peer.chill()
        yield "read-random", count / timed(lambda: read_files(shuffled, sizes.small))
    if "read-8" in after:
        peer.chill()
        yield "read-8", count / timed(lambda: in_threads(8, names, lambda mine: read_files(mine, sizes.small)))
    if "delete" in after:
        peer.chill()
        yield "delete", count / timed(lambda: [os.unlink(name) for name in names])
    shutil.rmtree(top)


@functools.cache
def noise(length: int) -> bytes:
    return random.Random(1).randbytes(length)


def create_files(names: list[bytes], size: int, sync: bool = False) -> None:
    content = memoryview(noise(size + len(names)))
    for number, name in enumerate(names):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, content[number : number + size])
        if sync:
            os.fsync(descriptor)
        os.close(descriptor)


def read_files(names: list[bytes], size: int) -> None:
    for name in names:
        descriptor = os.open(name, os.O_RDONLY)
        if len(os.read(descriptor, size + 1)) != size:
            raise AssertionError(f"{name!r} is not {size} bytes long")
        os.close(descriptor)


def walk(top: pathlib.Path, count: int) -> None:
    """What `find -size` or `du` do: list every folder, stat every entry."""
    found, folders = 0, [os.fspath(top)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    os.lstat(entry.path)
                    found += 1
    if found != count:
        raise AssertionError(f"{found} files of {count} found in {top}")


def create_fsync(peer: Peer, wanted: set[str], sizes: Sizes, _cache: pathlib.Path) -> Iterator[tuple[str, float]]:
    if "create-fsync" not in wanted:
        return
    top = peer.path / "synced"
    peer.chill()
    os.mkdir(top)
    names = [os.fsencode(f"{top}/f{number:06}") for number in range(sizes.fsyncs)]
    yield "create-fsync", sizes.fsyncs / timed(lambda: create_files(names, sizes.small, sync=True))
    shutil.rmtree(top)


# --- a source tree -------------------------------------------------------------------------------------------------


def source_tree(peer: Peer, wanted: set[str], sizes: Sizes, cache: pathlib.Path) -> Iterator[tuple[str, float]]:
    names = {"tar-x", "cp-a", "tar-c", "tree-synced", "archive-synced"} & wanted
    if not names:
        return
    tree = collected_tree(cache, sizes.tree_files, sizes.tree_bytes)
    archive = tree.with_suffix(".tar")
    if names - {"cp-a", "archive-synced"}:
        peer.chill()
        warm(tree, archive)
        os.mkdir(peer.path / "x")
        extracted = timed(lambda: run("tar", "-xf", archive, "-C", peer.path / "x"))
        yield "tar-x", extracted
        yield "tree-synced", extracted + timed(peer.settle)
        if "tar-c" in names:
            peer.chill()
            # Through a pipe: GNU tar reads no file that it archives to /dev/null.
            yield "tar-c", timed(lambda: run("sh", "-c", 'tar -cf - -C "$1" . | cat >/dev/null', "sh", peer.path / "x"))
        run("diff", "-r", tree, peer.path / "x" / tree.name)
        shutil.rmtree(peer.path / "x")
    if "cp-a" in names:
        peer.chill()
        warm(tree, archive)
        yield "cp-a", timed(lambda: run("cp", "-a", tree, peer.path / "copy"))
        shutil.rmtree(peer.path / "copy")
    if "archive-synced" in names:
        peer.chill()
        warm(tree, archive)
        yield "archive-synced", timed(lambda: (run("cp", archive, peer.path / "tree.tar"), peer.settle()))
        peer.remount()
        os.unlink(peer.path / "tree.tar")


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, timeout=3600)


def warm(tree: pathlib.Path, archive: pathlib.Path) -> None:
    """Reads the source, so that its own reading costs nobody anything."""
    run("sh", "-c", 'cat "$1" >/dev/null; tar -cf - "$2" 2>/dev/null | cat >/dev/null', "sh", archive, tree)


def collected_tree(cache: pathlib.Path, files: int, size: int) -> pathlib.Path:
    """A tree of real source files, and beside it the same as a tar: Python's library, then the sources of Rust crates."""
    tree = cache / f"tree-{files}-{size}"
    if tree.with_suffix(".tar").exists():
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    cargo = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    sources = [pathlib.Path(sysconfig.get_path("stdlib")), *sorted((cargo / "registry/src").glob("*/*"))]
    left, room = files, size
    for source in sources:
        for folder, inner, entries in os.walk(source):
            inner[:] = sorted(name for name in inner if name not in ("site-packages", "dist-packages", "__pycache__"))
            for entry in sorted(entries):
                path = pathlib.Path(folder, entry)
                # The mean of what is left keeps both targets in reach; one larger file in four may exceed it eightfold.
                if left == 0 or path.is_symlink() or path.stat().st_size > min(room, 8 * room / left):
                    continue
                target = tree / source.name / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
                left, room = left - 1, room - path.stat().st_size
    if left:
        raise FileNotFoundError(f"only {files - left} of {files} source files found in {', '.join(map(str, sources[:3]))} …; ask for fewer")
    unfinished = cache / "tree.unfinished"
    run("tar", "-cf", unfinished, "-C", cache, tree.name)
    unfinished.rename(tree.with_suffix(".tar"))
    return tree


# --- packages ------------------------------------------------------------------------------------------------------


def packages(peer: Peer, wanted: set[str], _sizes: Sizes, cache: pathlib.Path) -> Iterator[tuple[str, float]]:
    if not {"pip-install", "import"} & wanted:
        return
    wheels = downloaded_wheels(cache)
    peer.chill()
    run("sh", "-c", 'cat "$1"/* >/dev/null', "sh", wheels)
    venv = peer.path / "venv"
    run(sys.executable, "-m", "venv", venv)
    install = [venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--find-links", wheels]
    yield "pip-install", timed(lambda: run(*install, *PIP_PACKAGES))
    peer.chill()
    modules = "import numpy, pandas, scipy.stats, sklearn.ensemble"
    yield "import", timed(lambda: run(venv / "bin/python", "-c", modules))
    shutil.rmtree(venv)


def downloaded_wheels(cache: pathlib.Path) -> pathlib.Path:
    wheels = cache / f"wheels-{sys.version_info[0]}.{sys.version_info[1]}"
    if not wheels.exists():
        unfinished = cache / "wheels.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        run(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "-d", unfinished, *PIP_PACKAGES)
        unfinished.rename(wheels)
    return wheels


# --- the disk cache ------------------------------------------------------------------------------------------------


def disk_cache(peer: Peer, wanted: set[str], sizes: Sizes, _cache: pathlib.Path) -> Iterator[tuple[str, float]]:
    """A later reader of a file that an earlier mount has left in its disk cache; the local file system: a plain read."""
    if not {"cached-read", "cached-mmap"} & wanted or not peer.has_disk_cache:
        return
    path = peer.path / "cached"
    peer.chill()
    write_large(path, sizes.large)
    peer.chill()
    read_large(path)
    for name, read in (("cached-read", read_large), ("cached-mmap", read_mapped)):
        if name in wanted:
            peer.chill()
            yield name, sizes.large / timed(lambda: read(path)) / 1e6
    path.unlink()
