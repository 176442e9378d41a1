"""What a client of the control plane must not get, and what it must not be able to take from others."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time

import pytest

from support import control, harness


@pytest.fixture
def plane(lab: harness.Lab):
    server, api = control.start(lab)
    made = api.ok("POST", "/v1/networkvolumes", {"name": "v", "size": 10, "dataCenterId": "EU-RO-1"})["id"]
    return server, api, made


@contextlib.contextmanager
def working_mount(lab: harness.Lab, server: harness.Server, volume: str):
    """A mount that is written, synced and read all the while; fails if it stood still or gave wrong bytes."""
    mount = lab.mount(server, volume)
    stop, rounds, troubles, longest = threading.Event(), [0], [], [0.0]

    def work() -> None:
        try:
            while not stop.is_set():
                begun = time.monotonic()
                content = os.urandom(4096)
                path = mount.path / f"file{rounds[0] % 20}"
                with open(path, "wb") as file:
                    file.write(content)
                    os.fsync(file.fileno())
                assert path.read_bytes() == content
                rounds[0] += 1
                longest[0] = max(longest[0], time.monotonic() - begun)
        except Exception as error:  # noqa: BLE001
            troubles.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
        harness.wait_until(lambda: rounds[0] > 5 or troubles, 60, "the mount goes on working")
    finally:
        stop.set()
        thread.join(60)
    assert not troubles, troubles
    assert longest[0] < 20, f"{rounds[0]} rounds, the longest {longest[0]:.1f} s"
    mount.stop_orderly()


def test_wrong_keys_open_nothing(plane):
    _, api, made = plane
    good = api.key
    wrongs = [None, "", "nonsense", "cak_", good[:-1], good + "0", good[:-1] + ("0" if good[-1] != "0" else "1")]
    for wrong in wrongs:
        other = api.with_key(wrong)
        for method, path in [
            ("GET", "/v1/networkvolumes"), ("GET", f"/v1/networkvolumes/{made}"), ("GET", "/v2/network-volumes"),
            ("DELETE", f"/v2/network-volumes/{made}"), ("GET", "/cairn/v1/accounts"), ("GET", "/v1/nowhere"),
        ]:
            answer = other.call(method, path)
            assert answer.status == 401 and made not in answer.text, (wrong, path, answer.text)
        assert other.graphql("{ myself { id } }").status == 401
    # GraphQL takes the key in the address as well, and only GraphQL.
    body = json.dumps({"query": "{ myself { id } }"}).encode()
    assert api.with_key(None).raw("POST", f"/graphql?api_key={good}", body).json["data"]["myself"]["id"]
    assert api.with_key(None).raw("GET", f"/v1/networkvolumes?api_key={good}").status == 401
    # These need none.
    for path in ("/health", "/ready", "/openapi.json"):
        harness.wait_until(lambda path=path: api.with_key(None).call("GET", path).status == 200, 20, path)


def test_roles(plane):
    _, api, made = plane
    keys = {role: api.ok("POST", "/cairn/v1/keys", {"role": role}, 201)["key"] for role in ("reader", "editor", "owner")}
    reader, editor, owner = (api.with_key(keys[role]) for role in ("reader", "editor", "owner"))
    assert reader.ok("GET", f"/v1/networkvolumes/{made}")["id"] == made
    new = {"name": "n", "size": 10, "dataCenterId": "EU-RO-1"}
    assert reader.call("POST", "/v1/networkvolumes", new).status == 403
    assert reader.call("PATCH", f"/v2/network-volumes/{made}", {"size": 20}).status == 403
    assert reader.call("DELETE", f"/v2/network-volumes/{made}").status == 403
    assert reader.call("POST", "/v1/pods", {"imageName": "x"}).status == 403
    assert "editor" in reader.error(f'mutation {{ deleteNetworkVolume(input: {{id: "{made}"}}) }}')["message"]
    assert editor.ok("POST", "/v1/networkvolumes", new)["id"]
    assert editor.call("POST", "/cairn/v1/keys", {"role": "owner"}).status == 403
    assert "owner" in editor.error('mutation { updateUserSettings(input: {pubKey: "ssh-ed25519 A"}) { id } }')["message"]
    assert owner.ok("POST", "/cairn/v1/keys", {"role": "reader"}, 201)
    for method, path, body in [
        ("POST", "/cairn/v1/keys", {"role": "operator"}), ("POST", "/cairn/v1/clock", {"seconds": 1}),
        ("GET", "/cairn/v1/accounts", None), ("POST", "/cairn/v1/accounts", {"name": "x"}),
    ]:
        assert owner.call(method, path, body).status == 403, path


def test_another_accounts_things_do_not_exist(plane):
    _, api, made = plane
    held = api.ok("POST", "/v1/pods", {"name": "secret-pod", "imageName": "x", "networkVolumeId": made}, 201)["id"]
    template = api.ok("POST", "/v1/templates", {"name": "secret-template", "imageName": "x"})["id"]
    endpoint = api.ok("POST", "/v1/endpoints", {"templateId": template, "name": "secret-endpoint"})["id"]
    _, other = api.account("other")
    nowhere = "zzzzzzzzzz"
    for method, path, body in [
        ("GET", "/v1/networkvolumes/{}", None), ("PATCH", "/v1/networkvolumes/{}", {"size": 99}),
        ("DELETE", "/v1/networkvolumes/{}", None), ("GET", "/v2/network-volumes/{}", None),
        ("PATCH", "/v2/network-volumes/{}", {"name": "x"}), ("DELETE", "/v2/network-volumes/{}", None),
    ]:
        answers = [other.call(method, path.format(name), body) for name in (made, nowhere)]
        assert [answer.status for answer in answers] == [404, 404], path
        assert answers[0].text.replace(made, nowhere) == answers[1].text, "the answers tell which one exists"
    for kind, name in [("pods", held), ("templates", template), ("endpoints", endpoint)]:
        for method, path in [("GET", f"/v1/{kind}/{name}"), ("DELETE", f"/v1/{kind}/{name}")]:
            assert other.call(method, path).status == 404
        assert other.ok("GET", f"/v1/{kind}") == []
    assert other.call("POST", "/v1/pods", {"imageName": "x", "networkVolumeId": made}).status == 404
    assert other.call("POST", f"/v1/pods/{held}/stop").status == 404
    assert other.error(f'mutation {{ deleteNetworkVolume(input: {{id: "{made}"}}) }}')["message"] == "network volume not found"
    assert other.data(f'{{ pod(input: {{podId: "{held}"}}) {{ id }} myself {{ networkVolumes {{ id }} pods {{ id }} }} }}') == {
        "pod": None, "myself": {"networkVolumes": [], "pods": []},
    }
    assert other.ok("GET", f"/v2/billing/network-volumes?networkVolumeId={made}")["records"] == []
    listed = other.ok("GET", "/cairn/v1/keys")["keys"]
    assert {key["account"] for key in listed} == {other.ok("GET", "/cairn/v1/account")["id"]}
    assert other.call("DELETE", f"/cairn/v1/keys/{api.key.split('_')[1]}").status == 404


def test_bodies_that_are_too_large_or_no_bodies_at_all(plane):
    _, api, _ = plane
    large = b'{"name": "' + b"x" * (2 << 20) + b'"}'
    for path in ("/v1/networkvolumes", "/v2/network-volumes", "/graphql", "/cairn/v1/accounts"):
        # The answer may be overtaken by the end of the connection: the server does not take in what it has refused.
        with contextlib.suppress(ConnectionError, BrokenPipeError, OSError):
            assert api.raw("POST", path, large).status == 413
        for wrong in (b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{" * 50_000, b'{"query": 5}', b'{"query": "{"}'):
            answer = api.raw("POST", path, wrong)
            allowed = (200,) if path == "/graphql" and b"query" in wrong and b"5" not in wrong else (400, 422)
            assert answer.status in allowed, (path, wrong[:20], answer.status, answer.text)
            assert "panic" not in answer.text
    assert api.call("POST", "/v1/networkvolumes", {"name": "x", "size": -1, "dataCenterId": "EU-RO-1"}).status == 400
    assert api.call("POST", "/v1/networkvolumes", {"name": "x", "size": 1e300, "dataCenterId": "EU-RO-1"}).status == 400
    assert api.call("POST", "/v2/network-volumes", {"name": "x" * 300, "size": 10, "dataCenter": "EU-RO-1"}).status == 400
    assert api.ok("GET", "/v1/networkvolumes")


def test_queries_that_ask_for_too_much(lab: harness.Lab, plane):
    server, api, made = plane
    bomb = "{ myself { ...f0 } } " + "".join(
        f"fragment f{number} on User {{ ...f{number + 1} ...f{number + 1} }} " for number in range(28)
    ) + "fragment f28 on User { id }"
    circle = "{ myself { ...a } } fragment a on User { ...b } fragment b on User { ...a }"
    aliases = "{ " + " ".join(f"a{number}: dataCenters {{ id name location }}" for number in range(2000)) + " }"
    deep = "{ myself " + "{ endpoints { template " * 200 + "{ id }" + " } }" * 200 + " }"
    brackets = '{ pod(input: {podId: ' + "[" * 20000 + "]" * 20000 + "}) { id } }"
    with working_mount(lab, server, made):
        for name, query in [("bomb", bomb), ("circle", circle), ("aliases", aliases), ("deep", deep), ("brackets", brackets)]:
            begun = time.monotonic()
            answer = api.graphql(query)
            assert answer.status == 200 and answer.json["errors"], name
            assert time.monotonic() - begun < 5, f"{name} took {time.monotonic() - begun:.1f} s"
    assert api.data("{ __schema { queryType { name } } }")


def closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.limit(180)
def test_slow_senders_are_cut_off(lab: harness.Lab, plane):
    server, api, made = plane
    with working_mount(lab, server, made):
        slow_head = socket.create_connection(api.address, 10)
        slow_head.sendall(b"GET /v1/networkvolumes HTTP/1.1\r\nHost: x\r\n")
        slow_body = socket.create_connection(api.address, 10)
        head = f"POST /v1/networkvolumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nContent-Length: 100\r\n\r\n"
        slow_body.sendall(head.encode() + b'{"name"')
        drip = socket.create_connection(api.address, 10)
        drip.sendall(b"GET / HTTP/1.1\r\n")
        begun = time.monotonic()
        while time.monotonic() - begun < 25:
            try:
                drip.sendall(b"X-Drip: 1\r\n")
            except OSError:
                break
            time.sleep(0.5)
            assert api.ok("GET", "/v1/networkvolumes")
        assert time.monotonic() - begun < 20, "a head that comes in drips is waited for without end"
        assert closed_within(slow_head, 20)
        assert closed_within(slow_body, 30)
        endless = socket.create_connection(api.address, 10)
        with contextlib.suppress(OSError):
            endless.sendall(b"GET / HTTP/1.1\r\nX: " + b"y" * (1 << 20))
        assert closed_within(endless, 20)


@pytest.mark.limit(180)
def test_a_thousand_idle_connections(lab: harness.Lab, plane):
    server, api, made = plane
    with contextlib.ExitStack() as stack, working_mount(lab, server, made):
        idle = [stack.enter_context(socket.create_connection(api.address, 10)) for _ in range(1000)]
        assert len(idle) == 1000
        for _ in range(20):
            begun = time.monotonic()
            assert api.ok("GET", "/v1/networkvolumes")
            assert time.monotonic() - begun < 5
        descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
        assert descriptors < 500, f"{descriptors} descriptors are open"
        assert server.json("volume", "list")


def test_many_at_once(lab: harness.Lab, plane):
    server, api, made = plane
    statuses: list[int] = []

    def ask() -> None:
        for _ in range(10):
            statuses.append(api.call("GET", "/v2/network-volumes").status)

    with working_mount(lab, server, made):
        threads = [threading.Thread(target=ask) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(statuses) == 400 and set(statuses) <= {200, 503}


def test_answers_carry_a_request_id_that_the_log_knows(plane):
    server, api, _ = plane
    given = api.raw("GET", "/v1/networkvolumes", headers={"x-request-id": "from-the-client-1"})
    assert given.headers["x-request-id"] == "from-the-client-1"
    made = api.call("GET", "/v1/nowhere")
    assert made.status == 404 and made.headers["x-request-id"]
    assert server.process is not None
    log = server.process.log
    assert "from-the-client-1" in log and made.headers["x-request-id"] in log
    assert api.key not in log
