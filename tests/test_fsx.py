"""fsx in several configurations, short; scripts/fsx runs a million operations and more."""

from __future__ import annotations

import time

import pytest

from support import harness, suites


@pytest.mark.needs_cairn
@pytest.mark.parametrize("run", suites.FSX_RUNS, ids=lambda run: run.name.replace(" ", "-"))
@pytest.mark.limit(300)
def test_fsx(lab: harness.Lab, run: suites.FsxRun):
    server = lab.server()
    server.create_volume("vol", "10GiB", *run.volume)
    mount = lab.mount(server, "vol", *run.mount)
    seed = time.time_ns() % 1_000_000
    suites.fsx(mount.path, run.config, int(10_000 * run.share), seed, 280, lab.root)
    server.assert_clean("vol", "--data")
