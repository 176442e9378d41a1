"""What an operator reads: the metrics page, the dashboard that is made of it, and logs for machines."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest

from support import harness

DASHBOARD = harness.ROOT / "packaging" / "grafana" / "cairn.json"


@pytest.fixture
def observed(lab: harness.Lab) -> tuple[harness.Server, str]:
    """A server that has done something, and the address of its metrics."""
    server = lab.server("--metrics", "127.0.0.1:0")
    assert server.process is not None
    address = server.process.wait_for(r"^metrics on (http://\S+)")[1]
    server.create_volume("v", "1GiB", "--profile", "native,df=pool")
    mount = lab.mount(server, "v")
    (mount.path / "file").write_bytes(b"x" * 100_000)
    mount.stop_orderly()
    return server, address


def page_of(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return answer.read().decode()


def families(page: str) -> dict[str, list[str]]:
    """Samples of each metric; the page must be well formed: help and type first, one number at each sample's end."""
    found: dict[str, list[str]] = {}
    told = set()
    for line in page.splitlines():
        if line.startswith("# "):
            told.add(line.split()[2])
            found.setdefault(line.split()[2], [])
            continue
        name = re.match(r"[a-z_]+", line)[0]
        assert name in told, f"{name} has no help and type"
        float(line.rsplit(" ", 1)[1])
        found[name].append(line)
    return found


def test_the_page_tells_what_happened(observed):
    _, address = observed
    found = families(page_of(address))
    assert re.search(r'cairn_volume_bytes_used\{volume="\w+",name="v"\} 100352$', found["cairn_volume_bytes_used"][0])
    assert re.search(r'profile="native,df=pool"\} 1$', found["cairn_volume_profile"][0])
    received = float(found["cairn_engine_blob_bytes_received_total"][0].rsplit(" ", 1)[1])
    assert received >= 100_000
    assert any('kind="put_blobs"' in line and not line.endswith(" 0") for line in found["cairn_requests_total"])


def test_every_metric_of_the_dashboard_is_exported(observed):
    _, address = observed
    exported = {name for name, samples in families(page_of(address)).items() if samples}
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    wanted: dict[str, str] = {}
    for panel in dashboard["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            names = re.findall(r"\bcairn_[a-z_]+", target["expr"])
            assert names, target["expr"]
            wanted |= dict.fromkeys(names, panel["title"])
    for variable in dashboard["templating"]["list"]:
        wanted |= dict.fromkeys(re.findall(r"\bcairn_[a-z_]+", str(variable["query"])), variable["name"])
    missing = {name: where for name, where in wanted.items() if name not in exported}
    assert not missing, missing
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places) and len({panel["id"] for panel in dashboard["panels"]}) == len(places)
    named = set(re.findall(r"`(cairn_[a-z_]+)`", (harness.ROOT / "docs" / "operations.md").read_text(encoding="utf-8")))
    assert named and named <= exported, named - exported


def test_logs_are_for_machines_if_asked(lab: harness.Lab):
    server = lab.server("--log-format", "json", "--log", "info,cairn_server::connection=debug")
    server.create_volume("v", "1GiB")
    assert server.process is not None
    lines = [json.loads(line) for line in server.process.log.splitlines() if line.startswith("{")]
    made = [line for line in lines if line["fields"]["message"] == "volume made"]
    assert len(made) == 1 and made[0]["level"] == "INFO" and made[0]["fields"]["name"] == "v", lines
    served = [line["fields"] for line in lines if line["fields"]["message"] == "request served"]
    assert served and all({"request", "kind", "microseconds", "failed"} <= set(fields) for fields in served), served
