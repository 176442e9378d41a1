"""The `runpod` Python SDK, unmodified, against the control plane: everything but running containers."""

from __future__ import annotations

import pytest

from support import control, harness

runpod = pytest.importorskip("runpod")


@pytest.fixture
def api(lab: harness.Lab, monkeypatch: pytest.MonkeyPatch):
    _, api = control.start(lab)
    monkeypatch.setenv("RUNPOD_API_BASE_URL", api.url)
    monkeypatch.setattr(runpod, "api_key", api.key)
    return api


def test_volumes_and_pods(api: control.Control):
    made = api.ok("POST", "/v1/networkvolumes", {"name": "models", "size": 50, "dataCenterId": "CA-MTL-1"})["id"]
    user = runpod.get_user()
    assert user["networkVolumes"] == [{"id": made, "name": "models", "size": 50, "dataCenterId": "CA-MTL-1"}]
    assert runpod.get_gpu("NVIDIA A40")["memoryInGb"] == 48
    assert len(runpod.get_gpus()) > 20
    # The SDK finds the volume's data centre by itself.
    deployed = runpod.create_pod("trainer", "busybox", "NVIDIA A40", network_volume_id=made, env={"A": "b"}, ports="8888/http, 22/tcp")
    without_gpu = runpod.create_pod("helper", "busybox", network_volume_id=made, instance_id="cpu3c-2-4")
    assert deployed["machine"]["podHostId"].startswith(deployed["id"])
    pod = runpod.get_pod(deployed["id"])
    assert pod["volumeMountPath"] == "/runpod-volume" and pod["desiredStatus"] == "RUNNING" and pod["env"] == ["A=b"]
    assert {found["id"] for found in runpod.get_pods()} == {deployed["id"], without_gpu["id"]}
    assert runpod.stop_pod(deployed["id"])["desiredStatus"] == "EXITED"
    assert runpod.resume_pod(deployed["id"], 1)["desiredStatus"] == "RUNNING"
    with pytest.raises(runpod.error.QueryError, match="EU-RO-1|CA-MTL-1"):
        runpod.create_pod("far", "busybox", "NVIDIA A40", network_volume_id=made, data_center_id="EU-RO-1")
    with pytest.raises(ValueError, match="No GPU found"):
        runpod.create_pod("none", "busybox", "Voodoo 2")
    for name in (deployed["id"], without_gpu["id"]):
        runpod.terminate_pod(name)
    assert runpod.get_pods() == [] and runpod.get_pod(deployed["id"]) is None


def test_endpoints_templates_and_settings(api: control.Control):
    made = api.ok("POST", "/v1/networkvolumes", {"name": "models", "size": 50, "dataCenterId": "CA-MTL-1"})["id"]
    template = runpod.create_template("worker", "busybox", docker_start_cmd='sh -c "sleep 9"', env={"A": "b"}, is_serverless=True)
    assert template["dockerArgs"] == 'sh -c "sleep 9"' and template["env"] == [{"key": "A", "value": "b"}]
    endpoint = runpod.create_endpoint("serve", template["id"], network_volume_id=made, flashboot=True)
    assert endpoint["networkVolumeId"] == made and endpoint["flashBootType"] == "FLASHBOOT"
    (listed,) = runpod.get_endpoints()
    assert listed["networkVolume"] == {"id": made, "dataCenterId": "CA-MTL-1"}
    other = runpod.create_template("other", "busybox")
    assert runpod.update_endpoint_template(endpoint["id"], other["id"])["templateId"] == other["id"]
    assert runpod.update_user_settings("ssh-ed25519 AAAA me")["pubKey"] == "ssh-ed25519 AAAA me"


def test_a_wrong_key(api: control.Control, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runpod, "api_key", api.key + "x")
    with pytest.raises(runpod.error.AuthenticationError):
        runpod.get_user()


def test_queries_as_the_command_line_client_sends_them(api: control.Control):
    settings = "mutation Mutation($input: UpdateUserSettingsInput) { updateUserSettings(input: $input) { id } }"
    assert api.data(settings, {"input": {"pubKey": "ssh-ed25519 B"}})["updateUserSettings"]["id"]
    fields = "id email clientBalance currentSpendPerHr spendLimit notifyPodsStale notifyPodsGeneral notifyLowBalance"
    assert api.call("POST", "/graphql", {"query": "{ myself { " + fields + " } }", "variables": None}).status == 200
    centers = api.data("{ dataCenters { id name location storageSupport s3apiEnabled gpuAvailability { gpuTypeId stockStatus } } }")
    assert {"US-TX-2", "EU-RO-1", "CA-MTL-1"} <= {center["id"] for center in centers["dataCenters"]}
    deploy = (
        "mutation Deploy($input: PodFindAndDeployOnDemandInput) { podFindAndDeployOnDemand(input: $input)"
        " { id costPerHr desiredStatus lastStatusChange } }"
    )
    wanted = {"cloudType": "SECURE", "gpuCount": 1, "gpuTypeId": "NVIDIA L4", "name": "p", "imageName": "busybox", "volumeInGb": 1}
    assert api.data(deploy, {"input": wanted})["podFindAndDeployOnDemand"]["desiredStatus"] == "RUNNING"
