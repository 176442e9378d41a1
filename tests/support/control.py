"""A client of the control plane for tests, with nothing between the test and the bytes that are sent.

Not here: what is tested. The real clients' tests use those clients.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import urllib.error
import urllib.request

from . import harness

LIMIT = 60.0


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self):
        return json.loads(self.text)

    @property
    def kind(self) -> str:
        return self.headers.get("content-type", "")


class Control:
    """The control plane of a server, addressed with one key."""

    def __init__(self, url: str, key: str | None):
        self.url = url
        self.key = key

    def with_key(self, key: str | None) -> Control:
        return Control(self.url, key)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def raw(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        request.add_header("content-type", "application/json")
        if self.key is not None:
            request.add_header("authorization", f"Bearer {self.key}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        try:
            response = urllib.request.urlopen(request, timeout=LIMIT)  # noqa: S310
        except urllib.error.HTTPError as error:
            response = error
        with response:
            found = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, found, response.read().decode())

    def call(self, method: str, path: str, body: object = None) -> Answer:
        return self.raw(method, path, None if body is None else json.dumps(body).encode())

    def ok(self, method: str, path: str, body: object = None, status: int | None = None):
        """The decoded answer; fails unless it is a success."""
        answer = self.call(method, path, body)
        good = answer.status == status if status else 200 <= answer.status < 300
        assert good, f"{method} {path}: {answer.status} {answer.text}"
        return answer.json if answer.text else None

    def graphql(self, query: str, variables: object = None) -> Answer:
        body = {"query": query} if variables is None else {"query": query, "variables": variables}
        return self.call("POST", "/graphql", body)

    def data(self, query: str, variables: object = None):
        """The data of a query that succeeds."""
        answer = self.graphql(query, variables)
        assert answer.status == 200 and "errors" not in answer.json, answer.text
        return answer.json["data"]

    def error(self, query: str) -> dict:
        """The first error of a query that fails as GraphQL queries do."""
        answer = self.graphql(query)
        assert answer.status == 200 and answer.json.get("errors"), answer.text
        return answer.json["errors"][0]

    def account(self, name: str, prepaid: float | None = None) -> tuple[str, Control]:
        """A new account: its id, and its control plane by the owner's key."""
        made = self.ok("POST", "/cairn/v1/accounts", {"name": name, "prepaid": prepaid}, 201)
        return made["id"], self.with_key(made["key"])

    def advance(self, seconds: int) -> None:
        self.ok("POST", "/cairn/v1/clock", {"seconds": seconds})


def of(server: harness.Server) -> Control:
    """The control plane of a server that was started with --http, by its operator's key."""
    assert server.process is not None
    url = server.process.wait_for(r"^control plane on (http://\S+)")[1]
    key_file = pathlib.Path(server.process.wait_for(r"^its operator's key is in (\S+)")[1])
    return Control(url, key_file.read_text(encoding="ascii").strip())


def start(lab: harness.Lab, *flags: str, engine: str = "none") -> tuple[harness.Server, Control]:
    server = lab.server("--http", "127.0.0.1:0", "--engine", engine, *flags)
    return server, of(server)
