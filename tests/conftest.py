"""Fixtures: a mount, a server, two mounts of one volume. And what a failure shows: the logs of every process.

CAIRN_TEST_LOCAL=1 puts local directories in the place of mounts, to test the tests: what fails there is no fault of
Cairn. Tests that need a server are skipped then.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import tempfile

import pytest

from support import harness

LOCAL = bool(os.environ.get("CAIRN_TEST_LOCAL"))
DEFAULT_LIMIT = 120.0



def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if LOCAL:
        for item in items:
            if {"lab", "server"} & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("needs_cairn"):
                item.add_marker(pytest.mark.skip(reason="needs the program, not a local directory"))


def pytest_sessionstart(session: pytest.Session) -> None:
    if not LOCAL and not session.config.option.collectonly and not harness.binary().exists():
        pytest.exit(f"{harness.binary()} does not exist: run cargo build --release", returncode=3)


@dataclasses.dataclass
class LocalMount:
    """A plain directory in the place of a mount."""

    path: pathlib.Path

    def remount(self) -> None:
        os.sync()


def _scope_lab(request: pytest.FixtureRequest):
    with harness.Lab() as lab:
        request.node.stash.setdefault(LABS, []).append(lab)
        yield lab


LABS: pytest.StashKey[list[harness.Lab]] = pytest.StashKey()
SHARED: pytest.StashKey[list[harness.Lab]] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed:
        labs = item.stash.get(LABS, []) + (item.session.stash.get(SHARED, []) if "mount" in item.fixturenames else [])
        for lab in labs:
            for name, text in lab.all_logs():
                report.sections.append((name, text))
    return report


@pytest.fixture(autouse=True)
def _time_limit(request: pytest.FixtureRequest):
    """Arms the watchdog of each lab that the test uses."""
    marker = request.node.get_closest_marker("limit")
    seconds = float(marker.args[0]) if marker else DEFAULT_LIMIT
    if not LOCAL:
        if "lab" in request.fixturenames:
            request.getfixturevalue("lab").arm(seconds)
        if "shared_mount" in request.fixturenames:
            request.getfixturevalue("shared_mount").lab.arm(seconds)
    yield
    if not LOCAL:
        for name in ("lab", "shared_mount"):
            if name in request.fixturenames:
                value = request.getfixturevalue(name)
                (value if name == "lab" else value.lab).disarm()


@pytest.fixture
def lab(request: pytest.FixtureRequest):
    """Servers and mounts for one test."""
    yield from _scope_lab(request)


@pytest.fixture(scope="session")
def shared_mount(request: pytest.FixtureRequest):
    """One `cairn dev` for all tests that need no mount of their own."""
    if LOCAL:
        path = pathlib.Path(tempfile.mkdtemp(prefix="cairn-local-"))
        path.chmod(0o755)
        yield LocalMount(path)
        shutil.rmtree(path, ignore_errors=True)
        return
    with harness.Lab() as lab:
        request.session.stash[SHARED] = [lab]
        lab.arm(harness.START_LIMIT + 10)
        mount = lab.dev()
        lab.disarm()
        yield mount


@pytest.fixture
def mount(request: pytest.FixtureRequest, shared_mount) -> pathlib.Path:
    """An empty directory on a live mount (`cairn dev`)."""
    process = getattr(shared_mount, "process", None)
    if process is not None and not process.alive():
        shared_mount.detach()
        shared_mount.start()
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:40]
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=shared_mount.path))
    path.chmod(0o755)
    return path


@pytest.fixture
def server(lab: harness.Lab) -> harness.Server:
    """A server of the test's own with one volume, `vol`."""
    server = lab.server()
    server.create_volume("vol")
    return server


def need_engine(program: str) -> None:
    """The test runs containers: skipped with the reason where that cannot be done, which is a failure in CI."""
    from support import containers

    reason = containers.why_not(program)
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture
def own_mount(lab: harness.Lab, server: harness.Server) -> harness.Mount:
    """The volume of `server`, mounted."""
    return lab.mount(server, "vol")


@pytest.fixture
def two_mounts(request: pytest.FixtureRequest):
    """Two directories that show the same files through two mounts, each its own process."""
    if LOCAL:
        path = pathlib.Path(tempfile.mkdtemp(prefix="cairn-local-"))
        path.chmod(0o755)
        yield path, path
        shutil.rmtree(path, ignore_errors=True)
        return
    with harness.Lab() as lab:
        request.node.stash.setdefault(LABS, []).append(lab)
        marker = request.node.get_closest_marker("limit")
        lab.arm(float(marker.args[0]) if marker else DEFAULT_LIMIT)
        server = lab.server()
        server.create_volume("vol")
        first, second = (lab.mount(server, "vol", "-o", "dev", name=name) for name in "ab")
        yield first.path, second.path
        server.assert_clean("vol", "--data")
