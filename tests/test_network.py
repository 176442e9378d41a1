"""The TCP port: keys, TLS, and peers that speak nonsense, too much or too slowly, without harm to others."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest

from support import harness


@pytest.fixture
def tcp_server(lab: harness.Lab):
    server = lab.server(listen="127.0.0.1:0")
    server.create_volume("vol")
    server.create_volume("other")
    return server


def connect(server: harness.Server) -> socket.socket:
    host, _, port = server.tcp.rpartition(":")
    peer = socket.create_connection((host, int(port)), timeout=30)
    return peer


def closed_within(peer: socket.socket, seconds: float) -> bool:
    """Whether the other side ends the connection in time (it may say something first)."""
    peer.settimeout(seconds)
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if not peer.recv(65_536):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        bytes(4096),
        b"\xff" * 4096,
        random.Random(1).randbytes(100_000),
        struct.pack("<I", 0x7FFFFFFF) + bytes(100),
        struct.pack(">I", 0x7FFFFFFF) + bytes(100),
        struct.pack("<Q", 1 << 62) + bytes(100),
    ],
    ids=["http", "tls", "zeros", "ones", "random", "huge-le", "huge-be", "huge-64"],
)
def test_nonsense_is_cut_off(lab: harness.Lab, tcp_server: harness.Server, bytes_sent: bytes):
    mount = lab.mount(tcp_server, "vol", tcp=True)
    memory = tcp_server.memory()
    peers = [connect(tcp_server) for _ in range(20)]
    for peer in peers:
        try:
            peer.sendall(bytes_sent)
        except OSError:
            pass
    (mount.path / "file").write_bytes(b"goes on")
    assert (mount.path / "file").read_bytes() == b"goes on"
    for peer in peers:
        assert closed_within(peer, 25), "still connected after nonsense"
        peer.close()
    assert tcp_server.process.alive()
    assert tcp_server.memory() - memory < 100 << 20, "nonsense costs the server memory"


@pytest.mark.limit(150)
def test_silent_and_slow_peers_are_cut_off(lab: harness.Lab, tcp_server: harness.Server):
    mount = lab.mount(tcp_server, "vol", tcp=True)
    silent, slow = connect(tcp_server), connect(tcp_server)
    stop = threading.Event()

    def drip() -> None:
        try:
            while not stop.wait(1):
                slow.sendall(b"C")
        except OSError:
            pass

    thread = threading.Thread(target=drip)
    thread.start()
    (mount.path / "file").write_bytes(b"goes on")
    try:
        assert closed_within(silent, 60), "a peer that never says anything keeps its connection"
        assert closed_within(slow, 60), "a peer that says a byte a second keeps its connection"
    finally:
        stop.set()
        thread.join()
    assert (mount.path / "file").read_bytes() == b"goes on"


def test_many_idle_connections(lab: harness.Lab, tcp_server: harness.Server):
    peers = [connect(tcp_server) for _ in range(300)]
    mount = lab.mount(tcp_server, "vol", tcp=True)
    (mount.path / "file").write_bytes(b"works")
    for peer in peers:
        peer.close()
    assert (mount.path / "file").read_bytes() == b"works"


def test_garbage_in_an_established_session(lab: harness.Lab, tcp_server: harness.Server):
    """A proxy flips bytes of one client's stream: that client may fail, the server and the others do not."""
    healthy = lab.mount(tcp_server, "vol", tcp=True)
    with Proxy(tcp_server.tcp) as proxy:
        directory = lab.new_path("through-proxy")
        key = tcp_server.create_key("--volume", "vol")
        flags = ["--server", proxy.address, "--key", key, "--foreground", "--server-timeout", "3s"]
        mount = harness.Mount(lab, directory, ["mount", "vol", str(directory), *flags])
        lab.owners.append(mount)
        (mount.path / "a").write_bytes(b"x" * 10_000)
        proxy.flip = True
        try:
            for number in range(10):
                (mount.path / f"b{number}").write_bytes(b"y" * 10_000)
        except OSError:
            pass
        proxy.flip = False
        (healthy.path / "c").write_bytes(b"healthy")
        assert (healthy.path / "c").read_bytes() == b"healthy"
        harness.wait_until(lambda: try_write(mount.path / "d"), 40, "the mount works again", 0.3)
        assert (healthy.path / "d").read_bytes() == b"again"
    tcp_server.assert_clean("vol", "--data")


def try_write(path: pathlib.Path) -> bool:
    try:
        path.write_bytes(b"again")
        return path.read_bytes() == b"again"
    except OSError:
        return False


class Proxy:
    """Passes a TCP stream on, cuts it, or flips a byte in every piece from client to server."""

    def __init__(self, target: str):
        host, _, port = target.rpartition(":")
        self.target = (host, int(port))
        self.flip = False
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.accept, daemon=True)

    def __enter__(self) -> Proxy:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self.cut()

    def cut(self) -> None:
        """Ends every connection; new ones are passed on."""
        sockets, self.sockets = self.sockets, []
        for item in sockets:
            try:
                item.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            item.close()

    def accept(self) -> None:
        while True:
            try:
                client = self.listener.accept()[0]
                server = socket.create_connection(self.target)
            except OSError:
                return
            self.sockets += [client, server]
            threading.Thread(target=self.pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, False), daemon=True).start()

    def pump(self, source: socket.socket, target: socket.socket, upstream: bool) -> None:
        try:
            while data := source.recv(65_536):
                if self.flip and upstream:
                    data = data[:-1] + bytes([data[-1] ^ 0x40])
                target.sendall(data)
        except OSError:
            pass
        for item in (source, target):
            try:
                item.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


@pytest.mark.limit(120)
def test_cut_connections_are_made_again(lab: harness.Lab, tcp_server: harness.Server):
    with Proxy(tcp_server.tcp) as proxy:
        directory = lab.new_path("through-proxy")
        key = tcp_server.create_key("--volume", "vol")
        mount = harness.Mount(
            lab, directory, ["mount", "vol", str(directory), "--server", proxy.address, "--key", key, "--foreground"]
        )
        lab.owners.append(mount)
        for number in range(15):
            content = random.Random(number).randbytes(200_000)
            (mount.path / f"file{number}").write_bytes(content)
            proxy.cut()
            assert (mount.path / f"file{number}").read_bytes() == content
            with open(mount.path / f"file{number}", "rb") as file:
                os.fsync(file.fileno())
        mount.remount()
        for number in range(15):
            assert (mount.path / f"file{number}").read_bytes() == random.Random(number).randbytes(200_000)
    tcp_server.assert_clean("vol", "--data")


def test_keys(lab: harness.Lab, tcp_server: harness.Server):
    def refused(*flags: str, volume: str = "vol") -> str:
        directory = lab.new_path("refused")
        result = lab.run("mount", volume, str(directory), "--server", tcp_server.tcp, *flags, check=False, limit=30)
        assert result.returncode == 6, (result.returncode, result.stderr)
        assert not harness.is_mounted(directory)
        return result.stderr.lower()

    assert "key" in refused()
    assert "key" in refused("--key", "wrong")
    key = tcp_server.create_key("--volume", "vol", "--label", "for-vol")
    mount = lab.mount(tcp_server, "vol", tcp=True, key=key)
    (mount.path / "file").write_text("x")
    refused("--key", key, volume="other")
    denied = lab.run("volume", "create", "new", "--size", "1GiB", "--server", tcp_server.tcp, "--key", key, check=False)
    assert denied.returncode == 6, "a key of one volume is no admin key"
    stored = b"".join(path.read_bytes() for path in tcp_server.data.rglob("*") if path.is_file())
    assert key.encode() not in stored, "the key stands in the clear on the server's disk"
    keys = tcp_server.json("key", "list")
    identifier = next(item["id"] for item in keys if item["label"] == "for-vol")
    tcp_server.run("key", "revoke", identifier)
    refused("--key", key)
    admin = tcp_server.create_key("--admin")
    lab.run("volume", "list", "--server", tcp_server.tcp, "--key", admin)


def test_the_key_from_a_file_or_the_environment(lab: harness.Lab, tcp_server: harness.Server):
    key = tcp_server.create_key("--admin")
    lab.run("volume", "list", env={"CAIRN_SERVER": tcp_server.tcp, "CAIRN_KEY": key})
    (lab.root / "key").write_text(key + "\n")
    lab.run("volume", "list", "--server", tcp_server.tcp, "--key-file", str(lab.root / "key"))


def test_the_unix_socket_is_for_its_owner(tcp_server: harness.Server):
    assert tcp_server.socket.stat().st_mode & 0o077 == 0
    assert tcp_server.data.stat().st_mode & 0o077 == 0 or (tcp_server.data / "volumes").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_tls(lab: harness.Lab):
    certificate, private = lab.root / "cert.pem", lab.root / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", str(private), "-out", str(certificate)],
        check=True, capture_output=True,
    )
    server = lab.server("--tls-cert", str(certificate), "--tls-key", str(private), listen="127.0.0.1:0")
    server.create_volume("vol")
    key = server.create_key("--volume", "vol")
    port = server.tcp.rpartition(":")[2]
    directory = lab.new_path("tls")
    flags = ["--server", f"tls://localhost:{port}", "--key", key, "--tls-ca", str(certificate), "--foreground"]
    mount = harness.Mount(lab, directory, ["mount", "vol", str(directory), *flags])
    lab.owners.append(mount)
    content = random.Random(1).randbytes(5 << 20)
    (mount.path / "file").write_bytes(content)
    mount.remount()
    assert (mount.path / "file").read_bytes() == content
    plain = lab.run("volume", "list", "--server", f"127.0.0.1:{port}", "--key", key, check=False, limit=60)
    assert plain.returncode != 0
    unknown = lab.run("volume", "list", "--server", f"tls://localhost:{port}", "--key", key, check=False, limit=60)
    assert unknown.returncode != 0 and "certificate" in unknown.stderr.lower()
