"""The engine: see engine.pxd."""

from libc.errno cimport EMFILE, ENODEV, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.codes cimport (
    CAP_RX_CSUM, CAP_TSO4, CAP_TSO6, CAP_TX_CSUM, LINK_DOWN, LINK_GONE, LINK_UP)
from ustack._core.base.counters cimport (
    C_IP_NOMEM, C_LINK_DOWN, C_LINK_GONE, C_LINK_RX, C_LINK_RX_BYTES, C_LINK_TX, C_LINK_TX_BYTES, C_LINK_TX_DOWN,
    C_LINK_TX_QUEUE_FULL, count, count_n)
from ustack._core.base.addr cimport ip_from4, ipaddr
from ustack._core.base.rng cimport rng_seed
from ustack._core.base.types cimport NS_MS, ns_t
from ustack._core.base.wheel cimport wheel_deadline, wheel_init, wheel_run
from ustack._core.inet.inet cimport (
    inet_add_addr, inet_add_if, inet_free, inet_init, inet_input, inet_remove_if)
from ustack._core.inet.netif cimport IF_MAX, netif
from ustack._core.inet.ping cimport ping_free, ping_init
from ustack._core.inet.offload cimport offload_coalesce, offload_flatten
from ustack._core.link.link cimport link
from ustack._core.mem.arena cimport arena, arena_create, arena_release, arena_reserve, arena_take
from ustack._core.mem.mblk cimport dblk, dblk_unref, freelist, freemsg, mblk
from ustack._core.stack.sockets cimport sock_relays
from ustack._core.tcp.foresee cimport tcp_foresee
from ustack._core.tcp.tcp cimport tcp_egress, tcp_free, tcp_init
from ustack._core.udp.udp cimport udp_free, udp_init

cdef ns_t RETRY_DOWN = 100 * NS_MS

cdef enum:
    LOOPBACK_MTU = 65535
    ETHERNET_HEADER = 14


# --- the source of receive buffers --------------------------------------------------------------------------------

cdef dblk *take_buffer(void *owner, size_t size) noexcept nogil:
    return arena_take(<arena *>owner, size)


cdef void give_buffer(void *owner, dblk *d) noexcept nogil:
    dblk_unref(d)


# --- life ---------------------------------------------------------------------------------------------------------

cdef int engine_init(engine *e, ns_t now, int64_t budget, const uint64_t *seed, int words) noexcept nogil:
    cdef int r
    memset(e, 0, sizeof(engine))
    e.ctx.now = now
    wheel_init(&e.ctx.timers, now)
    rng_seed(&e.ctx.dice, seed, words)
    e.ctx.mem = arena_create(budget, &e.ctx.book)
    if e.ctx.mem == NULL:
        return -ENOMEM
    arena_reserve(e.ctx.mem, budget >> 4)
    e.src.owner = e.ctx.mem
    e.src.take = take_buffer
    e.src.give = give_buffer
    r = inet_init(&e.net, &e.ctx)
    if r == 0:
        r = udp_init(&e.udp, &e.ctx, &e.net)
    if r == 0:
        r = ping_init(&e.ping, &e.ctx, &e.net)
    if r == 0:
        r = tcp_init(&e.tcp, &e.ctx, &e.net)
    if r == 0:
        r = add_loopback(e)
    return r


cdef void engine_free(engine *e) noexcept nogil:
    tcp_free(&e.tcp)
    udp_free(&e.udp)
    ping_free(&e.ping)
    while e.ifs != NULL:
        engine_remove_link(e, e.ifs)
    inet_free(&e.net)
    if e.ctx.mem != NULL:
        arena_release(e.ctx.mem)
        e.ctx.mem = NULL


cdef iface *new_iface(engine *e) noexcept nogil:
    cdef iface *i
    if e.net.nifs >= IF_MAX:
        return NULL
    i = <iface *>calloc(1, sizeof(iface))
    if i == NULL:
        return NULL
    i.eng = e
    i.ifp.owner = i
    i.ifp.xmit = queue_packet
    i.ifp.room = queue_room
    i.ifp.up = True
    return i


cdef int publish(engine *e, iface *i) noexcept nogil:
    cdef int r = inet_add_if(&e.net, &i.ifp)
    if r != 0:
        free(i)
        return r
    i.next = e.ifs
    e.ifs = i
    e.generation += 1
    return 0


cdef int add_loopback(engine *e) noexcept nogil:
    cdef iface *i = new_iface(e)
    cdef ipaddr home = ip_from4(0x7F000001)
    cdef int r
    if i == NULL:
        return -ENOMEM
    i.ifp.layer = 0
    i.ifp.mtu = LOOPBACK_MTU
    i.ifp.gso_max = LOOPBACK_MTU
    i.ifp.max_sg = 0xFFFF
    i.ifp.caps = CAP_TX_CSUM | CAP_RX_CSUM | CAP_TSO4 | CAP_TSO6
    r = publish(e, i)
    if r != 0:
        return r
    e.loopback = i
    r = inet_add_addr(&e.net, &i.ifp, &home, 96 + 8)
    if r != 0:
        return r
    home.lo = 1                         # ::1
    return inet_add_addr(&e.net, &i.ifp, &home, 128)


cdef int engine_add_link(engine *e, link *dev, iface **out) noexcept nogil:
    cdef iface *i = new_iface(e)
    cdef int r
    out[0] = NULL
    if i == NULL:
        return -EMFILE
    i.dev = dev
    i.ifp.layer = dev.layer
    memcpy(i.ifp.mac, dev.mac, 6)
    i.ifp.mtu = dev.mtu
    i.ifp.gso_max = dev.gso_max
    i.ifp.max_sg = dev.max_sg
    i.ifp.rx_room = dev.rx_room
    i.ifp.caps = dev.caps
    dev.mem = e.ctx.mem
    dev.src = &e.src
    dev.book = &e.ctx.book
    if dev.ops.attached != NULL:
        dev.ops.attached(dev)
    r = publish(e, i)
    if r == 0:
        out[0] = i
    return r


cdef void engine_remove_link(engine *e, iface *i) noexcept nogil:
    cdef iface **at = &e.ifs
    while at[0] != NULL and at[0] != i:
        at = &at[0].next
    if at[0] == NULL:
        return
    at[0] = i.next
    inet_remove_if(&e.net, &i.ifp)
    freelist(i.txq)
    if e.loopback == i:
        e.loopback = NULL
    free(i)
    e.generation += 1


# --- out ----------------------------------------------------------------------------------------------------------

cdef inline bint many_blocks(const mblk *m, uint32_t max) noexcept nogil:
    """Whether a chain has more than `max` blocks."""
    while m != NULL and max > 0:
        m = m.cont
        max -= 1
    return m != NULL


cdef void queue_packet(netif *ifp, mblk *taken) noexcept nogil:
    """netif.xmit: the packet goes out with the next egress."""
    cdef iface *i = <iface *>ifp.owner
    if i.ntx >= TXQ_MAX:
        count(&i.eng.ctx.n, C_LINK_TX_QUEUE_FULL)
        freemsg(taken)
        return
    if many_blocks(taken, ifp.max_sg):
        # Of many small writes that had to wait, for instance.
        taken = offload_flatten(&i.eng.ctx, taken)
        if taken == NULL:
            count(&i.eng.ctx.n, C_IP_NOMEM)
            return
    taken.next = NULL
    if i.txq_tail == NULL:
        i.txq = taken
    else:
        i.txq_tail.next = taken
    i.txq_tail = taken
    i.ntx += 1
    i.eng.egress_pending = True


cdef int queue_room(netif *ifp) noexcept nogil:
    """netif.room: half of the queue is for those who cannot wait (ACKs, datagrams)."""
    cdef iface *i = <iface *>ifp.owner
    cdef int left = TXQ_MAX // 2 - i.ntx
    return left if left > 0 else 0


cdef mblk *dequeue(iface *i) noexcept nogil:
    cdef mblk *m = i.txq
    i.txq = m.next
    if i.txq == NULL:
        i.txq_tail = NULL
    m.next = NULL
    i.ntx -= 1
    return m


cdef void drop_queue(engine *e, iface *i) noexcept nogil:
    """The link is down: what waits for it is lost, as on a cable that was pulled."""
    count_n(&e.ctx.n, C_LINK_TX_DOWN, i.ntx)
    freelist(i.txq)
    i.txq = NULL
    i.txq_tail = NULL
    i.ntx = 0


cdef void note_state(engine *e, iface *i, int error) noexcept nogil:
    """A device reported that it is down or gone: count it once, tell the internet layer."""
    cdef int state = LINK_GONE if error == -ENODEV else LINK_DOWN
    if i.dev.state < state:
        i.dev.state = state
    if i.seen_gone != <uint64_t>state:
        i.seen_gone = state
        count(&e.ctx.n, C_LINK_GONE if state == LINK_GONE else C_LINK_DOWN)
        e.generation += 1
    i.ifp.up = False


cdef void note_up(engine *e, iface *i) noexcept nogil:
    if not i.ifp.up and i.dev.state == LINK_UP:
        i.ifp.up = True
        i.seen_gone = 0
        e.generation += 1


cdef void set_blocked(engine *e, iface *i, bint blocked) noexcept nogil:
    if i.tx_blocked == blocked:
        return
    i.tx_blocked = blocked
    e.generation += 1
    if i.dev.ops.want_tx != NULL:
        i.dev.ops.want_tx(i.dev, blocked)


cdef int flush(engine *e, iface *i) noexcept nogil:
    """Hand waiting packets to the link in bursts until it is busy; returns how many it took."""
    cdef mblk *burst[BURST]
    cdef mblk *m
    cdef uint64_t sizes[BURST]
    cdef int n, sent, k
    cdef int total = 0
    while i.ntx:
        n = 0
        m = i.txq
        while m != NULL and n < BURST:
            burst[n] = m
            sizes[n] = m.pkt_len
            n += 1
            m = m.next
        sent = i.dev.ops.tx(i.dev, burst, n, e.ctx.now)
        if sent < 0:
            note_state(e, i, sent)
            drop_queue(e, i)
            break
        relink(i, burst, n, sent, m)
        count_n(&e.ctx.n, C_LINK_TX, sent)
        for k in range(sent):
            count_n(&e.ctx.n, C_LINK_TX_BYTES, sizes[k])
        total += sent
        if sent < n:
            set_blocked(e, i, True)
            return total
    set_blocked(e, i, False)
    return total


cdef void relink(iface *i, mblk **burst, int n, int sent, mblk *behind) noexcept nogil:
    """Take the first `sent` packets of a burst off the queue; the link owns them, and may have freed them."""
    i.ntx -= sent
    i.txq = burst[sent] if sent < n else behind
    if i.txq == NULL:
        i.txq_tail = NULL


cdef int engine_egress(engine *e, ns_t now) noexcept nogil:
    cdef iface *i
    cdef int moved = 0
    cdef int before
    cdef bint more
    e.ctx.now = now
    while True:
        more = tcp_egress(&e.tcp)
        before = moved
        e.egress_pending = False
        i = e.ifs
        while i != NULL:
            if i.dev != NULL and i.ntx:
                moved += flush(e, i)
            i = i.next
        if not more or moved == before:
            break
    return moved


# --- in -----------------------------------------------------------------------------------------------------------

cdef int loop_ingress(engine *e, iface *i, int budget) noexcept nogil:
    """Packets to ourselves: what is queued now, not what they cause."""
    cdef int n = i.ntx if i.ntx < budget else budget
    cdef int _k
    for _k in range(n):
        inet_input(&e.net, &i.ifp, dequeue(i))
    return n


cdef int link_ingress(engine *e, iface *i, int budget) noexcept nogil:
    """One burst from a link; returns how many packets, counted before coalescing."""
    cdef mblk *burst[BURST]
    cdef int want = BURST if budget > BURST else budget
    cdef int l3 = ETHERNET_HEADER if i.ifp.layer == 2 else 0
    cdef int n = i.dev.ops.rx(i.dev, burst, want, e.ctx.now)
    cdef int k, left
    if i.dev.state == LINK_DOWN:
        i.retry = e.ctx.now + RETRY_DOWN
    if n < 0:
        note_state(e, i, n)
        return 0
    note_up(e, i)
    if n == 0:
        return 0
    i.ifp.rx_room = i.dev.rx_room
    count_n(&e.ctx.n, C_LINK_RX, n)
    for k in range(n):
        e.ctx.n.n[C_LINK_RX_BYTES] += burst[k].pkt_len
    left = n
    if n > 1:
        left = offload_coalesce(&e.ctx, burst, n, l3)
    if left > 1:
        tcp_foresee(&e.tcp, burst, left, l3)
    for k in range(left):
        inet_input(&e.net, &i.ifp, burst[k])
    return n


cdef int engine_ingress(engine *e, ns_t now, int budget) noexcept nogil:
    cdef iface *i
    cdef iface *following
    cdef int total = 0
    cdef int n
    e.ctx.now = now
    e.rx_more = False
    i = e.ifs
    while i != NULL and total < budget:
        following = i.next
        if i.dev == NULL:
            n = loop_ingress(e, i, budget - total)
        else:
            n = link_ingress(e, i, budget - total)
        if n >= BURST:
            e.rx_more = True
        total += n
        i = following
    if e.loopback != NULL and e.loopback.ntx:
        e.rx_more = True
    return total


# --- together -----------------------------------------------------------------------------------------------------

cdef int engine_timers(engine *e, ns_t now) noexcept nogil:
    e.ctx.now = now
    return wheel_run(&e.ctx.timers, now)


cdef int engine_poll(engine *e, ns_t now, int budget) noexcept nogil:
    cdef int moved = 0
    cdef int rounds
    cdef int n
    for rounds in range(LOOP_ROUNDS):
        n = engine_ingress(e, now, BURST)
        if rounds == 0:
            n += engine_timers(e, now)
        if e.relays:
            sock_relays(e)
        n += engine_egress(e, now)
        moved += n
        if moved >= budget or not (e.rx_more or e.loopback.ntx):
            break
    return moved


cdef ns_t engine_deadline(engine *e) noexcept nogil:
    cdef ns_t best = wheel_deadline(&e.ctx.timers)
    cdef ns_t t
    cdef iface *i
    if e.rx_more or (e.loopback != NULL and e.loopback.ntx):
        return e.ctx.now
    i = e.ifs
    while i != NULL:
        if i.dev != NULL:
            # A device that is down wakes nobody when it comes up again: look now and then.
            if i.dev.state == LINK_DOWN and i.dev.ops.fds != NULL and i.retry < best:
                best = i.retry
            if i.dev.ops.deadline != NULL:
                t = i.dev.ops.deadline(i.dev)
                if t < best:
                    best = t
            if i.dev.ops.fds == NULL and i.dev.ops.pending != NULL and i.dev.ops.pending(i.dev) == 1:
                return e.ctx.now
        i = i.next
    return best


cdef int engine_pending(engine *e) noexcept nogil:
    cdef iface *i = e.ifs
    cdef int answer = 0
    cdef int one
    if e.rx_more or (e.loopback != NULL and e.loopback.ntx):
        return 1
    while i != NULL:
        if i.dev != NULL:
            one = -1 if i.dev.ops.pending == NULL else i.dev.ops.pending(i.dev)
            if one == 1:
                return 1
            if one < 0:
                answer = -1
        i = i.next
    return answer
