"""The transmitting half of a shared-memory link: see shm_tx.pxd."""

from libc.errno cimport EFAULT, EINVAL, EPROTO
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack._core.base.ledger cimport LR_BOUNCE, LR_DEVICE_TX, LR_FLATTEN, ledger_book
from ustack._core.base.types cimport atomic_store32, bit_lowest64, likely, unlikely
from ustack._core.link.link cimport link, link_fits
from ustack._core.link.shm_wire cimport (
    SHM_AT_DONE, SHM_AT_MAP, SHM_AT_TX, SHM_FILE, SHM_FORGET, SHM_HEAD, SHM_PIECE, SHM_REGION, SHM_SLOT, SHM_SPLIT,
    SHM_TX, SHM_VERSION, shm_done, shm_entry, shm_limits, shm_order, shm_piece,
)
from ustack._core.link.vnet cimport vnet_encode
from ustack._core.mem.mblk cimport DB_EXTERNAL, DB_LENT, freemsg, mark_broken, mblk, mblk_len, msgcopyout
from ustack._core.mem.pool cimport pool_region_of
from ustack._core.mem.region cimport region, region_ref, region_unref
from ustack._core.mem.ring cimport (
    RING_CONSUMER, RING_PRODUCER, ring_arm, ring_attach_region, ring_disarm, ring_owes_kick, ring_put, ring_ready,
    ring_take,
)
from ustack._core.mem.share cimport (
    REGION_FILE, REGION_RETIRED, region_file_offset, region_holding, region_seal, region_share,
    regions_retired,
)
from ustack._core.sys.eventfd cimport sys_eventfd_signal
from ustack._core.sys.passing cimport sys_pass

cdef enum:
    BOUNCE_WINDOW = 0

cdef struct extent:             # bytes of a packet that go to the device as one piece, or to a bounce buffer
    uint64_t offset             # in the region
    uint32_t at                 # in the packet
    uint32_t length
    int window                  # -1: bounced

cdef struct plan:
    extent e[SHM_PIECES]
    int n
    bint over                   # too many of them
    uint64_t memory             # bytes to bounce, by reason
    uint64_t align
    uint64_t limit


# --- the regions that the device knows --------------------------------------------------------------------------------

cdef void vacate(shm_sender *s, int i) noexcept nogil:
    """An empty window has the bounce buffers' region, in which nobody looks for anything: that is window 0."""
    region_unref(s.windows[i].r)
    region_ref(s.bounce)
    s.windows[i].r = s.bounce


cdef void look_through(shm_sender *s) noexcept nogil:
    """Regions that nobody sends from any more: let them go, and have the device do so."""
    cdef shm_order o
    cdef int32_t retired = regions_retired()
    cdef bint later = False
    cdef int i
    memset(&o, 0, sizeof(o))
    o.kind = SHM_FORGET
    for i in range(1, s.nwindows):
        if not s.windows[i].r.flags & REGION_RETIRED:
            continue
        if s.windows[i].mapped:
            later = True
            continue
        o.region = s.windows[i].name
        sys_pass(s.control, &o, sizeof(o), &s.bounce.fd, 1)
        vacate(s, i)
    if not later:
        s.retired = retired


cdef int place_for(shm_sender *s) noexcept nogil:
    """An empty window, or one that the device does not read now, or -1."""
    cdef int i, k, idle = -1
    for k in range(1, SHM_REGIONS):
        i = 1 + (s.victim + k) % (SHM_REGIONS - 1)
        if i < s.nwindows and s.windows[i].r == s.bounce:
            return i
        if idle < 0 and i < s.nwindows and s.windows[i].mapped == 0:
            idle = i
    if s.nwindows < SHM_REGIONS:
        s.nwindows += 1
        region_ref(s.bounce)
        s.windows[s.nwindows - 1].r = s.bounce
        return s.nwindows - 1
    s.victim = idle if idle >= 0 else s.victim
    return idle


cdef int introduce(shm_sender *s, region *taken) noexcept nogil:
    """Tell the device of a region; the window, or -1 if that cannot be (and then the reference is gone)."""
    cdef shm_order o
    cdef shm_window *w
    cdef int i = -1
    memset(&o, 0, sizeof(o))
    o.kind = SHM_REGION
    if taken.flags & REGION_FILE:
        o.kind = SHM_FILE
        o.offset = region_file_offset(taken)
        o.length = taken.length
    if taken.fd >= 0 and (o.kind == SHM_FILE or region_seal(taken) == 0):
        i = place_for(s)
    if i >= 0:
        w = &s.windows[i]
        vacate(s, i)
        w.version = (w.version + 1) & 0xFFFF
        w.name = <uint32_t>i | w.version << SHM_VERSION
        w.mapped = 0
        o.region = w.name
        if sys_pass(s.control, &o, sizeof(o), &taken.fd, 1) == sizeof(o):
            s.n.regions += 1
            region_unref(w.r)
            w.r = taken
            return i
    region_unref(taken)
    return -1


cdef int window_of(shm_sender *s, const mblk *b) noexcept nogil:
    """The window that a block lies in; -1 if its memory cannot be shared."""
    cdef region *r = s.windows[s.last].r
    cdef int i
    if likely(r.base <= b.rptr and b.wptr <= r.base + r.length):
        return s.last
    for i in range(s.nwindows):
        r = s.windows[i].r
        if r.base <= b.rptr and b.wptr <= r.base + r.length:
            s.last = i
            return i
    r = NULL
    if b.dp.home != NULL:
        r = pool_region_of(b.dp.home, b.rptr)
        if r != NULL:
            region_ref(r)
    elif b.dp.flags & DB_EXTERNAL:
        r = region_holding(b.rptr, mblk_len(b))
    if r == NULL:
        return -1
    i = introduce(s, r)
    if i >= 0:
        s.last = i
    return i


# --- what goes where --------------------------------------------------------------------------------------------------

cdef void add(shm_sender *s, plan *p, int window, uint64_t offset, uint32_t at, uint32_t n) noexcept nogil:
    cdef extent *e
    if window < 0 and p.n and p.e[p.n - 1].window < 0:
        p.e[p.n - 1].length += n        # what is bounced lies together
        return
    if p.n >= SHM_PIECES:
        p.over = True
        return
    e = &p.e[p.n]
    p.n += 1
    e.window = window
    e.offset = offset
    e.at = at
    e.length = n
    if window >= 0:
        s.windows[window].mapped += 1   # so that no other block of this packet takes its place


cdef void drop_plan(shm_sender *s, const plan *p) noexcept nogil:
    cdef int i
    for i in range(p.n):
        if p.e[i].window >= 0:
            s.windows[p.e[i].window].mapped -= 1


cdef void add_block(shm_sender *s, plan *p, const mblk *b, uint32_t at) noexcept nogil:
    """The pieces of one block: within the limits of the device, or bounced."""
    cdef int w = window_of(s, b)
    cdef uint32_t left = mblk_len(b), n
    cdef uint64_t offset
    if w < 0:
        p.memory += left
        add(s, p, -1, 0, at, left)
        return
    offset = b.rptr - s.windows[w].r.base
    if offset & (s.limits.align - 1):
        p.align += left
        add(s, p, -1, 0, at, left)
        return
    while left and not p.over:
        if offset >= s.limits.address_limit:
            p.limit += left
            add(s, p, -1, 0, at, left)
            return
        n = left if left < s.limits.max_seg else s.limits.max_seg
        if offset + n > s.limits.address_limit:
            n = s.limits.address_limit - offset
        add(s, p, w, offset, at, n)
        offset += n
        at += n
        left -= n


cdef uint32_t bounce_pieces(const shm_sender *s, uint32_t n) noexcept nogil:
    return (n + s.limits.max_seg - 1) // s.limits.max_seg


cdef bint feasible(shm_sender *s, plan *p) noexcept nogil:
    """Whether the device can gather it as it is, with the bounced parts in one bounce buffer."""
    cdef uint32_t pieces = 0, room = 0
    cdef int i
    for i in range(p.n):
        if p.e[i].window < 0:
            room = (room + s.limits.align - 1) & ~(s.limits.align - 1)
            room += p.e[i].length
            pieces += bounce_pieces(s, p.e[i].length)
        else:
            pieces += 1
    return not p.over and pieces <= s.limits.max_sg and room <= SHM_SLOT


cdef void survey(shm_sender *s, plan *p, const mblk *m) noexcept nogil:
    cdef uint32_t at = 0
    p.n = 0
    p.over = False
    p.memory = p.align = p.limit = 0
    while m != NULL and not p.over:
        if mblk_len(m):
            add_block(s, p, m, at)
            at += mblk_len(m)
        m = m.cont


# --- one packet -------------------------------------------------------------------------------------------------------

cdef void put_piece(shm_sender *s, shm_flight *f, shm_entry *e, int window, uint64_t offset, uint32_t n) noexcept nogil:
    """DMA map: the window is in use until the flight lands."""
    cdef shm_piece *p = &e[1 + f.npieces].piece
    memset(p, 0, sizeof(shm_piece))
    p.kind = SHM_PIECE
    p.offset = offset
    p.length = n
    p.region = s.windows[window].name
    f.windows[f.npieces] = window
    f.npieces += 1
    s.windows[window].mapped += 1
    s.n.mapped += 1


cdef void put_bounced(shm_sender *s, shm_flight *f, shm_entry *e, uint64_t offset, uint32_t n) noexcept nogil:
    cdef uint32_t part
    while n:
        part = n if n < s.limits.max_seg else s.limits.max_seg
        put_piece(s, f, e, BOUNCE_WINDOW, offset, part)
        offset += part
        n -= part


cdef void lay_out(shm_sender *s, link *l, shm_flight *f, shm_entry *e, plan *p, mblk *m) noexcept nogil:
    """The pieces of a feasible plan; bounced ones are copied."""
    cdef uint64_t at = <uint64_t>f.bounce * SHM_SLOT
    cdef extent *x
    cdef int i
    for i in range(p.n):
        x = &p.e[i]
        if x.window >= 0:
            put_piece(s, f, e, x.window, x.offset, x.length)
            continue
        at = (at + s.limits.align - 1) & ~<uint64_t>(s.limits.align - 1)
        msgcopyout(l.book, LR_BOUNCE, m, x.at, s.bounce.base + at, x.length)
        put_bounced(s, f, e, at, x.length)
        at += x.length
    s.n.bounced_memory += p.memory
    s.n.bounced_align += p.align
    s.n.bounced_limit += p.limit


cdef void flatten(shm_sender *s, link *l, shm_flight *f, shm_entry *e, mblk *m) noexcept nogil:
    cdef uint64_t at = <uint64_t>f.bounce * SHM_SLOT
    msgcopyout(l.book, LR_FLATTEN, m, 0, s.bounce.base + at, m.pkt_len)
    put_bounced(s, f, e, at, m.pkt_len)
    s.n.flattened += m.pkt_len


cdef inline bint is_lent(const mblk *m) noexcept nogil:
    """Whether somebody may wait for the storage: it came from outside."""
    while m != NULL:
        if m.dp.flags & DB_EXTERNAL and not m.dp.flags & DB_LENT:
            return True
        m = m.cont
    return False


cdef int submit(shm_sender *s, link *l, mblk *m) noexcept nogil:
    """1: it is the device's; 0: not now; -EPROTO."""
    cdef shm_entry e[1 + SHM_PIECES]
    cdef plan p
    cdef shm_flight *f
    cdef bint direct, bounce
    cdef uint32_t cookie
    cdef int room = ring_ready(&s.tx)
    if room < 0:
        return room
    if s.nfree == 0 or room < 1 + <int>s.limits.max_sg:
        return 0
    survey(s, &p, m)
    direct = feasible(s, &p)
    bounce = not direct or p.memory or p.align or p.limit
    if bounce and s.bounces == 0:
        drop_plan(s, &p)
        return 0
    cookie = s.free[s.nfree - 1]
    s.nfree -= 1
    f = &s.flights[cookie]
    f.m = m
    f.npieces = 0
    f.bounce = -1
    if bounce:
        f.bounce = bit_lowest64(s.bounces)
        s.bounces &= ~(<uint64_t>1 << f.bounce)
    if direct:
        lay_out(s, l, f, e, &p, m)
    else:
        flatten(s, l, f, e, m)
    drop_plan(s, &p)
    s.stamp = s.stamp + 1 if s.stamp != <uint32_t>0xFFFFFFFF else 1
    f.stamp = s.stamp
    s.lent += is_lent(m)
    memset(&e[0], 0, sizeof(shm_entry))
    e[0].head.kind = SHM_HEAD
    e[0].head.cookie = cookie
    e[0].head.stamp = f.stamp
    e[0].head.length = m.pkt_len
    e[0].head.pieces = f.npieces
    e[0].head.hdr_len = m.hdr_len if m.hdr_len <= SHM_SPLIT else 0
    vnet_encode(&e[0].head.facts, m)
    atomic_store32(<int32_t *>&s.map[cookie], f.stamp)
    return 1 if ring_put(&s.tx, e, 1 + f.npieces) > 0 else -EPROTO


cdef void land(shm_sender *s, shm_flight *f) noexcept nogil:
    """DMA unmap, and the packet is free."""
    cdef mblk *m = f.m
    cdef int i
    atomic_store32(<int32_t *>&s.map[f - s.flights], 0)
    for i in range(f.npieces):
        s.windows[f.windows[i]].mapped -= 1
    s.n.unmapped += f.npieces
    if f.bounce >= 0:
        s.bounces |= <uint64_t>1 << f.bounce
    s.lent -= is_lent(m)
    f.m = NULL
    s.free[s.nfree] = f - s.flights
    s.nfree += 1
    freemsg(m)


cdef int shm_sender_reap(shm_sender *s, link *l) noexcept nogil:
    cdef shm_done done[16]
    cdef shm_flight *f
    cdef int n, i
    if unlikely(regions_retired() != s.retired):
        look_through(s)
    while True:
        n = ring_take(&s.done, done, 16)
        if n <= 0:
            return n
        for i in range(n):
            f = &s.flights[done[i].cookie] if done[i].cookie < SHM_FLIGHTS else NULL
            if unlikely(f == NULL or f.m == NULL):
                s.n.bad_done += 1
                continue
            if done[i].status == 0:
                ledger_book(l.book, LR_DEVICE_TX, f.m.pkt_len)
            else:
                s.n.refused += 1
                l.stats.tx_drop += 1
                if done[i].status == -EFAULT:
                    mark_broken(f.m)
            land(s, f)


cdef int shm_sender_tx(shm_sender *s, link *l, mblk **pkts, int n) noexcept nogil:
    cdef size_t nbytes
    cdef int i, r
    if shm_sender_reap(s, l) < 0:
        return -EPROTO
    for i in range(n):
        if unlikely(not link_fits(l, pkts[i])):
            l.stats.tx_drop += 1
            freemsg(pkts[i])
            continue
        nbytes = pkts[i].pkt_len
        r = submit(s, l, pkts[i])
        if r == 0:
            l.stats.tx_busy += 1
            s.blocked = True
            return i
        if r < 0:
            return i if i else r
        l.stats.tx += 1
        l.stats.tx_bytes += nbytes
        if ring_owes_kick(&s.tx):
            l.stats.tx_calls += 1
            sys_eventfd_signal(s.bell)
    s.blocked = False
    return n


cdef bint shm_sender_rest(shm_sender *s) noexcept nogil:
    if not s.lent and not s.blocked:
        return False
    return ring_arm(&s.done) != 0


cdef int shm_sender_rouse(shm_sender *s) noexcept nogil:
    return ring_disarm(&s.done)


# --- life -------------------------------------------------------------------------------------------------------------

cdef int shm_sender_init(shm_sender *s, region *own, const shm_limits *limits) noexcept nogil:
    cdef int i, err = 0
    cdef uint64_t slots = SHM_BOUNCES
    s.limits = limits[0]
    s.control = s.bell = -1
    s.retired = regions_retired()
    s.map = <uint32_t *>(own.base + SHM_AT_MAP)
    if limits.address_limit < SHM_BOUNCES * SHM_SLOT:
        slots = limits.address_limit // SHM_SLOT
    if slots == 0:
        return -EINVAL
    s.bounces = (<uint64_t>1 << slots) - 1
    s.bounce = region_share(slots * SHM_SLOT, &err)
    if s.bounce == NULL:
        return err
    region_ref(s.bounce)
    s.windows[BOUNCE_WINDOW].r = s.bounce
    s.nwindows = 1
    for i in range(SHM_FLIGHTS):
        s.free[i] = SHM_FLIGHTS - 1 - i
        s.flights[i].m = NULL
    s.nfree = SHM_FLIGHTS
    ring_attach_region(&s.tx, own, SHM_AT_TX, SHM_TX, sizeof(shm_entry), RING_PRODUCER)
    return ring_attach_region(&s.done, own, SHM_AT_DONE, SHM_FLIGHTS, sizeof(shm_done), RING_CONSUMER)


cdef int shm_sender_start(shm_sender *s, int control, int bell) noexcept nogil:
    cdef shm_order o
    s.control = control
    s.bell = bell
    memset(&o, 0, sizeof(o))
    o.kind = SHM_REGION             # of BOUNCE_WINDOW, version 0
    return 0 if sys_pass(control, &o, sizeof(o), &s.bounce.fd, 1) == sizeof(o) else -EPROTO


cdef void shm_sender_clear(shm_sender *s) noexcept nogil:
    cdef int i
    for i in range(SHM_FLIGHTS):
        if s.flights[i].m != NULL:
            land(s, &s.flights[i])


cdef void shm_sender_close(shm_sender *s) noexcept nogil:
    cdef int i
    shm_sender_clear(s)
    for i in range(s.nwindows):
        region_unref(s.windows[i].r)
    s.nwindows = 0
    if s.bounce != NULL:
        region_unref(s.bounce)
        s.bounce = NULL
