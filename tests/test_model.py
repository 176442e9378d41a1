"""Random operations side by side on a mount and on a local directory: no difference (the model is in model.py)."""

from __future__ import annotations

import os
import pathlib
import tempfile
import time

import pytest

from support import harness, model

SEEDS = [int(seed) for seed in os.environ.get("CAIRN_TEST_SEEDS", "1 2 3 4 5 6").split()]
COUNT = int(os.environ.get("CAIRN_TEST_OPERATIONS", "2500"))


@pytest.fixture
def local():
    """An empty directory of the machine's own file system."""
    with tempfile.TemporaryDirectory(prefix="cairn-model-") as path:
        os.chmod(path, 0o755)
        yield pathlib.Path(path)


@pytest.fixture
def device_mount(lab: harness.Lab, server: harness.Server) -> pathlib.Path:
    """An empty directory on a mount where devices work, as they do on the local file system."""
    lab.root.chmod(0o755)
    path = lab.mount(server, "vol", "-o", "dev").path / "model"
    path.mkdir()
    return path


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.limit(300)
def test_like_a_local_directory(device_mount: pathlib.Path, local: pathlib.Path, seed: int):
    model.check(seed, COUNT, local, (device_mount, device_mount))


@pytest.mark.limit(300)
def test_like_a_local_directory_with_a_new_seed(device_mount: pathlib.Path, local: pathlib.Path):
    model.check(time.time_ns() % 10**9, COUNT, local, (device_mount, device_mount))


@pytest.mark.slow
@pytest.mark.limit(4000)
def test_like_a_local_directory_for_long(device_mount: pathlib.Path, local: pathlib.Path):
    for seed in range(10_000, 10_200):
        model.check(seed, 3000, local, (device_mount, device_mount))


def test_the_model_finds_differences(local: pathlib.Path):
    """The test of the test: a place that loses a byte or an entry is caught and the sequence shrunk."""
    for name in ("one", "two"):
        (local / name).mkdir()

    class Lossy(model.Place):
        def do_pwrite(self, root, slot, offset, length, seed):
            result = super().do_pwrite(root, slot, offset, length, seed)
            if length == 4097:
                os.pwrite(self.descriptor(slot), b"\0", offset)
            return result

    original, model.Place = model.Place, model.Place
    made: list[object] = []

    def place(sides):
        made.append(sides)
        return (Lossy if len(made) % 2 == 0 else original)(sides)

    model.Place = place
    try:
        with pytest.raises(AssertionError, match=r"shrunk to [2-9]:"):
            for seed in range(20):
                model.check(seed, 400, local / "one", (local / "two", local / "two"))
    finally:
        model.Place = original
