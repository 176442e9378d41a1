#!/usr/bin/env python3
"""A serverless worker's start: look for the model on the volume, make it if it is not there, load it.

    worker.py plain    the model lies as plain files under /runpod-volume/models and is read from there
    worker.py cache    the model lies in the container; the SDK's VolumeCache brings it from the volume and back to it

Prints one line of JSON: whether the model was found, and the seconds of each step. What stands for the model is one large
file for each shard and many small ones (tokenizer, configuration, source of a repository), with bytes that cannot be
compressed; to make it stands for the download. MODEL_SHARDS, MODEL_SHARD_MB, MODEL_SMALL_FILES and MODEL_SMALL_KB
set its size.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import random
import shutil
import sys
import time

VOLUME = pathlib.Path(os.environ.get("VOLUME_PATH", "/runpod-volume"))
SHARDS = int(os.environ.get("MODEL_SHARDS", "4"))
SHARD_BYTES = int(os.environ.get("MODEL_SHARD_MB", "64")) << 20
SMALL_FILES = int(os.environ.get("MODEL_SMALL_FILES", "2000"))
SMALL_BYTES = int(os.environ.get("MODEL_SMALL_KB", "8")) << 10
MANIFEST = "model.json"


class Steps(dict[str, float]):
    """Seconds of each step."""

    def time(self, name: str, work, *arguments):
        begin = time.perf_counter()
        result = work(*arguments)
        self[name] = round(time.perf_counter() - begin, 3)
        return result


def make(folder: pathlib.Path) -> None:
    """Makes the model under another name and renames it, so that no worker ever finds half of it."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "repository").mkdir(parents=True)
    source = random.Random(7)
    total = hashlib.blake2b(digest_size=16)
    block = source.randbytes(1 << 20)
    for number in range(SHARDS):
        with open(partial / f"shard-{number:02}.bin", "wb") as shard:
            for part in range(SHARD_BYTES >> 20):
                data = part.to_bytes(8, "little") + number.to_bytes(8, "little") + block[16:]
                shard.write(data)
                total.update(data)
    for number in range(SMALL_FILES):
        data = source.randbytes(SMALL_BYTES)
        (partial / "repository" / f"part-{number:05}.json").write_bytes(data)
        total.update(data)
    (partial / MANIFEST).write_text(json.dumps({"blake2b": total.hexdigest()}))
    partial.rename(folder)


def load(folder: pathlib.Path) -> int:
    """Reads the whole model and compares it with its manifest; its bytes."""
    total = hashlib.blake2b(digest_size=16)
    size = 0
    for path in [*sorted(folder.glob("shard-*")), *sorted((folder / "repository").iterdir())]:
        with open(path, "rb", buffering=0) as file:
            while data := file.read(1 << 20):
                total.update(data)
                size += len(data)
    if total.hexdigest() != json.loads((folder / MANIFEST).read_text())["blake2b"]:
        raise SystemExit(f"the model in {folder} is not what was put there")
    return size


def plain(steps: Steps) -> bool:
    folder = VOLUME / "models" / "demo"
    found = (folder / MANIFEST).exists()
    if not found:
        folder.parent.mkdir(parents=True, exist_ok=True)
        steps.time("make", make, folder)
    steps.time("load", load, folder)
    return found


def cached(steps: Steps) -> bool:
    VolumeCache = steps.time("import", import_volume_cache)
    folder = pathlib.Path("/tmp/models/demo")
    cache = VolumeCache(dirs=[folder.parent], namespace="demo", volume_path=VOLUME, best_effort=False)
    if not cache.available:
        raise SystemExit(f"no volume at {VOLUME}")
    steps.time("hydrate", cache.hydrate)
    found = (folder / MANIFEST).exists()
    if not found:
        folder.parent.mkdir(parents=True, exist_ok=True)
        steps.time("make", make, folder)
        steps.time("sync", lambda: cache.sync(background=False))
    steps.time("load", load, folder)
    return found


def import_volume_cache():
    from runpod.serverless.utils.rp_volume_cache import VolumeCache

    return VolumeCache


def main() -> None:
    steps = Steps()
    begin = time.perf_counter()
    found = {"plain": plain, "cache": cached}[sys.argv[1]](steps)
    print(json.dumps({"found": found, "seconds": dict(steps), "total": round(time.perf_counter() - begin, 3)}))


if __name__ == "__main__":
    main()
