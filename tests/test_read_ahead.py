"""Reading ahead: the next file of a series, several streams of one file, and a mount that has little memory."""

from __future__ import annotations

import json
import mmap
import os
import pathlib
import threading

import pytest

from support import harness
from support.helpers import random_bytes

MIB = 1 << 20


def stats(lab: harness.Lab, mount: harness.Mount) -> dict:
    return json.loads(lab.run("stats", str(mount.path), "--json").stdout)


def test_the_next_file_of_a_series_is_begun(lab: harness.Lab, own_mount: harness.Mount):
    content = random_bytes(20 * MIB)
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    for name in names:
        (own_mount.path / name).write_bytes(content)
    own_mount.remount()
    assert (own_mount.path / names[0]).read_bytes() == content
    harness.wait_until(
        lambda: stats(lab, own_mount)["bytes_fetched"] >= 36 * MIB, 20, "the beginning of the second file is fetched"
    )
    assert stats(lab, own_mount)["bytes_fetched"] < 45 * MIB, "the third is not begun"
    assert (own_mount.path / names[1]).read_bytes() == content


@pytest.mark.parametrize("mapped", [False, True])
def test_streams_of_one_file_are_read_ahead_of_each(lab: harness.Lab, own_mount: harness.Mount, mapped: bool):
    streams, part = 4, 8 * MIB
    content = random_bytes(streams * part)
    path = own_mount.path / "file"
    path.write_bytes(content)
    own_mount.remount()
    wrong: list[int] = []
    with open(path, "rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

        def read(stream: int) -> None:
            for offset in range(stream * part, (stream + 1) * part, 64 * 1024):
                got = view[offset : offset + 65_536] if mapped else os.pread(file.fileno(), 65_536, offset)
                if got != content[offset : offset + 65_536]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(stream,)) for stream in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        view.close()
    assert wrong == []
    counted = stats(lab, own_mount)
    assert counted["bytes_read_ahead"] >= len(content) // 4
    assert counted["bytes_fetched"] <= len(content) + streams * MIB, "nothing is fetched twice"
