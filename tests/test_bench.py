"""`cairn bench` on a real mount, beside a local directory: what it prints, its JSON and its page, and that it leaves nothing.

How fast anything is, is not tested here.
"""

from __future__ import annotations

import html.parser
import json
import os
import pathlib
import re

import pytest

from support import harness

SMALL = [
    "--size", "8MiB", "--count", "60", "--small", "4KiB", "--random-reads", "50", "--fsyncs", "5", "--archive-sizes", "1KiB,16KiB",
    "--archive-count", "20",
]
ROWS = [
    "seq-write", "seq-read", "seq-read-warm", "mmap-read", "random-1", "random-16", "create", "create-synced", "walk", "read", "read-random",
    "read-8", "read-warm", "rewrite", "delete", "create-fsync",
]


class Page(html.parser.HTMLParser):
    """What a page refers to and what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.count: dict[str, int] = {}
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.references += [value or "" for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(path: pathlib.Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture
def measured(lab: harness.Lab, server: harness.Server) -> tuple[pathlib.Path, pathlib.Path]:
    mount = lab.mount(server, "vol")
    local = lab.new_path("local")
    local.mkdir()
    return mount.path, local


def test_every_row_is_measured_on_both_and_nothing_is_left(lab: harness.Lab, measured: tuple[pathlib.Path, pathlib.Path]):
    mount, local = measured
    page = lab.root / "report.html"
    result = lab.run("bench", str(mount), "--against", str(local), *SMALL, "--json", "--html", str(page), limit=240)
    report = json.loads(result.stdout)
    assert [target["name"] for target in report["targets"]] == [str(mount), str(local)]
    for target in report["targets"]:
        rows = {row["name"]: row for row in target["rows"]}
        assert set(ROWS) <= set(rows)
        assert all(row["value"] > 0 and row["rounds"] == [row["value"]] for row in rows.values())
        latencies = rows["create"]["latency"]
        assert latencies["p50"] <= latencies["p99"] <= latencies["longest"]
    assert "fuse" in report["targets"][0]["file_system"]
    assert os.listdir(mount) == os.listdir(local) == []

    shown = read_page(page)
    assert shown.references == [], "the page needs no other file"
    assert shown.count["svg"] >= 3 and shown.count["table"] >= 1
    text = " ".join(" ".join(shown.text).split())
    assert str(mount) in text and str(local) in text and "archive" in text

    # The same page and the same table from what was printed.
    saved = lab.root / "report.json"
    saved.write_text(result.stdout, encoding="utf-8")
    again = lab.root / "again.html"
    table = lab.run("bench", "--from", str(saved), "--html", str(again)).stdout
    assert again.read_bytes() == page.read_bytes()
    assert "create small files" in table and re.search(r"an archive|archive of them", table)


def test_what_is_cold_is_cold_in_the_client_too(lab: harness.Lab, server: harness.Server):
    mount = lab.mount(server, "vol")
    done = lab.root / "done"
    unmount = f"{harness.binary()} umount \"$DIR\" && echo unmount >> {done}"
    again = f"{harness.binary()} mount vol \"$DIR\" --server {server.address} && echo mount >> {done}"
    try:
        result = lab.run("bench", str(mount.path), *SMALL, "--rows", "seq-read-client,read", "--json", "--unmount", unmount, "--mount", again,
                         limit=120)
    finally:
        lab.run("umount", str(mount.path), check=False)
    rows = {row["name"]: row["value"] for row in json.loads(result.stdout)["targets"][0]["rows"]}
    assert rows["seq-read-client"] > 0 and rows["read"] > 0
    words = done.read_text().split()
    assert words.count("mount") >= 2 and words[0::2] == ["unmount"] * (len(words) // 2) and words[1::2] == ["mount"] * (len(words) // 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/nowhere/at/all"], "/nowhere/at/all"),
        (["/tmp", "--rows", "create,fastest"], "fastest"),
        (["/tmp", "--unmount", "true"], "--mount"),
        ([], "DIRECTORY"),
    ],
)
def test_what_cannot_be_measured_is_said(lab: harness.Lab, arguments: list[str], says: str):
    result = lab.run("bench", *arguments, check=False, limit=60)
    assert result.returncode in (1, 2) and says.lower() in result.stderr.lower(), result.stderr
