"""For tests: the internet layer, UDP and echo endpoints without an engine, on interfaces that keep what they are given.

The clock is a number that the test sets, interfaces are lists, and everything that a host would notice (packets sent,
upcalls, counters, blocks that leaked) can be read. IPv4 addresses are numbers, IPv6 addresses are texts.
"""

import socket as _stdlib

from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ustack._core.base.addr cimport ip_from4, ip_is4, ip_to4, ipaddr
from ustack._core.base.codes cimport CSUM_OK
from ustack._core.base.counters cimport C_COUNT, counter_name
from ustack._core.base.ledger cimport LR_COUNT, LR_RX_COPY, LR_TX_COPY, ledger_name
from ustack._core.base.ready cimport ready_take
from ustack._core.base.rng cimport rng_seed
from ustack._core.base.types cimport ns_t
from ustack._core.base.wheel cimport wheel_deadline, wheel_init, wheel_run
from ustack._core.inet.demux cimport FLOW_V6, FLOW_V6ONLY, flow_any
from ustack._core.inet.inet cimport (inet, inet_add_addr, inet_add_if, inet_add_route, inet_del_route, inet_free,
                                     inet_init, inet_input, inet_remove_if, inet_upcall, ip_error, ip_output,
                                     ip_packet, path_confirm, path_release, path_resolve)
from ustack._core.inet.netif cimport netif
from ustack._core.inet.path cimport path
from ustack._core.inet.ping cimport (ping, ping_close, ping_free, ping_init, ping_meta, ping_open, ping_pcb, ping_recv,
                                     ping_send)
from ustack._core.mem.arena cimport arena_create, arena_live, arena_reap, arena_release
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport (DB_LENT, allocb, esballoc, freemsg, linkb, mblk, msgbytes, msgcopyin,
                                    msgcopyin_csum, msgcopyout)
from ustack._core.sys.memory cimport (MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE, mem_map, mem_protect,
                                      mem_unmap)
from ustack._core.udp.udp cimport (udp, udp_bind, udp_close, udp_connect, udp_disconnect, udp_events, udp_free,
                                   udp_init, udp_meta, udp_open, udp_pcb, udp_recv, udp_send)


cdef ipaddr addr_of(object a) except *:
    cdef ipaddr out
    if not isinstance(a, str):
        return ip_from4(a)
    raw = _stdlib.inet_pton(_stdlib.AF_INET6, a)
    out.hi = <uint64_t>int.from_bytes(raw[:8], "big")
    out.lo = <uint64_t>int.from_bytes(raw[8:], "big")
    return out


cdef object told(const ipaddr *a):
    if ip_is4(a):
        return ip_to4(a)
    return _stdlib.inet_ntop(_stdlib.AF_INET6, int(a.hi).to_bytes(8, "big") + int(a.lo).to_bytes(8, "big"))


cdef bytes chain_bytes(const mblk *m):
    cdef size_t n = msgbytes(m)
    cdef bytes out = bytes(n)
    msgcopyout(NULL, LR_RX_COPY, m, 0, <uint8_t *><char *>out, n)
    return out


cdef mblk *chain(context *ctx, bytes data, object cuts, size_t room) except? NULL:
    """A chain holding data, in blocks that end at ``cuts``; ``room`` bytes stay free in front of the first."""
    cdef mblk *head = NULL
    cdef mblk *m
    cdef size_t start = 0
    cdef size_t n
    cdef const uint8_t *p = data
    for end in [*cuts, len(data)]:
        n = end - start
        m = allocb(ctx.mem, n + room)
        if m == NULL:
            freemsg(head)
            raise MemoryError
        m.rptr += room
        memcpy(m.rptr, p + start, n)
        m.wptr = m.rptr + n
        if head == NULL:
            head = m
        else:
            linkb(head, m)
        start = end
        room = 0
    head.pkt_len = len(data)
    return head


# A page of data with a page behind it that nobody may touch.
cdef enum:
    PAGE = 4096


cdef void unguard(void *arg) noexcept nogil:
    mem_unmap(arg, 2 * PAGE)


cdef mblk *guarded(context *ctx, bytes data) except? NULL:
    """A block whose storage ends where a page ends that is followed by one without access: reading on is SIGSEGV."""
    cdef int err = 0
    cdef size_t n = len(data)
    cdef uint8_t *pages = <uint8_t *>mem_map(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                                             0, &err)
    cdef mblk *m
    if pages == NULL or n > PAGE:
        raise MemoryError
    mem_protect(pages + PAGE, PAGE, 0)
    memcpy(pages + PAGE - n, <const uint8_t *>data, n)
    m = esballoc(ctx.mem, pages + PAGE - n, n, unguard, pages)
    if m == NULL:
        raise MemoryError
    m.wptr = m.rptr + n
    m.pkt_len = n
    return m


cdef void keep(netif *ifp, mblk *taken) noexcept nogil:
    with gil:
        (<Interface>ifp.owner).take(taken)


cdef void drop(netif *ifp, mblk *taken) noexcept nogil:
    freemsg(taken)


cdef int64_t clock() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * <int64_t>1000000000 + t.tv_nsec


cdef int count_room(netif *ifp) noexcept nogil:
    with gil:
        return (<Interface>ifp.owner).room


cdef void on_input(void *owner, mblk *taken, const ip_packet *ip) noexcept nogil:
    with gil:
        (<list>owner).append(("input", told(&ip.src), told(&ip.dst), ip.proto, ip.ttl, ip.length,
                              ip.broadcast, chain_bytes(taken)))
    freemsg(taken)


cdef void on_error(void *owner, const ip_error *e) noexcept nogil:
    with gil:
        (<list>owner).append(("error", told(&e.src), told(&e.dst), e.proto, e.kind, e.mtu, e.sport, e.dport,
                              e.seq))


cdef class Interface:
    """One fake interface: ``sent`` holds (bytes, facts) of every packet that it was given."""

    cdef netif n
    cdef readonly list sent
    cdef public int room

    def __cinit__(self):
        memset(&self.n, 0, sizeof(self.n))
        self.n.owner = <void *>self
        self.n.xmit = keep
        self.n.room = count_room
        self.sent = []
        self.room = 1000

    cdef void take(self, mblk *taken):
        facts = {"gso_size": taken.gso_size, "csum": taken.csum, "csum_start": taken.csum_start,
                 "csum_offset": taken.csum_offset, "segs": taken.segs, "pkt_len": taken.pkt_len,
                 "gso_type": taken.gso_type}
        self.sent.append((chain_bytes(taken), facts))
        freemsg(taken)

    @property
    def up(self) -> bool:
        return self.n.up

    @up.setter
    def up(self, value: bool):
        self.n.up = value

    def drain(self) -> list:
        """What was sent since the last call: bytes only."""
        out = [data for data, _ in self.sent]
        self.sent.clear()
        return out


cdef class Net:
    """A host: one context, one internet layer, UDP and echo endpoints."""

    cdef context ctx
    cdef inet net
    cdef udp u
    cdef ping g
    cdef readonly list interfaces
    cdef readonly list events
    cdef bint open

    def __cinit__(self, seed: int = 1, budget: int = 0, **_: object):
        cdef uint64_t word = seed
        memset(&self.ctx, 0, sizeof(self.ctx))
        self.ctx.now = 1000000000
        wheel_init(&self.ctx.timers, self.ctx.now)
        rng_seed(&self.ctx.dice, &word, 1)
        self.ctx.mem = arena_create(budget, &self.ctx.book)
        self.interfaces = []
        self.events = []
        if self.ctx.mem == NULL or inet_init(&self.net, &self.ctx) < 0 or udp_init(&self.u, &self.ctx, &self.net) < 0:
            raise MemoryError
        if ping_init(&self.g, &self.ctx, &self.net) < 0:
            raise MemoryError
        self.open = True

    def close(self) -> int:
        """Blocks that are still alive once everything is freed: 0."""
        if not self.open:
            return 0
        self.open = False
        ping_free(&self.g)
        udp_free(&self.u)
        inet_free(&self.net)
        arena_reap(self.ctx.mem)
        live = arena_live(self.ctx.mem)
        arena_release(self.ctx.mem)
        return live

    def __dealloc__(self):
        if self.open:
            ping_free(&self.g)
            udp_free(&self.u)
            inet_free(&self.net)
            arena_release(self.ctx.mem)

    # --- time and books
    @property
    def now(self) -> int:
        return self.ctx.now

    @property
    def deadline(self) -> int:
        return wheel_deadline(&self.ctx.timers)

    @property
    def live(self) -> int:
        return arena_live(self.ctx.mem)

    def advance(self, ns: int) -> int:
        """Let time pass, timers firing on the way in their order; returns how many did."""
        cdef ns_t until = self.ctx.now + <ns_t>ns
        cdef ns_t at
        fired = 0
        while True:
            at = wheel_deadline(&self.ctx.timers)
            if at > until:
                break
            self.ctx.now = max(at, self.ctx.now)
            fired += wheel_run(&self.ctx.timers, self.ctx.now)
        self.ctx.now = until
        return fired + wheel_run(&self.ctx.timers, until)

    def counters(self) -> dict[str, int]:
        """Those that are not 0."""
        cdef int i
        return {counter_name(i).decode(): self.ctx.n.n[i] for i in range(C_COUNT) if self.ctx.n.n[i]}

    def ledger(self) -> dict[str, int]:
        cdef int i
        return {ledger_name(i).decode(): self.ctx.book.nbytes[i] for i in range(LR_COUNT) if self.ctx.book.nbytes[i]}

    # --- configuration
    def add_if(self, layer: int = 2, mac: bytes = b"\x02\0\0\0\0\x01", mtu: int = 1500, caps: int = 0,
               gso_max: int = 65535) -> Interface:
        cdef Interface i = Interface()
        i.n.index = len(self.interfaces)
        i.n.layer = layer
        memcpy(i.n.mac, <const uint8_t *>mac, 6)
        i.n.up = True
        i.n.mtu = mtu
        i.n.gso_max = gso_max
        i.n.max_sg = 16
        i.n.caps = caps
        result = inet_add_if(&self.net, &i.n)
        if result < 0:
            raise OSError(-result, "inet_add_if")
        self.interfaces.append(i)
        return i

    def remove_if(self, Interface i):
        inet_remove_if(&self.net, &i.n)

    def add_addr(self, Interface i, addr: int | str, bits: int) -> int:
        cdef ipaddr a = addr_of(addr)
        return inet_add_addr(&self.net, &i.n, &a, bits if isinstance(addr, str) else 96 + bits)

    def add_route(self, prefix: int | str, bits: int, gateway: int | str = 0, Interface i=None) -> int:
        cdef ipaddr a = addr_of(prefix)
        cdef ipaddr g = addr_of(gateway)
        return inet_add_route(&self.net, &a, bits if isinstance(prefix, str) else 96 + bits, &g,
                              &i.n if i is not None else NULL)

    def del_route(self, prefix: int | str, bits: int) -> int:
        cdef ipaddr a = addr_of(prefix)
        return inet_del_route(&self.net, &a, bits if isinstance(prefix, str) else 96 + bits)

    # --- packets
    def input(self, Interface i, data: bytes, csum: int = 0, gso_size: int = 0, gso_type: int = 0, cuts=(),
              room: int = 0, lent: bool = False, guard: bool = False):
        """Hand in a packet, in blocks that end at ``cuts``; ``guard``: in one, behind which no byte can be read."""
        cdef mblk *m = guarded(&self.ctx, data) if guard else chain(&self.ctx, data, cuts, room)
        m.csum = csum
        m.gso_size = gso_size
        m.gso_type = gso_type
        if lent:
            m.dp.flags |= DB_LENT
        inet_input(&self.net, &i.n, m)
        arena_reap(self.ctx.mem)

    def pump(self, Interface i) -> int:
        """Feed a loopback interface what it was given, until it is given no more."""
        n = 0
        while i.sent:
            data, facts = i.sent.pop(0)
            self.input(i, data, facts["csum"], facts["gso_size"], facts["gso_type"])
            n += 1
        return n

    def listen(self, proto: int):
        """Note input and errors of a protocol in ``events``."""
        inet_upcall(&self.net, proto, <void *>self.events, on_input, on_error)

    def resolve(self, dst: int | str, src: int | str = 0) -> tuple | int:
        """(interface index, source, next hop, MTU, broadcast), or -errno."""
        cdef path p
        cdef ipaddr s = addr_of(src)
        cdef ipaddr d = addr_of(dst)
        cdef int result = path_resolve(&self.net, &p, &s, &d)
        if result < 0:
            return result
        out = (p.ifp.index, told(&p.src), told(&p.next_hop), p.mtu, bool(p.broadcast))
        path_release(&self.net, &p)
        return out

    def output(self, dst: int | str, proto: int | str, data: bytes, flags: int = 0, ttl: int = 64, src: int | str = 0,
               confirm: bool = False, gso_size: int = 0, gso_type: int = 0) -> int:
        """Send a transport packet as it is."""
        cdef path p
        cdef ipaddr s = addr_of(src)
        cdef ipaddr d = addr_of(dst)
        cdef int result = path_resolve(&self.net, &p, &s, &d)
        cdef mblk *m
        if result < 0:
            return result
        m = chain(&self.ctx, data, (), 64)
        m.csum = 1
        m.gso_size = gso_size
        m.gso_type = gso_type
        result = ip_output(&self.net, &p, m, proto, ttl, 0, flags)
        if confirm:
            path_confirm(&self.net, &p)
        path_release(&self.net, &p)
        return result

    def time_input(self, Interface i, data: bytes, rounds: int, Udp reader=None) -> float:
        """ns to take in a packet (and to read it from ``reader``), blocks allotted anew for each."""
        cdef int n = rounds
        cdef int _k
        cdef mblk *m
        cdef mblk *got
        cdef udp_meta meta
        cdef udp_pcb *p = reader.p if reader is not None else NULL
        cdef const uint8_t *frame = data
        cdef size_t size = len(data)
        cdef int64_t start
        i.n.xmit = drop
        with nogil:
            start = clock()
            for _k in range(n):
                m = allocb(self.ctx.mem, size)
                memcpy(m.rptr, frame, size)
                m.wptr = m.rptr + size
                m.pkt_len = size
                m.csum = CSUM_OK
                inet_input(&self.net, &i.n, m)
                if p != NULL:
                    got = udp_recv(p, &meta, False)
                    freemsg(got)
            start = clock() - start
        i.n.xmit = keep
        return start / <double>rounds

    def time_output(self, Interface i, Udp sender, data: bytes, rounds: int) -> float:
        """ns to send a datagram from a connected endpoint, payload copied in each time."""
        cdef int n = rounds
        cdef int _k
        cdef int result = 0
        cdef const uint8_t *payload = data
        cdef size_t size = len(data)
        cdef int64_t start
        i.n.xmit = drop
        i.n.room = NULL
        with nogil:
            start = clock()
            for _k in range(n):
                result |= udp_send(sender.p, msgcopyin(self.ctx.mem, &self.ctx.book, LR_TX_COPY, payload, size),
                                   NULL, 0, 0)
            start = clock() - start
        i.n.xmit = keep
        i.n.room = count_room
        if result < 0:
            raise OSError(-result, "udp_send")
        return start / <double>rounds

    def udp_socket(self, v6: bool = False, v6only: bool = False) -> Udp:
        return Udp(self, v6, v6only)

    def ping_socket(self, id: int = 0, v6: bool = False) -> Ping:
        return Ping(self, id, v6)

    def ready(self) -> int:
        """Drain the ready list; how many entries it had."""
        n = 0
        while ready_take(&self.ctx.ready) != NULL:
            n += 1
        return n


cdef class Udp:
    """A UDP endpoint. Addresses are numbers; results 0 or -errno."""

    cdef udp_pcb *p
    cdef Net net

    def __cinit__(self, Net net, v6: bool = False, v6only: bool = False):
        self.net = net
        self.p = udp_open(&net.u)
        if self.p == NULL:
            raise MemoryError
        self.p.rdy.owner = self.p
        if v6:
            self.p.entry.family = FLOW_V6 | (FLOW_V6ONLY if v6only else 0)
            self.p.entry.key.laddr = flow_any(&self.p.entry)

    def close(self):
        if self.p != NULL:
            udp_close(self.p)
            self.p = NULL

    def option(self, **values):
        """reuse_addr, reuse_port, broadcast, rcvbuf, ttl, shut_rd, shut_wr."""
        for name, value in values.items():
            if name == "reuse_addr":
                self.p.reuse_addr = value
            elif name == "reuse_port":
                self.p.reuse_port = value
            elif name == "broadcast":
                self.p.broadcast = value
            elif name == "rcvbuf":
                self.p.rcvbuf = value
            elif name == "ttl":
                self.p.ttl = value
            elif name == "df":
                self.p.df = value
            elif name == "shut_rd":
                self.p.shut_rd = value
            elif name == "shut_wr":
                self.p.shut_wr = value
            else:
                raise TypeError(name)

    @property
    def local(self) -> tuple:
        return told(&self.p.entry.key.laddr), self.p.entry.key.lport

    @property
    def held(self) -> int:
        return self.p.held

    def bind(self, addr: int | str, port: int) -> int:
        cdef ipaddr a = addr_of(addr)
        return udp_bind(self.p, &a, port)

    def connect(self, addr: int | str, port: int) -> int:
        cdef ipaddr a = addr_of(addr)
        return udp_connect(self.p, &a, port)

    def disconnect(self) -> int:
        return udp_disconnect(self.p)

    def send(self, data: bytes, to: tuple | None = None, gso_size: int = 0, stride: int = 0) -> int:
        cdef ipaddr a
        cdef mblk *m = NULL
        cdef uint16_t port = 0
        if data:
            m = (msgcopyin_csum(self.net.ctx.mem, &self.net.ctx.book, LR_TX_COPY, <const uint8_t *>data, len(data),
                                stride)
                 if stride else
                 msgcopyin(self.net.ctx.mem, &self.net.ctx.book, LR_TX_COPY, <const uint8_t *>data, len(data)))
            if m == NULL:
                return -ENOMEM
        if to is None:
            return udp_send(self.p, m, NULL, 0, gso_size)
        a = addr_of(to[0])
        port = to[1]
        return udp_send(self.p, m, &a, port, gso_size)

    def recv(self, peek: bool = False) -> tuple | None:
        """(data, source address, source port, ttl)."""
        cdef udp_meta meta
        cdef mblk *m = udp_recv(self.p, &meta, peek)
        if m == NULL:
            return None
        data = chain_bytes(m)
        freemsg(m)
        return data, told(&meta.src), meta.sport, meta.ttl

    def events(self) -> int:
        return udp_events(self.p)

    def __dealloc__(self):
        if self.p != NULL and self.net.open:
            udp_close(self.p)


cdef class Ping:
    """An echo endpoint."""

    cdef ping_pcb *p
    cdef Net net

    def __cinit__(self, Net net, id: int = 0, v6: bool = False):
        cdef int err = 0
        self.net = net
        self.p = ping_open(&net.g, id, &err)
        if self.p == NULL:
            raise OSError(-err, "ping_open")
        if v6:
            self.p.entry.family = FLOW_V6
        self.p.rdy.owner = self.p

    @property
    def id(self) -> int:
        return self.p.id

    @property
    def error(self) -> tuple[int, int, int]:
        return self.p.error, self.p.error_type, self.p.error_code

    def send(self, data: bytes, to: int | str, seq: int) -> int:
        cdef ipaddr a = addr_of(to)
        cdef mblk *m = NULL
        if data:
            m = msgcopyin(self.net.ctx.mem, &self.net.ctx.book, LR_TX_COPY, <const uint8_t *>data, len(data))
        return ping_send(self.p, m, &a, seq)

    def recv(self) -> tuple | None:
        """(data, source, sequence number)."""
        cdef ping_meta meta
        cdef mblk *m = ping_recv(self.p, &meta, False)
        if m == NULL:
            return None
        data = chain_bytes(m)
        freemsg(m)
        return data, told(&meta.src), meta.seq

    def close(self):
        if self.p != NULL:
            ping_close(self.p)
            self.p = NULL

    def __dealloc__(self):
        if self.p != NULL and self.net.open:
            ping_close(self.p)
