"""What scripts/compare-peers measures on each peer (peers.py): the rows of its table.

What system calls alone can say is measured by `cairn bench`, the same for every peer. Here are the rows that real programs make: tar, cp,
pip, Python's import; and a reader of the disk cache. All figures come back as `cairn bench --json` gives them, so that
one report, one table and one page hold everything.

"Client cold": the client is mounted anew, the servers' page cache stays. "Cold": the kernel's caches are dropped as well.
"Synced": until every byte is on the disk, see `Peer.settle`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator

from . import harness
from .peers import Peer

PIP_PACKAGES = ("numpy", "pandas", "scipy", "scikit-learn")
# Of `cairn bench --rows`, in the order of the report, and how many times as fast as a peer Cairn must be.
BENCH_ROWS: dict[str, dict[str, float]] = {
    "seq-write": {"local": 0.9},
    "seq-read-client": {"moosefs": 2.5},
    "seq-read": {"moosefs": 2.5, "local": 0.75},
    "seq-read-warm": {},
    "mmap-read": {},
    "random-1": {"moosefs": 2.5},
    "random-16": {"moosefs": 3.0},
    "create": {"moosefs": 8.0, "local": 0.12},
    "create-synced": {},
    "walk": {"moosefs": 8.0, "local": 0.4},
    "read": {"moosefs": 6.0, "local": 0.8},
    "read-random": {"moosefs": 4.0},
    "read-8": {"moosefs": 4.0},
    "read-warm": {"moosefs": 8.0, "local": 0.25},
    "rewrite": {},
    "delete": {"moosefs": 2.0},
    "create-fsync": {"moosefs": 1.2, "local": 0.35},
    "archive": {},
}
# Rows of this file: label and targets. Times in seconds; a target is still how many times as fast.
PROGRAM_ROWS: dict[str, tuple[str, dict[str, float]]] = {
    "tar-x": ("tar -x of a source tree", {"moosefs": 8.0}),
    "cp-a": ("cp -a of it into the volume", {"moosefs": 8.0}),
    "tar-c": ("tar -c of it, cold", {"moosefs": 4.0}),
    "tree-synced": ("the tree as single files, synced", {}),
    "archive-synced": ("the tree as one archive, synced", {}),
    "pip-install": ("pip install " + " ".join(PIP_PACKAGES), {"local": 1 / 1.3}),
    "import": ("first import of them, cold", {"local": 1 / 1.5}),
}
# Rows of `cairn bench` on a mount that has a disk cache, which an earlier reader has filled.
CACHED_ROWS: dict[str, tuple[str, str, dict[str, float]]] = {
    "cached-read": ("seq-read", "read of a file in the disk cache, cold", {"local": 0.95}),
    "cached-mmap": ("mmap-read", "the same through mmap", {"local": 0.95}),
}
TARGETS = BENCH_ROWS | {name: told[-1] for name, told in (PROGRAM_ROWS | CACHED_ROWS).items()}
NAMES = list(TARGETS)
# No measurement of one peer may take longer, in seconds.
LIMIT = 3 * 3600


@dataclasses.dataclass
class Sizes:
    """How much is measured."""

    large: int = 4 << 30
    random_reads: int = 4000
    count: int = 20_000
    small: int = 4096
    fsyncs: int = 1000
    archive_count: int = 2000
    tree_files: int = 3600
    tree_bytes: int = 80_000_000


def measure(peer: Peer, wanted: set[str], sizes: Sizes, cache: pathlib.Path) -> dict:
    """The report of one peer with the rows that are wanted; `cache` keeps what was downloaded or collected from run to run."""
    report = bench(peer, [name for name in BENCH_ROWS if name in wanted], sizes)
    for group in (source_tree, packages):
        found = dict(group(peer, wanted, sizes, cache))
        report["targets"][0]["rows"] += [seconds(name, found[name]) for name in PROGRAM_ROWS if name in wanted and name in found]
    return report


def measure_cached(peer: Peer, wanted: set[str], sizes: Sizes) -> list[dict]:
    """The rows of a mount with a disk cache; on the local file system, plain reads."""
    if not peer.has_disk_cache:
        raise ValueError(f"{peer.name} has no disk cache")
    first = [] if peer.name == "local" else ["seq-read-client"]
    rows = bench(peer, [*first, "seq-read", "mmap-read"], sizes)["targets"][0]["rows"]
    renamed = {told[0]: (name, told[1]) for name, told in CACHED_ROWS.items() if name in wanted}
    return [row | dict(zip(("name", "label"), renamed[row["name"]])) for row in rows if row["name"] in renamed]


def seconds(name: str, value: float) -> dict:
    """A row of the report."""
    return {"name": name, "label": PROGRAM_ROWS[name][0], "unit": "s", "value": value, "rounds": [value]}


def bench(peer: Peer, rows: list[str], sizes: Sizes) -> dict:
    """Runs `cairn bench` on a peer. Without rows it measures the quickest one, for the report's frame alone."""
    with remounting(peer) as flags:
        result = subprocess.run(
            [
                str(harness.binary()), "bench", str(peer.path), "--json", "--rows", ",".join(rows) or "create-fsync", "--store", str(peer.store),
                "--size", str(sizes.large), "--random-reads", str(sizes.random_reads), "--count", str(sizes.count),
                "--small", str(sizes.small), "--fsyncs", str(sizes.fsyncs), "--archive-count", str(sizes.archive_count), *flags,
            ],
            stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT,
        )
    report = json.loads(result.stdout)
    target = report["targets"][0]
    target["name"] = peer.name
    target["rows"] = [row for row in target["rows"] if row["name"] in rows]
    return report


@contextlib.contextmanager
def remounting(peer: Peer) -> Iterator[list[str]]:
    """Flags by which `cairn bench` asks this process, over two named pipes, to unmount and mount the peer."""
    if not peer.has_client:
        yield []
        return
    ask, answer = peer.store.parent / "ask", peer.store.parent / "answer"
    os.mkfifo(ask)
    os.mkfifo(answer)

    def serve() -> None:
        while (word := ask.read_text(encoding="utf-8").strip()) != "end":
            try:
                peer.unmounted() if word == "unmount" else peer.mount_again()
                reply = "ok"
            except Exception as error:  # noqa: BLE001  told to who asked, and by it to everybody
                reply = " ".join(str(error).split()) or "failed"
            answer.write_text(reply + "\n", encoding="utf-8")

    server = threading.Thread(target=serve, daemon=True)
    server.start()

    def command(word: str) -> str:
        return f"echo {word} > '{ask}'; read -r got < '{answer}'; [ \"$got\" = ok ] || {{ echo \"$got\" >&2; exit 1; }}"

    try:
        yield ["--unmount", command("unmount"), "--mount", command("mount")]
    finally:
        ask.write_text("end\n", encoding="utf-8")
        server.join(60)
        ask.unlink()
        answer.unlink()


def timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


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
        peer.mount_again()
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
