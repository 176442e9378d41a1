"""A link of known bandwidth and latency between two network namespaces, made of what the kernel has everywhere.

A pair of virtual interfaces, each limited by `tc tbf`; in front of the server a proxy that hands every byte on after a
delay. Run this file to be the proxy: `link.py PROXY_HOST PROXY_PORT SERVER_HOST SERVER_PORT SECONDS`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import queue
import socket
import subprocess
import sys
import threading
import time

CLIENT, SERVER = "10.213.77.1", "10.213.77.2"
PROXY_PORT = 7421
PIECE = 256 * 1024


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, timeout=30, capture_output=True)


class Link:
    """Two namespaces, `client` and `server`, with `bytes_per_second` between them."""

    def __init__(self, bytes_per_second: int):
        self.client = f"cairn-c{os.getpid()}"
        self.server = f"cairn-s{os.getpid()}"
        self.rate = bytes_per_second

    def __enter__(self) -> Link:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def _make(self) -> None:
        for name in (self.client, self.server):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", "veth", "netns", self.client, "type", "veth", "peer", "name", "veth", "netns", self.server)
        for name, address in ((self.client, CLIENT), (self.server, SERVER)):
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "veth")
            # Frames as in a data centre: their headers take 1 % of the link.
            run("ip", "-n", name, "link", "set", "veth", "mtu", 9000, "up")
            run(*self.inside(name), "tc", "qdisc", "add", "dev", "veth", "root", "tbf",
                "rate", f"{self.rate * 8}bit", "burst", 2 * 1024 * 1024, "latency", "20ms")

    @staticmethod
    def inside(namespace: str) -> tuple[str, ...]:
        """What runs a command in a namespace without changing what it sees mounted."""
        return ("nsenter", f"--net=/run/netns/{namespace}")

    def close(self) -> None:
        for name in (self.client, self.server):
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=30, capture_output=True)

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def proxy(self, server: str, delay: float):
        """The address of a proxy to `server` (HOST:PORT) that delays each direction by `delay` seconds."""
        host, _, port = server.rpartition(":")
        command = [*self.inside(self.server), sys.executable, str(pathlib.Path(__file__)), SERVER, str(PROXY_PORT), host, port]
        process = subprocess.Popen([*command, str(delay)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield f"{SERVER}:{PROXY_PORT}"
        finally:
            process.kill()
            process.wait(30)


def raise_buffers(peer: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        peer.setsockopt(socket.SOL_SOCKET, option, 4 * 1024 * 1024)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def forward(source: socket.socket, target: socket.socket, delay: float) -> None:
    """Every byte leaves `delay` seconds after it came. At most a delay's worth is under way."""
    under_way: queue.Queue[tuple[float, bytes]] = queue.Queue(maxsize=64)

    def send() -> None:
        with contextlib.suppress(OSError):
            while True:
                due, piece = under_way.get()
                if not piece:
                    target.shutdown(socket.SHUT_WR)
                    return
                wait = due - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                target.sendall(piece)

    threading.Thread(target=send, daemon=True).start()
    piece = b"x"
    while piece:
        try:
            piece = source.recv(PIECE)
        except OSError:
            piece = b""
        under_way.put((time.monotonic() + delay, piece))


def main() -> None:
    host, port, server, server_port, delay = sys.argv[1:]
    listener = socket.create_server((host, int(port)))
    print("ready", flush=True)
    while True:
        near, _ = listener.accept()
        far = socket.create_connection((server, int(server_port)))
        for peer in (near, far):
            raise_buffers(peer)
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=forward, args=(source, target, float(delay)), daemon=True).start()


if __name__ == "__main__":
    main()
