"""The short version of scripts/crash-loop."""

from __future__ import annotations

import time

import pytest

from support import crashloop

pytestmark = pytest.mark.needs_cairn


@pytest.mark.limit(600)
@pytest.mark.parametrize("chunk_size", ["64KiB", "4MiB"])
def test_nothing_synced_is_lost(chunk_size: str):
    seed = time.time_ns() % 1_000_000
    lines: list[str] = [f"seed {seed}"]
    try:
        crashloop.loop(6, seed, say=lines.append, chunk_size=chunk_size)
    except BaseException:
        print("\n".join(lines))
        raise
