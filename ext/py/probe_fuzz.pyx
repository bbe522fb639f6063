"""For tests: a stack on a packet pipe that is driven by a string of bytes, without Python in between.

``run`` is one execution, for the tests that replay the corpus; ``entry`` is the C function's address, for tools/fuzz.
The first two bytes of the input choose the state of RFC 9293 to begin in, what was negotiated, and the version of IP;
what follows is a list of steps: a segment whose numbers lie near those of the connection and whose checksums are
right, a datagram, an ICMP error that quotes us, an ARP or IP packet mended in part, a chain of extension headers, a
raw frame, time that passes, a call of the user. An input that ends early is padded with nothing: it stops.

After every step the connection must make sense, and in the end no block may be left: the number of the first rule
that was broken is the result, 0 if all hold.
"""

from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport ip_from4, ipaddr
from ustack._core.base.checksum cimport csum_add, csum_finish, csum_fold, csum_partial
from ustack._core.base.codes cimport CAP_GATHER
from ustack._core.base.ready cimport ready, ready_take
from ustack._core.base.seq cimport seq_gt, seq_lt, seq_t
from ustack._core.base.types cimport NS_SEC, ns_t
from ustack._core.inet.demux cimport FLOW_V6
from ustack._core.inet.inet cimport inet_add_addr, inet_add_route, inet_input
from ustack._core.link.link cimport link
from ustack._core.link.pipe cimport pipe_create, pipe_inject, pipe_options, pipe_take
from ustack._core.mem.arena cimport arena, arena_live, arena_reap, arena_ref, arena_release, arena_unref
from ustack._core.mem.mblk cimport allocb, esballoc, freemsg, mblk
from ustack._core.stack.engine cimport (
    engine, engine_add_link, engine_deadline, engine_free, engine_init, engine_poll, iface,
)
from ustack._core.tcp.block cimport flight, tcb
from ustack._core.tcp.queue cimport rcv_held
from ustack._core.tcp.reassembly cimport OOO_RUNS
from ustack._core.tcp.tcp cimport *
from ustack._core.udp.udp cimport (
    udp_bind, udp_close, udp_connect, udp_meta, udp_open, udp_pcb, udp_recv, udp_send,
)
from ustack._core.wire.bytes cimport put16, put32, put_sum

cdef enum:
    OURS = 0x0A000001
    PEER = 0x0A000002           # over IPv6 fd00::1 and fd00::2
    OUR_PORT = 80
    PEER_PORT = 4000
    PEER_ISS = 0x10000000
    FRAME_MAX = 2048
    STEPS_MAX = 32
    TIMERS_MAX = 40             # deadlines that one step of time may pass

cdef enum:
    # What the results mean
    BROKEN_NONE = 0
    BROKEN_START = 1            # the stack could not be made
    BROKEN_WINDOW = 2           # the right edge that we offered moved back
    BROKEN_NUMBERS = 3          # SND.UNA above SND.NXT, or more than we have queued
    BROKEN_SACK = 4             # more selectively acknowledged than in flight
    BROKEN_RUNS = 5             # too many pieces out of order
    BROKEN_HELD = 6             # more storage than the receive buffer allows
    BROKEN_CWND = 7             # a congestion window below one segment
    BROKEN_LEAK = 8             # blocks that nobody owns
    BROKEN_TIMERS = 9           # timers that never rest

cdef uint8_t[6] OUR_MAC = [2, 0, 0, 0, 0, 1]
cdef uint8_t[6] PEER_MAC = [2, 0, 0, 0, 0, 2]

# One execution.
cdef struct play:
    engine e
    link *dev
    iface *made
    const uint8_t *p
    const uint8_t *end
    ns_t now
    tcb *user                   # the connection, as the user has it; NULL: closed
    tcb *listener
    udp_pcb *udp
    uint16_t our_port
    uint16_t peer_port
    seq_t irs                   # the last numbers seen of the connection: used when it is gone
    seq_t rcv_nxt
    seq_t snd_nxt
    seq_t edge                  # the right edge that we have offered
    tcb *edge_of
    uint32_t tsval
    bint ts
    bint more                   # input is left
    bint exact                  # frames lie in storage of their own length, so that a sanitizer sees what reads on
    bint budget
    bint six                    # the connection, and all that is said about it, is IPv6
    uint8_t layer
    uint32_t limit
    uint8_t *up                 # where a transport header begins in the frame
    uint8_t frame[FRAME_MAX]

# There is one at a time. Its arena lives on from one to the next: to map memory takes longer than all the rest. The
# second one is for those with a budget.
cdef play Y
cdef arena* spare[2]


# --- the input ----------------------------------------------------------------------------------------------------
cdef uint8_t byte(play *y) noexcept nogil:
    if y.p >= y.end:
        y.more = False
        return 0
    y.p += 1
    return y.p[-1]


cdef uint16_t word(play *y) noexcept nogil:
    cdef uint16_t high = byte(y)
    return <uint16_t>(high << 8 | byte(y))


cdef uint32_t dword(play *y) noexcept nogil:
    cdef uint32_t high = word(y)
    return high << 16 | word(y)


cdef size_t bytes_into(play *y, uint8_t *to, size_t n) noexcept nogil:
    cdef size_t have = y.end - y.p
    if n > have:
        n = have
        y.more = False
    memcpy(to, y.p, n)
    y.p += n
    return n


# --- frames -------------------------------------------------------------------------------------------------------
cdef void give_back(void *storage) noexcept nogil:
    free(storage)


cdef void hand_in(play *y, const uint8_t *frame, size_t n) noexcept nogil:
    cdef mblk *m
    cdef uint8_t *own
    if not y.exact or n == 0:
        pipe_inject(y.dev, frame, n)
        return
    own = <uint8_t *>malloc(n)
    if own == NULL:
        return
    memcpy(own, frame, n)
    m = esballoc(y.e.ctx.mem, own, n, give_back, own)
    if m == NULL:
        free(own)
        return
    m.wptr = m.rptr + n
    m.pkt_len = <uint32_t>n
    inet_input(&y.e.net, &y.made.ifp, m)


cdef void inject(play *y, size_t n) noexcept nogil:
    """The IP packet that lies at frame + 14, with an Ethernet header in layer 2."""
    if y.layer == 2:
        memcpy(y.frame, OUR_MAC, 6)
        memcpy(y.frame + 6, PEER_MAC, 6)
        put16(y.frame + 12, 0x800 if y.frame[14] >> 4 != 6 else 0x86DD)
        hand_in(y, y.frame, n + 14)
    else:
        hand_in(y, y.frame + 14, n)


cdef ipaddr address(const play *y, uint32_t n) noexcept nogil:
    """OURS or PEER, or one near them, of the version that is spoken."""
    cdef ipaddr a = ip_from4(n)
    if y.six:
        a.hi = <uint64_t>0xFD00 << 48
        a.lo = n & 0xFF
    return a


cdef ipaddr anywhere(const play *y) noexcept nogil:
    cdef ipaddr a = ip_from4(0)
    if y.six:
        a.lo = 0
    return a


cdef void put_addresses6(uint8_t *h, uint32_t src, uint32_t dst) noexcept nogil:
    """Into a header of version 6."""
    memset(h + 8, 0, 32)
    h[8] = h[24] = 0xFD
    h[23] = <uint8_t>src
    h[39] = <uint8_t>dst


cdef size_t ip6_header(uint8_t *h, uint8_t next, size_t payload) noexcept nogil:
    memset(h, 0, 8)
    h[0] = 0x60
    put16(h + 4, <uint16_t>payload)
    h[6] = next
    h[7] = 64
    put_addresses6(h, PEER, OURS)
    return 40 + payload


cdef size_t ip_header(play *y, uint8_t proto, size_t payload) noexcept nogil:
    """In front of a payload at y.up; returns the length of the packet."""
    cdef uint8_t *h = y.frame + 14
    if y.six:
        return ip6_header(h, proto, payload)
    memset(h, 0, 20)
    h[0] = 0x45
    put16(h + 2, <uint16_t>(20 + payload))
    h[8] = 64
    h[9] = proto
    put32(h + 12, PEER)
    put32(h + 16, OURS)
    put_sum(h + 10, csum_finish(csum_partial(h, 20)))
    return 20 + payload


cdef void mend_ip(uint8_t *h, size_t n) noexcept nogil:
    """Make the length and the checksum of an IP header right."""
    cdef size_t ihl = (h[0] & 15) * 4
    if ihl < 20 or ihl > n:
        return
    put16(h + 2, <uint16_t>n)
    put_sum(h + 10, 0)
    put_sum(h + 10, csum_finish(csum_partial(h, ihl)))


cdef uint32_t pseudo6(const uint8_t *addresses, uint8_t proto, size_t n) noexcept nogil:
    cdef uint8_t h[8]
    put32(h, <uint32_t>n)
    put32(h + 4, proto)
    return csum_add(csum_partial(addresses, 32), csum_partial(h, 8))


cdef uint32_t pseudo(const play *y, uint8_t proto, size_t n) noexcept nogil:
    cdef uint8_t h[40]
    if y.six:
        put_addresses6(h, PEER, OURS)
        return pseudo6(h + 8, proto, n)
    put32(h, PEER)
    put32(h + 4, OURS)
    h[8] = 0
    h[9] = proto
    put16(h + 10, <uint16_t>n)
    return csum_partial(h, 12)


cdef void send_segment(play *y, uint8_t flags, seq_t seq, seq_t ack, uint16_t window, size_t options, size_t n,
                       uint16_t port) noexcept nogil:
    """Options lie behind the header already."""
    inject(y, ip_header(y, 6, segment(y, flags, seq, ack, window, options, n, port)))


cdef size_t segment(play *y, uint8_t flags, seq_t seq, seq_t ack, uint16_t window, size_t options, size_t n,
                    uint16_t port) noexcept nogil:
    """At y.up; returns its length."""
    cdef uint8_t *t = y.up
    cdef size_t i
    for i in range(n):
        t[20 + options + i] = <uint8_t>(seq + i)       # text says where it stands
    put16(t, port)
    put16(t + 2, y.our_port)
    put32(t + 4, seq)
    put32(t + 8, ack)
    t[12] = <uint8_t>((20 + options) << 2)
    t[13] = flags
    put16(t + 14, window)
    put_sum(t + 16, 0)
    put16(t + 18, 0)
    put_sum(t + 16, csum_fold(csum_add(pseudo(y, 6, 20 + options + n), csum_partial(t, 20 + options + n))) ^ 0xFFFF)
    return 20 + options + n


cdef size_t add_timestamp(play *y, size_t at) noexcept nogil:
    cdef uint8_t *o = y.up + 20 + at
    if not y.ts:
        return at
    put32(o, 0x0101080A)
    put32(o + 4, y.tsval)
    put32(o + 8, 0)
    return at + 12


# --- the stack ----------------------------------------------------------------------------------------------------
cdef tcb *connection(play *y) noexcept nogil:
    """The block that has the peer's port, whoever owns it."""
    cdef tcb *c = y.e.tcp.all
    while c != NULL:
        if c.link.key.rport == y.peer_port and c.state != TCPS_LISTEN:
            return c
        c = c.all_next
    return NULL


cdef void look(play *y) noexcept nogil:
    cdef tcb *c = connection(y)
    if c != NULL:
        y.snd_nxt = c.snd_nxt
        if c.state != TCPS_SYN_SENT:
            y.rcv_nxt = c.rcv_nxt


cdef void poll(play *y) noexcept nogil:
    """What is due; and what was sent and posted is looked away from."""
    cdef mblk *m
    cdef ready *r
    engine_poll(&y.e, y.now, 1 << 20)
    arena_reap(y.e.ctx.mem)
    while True:
        m = pipe_take(y.dev)
        if m == NULL:
            break
        freemsg(m)
    while True:
        r = ready_take(&y.e.ctx.ready)
        if r == NULL:
            break
        r.events = 0
    look(y)


cdef int wait(play *y, ns_t ns) noexcept nogil:
    cdef ns_t until = y.now + ns
    cdef ns_t at
    cdef int still = 0
    cdef int _
    for _ in range(TIMERS_MAX):
        at = engine_deadline(&y.e)
        if at > until:
            break
        if at <= y.now:
            still += 1
            if still > 20:
                return BROKEN_TIMERS
        else:
            y.now = at
        poll(y)
    if until > y.now:
        y.now = until
    poll(y)
    return 0


cdef void take_spare(play *y) noexcept nogil:
    cdef arena *mem = spare[y.budget]
    if mem == NULL:
        return
    spare[y.budget] = NULL
    arena_release(y.e.ctx.mem)
    y.e.ctx.mem = mem
    y.e.src.owner = mem
    mem.book = &y.e.ctx.book


cdef bint make(play *y, const uint8_t *data, size_t n) noexcept nogil:
    cdef pipe_options o
    cdef ipaddr a
    cdef uint64_t seed = 1
    memset(y, 0, sizeof(play))
    y.six = (data[1] & 128) != 0
    y.up = y.frame + (54 if y.six else 34)
    y.now = NS_SEC
    y.p = data
    y.end = data + n
    y.more = True
    y.our_port = OUR_PORT
    y.peer_port = PEER_PORT
    y.tsval = 1000
    memset(&o, 0, sizeof(o))
    o.mtu = 1500
    o.gso_max = 1500
    o.queue = 256
    o.max_sg = 64
    o.caps = CAP_GATHER
    memcpy(o.mac, OUR_MAC, 6)
    y.layer = o.layer = 2 if data[1] & 1 and not y.six else 3       # IPv6 is spoken on layer 3
    y.dev = pipe_create(&o)
    if y.dev == NULL:
        return False
    y.budget = (data[1] & 64) != 0
    if engine_init(&y.e, y.now, 1 << 18 if y.budget else 0, &seed, 1) < 0:
        return False
    take_spare(y)
    y.e.tcp.syn_max = 4         # strangers fill the queue soon: then cookies go out
    a = address(y, OURS)
    if (engine_add_link(&y.e, y.dev, &y.made) < 0
            or inet_add_addr(&y.e.net, &y.made.ifp, &a, 64 if y.six else 96 + 24) < 0):
        return False
    return add_route(y)


cdef bint add_route(play *y) noexcept nogil:
    cdef ipaddr gateway = address(y, PEER)
    cdef ipaddr any = anywhere(y)
    return inet_add_route(&y.e.net, &any, 0 if y.six else 96, &gateway, NULL) == 0


# --- to the state that the input asks for -------------------------------------------------------------------------
cdef void say_arp(play *y, uint8_t op, uint32_t spa, uint32_t tpa, uint8_t mac) noexcept nogil:
    cdef uint8_t *a = y.frame
    memset(a, 0xFF, 6)
    memcpy(a + 6, PEER_MAC, 6)
    a[11] = mac
    put16(a + 12, 0x806)
    put32(a + 14, 0x00010800)
    put16(a + 18, 0x0604)
    put16(a + 20, op)
    memcpy(a + 22, PEER_MAC, 6)
    a[27] = mac
    put32(a + 28, spa)
    memset(a + 32, 0, 6)
    put32(a + 38, tpa)
    if y.layer == 2:
        hand_in(y, a, 42)


cdef size_t syn_options(play *y, uint8_t how) noexcept nogil:
    cdef uint8_t *o = y.up + 20
    cdef size_t n = 4
    put32(o, 0x020405B4)
    if how & 4:
        put32(o + n, 0x04020101)
        n += 4
    if how & 8:
        put32(o + n, 0x03030701)
        n += 4
    y.ts = (how & 2) != 0
    return add_timestamp(y, n)


cdef void set_options(play *y, tcb *c, uint8_t how) noexcept nogil:
    if how & 16:
        tcp_setopt(c, TCPO_RCVBUF, 4096)
    if how & 32:
        tcp_setopt(c, TCPO_NODELAY, 1)
    tcp_ready(c).owner = y


cdef void listen(play *y, uint8_t how) noexcept nogil:
    cdef ipaddr a = anywhere(y)
    y.listener = tcp_open(&y.e.tcp)
    if y.listener != NULL:
        if y.six:
            tcp_use_ip6(y.listener)
        set_options(y, y.listener, how)
        tcp_bind(y.listener, &a, OUR_PORT)
        tcp_listen(y.listener, 4)


cdef void connect(play *y, uint8_t how) noexcept nogil:
    cdef ipaddr a = address(y, PEER)
    cdef ipaddr here
    y.user = tcp_open(&y.e.tcp)
    if y.user != NULL:
        if y.six:
            tcp_use_ip6(y.user)
        set_options(y, y.user, how)
        tcp_connect(y.user, &a, PEER_PORT)
        tcp_local(y.user, &here, &y.our_port)
        poll(y)


cdef void accept(play *y) noexcept nogil:
    cdef tcb *c
    if y.listener == NULL or y.user != NULL:
        return
    c = tcp_accept(y.listener)
    if c != NULL:
        tcp_ready(c).owner = y
        y.user = c


cdef void from_peer(play *y, uint8_t flags) noexcept nogil:
    send_segment(y, flags, y.rcv_nxt, y.snd_nxt, 65535, add_timestamp(y, 0), 0, y.peer_port)
    poll(y)


cdef void establish(play *y, uint8_t how) noexcept nogil:
    y.rcv_nxt = PEER_ISS
    send_segment(y, 2, PEER_ISS, 0, 65535, syn_options(y, how), 0, y.peer_port)
    poll(y)


cdef void bring_about(play *y, uint8_t state, uint8_t how) noexcept nogil:
    say_arp(y, 1, PEER, OURS, 2)
    if state == 2:
        connect(y, how)
        return
    if state == 11:
        return
    listen(y, how)
    if state == 1:
        return
    establish(y, how)
    if state == 3:
        return
    from_peer(y, 16)
    accept(y)
    if y.user == NULL:
        return
    if state == 9 or state == 10:
        from_peer(y, 17)
    if state in (5, 6, 7, 8, 10):
        tcp_shutdown(y.user, 1)
        poll(y)
    if state == 6 or state == 8:
        from_peer(y, 16)
    if state == 7:
        send_segment(y, 17, y.rcv_nxt, y.snd_nxt - 1, 65535, add_timestamp(y, 0), 0, y.peer_port)
        poll(y)
    if state == 8:
        from_peer(y, 17)


# --- steps --------------------------------------------------------------------------------------------------------
cdef seq_t near(play *y, uint8_t how, seq_t base) noexcept nogil:
    if how == 0:
        return base
    if how == 1:
        return base + <int8_t>byte(y)
    if how == 2:
        return base + word(y)
    return dword(y)


cdef void step_segment(play *y) noexcept nogil:
    cdef uint8_t flags = byte(y)
    cdef uint8_t how = byte(y)
    cdef seq_t seq = near(y, how & 3, y.rcv_nxt)
    cdef seq_t ack = near(y, how >> 2 & 3, y.snd_nxt)
    cdef uint16_t window = word(y) if how & 16 else 65535
    cdef size_t options = 0
    cdef size_t n = 0
    if how & 32:
        n = byte(y) * 6
    if how & 64:
        options = bytes_into(y, y.up + 20, (byte(y) % 11) * 4) & ~<size_t>3
    elif not how & 128:
        y.tsval += 1
        options = add_timestamp(y, 0)
    if n > 1460 - options:
        n = 1460 - options
    send_segment(y, flags, seq, ack, window, options, n, y.peer_port)


cdef void step_sack(play *y) noexcept nogil:
    """An ACK with blocks near what is in flight."""
    cdef uint8_t n = byte(y) & 3
    cdef uint8_t *o = y.up + 20
    cdef size_t at = add_timestamp(y, 0)
    cdef seq_t una = y.snd_nxt - word(y)
    cdef seq_t start
    cdef int _
    if n == 3 and at:
        n = 2
    put32(o + at, 0x01010500 | <uint32_t>(2 + 8 * n + 8))
    at += 4
    for _ in range(n + 1):
        start = una + word(y)
        put32(o + at, start)
        put32(o + at + 4, start + word(y))
        at += 8
    send_segment(y, 16, y.rcv_nxt, una, 65535, at, 0, y.peer_port)


cdef void step_raw(play *y) noexcept nogil:
    cdef size_t n = word(y) % 1600
    n = bytes_into(y, y.frame, n)
    if n:
        hand_in(y, y.frame, n)


cdef void step_ip(play *y) noexcept nogil:
    """A packet whose header is the input's, its length and checksum right."""
    cdef uint8_t *h = y.frame + 14
    cdef uint8_t how = byte(y)
    cdef size_t n = ip_header(y, byte(y), 0)
    cdef size_t options = (how & 3) * 4
    h[0] = <uint8_t>(0x45 + (how & 3))
    put16(h + 4, how >> 2 & 3)
    put16(h + 6, word(y) if how & 16 else 0)
    options = bytes_into(y, h + 20, options)
    n += options
    if how & 32:
        n += bytes_into(y, h + n, byte(y) * 4)
    else:
        memset(h + n, byte(y), 32)
        n += byte(y) * 4
    mend_ip(h, n)
    inject(y, n)


cdef void step_udp(play *y) noexcept nogil:
    cdef uint8_t how = byte(y)
    inject(y, ip_header(y, 17, datagram(y, how, 8 + byte(y))))


cdef size_t datagram(play *y, uint8_t how, size_t n) noexcept nogil:
    """At y.up; returns its length."""
    cdef uint8_t *u = y.up
    memset(u, 0x55, n)
    put16(u, 53)
    put16(u + 2, 5353 if how & 1 else 9)
    put16(u + 4, <uint16_t>(n if not how & 2 else word(y)))
    put_sum(u + 6, 0)
    if not how & 4:
        put_sum(u + 6, csum_fold(csum_add(pseudo(y, 17, n), csum_partial(u, n))) ^ 0xFFFF)
    return n


cdef size_t quotation(play *y, uint8_t *q, uint8_t how) noexcept nogil:
    """A packet of ours, as an error quotes it: a segment, or a datagram; returns its length."""
    cdef uint8_t proto = 17 if how & 4 else 6
    cdef uint8_t *t
    if y.six:
        ip6_header(q, proto, 1460)
        put_addresses6(q, OURS, PEER)
        t = q + 40
        if how & 16:            # behind an extension header
            q[6] = 60 if how & 32 else 44
            put32(q + 40, <uint32_t>proto << 24)
            put32(q + 44, 0)
            t += 8
    else:
        q[0] = 0x45
        put16(q + 2, 1500)
        put16(q + 6, 0x4000)
        q[8] = 64
        q[9] = proto
        put32(q + 12, OURS)
        put32(q + 16, PEER)
        t = q + 20
    put16(t, 5353 if how & 4 else y.our_port)
    put16(t + 2, 53 if how & 4 else y.peer_port)
    put32(t + 4, y.snd_nxt - byte(y))
    return t + 8 - q


cdef void step_icmp(play *y) noexcept nogil:
    """A message; errors quote a segment of ours, or a datagram."""
    cdef uint8_t *m = y.up
    cdef uint8_t how = byte(y)
    cdef size_t n = 8
    memset(m, 0, 80)
    m[0] = byte(y)
    m[1] = byte(y)
    if how & 1:
        put32(m + 4, dword(y))
    elif how & 8:
        put32(m + 4, 552 + word(y) % 1500)
    if how & 2:
        n += quotation(y, m + n, how)
    n += bytes_into(y, m + n, byte(y))
    send_icmp(y, n)


cdef void send_icmp(play *y, size_t n) noexcept nogil:
    cdef uint8_t *m = y.up
    put_sum(m + 2, 0)
    put_sum(m + 2, csum_fold(csum_add(pseudo(y, 58, n) if y.six else 0, csum_partial(m, n))) ^ 0xFFFF)
    inject(y, ip_header(y, 58 if y.six else 1, n))


cdef void step_arp(play *y) noexcept nogil:
    cdef uint8_t how = byte(y)
    say_arp(y, 1 + (how & 1), PEER + (how >> 1 & 7), OURS + (how >> 4 & 3), 2 + (how >> 6))


cdef void step_stranger(play *y) noexcept nogil:
    """Somebody else knocks at the listener."""
    cdef uint8_t flags = byte(y)
    cdef uint16_t port = 5000 + byte(y)
    send_segment(y, flags, dword(y) if flags & 64 else 7, y.snd_nxt, 1000, syn_options(y, 0), 0, port)


cdef void step_ip6(play *y) noexcept nogil:
    """A packet of version 6: a transport header behind extension headers, or just bytes."""
    cdef uint8_t how = byte(y)
    if y.six and how & 32:
        step_chain(y, how)
    else:
        step_bytes6(y, how)


cdef void step_bytes6(play *y, uint8_t how) noexcept nogil:
    """Next header, hops and what follows are the input's; TCP, UDP and ICMPv6 get checksums."""
    cdef uint8_t *h = y.frame + 14
    cdef size_t n
    cdef int where = -1
    ip6_header(h, byte(y), 0)
    if how & 1:
        h[7] = 255
    h[23] = 2 + (how >> 1 & 1)
    if how & 4:
        h[24] = 0xFF            # ff02::1
        h[25] = 2
    n = bytes_into(y, h + 40, byte(y) * 4)
    put16(h + 4, <uint16_t>(n if not how & 8 else word(y)))
    if h[6] == 6 and n >= 20:
        where = 16
    elif h[6] == 17 and n >= 8:
        where = 6
    elif h[6] == 58 and n >= 4:
        where = 2
    if where >= 0 and not how & 16:
        put_sum(h + 40 + where, 0)
        put_sum(h + 40 + where, csum_fold(csum_add(pseudo6(h + 8, h[6], n), csum_partial(h + 40, n))) ^ 0xFFFF)
    inject(y, 40 + n)


cdef size_t upper(play *y, uint8_t what, uint8_t *proto) noexcept nogil:
    """A message at y.up for the chain to end with; its length."""
    cdef size_t n = 8 + (what >> 3) * 8
    what &= 7
    if what <= 2:
        proto[0] = 6
        return segment(y, 16 if what else 2, y.rcv_nxt, y.snd_nxt, 65535, add_timestamp(y, 0),
                       n - 8 if what == 2 else 0, y.peer_port)
    if what <= 4:
        proto[0] = 17
        return datagram(y, what & 1, n)
    if what <= 6:
        proto[0] = 58
        memset(y.up, 0, n)
        y.up[0] = 128 if what == 5 else byte(y)
        put_sum(y.up + 2, csum_fold(csum_add(pseudo(y, 58, n), csum_partial(y.up, n))) ^ 0xFFFF)
        return n
    proto[0] = byte(y)
    memset(y.up, 0, n)
    return n


cdef size_t extension(play *y, uint8_t *to, uint8_t kind) noexcept nogil:
    """An extension header of the input's choice, its own next header still 0; returns its length."""
    cdef size_t n = 8 * (1 + (kind >> 2 & 3))
    memset(to, 0, 32)
    if kind & 3 == 3:           # a fragment header: where, whether more follow, of which datagram
        put16(to + 2, (word(y) if kind & 16 else byte(y)) & 0xFFF9)
        put32(to + 4, byte(y) & 3)
        return 8
    to[1] = <uint8_t>(n // 8 - 1)
    if kind & 16:
        bytes_into(y, to + 2, n - 2)
    if kind & 32:
        to[1] = byte(y)
    return n


cdef void step_chain(play *y, uint8_t how) noexcept nogil:
    """Up to seven extension headers, then a message; behind a fragment header the part of it that that one names."""
    cdef uint8_t[4] kinds = [0, 60, 43, 44]
    cdef uint8_t whole[320]
    cdef uint8_t *h = y.frame + 14
    cdef uint8_t *named = h + 6
    cdef uint8_t proto = 59
    cdef uint8_t kind
    cdef size_t n = min(upper(y, byte(y), &proto), sizeof(whole))
    cdef size_t begin = 0
    cdef size_t at = 40
    cdef size_t part
    cdef int _
    memcpy(whole, y.up, n)
    ip6_header(h, 0, 0)
    if how & 4:
        h[24] = 0xFF            # ff02::1
        h[25] = 2
    for _ in range(how & 3 if not how & 64 else 4 + (how & 3)):
        kind = byte(y)
        part = extension(y, h + at, kind)
        named[0] = kinds[kind & 3]
        if kind & 3 == 3:
            begin = h[at + 3] & 0xF8
            if h[at + 3] & 1:
                n = min(n, begin + 8 * (1 + (byte(y) & 7)))
        named = h + at
        at += part
    named[0] = proto
    if n > begin:
        memcpy(h + at, whole + begin, n - begin)
        at += n - begin
    put16(h + 4, <uint16_t>(at - 40))
    inject(y, at)


cdef void user_send(play *y, size_t n) noexcept nogil:
    cdef mblk *m
    if y.user == NULL or tcp_send_room(y.user) <= 0 or n == 0:
        return
    m = allocb(y.e.ctx.mem, n)
    if m == NULL:
        return
    memset(m.rptr, 0x42, n)
    m.wptr = m.rptr + n
    tcp_send(y.user, m, 0)


cdef void user_recv(play *y, size_t n, int flags) noexcept nogil:
    cdef int err = 0
    if y.user != NULL:
        freemsg(tcp_recv(y.user, n, flags, &err))


cdef void step_user(play *y) noexcept nogil:
    cdef uint8_t what = byte(y)
    cdef uint8_t value = byte(y)
    what &= 15
    if what <= 1:
        user_send(y, 1 + value * (100 if what else 1))
    elif what <= 3:
        user_recv(y, 1 + value * 64, what == 3)
    elif what == 4:
        accept(y)
    elif y.user == NULL:
        if what == 5:
            connect(y, value)
    elif what == 5:
        tcp_shutdown(y.user, value % 3)
    elif what == 6:
        tcp_close(y.user)
        y.user = NULL
    elif what == 7:
        tcp_abort(y.user)
        y.user = NULL
    elif what <= 10:
        tcp_setopt(y.user, 1 + value % 20, <int64_t>1 << (value >> 4 if what == 8 else value & 31))
    else:
        tcp_take_error(y.user)
        tcp_events(y.user)


cdef void step_datagrams(play *y) noexcept nogil:
    """The user's side of UDP."""
    cdef uint8_t what = byte(y)
    cdef ipaddr a = address(y, PEER)
    cdef ipaddr any = anywhere(y)
    cdef udp_meta meta
    cdef mblk *m
    if y.udp == NULL:
        y.udp = udp_open(&y.e.udp)
        if y.udp != NULL:
            if y.six:
                y.udp.entry.family = FLOW_V6
                y.udp.entry.key.laddr = any
            y.udp.df = (what & 16) != 0
            udp_bind(y.udp, &any, 5353)
        return
    if what & 1:
        udp_connect(y.udp, &a, 53)
    if what & 2:
        m = allocb(y.e.ctx.mem, 1 + what * 20)
        if m != NULL:
            memset(m.rptr, 0, 1 + what * 20)
            m.wptr = m.rptr + 1 + what * 20
            udp_send(y.udp, m, &a, 53, what & 64)
    if what & 4:
        freemsg(udp_recv(y.udp, &meta, (what & 8) != 0))
    if what & 128:
        udp_close(y.udp)
        y.udp = NULL


# --- rules --------------------------------------------------------------------------------------------------------
cdef int check(play *y) noexcept nogil:
    cdef tcb *c = y.user
    if c == NULL or c.state in (TCPS_CLOSED, TCPS_LISTEN, TCPS_SYN_SENT):
        y.edge_of = NULL
        return 0
    if y.edge_of == c and seq_lt(c.rcv_adv, y.edge):
        return BROKEN_WINDOW
    y.edge_of = c
    y.edge = c.rcv_adv
    if seq_gt(c.snd_una, c.snd_nxt) or seq_gt(c.snd_nxt, c.snd_end + 1):
        return BROKEN_NUMBERS
    if c.sb.held + c.sb.lost + c.sb.resent > flight(c):
        return BROKEN_SACK
    if c.ooo.n > OOO_RUNS:
        return BROKEN_RUNS
    if c.rcvbuf > y.limit:
        y.limit = c.rcvbuf
    if rcv_held(c) > 2 * <uint64_t>y.limit + 256 * 1024:
        return BROKEN_HELD
    if c.cwnd and c.cwnd < c.snd_mss and c.state != TCPS_SYN_RECEIVED:
        return BROKEN_CWND
    return 0


cdef int step(play *y) noexcept nogil:
    cdef uint8_t op = byte(y)
    cdef uint8_t what = op & 15
    cdef int broken = 0
    y.exact = (op & 64) != 0
    if what <= 2:
        step_segment(y)
    elif what == 3:
        step_sack(y)
    elif what == 4:
        step_raw(y)
    elif what == 5:
        step_ip(y)
    elif what <= 7:
        broken = wait(y, <ns_t>1 << (14 + byte(y) % 27))
    elif what <= 9:
        step_user(y)
    elif what == 10:
        step_udp(y)
    elif what == 11:
        step_icmp(y)
    elif what == 12:
        step_arp(y)
    elif what == 13:
        step_stranger(y)
    elif what == 14:
        step_ip6(y)
    else:
        step_datagrams(y)
    if not op & 128:            # else the next one comes in the same burst
        poll(y)
    return broken if broken else check(y)


cdef int end(play *y) noexcept nogil:
    cdef arena *mem = y.e.ctx.mem
    cdef int64_t left
    poll(y)
    if y.user != NULL:
        tcp_abort(y.user)
    if y.listener != NULL:
        tcp_abort(y.listener)
    if y.udp != NULL:
        udp_close(y.udp)
    poll(y)
    if mem != NULL:
        arena_ref(mem)
    engine_free(&y.e)
    y.dev.ops.close(y.dev)
    if mem == NULL:
        return 0
    arena_reap(mem)
    left = arena_live(mem)
    if left:
        arena_unref(mem)
    else:
        spare[y.budget] = mem
    return BROKEN_LEAK if left else 0


cdef int fuzz_one(const uint8_t *data, size_t n) noexcept nogil:
    cdef play *y = &Y
    cdef int broken = 0
    cdef uint8_t state
    cdef int last
    cdef int _
    if n < 2:
        return 0
    if not make(y, data, n):
        return BROKEN_START
    state = byte(y) % 12
    bring_about(y, state, byte(y))
    for _ in range(STEPS_MAX):
        if broken or not y.more:
            break
        broken = step(y)
    last = end(y)
    return broken if broken else last


def run(data: bytes) -> int:
    """One execution: 0, or the number of the rule that was broken."""
    cdef const uint8_t *p = data
    cdef size_t n = len(data)
    cdef int result
    result = fuzz_one(p, n)     # with the GIL: there is one stack
    return result


def entry() -> int:
    """Where ``int fuzz_one(const uint8_t *data, size_t n)`` lies."""
    return <size_t>&fuzz_one
