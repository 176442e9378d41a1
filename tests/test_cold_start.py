"""The story of the cold start: a worker's model is made once, and found by every later container."""

from __future__ import annotations

import pytest

from support import coldstart, containers
from conftest import need_engine


@pytest.fixture
def workers(lab, server):
    need_engine("podman")
    with containers.Plugin(lab, server) as plugin, containers.Podman(lab, plugin.socket) as podman:
        yield coldstart.Workers(plugin, podman, shards=2, shard_mb=8, small_files=200, small_kb=8)


@pytest.mark.parametrize("profile", [None, "runpod-standard"])
def test_the_second_start_finds_the_model(workers, server, profile):
    workers.create_volume("models", profile)
    for mode, brought in (("plain", "load"), ("cache", "hydrate")):
        first, second = workers.start("models", mode), workers.start("models", mode)
        assert not first.found and "make" in first.steps, (mode, first)
        assert second.found and "make" not in second.steps and brought in second.steps, (mode, second)
    # Both ways lie side by side: the plain files, and the cache's archive beside its large files.
    server.assert_clean("models")
