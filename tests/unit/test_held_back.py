"""What a sender holds back for its next write leaves by itself when there is none."""

import hashlib
import socket
import threading

import pytest

import ustack

ROUNDS, WRITES, SIZE = 20, 6, 65536 + 99  # each write ends in a partial segment


@pytest.fixture
def connection():
    near, far = ustack.pair()
    with ustack.Stack() as a, ustack.Stack() as b:
        a.add_interface(near, addresses=["10.9.0.1/24"])
        b.add_interface(far, addresses=["10.9.0.2/24"])
        with b.create_server(("10.9.0.2", 7)) as server, a.create_connection(("10.9.0.2", 7)) as s:
            r, _ = server.accept()
            with r:
                yield a, s, r


def reader(r, n, out):
    r.settimeout(10)
    digest = hashlib.sha256()
    while n:
        data = r.recv(min(n, 1 << 20))
        if not data:
            break
        digest.update(data)
        n -= len(data)
    out.append((n, digest.digest()))


def test_the_odd_end_of_a_large_write_needs_no_further_call(connection):
    stack, s, r = connection
    blocks = [bytes([k]) * SIZE for k in range(WRITES)]
    expected = (0, hashlib.sha256(b"".join(blocks)).digest())
    for _ in range(ROUNDS):
        out = []
        thread = threading.Thread(target=reader, args=(r, WRITES * SIZE, out), daemon=True)
        thread.start()
        for block in blocks:
            s.sendall(block)
        thread.join(60)  # nobody calls the sender's stack meanwhile
        assert out == [expected]
    assert "tcp.zero_window_probe" not in stack.stats()  # it was not the last resort that let go of it


@pytest.mark.parametrize("end", ["shutdown", "recv", "close"])
def test_the_odd_end_goes_before_whatever_the_sender_does_next(connection, end):
    _, s, r = connection
    out = []
    thread = threading.Thread(target=reader, args=(r, WRITES * SIZE, out), daemon=True)
    thread.start()
    for k in range(WRITES):
        s.sendall(bytes([k]) * SIZE)
    if end == "shutdown":
        s.shutdown(socket.SHUT_WR)
    elif end == "close":
        s.close()
    else:
        threading.Thread(target=lambda: (thread.join(60), r.sendall(b"done")), daemon=True).start()
        assert s.recv(4) == b"done"
    thread.join(60)
    assert out[0][0] == 0
