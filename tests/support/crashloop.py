"""Kills the server, the mount or both at random moments under load, and checks what is left. See scripts/crash-loop.

Writers are processes of their own that note in a ledger outside the volume what they are about to do, and, once
fsync has returned, that it is done. After each crash everything the ledger says was synced must be there bytewise,
and everything else must be in a state that some moment of the writer's life had: nothing half-applied.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import random
import sys
import time

from . import harness

RECORD = 512


# --- the load: runs in processes of its own ------------------------------------------------------------------------


class Ledger:
    """Lines of JSON in a local file; the last may be torn when its writer was killed."""

    def __init__(self, path: str):
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115  open as long as the process

    def note(self, **facts: object) -> None:
        self.file.write(json.dumps(facts) + "\n")
        self.file.flush()


def body(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def record(writer: int, number: int) -> bytes:
    """One line of the append log: its number, and bytes that follow from it."""
    head = f"{writer} {number} ".encode()
    return head + hashlib.sha256(head).hexdigest().encode().ljust(RECORD - len(head) - 1, b".") + b"\n"


def log_writer(root: str, ledger: Ledger, me: int, _source: random.Random) -> None:
    """Appends records to one file and syncs now and then."""
    path = os.path.join(root, f"log-{me}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    os.fsync(descriptor)
    directory = os.open(root, os.O_RDONLY)
    os.fsync(directory)
    number = os.fstat(descriptor).st_size // RECORD
    os.ftruncate(descriptor, number * RECORD)
    ledger.note(kind="log", path=path, synced=number)
    while True:
        for _ in range(random.randrange(1, 20)):
            os.write(descriptor, record(me, number))
            number += 1
        os.fsync(descriptor)
        ledger.note(kind="log", path=path, synced=number)


def file_writer(root: str, ledger: Ledger, me: int, source: random.Random) -> None:
    """Makes files of many sizes, syncs most, renames some over others, removes some."""
    folder = os.path.join(root, f"files-{me}")
    os.makedirs(folder, exist_ok=True)
    while True:
        name = f"f{source.randrange(60)}"
        path = os.path.join(folder, name)
        seed, length = source.randrange(1 << 30), source.choice([0, 10, 4096, 4096, 20_000, 150_000, 5 << 20])
        action = source.random()
        if action < 0.55:
            ledger.note(kind="file", path=path, maybe=[seed, length])
            temporary = f"{path}.new"
            with open(temporary, "wb") as file:
                file.write(body(seed, length))
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
            sync_directory(folder)
            ledger.note(kind="file", path=path, synced=[seed, length])
        elif action < 0.75:
            # Without fsync: after a crash the old content or the new, never a mixture, never empty.
            ledger.note(kind="file", path=path, maybe=[seed, length])
            with open(f"{path}.new", "wb") as file:
                file.write(body(seed, length))
            os.rename(f"{path}.new", path)
        elif action < 0.9:
            ledger.note(kind="file", path=path, maybe=None)
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            sync_directory(folder)
            ledger.note(kind="file", path=path, synced=None)
        else:
            os.listdir(folder)


def patch_writer(root: str, ledger: Ledger, me: int, source: random.Random) -> None:
    """Overwrites aligned pages of one large file in place; each page names its version."""
    path, pages = os.path.join(root, f"patch-{me}"), 2000
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(descriptor, pages * 4096)
    os.fsync(descriptor)
    sync_directory(root)
    version = 0
    versions = [0] * pages
    for page in range(pages):
        head = os.pread(descriptor, 16, page * 4096).rstrip(b"\0").split()
        versions[page] = int(head[1]) if head else 0
    version = max(versions) + 1
    ledger.note(kind="pages", path=path, synced={}, all=versions)
    while True:
        written = {}
        for _ in range(source.randrange(1, 30)):
            page = source.randrange(pages)
            ledger.note(kind="pages", path=path, maybe=[page, version])
            os.pwrite(descriptor, page_content(page, version), page * 4096)
            written[page] = version
            version += 1
        os.fsync(descriptor)
        ledger.note(kind="pages", path=path, synced=written)


def page_content(page: int, version: int) -> bytes:
    head = f"{page:07} {version:08}".encode()
    return head + body(page * 1_000_003 + version, 4096 - len(head))


def tree_writer(root: str, ledger: Ledger, me: int, source: random.Random) -> None:
    """Makes, renames and removes directory trees; a tree is complete or was never synced."""
    base = os.path.join(root, f"trees-{me}")
    os.makedirs(base, exist_ok=True)
    number = 0
    while True:
        name = f"t{source.randrange(8)}"
        path, stamp = os.path.join(base, name), f"{time.time_ns()}-{number}"
        number += 1
        ledger.note(kind="tree", path=path, maybe=stamp)
        temporary = os.path.join(base, f"building-{name}")
        remove_tree(temporary)
        os.makedirs(os.path.join(temporary, "a/b"))
        for index in range(12):
            with open(os.path.join(temporary, "a/b" if index % 2 else "a", f"n{index}"), "w", encoding="ascii") as file:
                file.write(stamp)
                file.flush()
                os.fsync(file.fileno())
        for folder in ("a/b", "a", ""):
            sync_directory(os.path.join(temporary, folder))
        if os.path.isdir(path):
            ledger.note(kind="tree", path=path, maybe=None)
            old = os.path.join(base, f"old-{name}")
            remove_tree(old)
            os.rename(path, old)
        os.rename(temporary, path)
        sync_directory(base)
        ledger.note(kind="tree", path=path, synced=stamp)


def sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


WRITERS = {"log": log_writer, "file": file_writer, "patch": patch_writer, "tree": tree_writer}


def writer_main(kind: str, root: str, ledger_path: str, me: int, seed: int) -> None:
    ledger = Ledger(ledger_path)
    try:
        WRITERS[kind](root, ledger, me, random.Random(seed))
    except OSError as error:
        # The mount died, or the server did for too long: what was noted as synced still counts.
        ledger.note(kind="end", error=f"{type(error).__name__}: {error}")


# --- the check -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Expectations:
    """What the ledgers say, in order: for each path the last synced state, and the states tried since."""

    logs: dict[str, int] = dataclasses.field(default_factory=dict)
    files: dict[str, list] = dataclasses.field(default_factory=dict)
    trees: dict[str, list] = dataclasses.field(default_factory=dict)
    pages: dict[str, dict[int, list[int]]] = dataclasses.field(default_factory=dict)
    errors: list[str] = dataclasses.field(default_factory=list)

    def read(self, ledger: pathlib.Path) -> None:
        for line in ledger.read_text(encoding="utf-8").splitlines():
            try:
                facts = json.loads(line)
            except ValueError:
                continue  # torn by the writer's own end
            self.take(facts)

    def take(self, facts: dict) -> None:
        path, kind = facts.get("path", ""), facts["kind"]
        if kind == "log":
            self.logs[path] = facts["synced"]
        elif kind in ("file", "tree"):
            table = self.files if kind == "file" else self.trees
            if "synced" in facts:
                table[path] = [facts["synced"]]
            else:
                table.setdefault(path, [None]).append(facts["maybe"])
        elif kind == "pages":
            table = self.pages.setdefault(path, {})
            if "all" in facts:
                table.update({page: [version] for page, version in enumerate(facts["all"])})
            elif "maybe" in facts:
                page, version = facts["maybe"]
                table.setdefault(page, [0]).append(version)
            else:
                for page, version in facts["synced"].items():
                    # Newer than a synced page is possible; older is not.
                    table[int(page)] = [known for known in table.get(int(page), []) if known >= version] or [version]
        elif kind == "end":
            self.errors.append(facts["error"])

    def settle(self) -> None:
        """After a check: what was found is what counts from now on."""
        self.files.clear()
        self.trees.clear()
        self.pages.clear()


class Damage(AssertionError):
    """The volume is not what the ledger says."""


def check_log(path: str, synced: int) -> None:
    if synced and not os.path.exists(path):
        raise Damage(f"{path} is gone, {synced} records were synced")
    with open(path, "rb") as file:
        data = file.read()
    whole = len(data) // RECORD
    if whole < synced:
        raise Damage(f"{path} has {whole} records, {synced} were synced")
    writer = int(path.rpartition("-")[2])
    for number in range(whole):
        if data[number * RECORD : (number + 1) * RECORD] != record(writer, number):
            raise Damage(f"{path}: record {number} of {whole} is not what was written ({synced} were synced)")
    tail = data[whole * RECORD :]
    if tail and not record(writer, whole).startswith(tail):
        raise Damage(f"{path}: the last {len(tail)} bytes were never written")


def check_file(path: str, states: list) -> object:
    """The state that the file is in; it must be one of those."""
    if not os.path.exists(path):
        if None not in states:
            raise Damage(f"{path} is gone; it may be one of {states}")
        return None
    with open(path, "rb") as file:
        data = file.read()
    for state in states:
        if state is not None and len(data) == state[1] and data == body(*state):
            return state
    raise Damage(f"{path} has {len(data)} bytes that are none of {states}")


def check_tree(path: str, states: list) -> object:
    if not os.path.isdir(path):
        if None not in states:
            raise Damage(f"{path} is gone; it may be one of {states}")
        return None
    contents = set()
    for index in range(12):
        member = os.path.join(path, "a/b" if index % 2 else "a", f"n{index}")
        try:
            with open(member, encoding="ascii") as file:
                contents.add(file.read())
        except FileNotFoundError:
            raise Damage(f"{path}: half a tree, {member} is missing") from None
    if len(contents) != 1 or not contents <= set(filter(None, states)):
        raise Damage(f"{path} holds {contents}; it may be one of {states}")
    return contents.pop()


def check_pages(path: str, pages: dict[int, list[int]]) -> None:
    with open(path, "rb") as file:
        for page, versions in sorted(pages.items()):
            file.seek(page * 4096)
            data = file.read(4096)
            if not any(data == (page_content(page, version) if version else bytes(4096)) for version in versions):
                raise Damage(f"{path}: page {page} begins {data[:24]!r}; it may be one of the versions {versions}")


def check_everything(expected: Expectations, root: pathlib.Path) -> None:
    for path, synced in expected.logs.items():
        check_log(path, synced)
    files = {path: check_file(path, states) for path, states in expected.files.items()}
    trees = {path: check_tree(path, states) for path, states in expected.trees.items()}
    for path, pages in expected.pages.items():
        check_pages(path, pages)
    # Every file of a writer is one that it made: nothing appears from nowhere.
    for folder, _, names in os.walk(root):
        for name in names:
            os.stat(os.path.join(folder, name))
    expected.files, expected.trees = {p: [s] for p, s in files.items()}, {p: [s] for p, s in trees.items()}


# --- the loop ------------------------------------------------------------------------------------------------------

VICTIMS = ("server", "mount", "both")


def loop(rounds: int, seed: int, say=print, chunk_size: str = "4MiB") -> None:
    """Runs that many crashes on one volume; Damage at the first that lost something."""
    source = random.Random(seed)
    counts = dict.fromkeys(VICTIMS, 0)
    with harness.Lab() as lab:
        server = lab.server("--lease-ttl", "3s")
        server.create_volume("vol", "20GiB", "--chunk-size", chunk_size)
        mount = lab.mount(server, "vol", "--server-timeout", "60s", "--cache-size", "64MiB")
        expected = Expectations()
        try:
            for number in range(rounds):
                lab.arm(240)
                victim = source.choice(VICTIMS)
                counts[victim] += 1
                one_round(lab, server, mount, expected, source, number, victim)
                lab.disarm()
                if number % 10 == 9 or number == rounds - 1:
                    say(f"round {number + 1} of {rounds}: all intact {counts}")
        except BaseException:
            for name, text in lab.all_logs(3000):
                say(f"--- {name}\n{text}")
            raise


def one_round(lab, server, mount, expected: Expectations, source: random.Random, number: int, victim: str) -> None:
    ledgers = []
    writers = []
    for index, kind in enumerate(["log", "log", "file", "file", "patch", "tree"]):
        ledger = lab.root / f"ledger-{number}-{index}"
        ledger.touch()
        ledgers.append(ledger)
        command = [sys.executable, "-m", __spec__.name, kind, str(mount.path), str(ledger), str(index), str(source.randrange(1 << 30))]
        path = {"PYTHONPATH": str(harness.ROOT / "tests")}
        writers.append(harness.Process(lab, f"writer-{kind}", command, path))
    time.sleep(source.uniform(0.1, 2.5))
    context = f"round {number}, {victim} killed"
    if victim == "server":
        server.kill()
        time.sleep(source.uniform(0, 0.5))
        server.restart()
        # The mount lives: it must ride this out, so its writers go on and see no error.
        time.sleep(source.uniform(0.2, 1.5))
        for writer in writers:
            writer.kill()
    elif victim == "mount":
        mount.process.kill()
    elif source.random() < 0.5:
        server.kill()
        mount.process.kill()
    else:
        mount.process.kill()
        server.kill()
    for writer in writers:
        writer.kill()
    if victim != "server":
        mount.detach()
        if not server.process.alive():
            server.restart()
        mount.start()
    for ledger in ledgers:
        expected.read(ledger)
        ledger.unlink()
    if victim == "server" and expected.errors:
        raise Damage(f"{context}: writers saw errors: {expected.errors}")
    expected.errors.clear()
    try:
        check_everything(expected, mount.path)
        expected.pages.clear()
        if number % 5 == 4 or victim == "both":
            server.assert_clean("vol", "--data")
    except (Damage, AssertionError, OSError) as error:
        raise Damage(f"{context}: {error}") from error
    # Logs of processes that are gone and were fine say nothing any more.
    for process in [*writers]:
        lab.processes.remove(process)
        process.log_path.unlink()


if __name__ == "__main__":
    writer_main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
