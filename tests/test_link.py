"""One stream fills a link: a cold read and a write over 400 MB/s with 2 ms of delay each way."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from support import harness
from support.link import Link

MB = 1_000_000
RATE = 400 * MB
DELAY = 0.002
LENGTH = 600 * MB
PIECE = 1 << 20
# What is wanted is 0.95 (scripts/link-speed measures it). A machine that does other things as well gets less, so only what
# would be a fault on any machine fails here: a stream that waits for every piece.
PART = float(os.environ.get("CAIRN_LINK_PART", "0.2"))
ROUNDS = 3

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "tc", "nsenter")),
    reason="makes network namespaces, which takes root, iproute2 and util-linux",
)


def write(path: os.PathLike) -> float:
    """Bytes a second, until they are on the server's disk."""
    block = os.urandom(PIECE)
    start = time.monotonic()
    with open(path, "wb", buffering=0) as file:
        for _ in range(LENGTH // PIECE):
            file.write(block)
        os.fsync(file.fileno())
    return LENGTH / (time.monotonic() - start)


def read(path: os.PathLike) -> float:
    start = time.monotonic()
    length = 0
    buffer = bytearray(PIECE)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            length += count
    return length / (time.monotonic() - start)


@pytest.mark.limit(180)
def test_one_stream_fills_the_link(lab: harness.Lab, record_property):
    with Link(RATE) as link:
        server = harness.Server(lab, lab.new_path("data"), listen="127.0.0.1:0", prefix=link.inside(link.server))
        lab.owners.append(server)
        server.create_volume("vol")
        key = server.create_key("--volume", "vol")
        with link.proxy(server.tcp, DELAY) as address:
            directory = lab.new_path("mnt")
            arguments = ["mount", "vol", str(directory), "--server", address, "--key", key, "--foreground"]
            mount = harness.Mount(lab, directory, arguments, prefix=link.inside(link.client))
            lab.owners.append(mount)
            best = {"write": 0.0, "read": 0.0}
            for number in range(ROUNDS):
                path = directory / f"file{number}"
                best["write"] = max(best["write"], write(path))
                mount.remount()
                best["read"] = max(best["read"], read(path))
                path.unlink()
                if min(best.values()) >= 0.95 * RATE:
                    break
            mount.stop_orderly()
    told = {name: f"{speed / RATE:.2f}" for name, speed in best.items()}
    print("part of the link:", told)
    record_property("link", told)
    assert min(best.values()) >= PART * RATE, told
