"""What the rows of sendfile and of splice time: files sent, streams forwarded; see ``work``."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import threading
import time
from typing import IO, Any

from ustack._bench.duets import Duet
from ustack._bench.work import Host, Work, _both, _receive, retransmissions

_warm: dict[int, IO[bytes]] = {}


def warm_file(size: int) -> IO[bytes]:
    """A file of so many bytes, all in the page cache and on the disk; made once in a process."""
    if size not in _warm:
        _warm[size] = f = tempfile.TemporaryFile()  # noqa: SIM115
        block = random.Random(size).randbytes(1 << 20)
        for at in range(0, size, len(block)):
            f.write(block[: size - at])
        f.flush()
        os.fsync(f.fileno())
    return _warm[size]


def _send_file(s: Any, p: dict[str, Any]) -> dict[str, float]:
    f = warm_file(p["bytes"])
    sent = s.sendfile(f, how=p["how"]) if p["how"] else s.sendfile(f)
    s.shutdown(1)
    if sent != p["bytes"] or s.recv_into(bytearray(1)):
        raise RuntimeError("the file was not sent as a whole")
    return {"sent": sent, "retransmissions": retransmissions(s)}


# --- proxies --------------------------------------------------------------------------------------------------------


def _loop(source: Any, sink: Any, p: dict[str, Any], wait: bool) -> Any:
    """A function that forwards, by receiving and sending: all of the stream, or what can be had at once."""
    if p["api"] == "c":
        from ustack._core.py.bench_loops import Loops

        one, other = Loops(source, p["chunk"]), Loops(sink, p["chunk"])
        return lambda: one.forward_to(other, wait)
    buffer = bytearray(p["chunk"])
    view, recv_into, sendall = memoryview(buffer), source.recv_into, sink.sendall

    def forward() -> None:
        with contextlib.suppress(BlockingIOError):
            while n := recv_into(buffer):
                sendall(view[:n])

    return forward


def _proxy(host: Host, address: tuple[str, int], p: dict[str, Any]) -> dict[str, float]:
    """From one connection with the other end to a second one; CPU time of this process while data flow."""
    import ustack

    with host.connect(address) as source, host.connect(address) as sink:
        source.sendall(b"s")
        sink.sendall(b"d")
        began = time.process_time()
        if p["form"] == "splice":
            ustack.splice(source, sink, pass_end=True)
        else:
            _loop(source, sink, p, True)()
            sink.shutdown(1)
        while sink.recv(100):
            pass
        return {"spent": time.process_time() - began}


def _both_sides(host: Host, listener: Any, p: dict[str, Any]) -> dict[str, float]:
    """The client and the server of the proxy, in two threads; which is which the first byte says."""
    ends = {}
    for _ in range(2):
        s = host.accept(listener)
        ends[s.recv(1)] = s

    def feed() -> None:
        data = memoryview(bytes(p["chunk"]))
        end = time.perf_counter() + p["seconds"]
        with contextlib.suppress(OSError):
            while time.perf_counter() < end:
                ends[b"s"].sendall(data)
            ends[b"s"].shutdown(1)

    feeding = threading.Thread(target=feed)
    with ends[b"s"], ends[b"d"]:
        feeding.start()
        figures = _receive(ends[b"d"], p)
        feeding.join()
    return figures


def proxied(duet: Duet, p: dict[str, Any]) -> dict[str, float]:
    """A client and a server on one stack, the proxy on the other, packets handed over in memory, in one thread on
    virtual time: CPU time while the proxy's stack works, and its program, if it has to.
    """
    import ustack

    client, source, sink, server = duet.proxy()
    near, far = client.stack, source.stack
    now, clock, thread_time = max(near.now_ns(), far.now_ns()), time.perf_counter, time.thread_time_ns
    data, buffer = bytes(p["chunk"]), bytearray(p["chunk"])
    spent = total = 0
    with client, source, sink, server:
        job = ustack.splice(source, sink, wait=False) if p["form"] == "splice" else None
        forward = _loop(source, sink, p, False) if job is None else lambda: None
        end = clock() + p["seconds"]
        while clock() < end:
            with contextlib.suppress(BlockingIOError):
                client.send(data)
            now += 1000
            near.advance_to(now)
            began = thread_time()
            far.advance_to(now)
            forward()
            spent += thread_time() - began
            near.advance_to(now)
            with contextlib.suppress(BlockingIOError):
                while n := server.recv_into(buffer):
                    total += n
            near.advance_to(now)
        if job is not None:
            job.cancel()
    return {"spent": spent / 1e9, "bytes": total, "payload": total, "seconds": p["seconds"]}


WORK_FILES = {"file.out": _both(_send_file, _receive), "proxy": Work(_proxy, _both_sides)}
