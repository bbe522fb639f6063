"""The socket handle: the calls of a socket over one stack. The facade ``ustack.socket`` adds what is plain Python.

Threads: any number of threads may use one socket; close() in one wakes the others with OSError (EBADF).
Blocking calls release the GIL, poll the links themselves, and can be interrupted by signals.
"""

import mmap
import struct
import threading
import warnings
import weakref
from operator import index

from cpython.buffer cimport PyBUF_CONTIG, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport (
    EAGAIN, EBADF, EDESTADDRREQ, EDOM, EFAULT, EINPROGRESS, EINTR, EINVAL, ENOBUFS, ENOPROTOOPT, ENOTCONN, EOPNOTSUPP)
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.codes cimport EV_ERR, EV_HUP
from ustack._core.base.ledger cimport LR_RX_COPY, LR_TX_COPY
from ustack._core.base.types cimport NS_NEVER, ns_t
from ustack._core.mem.guarded cimport msgcopyin_guarded, msgcopyout_guarded
from ustack._core.mem.mblk cimport freemsg, mblk, mblk_len, msgconsume, msgcopyout, msgdsize
from ustack._core.py.address cimport AF_INET, AF_INET6, format_endpoint, parse_endpoint
from ustack._core.py.ancillary cimport ancillary_out, kept_option, manner
from ustack._core.py.buffers cimport wrap_mblk
from ustack._core.py.calls cimport (
    NO_WAIT, call_accept, call_connect, call_connect_wait, call_recv, call_recv_now, call_recvfrom, call_send,
    call_sendto, call_sendto_as)
from ustack._core.py.datagrams cimport (
    copy_to, gone, may_end, recv_datagrams, recv_datagrams_into, recv_scattered, send_datagrams)
from ustack._core.py.direct cimport collect, opt_in, opted_in, send_in_place
from ustack._core.py.driver cimport (
    clock_now, driver_flush_unlock, driver_lock, driver_signal_closed, driver_unlock, linger_until,
    sock_fileno, sock_note, sock_unfile)
from ustack._core.py.errors cimport check, fail
from ustack._core.py.loop cimport loop_forget_fired
from ustack._core.py.options cimport congestion_name, option_get, option_set, pack_tcp_info
from ustack._core.py.stack cimport Stack
from ustack._core.stack.sockets cimport (
    SOCK_PING, SOCK_TCP, SOCK_UDP, sock, sock_bind_ping, sock_close, sock_events, sock_free, sock_new)
from ustack._core.sys.guard cimport guard_install
from ustack._core.tcp.tcp cimport (
    TCPO_LINGER, tcp_bind, tcp_getopt, tcp_listen, tcp_local, tcp_recv_ready, tcp_remote, tcp_send_room,
    tcp_set_congestion, tcp_shutdown, tcp_state, tcp_unacked)
from ustack._core.tcp.unread cimport tcp_unread
from ustack._core.udp.udp cimport UDP_OWN_SIZE, udp_bind, udp_disconnect, udp_meta

cdef enum:
    AF_UNSPEC = 0
    STREAM = 1
    DGRAM = 2
    IPPROTO_ICMP = 1
    IPPROTO_ICMPV6 = 58
    MSG_OOB = 1
    MSG_PEEK = 2
    MSG_TRUNC = 0x20
    MSG_DONTWAIT = 0x40
    MSG_WAITALL = 0x100
    MSG_ERRQUEUE = 0x2000
    MSG_MORE = 0x8000
    MSG_ZEROCOPY = 0x4000000
    KNOWN_FLAGS = 2 | 0x20 | 0x40 | 0x100 | 0x4000 | 0x8000     # with MSG_NOSIGNAL
    SOL_SOCKET = 1
    SO_TYPE = 3
    SO_LINGER = 13
    SO_RCVTIMEO = 20
    SO_SNDTIMEO = 21
    SO_BINDTODEVICE = 25
    SO_MAX_PACING_RATE = 47
    SO_PROTOCOL = 38
    SO_DOMAIN = 39
    SO_ZEROCOPY = 60
    TCP_INFO = 11
    TCP_CONGESTION = 13
    # Copies of more than this are made without the GIL: below it, giving it back and taking it costs more.
    GIL_BYTES = 8192

cdef unsigned long _main_thread = threading.main_thread().ident
cdef object _mapping = mmap.mmap

# Sockets of each open stack, so that closing the stack can wake whoever waits on them.
_open: weakref.WeakSet = weakref.WeakSet()


cdef inline bint on_main_thread() noexcept:
    return threading.get_ident() == _main_thread


cdef object timed_out(ns_t timeout_ns):
    if timeout_ns == 0:
        raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")
    raise TimeoutError("timed out")


cdef int alone(object direct, bint zerocopy) except -1:
    if zerocopy or direct is not False:
        raise ValueError("cow, direct and zerocopy exclude each other")
    return 0


cdef object no_error_queue():
    """MSG_ERRQUEUE: there is none (IP_RECVERR is not offered), which Linux tells in this way, at once."""
    raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")


def _send_cow(*args):
    from ustack._core.py.cow import send_cow
    return send_cow(*args)


def _close_all(Stack stack):
    """Close every socket of a stack that is being closed; whoever waits on one wakes with EBADF."""
    cdef Socket one
    for one in list(_open):
        if one.stack is stack:
            one._close()


cdef inline bint is_mapping(object data):
    """A ``mmap.mmap``, or a view on one: the only memory of programs that is known to vanish."""
    if type(data) is memoryview:
        data = data.obj
    return type(data) is _mapping


cdef class Socket:
    """A socket over one stack; the methods, arguments and errors are those of the standard ``socket.socket``.

    family: AF_INET, AF_INET6; type: SOCK_STREAM, SOCK_DGRAM; proto: 0, or IPPROTO_ICMP (IPPROTO_ICMPV6) with
    SOCK_DGRAM for echo requests. Addresses are (host, port), of AF_INET6 (host, port, flowinfo, scope_id).
    """

    def __cinit__(self, Stack stack not None, int family=AF_INET, int type=STREAM, int proto=0, *, _accepted=None):
        cdef bint v6 = family == AF_INET6
        self.stack = stack
        self.d = stack.d
        self.timeout_ns = 0 if stack.d.manual else -1
        self.family = family
        self.type = type & 0xF
        self.proto = proto
        self.closed = True
        if _accepted is not None:
            return
        kind = _kind(family, self.type, proto)
        if type & 0x800:            # SOCK_NONBLOCK
            self.timeout_ns = 0
        stack.enter()
        with nogil:
            driver_lock(self.d)
            self.s = sock_new(&self.d.eng, kind, v6)
            driver_unlock(self.d)
        stack.leave()
        if self.s == NULL:
            fail(-ENOBUFS, "cannot make a socket")
        self.closed = False
        _open.add(self)

    def __dealloc__(self):
        if self.s != NULL:
            if not self.stack.closed and not self.d.forked:
                with nogil:
                    driver_lock(self.d)
                    sock_close(self.s, False)
                    sock_unfile(self.s)
                    if self.s.fired:
                        loop_forget_fired(self.d, self.s)
                    driver_flush_unlock(self.d)
            sock_free(self.s)
            self.s = NULL

    def __del__(self):
        if not self.closed and self.s != NULL:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._close()

    def __repr__(self):
        kind = {STREAM: "SOCK_STREAM", DGRAM: "SOCK_DGRAM"}.get(self.type, self.type)
        text = f"<{type(self).__module__}.{type(self).__name__} {'[closed] ' if self.closed else ''}type={kind}"
        if not self.closed and not self.stack.closed:
            text += f" laddr={self.getsockname()}"
            try:
                text += f" raddr={self.getpeername()}"
            except OSError:
                pass
        return text + ">"

    cdef int enter(self) except -1:
        if self.closed:
            raise OSError(EBADF, "Bad file descriptor")
        return self.stack.enter()

    cdef void leave(self) noexcept:
        self.stack.leave()

    cdef ns_t deadline(self) noexcept:
        if self.timeout_ns < 0:
            return NS_NEVER
        if self.timeout_ns == 0:
            return NO_WAIT
        return clock_now() + self.timeout_ns

    cdef ns_t deadline_in(self, int flags) noexcept:
        """Of a call that receives; SO_RCVTIMEO counts for sockets that block."""
        if flags & MSG_DONTWAIT:
            return NO_WAIT
        if self.timeout_ns < 0 and self.rcvtimeo:
            return clock_now() + self.rcvtimeo
        return self.deadline()

    cdef ns_t deadline_out(self, int flags) noexcept:
        if flags & MSG_DONTWAIT:
            return NO_WAIT
        if self.timeout_ns < 0 and self.sndtimeo:
            return clock_now() + self.sndtimeo
        return self.deadline()

    cdef object late(self, ns_t deadline):
        """A deadline has passed: TimeoutError for settimeout()'s, EAGAIN for that of SO_RCVTIMEO and SO_SNDTIMEO."""
        timed_out(0 if deadline == NO_WAIT or self.timeout_ns < 0 else 1)

    def _need(self, int kind, str call):
        if self.s.kind != kind:
            raise OSError(EOPNOTSUPP, f"{call}(): Operation not supported on this type of socket")

    # --- modes ------------------------------------------------------------------------------------------------------

    def settimeout(self, value):
        """None: wait for ever; 0: never wait; else seconds. A stack on a VirtualClock never waits."""
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        if value is not None and value > 9e9:
            raise OverflowError("timeout is too large")
        if self.closed:
            raise OSError(EBADF, "Bad file descriptor")
        if self.d.manual and (value is None or value > 0):
            raise ValueError("a stack on a VirtualClock never waits: use non-blocking calls and advance_to()")
        if value is None:
            self.timeout_ns = -1
            return
        self.timeout_ns = <ns_t>(value * 1e9)
        if value > 0 and self.timeout_ns == 0:
            self.timeout_ns = 1

    def gettimeout(self):
        """Seconds, or None; see settimeout."""
        return None if self.timeout_ns < 0 else self.timeout_ns / 1e9

    def setblocking(self, flag):
        """True: settimeout(None); False: settimeout(0)."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Whether calls may wait."""
        return self.timeout_ns != 0

    timeout = property(gettimeout)

    # --- names ------------------------------------------------------------------------------------------------------

    def bind(self, address):
        """Bind to (host, port); port 0 chooses an ephemeral one (RFC 6056)."""
        cdef ipaddr host
        cdef uint16_t port = 0
        cdef int r
        parse_endpoint(self.family, address, &host, &port, "bind")
        self.enter()
        with nogil:
            driver_lock(self.d)
            if self.s.closed:
                r = -EBADF
            elif self.s.kind == SOCK_TCP:
                r = tcp_bind(self.s.tcp, &host, port)
            elif self.s.kind == SOCK_UDP:
                r = udp_bind(self.s.udp, &host, port)
            else:
                r = sock_bind_ping(self.s, port)
            driver_unlock(self.d)
        self.leave()
        if r != 0:
            check(r, f"cannot bind to {address}")

    def listen(self, backlog=128):
        """Accept connections: at most `backlog` wait for accept()."""
        cdef int r
        cdef int n = max(0, min(backlog, 65535))
        self.enter()
        self._finish(self._need, SOCK_TCP, "listen")
        with nogil:
            driver_lock(self.d)
            r = -EBADF if self.s.closed else tcp_listen(self.s.tcp, n)
            driver_flush_unlock(self.d)
        self.leave()
        check(r, "cannot listen")

    def _finish(self, function, *args):
        """Call `function`, leaving the stack if it raises."""
        try:
            function(*args)
        except BaseException:
            self.leave()
            raise

    def getsockname(self):
        """(host, port) of this end; ("0.0.0.0", 0) before it is bound."""
        cdef ipaddr a
        cdef uint16_t port = 0
        a.hi = a.lo = 0
        self.enter()
        with nogil:
            driver_lock(self.d)
            if self.s.tcp != NULL:
                tcp_local(self.s.tcp, &a, &port)
            elif self.s.udp != NULL:
                a = self.s.udp.entry.key.laddr
                port = self.s.udp.entry.key.lport
            elif self.s.ping != NULL:
                port = self.s.ping.id
            driver_unlock(self.d)
        self.leave()
        return format_endpoint(self.family, &a, port)

    def getpeername(self):
        """(host, port) of the other end; ENOTCONN if there is none."""
        cdef ipaddr a
        cdef uint16_t port = 0
        cdef bint connected = False
        self.enter()
        with nogil:
            driver_lock(self.d)
            if self.s.tcp != NULL:
                tcp_remote(self.s.tcp, &a, &port)
                connected = port != 0 and tcp_state(self.s.tcp) not in (2, 6, 7, 10)
            elif self.s.udp != NULL and self.s.udp.connected:
                a = self.s.udp.entry.key.raddr
                port = self.s.udp.entry.key.rport
                connected = True
            driver_unlock(self.d)
        self.leave()
        if not connected:
            raise OSError(ENOTCONN, "Transport endpoint is not connected")
        return format_endpoint(self.family, &a, port)

    # --- connecting -------------------------------------------------------------------------------------------------

    def connect(self, address):
        """Connect to (host, port); a datagram socket only remembers it, and sees errors."""
        r = self._connect(address)
        if r == -EAGAIN:
            raise TimeoutError("timed out")
        if r != 0:
            check(r, f"cannot connect to {address}")

    def connect_ex(self, address) -> int:
        """As connect, but returns the errno (0: connected)."""
        return -self._connect(address)

    def _connect(self, address) -> int:
        cdef ipaddr host
        cdef uint16_t port = 0
        cdef ns_t deadline
        cdef bint main_thread = on_main_thread()
        cdef int r
        if self.s != NULL and self.s.kind == SOCK_UDP and address is not None and address[0] is None:
            return self._disconnect()
        parse_endpoint(self.family, address, &host, &port, "connect")
        if self.closed:
            return -EBADF
        self.enter()
        try:
            if self.s.kind == SOCK_PING:
                raise OSError(EOPNOTSUPP, "connect(): Operation not supported on this type of socket")
            deadline = self.deadline_out(0)
            with nogil:
                r = call_connect(self.d, self.s, &host, port, deadline, main_thread)
            while r == -EINTR:
                PyErr_CheckSignals()
                with nogil:
                    r = call_connect_wait(self.d, self.s, deadline, main_thread)
            return -EINPROGRESS if r == -EAGAIN and self.timeout_ns < 0 else r
        finally:
            self.leave()

    def _disconnect(self) -> int:
        cdef int r
        self.enter()
        with nogil:
            driver_lock(self.d)
            r = -EBADF if self.s.closed else udp_disconnect(self.s.udp)
            driver_unlock(self.d)
        self.leave()
        return r

    def _accept(self):
        """A connected socket of this very class."""
        cdef sock *child = NULL
        cdef ns_t deadline
        cdef bint main_thread = on_main_thread()
        cdef int r
        cdef Socket made
        self.enter()
        try:
            self._need(SOCK_TCP, "accept")
            deadline = self.deadline_in(0)
            while True:
                with nogil:
                    r = call_accept(self.d, self.s, deadline, main_thread, &child)
                if r != -EINTR:
                    break
                PyErr_CheckSignals()
        finally:
            self.leave()
        if r == -EAGAIN:
            self.late(deadline)
        check(r, "cannot accept")
        made = Socket.__new__(type(self), self.stack, self.family, self.type, self.proto, _accepted=True)
        made.s = child
        made.closed = False
        made.rcvtimeo = self.rcvtimeo
        made.sndtimeo = self.sndtimeo
        made.kept = None if self.kept is None else dict(self.kept)
        _open.add(made)
        return made

    def accept(self):
        """Wait for a connection: (socket, (host, port))."""
        made = self._accept()
        try:
            return made, made.getpeername()
        except OSError:
            # It was reset before we came to look: the socket tells when it is used, as on Linux.
            return made, (("::", 0, 0, 0) if self.family == AF_INET6 else ("0.0.0.0", 0))

    # --- sending ----------------------------------------------------------------------------------------------------

    cdef size_t _send_bytes(self, const char *p, size_t n, int flags, bint partial) except? 0:
        """Send n bytes of a stream; returns how many went. Raises if none did."""
        cdef size_t done = 0
        cdef ns_t deadline = self.deadline_out(flags)
        cdef bint main_thread = False
        cdef bint more = flags & MSG_MORE != 0
        cdef mblk *kept = NULL
        cdef int r
        if n == 0:
            return self._send_nothing()
        if deadline == NO_WAIT and n <= GIL_BYTES:
            r = call_send(self.d, self.s, p, n, more, partial, NO_WAIT, False, &done, &kept)
        else:
            main_thread = on_main_thread()
            while True:
                with nogil:
                    r = call_send(self.d, self.s, p, n, more, partial, deadline, main_thread, &done, &kept)
                if r != -EINTR:
                    break
                try:
                    PyErr_CheckSignals()
                except BaseException:
                    freemsg(kept)
                    raise
        if r == 0 or (partial and done):
            return done
        if r == -EAGAIN:
            self.late(deadline)
        if r == -EFAULT:
            unreadable(done)
        fail(r)
        return 0

    cdef int _send_nothing(self) except -1:
        """No bytes: 0, or the error that some would have had."""
        cdef int64_t r
        with nogil:
            driver_lock(self.d)
            r = -EBADF if self.s.closed else tcp_send_room(self.s.tcp)
            driver_unlock(self.d)
        if r < 0:
            fail(<int>r)
        return 0

    def send(self, data, int flags=0, *, direct=False, bint zerocopy=False, bint cow=False) -> int:
        """Send bytes; returns how many were taken (all of them on a blocking stream socket).

        direct: True sends the memory in place where the path allows it, and returns when all is acknowledged and
        nobody refers to the memory; "auto" does so from ustack.DIRECT_LEAST bytes on. zerocopy: in place as well, and
        returns at once; ``completions()`` tells when the memory may be used again (the option SO_ZEROCOPY is needed
        first). What cannot go in place is copied, and counted by reason. See docs/techniques/direct.md.
        cow: whole pages of the buffer are shared with the stack until they are acknowledged or written to, instead of
        copied; what is sent is what they held at the time of the call (docs/techniques/cow.md).
        """
        cdef Py_buffer b
        cdef size_t n
        if cow:
            alone(direct, zerocopy)
            return _send_cow(self, data, flags, self.timeout_ns >= 0)
        self.enter()
        try:
            if direct is not False or zerocopy:
                return send_in_place(self, data, flags, direct, zerocopy, self.timeout_ns >= 0)
            if flags & MSG_ZEROCOPY and opted_in(self):
                return send_in_place(self, data, flags & ~MSG_ZEROCOPY, False, True, self.timeout_ns >= 0)
            if self.s.kind != SOCK_TCP:
                return self._send_datagram(data, None, flags)
            if is_mapping(data):
                return self._send_mapping(data, flags, True)
            PyObject_GetBuffer(data, &b, PyBUF_SIMPLE)
            try:
                n = self._send_bytes(<const char *>b.buf, b.len, flags, self.timeout_ns >= 0)
            except OSError as error:
                if error.errno == EFAULT and getattr(error, "moved", 0):
                    return error.moved
                raise
            finally:
                PyBuffer_Release(&b)
            return n
        finally:
            self.leave()

    def sendall(self, data, int flags=0, *, direct=False, bint zerocopy=False, bint cow=False):
        """Send all bytes. After an error there is no telling how much went, as with the standard socket.

        direct, zerocopy, cow: as for ``send``.
        """
        cdef Py_buffer b
        if cow:
            alone(direct, zerocopy)
            _send_cow(self, data, flags, False)
            return
        self.enter()
        try:
            if direct is not False or zerocopy:
                send_in_place(self, data, flags, direct, zerocopy, False)
                return
            if self.s.kind != SOCK_TCP:
                self._send_datagram(data, None, flags)
                return
            if is_mapping(data):
                self._send_mapping(data, flags, False)
                return
            PyObject_GetBuffer(data, &b, PyBUF_SIMPLE)
            try:
                self._send_bytes(<const char *>b.buf, b.len, flags, False)
            finally:
                PyBuffer_Release(&b)
        finally:
            self.leave()

    def completions(self, timeout=0.0) -> list:
        """What is complete of ``send(zerocopy=True)`` since the last call: a list of ``ustack.Completion``, ranges.

        timeout: seconds to wait for the first one, None for as long as it takes; calls without anything outstanding
        return an empty list at once. Works on a closed socket too. See docs/techniques/completions.md.
        """
        return collect(self, timeout)

    def _send_mapping(self, data, int flags, bint partial):
        """A mapping of a file that may have been cut: EFAULT, where touching it would be a SIGBUS."""
        from ustack._core.py.transfers import Transfer
        wait = 0 if flags & MSG_DONTWAIT else self.timeout_ns
        transfer = Transfer(None, self, data=data, guarded=True, more=flags & MSG_MORE != 0, timeout_ns=wait)
        try:
            return transfer.run()
        except OSError as error:
            if partial and transfer.moved:
                return transfer.moved
            error.moved = transfer.moved
            raise

    def sendto(self, data, *args):
        """sendto(data, address) or sendto(data, flags, address)."""
        if not 1 <= len(args) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(args)} given)")
        flags = index(args[0]) if len(args) == 2 else 0
        if not isinstance(args[-1], tuple):
            raise TypeError(f"sendto(): an address must be a tuple, not {type(args[-1]).__name__}")
        self.enter()
        try:
            if self.s.kind == SOCK_TCP:
                return self.send(data, flags)
            return self._send_datagram(data, args[-1], flags)
        finally:
            self.leave()

    def _send_datagram(self, data, address, int flags):
        return self._send_one(data, address, flags, NULL)

    cdef object _send_one(self, object data, object address, int flags, const manner *how):
        """how: NULL, or what the datagram has instead of what the endpoint has."""
        cdef Py_buffer b
        cdef mblk *m = NULL
        cdef ssize_t n
        cdef size_t there
        cdef int err = -ENOBUFS
        if flags & MSG_OOB:
            raise OSError(EOPNOTSUPP, "datagrams have no urgent data")
        if self.s.kind == SOCK_PING:
            data, address = _echo_request(self.family, data, address)
        PyObject_GetBuffer(data, &b, PyBUF_SIMPLE)
        n = there = b.len
        if n <= 65536:
            m = msgcopyin_guarded(self.d.eng.ctx.mem, &self.d.eng.ctx.book, LR_TX_COPY, b.buf, &there, 0, 0, &err)
        PyBuffer_Release(&b)
        if n > 65536:
            raise OSError(90, "Message too long")
        if m == NULL or there < <size_t>n:
            freemsg(m)
            fail(err if m == NULL else -EFAULT)
        return self._post_datagram(m, n, address, how)

    cdef object _post_datagram(self, mblk *m, ssize_t n, object address, const manner *how):
        """Send a message block as one datagram (or a train of them); takes it."""
        cdef ipaddr host
        cdef ipaddr *to = NULL
        cdef uint16_t port = 0
        cdef int r
        if address is not None:
            try:
                parse_endpoint(self.family, address, &host, &port, "sendto")
            except BaseException:
                freemsg(m)
                raise
            to = &host
        if how == NULL or how.ttl < 0 and how.tos < 0 and not how.sourced:
            r = call_sendto(self.d, self.s, m, to, port, UDP_OWN_SIZE if how == NULL else how.gso_size, NO_WAIT, False)
        else:
            r = call_sendto_as(self.d, self.s, m, to, port, how.gso_size, how.ttl, how.tos,
                               &how.source if how.sourced else NULL)
        check(r)
        return n

    def sendmsg(self, buffers, ancdata=(), int flags=0, address=None) -> int:
        """Send several buffers as one. Ancillary data of a datagram, each counting instead of what the socket has:
        (IPPROTO_IP, IP_TTL or IP_TOS or IP_PKTINFO), (IPPROTO_IPV6, IPV6_HOPLIMIT or IPV6_TCLASS or IPV6_PKTINFO),
        (IPPROTO_UDP, UDP_SEGMENT, size as bytes); others raise OSError (EINVAL).

        With a segment size they go as datagrams of that size, the last one shorter, at most 128 and 65,507 bytes in
        all (udp(7)).
        """
        cdef size_t total = 0
        cdef manner how
        ancillary_out(ancdata, &how)
        if address is not None and not isinstance(address, tuple):
            raise TypeError(f"sendmsg(): an address must be a tuple, not {type(address).__name__}")
        views = [memoryview(b).cast("B") for b in buffers]
        if self.type == DGRAM:
            self.enter()
            try:
                whole = views[0] if len(views) == 1 else b"".join(views)
                return self._send_one(whole, address, flags, &how)
            finally:
                self.leave()
        if not views:
            return self.send(b"", flags)
        for k, view in enumerate(views):
            more = flags | (MSG_MORE if k + 1 < len(views) else 0)
            try:
                sent = self.send(view, more)
            except BlockingIOError:
                if total:
                    break
                raise
            total += sent
            if sent < view.nbytes:
                break
        return total

    def sendmmsg(self, buffers, int flags=0, address=None) -> int:
        """Send each of ``buffers`` (an iterable of bytes-like objects) as a datagram, all with one look at the network.

        To ``address``, or to the connected peer. Returns how many went; with a blocking socket that is all of them
        unless an error or the timeout ends it. What ends it after the first one is reported by the next call, as
        sendmmsg(2) has it. Raises what ``send`` raises, EMSGSIZE for more than 65,507 bytes among others; TypeError
        for something that is no buffer, and then nothing was sent.
        """
        self.enter()
        try:
            self._need(SOCK_UDP, "sendmmsg")
            if isinstance(buffers, (bytes, bytearray, str)):
                raise TypeError(f"sendmmsg() takes an iterable of buffers, not {type(buffers).__name__}")
            return send_datagrams(self.d, self.s, buffers, address,
                                  self.deadline_out(flags), on_main_thread())
        except TimeoutError:
            self.late(1)
        finally:
            self.leave()

    # --- receiving --------------------------------------------------------------------------------------------------

    cdef mblk *_take(self, size_t n, int flags) except? NULL:
        """A chain of at most n received bytes that the caller owns; NULL at the end of the stream."""
        cdef mblk *m = NULL
        cdef ns_t deadline
        cdef bint main_thread
        cdef bint peek = flags & MSG_PEEK != 0
        if flags & MSG_OOB:
            raise OSError(EINVAL, "urgent data stays in the stream")
        if flags & MSG_ERRQUEUE:
            no_error_queue()
        cdef int r = call_recv_now(self.d, self.s, n, peek, &m)
        if r == -EAGAIN:
            deadline = self.deadline_in(flags)
            main_thread = on_main_thread()
            while True:
                with nogil:
                    r = call_recv(self.d, self.s, n, peek, deadline, main_thread, &m)
                if r != -EINTR:
                    break
                PyErr_CheckSignals()
            if r == -EAGAIN:
                self.late(deadline)
        if r != 0:
            fail(r)
        return m

    cdef size_t _copy_out(self, mblk *m, void *to, size_t n) noexcept:
        """Copy a taken chain to the caller's memory and free it."""
        cdef size_t got
        if n > GIL_BYTES:
            with nogil:
                got = msgcopyout(&self.d.eng.ctx.book, LR_RX_COPY, m, 0, to, n)
                freemsg(m)
        else:
            got = msgcopyout(&self.d.eng.ctx.book, LR_RX_COPY, m, 0, to, n)
            freemsg(m)
        return got

    def recv(self, ssize_t bufsize, int flags=0) -> bytes:
        """At most bufsize received bytes; b"" at the end of the stream."""
        cdef mblk *m
        cdef size_t n
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if bufsize == 0:
            return b""                  # nothing is asked, as with the standard socket
        self.enter()
        try:
            if self.s.kind != SOCK_TCP:
                return self._recv_datagram(bufsize, flags)[0]
            if flags & MSG_WAITALL and not flags & MSG_PEEK:
                return self._recv_all(bufsize, flags)
            m = self._take(bufsize, flags)
            if m == NULL:
                return b""
            n = msgdsize(m)
            data = PyBytes_FromStringAndSize(NULL, n)
            self._copy_out(m, PyBytes_AS_STRING(data), n)
            return data
        finally:
            self.leave()

    def _recv_all(self, ssize_t bufsize, int flags) -> bytes:
        """MSG_WAITALL: until bufsize bytes, the end of the stream, or an error with nothing in hand."""
        parts = []
        left = bufsize
        while left > 0:
            try:
                part = self.recv(left, flags & ~MSG_WAITALL)
            except OSError:
                if parts:
                    break
                raise
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def recv_into(self, buffer, ssize_t nbytes=0, int flags=0) -> int:
        """Receive into a writable buffer; returns the number of bytes, 0 at the end of the stream.

        Into pages of a mapped file that is cut meanwhile: fewer bytes, or OSError (EFAULT) if there is no place for
        one; what found no place of a stream is the next to be received, a datagram is lost.
        """
        cdef Py_buffer b
        cdef mblk *m
        cdef size_t n
        if nbytes < 0:
            raise ValueError("negative buffersize in recv_into")
        _writable(buffer, &b)
        n = nbytes if nbytes else b.len
        try:
            if nbytes > b.len:
                raise ValueError("buffer too small for requested bytes")
            if n:
                self.enter()
        except BaseException:
            PyBuffer_Release(&b)
            raise
        if n == 0:
            PyBuffer_Release(&b)
            return 0                    # nothing is asked, as with the standard socket
        try:
            if self.s.kind != SOCK_TCP:
                self._need(SOCK_UDP, "recv_into")
                return self._recv_datagram_into(<char *>b.buf, n, flags, may_end(buffer))[0]
            if flags & MSG_WAITALL and not flags & MSG_PEEK:
                return self._recv_all_into(memoryview(buffer).cast("B")[:n], flags)
            if may_end(buffer):
                check(guard_install())
            m = self._take(n, flags)
            if m == NULL:
                return 0
            return copy_guarded(self, m, b.buf, msgdsize(m), flags & MSG_PEEK != 0)
        finally:
            PyBuffer_Release(&b)
            self.leave()

    def _recv_all_into(self, view, int flags) -> int:
        got = 0
        while got < len(view):
            try:
                n = self.recv_into(view[got:], 0, flags & ~MSG_WAITALL)
            except OSError:
                if got:
                    break
                raise
            if n == 0:
                break
            got += n
        return got

    def recv_flip(self, buffer, ssize_t nbytes=0, int flags=0, *, zero=False) -> int:
        """As ``recv_into``, into a ``ustack.FlipBuffer``: whole received pages take the place of the buffer's own.

        zero: clear those before the stack gets them. flags: MSG_DONTWAIT only. See docs/techniques/page-flip.md.
        """
        from ustack._core.py.flip import recv_flip
        return recv_flip(self, buffer, nbytes, flags, zero)

    def recv_zerocopy(self, mapping, copybuf=None):
        """Show received pages in a ``ustack.ReceiveMapping``, read-only, instead of copying them.

        Waits for data as ``recv`` does. Returns (length, recv_skip_hint, inq, err, copybuf_len): bytes mapped; bytes
        that follow and cannot be, to be read with ``recv``; bytes that wait; the pending error; and how many of those
        that cannot be mapped were copied to ``copybuf``, if that has room for all of them. At the end: zeros.
        Source: TCP_ZEROCOPY_RECEIVE of Linux. See docs/techniques/mapped-receive.md.
        """
        from ustack._core.py.flip import recv_zerocopy
        return recv_zerocopy(self, mapping, copybuf)

    def recv_buffers(self, ssize_t bufsize=1 << 20, int flags=0) -> list:
        """Lend received storage without a copy: a list of ``ustack.buffers.Mblk``, read-only, at most bufsize bytes.

        An empty list is the end of the stream. The storage goes back to the stack when the last reference does;
        until then the receive window is smaller by nothing, but the memory budget is.
        """
        cdef mblk *m
        cdef mblk *rest
        self.enter()
        try:
            self._need(SOCK_TCP, "recv_buffers")
            if bufsize <= 0:
                raise ValueError("bufsize must be at least 1")
            m = self._take(bufsize, flags)
            lent = []
            while m != NULL:
                rest = m.cont
                m.cont = NULL
                if mblk_len(m):
                    lent.append(wrap_mblk(m, self.d.eng.ctx.mem))
                else:
                    freemsg(m)
                m = rest
            return lent
        finally:
            self.leave()

    cdef mblk *_take_datagram(self, int flags, udp_meta *meta) except? NULL:
        """NULL: receiving was shut down."""
        cdef mblk *m = NULL
        cdef ns_t deadline = self.deadline_in(flags)
        cdef bint main_thread = on_main_thread()
        cdef bint peek = flags & MSG_PEEK != 0
        cdef int r
        if flags & MSG_ERRQUEUE:
            no_error_queue()
        while True:
            with nogil:
                r = call_recvfrom(self.d, self.s, peek, deadline, main_thread, &m, meta)
            if r != -EINTR:
                break
            PyErr_CheckSignals()
        if r == -EAGAIN:
            self.late(deadline)
        if r != 0:
            fail(r)
        return m

    def _recv_datagram(self, ssize_t bufsize, int flags):
        """(data, address, whole length)"""
        cdef udp_meta meta
        cdef mblk *m = self._take_datagram(flags, &meta)
        cdef size_t whole = msgdsize(m) if m != NULL else 0
        cdef size_t n = whole if whole < <size_t>bufsize else bufsize
        if m == NULL:
            return b"", None, 0
        data = PyBytes_FromStringAndSize(NULL, n)
        self._copy_out(m, PyBytes_AS_STRING(data), n)
        if self.s.kind == SOCK_PING:
            # As Linux's ping sockets give it: with the ICMP header in front.
            data = struct.pack("!BBHHH", 129 if self.family == AF_INET6 else 0, 0, 0, self.s.ping.id, meta.sport) + data
            return data[:bufsize], format_endpoint(self.family, &meta.src, 0), whole + 8
        return data, format_endpoint(self.family, &meta.src, meta.sport), whole

    cdef tuple _recv_datagram_into(self, char *to, size_t room, int flags, bint guarded):
        cdef udp_meta meta
        cdef mblk *m = self._take_datagram(flags, &meta)
        cdef size_t whole = msgdsize(m) if m != NULL else 0
        cdef size_t n = whole if whole < room else room
        if m == NULL:
            return 0, None, 0
        try:
            copy_to(self.d, m, 0, to, n, guarded)
        finally:
            freemsg(m)
        return (whole if flags & MSG_TRUNC else n), format_endpoint(self.family, &meta.src, meta.sport), whole

    def recvfrom(self, ssize_t bufsize, int flags=0):
        """(data, (host, port) of the sender)."""
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        if self.type == STREAM:
            return self.recv(bufsize, flags), None
        self.enter()
        try:
            return self._recv_datagram(bufsize, flags)[:2]
        finally:
            self.leave()

    def recvfrom_into(self, buffer, ssize_t nbytes=0, int flags=0):
        """(number of bytes, (host, port) of the sender)."""
        cdef Py_buffer b
        if nbytes < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        if self.type == STREAM:
            return self.recv_into(buffer, nbytes, flags), None
        _writable(buffer, &b)
        try:
            self.enter()
        except BaseException:
            PyBuffer_Release(&b)
            raise
        try:
            self._need(SOCK_UDP, "recvfrom_into")
            if nbytes > b.len:
                raise ValueError("nbytes is greater than the length of the buffer")
            return self._recv_datagram_into(<char *>b.buf, nbytes if nbytes else b.len, flags, may_end(buffer))[:2]
        finally:
            PyBuffer_Release(&b)
            self.leave()

    def recvmsg(self, ssize_t bufsize, ssize_t ancbufsize=0, int flags=0):
        """(data, ancillary data, msg_flags, address); MSG_TRUNC in msg_flags if a datagram was longer than bufsize.

        With the option UDP_GRO the data may be several datagrams that came together, and ancillary data
        [(IPPROTO_UDP, UDP_GRO, size of each as 4 bytes)]: the last one may be shorter (udp(7)).
        """
        _check_sizes(bufsize, ancbufsize, "recvmsg")
        if self.type == STREAM:
            return self.recv(bufsize, flags), [], 0, None
        if self.s.kind == SOCK_UDP:
            buffer = bytearray(bufsize)
            n, anc, msg_flags, address = self._recv_scattered([memoryview(buffer)], ancbufsize, flags)
            return bytes(memoryview(buffer)[:n]), anc, msg_flags, address
        self.enter()
        try:
            data, address, whole = self._recv_datagram(bufsize, flags)
        finally:
            self.leave()
        return data, [], MSG_TRUNC if whole > len(data) else 0, address

    def recvmsg_into(self, buffers, ssize_t ancbufsize=0, int flags=0):
        """Scatter into several buffers: (number of bytes, ancillary data, msg_flags, address), as recvmsg has them."""
        views = [memoryview(b).cast("B") for b in buffers]
        _check_sizes(0, ancbufsize, "recvmsg_into")
        if any(view.readonly for view in views):
            raise TypeError("recvmsg_into() argument 1 must be an iterable of single-segment read-write buffers")
        if self.s.kind == SOCK_UDP:
            return self._recv_scattered(views, ancbufsize, flags)
        if self.type == STREAM and not flags & MSG_PEEK and any(may_end(view) for view in views):
            return self._recv_scattered_stream(views, flags), [], 0, None
        data, anc, msg_flags, address = self.recvmsg(sum(v.nbytes for v in views), ancbufsize, flags)
        at = 0
        for view in views:
            part = data[at:at + view.nbytes]
            view[:len(part)] = part
            at += len(part)
        return len(data), anc, msg_flags, address

    def _recv_scattered_stream(self, list views, int flags):
        """Into memory that may end: what is there, each view by itself, the first of them waiting."""
        got = 0
        for view in views:
            if view.nbytes and got and not flags & MSG_WAITALL and not has_bytes(self):
                break
            try:
                n = self.recv_into(view, 0, flags) if view.nbytes else 0
            except OSError:
                if got == 0:
                    raise
                break
            got += n
            if n < view.nbytes:
                break
        return got

    def _recv_scattered(self, list views, size_t ancbufsize, int flags):
        if flags & MSG_ERRQUEUE:
            no_error_queue()
        self.enter()
        try:
            return recv_scattered(self.d, self.s, views, ancbufsize, self.kept, flags & MSG_PEEK != 0,
                                  self.deadline_in(flags), on_main_thread())
        except TimeoutError:
            self.late(1)
        finally:
            self.leave()

    def recvmmsg(self, int max, ssize_t bufsize=65535, int flags=0) -> list:
        """Wait for a datagram, then take all that are there, at most ``max``: a list of (bytes, (host, port)).

        Each is cut at ``bufsize`` bytes. Never empty, except when receiving was shut down. Of the flags only
        MSG_DONTWAIT is known.
        """
        _check_many("recvmmsg", max, bufsize, flags & ~MSG_DONTWAIT)
        self.enter()
        try:
            self._need(SOCK_UDP, "recvmmsg")
            return recv_datagrams(self.d, self.s, max, bufsize, self.deadline_in(flags), on_main_thread())
        except TimeoutError:
            self.late(1)
        finally:
            self.leave()

    def recvmmsg_into(self, buffer, ssize_t stride, max=None, int flags=0) -> list:
        """The same into a writable buffer: a list of (bytes stored, (host, port)), datagram k at offset k * stride.

        At most ``max`` are taken, by default as many as the buffer has room for. What is longer than ``stride`` is
        cut; with MSG_TRUNC the list has the lengths before that. Datagrams from one sender share its address
        tuple. ValueError if ``max`` times ``stride`` is larger than the buffer.
        """
        cdef Py_buffer b
        cdef int many
        _writable(buffer, &b)
        try:
            many = min(b.len // stride if stride > 0 else 0, 65535) if max is None else max
            _check_many("recvmmsg_into", many, stride, flags & ~(MSG_DONTWAIT | MSG_TRUNC))
            if many > b.len // stride:
                raise ValueError(f"the buffer has room for {b.len // stride} datagrams of {stride} bytes, not {many}")
            self.enter()
            try:
                self._need(SOCK_UDP, "recvmmsg_into")
                return recv_datagrams_into(self.d, self.s, <char *>b.buf, stride, many, flags & MSG_TRUNC != 0,
                                           may_end(buffer), self.deadline_in(flags), on_main_thread())
            except TimeoutError:
                self.late(1)
            finally:
                self.leave()
        finally:
            PyBuffer_Release(&b)

    # --- options ----------------------------------------------------------------------------------------------------

    def setsockopt(self, int level, int optname, value, optlen=None):
        """As the standard socket's, with Linux's numbers; ENOPROTOOPT for options that mean nothing here."""
        cdef int64_t number
        cdef int r
        if value is None and optlen is not None:
            self.enter()
            self.leave()
            raise OSError(EFAULT, "Bad address")
        if level == SOL_SOCKET and (optname == SO_RCVTIMEO or optname == SO_SNDTIMEO):
            self._set_wait(optname, value)
            return
        if level == SOL_SOCKET and optname == SO_BINDTODEVICE:
            self.enter()
            self.leave()
            fail(-ENOPROTOOPT, "an address binds a socket to its interface")
        bounds = kept_option(self.type == STREAM, self.family == AF_INET6, level, optname)
        if bounds is not None:
            self._keep(level, optname, value, bounds)
            return
        if level == 6 and optname == TCP_CONGESTION:
            self._set_congestion(value)
            return
        if level == SOL_SOCKET and optname == SO_ZEROCOPY and self.type == STREAM:
            opt_in(self, _option_value(level, optname, value) != 0)
            return
        number = _option_value(level, optname, value)
        self.enter()
        with nogil:
            driver_lock(self.d)
            r = option_set(self.s, level, optname, number)
            driver_flush_unlock(self.d)
        self.leave()
        if r != 0:
            check(r, f"option {level}, {optname}")

    def _set_wait(self, int optname, value):
        """SO_RCVTIMEO, SO_SNDTIMEO: how long calls of a socket without a timeout wait (struct timeval)."""
        raw = b"" if isinstance(value, int) else bytes(value)
        self.enter()
        self.leave()
        if len(raw) < 16:
            raise OSError(EINVAL, "the option's value is a struct timeval: struct.pack('qq', seconds, microseconds)")
        seconds, micros = struct.unpack_from("qq", raw)
        if not 0 <= micros < 1000000:
            raise OSError(EDOM, "microseconds are 0 to 999999")
        # Less than nothing is no time at all, as on Linux; 0 is for ever.
        wait = 1 if seconds < 0 else min(seconds, 4 * 10**9) * 10**9 + micros * 1000
        if optname == SO_RCVTIMEO:
            self.rcvtimeo = wait
        else:
            self.sndtimeo = wait

    def _keep(self, int level, int optname, value, bounds):
        number = _option_value(level, optname, value)
        self.enter()
        self.leave()
        _, least, most = bounds
        if (least, most) == (0, 1):
            number = int(number != 0)
        if not least <= number <= most:
            raise OSError(EINVAL, f"option {level}, {optname}: Invalid argument")
        if self.kept is None:
            self.kept = {}
        self.kept[level, optname] = number

    def _set_congestion(self, value):
        cdef bytes name = bytes(value)
        cdef const char *text = name
        cdef size_t n = len(name)
        cdef int r = -ENOPROTOOPT
        self.enter()
        with nogil:
            driver_lock(self.d)
            if self.s.closed:
                r = -EBADF
            elif self.s.kind == SOCK_TCP:
                r = tcp_set_congestion(self.s.tcp, text, n)
            driver_unlock(self.d)
        self.leave()
        check(r, f"no congestion control {name!r}: there are b'cubic' and b'reno'")

    def getsockopt(self, int level, int optname, int buflen=0):
        """An int, or bytes if buflen is given (TCP_INFO: Linux's struct tcp_info)."""
        cdef int64_t value = 0
        cdef int r
        if not 0 <= buflen <= 1024:
            raise OSError("getsockopt buflen out of range")
        self.enter()
        try:
            if level == SOL_SOCKET and (optname == SO_RCVTIMEO or optname == SO_SNDTIMEO):
                micros = (self.rcvtimeo if optname == SO_RCVTIMEO else self.sndtimeo) // 1000
                packed = struct.pack("qq", micros // 1000000, micros % 1000000)
                return packed[:buflen] if buflen else int(micros // 1000000)
            bounds = kept_option(self.type == STREAM, self.family == AF_INET6, level, optname)
            if bounds is not None:
                value = (self.kept or {}).get((level, optname), bounds[0])
                return struct.pack("i", value)[:buflen] if buflen else int(value)
            if level == SOL_SOCKET and optname in (SO_TYPE, SO_PROTOCOL, SO_DOMAIN):
                value = {SO_TYPE: self.type, SO_PROTOCOL: self._protocol(), SO_DOMAIN: self.family}[optname]
                return struct.pack("i", value)[:buflen] if buflen else int(value)
            if level == SOL_SOCKET and optname == SO_ZEROCOPY and self.type == STREAM:
                return struct.pack("i", opted_in(self))[:buflen] if buflen else int(opted_in(self))
            if level == 6 and optname == TCP_CONGESTION:
                return congestion_name(self.d, self.s).ljust(16, b"\0")[:buflen or 16]
            if level == 6 and optname == TCP_INFO and self.s.kind == SOCK_TCP:
                return pack_tcp_info(self.d, self.s)[:buflen or 232]
            with nogil:
                driver_lock(self.d)
                r = option_get(self.s, level, optname, &value)
                driver_unlock(self.d)
        finally:
            self.leave()
        if r != 0:
            check(r, f"option {level}, {optname}")
        if level == SOL_SOCKET and optname == SO_LINGER:
            packed = struct.pack("ii", value >= 0, max(value, 0))
            return packed[:buflen] if buflen else int(value >= 0)
        if level == SOL_SOCKET and optname == SO_MAX_PACING_RATE:
            return _pack_rate(value, buflen) if buflen else int(value)
        return struct.pack("i", value)[:buflen] if buflen else int(value)

    def _protocol(self) -> int:
        return self.proto or {STREAM: 6, DGRAM: 17}[self.type]

    # --- the end ----------------------------------------------------------------------------------------------------

    def shutdown(self, int how):
        """SHUT_RD, SHUT_WR or SHUT_RDWR: end one direction, or both."""
        cdef int r
        self.enter()
        if how not in (0, 1, 2):
            self.leave()
            raise OSError(EINVAL, "shutdown(): how is SHUT_RD, SHUT_WR or SHUT_RDWR")
        with nogil:
            driver_lock(self.d)
            if self.s.closed:
                r = -EBADF
            elif self.s.kind == SOCK_TCP:
                r = tcp_shutdown(self.s.tcp, how)
            elif self.s.kind == SOCK_UDP:
                r = shut_datagrams(self.s, how)
            else:
                r = -EOPNOTSUPP
            driver_signal_closed(self.d, self.s)
            driver_flush_unlock(self.d)
        self.leave()
        check(r)

    def _close(self):
        """Let go of the endpoint: FIN after what is queued, or RST (unread data, linger 0)."""
        cdef int64_t linger = -1
        if self.closed:
            return
        self.closed = True
        if self.stack.closed or self.d.forked:
            return
        self.stack.enter()
        try:
            with nogil:
                driver_lock(self.d)
                if self.s.kind == SOCK_TCP:
                    tcp_getopt(self.s.tcp, TCPO_LINGER, &linger)
                    if linger > 0 and self.timeout_ns != 0:
                        tcp_shutdown(self.s.tcp, 1)
                driver_flush_unlock(self.d)
            if linger > 0 and self.timeout_ns != 0:
                self._linger(linger)
            with nogil:
                driver_lock(self.d)
                sock_close(self.s, False)
                driver_signal_closed(self.d, self.s)
                sock_unfile(self.s)
                if self.s.fired:
                    loop_forget_fired(self.d, self.s)
                self.s.watched = 0
                driver_flush_unlock(self.d)
        finally:
            self.stack.leave()

    def _linger(self, int64_t seconds):
        """SO_LINGER: wait until all is acknowledged, or for so many seconds."""
        linger_until(self.d, _delivered, self.s, clock_now() + seconds * 1000000000)

    def close(self):
        """Close the socket; threads blocked on it wake with OSError. Idempotent."""
        self._close()

    def fileno(self) -> int:
        """A descriptor that mirrors readiness for select, poll and epoll; -1 when closed. Not for reading itself."""
        cdef int r
        if self.closed:
            return -1
        if self.d.manual:
            raise ValueError("a socket of a stack on a VirtualClock has no descriptor")
        self.enter()
        with nogil:
            driver_lock(self.d)
            r = sock_fileno(self.d, self.s)
            driver_unlock(self.d)
        self.leave()
        return check(r, "cannot make a descriptor")

    def _token(self) -> int:
        """What Stack._take_fired() calls this socket."""
        return <size_t>self.s

    def _watch(self, int events) -> int:
        """For event loops: what holds now, if that is one of `events` (or an error); else 0, and then
        Stack._take_fired() tells once when it is."""
        cdef uint32_t now
        self.enter()
        with nogil:
            driver_lock(self.d)
            now = sock_events(self.s)
            if now & (<uint32_t>events | EV_ERR | EV_HUP) == 0:
                self.s.watched |= events
                now = 0
            driver_unlock(self.d)
        self.leave()
        return now

    def _events(self) -> int:
        """EV_IN, EV_OUT, EV_ERR, EV_HUP as poll(2) has them: what holds now."""
        cdef uint32_t events
        self.enter()
        with nogil:
            driver_lock(self.d)
            events = sock_events(self.s)
            driver_unlock(self.d)
        self.leave()
        return events


cdef int _writable(object buffer, Py_buffer *b) except -1:
    """Before anything is entered: what is raised here must leave nothing behind."""
    try:
        return PyObject_GetBuffer(buffer, b, PyBUF_CONTIG)
    except BufferError:
        raise TypeError(f"a read-write bytes-like object is needed, not {type(buffer).__name__}") from None


def _check_many(call, int max, ssize_t size, int unknown):
    if max < 1:
        raise ValueError(f"{call}(): at least one datagram, not {max}")
    if size < 1:
        raise ValueError(f"{call}(): room of at least one byte for each, not {size}")
    if unknown:
        raise OSError(EINVAL, f"{call}(): unknown flags {unknown:#x}")


def _check_sizes(ssize_t bufsize, ssize_t ancbufsize, call):
    if bufsize < 0:
        raise ValueError(f"negative buffer size in {call}()")
    if ancbufsize < 0:
        raise ValueError(f"invalid ancillary data buffer length in {call}()")


def _echo_request(family, data, address):
    """An echo request as Linux's ping sockets take it (ICMP header and payload) into (payload, (host, sequence))."""
    raw = bytes(data)
    kind = 128 if family == AF_INET6 else 8
    if len(raw) < 8 or raw[0] != kind or raw[1] != 0:
        raise OSError(EINVAL, f"an echo socket sends echo requests: type {kind}, code 0, 8 bytes of header or more")
    if address is None:
        raise OSError(EDESTADDRREQ, "Destination address required")
    return raw[8:], (address[0], int.from_bytes(raw[6:8], "big"))


cdef int shut_datagrams(sock *s, int how) noexcept nogil:
    if not s.udp.connected:
        return -ENOTCONN
    if how != 1:
        s.udp.shut_rd = True
    if how != 0:
        s.udp.shut_wr = True
    return 0


cdef bint _delivered(void *arg) noexcept nogil:
    cdef sock *s = <sock *>arg
    return s.tcp == NULL or tcp_unacked(s.tcp) == 0


cdef int _kind(int family, int type, int proto) except -1:
    if family not in (AF_INET, AF_INET6):
        raise OSError(97, "Address family not supported: this stack has AF_INET and AF_INET6")
    if type == STREAM and proto in (0, 6):
        return SOCK_TCP
    if type == DGRAM and proto in (0, 17):
        return SOCK_UDP
    if type == DGRAM and proto == (IPPROTO_ICMPV6 if family == AF_INET6 else IPPROTO_ICMP):
        return SOCK_PING
    raise OSError(93, f"Protocol not supported: type {type} with protocol {proto}")


def _unpack_rate(value) -> int:
    """SO_MAX_PACING_RATE is an unsigned int or, with 8 bytes, an unsigned long; all ones: no bound. -1: none."""
    if isinstance(value, int):
        return value if 0 <= value < 1 << 63 else -1
    raw = bytes(value)
    if len(raw) < 4:
        raise OSError(EINVAL, "the option's value is an int, or 4 or 8 bytes")
    if len(raw) >= 8:
        return _unpack_rate(struct.unpack_from("Q", raw)[0])
    rate = struct.unpack_from("I", raw)[0]
    return rate if rate != 0xFFFFFFFF else -1


def _pack_rate(rate, buflen) -> bytes:
    if buflen >= 8:
        return struct.pack("Q", rate if rate >= 0 else (1 << 64) - 1)
    return struct.pack("I", rate if 0 <= rate < 0xFFFFFFFF else 0xFFFFFFFF)[:buflen]


def _option_value(level, optname, value) -> int:
    """The number behind an int or a packed C structure (int, struct linger, struct timeval)."""
    if level == SOL_SOCKET and optname == SO_MAX_PACING_RATE:
        return _unpack_rate(value)
    if isinstance(value, int):
        if level == SOL_SOCKET and optname == SO_LINGER:
            raise OSError(EINVAL, "SO_LINGER takes struct.pack('ii', onoff, seconds)")
        if not -1 << 31 <= value < 1 << 31:
            raise TypeError("the option's value is an int of 32 bits, or bytes")
        return value
    raw = bytes(value)
    if level == SOL_SOCKET and optname == SO_LINGER:
        if len(raw) < 8:
            raise OSError(EINVAL, "SO_LINGER takes struct.pack('ii', onoff, seconds)")
        on, seconds = struct.unpack_from("ii", raw)
        return seconds if on else -1
    if len(raw) < 4:
        raise OSError(EINVAL, "the option's value is an int, or at least 4 bytes")
    return struct.unpack_from("i", raw)[0]


# --- to memory that may end -----------------------------------------------------------------------------------------

cdef Py_ssize_t copy_guarded(Socket s, mblk *taken, void *to, size_t n, bint peek) except -1:
    """Copy a taken chain, which is freed, to the caller's memory: what finds no place is the next to be received."""
    cdef size_t got
    if n > GIL_BYTES:
        with nogil:
            got = msgcopyout_guarded(&s.d.eng.ctx.book, LR_RX_COPY, taken, 0, to, n)
            if got == n:
                freemsg(taken)
    else:
        got = msgcopyout_guarded(&s.d.eng.ctx.book, LR_RX_COPY, taken, 0, to, n)
        if got == n:
            freemsg(taken)
    if got == n:
        return got
    with nogil:
        give_back(s, taken, got, peek)
    if got == 0:
        gone()
    return got


cdef void give_back(Socket s, mblk *taken, size_t got, bint peek) noexcept nogil:
    """All but the first bytes of a taken chain are the next to be received."""
    if not peek:
        taken = msgconsume(taken, got)
        driver_lock(s.d)
        if not s.s.closed:
            tcp_unread(s.s.tcp, taken)
            taken = NULL
        if s.s.note_fd >= 0:
            sock_note(s.s)
        driver_flush_unlock(s.d)
    freemsg(taken)


cdef object unreadable(size_t done):
    """EFAULT, and how much had gone."""
    error = OSError(EFAULT, "Bad address: the memory to be sent cannot be read")
    error.moved = done
    raise error


cdef bint has_bytes(Socket s) noexcept:
    cdef bint some
    with nogil:
        driver_lock(s.d)
        some = not s.s.closed and tcp_recv_ready(s.s.tcp) > 0
        driver_unlock(s.d)
    return some
