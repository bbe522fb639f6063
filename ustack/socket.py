"""The standard ``socket`` module's interface over a stack in user space.

``ustack.socket.use(stack)`` chooses the stack; after that the module stands in for ``socket``: the same classes,
functions, constants and errors, for AF_INET and AF_INET6 with SOCK_STREAM and SOCK_DGRAM. Names are not looked up:
hosts are numeric addresses, "localhost" or "". Sockets made by a stack's own methods need no ``use``.

An address is (host, port), and of AF_INET6 (host, port, flowinfo, scope_id), of which the last two may be left out.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket as _std
from collections.abc import Iterable
from socket import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    AI_CANONNAME,
    AI_NUMERICHOST,
    AI_PASSIVE,
    CMSG_LEN,
    CMSG_SPACE,
    EAI_FAMILY,
    EAI_NONAME,
    INADDR_ANY,
    INADDR_BROADCAST,
    INADDR_LOOPBACK,
    INADDR_NONE,
    IP_BIND_ADDRESS_NO_PORT,
    IP_MULTICAST_TTL,
    IP_RECVTOS,
    IP_TOS,
    IP_TTL,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_RAW,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV6_DONTFRAG,
    IPV6_HOPLIMIT,
    IPV6_MULTICAST_HOPS,
    IPV6_PKTINFO,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    IPV6_TCLASS,
    IPV6_UNICAST_HOPS,
    IPV6_V6ONLY,
    MSG_CONFIRM,
    MSG_CTRUNC,
    MSG_DONTROUTE,
    MSG_DONTWAIT,
    MSG_EOR,
    MSG_ERRQUEUE,
    MSG_MORE,
    MSG_NOSIGNAL,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    NI_DGRAM,
    NI_NAMEREQD,
    NI_NUMERICHOST,
    NI_NUMERICSERV,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SO_ACCEPTCONN,
    SO_BROADCAST,
    SO_DEBUG,
    SO_DOMAIN,
    SO_DONTROUTE,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_MARK,
    SO_OOBINLINE,
    SO_PRIORITY,
    SO_PROTOCOL,
    SO_RCVBUF,
    SO_RCVLOWAT,
    SO_RCVTIMEO,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_SNDBUF,
    SO_SNDLOWAT,
    SO_SNDTIMEO,
    SO_TYPE,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    SOMAXCONN,
    TCP_CONGESTION,
    TCP_CORK,
    TCP_DEFER_ACCEPT,
    TCP_INFO,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_LINGER2,
    TCP_MAXSEG,
    TCP_NODELAY,
    TCP_NOTSENT_LOWAT,
    TCP_QUICKACK,
    TCP_SYNCNT,
    TCP_USER_TIMEOUT,
    AddressFamily,
    SocketKind,
    gaierror,
    gethostname,
    getprotobyname,
    getservbyname,
    getservbyport,
    herror,
    htonl,
    htons,
    inet_aton,
    inet_ntoa,
    inet_ntop,
    inet_pton,
    ntohl,
    ntohs,
)
from typing import IO, TYPE_CHECKING, Any

from ustack._core.py.posted import recv_posted as _recv_posted
from ustack._core.py.socket import Socket as _Socket
from ustack._core.py.transfers import Transfer as _Transfer
from ustack._family import family_of as _family_of

if TYPE_CHECKING:
    from ustack._stack import Stack

__all__ = [
    "AF_INET", "AF_INET6", "AF_UNSPEC", "AI_CANONNAME", "AI_NUMERICHOST", "AI_PASSIVE", "CMSG_LEN",
    "CMSG_SPACE", "EAI_FAMILY", "EAI_NONAME", "INADDR_ANY", "INADDR_BROADCAST", "INADDR_LOOPBACK",
    "INADDR_NONE", "IPPROTO_ICMP", "IPPROTO_ICMPV6", "IPPROTO_IP", "IPPROTO_IPV6", "IPPROTO_RAW",
    "IPPROTO_TCP", "IPPROTO_UDP", "IPV6_DONTFRAG", "IPV6_HOPLIMIT", "IPV6_MTU", "IPV6_MTU_DISCOVER",
    "IPV6_MULTICAST_HOPS", "IPV6_PKTINFO", "IPV6_RECVHOPLIMIT", "IPV6_RECVPKTINFO", "IPV6_RECVTCLASS",
    "IPV6_TCLASS", "IPV6_UNICAST_HOPS", "IPV6_V6ONLY", "IP_BIND_ADDRESS_NO_PORT", "IP_MTU", "IP_MTU_DISCOVER",
    "IP_MULTICAST_TTL", "IP_PKTINFO", "IP_PMTUDISC_DO", "IP_PMTUDISC_WANT", "IP_RECVTOS", "IP_RECVTTL",
    "IP_TOS", "IP_TTL", "MSG_CONFIRM", "MSG_CTRUNC", "MSG_DONTROUTE", "MSG_DONTWAIT", "MSG_EOR",
    "MSG_ERRQUEUE", "MSG_MORE", "MSG_NOSIGNAL", "MSG_OOB", "MSG_PEEK", "MSG_TRUNC", "MSG_WAITALL",
    "MSG_ZEROCOPY", "NI_DGRAM", "NI_NAMEREQD", "NI_NUMERICHOST", "NI_NUMERICSERV", "SF_NODISKIO", "SHUT_RD",
    "SHUT_RDWR", "SHUT_WR", "SOCK_CLOEXEC", "SOCK_DGRAM", "SOCK_NONBLOCK", "SOCK_STREAM", "SOL_SOCKET", "SOMAXCONN",
    "SO_ACCEPTCONN", "SO_BROADCAST", "SO_DEBUG", "SO_DOMAIN", "SO_DONTROUTE", "SO_ERROR", "SO_KEEPALIVE",
    "SO_LINGER", "SO_MARK", "SO_OOBINLINE", "SO_PRIORITY", "SO_PROTOCOL", "SO_RCVBUF", "SO_RCVLOWAT",
    "SO_RCVTIMEO", "SO_REUSEADDR", "SO_REUSEPORT", "SO_SNDBUF", "SO_SNDLOWAT", "SO_SNDTIMEO", "SO_TYPE",
    "SO_ZEROCOPY", "TCP_CONGESTION", "TCP_CORK", "TCP_DEFER_ACCEPT", "TCP_INFO", "TCP_KEEPCNT",
    "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_LINGER2", "TCP_MAXSEG", "TCP_NODELAY", "TCP_NOTSENT_LOWAT",
    "TCP_QUICKACK", "TCP_SYNCNT", "TCP_USER_TIMEOUT", "UDP_GRO", "UDP_SEGMENT", "AddressFamily", "SocketKind",
    "SocketType", "create_connection", "create_server", "error", "gaierror", "getaddrinfo",
    "getdefaulttimeout", "gethostbyname", "gethostname", "getnameinfo", "getprotobyname", "getservbyname",
    "getservbyport", "has_dualstack_ipv6", "has_ipv6", "herror", "htonl", "htons", "inet_aton", "inet_ntoa",
    "inet_ntop", "inet_pton", "ntohl", "ntohs", "setdefaulttimeout", "socket", "timeout", "use",
]

error = OSError
timeout = TimeoutError
has_ipv6 = True
# linux/udp.h, udp(7); both are options at level IPPROTO_UDP and ancillary data.
UDP_SEGMENT = 103           # bytes of each datagram that sent data are cut into
UDP_GRO = 104               # datagrams that came together are received as one
IP_PKTINFO = 8              # linux/in.h: the address and interface that a datagram came to
IP_RECVTTL = 12
IP_MTU_DISCOVER = 10        # linux/in.h; IP_PMTUDISC_WANT and IP_PMTUDISC_DO are its values here
IP_MTU = 14                 # linux/in.h
IP_PMTUDISC_WANT = 1
IP_PMTUDISC_DO = 2
IPV6_MTU_DISCOVER = 23      # linux/in6.h
IPV6_MTU = 24
SO_ZEROCOPY = 60            # asm-generic/socket.h
MSG_ZEROCOPY = 0x4000000    # linux/socket.h

SocketType = _Socket
_chosen: Stack | None = None
_default_timeout: float | None = None


def use(stack: Stack | None) -> None:
    """Choose the stack that this module's ``socket`` and functions work on; None: none any more."""
    global _chosen
    _chosen = stack


def _stack() -> Stack:
    if _chosen is None:
        raise RuntimeError("no stack chosen: call ustack.socket.use(stack), or use stack.socket()")
    return _chosen


class socket(_Socket):
    """A socket over the chosen stack (or ``stack=``), as ``socket.socket`` is one over the kernel's.

    Threads: as for every socket of a stack, any number of them may use it at once.
    """

    _io_refs: int
    _wants_close: bool

    def __new__(
        cls, family: int = AF_INET, type: int = SOCK_STREAM, proto: int = 0, fileno: None = None, *,
        stack: Stack | None = None,
    ) -> socket:
        """Arguments as for ``socket.socket``; -1 means the default."""
        if fileno is not None:
            raise ValueError("a socket of a stack in user space cannot be made from a descriptor")
        self = super().__new__(
            cls, stack if stack is not None else _stack(), AF_INET if family == -1 else int(family),
            SOCK_STREAM if type == -1 else int(type), 0 if proto == -1 else proto,
        )
        if _default_timeout is not None and not int(type) & SOCK_NONBLOCK:
            self.settimeout(_default_timeout)
        return self

    def __init__(self, *args: Any, **kwargs: Any):
        self._io_refs = 0
        self._wants_close = False

    def __enter__(self) -> socket:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    @property
    def _closed(self) -> bool:
        return self._wants_close

    def accept(self) -> tuple[socket, Any]:
        """Wait for a connection: (socket, address of its other end)."""
        made, address = super().accept()
        made._io_refs = 0
        made._wants_close = False
        if _default_timeout is not None and not self.stack.virtual:
            made.settimeout(_default_timeout)
        return made, address

    def makefile(
        self, mode: str = "r", buffering: int | None = None, *, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None,
    ) -> IO[Any]:
        """A file object over the socket; modes r, w, b and their combinations, as for ``socket.makefile``."""
        if not set(mode) <= {"r", "w", "b"}:
            raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
        writing = "w" in mode
        reading = "r" in mode or not writing
        raw = _std.SocketIO(self, ("r" if reading else "") + ("w" if writing else ""))  # type: ignore[arg-type]
        self._io_refs += 1
        if buffering is None or buffering < 0:
            buffering = io.DEFAULT_BUFFER_SIZE
        if buffering == 0:
            if "b" not in mode:
                raise ValueError("unbuffered streams must be binary")
            return raw  # type: ignore[return-value]
        buffer: Any
        if reading and writing:
            buffer = io.BufferedRWPair(raw, raw, buffering)
        elif reading:
            buffer = io.BufferedReader(raw, buffering)
        else:
            buffer = io.BufferedWriter(raw, buffering)
        if "b" in mode:
            return buffer  # type: ignore[no-any-return]
        text = io.TextIOWrapper(buffer, encoding, errors, newline)
        text.mode = mode  # type: ignore[misc]
        return text

    def _decref_socketios(self) -> None:
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._wants_close:
            self.close()

    def close(self) -> None:
        """Close the socket, once the files made of it are closed too. Idempotent."""
        self._wants_close = True
        if self._io_refs <= 0:
            super().close()

    @property
    def family(self) -> AddressFamily:
        """AF_INET or AF_INET6."""
        return AddressFamily(super().family)

    @property
    def type(self) -> SocketKind:
        """SOCK_STREAM or SOCK_DGRAM."""
        return SocketKind(super().type)

    def detach(self) -> int:
        """There is no descriptor to detach: raises OSError (EOPNOTSUPP)."""
        raise OSError(errno.EOPNOTSUPP, "a socket of a stack in user space has no descriptor to detach")

    def dup(self) -> socket:
        """A socket has one handle: raises OSError (EOPNOTSUPP; EBADF if it is closed)."""
        self._open()
        raise OSError(errno.EOPNOTSUPP, "a socket of a stack in user space has no descriptor to duplicate")

    def get_inheritable(self) -> bool:
        """False: a stack belongs to the process that made it."""
        self._open()
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """False changes nothing; True raises OSError (EOPNOTSUPP)."""
        self._open()
        if inheritable:
            raise OSError(errno.EOPNOTSUPP, "a socket of a stack in user space is not inherited")

    def _open(self) -> None:
        self.getsockopt(SOL_SOCKET, SO_TYPE)        # EBADF of one that is closed

    def sendfile(
        self, file: IO[bytes] | int | None, offset: int | None = 0, count: int | None = None, *,
        headers: Iterable[Any] = (), trailers: Iterable[Any] = (), how: str = "auto", flags: int = 0,
    ) -> int:
        """Send a file from ``offset`` to its end, or ``count`` bytes; returns how many were sent, headers included.

        file: a file opened in binary mode, or a descriptor: of a file, or of a pipe or socket with ``offset=None``.
        None: headers and trailers alone, as with TransmitFile.
        offset: in bytes; None: from where the descriptor stands, which moves along. Of a file object the position is
        behind what was sent afterwards, as with the standard socket. headers, trailers: buffers that go in front and
        behind, contiguous on the wire.

        how: "auto" sends the page cache in place (no CPU copy) where the link gathers and sums, and reads into the
        stack's blocks elsewhere; "gather", "copy", "mmap" (mapped, copied), "read" (read into a buffer, copied) choose.
        flags: ``SF_NODISKIO``, OSError(EBUSY) instead of waiting for a disk: ``moved`` bytes went, and whoever may wait
        reads the next ones (FreeBSD; EOPNOTSUPP where the file system does not say what is in memory).
        Short files end it early: the count says how much went. A non-blocking socket sends what there is room for, and
        raises BlockingIOError if that is nothing. Errors have the attribute ``moved``, the bytes that went before.
        Raises ValueError (arguments), OSError: EBADF, EINVAL, ESPIPE, EIO, and those of ``sendall``.
        """
        return _send_file(self, file, offset, count, headers, trailers, how, flags)

    def recv_posted(self, buffer: Any, nbytes: int = 0) -> int:
        """Receive until a registered buffer (or ``nbytes`` of it) is full; the link puts payload there where it can.

        Posted before its data, the buffer is told to the link: a segment that is the next in order goes to its final
        place, without a copy by the stack; another packet that lands there is moved out again (ledger: rx.misplaced).
        Over a Tap, over ``pair(device=True)``, and over ``SharedMemory`` into a ``Region(peers=True)``; elsewhere, and
        into memory that ``ustack.register`` has not pinned, it is received and copied (counters: posted.*). Returns
        the number of bytes: fewer than asked for at the end of the stream, 0 if there were none, or after a timeout or
        error with some in hand. What lies behind them in the buffer is undefined. One reader of a socket at a time.
        Raises what ``recv_into`` raises.
        """
        return _recv_posted(self, buffer, nbytes)

    def write(self, data: Any, *, checksum: str = "auto") -> int:
        """Send all bytes with a chosen form of the checksum; returns how many. For comparing: ``sendall`` is "auto".

        "fused": summed in the pass that copies. "naive": copied, then summed in a pass of its own. "outboard": not
        summed here; the link does it, or, where it cannot, the stack when it sends. "auto": fused or outboard, as the
        link needs it. See docs/techniques/checksum-during-copy.md.
        """
        return _Transfer(None, self, data=data, checksum=checksum, timeout_ns=_wait_ns(self)).run()


SF_NODISKIO = 1         # as FreeBSD has it

_ONE = (bytes, bytearray, memoryview, str)


def _wait_ns(sock: socket) -> int:
    timeout = sock.gettimeout()
    return -1 if timeout is None else int(timeout * 1e9)


def _check_sendfile(sock: socket, file: IO[bytes] | int | None, offset: int | None, count: int | None) -> None:
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if file is not None and not isinstance(file, int) and not hasattr(file, "read"):
        raise TypeError(f"what is sent is a file, a descriptor, or None: not a {type(file).__name__}")
    if sock.type != SOCK_STREAM:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    if count is not None and not isinstance(count, int):
        raise TypeError(f"count must be a positive integer (got {count!r})")
    if count is not None and count <= 0:
        raise ValueError(f"count must be a positive integer (got {count!r})")
    if offset is not None and offset < 0:
        raise OSError(errno.EINVAL, "a negative offset")


def _send_file(sock: socket, file: IO[bytes] | int | None, offset: int | None, count: int | None,
               headers: Iterable[Any], trailers: Iterable[Any], how: str, flags: int) -> int:
    _check_sendfile(sock, file, offset, count)
    if flags & ~SF_NODISKIO:
        raise OSError(errno.EINVAL, "flags is 0 or SF_NODISKIO")
    if isinstance(headers, _ONE) or isinstance(trailers, _ONE):
        raise TypeError("headers and trailers are lists of buffers, not one buffer")
    front, tail = ([memoryview(b).cast("B") for b in some] for some in (headers, trailers))
    sent = 0
    try:
        for piece in front:
            sent += (n := _send_piece(sock, piece, True))
            if n < piece.nbytes:
                return sent
        body, whole = _send_body(sock, file, offset, count, bool(tail), how, flags)
        sent += body
        for k, piece in enumerate(tail if whole else ()):
            sent += (n := _send_piece(sock, piece, k + 1 < len(tail)))
            if n < piece.nbytes:
                break
    except BlockingIOError:
        if not sent:
            raise
    except OSError as error:
        error.moved = sent + getattr(error, "moved", 0)  # type: ignore[attr-defined]
        raise
    return sent


def _send_body(sock: socket, file: IO[bytes] | int | None, offset: int | None, count: int | None, more: bool,
               how: str, flags: int) -> tuple[int, bool]:
    """(bytes sent, whether that is all there was to be sent)"""
    if file is None:
        return 0, True
    try:
        number = file if isinstance(file, int) else file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return _send_read(sock, file, offset, count), True  # type: ignore[arg-type]
    return _send_number(sock, file, number, offset, count, more, how, flags)


def _send_piece(sock: socket, piece: memoryview, more: bool) -> int:
    """All of a header or trailer; of a non-blocking socket what there is room for."""
    flags = MSG_MORE if more else 0
    if sock.gettimeout() == 0:
        return sock.send(piece, flags) if piece.nbytes else 0
    sock.sendall(piece, flags)
    return piece.nbytes


def _send_number(sock: socket, file: IO[bytes] | int, number: int, offset: int | None, count: int | None, more: bool,
                 how: str, flags: int) -> tuple[int, bool]:
    """(bytes sent, whether that is all there was to be sent)"""
    if offset is None and not isinstance(file, int):
        with contextlib.suppress(OSError, io.UnsupportedOperation):     # a pipe has no position
            offset = file.tell()
    transfer = _Transfer(number, sock, -1 if count is None else count, offset=offset, how=how, more=more,
                         timeout_ns=_wait_ns(sock), no_disk=bool(flags & SF_NODISKIO))
    whole = True
    try:
        transfer.run()
    except BlockingIOError:
        if not transfer.moved:
            raise
        whole = False
    except BaseException as error:
        error.moved = transfer.moved  # type: ignore[attr-defined]
        raise
    finally:
        if transfer.position >= 0:
            if not isinstance(file, int):
                with contextlib.suppress(OSError):      # an offset that no file reaches
                    file.seek(transfer.position)
            elif offset is None:
                os.lseek(number, transfer.position, os.SEEK_SET)
    return transfer.moved, whole


def _send_read(sock: socket, file: IO[bytes], offset: int | None, count: int | None) -> int:
    """A file object without a descriptor: read, and sent."""
    if offset:
        file.seek(offset)
    sent = 0
    while count is None or sent < count:
        block = file.read(65536 if count is None else min(65536, count - sent))
        if not block:
            break
        sock.sendall(block)
        sent += len(block)
    if offset is not None and hasattr(file, "seek"):
        file.seek(offset + sent)
    return sent


def create_connection(
    address: tuple[Any, ...], timeout: float | object | None = ..., source_address: tuple[Any, ...] | None = None,
    *, all_errors: bool = False, stack: Stack | None = None,
) -> socket:
    """Connect to (host, port), of either version, and return the socket. ``timeout`` in seconds holds for the connect
    and afterwards.

    all_errors: raise what went wrong inside an ExceptionGroup, as the standard function does.
    """
    family = _family_of(address[0]) if isinstance(address, tuple) and address else AF_INET
    sock = socket(family, stack=stack)
    try:
        if timeout is not ...:
            sock.settimeout(timeout)  # type: ignore[arg-type]
        if source_address is not None:
            sock.bind(source_address)
        sock.connect(address)
    except OSError as error:
        sock.close()
        if all_errors:
            raise ExceptionGroup("create_connection failed", [error]) from None
        raise
    except BaseException:
        sock.close()
        raise
    return sock


def create_server(
    address: tuple[Any, ...], *, family: int = AF_INET, backlog: int | None = None, reuse_port: bool = False,
    dualstack_ipv6: bool = False, stack: Stack | None = None,
) -> socket:
    """A listening socket bound to (host, port); port 0 chooses one, see ``getsockname``.

    With AF_INET6 it serves IPv6 alone, or with ``dualstack_ipv6`` IPv4 too: peers are then "::ffff:a.b.c.d".
    """
    if dualstack_ipv6 and family != AF_INET6:
        raise ValueError("dualstack_ipv6 requires AF_INET6 family")
    sock = socket(family, SOCK_STREAM, stack=stack)
    try:
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
        if family == AF_INET6:
            sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0 if dualstack_ipv6 else 1)
        sock.bind(address)
        sock.listen(128 if backlog is None else backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def has_dualstack_ipv6() -> bool:
    """True: a socket of AF_INET6 serves IPv4 too, unless IPV6_V6ONLY says that it does not."""
    return True


def getdefaulttimeout() -> float | None:
    """Seconds that new sockets of this module start with; None: they block."""
    return _default_timeout


def setdefaulttimeout(value: float | None) -> None:
    """Set what ``getdefaulttimeout`` returns."""
    global _default_timeout
    if value is not None and value < 0:
        raise ValueError("Timeout value out of range")
    _default_timeout = value


def gethostbyname(hostname: str) -> str:
    """A numeric address is returned as it is, "localhost" as 127.0.0.1; anything else raises gaierror."""
    if hostname == "localhost":
        return "127.0.0.1"
    try:
        return inet_ntoa(inet_pton(AF_INET, hostname))
    except OSError:
        raise gaierror(EAI_NONAME, f"{hostname!r}: this stack resolves no names") from None


def getnameinfo(sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
    """(host, service) of an address: the host as a number, since no names are looked up; the service by /etc/services.

    Raises gaierror if a name is wanted (NI_NAMEREQD) or the host is no numeric address.
    """
    if flags & NI_NAMEREQD:
        raise gaierror(EAI_NONAME, "this stack resolves no names")
    [(*_, (host, port, *_))] = getaddrinfo(sockaddr[0], sockaddr[1], type=SOCK_DGRAM)
    if flags & NI_NUMERICSERV:
        return host, str(port)
    try:
        return host, getservbyport(port, "udp" if flags & NI_DGRAM else "tcp")
    except OSError:
        return host, str(port)


def _numeric(host: str | None, family: int, flags: int) -> list[tuple[int, str]]:
    """(family, address) for each that a host stands for."""
    if not host or host == "localhost":
        pair = ("0.0.0.0", "::") if flags & AI_PASSIVE and not host else ("127.0.0.1", "::1")
        return [(kind, text) for kind, text in zip((AF_INET, AF_INET6), pair, strict=True) if family in (0, kind)]
    kind = _family_of(host)
    if family not in (0, kind):
        raise gaierror(_std.EAI_ADDRFAMILY, "Address family for hostname not supported")
    if kind == AF_INET:
        return [(kind, gethostbyname(host))]
    try:
        return [(kind, inet_ntop(AF_INET6, inet_pton(AF_INET6, host.partition("%")[0])))]
    except OSError:
        raise gaierror(EAI_NONAME, f"{host!r}: this stack resolves no names") from None


def getaddrinfo(
    host: str | None, port: int | str | None, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0,
) -> list[tuple[AddressFamily, SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]]:
    """Numeric hosts, "localhost" and none: what ``socket.getaddrinfo`` gives for them, IPv4 first."""
    if family not in (0, AF_INET, AF_INET6):
        raise gaierror(EAI_FAMILY, "ai_family not supported: this stack has AF_INET and AF_INET6")
    number = _std.getservbyname(port) if isinstance(port, str) and not port.isdigit() else int(port or 0)
    kinds = [(SOCK_STREAM, IPPROTO_TCP), (SOCK_DGRAM, IPPROTO_UDP)]
    return [
        (AddressFamily(version), SocketKind(kind), protocol, "",
         (text, number, 0, 0) if version == AF_INET6 else (text, number))
        for version, text in _numeric(host, family, flags)
        for kind, protocol in kinds if type in (0, kind) and proto in (0, protocol)
    ]
