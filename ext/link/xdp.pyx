"""AF_XDP: see xdp.pxd."""

from libc.errno cimport (
    EAGAIN, EBUSY, EINVAL, EIO, ENETDOWN, ENOBUFS, ENODEV, ENOMEM, EOPNOTSUPP, ERANGE,
)
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ustack._core.base.codes cimport CAP_GATHER, CAP_NEED_WAKEUP, CSUM_NONE, LINK_DOWN, LINK_GONE, LINK_UP
from ustack._core.base.ledger cimport LR_DEVICE_RX, LR_DEVICE_TX, LR_RING_COPY, LR_RING_FILL, ledger_book
from ustack._core.base.types cimport NS_MS, atomic_load32, atomic_store32, ns_t, unlikely
from ustack._core.link.link cimport link, link_fits, link_init, link_ops
from ustack._core.mem.mblk cimport dblk, freemsg, mblk, mblk_attach, msgappend, msgcopyout
from ustack._core.mem.region cimport region, region_create, region_unref
from ustack._core.mem.source cimport source
from ustack._core.sys.io cimport sys_close
from ustack._core.sys.netdev cimport IFF_UP, sys_if_flags, sys_if_index, sys_if_open
from ustack._core.sys.xdp cimport (
    XDP_BIND_COPY, XDP_BIND_SG, XDP_BIND_WAKEUP, XDP_COMPLETION, XDP_CONTINUED, XDP_FILL, XDP_MODE_DRV, XDP_MODE_SKB,
    XDP_NEEDS_WAKEUP, XDP_RX, XDP_TX, sys_xdp_attach, sys_xdp_bind, sys_xdp_is_zerocopy, sys_xdp_kick, sys_xdp_map,
    sys_xdp_nudge, sys_xdp_program, sys_xdp_ring, sys_xdp_socket, sys_xdp_statistics, sys_xdp_umem, sys_xdp_unmap,
    xdp_desc, xdp_mapped,
)

cdef extern from "<errno.h>" nogil:
    enum:
        ENXIO

cdef struct xdp_ring:
    xdp_mapped m
    uint32_t mask
    uint32_t at                 # our index

cdef struct xdp:
    link base
    xdp_options o
    region *umem                # chunks for receiving, then those for sending
    xdp_ring fill
    xdp_ring done
    xdp_ring inbox
    xdp_ring out
    uint32_t *free              # offsets in chunks, to send with
    uint32_t nfree
    int fd
    int ctl
    int map
    int program
    int attached
    uint32_t mode
    bint frags
    uint64_t bad
    mblk *whole                 # of a packet in several chunks: what came so far
    bint skip                   # … and the rest of it is dropped
    uint32_t pieces
    ns_t checked

cdef link_ops OPS


# --- rings ------------------------------------------------------------------------------------------------------------

cdef inline uint32_t load(uint32_t *p) noexcept nogil:
    return <uint32_t>atomic_load32(<int32_t *>p)


cdef inline uint32_t ready(const xdp_ring *r) noexcept nogil:
    """Entries that the kernel has produced for us: no more than the ring has are believed."""
    cdef uint32_t n = load(r.m.producer) - r.at
    return n if n <= r.mask + 1 else 0


cdef inline uint32_t room(const xdp_ring *r) noexcept nogil:
    cdef uint32_t used = r.at - load(r.m.consumer)
    return r.mask + 1 - used if used <= r.mask + 1 else 0


cdef inline void produced(xdp_ring *r) noexcept nogil:
    atomic_store32(<int32_t *>r.m.producer, r.at)


cdef inline void consumed(xdp_ring *r) noexcept nogil:
    atomic_store32(<int32_t *>r.m.consumer, r.at)


cdef inline bint wants_call(const xdp_ring *r) noexcept nogil:
    return load(r.m.flags) & XDP_NEEDS_WAKEUP != 0


# --- receiving --------------------------------------------------------------------------------------------------------

cdef inline void give_chunk(xdp *p, uint64_t addr) noexcept nogil:
    """To the fill ring, which has room for all of them; published by the caller."""
    (<uint64_t *>p.fill.m.entries)[p.fill.at & p.fill.mask] = addr
    p.fill.at += 1


cdef void begin_packet(xdp *p, size_t n, bint more) noexcept nogil:
    cdef source *src = p.base.src
    cdef size_t most = <size_t>p.base.mtu + 14
    cdef dblk *d = src.take(src.owner, most if more and most > n else n)
    p.whole = mblk_attach(p.base.mem, d) if d != NULL else NULL
    p.pieces = 0
    p.skip = p.whole == NULL
    if p.skip:
        p.base.stats.rx_nomem += 1


cdef mblk *take_piece(xdp *p, const xdp_desc *d) noexcept nogil:
    """One descriptor; the packet if it is the last of it."""
    cdef bint more = d.options & XDP_CONTINUED != 0
    cdef uint64_t limit = <uint64_t>p.o.frames * XDP_CHUNK
    cdef mblk *m
    if p.whole == NULL and not p.skip:
        begin_packet(p, d.len, more)
    if unlikely(d.addr >= limit or d.len > XDP_CHUNK - d.addr % XDP_CHUNK):
        p.bad += 1
        p.skip = True
    elif not p.skip:
        p.pieces += 1
        if d.len > <size_t>(p.whole.dp.lim - p.whole.wptr) or p.pieces > XDP_FRAGS:
            p.base.stats.rx_truncated += 1
            p.skip = True
        else:
            msgappend(p.base.book, LR_RING_COPY, p.whole, p.umem.base + d.addr, d.len)
    if more:
        return NULL
    m = p.whole
    p.whole = NULL
    if p.skip:
        freemsg(m)
        p.skip = False
        return NULL
    return m


cdef int xdp_rx(link *l, mblk **out, int max, ns_t now) noexcept nogil:
    cdef xdp *p = <xdp *>l
    cdef uint32_t n = ready(&p.inbox), k
    cdef xdp_desc d
    cdef mblk *m
    cdef int got = 0
    for k in range(n):
        if got == max:
            n = k
            break
        d = (<xdp_desc *>p.inbox.m.entries)[p.inbox.at & p.inbox.mask]
        p.inbox.at += 1
        m = take_piece(p, &d)
        if d.addr < <uint64_t>p.o.frames * XDP_CHUNK:
            give_chunk(p, d.addr - d.addr % XDP_CHUNK)
        if m == NULL:
            continue
        if m.wptr - m.rptr < 14:
            l.stats.rx_bad += 1
            freemsg(m)
            continue
        m.pkt_len = m.wptr - m.rptr
        m.csum = CSUM_NONE
        ledger_book(l.book, LR_DEVICE_RX, m.pkt_len)
        l.stats.rx += 1
        l.stats.rx_bytes += m.pkt_len
        out[got] = m
        got += 1
    if n:
        consumed(&p.inbox)
        produced(&p.fill)
    if got or (n and ready(&p.inbox)):
        return got
    return idle(p, now)


cdef int idle(xdp *p, ns_t now) noexcept nogil:
    if wants_call(&p.fill):
        p.base.stats.rx_calls += 1
        sys_xdp_nudge(p.fd)
    if p.base.state != LINK_UP or now - p.checked >= 100 * NS_MS or now < p.checked:
        p.checked = now
        p.base.stats.rx_calls += 1
        p.base.state = state_of_device(p)
    if p.base.state == LINK_UP:
        reap(p)
        return 0
    return -ENETDOWN if p.base.state == LINK_DOWN else -ENODEV


cdef int state_of_device(xdp *p) noexcept nogil:
    if p.base.state == LINK_GONE or sys_if_index(p.ctl, p.o.name) != p.o.ifindex:
        return LINK_GONE        # and the socket is bound to nothing for ever
    return LINK_UP if sys_if_flags(p.ctl, p.o.name) & IFF_UP else LINK_DOWN


# --- sending ----------------------------------------------------------------------------------------------------------

cdef void reap(xdp *p) noexcept nogil:
    """Chunks that the kernel is done with."""
    cdef uint32_t n = ready(&p.done), _k
    cdef uint64_t addr, first = <uint64_t>p.o.frames * XDP_CHUNK
    for _k in range(n):
        addr = (<uint64_t *>p.done.m.entries)[p.done.at & p.done.mask]
        p.done.at += 1
        if addr >= first and addr < 2 * first and p.nfree < p.o.frames:
            p.free[p.nfree] = addr // XDP_CHUNK
            p.nfree += 1
        else:
            p.bad += 1
    if n:
        consumed(&p.done)


cdef int kick(xdp *p) noexcept nogil:
    """0, or -errno if the device is down or gone. The kernel sends 32 frames a call."""
    cdef int r = 0, _k
    for _k in range(64):
        if load(p.out.m.consumer) == p.out.at:
            return 0
        p.base.stats.tx_calls += 1
        r = sys_xdp_kick(p.fd)
        if r not in (0, -EAGAIN):
            break
    if r in (0, -EAGAIN, -EBUSY, -ENOBUFS):
        return 0
    p.base.state = state_of_device(p)
    if p.base.state == LINK_UP and r == -ENXIO:
        p.base.state = LINK_GONE        # it was replaced by another of its name
    return 0 if p.base.state == LINK_UP else -ENETDOWN if p.base.state == LINK_DOWN else -ENODEV


cdef void put_packet(xdp *p, mblk *m, uint32_t chunks) noexcept nogil:
    cdef uint32_t at = 0, k, n
    cdef uint64_t addr
    cdef xdp_desc *d
    for k in range(chunks):
        p.nfree -= 1
        addr = <uint64_t>p.free[p.nfree] * XDP_CHUNK
        n = m.pkt_len - at if m.pkt_len - at < XDP_CHUNK else XDP_CHUNK
        msgcopyout(p.base.book, LR_RING_FILL, m, at, p.umem.base + addr, n)
        d = &(<xdp_desc *>p.out.m.entries)[p.out.at & p.out.mask]
        d.addr = addr
        d.len = n
        d.options = XDP_CONTINUED if k + 1 < chunks else 0
        p.out.at += 1
        at += n


cdef int xdp_tx(link *l, mblk **pkts, int n, ns_t now) noexcept nogil:
    cdef xdp *p = <xdp *>l
    cdef uint32_t chunks
    cdef int i, r
    if l.state == LINK_GONE:
        return -ENODEV
    if l.state == LINK_DOWN:            # what it has not sent yet, it sends when it is up again
        r = kick(p)
        if r < 0:
            return r
    reap(p)
    for i in range(n):
        chunks = (pkts[i].pkt_len + XDP_CHUNK - 1) // XDP_CHUNK
        if unlikely(not link_fits(l, pkts[i]) or chunks == 0 or chunks > (<uint32_t>XDP_FRAGS if p.frags else 1)):
            l.stats.tx_drop += 1
            freemsg(pkts[i])
            continue
        if chunks > p.nfree or chunks > room(&p.out):
            produced(&p.out)
            kick(p)
            reap(p)
            if chunks > p.nfree or chunks > room(&p.out):
                l.stats.tx_busy += 1
                return i
        put_packet(p, pkts[i], chunks)
        ledger_book(l.book, LR_DEVICE_TX, pkts[i].pkt_len)
        l.stats.tx += 1
        l.stats.tx_bytes += pkts[i].pkt_len
        freemsg(pkts[i])
    produced(&p.out)
    kick(p)                             # a device that is down says so at the next look: these are taken
    return n


cdef int xdp_pending(link *l) noexcept nogil:
    return ready(&(<xdp *>l).inbox) != 0


cdef int xdp_fds(link *l, int *fds, int max) noexcept nogil:
    if max < 1 or l.state == LINK_GONE:
        return 0                # the socket of a device that is gone is in error for ever: nobody may sleep on it
    fds[0] = (<xdp *>l).fd
    return 1


# --- life -------------------------------------------------------------------------------------------------------------

cdef void close_fd(int fd) noexcept nogil:
    if fd >= 0:
        sys_close(fd)


cdef void xdp_close(link *l) noexcept nogil:
    cdef xdp *p = <xdp *>l
    close_fd(p.attached)        # no frames are steered here any more
    close_fd(p.program)
    close_fd(p.map)
    freemsg(p.whole)
    sys_xdp_unmap(&p.fill.m)    # the queue stays taken until all of it is unmapped
    sys_xdp_unmap(&p.done.m)
    sys_xdp_unmap(&p.inbox.m)
    sys_xdp_unmap(&p.out.m)
    close_fd(p.fd)
    close_fd(p.ctl)
    if p.umem != NULL:
        region_unref(p.umem)
    free(p.free)
    free(p)


cdef int open_ring(xdp *p, xdp_ring *r, int which) noexcept nogil:
    r.mask = p.o.frames - 1
    return sys_xdp_ring(p.fd, which, p.o.frames, &r.m)


cdef int open_socket(xdp *p, int *step) noexcept nogil:
    """A socket with its UMEM and rings, not bound."""
    cdef int e = 0
    step[0] = XDP_STEP_SOCKET
    p.fd = sys_xdp_socket()
    if p.fd < 0:
        return p.fd
    step[0] = XDP_STEP_UMEM
    e = sys_xdp_umem(p.fd, p.umem.base, <uint64_t>p.o.frames * 2 * XDP_CHUNK, XDP_CHUNK)
    if e == 0:
        step[0] = XDP_STEP_RINGS
        e = open_ring(p, &p.fill, XDP_FILL)
    if e == 0:
        e = open_ring(p, &p.done, XDP_COMPLETION)
    if e == 0:
        e = open_ring(p, &p.inbox, XDP_RX)
    if e == 0:
        e = open_ring(p, &p.out, XDP_TX)
    return e


cdef void close_socket(xdp *p) noexcept nogil:
    sys_xdp_unmap(&p.fill.m)
    sys_xdp_unmap(&p.done.m)
    sys_xdp_unmap(&p.inbox.m)
    sys_xdp_unmap(&p.out.m)
    close_fd(p.program)
    close_fd(p.map)
    close_fd(p.fd)
    p.fd = p.map = p.program = -1


cdef int steer(xdp *p, uint32_t mode, bint frags, int *step) noexcept nogil:
    """Attach the program, which makes the device ready for XDP, then bind and enter the socket."""
    cdef int e = open_socket(p, step)
    cdef int flags = XDP_BIND_WAKEUP | (XDP_BIND_SG if frags else 0)
    if e < 0:
        return e
    step[0] = XDP_STEP_BIND
    # The kernel chooses zero copy where the device has it, in native mode.
    e = sys_xdp_bind(p.fd, p.o.ifindex, p.o.queue, flags if mode == XDP_MODE_DRV else flags | XDP_BIND_COPY)
    if e < 0:
        return e
    step[0] = XDP_STEP_PROGRAM
    p.map = sys_xdp_map(p.fd, p.o.queue)
    p.program = sys_xdp_program(p.map, frags) if p.map >= 0 else p.map
    if p.program < 0:
        return p.program
    step[0] = XDP_STEP_ATTACH
    p.attached = sys_xdp_attach(p.program, p.o.ifindex, mode)
    return p.attached if p.attached < 0 else 0


cdef int open_all(xdp *p, int *step) noexcept nogil:
    """The best of what is allowed: native before generic, packets in several chunks before those in one."""
    cdef uint32_t modes[2]
    cdef int e = -EOPNOTSUPP, i, frags
    modes[0], modes[1] = XDP_MODE_DRV, XDP_MODE_SKB
    for i in range(2):
        if not p.o.modes & modes[i]:
            continue
        for frags in range(1, -1, -1):
            e = steer(p, modes[i], frags, step)
            if e == 0:
                p.mode = modes[i]
                p.frags = frags
                return 0
            close_socket(p)
            if e not in (-EOPNOTSUPP, -EINVAL, -ERANGE, -EIO):
                return e
    return e


cdef int provide(xdp *p, int *step) noexcept nogil:
    cdef uint32_t i
    cdef int e = 0
    step[0] = XDP_STEP_UMEM
    p.ctl = sys_if_open()
    if p.ctl < 0:
        return p.ctl
    p.free = <uint32_t *>calloc(p.o.frames, sizeof(uint32_t))
    p.umem = region_create(<size_t>p.o.frames * 2 * XDP_CHUNK, 0, &e)
    if p.umem == NULL or p.free == NULL:
        return e if e < 0 else -ENOMEM
    e = open_all(p, step)
    if e < 0:
        return e
    for i in range(p.o.frames):
        give_chunk(p, <uint64_t>i * XDP_CHUNK)
        p.free[i] = p.o.frames + i
    p.nfree = p.o.frames
    produced(&p.fill)
    return 0


cdef int xdp_create(xdp_options *o, link **made, int *step) noexcept nogil:
    cdef xdp *p = <xdp *>calloc(1, sizeof(xdp))
    cdef int e
    if p == NULL:
        return -ENOMEM
    p.o = o[0]
    p.fd = p.ctl = p.map = p.program = p.attached = -1
    e = provide(p, step)
    if e < 0:
        xdp_close(&p.base)
        return e
    link_init(&p.base, &OPS, 2, o.mtu, o.mac)
    if not p.frags and o.mtu + 14 > XDP_ROOM:
        p.base.mtu = p.base.gso_max = XDP_ROOM - 14
    p.base.caps = CAP_GATHER | CAP_NEED_WAKEUP
    p.base.max_sg = 64
    p.base.state = state_of_device(p)
    made[0] = &p.base
    return 0


cdef void xdp_get_facts(const link *l, xdp_facts *f) noexcept nogil:
    cdef const xdp *p = <const xdp *>l
    memset(f, 0, sizeof(xdp_facts))
    f.mode = p.mode
    f.frags = p.frags
    f.zerocopy = sys_xdp_is_zerocopy(p.fd)
    f.bad_desc = p.bad
    f.kernel_has = p.o.frames - p.nfree
    sys_xdp_statistics(p.fd, f.kernel)


OPS.kind = b"xdp"
OPS.rx = xdp_rx
OPS.tx = xdp_tx
OPS.fds = xdp_fds
OPS.pending = xdp_pending
OPS.close = xdp_close
