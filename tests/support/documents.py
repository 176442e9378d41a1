"""Runs the commands of a page of the documentation as they stand there.

A block of the page is fenced with what it is: `sh` is executed; `sh server` is started and runs until the end; any other with
a path is a file, written before what follows. `sh build` is left to whoever calls. Other blocks are to be read.

The page may use the machine's own places (/var/lib/cairn, /run/docker, port 7420): it runs in namespaces of its own, where
these are empty folders, no network but the loopback is there, and everything that was started ends with the first process.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess

from . import harness

PRIVATE = (
    "/var/lib/cairn", "/var/lib/cairn-plugin", "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers",
    "/run/docker", "/run/containerd", "/run/containers", "/run/libpod", "/run/crun", "/run/runc", "/etc/containers", "/etc/cairn",
    "/workspace", "/srv",
)
"""Folders of the machine that the page finds empty."""


@dataclasses.dataclass
class Block:
    kind: str
    """`run`, `server`, `build` or `file`."""
    text: str
    path: str
    line: int


def read(page: pathlib.Path) -> list[Block]:
    """The blocks of a page that mean something to a machine."""
    blocks = []
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)(?: +(\S+))?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        language, word, content = found[1], found[2] or "", found[3]
        line = text.count("\n", 0, found.start()) + 2
        if language == "sh":
            blocks.append(Block({"": "run"}.get(word, word), content, "", line))
        elif word:
            blocks.append(Block("file", content, word, line))
    return blocks


class Namespaces:
    """A shell in namespaces of its own, in which programs run one after the other or in the background."""

    def __init__(self, lab: harness.Lab, folder: pathlib.Path, environment: dict[str, str]):
        self.lab = lab
        self.folder = folder
        self.environment = environment
        made = []
        for path in PRIVATE:
            if not os.path.isdir(path):
                os.makedirs(path)
                made.append(path)
        self.made = made
        lines = ["set -e", "mount --make-rprivate /", "ip link set lo up"]
        for number, path in enumerate(PRIVATE):
            private = folder / "private" / str(number)
            private.mkdir(parents=True)
            lines.append(f"mount --bind {private} {path}")
        lines += ["echo ready", "exec sleep 100000"]
        self.holder = harness.Process(
            lab, "namespaces",
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", "\n".join(lines)],
        )
        self.holder.wait_for("^ready")
        self.init = int(subprocess.run(
            ["pgrep", "--parent", str(self.holder.pid)], capture_output=True, text=True, check=True, timeout=20
        ).stdout)

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self.init), "--mount", "--net", "--pid", "--wd=" + str(self.folder / "work")]

    def start(self, name: str, command: str, ready: str) -> harness.Process:
        """In the background, until it says that it is ready."""
        process = harness.Process(self.lab, name, [*self._enter(), "sh", "-c", f"exec {command}"], env=self.environment)
        process.wait_for(ready)
        return process

    def run(self, script: str, limit: float = 120) -> str:
        """To its end; the first command that fails is told with all its output. What is exported stays for later ones."""
        exports = self.folder / "exports"
        script = f"set +x; [ ! -e {exports} ] || . {exports}; set -x\n{script}\n{{ set +x; }} 2>/dev/null; export -p > {exports}"
        result = subprocess.run(
            [*self._enter(), "bash", "-euo", "pipefail", "-x", "-c", script], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=limit, check=False,
            env=self.lab.environment(self.environment),
        )
        if result.returncode != 0:
            raise harness.Failed(f"a command of the page ended with {result.returncode}:\n{result.stdout[-6000:]}")
        return result.stdout

    def close(self) -> None:
        self.holder.kill()
        for path in self.made:
            try:
                os.rmdir(path)
            except OSError:
                pass  # in use by another test, or by the machine


def run_page(namespaces: Namespaces, page: pathlib.Path, build=lambda _: None) -> None:
    """Everything that the page says, in its order."""
    work = namespaces.folder / "work"
    for block in read(page):
        place = f"{page.name}:{block.line}"
        if block.kind == "file":
            target = block.path
            if not target.startswith("/"):
                target = str(work / target)
            source = work.parent / "block"
            source.write_text(block.text, encoding="utf-8")
            namespaces.run(f"mkdir -p $(dirname {target}) && cp {source} {target}")
        elif block.kind == "server":
            ready = r"^control plane on" if "--http" in block.text else r"^listening on unix"
            namespaces.start(f"server-{block.line}", block.text.strip(), ready)
        elif block.kind == "build":
            build(block)
        elif block.kind == "run":
            try:
                namespaces.run(block.text)
            except (harness.Failed, subprocess.TimeoutExpired) as error:
                raise harness.Failed(f"{place}: {error}") from None
        else:
            raise harness.Failed(f"{place}: a block of an unknown kind, {block.kind!r}")
