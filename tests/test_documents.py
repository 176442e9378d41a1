"""Every command of the pages about containers and pods does what the page says."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from support import containers, documents, harness
from conftest import need_engine

DOCS = harness.ROOT / "docs"

DOCKERD = (
    "dockerd --host unix:///run/docker/docker.sock --pidfile /run/docker/pid --iptables=false --ip6tables=false "
    "--storage-driver=overlay2 --default-ulimit=nofile=20000:20000 --default-ulimit=nproc=1000:1000"
)

# `docker compose` is a plug-in of newer clients; its ancestor takes the same commands.
DOCKER = """\
#!/bin/sh
if [ "$1" = compose ] && ! {docker} compose version >/dev/null 2>&1; then shift; exec docker-compose "$@"; fi
exec {docker} "$@"
"""

PODMAN = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1000:1000"]
netns = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def libraries(program: pathlib.Path) -> list[str]:
    """What the program needs of the system; nothing if it is static, as it is meant to be."""
    result = subprocess.run(["ldd", str(program)], capture_output=True, text=True, timeout=20, check=False)
    return re.findall(r"(/\S+) \(0x", result.stdout)


@pytest.fixture
def namespaces(lab: harness.Lab):
    """Namespaces with Docker, Podman, `cairn` on the path, and an image that passes for Alpine."""
    need_engine("docker")
    need_engine("podman")
    programs = lab.root / "bin"
    programs.mkdir()
    (programs / "cairn").symlink_to(harness.binary())
    (programs / "docker").write_text(DOCKER.format(docker=shutil.which("docker")))
    (programs / "docker").chmod(0o755)
    (lab.root / "docker-config").mkdir()
    (lab.root / "docker-config" / "config.json").write_text("{}")
    environment = {
        # Also `python3`, with the client of the emulated cloud.
        "PATH": f"{programs}:{sys.prefix}/bin:{os.environ['PATH']}",
        "DOCKER_HOST": "unix:///run/docker/docker.sock",
        "DOCKER_CONFIG": str(lab.root / "docker-config"),
        "DOCKER_BUILDKIT": "0",
        "COMPOSE_PROJECT_NAME": "page",
    }
    folder = lab.new_path("page")
    (folder / "work").mkdir(parents=True)
    with documents.Namespaces(lab, folder, environment) as namespaces:
        namespaces.start("dockerd", DOCKERD, "API listen on")
        (folder / "podman.conf").write_text(PODMAN)
        namespaces.run(
            f"mkdir -p /etc/containers/containers.conf.d && cp {folder}/podman.conf /etc/containers/containers.conf.d/test.conf"
            " && echo '{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}' > /etc/containers/policy.json"
        )
        image = folder / "image"
        containers.make_root(image)
        for library in libraries(harness.binary()):
            target = image / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
        namespaces.run(
            f"tar -C {image} -c . | docker import - alpine && tar -C {image} -c . | podman import - docker.io/library/alpine"
        )
        yield namespaces


def build_image(namespaces: documents.Namespaces, block: documents.Block) -> None:
    """The page's build with the program under test in the place of a static one that is built for it; with the libraries
    that it needs if it is not static."""
    assert block.text.splitlines()[0] == "scripts/build-static"
    context = namespaces.folder / "context"
    (context / "target" / "static").mkdir(parents=True)
    shutil.copy(harness.ROOT / "Dockerfile", context)
    shutil.copy(harness.binary(), context / "target" / "static" / "cairn")
    namespaces.run("\n".join([f"cd {context}", *block.text.splitlines()[1:]]))
    if needed := libraries(harness.binary()):
        lines = ["FROM cairn"]
        for number, library in enumerate(needed):
            shutil.copy(library, context / f"library{number}")
            lines.append(f"COPY library{number} {library}")
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")
        namespaces.run(f"cd {context} && docker build --tag cairn .")


@pytest.mark.limit(400)
def test_the_page_about_containers(namespaces):
    documents.run_page(namespaces, DOCS / "containers.md", lambda block: build_image(namespaces, block))
    namespaces.run('test -z "$(docker ps --all --quiet)$(podman ps --all --quiet)$(docker volume ls --quiet)"')


@pytest.mark.limit(400)
def test_the_page_about_the_emulated_cloud(namespaces):
    documents.run_page(namespaces, DOCS / "runpod.md")
    namespaces.run('until [ -z "$(podman ps --all --quiet)" ]; do sleep 0.2; done', limit=30)
