"""Carry standard input to a connection and what comes back to standard output."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
from typing import Any

from ustack._cli.common import (
    Failure,
    Net,
    add_stack_arguments,
    endpoint_text,
    host_address,
    port_number,
    stack_from,
)
from ustack._family import family_of

HELP = "connect or listen, like netcat"
EPILOG = """\
The end of standard input ends our direction; the command ends when the peer has ended its own. Datagrams have no
end: without -w only Ctrl-C ends them.

  ustack nc 10.9.0.1 80             connect
  ustack nc -l 7000                 wait for one connection
  echo hello | ustack nc --link pair 10.9.0.1 7     the echo service of the built-in peer
"""
CHUNK = 256 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ustack nc``."""
    parser.add_argument("-l", "--listen", action="store_true", help="wait for a connection to PORT")
    parser.add_argument("-u", "--udp", action="store_true", help="datagrams instead of a stream")
    parser.add_argument(
        "-w",
        "--timeout",
        type=float,
        metavar="S",
        help="give up connecting after S seconds; with -u end after S seconds of silence",
    )
    parser.add_argument("where", nargs="+", metavar="[HOST] PORT", help="the peer; with -l only the port")
    add_stack_arguments(parser)


def _where(args: argparse.Namespace) -> tuple[str, int]:
    try:
        if args.listen and len(args.where) == 1:
            return "", port_number(args.where[0])
        if not args.listen and len(args.where) == 2:
            return host_address(args.where[0]), port_number(args.where[1])
    except argparse.ArgumentTypeError as e:
        raise Failure(str(e), 2) from None
    raise Failure("give HOST PORT, or with -l only PORT", 2)


def _write(data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _stdin_to(send: Any, finish: Any, chunk: int) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, chunk):
            send(data)
    with contextlib.suppress(OSError):
        finish()


def _stream(net: Net, host: str, port: int, args: argparse.Namespace) -> None:
    if args.listen:
        own = net.address.partition("/")[0]
        with net.stack.create_server((own, port), family=family_of(own)) as listener:
            conn, peer = listener.accept()
        print(f"connection from {endpoint_text(peer[0], peer[1])}", file=sys.stderr)
    else:
        conn = net.stack.create_connection((host, port), timeout=args.timeout)
        conn.settimeout(None)
    with conn:
        finish = lambda: conn.shutdown(socket.SHUT_WR)  # noqa: E731
        threading.Thread(target=_stdin_to, args=(conn.sendall, finish, CHUNK), daemon=True).start()
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        while n := conn.recv_into(buffer):
            _write(view[:n])


def _datagrams(net: Net, host: str, port: int, args: argparse.Namespace) -> None:
    own = net.address.partition("/")[0]
    with net.stack.socket(family_of(own if args.listen else host), socket.SOCK_DGRAM) as s:
        if args.listen:
            s.bind((own, port))
            data, peer = s.recvfrom(65535)
            if peer is not None:
                s.connect(peer)
            _write(data)
        else:
            s.connect((host, port))
        ended = threading.Event()
        s.settimeout(args.timeout)
        threading.Thread(target=_stdin_to, args=(s.send, ended.set, 1400), daemon=True).start()
        while True:
            try:
                _write(s.recv(65535))
            except TimeoutError:
                if ended.is_set():
                    return


def run(args: argparse.Namespace) -> int:
    """Converse until both directions have ended."""
    host, port = _where(args)
    with stack_from(args, "nc") as net:
        (_datagrams if args.udp else _stream)(net, host, port, args)
    return 0
