"""The volume plug-in of Docker and Podman: by real containers, and by its protocol where an engine never goes."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import time

import pytest

from support import containers, harness, helpers
from conftest import need_engine


@pytest.fixture
def plugin(lab: harness.Lab, server: harness.Server):
    with containers.Plugin(lab, server) as plugin:
        yield plugin


@pytest.fixture(params=["podman", "docker"])
def served(request: pytest.FixtureRequest, lab: harness.Lab, server: harness.Server):
    """A plug-in and an engine that asks it for volumes."""
    need_engine(request.param)
    # Docker looks for plug-ins in this folder alone; the name keeps tests apart.
    socket = pathlib.Path("/run/docker/plugins") / f"{lab.root.name}.sock"
    engine = {"podman": containers.Podman, "docker": containers.Docker}[request.param]
    with containers.Plugin(lab, server, socket=socket) as plugin, engine(lab, socket) as engine:
        yield plugin, engine
    socket.unlink(missing_ok=True)


def mount_pid(lab: harness.Lab, path: pathlib.Path) -> int:
    """The process behind a mount."""
    return json.loads(lab.run("stats", str(path), "--json").stdout)["pid"]


@pytest.mark.parametrize("path", ["/workspace", "/runpod-volume"])
def test_containers_share_a_volume(lab, server, served, path):
    plugin, engine = served
    engine.create_volume("models", "-o", "size=1GiB")
    writer = engine.start(
        "-v", f"models:{path}", containers.IMAGE, "sh", "-c",
        f"n=0; while true; do n=$((n+1)); echo $n >> {path}/log; echo $n > {path}/last.tmp; mv {path}/last.tmp {path}/last; done",
    )
    reader = engine.start("-v", f"models:{path}", containers.IMAGE, "sleep", "600")

    def inside(*command: str) -> str:
        return engine.run("exec", reader, *command).stdout

    harness.wait_until(lambda: engine.run("exec", reader, "cat", f"{path}/last", check=False).stdout, 40, "the other writes")
    assert "fuse.cairn" in inside("grep", f" {path} ", "/proc/mounts")
    first = int(inside("cat", f"{path}/last"))
    harness.wait_until(lambda: int(inside("cat", f"{path}/last")) > first, 40, "what the other writes is seen")

    # The plug-in is restarted under both of them, once in good order and once not.
    [live] = plugin.live()
    process = mount_pid(lab, live)
    plugin.stop()
    plugin.start()
    plugin.kill()
    plugin.start()
    assert mount_pid(lab, live) == process, "the mount was made anew instead of being taken over"
    before = int(inside("cat", f"{path}/last"))
    harness.wait_until(lambda: int(inside("cat", f"{path}/last")) > before, 40, "writing goes on")

    engine.run("kill", writer)
    engine.remove(writer)
    last = int(inside("cat", f"{path}/last"))
    assert plugin.live() == [live], "still mounted for the other"
    inside("sh", "-c", f"echo mine > {path}/own")
    engine.remove(reader)
    harness.wait_until(lambda: not plugin.live(), 40, "the last container's end unmounts")

    lines = engine.container("-v", f"models:{path}", containers.IMAGE, "cat", f"{path}/own", f"{path}/log").split()
    assert lines[0] == "mine"
    numbers = [int(line) for line in lines[1:]]
    assert numbers == list(range(1, numbers[-1] + 1)) and numbers[-1] >= last
    harness.wait_until(lambda: not plugin.live(), 40, "unmounted again")
    server.assert_clean("models")
    engine.run("volume", "rm", "models")
    assert [volume["name"] for volume in server.json("volume", "list")] == ["vol"]


def test_the_volume_hides_what_the_image_has_there(served):
    _, engine = served
    engine.import_image("localhost/full", {"/workspace/from-image": b"image\n"})
    engine.create_volume("work")
    assert engine.container("-v", "work:/workspace:nocopy", "localhost/full", "ls", "/workspace") == ""


def test_a_volume_of_the_server_is_used_and_stays(lab, server, served):
    _, engine = served
    volume = server.json("volume", "show", "vol")
    for name in ("vol", volume["id"]):
        engine.create_volume(name)
        engine.container("-v", f"{name}:/workspace", containers.IMAGE, "sh", "-c", f"echo {name} > /workspace/{name}")
        engine.run("volume", "rm", name)
    mount = lab.mount(server, "vol")
    assert sorted(os.listdir(mount.path)) == sorted(["vol", volume["id"]])


def test_mistakes_are_told_through_the_engine(served):
    plugin, engine = served
    engine.create_volume("models", "-o", "size=1GiB")
    for options, word in (("size=much", "10GiB"), ("colour=red", "chunk-size"), ("chunk-size=3MiB", "power of two")):
        result = engine.create_volume("other", "-o", options, check=False)
        assert result.returncode != 0 and word in result.stderr, result.stderr
    holder = engine.start("-v", "models:/workspace", containers.IMAGE, "sleep", "600")
    answer = plugin.call("/VolumeDriver.Remove", Name="models")
    assert answer["status"] == 500 and "mounted by 1 container" in answer["Err"]
    engine.remove(holder)


def test_mounts_are_counted_by_id(server, plugin):
    create = plugin.call("/VolumeDriver.Create", Name="models", Opts={"size": "1GiB"})
    assert create == {"status": 200, "Err": ""}
    assert plugin.call("/VolumeDriver.Create", Name="models", Opts=None)["status"] == 200, "once more is no mistake"
    other = plugin.call("/VolumeDriver.Create", Name="models", Opts={"size": "2GiB"})
    assert other["status"] == 500 and "exists with size" in other["Err"]
    assert plugin.call("/VolumeDriver.Path", Name="models")["Mountpoint"] == ""

    first, again, second = (plugin.mount("models", holder) for holder in ("one", "one", "two"))
    assert first == again == second and harness.is_mounted(first)
    assert plugin.call("/VolumeDriver.Path", Name="models")["Mountpoint"] == str(first)
    listed = plugin.call("/VolumeDriver.List")["Volumes"]
    assert [(volume["Name"], volume["Mountpoint"], volume["Status"]["mounts"]) for volume in listed] == [("models", str(first), 2)]
    got = plugin.call("/VolumeDriver.Get", Name="models")["Volume"]
    assert got["Status"]["size"] == 1 << 30 and got["CreatedAt"].endswith("Z")
    assert plugin.call("/VolumeDriver.Unmount", Name="models", ID="one")["status"] == 200
    assert harness.is_mounted(first)
    for _ in range(2):  # an engine that does not know whether it was heard asks again
        assert plugin.call("/VolumeDriver.Unmount", Name="models", ID="two")["status"] == 200
        assert not harness.is_mounted(first)
    assert plugin.call("/VolumeDriver.Remove", Name="models")["status"] == 200
    assert plugin.call("/VolumeDriver.Remove", Name="models")["status"] == 200
    assert [volume["name"] for volume in server.json("volume", "list")] == ["vol"]


def test_counts_survive_a_plugin_that_is_killed(plugin):
    plugin.call("/VolumeDriver.Create", Name="models")
    path = plugin.mount("models", "one")
    plugin.mount("models", "two")
    plugin.kill()
    (path / "meanwhile").write_text("the mount goes on")
    plugin.start()
    plugin.call("/VolumeDriver.Unmount", Name="models", ID="one")
    assert (path / "meanwhile").read_text() == "the mount goes on"
    plugin.call("/VolumeDriver.Unmount", Name="models", ID="two")
    assert not harness.is_mounted(path)


def test_a_mount_whose_process_died_is_made_anew(lab, plugin):
    plugin.call("/VolumeDriver.Create", Name="models")
    path = plugin.mount("models", "one")
    with helpers.opened(path / "file") as file:
        os.write(file, b"synced")
        os.fsync(file)
    helpers.kill_mount(mount_pid(lab, path), path)
    assert plugin.mount("models", "two") == path
    assert (path / "file").read_text() == "synced"
    for holder in ("one", "two"):
        assert plugin.call("/VolumeDriver.Unmount", Name="models", ID=holder)["status"] == 200
    assert not harness.is_mounted(path)


def test_a_server_that_is_away_is_told_and_found_again(server, plugin):
    server.stop()
    answer = plugin.call("/VolumeDriver.Create", Name="models")
    assert answer["status"] == 500 and "cairn serve" in answer["Err"]
    assert plugin.call("/VolumeDriver.List") == {"status": 200, "Volumes": []}
    server.restart()
    assert plugin.call("/VolumeDriver.Create", Name="models")["status"] == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/VolumeDriver.Create", b"{", 400, "not valid"),
        ("/VolumeDriver.Create", b"{}", 500, "names no volume"),
        ("/VolumeDriver.Mount", b'{"Name":"x","ID":"y"}', 500, "volume create"),
        ("/VolumeDriver.Fly", b"{}", 404, "VolumeDriver"),
        ("/VolumeDriver.Create", b'{"Name":"' + b"x" * 70_000 + b'"}', 413, "64 KiB"),
    ],
)
def test_what_no_engine_sends_is_refused(plugin, path, body, status, word):
    answer = plugin.send(path, body)
    assert answer["status"] == status and word in answer["Err"]
    assert plugin.call("/Plugin.Activate")["Implements"] == ["VolumeDriver"]
    assert plugin.call("/VolumeDriver.Capabilities")["Capabilities"] == {"Scope": "local"}


def test_slow_senders_are_let_go(plugin):
    """As many as there are places, stuck at every point of a request, and the next engine still has its answer soon."""
    stuck = [b"", b"POST /Plugin.Act", b"POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"]
    slow = []
    for number in range(64):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(str(plugin.socket))
        connection.sendall(stuck[number % len(stuck)])
        slow.append(connection)
    begin = time.monotonic()
    assert plugin.call("/Plugin.Activate")["status"] == 200
    assert 5 < time.monotonic() - begin < 25
    for connection in slow:
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
        connection.close()


def test_one_plugin_at_a_time(lab, server, plugin):
    second = lab.run(
        "plugin", "docker", "--socket", str(lab.root / "second.sock"), "--state", str(plugin.state),
        "--server", server.address, check=False,
    )
    assert second.returncode == 1 and "--state" in second.stderr
