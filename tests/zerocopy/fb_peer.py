"""The other process of the fbuf tests: ``python fb_peer.py FD ROLE [ARGUMENTS]`` over an inherited UNIX socket."""

import hashlib
import os
import socket
import sys
import time

from ustack import fbufs


def pattern(i: int, n: int) -> bytes:
    return (hashlib.sha256(str(i).encode()).digest() * (n // 32 + 1))[:n]


def echo(channel: fbufs.Channel) -> None:
    """Sends back what comes, as it is."""
    for message in channel:
        channel.send(message)


def digest(channel: fbufs.Channel) -> None:
    """Sums everything in place, and prints the digest at the end."""
    total = hashlib.sha256()
    for message in channel:
        with message:
            for view in message.views() if isinstance(message, fbufs.Aggregate) else [message.data]:
                total.update(view)
    print(total.hexdigest())


def hoard(channel: fbufs.Channel) -> None:
    """Keeps all that it gets, says so, and waits to be killed."""
    kept = []
    for message in channel:
        kept.append(message)
        os.write(1, b".")


def produce(channel: fbufs.Channel, count: str) -> None:
    """Sends `count` buffers of a pool of 8, then one that says so, and dies without closing anything."""
    pool = fbufs.Pool(4096, 8)
    for i in range(int(count)):
        f = pool.alloc()
        f.write(pattern(i, 4096))
        channel.send(f)
    os.kill(os.getpid(), 9)


def scribble(channel: fbufs.Channel, when: str) -> None:
    """Sends a buffer of a volatile pool and keeps a window on it; writes to it whenever a byte comes on stdin."""
    pool = fbufs.Pool(4096, 1, kind="volatile")
    f = pool.alloc()
    f.write(b"first")
    channel.send(f, keep=True)
    while os.read(0, 1):
        channel.collect()               # answers who asks for security
        f.data[:5] = b"later"
        os.write(1, b".")


def poke(channel: fbufs.Channel, kind: str, how: str) -> None:
    """Reads or writes a buffer that was sent away, as C code that kept its address does."""
    import ctypes

    pool = fbufs.Pool(4096, 2, kind=kind)
    f = pool.alloc()
    f.write(b"mine")
    address = f.address
    channel.send(f)
    if how == "read":
        print(ctypes.string_at(address, 4).decode())
    else:
        ctypes.memmove(address, b"evil", 4)
        print("written")


def relay(channel: fbufs.Channel, fd: str) -> None:
    """Hands on what comes to a third process."""
    with fbufs.Channel(socket.socket(fileno=int(fd))) as further:
        for message in channel:
            further.send(message)
        while further.stats()["lent"]:
            further.collect()
            time.sleep(0.001)


if __name__ == "__main__":
    with fbufs.Channel(socket.socket(fileno=int(sys.argv[1]))) as c:
        globals()[sys.argv[2]](c, *sys.argv[3:])
