"""Two mounts of one volume, each its own process: what one finishes, the other sees at once, kernel caches included."""

from __future__ import annotations

import errno
import mmap
import os
import pathlib
import random
import stat
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from support import harness, model, syscalls


def both(two_mounts):
    """Each test runs in both directions, several times: leases must travel back and forth."""
    first, second = two_mounts
    for number in range(6):
        yield number, *((first, second) if number % 2 == 0 else (second, first))


def test_writes(two_mounts):
    for number, writer, reader in both(two_mounts):
        data = random.Random(number).randbytes(300_000)
        (writer / "file").write_bytes(data)
        assert (reader / "file").read_bytes() == data
        assert (reader / "file").stat().st_size == len(data)


def test_writes_through_open_descriptors(two_mounts):
    first, second = two_mounts
    (first / "file").write_bytes(bytes(100_000))
    descriptors = [os.open(first / "file", os.O_RDWR), os.open(second / "file", os.O_RDWR)]
    source = random.Random(1)
    expected = bytearray(100_000)
    for _ in range(200):
        offset, length = source.randrange(90_000), source.randrange(1, 9_000)
        data = source.randbytes(length)
        expected[offset : offset + length] = data
        writer = source.randrange(2)
        assert os.pwrite(descriptors[writer], data, offset) == length
        assert os.pread(descriptors[1 - writer], 100_000, 0) == expected
    for descriptor in descriptors:
        os.close(descriptor)


def test_appends(two_mounts):
    first, second = two_mounts
    (first / "log").touch()
    one, two = (os.open(root / "log", os.O_WRONLY | os.O_APPEND) for root in (first, second))
    expected = b""
    for number in range(100):
        record = b"%d\n" % number
        os.write((one, two)[number % 2], record)
        expected += record
        if number % 7 == 0:
            assert (first / "log").read_bytes() == expected and (second / "log").read_bytes() == expected
    assert (second / "log").read_bytes() == expected
    os.close(one)
    os.close(two)


def test_parallel_appends_from_both(two_mounts):
    first, second = two_mounts
    (first / "log").touch()

    def append(root: pathlib.Path, letter: bytes) -> None:
        descriptor = os.open(root / "log", os.O_WRONLY | os.O_APPEND)
        for number in range(150):
            os.write(descriptor, letter + b"%05d\n" % number)
        os.close(descriptor)

    threads = [threading.Thread(target=append, args=pair) for pair in ((first, b"a"), (second, b"b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for root in (first, second):
        lines = (root / "log").read_bytes().splitlines()
        assert len(lines) == 300
        for letter in (b"a", b"b"):
            assert [line for line in lines if line.startswith(letter)] == [letter + b"%05d" % number for number in range(150)]


def test_creation_and_removal(two_mounts):
    for number, maker, other in both(two_mounts):
        name = f"entry{number}"
        assert not (other / name).exists()  # the other now caches that there is none
        (maker / name).write_text("x")
        assert (other / name).exists() and name in os.listdir(other)
        (maker / name).unlink()
        assert not (other / name).exists() and name not in os.listdir(other)
        with pytest.raises(FileNotFoundError):
            (other / name).read_text()
        (other / name).mkdir()
        with pytest.raises(FileExistsError):
            (maker / name).mkdir()
        (maker / name).rmdir()
        assert not (other / name).exists()


def test_exclusive_creation_has_one_winner(two_mounts):
    for round_number in range(30):
        wins: list[int] = []
        barrier = threading.Barrier(2)

        def create(index: int, root: pathlib.Path, name: str = f"lock{round_number}") -> None:
            barrier.wait()
            try:
                os.close(os.open(root / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                wins.append(index)
            except FileExistsError:
                pass

        threads = [threading.Thread(target=create, args=(index, root)) for index, root in enumerate(two_mounts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1


def test_renames(two_mounts):
    for number, mover, other in both(two_mounts):
        (other / f"old{number}").write_text(str(number))
        (other / "target").write_text("target")
        (mover / f"old{number}").rename(mover / "target")
        assert not (other / f"old{number}").exists() and (other / "target").read_text() == str(number)
        (mover / f"dir{number}/sub").mkdir(parents=True)
        (other / f"dir{number}/sub/file").write_text("deep")
        (mover / f"dir{number}").rename(mover / f"moved{number}")
        assert (other / f"moved{number}/sub/file").read_text() == "deep"
        assert not (other / f"dir{number}").exists()


def test_truncation(two_mounts):
    for number, writer, reader in both(two_mounts):
        (reader / "file").write_bytes(b"x" * 50_000)
        with open(reader / "file", "rb") as held:
            assert len(held.read()) == 50_000
            os.truncate(writer / "file", 1000 + number)
            assert os.fstat(held.fileno()).st_size == 1000 + number
            os.truncate(writer / "file", 60_000)
            assert os.pread(held.fileno(), 70_000, 0) == b"x" * (1000 + number) + bytes(59_000 - number)


def test_attributes(two_mounts):
    for number, changer, other in both(two_mounts):
        (other / "file").write_text("x")
        other_view = other / "file"
        other_view.stat()
        (changer / "file").chmod(0o600 + number)
        assert stat.S_IMODE(other_view.stat().st_mode) == 0o600 + number
        os.chown(changer / "file", 100 + number, 200 + number)
        assert (other_view.stat().st_uid, other_view.stat().st_gid) == (100 + number, 200 + number)
        os.utime(changer / "file", ns=(number + 1, number + 2))
        assert (other_view.stat().st_atime_ns, other_view.stat().st_mtime_ns) == (number + 1, number + 2)
        os.link(changer / "file", changer / f"link{number}")
        assert other_view.stat().st_nlink == number + 2


def test_extended_attributes(two_mounts):
    for number, changer, other in both(two_mounts):
        (other / "file").touch()
        assert "user.key" not in os.listxattr(other / "file")
        os.setxattr(changer / "file", "user.key", b"%d" % number)
        assert os.getxattr(other / "file", "user.key") == b"%d" % number
        os.removexattr(other / "file", "user.key")
        with pytest.raises(OSError) as caught:
            os.getxattr(changer / "file", "user.key")
        assert caught.value.errno == errno.ENODATA


def test_symbolic_links(two_mounts):
    for number, changer, other in both(two_mounts):
        os.symlink(f"target{number}", changer / "new")
        os.rename(changer / "new", changer / "link")
        assert os.readlink(other / "link") == f"target{number}"


def test_pages_that_were_only_written(two_mounts):
    """The kernel keeps pages that it has written as it keeps those it has read: both are void when the other writes."""
    first, second = two_mounts
    (first / "file").write_bytes(bytes(65_536))
    descriptors = [os.open(root / "file", os.O_RDWR) for root in (second, first)]
    for number in range(1, 7):
        one, two = descriptors[:: 1 if number % 2 else -1]
        os.pwrite(two, b"x", 0)  # takes the file from the other, whose kernel drops its pages
        os.pwrite(one, bytes([number]) * 65_536, 0)
        os.pwrite(two, b"new", 8192)
        assert os.pread(one, 3, 8192) == b"new"
    for descriptor in descriptors:
        os.close(descriptor)


def test_mapped_pages(two_mounts):
    """A page that one mount has mapped and read shows what the other writes."""
    first, second = two_mounts
    (first / "file").write_bytes(b"0" * 8192)
    with open(second / "file", "rb") as file, mmap.mmap(file.fileno(), 8192, access=mmap.ACCESS_READ) as memory:
        assert memory[:4] == b"0000"
        for number in range(20):
            with open(first / "file", "r+b") as writer:
                os.pwrite(writer.fileno(), b"%04d" % number, 4096 * (number % 2))
            assert memory[4096 * (number % 2) :][:4] == b"%04d" % number


def test_mapped_writes(two_mounts):
    """What is written through a mapping is seen by the other mount after msync."""
    for number, writer, reader in both(two_mounts):
        (reader / "file").write_bytes(bytes(8192))
        with open(writer / "file", "r+b") as file, mmap.mmap(file.fileno(), 8192) as memory:
            memory[4090:4100] = b"%010d" % number
            memory.flush()
            assert (reader / "file").read_bytes()[4090:4100] == b"%010d" % number


def test_listing_while_the_other_changes(two_mounts):
    first, second = two_mounts
    names: set[str] = set()
    source = random.Random(5)
    for number in range(300):
        root, other = (first, second) if source.random() < 0.5 else (second, first)
        if names and source.random() < 0.4:
            name = source.choice(sorted(names))
            names.discard(name)
            (root / name).unlink()
        else:
            names.add(f"name{number}")
            (root / f"name{number}").touch()
        assert set(os.listdir(other)) == names


def test_unlinked_while_the_other_has_it_open(two_mounts):
    first, second = two_mounts
    (first / "file").write_bytes(b"still here" * 1000)
    with open(first / "file", "r+b") as held:
        (second / "file").unlink()
        assert not (first / "file").exists()
        assert os.pread(held.fileno(), 20_000, 0) == b"still here" * 1000
        os.pwrite(held.fileno(), b"new", 0)
        assert os.pread(held.fileno(), 3, 0) == b"new"
        (second / "file").write_bytes(b"another file")
        assert os.pread(held.fileno(), 3, 0) == b"new"


def test_removed_by_the_other_while_the_kernel_refers_to_it(two_mounts):
    """A working directory, a pipe: there is nothing that the server could keep for them, and fstat works all the same."""
    for number, holder, remover in both(two_mounts):
        (holder / f"dir{number}").mkdir()
        os.mkfifo(holder / f"fifo{number}")
        directory, pipe = (os.open(holder / f"{kind}{number}", os.O_RDONLY | os.O_NONBLOCK) for kind in ("dir", "fifo"))
        os.fstat(directory), os.fstat(pipe)
        (remover / f"dir{number}").rmdir()
        (remover / f"fifo{number}").unlink()
        assert os.fstat(directory).st_nlink == 0 and os.fstat(pipe).st_nlink == 0
        assert os.listdir(directory) == []
        with pytest.raises(FileNotFoundError):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=directory)
        os.close(directory)
        os.close(pipe)


def test_the_last_words_of_one_reach_the_other_after_removal(two_mounts):
    """Who closes a removed file last here must not drop what it wrote while the other still has it open."""
    for number, writer, other in both(two_mounts):
        (writer / "file").write_bytes(b"first")
        with open(other / "file", "rb") as held:
            assert held.read() == b"first"
            with open(writer / "file", "r+b", buffering=0) as file:
                if number % 3:
                    (other / "file").unlink()
                    file.write(b"LATER")
                else:
                    file.write(b"LATER")
                    (writer / "file").unlink()
            assert os.pread(held.fileno(), 10, 0) == b"LATER"


def test_append_after_the_other_grew_the_file(two_mounts):
    first, second = two_mounts
    (first / "file").write_bytes(b"a")
    one = os.open(first / "file", os.O_WRONLY | os.O_APPEND)
    (second / "file").open("ab").write(b"b" * 10_000)
    os.write(one, b"c")
    os.close(one)
    assert (second / "file").read_bytes() == b"a" + b"b" * 10_000 + b"c"


def test_write_then_rename_is_never_half_seen(two_mounts):
    """The way in which careful programs replace a file: the other mount sees the old one or the new one, whole."""
    first, second = two_mounts
    (first / "config").write_bytes(b"\0" * 65_536)
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            try:
                data = (second / "config").read_bytes()
            except OSError as error:
                wrong.append(error)
                continue
            if len(data) != 65_536 or data != data[:1] * 65_536:
                wrong.append(data[:16])

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(60):
        (first / "config.new").write_bytes(bytes([number]) * 65_536)
        os.rename(first / "config.new", first / "config")
    stop.set()
    thread.join()
    assert not wrong


@pytest.mark.parametrize("reader", ["on the same mount", "on the other"])
def test_a_name_that_is_always_replaced_is_always_there(two_mounts, reader: str):
    """Opening goes from the name to the file in two steps, and a program may stand between the two when the file is replaced."""
    first, second = two_mounts
    name = (first if reader == "on the same mount" else second) / "config"
    (first / "config").write_text("0")
    code = (
        "import os, sys, time\nend, wrong = time.monotonic() + 4, []\n"
        "while time.monotonic() < end:\n"
        "    try:\n        with open(sys.argv[1]) as file: wrong += [] if file.read() else ['empty']\n"
        "        os.readlink(sys.argv[2])\n"
        "    except OSError as error: wrong.append(str(error))\n"
        "print(wrong or 'right')"
    )
    command = [sys.executable, "-c", code, str(name), str(name.parent / "link")]
    os.symlink("0", first / "link")
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    number = 0
    while any(process.poll() is None for process in readers):
        number += 1
        (first / "config.new").write_text(str(number))
        os.rename(first / "config.new", first / "config")
        os.symlink(str(number), first / "link.new")
        os.rename(first / "link.new", first / "link")
    assert [process.communicate(timeout=30)[0].strip() for process in readers] == ["right"] * 4


@pytest.mark.parametrize("seed", [11, 12, 13, 14])
@pytest.mark.limit(400)
def test_random_operations_from_both(two_mounts, seed: int):
    """The model of test_model.py with each operation done through one mount or the other by chance."""
    with tempfile.TemporaryDirectory(prefix="cairn-model-") as path:
        os.chmod(path, 0o755)
        model.check(seed, int(os.environ.get("CAIRN_TEST_OPERATIONS", "1500")), pathlib.Path(path), two_mounts)


def test_both_at_full_speed(two_mounts):
    """Both create, write and remove in one directory as fast as they can; at the end both see the same."""
    errors: list[BaseException] = []

    def work(root: pathlib.Path, me: int) -> None:
        source = random.Random(me)
        try:
            for number in range(150):
                (root / f"own-{me}-{number}").write_bytes(source.randbytes(5000))
                with open(root / f"shared-{source.randrange(5)}", "ab") as file:
                    file.write(b"x" * 100)
                if number % 3 == 0:
                    (root / f"own-{me}-{number}").unlink()
        except BaseException as error:  # noqa: BLE001  the thread's failure is the test's
            errors.append(error)

    threads = [threading.Thread(target=work, args=(root, index)) for index, root in enumerate(two_mounts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    first, second = (model.snapshot(root) for root in two_mounts)
    assert first == second
    assert sum((two_mounts[0] / f"shared-{number}").stat().st_size for number in range(5)) == 2 * 150 * 100


HAMMER = r"""
import mmap, os, random, struct, sys, time
role, path, mine, theirs, end, pages = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
board = mmap.mmap(os.open(sys.argv[7], os.O_RDWR), 4096)
stamp = lambda at: struct.unpack_from("<Q", board, at)[0]
source, count = random.Random(os.getpid()), 0
file = os.open(path, os.O_RDWR)
view = mmap.mmap(file, pages * 4096, access=mmap.ACCESS_READ)
while time.monotonic() < end:
    if role == "write":  # one stamp into every page, then it is announced
        count += 1
        for page in source.sample(range(pages), pages):
            os.pwrite(file, struct.pack("<Q", count), page * 4096 + mine)
        struct.pack_into("<Q", board, mine, count)
    else:
        announced, page = stamp(theirs), source.randrange(pages)
        at = page * 4096 + theirs
        bytes_read = view[at : at + 8] if role == "map" else os.pread(file, 8, at)
        found = struct.unpack("<Q", bytes_read)[0]
        if found < announced:
            sys.exit(f"{role}: page {page} said {found} after {announced} had been written")
        count += 1
print(count)
"""


@pytest.mark.limit(120)
def test_no_stale_page_however_busy_the_file_is(two_mounts):
    """Both mounts write their own bytes of every page; processes on both read and map the other's all the time."""
    pages, seconds = 256, 8.0
    for root in two_mounts:
        (root / "busy").write_bytes(bytes(pages * 4096))
    with tempfile.TemporaryDirectory() as folder:
        board = pathlib.Path(folder) / "board"
        board.write_bytes(bytes(4096))
        end = time.monotonic() + seconds
        workers = []
        for (root, mine, theirs) in ((two_mounts[0], 0, 8), (two_mounts[1], 8, 0)):
            for role in ("write", "read", "read", "map"):
                command = [sys.executable, "-c", HAMMER, role, str(root / "busy"), *map(str, (mine, theirs, end, pages, board))]
                workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        outcomes = [worker.communicate(timeout=100) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers), [error for _, error in outcomes if error]
    assert all(int(output) > 0 for output, _ in outcomes), outcomes


# --- fencing -------------------------------------------------------------------------------------------------------

TTL = 3.0


@pytest.fixture
def fencing(lab: harness.Lab):
    """A server with a short lease, and two mounts."""
    server = lab.server("--lease-ttl", f"{TTL:g}s")
    server.create_volume("vol")
    return server, lab.mount(server, "vol", name="a"), lab.mount(server, "vol", name="b")


def close_quietly(descriptor: int) -> None:
    """close(2) may tell once more what fsync told."""
    try:
        os.close(descriptor)
    except OSError:
        pass


@pytest.mark.parametrize("next_call", ["fsync", "write", "truncate", "fallocate", "punch", "copy_file_range"])
@pytest.mark.limit(120)
def test_a_stopped_holder_is_fenced(fencing, next_call: str):
    """The holder of unwritten data is stopped past its lease: the other goes on, and the first overwrites nothing."""
    server, first, second = fencing
    (first.path / "file").write_bytes(b"synced" * 1000)
    held = os.open(first.path / "file", os.O_RDWR)
    os.fsync(held)
    os.pwrite(held, b"LOST!!" * 1000, 0)  # buffered by the mount, not sent
    first.process.suspend()
    started = time.monotonic()
    (second.path / "file").write_bytes(b"second" * 1000)
    waited = time.monotonic() - started
    assert waited < TTL + 5, f"the other had to wait {waited:.1f} s"
    with open(second.path / "file", "r+b") as other:
        os.fsync(other.fileno())
    first.process.resume()
    with pytest.raises(OSError):
        # It must not land either: the program has not been told that what came before it is lost.
        if next_call == "write":
            os.pwrite(held, b"again", 0)
        elif next_call == "truncate":
            os.ftruncate(held, 10)
        elif next_call == "fallocate":
            os.posix_fallocate(held, 0, 50_000)
        elif next_call == "punch":
            syscalls.fallocate(held, syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE, 0, 3000)
        elif next_call == "copy_file_range":
            os.copy_file_range(held, held, 100, 0, 3000)
        os.fsync(held)
    assert (second.path / "file").read_bytes() == b"second" * 1000
    close_quietly(held)
    assert (second.path / "file").read_bytes() == b"second" * 1000
    # The fenced mount works again with files opened from now on, and sees what the other wrote.
    harness.wait_until(lambda: read_or_none(first.path / "file") == b"second" * 1000, 30, "the fenced mount works again", 0.2)
    (first.path / "after").write_text("after")
    assert (second.path / "after").read_text() == "after"
    server.assert_clean("vol", "--data")


def read_or_none(path: pathlib.Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


@pytest.mark.limit(120)
def test_a_fenced_mount_keeps_what_it_could_not_write(fencing, lab: harness.Lab):
    _, first, second = fencing
    descriptor = os.open(first.path / "file", os.O_RDWR | os.O_CREAT)
    os.fsync(descriptor)
    os.pwrite(descriptor, b"unwritten words", 0)
    first.process.suspend()
    (second.path / "file").write_bytes(b"x")
    first.process.resume()
    with pytest.raises(OSError):
        os.fsync(descriptor)
    close_quietly(descriptor)

    def recovered() -> bool:
        candidates = (path for path in (lab.root / "home").rglob("*") if path.is_file() and "recovery" in str(path))
        return any(b"unwritten words" in path.read_bytes() for path in candidates)

    harness.wait_until(recovered, 10, "a copy in the recovery folder", 0.2)


@pytest.mark.limit(120)
def test_a_stopped_holder_of_a_directory(fencing):
    _, first, second = fencing
    (first.path / "dir").mkdir()
    for number in range(50):
        (first.path / "dir" / f"f{number}").write_text("x")
    first.process.suspend()
    started = time.monotonic()
    (second.path / "dir" / "mine").write_text("mine")
    assert time.monotonic() - started < TTL + 5
    first.process.resume()
    harness.wait_until(lambda: (first.path / "dir" / "mine").exists(), 20, "the stopped mount sees the new entry", 0.2)
    assert (second.path / "dir" / "mine").read_text() == "mine"


@pytest.mark.limit(120)
def test_a_short_stop_costs_nothing(fencing):
    """Stopped for less than its lease: nothing is lost and nobody sees an error."""
    _, first, second = fencing
    (first.path / "file").write_bytes(b"before")
    with open(first.path / "file", "r+b") as held:
        os.pwrite(held.fileno(), b"within", 0)
        first.process.suspend()
        resume = threading.Timer(TTL / 3, first.process.resume)
        resume.start()
        assert (second.path / "file").read_bytes() == b"within"
        resume.join()
        os.fsync(held.fileno())


@pytest.mark.limit(120)
def test_a_killed_mount_leaves_what_it_synced(fencing):
    server, first, second = fencing
    with open(first.path / "file", "wb") as file:
        file.write(b"synced")
        file.flush()
        os.fsync(file.fileno())
    first.kill()
    started = time.monotonic()
    assert (second.path / "file").read_bytes() == b"synced"
    (second.path / "file").write_bytes(b"taken over")
    assert time.monotonic() - started < TTL / 2, "over a Unix socket the server learns at once that the process is gone"
    first.start()
    assert (first.path / "file").read_bytes() == b"taken over"
    server.assert_clean("vol", "--data")


def test_a_file_removed_elsewhere_gives_its_room_back_when_it_is_closed(two_mounts):
    for number, holder, remover in both(two_mounts):
        before = os.statvfs(holder).f_bfree
        descriptor = os.open(holder / "open", os.O_RDWR | os.O_CREAT)
        os.write(descriptor, bytes([number]) * 4_000_000)
        os.fsync(descriptor)
        (remover / "open").unlink()
        assert os.pread(descriptor, 5_000_000, 0) == bytes([number]) * 4_000_000
        assert os.fstat(descriptor).st_nlink == 0
        assert os.statvfs(remover).f_bfree < before
        os.close(descriptor)
        harness.wait_until(lambda: os.statvfs(remover).f_bfree == before, 10, "its room comes back")
