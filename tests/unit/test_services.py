"""The servers of `ustack serve`, here over the kernel's sockets: what they say does not depend on the stack."""

import hashlib
import socket
import threading
import urllib.error
import urllib.request

import pytest

from ustack._cli.services import CHARGEN, PORTS, Service, answer_datagram
from ustack._demo.kernel import Kernel, checksum

HOST = "127.0.0.1"


@pytest.fixture
def serve(tmp_path):
    running = []

    def start(kind: str, **options) -> int:
        # Port 0 twice, for TCP and UDP, gives two ports; so take one from the kernel first.
        with socket.create_server((HOST, 0)) as s:
            port = s.getsockname()[1]
        running.append(Service(Kernel(), kind, HOST, port, directory=str(tmp_path), **options))
        return port

    yield start
    for service in running:
        service.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=10)


def test_echo_gives_everything_back_and_ends_with_the_peer(serve):
    with connect(serve("echo")) as s:
        s.sendall(b"hello " * 1000)
        s.shutdown(socket.SHUT_WR)
        assert s.makefile("rb").read() == b"hello " * 1000


def test_discard_says_nothing_and_ends_when_all_was_read(serve):
    with connect(serve("discard")) as s:
        s.sendall(bytes(1_000_000))
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""


def test_chargen_has_the_lines_of_rfc_864(serve):
    with connect(serve("chargen")) as s, s.makefile("rb") as f:
        first, second = f.read(74), f.read(74)
    assert first == bytes(range(32, 104)) + b"\r\n"
    assert second == bytes(range(33, 105)) + b"\r\n"
    assert len(CHARGEN) == 95 * 74


def test_datagram_forms(serve):
    port = serve("echo")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.sendto(b"ping", (HOST, port))
        assert s.recvfrom(100) == (b"ping", (HOST, port))
    assert answer_datagram("discard", b"x") is None
    assert answer_datagram("chargen", b"x").endswith(b"\r\n")


def test_http_serves_files(serve, tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "f.bin").write_bytes(data)
    with urllib.request.urlopen(f"http://{HOST}:{serve('http')}/f.bin", timeout=10) as answer:
        assert hashlib.sha256(answer.read()).digest() == hashlib.sha256(data).digest()


def test_http_makes_bytes_and_refuses_nonsense(serve):
    port = serve("http")
    with urllib.request.urlopen(f"http://{HOST}:{port}/bytes/300001", timeout=10) as answer:
        assert answer.read() == bytes(300001)
    for path, status in [("bytes/x", 400), ("bytes/-1", 400), ("none", 404), ("../../etc/passwd", 404)]:
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(f"http://{HOST}:{port}/{path}", timeout=10)
        assert e.value.code == status
        e.value.close()


def test_close_ends_open_conversations(serve):
    port = serve("chargen")
    with connect(port) as s:
        s.recv(1)
        with Service(Kernel(), "echo", HOST, free_port()) as service, connect(service.port) as idle:
            idle.sendall(b"x")
            assert idle.recv(1) == b"x"
            service.close()
            assert idle.recv(1) == b""


def test_close_returns_though_a_thread_does_not_end(serve, monkeypatch):
    """A thread that is stuck keeps nobody from exiting: it is a daemon, and close() gives it up."""
    monkeypatch.setattr("ustack._cli.services.PATIENCE", 0.01)
    with Service(Kernel(), "echo", HOST, free_port()) as service:
        forever = threading.Event()
        service._start(forever.wait)
        assert all(thread.daemon for thread in service._threads)
        service.close()
        assert service._threads[-1].is_alive()
        forever.set()


def free_port() -> int:
    with socket.create_server((HOST, 0)) as s:
        return s.getsockname()[1]


def test_the_ports_are_the_well_known_ones():
    assert PORTS == {"echo": 7, "discard": 9, "chargen": 19, "http": 80}


@pytest.mark.parametrize(("data", "expected"), [
    (b"", 0xFFFF),
    (bytes.fromhex("0001f203f4f5f6f7"), 0x220D),        # the example of RFC 1071
    (b"\x01", 0xFEFF),
])
def test_the_checksum_of_the_kernels_ping(data, expected):
    assert checksum(data) == expected
