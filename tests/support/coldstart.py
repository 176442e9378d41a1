"""The cold start of a serverless worker, in fresh containers: the first makes its model on the volume, the second finds it.

The worker is examples/cold-start/worker.py. Used by test_cold_start.py, and by scripts/cold-start for the figures of
docs/cold-start.md.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time

from . import containers, harness

IMAGE = "localhost/worker"
WORKER = harness.ROOT / "examples" / "cold-start" / "worker.py"


@dataclasses.dataclass
class Start:
    """One start of a worker."""

    found: bool
    steps: dict[str, float]
    """Seconds of each of the worker's own steps."""
    container: float
    """Seconds from `podman run` to its end."""


class Workers:
    """An image of the worker, and an engine with Cairn's volumes that starts it."""

    def __init__(self, plugin: containers.Plugin, podman: containers.Podman, **model: int):
        self.plugin, self.podman = plugin, podman
        self.model = [f"--env=MODEL_{name.upper()}={value}" for name, value in model.items()]
        podman.import_python(IMAGE, {"/worker.py": WORKER.read_bytes()})

    def create_volume(self, name: str, profile: str | None) -> None:
        options = ["-o", f"profile={profile}"] if profile else []
        self.podman.create_volume(name, "-o", "size=20GiB", *options)

    def start(self, volume: str, mode: str) -> Start:
        """A fresh container; the volume is mounted for it and unmounted after it, so nothing is cached on this side."""
        harness.wait_until(lambda: not self.plugin.live(), 60, "the volume is not mounted any more")
        harness.drop_caches()
        begin = time.monotonic()
        output = self.podman.container(
            *containers.python_mounts(), *self.model, "-v", f"{volume}:/runpod-volume", IMAGE,
            f"{os.path.realpath(sys.prefix)}/bin/python", "/worker.py", mode, limit=600,
        )
        seconds = time.monotonic() - begin
        told = json.loads(output.splitlines()[-1])
        return Start(told["found"], told["seconds"], seconds)
