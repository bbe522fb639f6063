"""For tests: TCP over the real internet layer, without an engine, on one layer-3 interface that keeps what it is given.

Time is a number that the test moves. Packets go in and out as bytes, or as they are from host to host (``pump``).
Results of calls are the core's: counts, or -errno.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport ip_from4, ip_to4, ipaddr
from ustack._core.base.codes cimport CAP_TSO4, CAP_TSO6
from ustack._core.base.counters cimport C_COUNT, counter_name
from ustack._core.base.ledger cimport LR_COUNT, LR_PIPE_IN, LR_PIPE_OUT, LR_RX_COPY, LR_TX_COPY, ledger_name
from ustack._core.base.ready cimport ready, ready_take
from ustack._core.base.rng cimport rng_seed
from ustack._core.base.types cimport NS_NEVER, ns_t
from ustack._core.base.wheel cimport wheel_deadline, wheel_init, wheel_run
from ustack._core.inet.inet cimport (
    inet, inet_add_addr, inet_add_if, inet_free, inet_init, inet_input, ip_error,
)
from ustack._core.inet.netif cimport netif
from ustack._core.mem.arena cimport arena_create, arena_live, arena_release
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport (allocb, freelist, freemsg, mblk, msgbytes, msgcopyin, msgcopyin_csum, msgcopyout)
from ustack._core.tcp.block cimport interval, ooo_queue, scoreboard, tcb
from ustack._core.tcp.queue cimport rcv_held
from ustack._core.tcp.reassembly cimport ooo_add, ooo_collapse, ooo_free, ooo_prune, ooo_sack, ooo_take
from ustack._core.tcp.recovery cimport pipe
from ustack._core.tcp.scoreboard cimport (
    board_ack, board_end, board_free, board_held, board_lose_all, board_lose_below, board_lost, board_renege,
    board_resent, board_run, board_sack, board_sent, board_unlose, scored,
)
from ustack._core.tcp.tcp cimport *
from ustack._core.tcp.unreachable cimport tcp_error

STATES = {1: "ESTABLISHED", 2: "SYN-SENT", 3: "SYN-RECEIVED", 4: "FIN-WAIT-1", 5: "FIN-WAIT-2", 6: "TIME-WAIT",
          7: "CLOSED", 8: "CLOSE-WAIT", 9: "LAST-ACK", 10: "LISTEN", 11: "CLOSING"}
OPTIONS = {"nodelay": 1, "maxseg": 2, "keepalive": 3, "keepidle": 4, "keepintvl": 5, "keepcnt": 6, "linger": 7,
           "linger2": 8, "user_timeout": 9, "sndbuf": 10, "rcvbuf": 11, "reuseaddr": 12, "reuseport": 13, "cork": 14,
           "quickack": 15, "tos": 16, "ttl": 17, "oobinline": 18, "rcvlowat": 19, "max_pacing_rate": 20, "syncnt": 21,
           "notsent_lowat": 22, "defer": 23}
COOKIES = {"auto": TCP_COOKIES_AUTO, "never": TCP_COOKIES_NEVER, "always": TCP_COOKIES_ALWAYS}


# The version that new hosts speak. With 6 the address n stands for fd00::n, and all sizes of links are larger by what
# the header is: scripts that know nothing of it see the same segments.
_version = 4


def speak(version: int) -> None:
    """Let new hosts speak IPv4 or IPv6."""
    global _version
    _version = version


cdef ipaddr addr_of(object number, bint v6):
    cdef ipaddr a = ip_from4(number)
    if v6:
        a.hi = <uint64_t>0xFD00 << 48 if number not in (0, 0x7F000001) else 0
        a.lo = number if number != 0x7F000001 else 1
    return a


cdef bytes chain_bytes(const mblk *m):
    cdef size_t n = msgbytes(m)
    cdef bytes out = bytes(n)
    msgcopyout(NULL, LR_PIPE_OUT, m, 0, <uint8_t *><char *>out, n)
    return out


# The wire of one interface: packets that were sent, by next.
cdef struct wire:
    mblk *head
    mblk *tail
    int n
    int limit


cdef void wire_xmit(netif *ifp, mblk *taken) noexcept nogil:
    cdef wire *w = <wire *>ifp.owner
    taken.next = NULL
    if w.tail != NULL:
        w.tail.next = taken
    else:
        w.head = taken
    w.tail = taken
    w.n += 1


cdef int wire_room(netif *ifp) noexcept nogil:
    cdef wire *w = <wire *>ifp.owner
    return w.limit - w.n


cdef mblk *wire_take(wire *w) noexcept nogil:
    cdef mblk *m = w.head
    if m != NULL:
        w.head = m.next
        if w.head == NULL:
            w.tail = NULL
        m.next = NULL
        w.n -= 1
    return m


cdef class Host:
    """One stack. caps: CAP_*; without CAP_TSO4 (8) packets of at most the MTU come out, with complete checksums."""

    cdef context ctx
    cdef inet net
    cdef tcp t
    cdef netif n
    cdef wire w
    cdef bint open
    cdef readonly bint v6
    cdef readonly object conns

    def __cinit__(self, addr: int = 0x0A000001, seed: int = 1, mtu: int = 1500, caps: int = 0, gso_max: int = 65535,
                  budget: int = 0, now: int = 1_000_000_000, limit: int = 1000, loopback: bool = False):
        cdef uint64_t word = seed
        cdef ipaddr a
        self.v6 = _version == 6
        if self.v6:
            mtu = mtu + 20
            gso_max = gso_max + 20
            caps |= CAP_TSO6 if caps & CAP_TSO4 else 0
        a = addr_of(addr, self.v6)
        memset(&self.ctx, 0, sizeof(self.ctx))
        memset(&self.n, 0, sizeof(self.n))
        memset(&self.w, 0, sizeof(self.w))
        self.ctx.now = now
        wheel_init(&self.ctx.timers, now)
        rng_seed(&self.ctx.dice, &word, 1)
        self.ctx.mem = arena_create(budget, &self.ctx.book)
        if self.ctx.mem == NULL or inet_init(&self.net, &self.ctx) < 0 or tcp_init(&self.t, &self.ctx, &self.net) < 0:
            raise MemoryError
        self.w.limit = limit
        self.n.owner = &self.w
        self.n.xmit = wire_xmit
        self.n.room = wire_room
        self.n.layer = 0 if loopback else 3
        self.n.up = True
        self.n.mtu = mtu
        self.n.gso_max = gso_max
        self.n.max_sg = 64
        self.n.caps = caps
        self.open = True
        inet_add_if(&self.net, &self.n)
        inet_add_addr(&self.net, &self.n, &a, 104 if self.v6 else 96 + 8)
        self.conns = []

    def close(self) -> int:
        """Blocks that are still alive once everything is freed: 0."""
        if not self.open:
            return 0
        self.open = False
        for c in self.conns:
            (<Conn>c).c = NULL
        freelist(self.w.head)
        tcp_free(&self.t)
        inet_free(&self.net)
        live = arena_live(self.ctx.mem)
        arena_release(self.ctx.mem)
        return live

    def __dealloc__(self):
        if self.open:
            freelist(self.w.head)
            tcp_free(&self.t)
            inet_free(&self.net)
            arena_release(self.ctx.mem)

    # --- time
    @property
    def now(self) -> int:
        return self.ctx.now

    @property
    def deadline(self) -> int | None:
        cdef ns_t at = wheel_deadline(&self.ctx.timers)
        return None if at == NS_NEVER else at

    def run(self, now: int) -> int:
        """Time is ``now``: fire what is due, make the output. Returns how many timers fired."""
        self.ctx.now = now
        fired = wheel_run(&self.ctx.timers, now)
        tcp_egress(&self.t)
        return fired

    def advance(self, ns: int):
        """Let time pass, timers firing and output made on the way."""
        cdef ns_t until = self.ctx.now + <ns_t>ns
        cdef ns_t at
        while True:
            at = wheel_deadline(&self.ctx.timers)
            if at > until:
                break
            self.run(max(at, self.ctx.now))
        self.run(until)

    # --- packets
    def input(self, data: bytes, csum: int = 0, gso_size: int = 0, egress: bool = True):
        """One packet from the wire; then, as an engine would, the output."""
        cdef mblk *m
        cdef size_t n = len(data)
        m = allocb(self.ctx.mem, n if n else 1)
        if m == NULL:
            raise MemoryError
        memcpy(m.rptr, <const uint8_t *>data, n)
        m.wptr = m.rptr + n
        m.pkt_len = n
        m.csum = csum
        m.gso_size = gso_size
        m.gso_type = (2 if self.v6 else 1) if gso_size else 0
        inet_input(&self.net, &self.n, m)
        if egress:
            tcp_egress(&self.t)

    def egress(self) -> bool:
        return tcp_egress(&self.t)

    def drain(self) -> list:
        """Packets sent: (bytes, gso_size, csum)."""
        cdef mblk *m
        out = []
        while True:
            m = wire_take(&self.w)
            if m == NULL:
                return out
            out.append((chain_bytes(m), m.gso_size, m.csum))
            freemsg(m)

    def pump(self, Host other, most: int = 1 << 30) -> int:
        """Hand packets to another host as they are, uncopied, and let it answer."""
        cdef mblk *m
        cdef int n = 0
        cdef int limit = most
        with nogil:
            while n < limit:
                m = wire_take(&self.w)
                if m == NULL:
                    break
                inet_input(&other.net, &other.n, m)
                n += 1
            tcp_egress(&other.t)
        return n

    @property
    def queued(self) -> int:
        return self.w.n

    @property
    def limit(self) -> int:
        """Packets that the interface holds before it is full."""
        return self.w.limit

    @limit.setter
    def limit(self, value: int):
        self.w.limit = value

    def icmp(self, kind: int, local: tuple, remote: tuple, seq: int, mtu: int = 0):
        """An ICMP error about a segment of ours, as the internet layer tells it."""
        cdef ip_error e
        memset(&e, 0, sizeof(e))
        e.src = addr_of(local[0], self.v6)
        e.sport = local[1]
        e.dst = addr_of(remote[0], self.v6)
        e.dport = remote[1]
        e.seq = seq & 0xFFFFFFFF
        e.kind = kind
        e.mtu = mtu
        e.proto = 6
        tcp_error(&self.t, &e)
        tcp_egress(&self.t)

    # --- books
    @property
    def live(self) -> int:
        return arena_live(self.ctx.mem)

    @property
    def count(self) -> int:
        """Control blocks."""
        return self.t.count

    def set_bounds(self, *, syn_max: int | None = None, timewait_max: int | None = None, cookies: str | None = None,
                   rcvbuf: int | None = None, sndbuf: int | None = None):
        """Of the whole: SYN queue, TIME-WAIT, SYN cookies ("auto", "never", "always"), most that buffers grow to."""
        if syn_max is not None:
            self.t.syn_max = syn_max
        if timewait_max is not None:
            self.t.timewait_max = timewait_max
        if cookies is not None:
            self.t.cookies = COOKIES[cookies]
        if rcvbuf is not None:
            self.t.rcvbuf = rcvbuf
        if sndbuf is not None:
            self.t.sndbuf = sndbuf

    def counters(self) -> dict[str, int]:
        """Those of TCP that are not 0, without the prefix."""
        cdef int i
        return {counter_name(i).decode()[4:]: self.ctx.n.n[i] for i in range(C_COUNT)
                if self.ctx.n.n[i] and counter_name(i).startswith(b"tcp.")}

    def ledger(self) -> dict[str, int]:
        cdef int i
        return {ledger_name(i).decode(): self.ctx.book.nbytes[i] for i in range(LR_COUNT) if self.ctx.book.nbytes[i]}

    def events(self) -> dict:
        """Drain the ready list: connection -> bits posted."""
        cdef ready *r
        out = {}
        while True:
            r = ready_take(&self.ctx.ready)
            if r == NULL:
                return out
            out[<object>r.owner] = r.events
            r.events = 0

    # --- connections
    def socket(self, **options) -> Conn:
        cdef tcb *c = tcp_open(&self.t)
        if c == NULL:
            raise MemoryError
        if self.v6:
            tcp_use_ip6(c)
        return Conn.wrap(self, c, options)

    @staticmethod
    def block_size() -> int:
        return sizeof(tcb)


cdef class Conn:
    """A control block. Addresses are numbers."""

    cdef tcb *c
    cdef Host host
    cdef object __weakref__

    @staticmethod
    cdef Conn wrap(Host host, tcb *c, dict options):
        cdef Conn self = Conn.__new__(Conn)
        self.c = c
        self.host = host
        tcp_ready(c).owner = <void *>self
        host.conns.append(self)
        for name, value in options.items():
            if self.set(name, value) < 0:
                raise ValueError(name)
        return self

    def set(self, name: str, value: int | str) -> int:
        if isinstance(value, str):
            raw = value.encode()
            return tcp_set_congestion(self.c, raw, len(raw))
        return tcp_setopt(self.c, OPTIONS[name], value)

    @property
    def congestion(self) -> str:
        return tcp_get_congestion(self.c).decode()

    def sleeps(self, yes: bool):
        """A thread sleeps on the connection, or does no longer."""
        tcp_await(self.c, yes)

    def undo(self):
        """Tell congestion control that the last congestion event was none."""
        self.c.cc.undo(self.c)

    def get(self, name: str) -> int:
        cdef int64_t value = 0
        err = tcp_getopt(self.c, OPTIONS[name], &value)
        if err < 0:
            raise OSError(-err, name)
        return value

    def bind(self, addr: int, port: int) -> int:
        cdef ipaddr a = addr_of(addr, self.host.v6)
        return tcp_bind(self.c, &a, port)

    def connect(self, addr: int, port: int) -> int:
        cdef ipaddr a = addr_of(addr, self.host.v6)
        err = tcp_connect(self.c, &a, port)
        tcp_egress(&self.host.t)
        return err

    def listen(self, backlog: int = 16) -> int:
        return tcp_listen(self.c, backlog)

    def accept(self) -> Conn | None:
        cdef tcb *c = tcp_accept(self.c)
        return None if c == NULL else Conn.wrap(self.host, c, {})

    def send(self, data: bytes, more: bool = False, stride: int = 0, egress: bool = True) -> int:
        """Queue and make output; the bytes taken or -errno."""
        cdef mblk *m
        cdef int64_t n
        cdef context *ctx = &self.host.ctx
        if stride:
            m = msgcopyin_csum(ctx.mem, &ctx.book, LR_TX_COPY, <const uint8_t *>data, len(data), stride)
        else:
            m = msgcopyin(ctx.mem, &ctx.book, LR_TX_COPY, <const uint8_t *>data, len(data))
        if m == NULL:
            raise MemoryError
        n = tcp_send(self.c, m, TCP_SEND_MORE if more else 0)
        if egress:
            tcp_egress(&self.host.t)
        return n

    def room(self) -> int:
        return tcp_send_room(self.c)

    def ready(self) -> int:
        return tcp_recv_ready(self.c)

    def recv(self, n: int = 1 << 30, peek: bool = False) -> bytes | int:
        """Bytes; b"" at the end of the stream; -errno."""
        cdef int err = 0
        cdef mblk *m = tcp_recv(self.c, n, TCP_RECV_PEEK if peek else 0, &err)
        if m == NULL:
            return b"" if err == 0 else err
        out = bytes(msgbytes(m))
        msgcopyout(&self.host.ctx.book, LR_RX_COPY, m, 0, <uint8_t *><char *>out, len(out))
        freemsg(m)
        tcp_egress(&self.host.t)
        return out

    def discard(self, n: int = 1 << 30) -> int:
        """Receive without looking: how many bytes."""
        cdef int err = 0
        cdef size_t got = 0
        cdef size_t most = n
        cdef mblk *m
        with nogil:
            m = tcp_recv(self.c, most, 0, &err)
            if m != NULL:
                got = msgbytes(m)
                freemsg(m)
                tcp_egress(&self.host.t)
        return got if m != NULL else err

    def shutdown(self, how: int) -> int:
        err = tcp_shutdown(self.c, how)
        tcp_egress(&self.host.t)
        return err

    def close(self):
        if self.c != NULL:
            tcp_close(self.c)
            self.c = NULL
            self.host.conns.remove(self)
            tcp_egress(&self.host.t)

    def abort(self):
        if self.c != NULL:
            tcp_abort(self.c)
            self.c = NULL
            self.host.conns.remove(self)
            tcp_egress(&self.host.t)

    @property
    def state(self) -> str:
        return STATES[tcp_state(self.c)]

    @property
    def error(self) -> int:
        """SO_ERROR: taken."""
        return tcp_take_error(self.c)

    @property
    def any_error(self) -> int:
        """SO_ERROR as users get it: also what ICMP said. Taken."""
        return tcp_take_any_error(self.c)

    @property
    def connect_result(self) -> int:
        return tcp_connect_result(self.c)

    @property
    def poll(self) -> int:
        return tcp_events(self.c)

    @property
    def unacked(self) -> int:
        return tcp_unacked(self.c)

    @property
    def local(self) -> tuple[int, int]:
        cdef ipaddr a
        cdef uint16_t port
        tcp_local(self.c, &a, &port)
        return ip_to4(&a), port

    @property
    def remote(self) -> tuple[int, int]:
        cdef ipaddr a
        cdef uint16_t port
        tcp_remote(self.c, &a, &port)
        return ip_to4(&a), port

    def info(self) -> dict[str, int]:
        cdef tcp_info i
        tcp_get_info(self.c, &i)
        return i

    def block(self) -> dict[str, int]:
        """What tests compare of the control block itself."""
        cdef tcb *c = self.c
        return {"snd_una": c.snd_una, "snd_nxt": c.snd_nxt, "snd_end": c.snd_end, "rcv_nxt": c.rcv_nxt,
                "rcv_adv": c.rcv_adv, "ts_recent": c.ts_recent, "ca_state": c.ca_state, "pipe": pipe(c),
                "cwnd": c.cwnd, "ssthresh": c.ssthresh, "held": rcv_held(c), "ooo_runs": c.ooo.n, "ooo": c.ooo.total,
                "rq_len": c.rq_len, "gso_payload": c.gso_payload, "iss": c.iss, "irs": c.irs, "srtt": c.srtt,
                "w_max": c.cubic.w_max, "k": c.cubic.k, "epoch": c.cubic.epoch, "w_est": c.cubic.w_est,
                "rcvbuf": c.rcvbuf, "drs_rtt": c.drs.rtt, "runs": c.sb.n, "resent": c.sb.resent,
                "rack_rtt": c.rack_rtt, "reo_mult": c.reo_mult, "rtx_kind": c.rtx_kind}


cdef class Scoreboard:
    """The scoreboard by itself; ``news`` is what the calls say is delivered, summed up."""

    cdef scoreboard b
    cdef scored k

    def __cinit__(self):
        memset(&self.b, 0, sizeof(self.b))
        memset(&self.k, 0, sizeof(self.k))

    def __dealloc__(self):
        board_free(&self.b)

    def sent(self, start: int, end: int, now: int) -> bool:
        return board_sent(&self.b, start & 0xFFFFFFFF, end & 0xFFFFFFFF, now)

    def resent(self, start: int, end: int, now: int):
        board_resent(&self.b, start & 0xFFFFFFFF, end & 0xFFFFFFFF, now)

    def ack(self, una: int):
        board_ack(&self.b, una & 0xFFFFFFFF, &self.k)

    def sack(self, start: int, end: int) -> int:
        return board_sack(&self.b, start & 0xFFFFFFFF, end & 0xFFFFFFFF, &self.k)

    def lose_below(self, end: int) -> int:
        return board_lose_below(&self.b, end & 0xFFFFFFFF)

    def lose_all(self):
        board_lose_all(&self.b)

    def renege(self):
        board_renege(&self.b)

    def unlose(self):
        board_unlose(&self.b)

    def lost(self) -> tuple[int, int] | None:
        cdef interval run
        return (run.start, run.end) if board_lost(&self.b, &run) else None

    def held_runs(self, most: int) -> int:
        return board_held(&self.b, most)

    def begin(self, now: int, recover: int, highest: int, min_rtt: int = 0, echo: int | None = None):
        """A new ACK: forget the news."""
        self.k.now = now
        self.k.recover = recover & 0xFFFFFFFF
        self.k.highest = highest & 0xFFFFFFFF
        self.k.min_rtt = min_rtt
        self.k.has_echo = echo is not None
        self.k.echo = (echo or 0) & 0xFFFFFFFF
        self.k.delivered = 0
        self.k.original = self.k.reordered = False

    @property
    def news(self) -> dict[str, int]:
        return self.k

    @property
    def totals(self) -> tuple[int, int, int]:
        """Bytes held, lost, sent again and in flight."""
        return self.b.held, self.b.lost, self.b.resent

    def runs(self) -> list[tuple[int, int, int, int]]:
        """(start, end, fate, when)."""
        return [(board_run(&self.b, i).start, board_end(&self.b, i), board_run(&self.b, i).fate,
                 board_run(&self.b, i).at) for i in range(self.b.n)]


cdef class Reassembly:
    """The out-of-order queue by itself; memory is that of a host."""

    cdef ooo_queue q
    cdef Host host

    def __cinit__(self, Host host):
        memset(&self.q, 0, sizeof(self.q))
        self.host = host

    def __dealloc__(self):
        if self.host.open:
            ooo_free(&self.q)

    def add(self, seq: int, data: bytes) -> tuple[int, tuple[int, int] | None]:
        """(new bytes or -errno, the first interval that was there already)."""
        cdef interval dup
        cdef mblk *m = msgcopyin(self.host.ctx.mem, &self.host.ctx.book, LR_PIPE_IN, <const uint8_t *>data, len(data))
        fresh = ooo_add(&self.q, self.host.ctx.mem, m, seq & 0xFFFFFFFF, len(data), &dup)
        return fresh, None if dup.start == dup.end else (dup.start, dup.end)

    def take(self, rcv_nxt: int) -> tuple[int, bytes] | None:
        """(where it starts, bytes)."""
        cdef mblk *m = ooo_take(&self.q, rcv_nxt & 0xFFFFFFFF)
        if m == NULL:
            return None
        out = m.seq, chain_bytes(m)
        freemsg(m)
        return out

    def sack(self, most: int = 4) -> list[tuple[int, int]]:
        cdef interval out[4]
        n = ooo_sack(&self.q, out, most)
        return [(out[i].start, out[i].end) for i in range(n)]

    def prune(self) -> int:
        return ooo_prune(&self.q)

    def collapse(self):
        ooo_collapse(&self.q, self.host.ctx.mem, &self.host.ctx.book)

    def free(self):
        ooo_free(&self.q)

    def runs(self) -> list[tuple[int, int]]:
        return [(self.q.v[i].start, self.q.v[i].end) for i in range(self.q.n)]

    @property
    def total(self) -> int:
        return self.q.total

    @property
    def held(self) -> int:
        return self.q.held
