"""Runs the public test suites pjdfstest and fsx on a directory; used by the tests and by scripts/."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

from . import harness

CONFIG = harness.ROOT / "tests/config"
EXCLUSIONS = harness.ROOT / "tests/pjdfstest-exclusions.txt"


def tool(name: str) -> str:
    """The program as scripts/setup installed it."""
    own = harness.tools() / "bin" / name
    found = str(own) if own.exists() else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"{name} is not installed: run scripts/setup")
    return found


# --- pjdfstest -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    """Names of pjdfstest's cases by result, and what was printed for each failure."""

    passed: set[str] = dataclasses.field(default_factory=set)
    skipped: set[str] = dataclasses.field(default_factory=set)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        self.passed |= other.passed
        self.failed |= other.failed
        self.skipped = (self.skipped | other.skipped) - self.passed - other.failed.keys()


def pjdfstest(directory: pathlib.Path, limit: float = 900.0) -> Outcome:
    """All cases in a directory that root owns. The directory's file system is remounted read-only in between."""
    for name in harness.TEST_USERS:
        harness.ensure_user(name)
    directory.chmod(0o755)
    with scratch_file_system() as secondary, plain_mount_command() as path:
        env = {**os.environ, "PATH": path, "NO_COLOR": "1", "LIBMOUNT_FORCE_MOUNT2": "always"}
        # The EROFS cases come in a process of their own: others leave descriptors open, with which ext4 refuses to remount.
        outcome = Outcome()
        full = (CONFIG / "pjdfstest.toml").read_text(encoding="utf-8")
        without = directory.parent / f".pjdfstest-{os.getpid()}.toml"
        without.write_text(full.replace("allow_remount = true", "allow_remount = false"), encoding="utf-8")
        try:
            for config, pattern in ((without, []), (CONFIG / "pjdfstest.toml", ["erofs"])):
                command = [tool("pjdfstest"), "-c", str(config), "-p", str(directory), "-s", str(secondary), *pattern]
                result = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", timeout=limit, check=False)
                part = parse(result.stdout)
                if not part.passed and not part.failed:
                    raise harness.Failed(f"pjdfstest did not run:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
                outcome.add(part)
        finally:
            without.unlink()
    return outcome


def parse(text: str) -> Outcome:
    outcome = Outcome()
    current = None
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines():
        found = re.match(r"^([a-z0-9_]+(?:::[a-zA-Z0-9_]+)+)\s+(ok|FAILED|skipped)$", line)
        if found:
            name, result = found[1], found[2]
            current = name if result == "FAILED" else None
            if result == "ok":
                outcome.passed.add(name)
            elif result == "skipped":
                outcome.skipped.add(name)
            else:
                outcome.failed[name] = ""
        elif current and line.startswith("\t"):
            outcome.failed[current] += line.strip() + "\n"
        elif current and line.startswith("Backtrace"):
            current = None
    return outcome


@contextlib.contextmanager
def scratch_file_system() -> Iterator[pathlib.Path]:
    """Another file system, for the EXDEV cases."""
    with harness.Lab() as lab:
        path = lab.root / "secondary"
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)
        lab.tell(f"mount {path}")
        try:
            yield path
        finally:
            subprocess.run(["umount", "-l", str(path)], check=False)


@contextlib.contextmanager
def plain_mount_command() -> Iterator[str]:
    """A PATH on which `mount` asks the kernel itself to remount, and no helper of the type `fuse`, which would mount anew."""
    with harness.Lab() as lab:
        folder = lab.root / "bin"
        folder.mkdir()
        real = shutil.which("mount") or "/usr/bin/mount"
        (folder / "mount").write_text(f'#!/bin/sh\nexec {real} -i "$@"\n')
        (folder / "mount").chmod(0o755)
        yield f"{folder}:{os.environ['PATH']}"


@contextlib.contextmanager
def ext4() -> Iterator[pathlib.Path]:
    """A fresh ext4 in an image; what a Cairn mount is compared with."""
    with harness.Lab() as lab:
        image, path = lab.root / "image", lab.root / "ext4"
        path.mkdir()
        with open(image, "wb") as file:
            file.truncate(2 << 30)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=True)
        lab.tell(f"mount {path}")
        try:
            work = path / "work"
            work.mkdir()
            yield work
        finally:
            subprocess.run(["umount", str(path)], check=False)


def exclusions() -> dict[str, str]:
    """Cases that the kernel's FUSE interface or glibc rules out, each with its reason."""
    result: dict[str, str] = {}
    for line in EXCLUSIONS.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(" ")
            result[name] = reason.strip()
    return result


# --- fsx -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FsxRun:
    """One configuration: how the volume is made and mounted, and which of config/fsx-*.toml fsx follows."""

    name: str
    config: str
    volume: tuple[str, ...] = ()
    mount: tuple[str, ...] = ()
    share: float = 1.0


FSX_RUNS = [
    FsxRun("default", "mixed", share=1.5),
    FsxRun("chunk 64 KiB", "mixed", volume=("--chunk-size", "64KiB"), share=1.5),
    FsxRun("tiny cache", "mixed", volume=("--chunk-size", "64KiB"), mount=("--cache-size", "1MiB")),
    FsxRun("mmap heavy", "mmap", volume=("--chunk-size", "64KiB")),
    FsxRun("large file across chunks", "large", mount=("--cache-size", "16MiB"), share=0.5),
    FsxRun("aligned", "aligned", volume=("--chunk-size", "64KiB"), share=0.5),
]


def fsx(directory: pathlib.Path, config: str, operations: int, seed: int, limit: float, artifacts: pathlib.Path) -> float:
    """Runs fsx on a file in `directory`; returns the seconds it took, or fails with the end of its output."""
    target = directory / f"fsx-{config}-{seed}"
    command = [tool("fsx"), "-f", str(CONFIG / f"fsx-{config}.toml"), "-N", str(operations), "-S", str(seed), "-P", str(artifacts), str(target)]
    started = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit, check=False)
    if result.returncode != 0 or "A-OK" not in result.stdout + result.stderr:
        raise AssertionError(f"{' '.join(command)}\nended with {result.returncode}\n{(result.stdout + result.stderr)[-6000:]}")
    target.unlink()
    return time.monotonic() - started
