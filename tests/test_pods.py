"""Pods that run: the unmodified `runpod` SDK and curl at one end, containers of Podman and Docker at the other."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import time

import pytest

from support import containers, control, harness
from conftest import need_engine

LIMIT = 60.0


class Cloud:
    """A server with its control plane, the engine that runs its pods, and the SDK pointed at it."""

    def __init__(self, lab: harness.Lab, engine: containers.Engine, server: harness.Server, api: control.Control, sdk):
        self.lab, self.engine, self.server, self.api, self.sdk = lab, engine, server, api, sdk

    def container(self, pod: str) -> str | None:
        """The pod's container while it runs."""
        found = self.engine.run("ps", "--quiet", "--no-trunc", "--filter", f"label=cairn.pod={pod}").stdout.split()
        return found[0] if found else None

    def running(self, pod: str) -> str:
        """Waits for the pod's container; the engine's and the API's word for it."""
        try:
            container = harness.wait_until(lambda: self.container(pod), LIMIT, f"a container of pod {pod} runs", 0.2)
            harness.wait_until(lambda: self.sdk.get_pod(pod)["runtime"] is not None, LIMIT, "the API says that it runs", 0.2)
        except TimeoutError as error:
            raise harness.Failed(f"{error}: {self.sdk.get_pod(pod)}") from None
        pid = int(self.engine.run("inspect", "--format", "{{.State.Pid}}", container).stdout)
        self.lab.tell(f"process {pid}")
        return container

    def gone(self, pod: str) -> None:
        def absent() -> bool:
            return not self.engine.run("ps", "--all", "--quiet", "--filter", f"label=cairn.pod={pod}").stdout.strip()

        harness.wait_until(absent, LIMIT, f"the container of pod {pod} is removed", 0.2)

    def inside(self, container: str, *command: str) -> str:
        return self.engine.run("exec", container, *command).stdout

    def mounted(self) -> list[pathlib.Path]:
        """The directories that are mounted for pods."""
        return [path for path in (self.server.data / "containers" / "live").glob("*") if harness.is_mounted(path)]

    def volume(self, name: str = "models", size: int = 10) -> str:
        query = f'mutation {{ createNetworkVolume(input: {{name: "{name}", size: {size}, dataCenterId: "US-TX-2"}}) {{ id }} }}'
        return self.api.data(query)["createNetworkVolume"]["id"]


@pytest.fixture(params=["podman", "docker"])
def cloud(request: pytest.FixtureRequest, lab: harness.Lab, monkeypatch: pytest.MonkeyPatch):
    need_engine(request.param)
    import runpod

    with {"podman": containers.Podman, "docker": containers.Docker}[request.param](lab) as engine:
        for name, value in engine.environment.items():
            monkeypatch.setenv(name, value)
        flags = [f"--pod-arg={flag}" for flag in engine.run_flags]
        # The same after a restart, which the SDK knows nothing of.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = lab.server("--http", f"127.0.0.1:{port}", "--engine", request.param, *flags)
        api = control.of(server)
        # All that the SDK is told: where, and a key.
        monkeypatch.setenv("RUNPOD_API_BASE_URL", api.url)
        monkeypatch.setattr(runpod, "api_key", api.account("team")[1].key)
        try:
            yield Cloud(lab, engine, server, api.with_key(runpod.api_key), runpod)
        finally:
            containers.unmount_below(lab, server.data / "containers" / "live")


SLEEP = "sh -c 'while true; do sleep 0.1; done'"


def test_the_sdk_works_with_a_volume_from_pod_to_pod(cloud):
    volume = cloud.volume()
    assert [found["id"] for found in cloud.sdk.get_user()["networkVolumes"]] == [volume]

    made = cloud.sdk.create_pod(
        "trainer", containers.IMAGE, network_volume_id=volume, volume_mount_path="/workspace", env={"GREETING": "good day"},
        docker_args="sh -c 'env > /workspace/env; while true; do sleep 0.1; done'",
    )
    pod = made["id"]
    container = cloud.running(pod)
    assert " /workspace fuse.cairn " in cloud.inside(container, "cat", "/proc/mounts")
    cloud.inside(container, "sh", "-c", "echo written inside > /workspace/file")
    env = dict(line.split("=", 1) for line in cloud.inside(container, "cat", "/workspace/env").splitlines() if "=" in line)
    assert (env["RUNPOD_POD_ID"], env["RUNPOD_VOLUME_ID"], env["RUNPOD_DC_ID"]) == (pod, volume, "US-TX-2")
    assert env["GREETING"] == "good day" and env["RUNPOD_API_KEY"] and {"RUNPOD_GPU_COUNT", "RUNPOD_CPU_COUNT", "PUBLIC_KEY"} <= set(env)
    # The pod's own key opens the API for it.
    assert cloud.api.with_key(env["RUNPOD_API_KEY"]).call("GET", f"/v1/pods/{pod}").status == 200

    cloud.sdk.terminate_pod(pod)
    cloud.gone(pod)
    harness.wait_until(lambda: not cloud.mounted(), LIMIT, "the volume is unmounted with its last pod")

    # Another pod, at the SDK's own default path.
    pod = cloud.sdk.create_pod("reader", containers.IMAGE, network_volume_id=volume, docker_args=SLEEP)["id"]
    assert cloud.inside(cloud.running(pod), "cat", "/runpod-volume/file") == "written inside\n"
    cloud.sdk.terminate_pod(pod)
    cloud.gone(pod)
    cloud.server.assert_clean(volume)


def test_stop_resume_and_restarts_of_the_server(cloud):
    volume = cloud.volume()
    first, second = (
        cloud.sdk.create_pod(name, containers.IMAGE, gpu_type_id="NVIDIA GeForce RTX 4090", network_volume_id=volume,
                             volume_mount_path="/workspace", docker_args=SLEEP)["id"]
        for name in ("first", "second")
    )
    containers_before = [cloud.running(first), cloud.running(second)]
    cloud.inside(containers_before[0], "sh", "-c", "echo shared > /workspace/file; echo own > /own")
    assert cloud.inside(containers_before[1], "cat", "/workspace/file") == "shared\n"

    assert cloud.sdk.stop_pod(first)["desiredStatus"] == "EXITED"
    harness.wait_until(lambda: not cloud.container(first), LIMIT, "the first pod stops", 0.2)
    cloud.server.stop()
    cloud.inside(containers_before[1], "sh", "-c", "test -e /workspace/file")
    cloud.server.restart()
    control.of(cloud.server)
    assert cloud.running(second) == containers_before[1], "found again"
    cloud.server.kill()
    cloud.server.restart()
    control.of(cloud.server)
    assert cloud.running(second) == containers_before[1], "found again"
    cloud.inside(containers_before[1], "sh", "-c", "echo more >> /workspace/file")

    cloud.sdk.resume_pod(first, gpu_count=1)
    container = cloud.running(first)
    assert cloud.inside(container, "cat", "/workspace/file", "/own") == "shared\nmore\nown\n"
    for pod in (first, second):
        cloud.sdk.terminate_pod(pod)
        cloud.gone(pod)
    harness.wait_until(lambda: not cloud.mounted(), LIMIT, "unmounted")
    assert cloud.api.data(f'mutation {{ deleteNetworkVolume(input: {{id: "{volume}"}}) }}') == {"deleteNetworkVolume": True}


def curl(cloud: Cloud, query: str) -> dict:
    result = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60", f"{cloud.api.url}/graphql",
         "--header", f"Authorization: Bearer {cloud.api.key}", "--header", "Content-Type: application/json",
         "--data", json.dumps({"query": query})],
        capture_output=True, text=True, timeout=90, check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    answer = json.loads(result.stdout)
    assert "errors" not in answer, answer
    return answer["data"]


def test_the_mutations_of_the_seed_documents_by_curl(cloud):
    volume = curl(
        cloud,
        'mutation { createNetworkVolume(input: {name: "ml-models-storage", size: 500, dataCenterId: "US-TX-2"}) { id name size } }',
    )["createNetworkVolume"]
    assert (volume["name"], volume["size"]) == ("ml-models-storage", 500)
    pod = curl(
        cloud,
        'mutation { podFindAndDeployOnDemand(input: { name: "pod", imageName: "' + containers.IMAGE + '", '
        'gpuTypeId: "NVIDIA GeForce RTX 4090", gpuCount: 1, dockerArgs: "sleep 600", '
        f'networkVolumeId: "{volume["id"]}", volumeMountPath: "/workspace" }}) {{ id }} }}',
    )["podFindAndDeployOnDemand"]["id"]
    assert " /workspace fuse.cairn " in cloud.inside(cloud.running(pod), "cat", "/proc/mounts")
    logs = cloud.api.call("GET", f"/v2/pods/{pod}/logs")
    assert logs.status == 200
    curl(cloud, f'mutation {{ podTerminate(input: {{ podId: "{pod}" }}) }}')
    cloud.gone(pod)


def test_what_cannot_be_run_is_told(cloud):
    pod = cloud.sdk.create_pod("lost", "registry.invalid/no/such:image", docker_args="")["id"]
    harness.wait_until(
        lambda: "no image registry.invalid/no/such:image" in cloud.sdk.get_pod(pod)["lastStatusChange"],
        LIMIT, "the pod says that there is no image", 0.2,
    )
    volume = cloud.volume()
    sneaky = cloud.api.call(
        "POST", "/v1/pods", {"imageName": containers.IMAGE, "networkVolumeId": volume, "volumeMountPath": "/x,source=/etc"}
    )
    if sneaky.status < 300:
        sneaky_pod = sneaky.json["id"]
        harness.wait_until(lambda: "cannot be mounted" in cloud.sdk.get_pod(sneaky_pod)["lastStatusChange"], LIMIT, "refused", 0.2)
    assert not cloud.container(pod)


def test_without_an_engine_a_pod_is_a_record(lab):
    _, api = control.start(lab)
    pod = api.ok("POST", "/v1/pods", {"imageName": "busybox"}, 201)["id"]
    time.sleep(0.5)
    found = api.ok("GET", f"/v1/pods/{pod}")
    assert "record" in found["lastStatusChange"]
    assert api.call("DELETE", f"/v1/pods/{pod}").status == 204


def test_an_engine_that_does_not_work_is_told(lab, monkeypatch):
    """Docker's client is there, its daemon is not."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{lab.root}/nobody.sock")
    _, api = control.start(lab, engine="docker")
    pod = api.ok("POST", "/v1/pods", {"imageName": "busybox"}, 201)["id"]
    harness.wait_until(
        lambda: "docker does not work here" in api.ok("GET", f"/v1/pods/{pod}")["lastStatusChange"], LIMIT, "the pod says why", 0.2
    )
