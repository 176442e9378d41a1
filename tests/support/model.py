"""Random operations on two places that must behave alike: a mount (or two mounts of one volume) and a local directory.

A sequence is generated from a seed without looking at any state, so any part of it can be run again: a failing
sequence is shrunk by leaving parts out. Both places run one operation after the other; after each, results, errno and
which times moved are compared, and now and then the whole trees.

Compared: results, errno, content, types, modes, owners, link counts, sizes, device numbers, extended attributes
and ACLs, explicit times exactly, other times by whether an operation moved them. Not compared: atime, inode and device
numbers, sizes of directories. st_blocks: no more than 64 KiB above the local file system.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import platform
import shutil
import stat
import time
from collections.abc import Callable

from . import harness
from .operations import Operation, Place, describe, generate

LONG_AGO = 10**18  # Nanoseconds: the year 2001. Times that operations set explicitly lie before it, the clock after it.


@dataclasses.dataclass(frozen=True)
class Difference(Exception):
    """Where the two places went apart."""

    step: int
    operation: Operation | None
    text: str

    def __str__(self) -> str:
        return f"step {self.step}, {self.operation}: {self.text}"


# --- comparison ----------------------------------------------------------------------------------------------------

# With these the local file system itself tells every change of a time from the one before (multigrain timestamps).
EXACT_TIMES = tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 13)
# What a mapped write does to times, and when, is up to the file system until msync; ext4 moves ctime at the first touch.
TIMES_UNCLEAR = {"mapwrite", "mapread", "holes"}


def touched(operation: Operation) -> list[str]:
    """Paths whose times an operation may move, parents included."""
    name, *arguments = operation
    paths = [argument for argument in arguments if isinstance(argument, str)]
    if name == "symlink":
        paths = paths[1:]
    elif name in ("setxattr", "removexattr", "setacl"):
        paths = paths[:1]
    return paths + [os.path.dirname(path) for path in paths]


Times = tuple[int, int, int] | None  # inode number, mtime, ctime


def times_of(place: Place, side: int, paths: list[str]) -> list[Times]:
    result: list[Times] = []
    for path in paths:
        try:
            found = os.lstat(place.sides[side] / path)
            result.append((found.st_ino, found.st_mtime_ns, found.st_ctime_ns))
        except OSError:
            result.append(None)
    return result


def slot_times(place: Place, operation: Operation) -> Times:
    slots = {"copy": 3}.get(operation[0], 1)
    slot = operation[slots] if len(operation) > slots else None
    if not isinstance(slot, int) or slot not in place.slots:
        return None
    try:
        found = os.fstat(place.slots[slot])
    except OSError:
        return None  # told by the operation itself
    if stat.S_ISFIFO(found.st_mode):
        return None  # see snapshot
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def moved(before: Times, after: Times) -> object:
    """Which times of a file changed; what is said of two different files is only that."""
    if before is None or after is None:
        return "absent"
    if before[0] != after[0]:
        return "another file"
    return after[1] != before[1], after[2] != before[2]


def snapshot(root: pathlib.Path) -> dict[str, tuple]:
    """Everything that is compared about a tree."""
    result: dict[str, tuple] = {"": (describe(os.lstat(root)), attributes(root))}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            found = os.lstat(path)
            facts: list[object] = [describe(found)]
            # The kernel moves the times of a pipe by itself, and does not tell a FUSE file system of it.
            if found.st_mtime_ns <= LONG_AGO and not stat.S_ISFIFO(found.st_mode):
                facts.append(found.st_mtime_ns)
            if stat.S_ISLNK(found.st_mode):
                facts.append(os.readlink(path))
            else:
                facts.append(attributes(path))
            if stat.S_ISREG(found.st_mode):
                with open(path, "rb") as file:
                    facts.append(hashlib.sha256(file.read()).hexdigest())
            result[os.path.relpath(path, root)] = tuple(facts)
    return result


def attributes(path: os.PathLike | str) -> list[tuple[str, bytes]]:
    return sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))


def block_excess(local: pathlib.Path, other: pathlib.Path) -> str | None:
    for folder, _, files in os.walk(local):
        for name in files:
            path = pathlib.Path(folder, name)
            here, there = os.lstat(path), os.lstat(other / path.relative_to(local))
            if there.st_blocks * 512 > here.st_blocks * 512 + 65_536:
                return f"{path.name}: {there.st_blocks} blocks against {here.st_blocks} on the local file system"
    return None


def compare_trees(step: int, local: Place, subject: Place, check_blocks: bool) -> None:
    expected = snapshot(local.sides[0])
    for side in dict.fromkeys(subject.sides):
        found = snapshot(side)
        if found != expected:
            lines = [
                f"{name!r}: {found.get(name)} instead of {expected.get(name)}"
                for name in sorted(found.keys() | expected.keys())
                if found.get(name) != expected.get(name)
            ]
            raise Difference(step, None, f"trees differ (seen through {side}):\n" + "\n".join(lines[:20]))
        excess = block_excess(local.sides[0], side) if check_blocks else None
        if excess:
            raise Difference(step, None, excess)


def run(operations: list[Operation], local_root: pathlib.Path, sides: tuple[pathlib.Path, pathlib.Path], every: int = 60) -> Difference | None:
    """Runs a sequence in both places and returns the first difference."""
    local, subject = Place((local_root, local_root)), Place(sides)
    local.open_special = subject.open_special = sides[0] == sides[1]
    check_blocks = not any(operation[0] == "fallocate" for _, _, operation in operations)
    try:
        for step, (side, user, operation) in enumerate(operations):
            paths = touched(operation)
            watch = operation[0] not in TIMES_UNCLEAR
            if watch:
                before = [times_of(place, side, paths) + [slot_times(place, operation)] for place in (local, subject)]
            expected, found = local.apply(side, user, operation), subject.apply(side, user, operation)
            if expected != found:
                return Difference(step, operation, f"as {user} on side {side}: {found} instead of {expected}")
            if watch:
                after = [times_of(place, side, paths) + [slot_times(place, operation)] for place in (local, subject)]
                changes = [[moved(*pair) for pair in zip(*pairs)] for pairs in zip(before, after)]
                if differ(*changes):
                    text = f"(mtime, ctime) moved {changes[1]} instead of {changes[0]} for {[*paths, 'the open file']}"
                    return Difference(step, operation, f"as {user} on side {side} (result {expected}): {text}")
            if step % every == every - 1:
                compare_trees(step, local, subject, check_blocks)
        compare_trees(len(operations), local, subject, check_blocks)
    except Difference as difference:
        return difference
    finally:
        local.close()
        subject.close()
    return None


def differ(expected: list, found: list) -> bool:
    if EXACT_TIMES:
        return expected != found
    for wanted, got in zip(expected, found):
        if isinstance(wanted, str) or isinstance(got, str):
            if wanted != got:
                return True
        elif any(a and not b for a, b in zip(wanted, got)):
            return True
    return False


# --- shrinking -----------------------------------------------------------------------------------------------------


def shrink(operations: list[Operation], fails: Callable[[list[Operation]], Difference | None], limit: float = 60.0) -> list[Operation]:
    """Leaves out parts, halves first, as long as what is left still fails."""
    deadline = time.monotonic() + limit
    size = max(1, len(operations) // 2)
    while time.monotonic() < deadline:
        position, reduced = 0, False
        while position < len(operations) and time.monotonic() < deadline:
            candidate = operations[:position] + operations[position + size :]
            if candidate and fails(candidate):
                operations, reduced = candidate, True
            else:
                position += size
        if size == 1 and not reduced:
            break
        size = max(1, size // 2)
    return operations


@contextlib.contextmanager
def fresh_directories(local_parent: pathlib.Path, sides: tuple[pathlib.Path, pathlib.Path], name: str):
    """An empty directory of the same name in each place, gone afterwards."""
    for parent in (local_parent, sides[0]):
        (parent / name).mkdir(mode=0o755)
        (parent / name).chmod(0o777)
    try:
        yield local_parent / name, (sides[0] / name, sides[1] / name)
    finally:
        for parent in (local_parent, sides[0]):
            shutil.rmtree(parent / name, ignore_errors=True)


def check(seed: int, count: int, local_parent: pathlib.Path, sides: tuple[pathlib.Path, pathlib.Path]) -> None:
    """Runs one random sequence; AssertionError with a shrunk sequence if the places differ."""
    harness.ensure_user("cairn-test-1")
    old_umask = os.umask(0o022)
    number = 0

    def attempt(operations: list[Operation]) -> Difference | None:
        nonlocal number
        number += 1
        with fresh_directories(local_parent, sides, f"model-{seed}-{number}") as (local, subject):
            return run(operations, local, subject)

    try:
        operations = generate(seed, count)
        difference = attempt(operations)
        if difference is None:
            return
        small = shrink(operations[: difference.step + 1], attempt)
        last = attempt(small) or difference
        listing = "\n".join(f"    {operation!r}," for operation in small)
        raise AssertionError(f"seed {seed}, {count} operations: {difference}\nshrunk to {len(small)}: {last}\n[\n{listing}\n]")
    finally:
        os.umask(old_umask)
