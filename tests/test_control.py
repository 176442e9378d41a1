"""The control plane's rules, by its own routes: one catalogue behind every face, and what each face refuses."""

from __future__ import annotations

import pathlib
import stat

import pytest

from support import control, harness

GB = 10**9
DAY = 24 * 3600
MONTH = 30 * DAY


@pytest.fixture
def plane(lab: harness.Lab):
    return control.start(lab)


def volume(api: control.Control, name: str = "models", size: int = 50, center: str = "US-TX-2") -> str:
    return api.ok("POST", "/v1/networkvolumes", {"name": name, "size": size, "dataCenterId": center})["id"]


def pod(api: control.Control, volume_id: str, **more) -> str:
    body = {"name": "worker", "imageName": "busybox", "networkVolumeId": volume_id, **more}
    return api.ok("POST", "/v1/pods", body, 201)["id"]


def test_the_key_is_private_and_made_anew_when_it_is_lost(lab: harness.Lab):
    server, api = control.start(lab)
    path = server.data / "control-key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert api.key not in (server.data / "control.redb").read_bytes().decode("latin-1")
    server.stop()
    path.unlink()
    server.restart()
    again = control.of(server)
    assert again.key != api.key
    assert again.call("GET", "/v1/networkvolumes").status == 200
    assert again.with_key(api.key).call("GET", "/v1/networkvolumes").status == 401


def test_every_face_sees_the_same_volumes(plane):
    server, api = plane
    by_command = server.create_volume("by-command", "100GiB", "--data-center", "EU-RO-1")["id"]
    by_v1 = volume(api, "by-v1")
    by_v2 = api.ok("POST", "/v2/network-volumes", {"name": "by-v2", "size": 20, "dataCenter": "CA-MTL-1"}, 201)["id"]
    made = api.data(
        'mutation { createNetworkVolume(input: {name: "ml-models-storage", size: 500, dataCenterId: "US-TX-2"})'
        " { id name size } }"
    )["createNetworkVolume"]
    assert (made["name"], made["size"]) == ("ml-models-storage", 500)
    everything = {by_command, by_v1, by_v2, made["id"]}
    seen = api.data("{ myself { id email networkVolumes { id name size dataCenterId dataCenter { id name } } } }")
    volumes = {found["id"]: found for found in seen["myself"]["networkVolumes"]}
    assert set(volumes) == everything
    assert volumes[by_command]["size"] == 108  # 100 GiB, rounded up
    assert volumes[by_command]["dataCenter"]["id"] == "EU-RO-1"
    assert {found["id"] for found in api.ok("GET", "/v1/networkvolumes")} == everything
    assert {found["id"] for found in api.ok("GET", "/v2/network-volumes")["networkVolumes"]} == everything
    listed = {found["id"]: found for found in server.json("volume", "list")}
    assert set(listed) == everything
    assert listed[made["id"]]["bytes_limit"] == 500 * GB
    assert all(len(found) == 10 and found.isalnum() and found == found.lower() for found in everything)
    # Deleted by one, gone for all.
    assert api.data(f'mutation {{ deleteNetworkVolume(input: {{id: "{by_v1}"}}) }}') == {"deleteNetworkVolume": True}
    server.run("volume", "delete", by_command, "--yes")
    assert {found["id"] for found in api.ok("GET", "/v1/networkvolumes")} == {by_v2, made["id"]}
    assert api.call("GET", f"/v2/network-volumes/{by_v1}").status == 404


def test_a_volume_of_the_api_is_mounted_and_has_its_quota(lab: harness.Lab, plane):
    server, api = plane
    made = volume(api, size=10)
    mount = lab.mount(server, made)
    (mount.path / "file").write_bytes(b"x" * 1000)
    assert server.usage(made)["bytes_limit"] == 10 * GB
    found = api.call("DELETE", f"/v1/networkvolumes/{made}")
    assert found.status == 400 and "unmount or end it first" in found.text
    grown = api.ok("PATCH", f"/v1/networkvolumes/{made}", {"size": 20, "name": "renamed"})
    assert (grown["size"], grown["name"]) == (20, "renamed")
    assert server.usage(made)["bytes_limit"] == 20 * GB
    mount.stop_orderly()
    assert api.call("DELETE", f"/v1/networkvolumes/{made}").status == 204


def test_sizes_only_grow_unless_the_quirk_is_asked_for(lab: harness.Lab):
    server, api = control.start(lab, "--v1-shrink")
    made = volume(api, size=50)
    refused = api.call("PATCH", f"/v2/network-volumes/{made}", {"size": 40})
    assert refused.status == 400 and "can only grow" in refused.json["detail"]
    message = api.error(f'mutation {{ updateNetworkVolume(input: {{id: "{made}", size: 40}}) {{ id }} }}')["message"]
    assert "can only grow" in message
    assert api.ok("PATCH", f"/v1/networkvolumes/{made}", {"size": 40})["size"] == 40
    server.stop()
    _, strict = control.start(lab)
    made = volume(strict, size=50)
    refused = strict.call("PATCH", f"/v1/networkvolumes/{made}", {"size": 40})
    assert refused.status == 400 and "can only grow" in refused.json["error"]
    assert strict.ok("POST", f"/v1/networkvolumes/{made}/update", {"size": 60})["size"] == 60


def test_attachment_rules(plane):
    server, api = plane
    made = volume(api, center="EU-RO-1")
    other = volume(api, "other", center="EU-RO-1")
    far = api.call("POST", "/v1/pods", {"imageName": "busybox", "networkVolumeId": made, "dataCenterIds": ["US-TX-1"]})
    assert far.status == 400 and "EU-RO-1" in far.json["error"]
    first, second = pod(api, made), pod(api, made)
    assert api.ok("GET", f"/v1/pods/{first}?includeMachine=true")["machine"]["dataCenterId"] == "EU-RO-1"
    assert api.ok("GET", f"/v1/pods/{first}")["volumeMountPath"] == "/workspace"
    # Attached at creation only, to the same volume for ever.
    assert api.call("PATCH", f"/v1/pods/{first}", {"networkVolumeId": other}).status == 400
    moved = api.call("PATCH", f"/v2/pods/{first}", {"mounts": {"network": [{"volumeId": other, "path": "/workspace"}]}})
    assert moved.status == 400 and "neither changed nor removed" in moved.json["detail"]
    path = api.ok("PATCH", f"/v2/pods/{first}", {"mounts": {"network": [{"volumeId": made, "path": "/data"}]}})
    assert path["mounts"] == {"network": [{"volumeId": made, "path": "/data"}]}
    # No deletion while it is attached, by whatever way.
    error = api.error(f'mutation {{ deleteNetworkVolume(input: {{id: "{made}"}}) }}')
    assert error["message"] == "You must remove this network volume from all pods before deleting it."
    assert error["path"] == ["deleteNetworkVolume"] and error["extensions"]["code"] == "RUNPOD"
    assert api.call("DELETE", f"/v1/networkvolumes/{made}").status == 400
    assert api.call("DELETE", f"/v2/network-volumes/{made}").status == 409
    by_command = server.run("volume", "delete", made, "--yes", check=False)
    assert by_command.returncode != 0 and first in by_command.stderr
    # A pod that is stopped holds it still; two that are terminated do not.
    assert api.call("POST", f"/v1/pods/{first}/stop").status == 200
    assert api.call("DELETE", f"/v2/network-volumes/{made}").status == 409
    assert api.data(f'mutation {{ podTerminate(input: {{podId: "{first}"}}) }}') == {"podTerminate": None}
    assert api.call("DELETE", f"/v2/pods/{second}").status == 204
    assert api.data(f'{{ pod(input: {{podId: "{first}"}}) {{ id }} }}') == {"pod": None}
    assert api.call("DELETE", f"/v2/network-volumes/{made}").status == 204


def test_without_an_engine_a_pod_is_a_record_and_says_so(lab: harness.Lab):
    _, api = control.start(lab)
    made = volume(api)
    deployed = api.data(
        "mutation { podFindAndDeployOnDemand(input: { name: \"p\", imageName: \"busybox\", cloudType: ALL, gpuCount: 1,"
        ' gpuTypeId: "NVIDIA A40", volumeInGb: 0, containerDiskInGb: 10, dataCenterId: null, env: [{key: "A", value: "b"}],'
        f' networkVolumeId: "{made}", volumeMountPath: "/workspace" }}) {{ id imageName env machineId machine {{ podHostId }} }} }}'
    )["podFindAndDeployOnDemand"]
    shown = api.ok("GET", f"/v2/pods/{deployed['id']}")
    assert shown["status"] == "PROVISIONING" and shown["runtime"] is None
    assert "only recorded" in shown["statusReason"]
    assert "only recorded" in api.ok("GET", f"/v1/pods/{deployed['id']}")["lastStatusChange"]
    assert deployed["env"] == ["A=b"]
    assert api.call("GET", f"/v2/pods/{deployed['id']}/logs").status == 503


def test_records_outlive_a_restart_and_a_kill(plane):
    server, api = plane
    made = volume(api)
    held = pod(api, made)
    template = api.ok("POST", "/v1/templates", {"name": "t", "imageName": "busybox"})["id"]
    endpoint = api.ok("POST", "/v1/endpoints", {"templateId": template, "networkVolumeId": made})["id"]
    server.kill()
    server.restart()
    api = control.of(server)
    assert api.ok("GET", f"/v1/networkvolumes/{made}")["size"] == 50
    assert api.ok("GET", f"/v1/pods/{held}")["name"] == "worker"
    assert api.ok("GET", f"/v1/endpoints/{endpoint}")["networkVolumeId"] == made
    assert api.call("DELETE", f"/v1/templates/{template}").status == 400  # the endpoint uses it
    assert api.call("DELETE", f"/v1/endpoints/{endpoint}").status == 204
    assert api.call("DELETE", f"/v1/templates/{template}").status == 204


def test_what_v1_and_v2_say_of_mistakes(plane):
    _, api = plane
    wrong = api.call("POST", "/v1/networkvolumes", {"name": "x", "size": 10, "dataCenterId": "MARS-1"})
    assert wrong.status == 500
    assert wrong.json["error"].startswith(
        'create network volume: Data center "MARS-1" not found or does not support network volumes. Available data centers: '
    )
    wrong = api.call("POST", "/v2/network-volumes", {"name": "x", "size": 10, "dataCenter": "MARS-1"})
    assert wrong.status == 400 and "EU-RO-1" in wrong.json["detail"]
    wrong = api.call("POST", "/v1/networkvolumes", {"name": "x", "size": 10, "dataCenterId": "EU-RO-1", "bogus": 1})
    assert wrong.status == 400 and wrong.json["error"] == "Extra input keys provided in request body"
    assert "bogus" in wrong.json["problems"][0]
    wrong = api.call("POST", "/v2/network-volumes", {"name": "x", "size": 10, "dataCenter": "EU-RO-1", "bogus": 1})
    assert wrong.status == 422 and wrong.json["errors"] == ["$: additional properties 'bogus' not allowed"]
    for size in (9, 4097):
        assert api.call("POST", "/v2/network-volumes", {"name": "x", "size": size, "dataCenter": "EU-RO-1"}).status == 422
    assert api.call("POST", "/v1/networkvolumes", {"name": "x", "size": 4001, "dataCenterId": "EU-RO-1"}).status == 400
    made = volume(api)
    assert api.call("PATCH", f"/v2/network-volumes/{made}", {}).status == 422
    assert api.ok("GET", "/v1/networkvolumes") == [api.ok("GET", f"/v1/networkvolumes/{made}")]


def balance(api: control.Control) -> dict:
    return api.ok("GET", "/cairn/v1/account")


def test_charges_follow_size_and_time(plane):
    _, api = plane
    _, owner = api.account("metered")
    made = volume(owner, size=1500)
    before = balance(owner)["balance"]
    assert balance(owner)["spend_per_hour"] == pytest.approx((1000 * 0.07 + 500 * 0.05) / 720)
    api.advance(MONTH)
    # The seconds of the test itself cost a little, too: $95 a month is $0.00004 a second.
    assert before - balance(owner)["balance"] == pytest.approx(95.0, abs=0.01)
    owner.ok("DELETE", f"/v1/networkvolumes/{made}")
    after = balance(owner)["balance"]
    api.advance(MONTH)
    assert balance(owner)["balance"] == after
    months = owner.ok("GET", "/v1/billing/networkvolumes?bucketSize=day")
    assert sum(record["amount"] for record in months) <= 95.01
    records = owner.ok("GET", "/v2/billing/network-volumes?bucketSize=year&lastN=2")
    assert records["metadata"]["totals"]["totalAmount"] == pytest.approx(-after, abs=1e-6)
    assert {record["networkVolumeId"] for record in records["records"]} == {made}


def test_an_unpaid_account_is_stopped_warned_and_at_last_cleared(lab: harness.Lab):
    server, api = control.start(lab, "--grace", "3d")
    account, owner = api.account("student", prepaid=7.0)
    made = volume(owner, size=100)  # $7 a month
    held = pod(owner, made)
    free = owner.ok("POST", "/v1/pods", {"imageName": "busybox"}, 201)["id"]
    seen = balance(owner)
    assert seen["warnings"] == [] and seen["balance_ends"] and seen["volumes_terminated"]
    # Visible beforehand …
    api.advance(25 * DAY)
    answer = owner.call("GET", "/v1/networkvolumes")
    assert "will be used up" in answer.headers["x-cairn-warning"]
    assert "will be used up" in owner.data("{ myself { warnings clientBalance } }")["myself"]["warnings"][0]
    # … at 0 pods with the volume stop, charges go on …
    api.advance(6 * DAY)
    assert owner.ok("GET", f"/v1/pods/{held}")["desiredStatus"] == "EXITED"
    assert owner.ok("GET", f"/v1/pods/{free}")["desiredStatus"] == "RUNNING"
    assert owner.data("{ myself { clientBalance } }")["myself"]["clientBalance"] < 0
    assert "terminated for good" in balance(owner)["warnings"][0]
    assert owner.call("POST", f"/v1/pods/{held}/start").status == 402
    assert owner.call("POST", "/v1/networkvolumes", {"name": "n", "size": 1, "dataCenterId": "EU-RO-1"}).status == 402
    # … credit ends that …
    api.ok("POST", f"/cairn/v1/accounts/{account}/credit", {"dollars": 1.0})
    assert owner.call("POST", f"/v1/pods/{held}/start").status == 200
    # … and without any more of it the volume goes, mounted or not.
    mount = lab.mount(server, made)
    (mount.path / "file").write_text("kept while it is mounted")
    api.advance(20 * DAY)
    assert owner.ok("GET", f"/v1/pods/{held}")["desiredStatus"] == "EXITED"
    ended = balance(owner)["balance"]
    assert (mount.path / "file").read_text() == "kept while it is mounted"
    mount.stop_orderly()
    harness.wait_until(lambda: owner.ok("GET", "/v1/networkvolumes") == [], 20, "the volume is gone")
    assert not (server.data / "volumes" / made).exists()
    api.advance(DAY)
    assert balance(owner)["balance"] == ended == pytest.approx(-0.7, abs=0.01)  # three days of grace


def test_the_operators_own_volumes_are_never_taken(plane):
    server, api = plane
    made = server.create_volume("mine", "100GiB")["id"]
    api.advance(3650 * DAY)
    assert balance(api)["balance"] < -500 and balance(api)["warnings"] == []
    assert [found["id"] for found in api.ok("GET", "/v1/networkvolumes")] == [made]


def test_accounts_by_command(lab: harness.Lab, plane):
    server, api = plane
    where = ["--api", api.url, "--api-key-file", str(server.data / "control-key")]
    key = lab.run("account", "create", "team", "--prepaid", "10", *where).stdout.strip()
    assert "team" in lab.run("account", "list", *where).stdout
    shown = lab.run("account", "show", "--api", api.url, env={"CAIRN_API_KEY": key}).stdout
    assert "prepaid" in shown and "$10.0000" in shown
    account = api.with_key(key).ok("GET", "/cairn/v1/account")["id"]
    assert "$15.0000" in lab.run("account", "credit", account, "5", *where).stdout
    reader = lab.run("account", "key", "create", "--role", "reader", "--account", account, *where).stdout.strip()
    assert api.with_key(reader).ok("GET", "/v1/networkvolumes") == []
    lab.run("account", "key", "revoke", reader.split("_")[1], *where)
    assert api.with_key(reader).call("GET", "/v1/networkvolumes").status == 401
    before = lab.run("account", "clock", *where).stdout[:10]
    assert lab.run("account", "clock", "--advance", "40d", *where).stdout[:10] > before
    refused = lab.run("account", "credit", "user_nobody", "5", *where, check=False)
    assert refused.returncode == 6 and "account not found" in refused.stderr
    nobody = lab.run("account", "list", "--api", "http://127.0.0.1:1", "--api-key", "x", check=False)
    assert nobody.returncode == 5


def test_dev_has_the_apis_too(lab: harness.Lab):
    mount = lab.dev("--http", "127.0.0.1:0", "--engine", "none")
    assert mount.process is not None
    url = mount.process.wait_for(r"^control plane on (http://\S+)")[1]
    key = pathlib.Path(mount.process.wait_for(r"^its operator's key is in (\S+)")[1]).read_text(encoding="ascii").strip()
    api = control.Control(url, key)
    (found,) = api.ok("GET", "/v1/networkvolumes")
    assert (found["name"], found["dataCenterId"]) == ("default", "LOCAL")
    assert pod(api, found["id"])
    mount.stop_orderly()
