"""Every answer of a served REST route, held against the provider's own specification (contracts/*.json).

`Checker.call` takes the route as the specification writes it, so that the test knows at its end which routes were never asked.
"""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from support import control, harness

jsonschema = pytest.importorskip("jsonschema")
CONTRACTS = pathlib.Path(__file__).parent / "contracts"


def modern(schema):
    """OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if isinstance(schema, list):
        return [modern(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: modern(value) for name, value in schema.items()}
    if schema.pop("nullable", False) is True and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    # An object whose values are described by `items`, as this specification writes it.
    if schema.get("type") == "object" and "items" in schema:
        schema["additionalProperties"] = schema.pop("items")
    return schema


class Checker:
    def __init__(self, api: control.Control, name: str, prefix: str):
        self.api = api
        self.prefix = prefix
        document = json.loads((CONTRACTS / name).read_text(encoding="utf-8"))
        self.document = modern(document) if document["openapi"].startswith("3.0") else document
        self.asked: set[tuple[str, str]] = set()

    def resolve(self, node: dict) -> dict:
        while "$ref" in node:
            target = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node

    def validate(self, schema: dict, value: object) -> None:
        root = dict(schema) | {"components": self.document["components"]}
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(root, format_checker=checker).validate(value)

    def call(self, method: str, route: str, body=None, status: int = 200, query: str = "", **names: str):
        """Asks, and holds status, kind and body against the specification."""
        operation = self.document["paths"][route][method.lower()]
        path = re.sub(r"{(\w+)}", lambda found: names[found[1]], self.prefix + route)
        answer = self.api.call(method, path + query, body)
        assert answer.status == status, f"{method} {path}: {answer.status} {answer.text}"
        self.asked.add((method.lower(), route))
        described = operation["responses"].get(str(status)) or operation["responses"].get("default")
        # v1 was seen to answer as with 200 where its specification forgot to say what it answers.
        if described is None:
            assert status == 200 and not answer.text, f"{method} {route} may not answer {status}"
            return None
        content = self.resolve(described).get("content", {})
        if not content:
            assert status >= 400 or not answer.text, answer.text
            return answer.json if answer.text else None
        kind = answer.kind.split(";")[0]
        assert kind in content, f"{method} {route} answers {kind}"
        if kind.endswith("json"):
            self.validate(content[kind]["schema"], answer.json)
            return answer.json
        return answer.text

    def fails(self, method: str, route: str, body=None, status: int = 404, query: str = "", **names: str) -> None:
        """A failure in this API's form."""
        found = self.call(method, route, body, status, query, **names)
        if self.prefix:
            assert found["error"] and found["status"] == status
        else:
            assert found["status"] == status and found["title"] and found["detail"]

    def assert_complete(self) -> None:
        """Every route of the specification is served and was asked, or answers 501 with a sentence."""
        listed = self.api.ok("GET", "/openapi.json")["paths"]
        untested, unanswered = [], []
        for route, operations in self.document["paths"].items():
            for method in operations:
                if method not in ("get", "post", "put", "patch", "delete"):
                    continue
                mine = listed.get(self.prefix + route, {}).get(method)
                refused = mine is None or "501" in mine["responses"]
                if not refused and (method, route) not in self.asked:
                    untested.append((method, route))
                if refused:
                    path = re.sub(r"{\w+}", "x", self.prefix + route)
                    answer = self.api.call(method.upper(), path, {} if method != "get" else None)
                    if answer.status != 501 or "does not implement" not in answer.text or mine is None:
                        unanswered.append((method, route, answer.status))
        assert not untested, f"served and never asked: {untested}"
        assert not unanswered, f"neither served nor refused with a sentence: {unanswered}"


@pytest.fixture
def api(lab: harness.Lab):
    _, api = control.start(lab)
    # So that billing has something to tell.
    api.ok("POST", "/v1/networkvolumes", {"name": "old", "size": 1200, "dataCenterId": "EU-RO-1"})
    api.advance(3 * 24 * 3600)
    return api


def test_rest_v1(api: control.Control):
    check = Checker(api, "runpod-rest-v1.openapi.json", "/v1")
    new = {"name": "v", "size": 50, "dataCenterId": "EU-RO-1"}
    made = check.call("POST", "/networkvolumes", new)["id"]
    at = {"networkVolumeId": made}
    check.call("GET", "/networkvolumes")
    check.call("GET", "/networkvolumes/{networkVolumeId}", **at)
    check.call("PATCH", "/networkvolumes/{networkVolumeId}", {"size": 60}, **at)
    check.call("POST", "/networkvolumes/{networkVolumeId}/update", {"name": "w"}, **at)
    check.fails("GET", "/networkvolumes/{networkVolumeId}", networkVolumeId="x")
    check.fails("PATCH", "/networkvolumes/{networkVolumeId}", {"size": 1}, 400, **at)

    template = check.call("POST", "/templates", {"name": "t", "imageName": "busybox", "env": {"A": "b"}})["id"]
    check.call("GET", "/templates")
    assert check.call("GET", "/templates", query="?includeRunpodTemplates=true")
    check.call("GET", "/templates/{templateId}", templateId=template)
    check.call("PATCH", "/templates/{templateId}", {"name": "u"}, templateId=template)
    check.call("POST", "/templates/{templateId}/update", {"readme": "r"}, templateId=template)
    check.fails("GET", "/templates/{templateId}", templateId="x")

    gpu = {"name": "g", "imageName": "busybox", "networkVolumeId": made, "gpuTypeIds": ["NVIDIA L4"], "env": {"K": "v"}}
    pod = check.call("POST", "/pods", gpu, 201)["id"]
    cpu = check.call("POST", "/pods", {"computeType": "CPU", "templateId": template, "vcpuCount": 4}, 201)["id"]
    include = "?includeMachine=true&includeNetworkVolume=true&includeTemplate=true&includeWorkers=true"
    assert len(check.call("GET", "/pods", query=include)) == 2
    assert [found["id"] for found in check.call("GET", "/pods", query=f"?networkVolumeId={made}")] == [pod]
    assert [found["id"] for found in check.call("GET", "/pods", query="?computeType=CPU")] == [cpu]
    check.call("GET", "/pods/{podId}", query=include, podId=cpu)
    check.call("PATCH", "/pods/{podId}", {"name": "h"}, podId=pod)
    check.call("POST", "/pods/{podId}/update", {"env": {}}, podId=pod)
    check.call("POST", "/pods/{podId}/restart", podId=pod)
    check.call("POST", "/pods/{podId}/reset", podId=pod)
    check.call("POST", "/pods/{podId}/stop", podId=pod)
    check.fails("POST", "/pods/{podId}/stop", None, 400, podId=pod)
    check.call("POST", "/pods/{podId}/start", podId=pod)
    check.call("DELETE", "/pods/{podId}", status=204, podId=pod)
    check.fails("GET", "/pods/{podId}", podId=pod)

    endpoint = check.call(
        "POST", "/endpoints", {"templateId": template, "networkVolumeIds": [made], "gpuTypeIds": ["NVIDIA L4"], "workersMax": 2}
    )["id"]
    check.call("POST", "/endpoints", {"templateId": template, "computeType": "CPU"})
    with_template = "?includeTemplate=true&includeWorkers=true"
    assert len(check.call("GET", "/endpoints", query=with_template)) == 2
    check.call("GET", "/endpoints/{endpointId}", query=with_template, endpointId=endpoint)
    check.call("PATCH", "/endpoints/{endpointId}", {"workersMax": 5}, endpointId=endpoint)
    check.call("POST", "/endpoints/{endpointId}/update", {"flashboot": True}, endpointId=endpoint)
    check.fails("GET", "/endpoints/{endpointId}", endpointId="x")
    check.fails("DELETE", "/networkvolumes/{networkVolumeId}", None, 400, **at)
    check.call("DELETE", "/endpoints/{endpointId}", status=204, endpointId=endpoint)
    check.call("DELETE", "/networkvolumes/{networkVolumeId}", status=204, **at)
    check.call("DELETE", "/templates/{templateId}", status=400, templateId=template)

    spare = check.call("POST", "/templates", {"name": "s", "imageName": "busybox"})["id"]
    check.call("DELETE", "/templates/{templateId}", status=204, templateId=spare)
    assert check.call("GET", "/billing/pods") == []
    for size in ("hour", "day", "week", "month", "year"):
        assert check.call("GET", "/billing/networkvolumes", query=f"?bucketSize={size}")[0]["diskSpaceBilledGb"] >= 1200
    check.assert_complete()


def test_rest_v2(api: control.Control):
    check = Checker(api, "runpod-rest-v2.openapi.json", "")
    volumes, volume = "/v2/network-volumes", "/v2/network-volumes/{id}"
    made = check.call("POST", volumes, {"name": "v", "size": 50, "dataCenter": "EU-RO-1"}, 201)
    assert made["type"] == "STANDARD"
    fast = check.call(
        "POST", volumes, {"name": "f", "size": 10, "dataCenter": "US-KS-2", "type": "HIGH_PERFORMANCE"}, 201
    )
    assert fast["type"] == "HIGH_PERFORMANCE"
    at = {"id": made["id"]}
    assert len(check.call("GET", volumes)["networkVolumes"]) == 3
    check.call("GET", volume, **at)
    check.call("PATCH", volume, {"size": 60}, **at)
    check.fails("PATCH", volume, {"size": 50}, 400, **at)
    check.fails("PATCH", volume, {"bogus": 1}, 422, **at)
    check.fails("POST", volumes, {"name": "x"}, 422)
    check.fails("GET", volume, id="x")

    templates, template = "/v2/templates", "/v2/templates/{id}"
    plain = check.call("POST", templates, {"name": "t", "image": "busybox", "env": {"A": "b"}}, 201)["id"]
    body = {"name": "s", "image": "busybox", "serverless": True, "mounts": {"persistent": {"size": 10, "path": "/data"}}}
    serverless = check.call("POST", templates, body, 201)["id"]
    assert len(check.call("GET", templates)["templates"]) == 2
    check.call("GET", template, id=plain)
    check.call("PATCH", template, {"startSsh": False}, id=plain)
    check.fails("PATCH", template, {"bogus": 1}, 422, id=plain)
    check.fails("GET", template, id="x")

    pods, pod = "/v2/pods", "/v2/pods/{id}"
    network = {"network": [{"volumeId": made["id"], "path": "/workspace"}]}
    gpu = check.call("POST", pods, {"name": "g", "image": "busybox", "gpu": {"id": "NVIDIA L4"}, "mounts": network}, 201)
    assert gpu["mounts"] == network and gpu["dataCenterId"] == "EU-RO-1"
    cpu = check.call("POST", pods, {"name": "c", "templateId": plain, "cpu": {"id": "cpu3c", "vcpuCount": 4}}, 201)
    assert cpu["cpu"] == {"id": "cpu3c", "vcpuCount": 4, "memory": 8} and "gpu" not in cpu
    check.call("POST", pods, {"name": "p", "image": "x", "gpu": {"id": "NVIDIA L4"}, "mounts": body["mounts"]}, 201)
    check.fails("POST", pods, {"name": "n", "image": "x"}, 400)
    check.fails("POST", pods, {"name": "n", "image": "x", "gpu": {"id": "NVIDIA L4"}, "mounts": {"x": 1}}, 422)
    far = {"name": "n", "image": "x", "gpu": {"id": "NVIDIA L4"}, "mounts": network, "dataCenterIds": ["US-KS-2"]}
    check.fails("POST", pods, far, 400)
    assert len(check.call("GET", pods)["pods"]) == 3
    at_pod = {"id": gpu["id"]}
    check.call("GET", pod, **at_pod)
    check.call("PATCH", pod, {"name": "h", "locked": True}, **at_pod)
    check.fails("POST", "/v2/pods/{id}/action", {"action": "stop"}, 409, **at_pod)
    check.call("PATCH", pod, {"locked": False}, **at_pod)
    stopped = check.call("POST", "/v2/pods/{id}/action", {"action": "stop"}, **at_pod)
    assert stopped["status"] == "EXITED" and stopped["actions"] == ["start", "terminate"]
    check.fails("POST", "/v2/pods/{id}/action", {"action": "restart"}, 409, **at_pod)
    check.call("POST", "/v2/pods/{id}/action", {"action": "start"}, **at_pod)
    check.fails("POST", "/v2/pods/{id}/action", {"action": "fly"}, 422, **at_pod)
    check.fails("GET", "/v2/pods/{id}/logs", None, 503, **at_pod)  # no engine
    check.fails("DELETE", volume, None, 409, **at)
    check.call("POST", "/v2/pods/{id}/action", {"action": "terminate"}, 204, **at_pod)
    check.call("DELETE", pod, status=204, id=cpu["id"])
    check.fails("GET", pod, **at_pod)

    endpoints, endpoint = "/v2/serverless", "/v2/serverless/{id}"
    queue = {"name": "q", "type": "QUEUE", "scaling": {"type": "QUEUE_DELAY", "queueDelay": 2.5}, "templateId": serverless}
    first = check.call("POST", endpoints, queue | {"gpu": {"pools": ["ADA_24"]}, "networkVolumes": [made["id"]]}, 201)
    assert first["networkVolumes"] == [made["id"]] and first["image"] == "busybox"
    balanced = {"name": "b", "type": "LOAD_BALANCER", "scaling": {"type": "REQUEST_COUNT", "requestCount": 3}, "image": "x"}
    check.call("POST", endpoints, balanced | {"cpu": [{"id": "cpu3c", "vcpuCount": 2}]}, 201)
    check.fails("POST", endpoints, queue | {"type": "LOAD_BALANCER"}, 422)
    check.fails("POST", endpoints, queue | {"templateId": plain}, 400)
    check.fails("POST", endpoints, {"name": "x"}, 422)
    assert len(check.call("GET", endpoints)["endpoints"]) == 2
    at_endpoint = {"id": first["id"]}
    check.call("GET", endpoint, **at_endpoint)
    check.call("PATCH", endpoint, {"workers": {"max": 7}, "flashboot": "FLASHBOOT"}, **at_endpoint)
    check.call("GET", "/v2/serverless/{id}/workers", **at_endpoint)
    check.fails("DELETE", volume, None, 409, **at)
    check.call("DELETE", endpoint, status=204, **at_endpoint)
    check.call("DELETE", volume, status=204, **at)
    check.fails("DELETE", volume, None, 404, **at)
    check.call("DELETE", template, status=204, id=plain)

    for route in ("/v2/catalog/gpus", "/v2/catalog/cpus", "/v2/catalog/datacenters", "/v2/catalog/templates"):
        check.call("GET", route)
    check.call("GET", "/v2/catalog/gpus", query="?include=AVAILABILITY")
    check.call("GET", "/v2/catalog/cpus", query="?include=AVAILABILITY")
    regions = check.call("GET", "/v2/catalog/datacenters", query="?regions=EUROPE")["dataCenters"]
    assert {center["region"] for center in regions} == {"EUROPE"}
    check.call("GET", "/v2/catalog/gpus/{id}", id="NVIDIA%20L4")
    check.call("GET", "/v2/catalog/cpus/{id}", id="cpu3c")
    check.call("GET", "/v2/catalog/datacenters/{id}", id="EU-RO-1")
    for route in ("/v2/catalog/gpus/{id}", "/v2/catalog/cpus/{id}", "/v2/catalog/datacenters/{id}"):
        check.fails("GET", route, id="x")
    keys = ["ssh-ed25519 AAAA me"]
    assert check.call("PUT", "/v2/account/ssh-keys", {"keys": keys}) == {"keys": keys}
    assert check.call("GET", "/v2/account/ssh-keys") == {"keys": keys}
    check.fails("PUT", "/v2/account/ssh-keys", {"keys": ["nonsense"]}, 422)
    for route in ("/v2/billing", "/v2/billing/pods", "/v2/billing/serverless", "/v2/billing/network-volumes"):
        check.call("GET", route)
        check.call("GET", route, query="?bucketSize=hour&lastN=5")
        check.call("GET", route, query="?startTime=2026-01-01T00:00:00Z&bucketSize=month")
        check.fails("GET", route, None, 422, query="?bucketSize=fortnight")
    total = check.call("GET", "/v2/billing", query="?bucketSize=year")["metadata"]["totals"]["totalAmount"]
    assert total == pytest.approx(80 * 3 / 30, abs=0.01)  # $80 a month for 1,200 GB, three days of it
    check.assert_complete()


def test_the_own_document_lists_routes_that_exist(api: control.Control):
    document = api.ok("GET", "/openapi.json")
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            filled = re.sub(r"{\w+}", "zzzzzzzzzz", path)
            answer = api.call(method.upper(), filled, {} if method != "get" else None)
            assert answer.status not in (405, 500), (method, path, answer.text)
            assert "no such route" not in answer.text, (method, path)
            assert (answer.status == 501) == ("501" in operation["responses"]), (method, path, answer.status)
