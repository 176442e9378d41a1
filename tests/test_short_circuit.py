"""Short circuit: on the server's own host a mount reads the server's pack files, and what it reads is right whatever becomes of them."""

from __future__ import annotations

import json
import os
import pathlib
import random
import threading

import pytest

from support import harness

MIB = 1 << 20


def stats(lab: harness.Lab, mount: harness.Mount) -> dict:
    return json.loads(lab.run("stats", str(mount.path), "--json").stdout)


def packs_open_in(mount: harness.Mount) -> list[pathlib.Path]:
    """Descriptors of packs that the mount has, as links in /proc."""
    folder = pathlib.Path(f"/proc/{mount.pid}/fd")
    return [link for link in folder.iterdir() if "/packs/" in os.readlink(link)]


def test_content_comes_from_the_servers_files(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    source = random.Random(1)
    large = source.randbytes(9 * MIB)
    small = [source.randbytes(3000 + number) for number in range(50)]
    (own_mount.path / "large").write_bytes(large)
    for number, content in enumerate(small):
        (own_mount.path / f"{number}").write_bytes(content)
    own_mount.remount()
    assert (own_mount.path / "large").read_bytes() == large
    assert [(own_mount.path / f"{number}").read_bytes() for number in range(50)] == small
    counted = stats(lab, own_mount)
    assert counted["short_circuit"] == "on"
    assert counted["blob_bytes_from_packs"] >= len(large)
    assert counted["packs_left"] == counted["damaged_parts"] == 0
    assert "SHORT CIRCUIT" in server.run("status").stdout
    assert server.json("status")["sessions"][0]["short_circuit"] == "on"
    # Descriptors are for reading alone.
    descriptors = packs_open_in(own_mount)
    assert descriptors
    for link in descriptors:
        flags = int(pathlib.Path(f"/proc/{own_mount.pid}/fdinfo/{link.name}").read_text().split("flags:")[1].split()[0], 8)
        assert flags & os.O_ACCMODE == os.O_RDONLY


@pytest.mark.parametrize("way", ["switched off", "not reached by its Unix socket"])
def test_content_is_sent_where_that_is_wanted_or_the_only_way(lab: harness.Lab, way: str):
    tcp = way != "switched off"
    server = lab.server(listen="127.0.0.1:0") if tcp else lab.server()
    server.create_volume("vol")
    mount = lab.mount(server, "vol", *(() if tcp else ("--no-short-circuit",)), tcp=tcp)
    content = random.Random(2).randbytes(5 * MIB)
    (mount.path / "file").write_bytes(content)
    mount.remount()
    assert (mount.path / "file").read_bytes() == content
    counted = stats(lab, mount)
    assert counted["blob_bytes_from_packs"] == 0 and counted["bytes_fetched"] >= len(content)
    assert counted["short_circuit"].startswith("off: ") and way in counted["short_circuit"]
    assert not packs_open_in(mount)


def test_deleting_a_pack_gives_its_space_back_at_once(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    for number in range(3):
        (own_mount.path / f"{number}").write_bytes(random.Random(number).randbytes(6 * MIB))
    own_mount.remount()
    for number in range(3):
        assert len((own_mount.path / f"{number}").read_bytes()) == 6 * MIB
    links = packs_open_in(own_mount)
    assert links
    held = [os.open(link, os.O_RDONLY) for link in links]
    assert sum(os.fstat(descriptor).st_blocks for descriptor in held) * 512 >= 18 * MIB
    for number in range(3):
        (own_mount.path / f"{number}").unlink()
    try:
        harness.wait_until(
            lambda: sum(os.fstat(descriptor).st_blocks for descriptor in held) * 512 < MIB, 30, "the space comes back"
        )
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_what_a_pack_no_longer_has_is_asked_of_the_server(lab: harness.Lab, server: harness.Server):
    """A reader with descriptors of packs, while others delete and write so that packs are punched, rewritten and deleted."""
    writer, reader = lab.mount(server, "vol", name="writer"), lab.mount(server, "vol", "--cache-size", "1MiB", name="reader")
    source = random.Random(3)
    kept = {f"kept-{number}": source.randbytes(100_000 + number) for number in range(60)}
    for number, (name, content) in enumerate(kept.items()):
        (writer.path / name).write_bytes(content)
        (writer.path / f"gone-{number}").write_bytes(source.randbytes(200_000))
    stop = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        chooser = random.Random(4)
        while not stop.is_set():
            name = chooser.choice(list(kept))
            descriptor = os.open(reader.path / name, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if os.read(descriptor, 200_000) != kept[name]:
                wrong.append(name)
            os.close(descriptor)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(60):
            (writer.path / f"gone-{number}").unlink()
        for turn in range(4):
            for number in range(20):
                (writer.path / f"new-{number}").write_bytes(source.randbytes(300_000))
            os.sync()
            for number in range(20):
                (writer.path / f"new-{number}").unlink()
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert wrong == []
    counted = stats(lab, reader)
    assert counted["blob_bytes_from_packs"] > 0 and counted["damaged_parts"] == 0
    assert "damaged" not in server.process.log, "nobody is told of damage that is none"
    server.assert_clean("vol", "--data")


def test_a_restarted_server_hands_over_again(lab: harness.Lab, server: harness.Server, own_mount: harness.Mount):
    content = [random.Random(number).randbytes(2 * MIB) for number in range(2)]
    for number in range(2):
        (own_mount.path / f"{number}").write_bytes(content[number])
    own_mount.remount()
    assert (own_mount.path / "0").read_bytes() == content[0]
    server.kill()
    server.restart()
    assert (own_mount.path / "1").read_bytes() == content[1]
    (own_mount.path / "2").write_bytes(content[0])
    own_mount.remount()
    assert (own_mount.path / "2").read_bytes() == content[0]
    assert stats(lab, own_mount)["blob_bytes_from_packs"] >= len(content[0])
