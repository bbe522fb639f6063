"""The handle of a stack: configuration, clocks, statistics. Sockets are in socket.pyx, sleeping in driver.pyx.

Threads: every method may be called from any thread.
"""

import atexit
import os
import warnings
import weakref
from collections.abc import Iterable

from libc.errno cimport EAFNOSUPPORT, EINVAL, EMSGSIZE, ESRCH
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ustack._core.base.addr cimport ip_from4, ip_is4, ipaddr
from ustack._core.base.counters cimport C_COUNT, counter_meaning, counter_name
from ustack._core.base.ledger cimport LR_COUNT, ledger_meaning, ledger_name
from ustack._core.base.types cimport NS_NEVER, atomic_dec32, atomic_inc32, atomic_load32, ns_t
from ustack._core.inet.demux cimport FLOW_V6
from ustack._core.inet.inet cimport inet_add_addr, inet_add_route, inet_del_route
from ustack._core.link.link cimport link as link_struct
from ustack._core.mem.arena cimport arena, arena_live, arena_ref, arena_unref
from ustack._core.py.address cimport AF_INET, AF_INET6, format_endpoint, parse_host, parse_network
from ustack._core.py.buffers cimport drain
from ustack._core.py.driver cimport (
    clock_now, driver, driver_advance, driver_deadline, driver_free, driver_init, driver_lock, driver_notify_inline,
    driver_notify_kick, driver_now, driver_start_housekeeper, driver_unlock, driver_wake_all, linger_until)
from ustack._core.py.errors cimport check, fail
from ustack._core.py.links cimport Link
from ustack._core.py.loop cimport loop_fileno, loop_free, loop_leave, loop_poll, loop_take_fired
from ustack._core.stack.engine cimport engine, engine_add_link, engine_egress, engine_remove_link, iface
from ustack._core.stack.sockets cimport sock
from ustack._core.sys.guard cimport guard_install_all
from ustack._core.sys.thread cimport sys_yield
from ustack._core.zerocopy.flip cimport flip_source_over
from ustack._core.tcp.tcp cimport (
    TCP_COOKIES_ALWAYS, TCP_COOKIES_AUTO, TCP_COOKIES_NEVER, TCPS_CLOSED, TCPS_LISTEN, TCPS_TIME_WAIT, tcb,
    tcp_default_congestion, tcp_get_info, tcp_info, tcp_local, tcp_remote,
    tcp_state, tcp_unacked)

_STATE_NAMES = {
    1: "ESTABLISHED", 2: "SYN-SENT", 3: "SYN-RECEIVED", 4: "FIN-WAIT-1", 5: "FIN-WAIT-2", 6: "TIME-WAIT",
    7: "CLOSED", 8: "CLOSE-WAIT", 9: "LAST-ACK", 10: "LISTEN", 11: "CLOSING",
}

_COOKIES = {"auto": TCP_COOKIES_AUTO, "always": TCP_COOKIES_ALWAYS, "never": TCP_COOKIES_NEVER}

_stacks: weakref.WeakSet = weakref.WeakSet()


def _mark_forked() -> None:
    """In a child process: the stacks of the parent are not ours (their threads did not come along)."""
    cdef Stack s
    for s in list(_stacks):
        if s.d != NULL:
            s.d.forked = True


os.register_at_fork(after_in_child=_mark_forked)


cdef int check_defaults(congestion, syn_cookies) except -1:
    if not isinstance(congestion, str):
        raise TypeError(f"congestion is the name of a congestion control, not {congestion!r}")
    if congestion not in ("cubic", "reno"):
        raise ValueError(f'congestion is "cubic" or "reno", not {congestion!r}')
    if syn_cookies not in _COOKIES:
        raise ValueError(f'syn_cookies is "auto", "always" or "never", not {syn_cookies!r}')
    return 0


cdef int set_defaults(driver *d, congestion, syn_cookies) except -1:
    """What is TCP's, before anything runs."""
    cdef bytes name = congestion.encode()
    d.eng.tcp.cookies = _COOKIES[syn_cookies]
    return check(tcp_default_congestion(&d.eng.tcp, name, len(name)))


class VirtualClock:
    """Time that moves only when told: give it to a Stack, then drive the stack with ``advance_to``.

    start_ns: the first instant, in nanoseconds (0 or more).
    """

    def __init__(self, start_ns: int = 0):
        if start_ns < 0:
            raise ValueError("start_ns is a point in time in nanoseconds, 0 or more")
        self.start_ns = int(start_ns)

    def __repr__(self):
        return f"VirtualClock(start_ns={self.start_ns})"


cdef class Interface:
    """An attached link with its addresses; made by ``Stack.add_interface``."""

    def __init__(self):
        raise TypeError("an Interface is made by Stack.add_interface()")

    def __repr__(self):
        return f"<ustack.Interface {self.link!r} {' '.join(self.addresses)}>"

    @property
    def mtu(self) -> int:
        """Largest IP packet that goes out in one piece, in bytes."""
        return self.i.ifp.mtu if self.i != NULL else 0

    @property
    def up(self) -> bool:
        """False while the device is down or gone."""
        return self.i != NULL and self.i.ifp.up


cdef class Stack:
    """A TCP/IP stack in user space, as a value.

    clock: None for the machine's monotonic clock, or a VirtualClock (then nothing happens by itself, no call ever
    waits, and the same seed gives the same packets).
    seed: int or bytes that determine all randomness; None for real entropy.
    memory: hard budget in bytes for all packet storage of this stack; None for no bound.
    busy_poll: seconds for which a waiting call spins before it sleeps; None adapts between 0 and 20 us.
    congestion: congestion control of new TCP sockets, "cubic" (RFC 9438) or "reno"; a socket's own is its option
    TCP_CONGESTION.
    syn_cookies: "auto" answers with SYN cookies (RFC 4987) while a listener's queue of handshakes is full, "always" to
    every SYN, "never" lets the oldest handshake make way.
    Raises MemoryError, ValueError, OSError.
    """

    def __cinit__(self, clock=None, seed=None, memory=None, busy_poll=None, congestion="cubic",
                  syn_cookies="auto"):
        cdef uint64_t words[4]
        cdef bint manual = clock is not None
        cdef ns_t start = 0
        cdef int64_t budget = 0
        if manual:
            if not isinstance(clock, VirtualClock):
                raise TypeError(f"clock is a ustack.VirtualClock or None, not {clock!r}")
            start = clock.start_ns
        if memory is not None:
            if not isinstance(memory, int):
                raise TypeError(f"memory is a budget in bytes, an int, not {memory!r}")
            if not 1 << 18 <= memory < 1 << 63:
                raise ValueError("memory is a budget in bytes, at least 256 KiB")
            budget = memory
        if busy_poll is not None:
            if not isinstance(busy_poll, (int, float)):
                raise TypeError(f"busy_poll is a number of seconds, not {busy_poll!r}")
            if not 0 <= busy_poll < 1e9:
                raise ValueError("busy_poll is a number of seconds, 0 or more")
        check_defaults(congestion, syn_cookies)
        raw = os.urandom(32) if seed is None else _seed_bytes(seed)
        for k in range(4):
            words[k] = int.from_bytes(raw[8 * k:8 * k + 8], "little")
        self.interfaces = {}
        self.d = <driver *>calloc(1, sizeof(driver))
        if self.d == NULL:
            raise MemoryError("no memory for a stack")
        check(guard_install_all())      # what a program hands us may be unmapped by then: EFAULT, as of a system call
        check(driver_init(self.d, manual, start, budget, words, 4), "cannot make a stack")
        if busy_poll is not None:
            self.d.busy_poll = <ns_t>(busy_poll * 1e9)
            self.d.adaptive = False
        set_defaults(self.d, congestion, syn_cookies)
        check(driver_start_housekeeper(self.d), "cannot start the housekeeper thread")
        _stacks.add(self)

    def __dealloc__(self):
        if self.d != NULL:
            if not self.closed and not self.d.forked:
                driver_free(self.d)
            loop_free(self.d)
            free(self.d)
            self.d = NULL

    cdef int enter(self) except -1:
        """Every call that touches the engine begins here and ends with leave()."""
        if self.closed:
            raise OSError(EINVAL, "this stack is closed")
        if self.d.forked:
            raise RuntimeError(
                "this process was forked from the one that made the stack: its threads and links stayed there. "
                "Make a new Stack in the child.")
        drain()
        atomic_inc32(&self.d.inside)
        return 0

    cdef void leave(self) noexcept:
        atomic_dec32(&self.d.inside)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # --- configuration --------------------------------------------------------------------------------------------

    def add_interface(self, link not None, addresses=(), gateway=None):
        """Attach a link. addresses: texts such as "10.9.0.2/24" or "fd00::2/64"; gateway: next hop of the default
        route, or one for each version.

        Returns the Interface. Raises TypeError or ValueError for addresses that are none, and for a link that is
        closed or in use; OSError (EINVAL, EEXIST, ENETUNREACH for the gateway, ...) for what cannot be used, and
        then the link is closed.
        """
        cdef Link handle = link
        cdef Interface face = Interface.__new__(Interface)
        cdef link_struct *dev
        cdef iface *i = NULL
        cdef bint inline
        cdef int r
        cdef ipaddr host
        cdef int bits = 0
        # Mistakes in the arguments are found before the link is taken: it is still the caller's then.
        texts = [addresses] if _is_address(addresses) else list(addresses)
        for text in texts:
            parse_network(text, &host, &bits)
            _check_served(handle, &host, text)
        hops = () if gateway is None else [gateway] if _is_address(gateway) else list(gateway)
        for hop in hops:
            parse_host(hop)
        # Packets of a pipe are brought by a thread that can process them; those of another engine come from under
        # that engine's lock.
        inline = handle.kind_name == b"pipe"
        self.enter()
        try:
            dev = handle.claim(self)
            with nogil:
                driver_lock(self.d)
                r = engine_add_link(&self.d.eng, dev, &i)
                if r == 0 and handle.split:
                    handle.flips = flip_source_over(dev.src, self.d.eng.ctx.mem)
                    if handle.flips != NULL:
                        dev.src = handle.flips
                if r == 0:
                    dev.notify_arg = self.d
                    dev.notify = driver_notify_inline if inline else driver_notify_kick
                driver_unlock(self.d)
            if r != 0:
                handle.release()
                fail(r, "cannot attach the link")
            face.stack = self
            face.link = link
            face.i = i
            face.addresses = ()
            self.interfaces[link] = face
        finally:
            self.leave()
        try:
            for text in texts:
                self.add_address(link, text)
            for hop in hops:
                self.add_route("::/0" if ":" in str(hop) else "0.0.0.0/0", gateway=hop)
        except BaseException:
            self.remove_interface(link)
            raise
        return face

    def _interface(self, link):
        try:
            return self.interfaces[link]
        except KeyError:
            raise ValueError(f"{link!r} is not attached to this stack") from None

    def add_address(self, link, address):
        """Give an attached link another address, such as "10.9.0.2/24" or "fd00::2/64"."""
        cdef Interface face = self._interface(link)
        cdef ipaddr host
        cdef int bits = 0
        cdef int r
        parse_network(address, &host, &bits)
        _check_served(link, &host, address)
        self.enter()
        try:
            with nogil:
                driver_lock(self.d)
                r = inet_add_addr(&self.d.eng.net, &face.i.ifp, &host, bits)
                engine_egress(&self.d.eng, self.d.eng.ctx.now)
                driver_unlock(self.d)
        finally:
            self.leave()
        check(r, f"cannot use the address {address}")
        face.addresses = (*face.addresses, str(address))

    def add_route(self, destination, gateway=None, link=None):
        """Route "10.0.0.0/8" or "fd01::/16" through a gateway address, or straight out of an attached link."""
        cdef ipaddr net
        cdef ipaddr hop = ip_from4(0)
        cdef Interface face
        cdef int bits = 0
        cdef int r
        cdef iface *i = NULL
        parse_network(destination, &net, &bits)
        if gateway is None and link is None:
            raise ValueError("a route needs a gateway or a link")
        if gateway is not None:
            hop = parse_host(gateway)
            if ip_is4(&hop) != ip_is4(&net):
                raise ValueError(f"{gateway} is not of the same version as {destination}")
        if link is not None:
            face = self._interface(link)
            i = face.i
        self.enter()
        try:
            with nogil:
                driver_lock(self.d)
                r = inet_add_route(&self.d.eng.net, &net, bits, &hop, &i.ifp if i != NULL else NULL)
                driver_unlock(self.d)
        finally:
            self.leave()
        check(r, f"cannot route {destination} via {gateway or link}")

    def remove_route(self, destination):
        """Take back a route made by add_route (or "0.0.0.0/0" made by gateway=)."""
        cdef ipaddr net
        cdef int bits = 0
        cdef int r
        parse_network(destination, &net, &bits)
        self.enter()
        try:
            with nogil:
                driver_lock(self.d)
                r = inet_del_route(&self.d.eng.net, &net, bits)
                driver_unlock(self.d)
        finally:
            self.leave()
        if r == -ESRCH:
            raise ValueError(f"there is no route {destination} made by add_route() or gateway=")
        check(r, f"cannot remove the route {destination}")

    def remove_interface(self, link):
        """Detach a link and close it; connections over it live on without a path."""
        self._interface(link)
        self.enter()
        try:
            self._detach(link)
        finally:
            self.leave()
        del self.interfaces[link]
        (<Link>link).release()
        link.close()

    # --- time -----------------------------------------------------------------------------------------------------

    @property
    def virtual(self) -> bool:
        """Whether this stack runs on a VirtualClock."""
        return self.d.manual

    def now_ns(self) -> int:
        """The stack's time in nanoseconds (virtual, or the monotonic clock's)."""
        return driver_now(self.d)

    def deadline_ns(self):
        """When the stack wants to be polled next, as an absolute time in nanoseconds; None if nothing waits."""
        cdef ns_t t
        self.enter()
        try:
            with nogil:
                t = driver_deadline(self.d)
        finally:
            self.leave()
        return None if t == NS_NEVER else max(t, driver_now(self.d))

    def deadline(self):
        """Seconds until the stack wants to be polled (0.0: now); None if only packets can make it necessary."""
        t = self.deadline_ns()
        return None if t is None else max(0, t - driver_now(self.d)) / 1e9

    def advance_to(self, t_ns) -> int:
        """Move virtual time to t_ns, doing everything that is due on the way, in order. Returns the new time."""
        cdef ns_t t = t_ns
        if not self.d.manual:
            raise ValueError("advance_to() needs Stack(clock=VirtualClock(...)): this stack runs on real time")
        if t < self.d.vnow:
            raise ValueError(f"time does not go back: {t} < {self.d.vnow}")
        self.enter()
        try:
            with nogil:
                driver_advance(self.d, t)
        finally:
            self.leave()
        return self.d.vnow

    def poll(self):
        """Do what is due now, without waiting. Returns seconds until the next time, or None (see deadline)."""
        cdef ns_t t
        self.enter()
        try:
            with nogil:
                t = loop_poll(self.d)
        finally:
            self.leave()
        return None if t == NS_NEVER else max(0, t - driver_now(self.d)) / 1e9

    def _take_fired(self) -> list:
        """Tokens (Socket._watch) of the sockets on which something happened since the last call."""
        cdef sock *s
        tokens = []
        self.enter()
        try:
            while True:
                with nogil:
                    s = loop_take_fired(self.d)
                if s == NULL:
                    return tokens
                tokens.append(<size_t>s)
        finally:
            self.leave()

    def fileno(self) -> int:
        """A descriptor for select, poll, epoll or an event loop: readable when poll() should be called.

        From the first call on the caller drives: it calls poll() when this is readable, which it also is once
        deadline() has come; the stack's own housekeeper stays out. Calls that wait in other threads go on to work.
        It belongs to the stack: do not close it. Once the stack is closed it stays readable, until the object goes.
        """
        cdef int r
        if self.d.manual:
            raise ValueError("a stack on a VirtualClock has no descriptor: drive it with advance_to()")
        self.enter()
        try:
            with nogil:
                r = loop_fileno(self.d)
        finally:
            self.leave()
        return check(r, "cannot make a descriptor")

    def _release_fileno(self):
        """The event loop that drove is gone: the stack looks after itself again."""
        if self.closed or self.d.forked:
            return
        self.enter()
        with nogil:
            loop_leave(self.d)
        self.leave()

    # --- what happened ----------------------------------------------------------------------------------------------

    def stats(self) -> dict:
        """The counters that are not zero, by name; ``counter_meanings()`` explains them. Link counters included."""
        cdef int k
        return {counter_name(k).decode(): self.d.eng.ctx.n.n[k] for k in range(C_COUNT) if self.d.eng.ctx.n.n[k]}

    def ledger(self) -> dict:
        """Every payload byte that was copied or summed: {reason: (bytes, calls)}; see ``ledger_meanings()``."""
        cdef int k
        return {
            ledger_name(k).decode(): (self.d.eng.ctx.book.nbytes[k], self.d.eng.ctx.book.ncalls[k])
            for k in range(LR_COUNT) if self.d.eng.ctx.book.ncalls[k]
        }

    def memory(self) -> dict:
        """Storage in bytes: held by queues and packets, reserved from the system, the budget (0: none); live blocks.

        Of a closed stack: as it was when closing was done; blocks that live then are those lent by recv_buffers().
        """
        return dict(self.last_memory) if self.closed else memory_dict(self.d.eng.ctx.mem)

    def sockets(self) -> list:
        """One dict for every TCP connection and listener: family, local and remote as (host, port), state, queues,
        round-trip time (s)."""
        cdef conn_row *rows
        cdef int n = 0
        cdef int k
        self.enter()
        try:
            with nogil:
                rows = _snapshot(self.d, &n)
        finally:
            self.leave()
        if rows == NULL:
            raise MemoryError("no memory for the list of connections")
        try:
            return [_conn_dict(&rows[k]) for k in range(n)]
        finally:
            free(rows)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _linger(self, double timeout):
        """Wait until nothing of ours is unacknowledged, or `timeout` seconds."""
        linger_until(self.d, _settled, &self.d.eng, clock_now() + <ns_t>(timeout * 1e9))

    def close(self, timeout=1.0):
        """Close every socket and link. What was queued gets `timeout` seconds to be delivered and acknowledged.

        Threads blocked in calls of this stack wake with OSError. Storage that recv_buffers() lent stays valid.
        """
        cdef arena *storage
        if self.closed:
            return
        if self.d.forked:
            self.closed = True
            self.last_memory = memory_dict(self.d.eng.ctx.mem)
            return
        _close_sockets(self)
        if not self.d.manual and timeout > 0:
            self._linger(timeout)
        with nogil:
            driver_lock(self.d)
            self.d.closed = True
            driver_unlock(self.d)
        self.closed = True
        links = list(self.interfaces)
        self._wait_for_threads()
        for link in links:
            self._detach(link)
        self.interfaces.clear()
        storage = self.d.eng.ctx.mem
        arena_ref(storage)
        with nogil:
            driver_free(self.d)
        for link in links:
            (<Link>link).release()
            link.close()
        self.last_memory = memory_dict(storage)
        arena_unref(storage)

    def __del__(self):
        if self.d != NULL and not self.closed and not self.d.forked:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close(0)

    def _detach(self, link):
        """No more notices from a link; its packets stay where they are until it is closed."""
        cdef Link handle = link
        cdef Interface face = self.interfaces[link]
        with nogil:
            driver_lock(self.d)
            if handle.dev != NULL:
                handle.dev.notify = NULL
            engine_remove_link(&self.d.eng, face.i)
            driver_unlock(self.d)
        face.i = NULL

    def _wait_for_threads(self):
        """Threads inside calls notice that the stack is closed; wait until they have left."""
        while atomic_load32(&self.d.inside):
            with nogil:
                driver_wake_all(self.d)
            with nogil:
                sys_yield()


def _close_sockets(stack):
    from ustack._core.py.socket import _close_all
    _close_all(stack)


@atexit.register
def _close_stacks():
    """At the end of the process connections are closed as if their sockets had been."""
    for stack in list(_stacks):
        stack.close()


cdef bint _is_address(object addresses):
    """One address, rather than several: what iterates by characters, bytes or hosts is never meant as a collection."""
    return not isinstance(addresses, Iterable) or isinstance(addresses, (str, bytes, bytearray))


cdef int _check_served(Link link, const ipaddr *host, object text) except -1:
    """IPv6 needs a link on which nobody has to be looked for."""
    if not ip_is4(host) and link.layer == 2:
        raise OSError(EAFNOSUPPORT, f"cannot use {text} on a link of layer 2: neighbour discovery is not supported "
                      "yet. IPv6 works over TUN devices and pipes of layer 3")
    if not ip_is4(host) and link.mtu < 1280:
        raise OSError(EMSGSIZE, f"cannot use {text}: IPv6 needs an MTU of 1280 (RFC 8200 5), the link has {link.mtu}")
    return 0


cdef dict memory_dict(arena *a):
    return {
        "held": a.held, "reserved": a.reserved, "budget": a.budget, "failures": a.failures, "live": arena_live(a),
    }


cdef struct conn_row:
    tcp_info info
    ipaddr laddr
    ipaddr raddr
    uint16_t lport
    uint16_t rport
    uint8_t family


cdef conn_row *_snapshot(driver *d, int *n) noexcept nogil:
    """Copies of what is known of every connection. No Python object may be made under the lock: that could run the
    garbage collector, and with it the finaliser of a socket, which takes the lock."""
    cdef conn_row *rows
    cdef tcb *c
    driver_lock(d)
    rows = <conn_row *>calloc(d.eng.tcp.count + 1, sizeof(conn_row))
    c = d.eng.tcp.all if rows != NULL else NULL
    n[0] = 0
    while c != NULL and <uint32_t>n[0] < d.eng.tcp.count:
        tcp_get_info(c, &rows[n[0]].info)
        tcp_local(c, &rows[n[0]].laddr, &rows[n[0]].lport)
        tcp_remote(c, &rows[n[0]].raddr, &rows[n[0]].rport)
        rows[n[0]].family = c.link.family
        n[0] += 1
        c = c.all_next
    driver_unlock(d)
    return rows


cdef dict _conn_dict(conn_row *row):
    family = AF_INET6 if row.family & FLOW_V6 else AF_INET
    return {
        "family": family,
        "state": _STATE_NAMES[row.info.state],
        "local": format_endpoint(family, &row.laddr, row.lport)[:2],
        "remote": format_endpoint(family, &row.raddr, row.rport)[:2],
        "recv_q": row.info.rcv_queued,
        "send_q": row.info.unacked + row.info.notsent,
        "rtt": row.info.srtt / 1e9,
        "cwnd": row.info.cwnd,
        "retransmitted": row.info.bytes_retrans,
    }


cdef bint _settled(void *arg) noexcept nogil:
    """Whether no connection has anything left that its peer has not acknowledged."""
    cdef engine *e = <engine *>arg
    cdef tcb *c = e.tcp.all
    cdef int state
    while c != NULL:
        state = tcp_state(c)
        if state not in (TCPS_CLOSED, TCPS_LISTEN, TCPS_TIME_WAIT) and tcp_unacked(c):
            return False
        c = c.all_next
    return True


def _seed_bytes(seed) -> bytes:
    import hashlib
    if isinstance(seed, int):
        seed = seed.to_bytes((seed.bit_length() + 8) // 8, "little", signed=True)
    if not isinstance(seed, (bytes, bytearray, str)):
        raise TypeError("seed is an int, bytes or str")
    return hashlib.sha256(seed.encode() if isinstance(seed, str) else bytes(seed)).digest()


def counter_meanings() -> dict:
    """Every counter's name and what it counts."""
    cdef int k
    return {counter_name(k).decode(): counter_meaning(k).decode() for k in range(C_COUNT)}


def ledger_meanings() -> dict:
    """Every reason in the ledger and what it stands for."""
    cdef int k
    return {ledger_name(k).decode(): ledger_meaning(k).decode() for k in range(LR_COUNT)}
