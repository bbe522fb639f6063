"""A link through shared memory: see shm.pxd. Receiving, and the life of a link; transmit is in shm_tx."""

from libc.errno cimport ENODEV, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.codes cimport (
    CAP_GATHER, CAP_NEED_WAKEUP, CAP_ZEROCOPY_RX, LINK_GONE,
)
from ustack._core.base.ledger cimport LR_DEVICE_RX, LR_RING_COPY, ledger_book
from ustack._core.base.types cimport (
    NS_MS, NS_NEVER, NS_SEC, atomic_casp, atomic_dec32, atomic_inc32, atomic_load32, atomic_loadp, atomic_store32,
    atomic_swapp, ns_t, unlikely,
)
from ustack._core.link.link cimport link, link_init, link_ops
from ustack._core.link.shm_post cimport (
    shm_poster, shm_poster_close, shm_poster_init, shm_poster_look_through, shm_poster_passed,
    shm_poster_post, shm_poster_receive, shm_poster_spare, shm_poster_unpost,
)
from ustack._core.link.shm_tx cimport (
    shm_sender, shm_sender_clear, shm_sender_close, shm_sender_init, shm_sender_reap, shm_sender_rest,
    shm_sender_rouse, shm_sender_start, shm_sender_tx,
)
from ustack._core.link.shm_wire cimport (
    D_COUNT, SHM_AT_COUNTS, SHM_AT_FILL, SHM_AT_RX, SHM_FACE, SHM_FLIGHTS, SHM_OWN, SHM_SLOT, SHM_SLOTS, SHM_SPLIT,
    shm_buffer, shm_packet,
)
from ustack._core.link.vnet cimport vnet_decode
from ustack._core.mem.mblk cimport (
    DB_LENT, HEADER_SIZE, dblk, esballoc, freemsg, mblk, mblk_attach, msgappend,
)
from ustack._core.mem.region cimport region, region_unref
from ustack._core.mem.ring cimport (
    RING_CONSUMER, RING_PRODUCER, ring, ring_arm, ring_attach_region, ring_disarm, ring_owes_kick, ring_put,
    ring_ready, ring_take,
)
from ustack._core.mem.share cimport files_share, region_publish, region_retire, region_share
from ustack._core.mem.source cimport source
from ustack._core.sys.eventfd cimport sys_eventfd, sys_eventfd_signal, sys_eventfd_take
from ustack._core.sys.io cimport sys_close
from ustack._core.sys.passing cimport sys_hang_up, sys_hung_up
from ustack._core.sys.poll cimport EPOLL_CTL_ADD, EPOLLIN, sys_epoll_create, sys_epoll_ctl
from ustack._core.sys.process cimport sys_collect
from ustack._core.sys.thread cimport sys_getpid, sys_thread_join

cdef enum:
    COPY_BELOW = 4096           # a packet as short is copied: cheaper than a buffer of 68 KB that is lent for long

cdef enum:
    SLOT_OURS = 0
    SLOT_POSTED = 1
    SLOT_LENT = 2

cdef struct shm_slot:
    shm_room *room
    shm_slot *link              # in the list of those that came back
    int32_t state

cdef struct shm_room:           # the receive buffers; it lives on while some of them are lent
    region *r
    int32_t refs                # the link and every lent buffer
    int32_t lent
    uint32_t count
    void *back                  # lent ones that came back (atomic stack)
    shm_slot slot[1]

cdef struct shm:
    link base
    region *own
    region *face
    shm_room *room
    ring fill
    ring inbox
    shm_sender out
    shm_poster wanted
    uint64_t counts[3]          # bad slot, extent, facts
    uint32_t ready[SHM_SLOTS]   # buffers to post
    int nready
    int bell
    int irq
    int peer_bell
    int control
    int peer
    int epoll
    int device_pid
    uint64_t device_thread
    int owner_pid               # a child of the process that made it only closes descriptors
    int64_t expected            # kicks that are owed to us, or lie in irq
    ns_t checked                # when the sockets were last looked at
    int ended
    bint peer_lied              # noticed beside packets: they are the last ones
    bint device_running

cdef link_ops OPS


# --- receive buffers --------------------------------------------------------------------------------------------------

cdef void room_unref(shm_room *room) noexcept nogil:
    if atomic_dec32(&room.refs) == 0:
        region_retire(room.r)
        free(room)


cdef void slot_free(void *arg) noexcept nogil:
    """The last reference to a lent buffer is gone. From any thread."""
    cdef shm_slot *s = <shm_slot *>arg
    cdef shm_room *room = s.room
    cdef void *head
    atomic_store32(&s.state, SLOT_OURS)
    while True:
        head = atomic_loadp(&room.back)
        s.link = <shm_slot *>head
        if atomic_casp(&room.back, head, s):
            break
    atomic_dec32(&room.lent)
    room_unref(room)


cdef shm_room *room_create(uint32_t count, int *err) noexcept nogil:
    cdef shm_room *room = <shm_room *>calloc(1, sizeof(shm_room) + count * sizeof(shm_slot))
    cdef uint32_t i
    if room == NULL:
        err[0] = -ENOMEM
        return NULL
    room.r = region_share(<size_t>count * SHM_SLOT, err)
    if room.r == NULL:
        free(room)
        return NULL
    region_publish(room.r)
    room.refs = 1
    room.count = count
    for i in range(count):
        room.slot[i].room = room
    return room


cdef int post(shm *p) noexcept nogil:
    """Give the other side's device all buffers that are free. 0 or -EPROTO."""
    cdef shm_buffer b[32]
    cdef shm_slot *s
    cdef int k, n
    if atomic_loadp(&p.room.back) != NULL:
        s = <shm_slot *>atomic_swapp(&p.room.back, NULL)
        while s != NULL:
            p.ready[p.nready] = s - p.room.slot
            p.nready += 1
            s = s.link
    while p.nready:
        n = p.nready if p.nready < 32 else 32
        for k in range(n):
            p.nready -= 1
            p.room.slot[p.ready[p.nready]].state = SLOT_POSTED
            b[k].slot = p.ready[p.nready]
            b[k].offset = <uint64_t>b[k].slot * SHM_SLOT
            b[k].length = SHM_SLOT
        k = ring_put(&p.fill, b, n)
        if k < n:
            return -71          # EPROTO: there is room for all of them
    if ring_owes_kick(&p.fill):
        p.base.stats.rx_calls += 1
        sys_eventfd_signal(p.peer_bell)
    return 0


# --- receiving --------------------------------------------------------------------------------------------------------

cdef inline bint may_lend(shm *p, uint32_t length) noexcept nogil:
    return length >= COPY_BELOW and <uint32_t>atomic_load32(&p.room.lent) < p.room.count // 2


cdef mblk *block(shm *p, size_t n) noexcept nogil:
    cdef source *src = p.base.src
    cdef dblk *d = src.take(src.owner, n)
    cdef mblk *m = mblk_attach(p.base.mem, d) if d != NULL else NULL
    return m


cdef mblk *lend(shm *p, shm_slot *s, uint8_t *data, uint32_t n, uint32_t headers) noexcept nogil:
    """Headers in a block of our own, payload where the device put it; NULL without memory. A queue is charged with the
    bytes: how many buffers are lent is bounded here, and packing what they hold would have to read it."""
    cdef mblk *m = block(p, HEADER_SIZE)
    cdef mblk *rest
    if m == NULL:
        return NULL
    msgappend(NULL, LR_RING_COPY, m, data, headers)
    rest = esballoc(p.base.mem, data + headers, n - headers, slot_free, s)
    if rest == NULL:
        freemsg(m)
        return NULL
    rest.wptr += n - headers
    rest.dp.flags |= DB_LENT
    m.cont = rest
    s.state = SLOT_LENT
    atomic_inc32(&p.room.lent)
    atomic_inc32(&p.room.refs)
    return m


cdef mblk *copy(shm *p, const uint8_t *data, uint32_t n) noexcept nogil:
    cdef mblk *m = block(p, n)
    if m != NULL:
        msgappend(p.base.book, LR_RING_COPY, m, data, n)
    return m


cdef mblk *receive(shm *p, const shm_packet *d) noexcept nogil:
    """The packet of a descriptor, which is a copy; NULL: there is none (counted). Its buffer is lent or ours again."""
    cdef shm_slot *s
    cdef mblk *m = NULL
    cdef uint8_t *data
    cdef uint32_t headers = d.hdr_len if 0 < d.hdr_len <= SHM_SPLIT else SHM_SPLIT
    if d.slot >= p.room.count or p.room.slot[d.slot].state != SLOT_POSTED:
        p.counts[0] += 1
        p.base.stats.rx_bad += 1
        return NULL
    s = &p.room.slot[d.slot]
    s.state = SLOT_OURS
    if d.start > SHM_SLOT or d.length > SHM_SLOT - d.start or d.length < 1 + 13 * (p.base.layer == 2):
        p.counts[1] += 1
        p.base.stats.rx_bad += 1
    else:
        data = p.room.r.base + <uint64_t>d.slot * SHM_SLOT + d.start
        if unlikely(d.placed):
            m = shm_poster_receive(&p.wanted, &p.base, d, data)
        else:
            m = lend(p, s, data, d.length, headers) if may_lend(p, d.length) else copy(p, data, d.length)
            if m == NULL:
                p.base.stats.rx_nomem += 1
            if d.at:
                shm_poster_passed(&p.wanted, d)
        if m != NULL:
            m.pkt_len = d.length + d.placed
            if vnet_decode(&d.facts, m, p.base.caps) < 0:
                p.counts[2] += 1
                p.base.stats.rx_bad += 1
                freemsg(m)
                m = NULL
    if s.state == SLOT_OURS:
        p.ready[p.nready] = d.slot
        p.nready += 1
    return m


cdef int shm_rx(link *l, mblk **out, int max, ns_t now) noexcept nogil:
    cdef shm *p = <shm *>l
    cdef shm_packet d[32]
    cdef mblk *m
    cdef int n = 0, got, i
    if p.ended:
        return finish(p, now)
    if unlikely(p.peer_lied):
        return give_up(p, SHM_PEER_LIED)
    if shm_sender_reap(&p.out, l) < 0:
        return give_up(p, SHM_DEVICE_LIED)
    got = ring_take(&p.inbox, d, max if max < 32 else 32)
    for i in range(got):
        m = receive(p, &d[i])
        if m != NULL:
            ledger_book(l.book, LR_DEVICE_RX, m.pkt_len)
            l.stats.rx_bytes += m.pkt_len
            out[n] = m
            n += 1
    l.stats.rx += n
    p.peer_lied = got < 0 or post(p) < 0
    if unlikely(p.peer_lied and n == 0):
        return give_up(p, SHM_PEER_LIED)
    return n if n else idle(p, now)


cdef int idle(shm *p, ns_t now) noexcept nogil:
    """Nothing came: the next thing that the caller does may be to sleep."""
    cdef uint64_t count = 0
    cdef bint look = now - p.checked >= NS_MS or now < p.checked
    shm_poster_look_through(&p.wanted)
    p.expected += ring_disarm(&p.inbox) + shm_sender_rouse(&p.out)
    if look:
        p.checked = now
        if sys_hung_up(p.control):
            return give_up(p, SHM_DEVICE_ENDED)
        if sys_hung_up(p.peer):
            return give_up(p, SHM_PEER_LEFT)
    if p.expected > 0 or look:
        p.base.stats.rx_calls += 1
        sys_eventfd_take(p.irq, &count)
        p.expected = p.expected - <int64_t>count if <uint64_t>p.expected > count else 0
    # Whatever comes from here on kicks us, or is seen now: by a caller that would sleep, in the next call.
    if ring_arm(&p.inbox) or shm_sender_rest(&p.out):
        sys_eventfd_signal(p.irq)
        p.expected += 1
    return 0


cdef int shm_tx(link *l, mblk **pkts, int n, ns_t now) noexcept nogil:
    cdef shm *p = <shm *>l
    cdef int r
    if p.ended:
        return -ENODEV
    r = shm_sender_tx(&p.out, l, pkts, n)
    return r if r >= 0 else give_up(p, SHM_DEVICE_LIED)


# --- posted receives --------------------------------------------------------------------------------------------------

cdef int shm_post(link *l) noexcept nogil:
    cdef shm *p = <shm *>l
    return -ENODEV if p.ended else shm_poster_post(&p.wanted, l)


cdef int settled(shm *p, int r) noexcept nogil:
    if r != -ENODEV:
        return r
    if not p.ended:
        give_up(p, SHM_PEER_KEEPS)
    return 0


cdef int shm_spare(link *l, const uint8_t *end, bint last) noexcept nogil:
    cdef shm *p = <shm *>l
    return settled(p, shm_poster_spare(&p.wanted, end, last))


cdef int shm_unpost(link *l, bint last) noexcept nogil:
    cdef shm *p = <shm *>l
    return settled(p, shm_poster_unpost(&p.wanted, &p.inbox, p.ended != 0, last))


cdef int shm_pending(link *l) noexcept nogil:
    cdef shm *p = <shm *>l
    return 0 if p.ended else ring_ready(&p.inbox) != 0


cdef int shm_fds(link *l, int *fds, int max) noexcept nogil:
    if max < 1:
        return 0
    fds[0] = (<shm *>l).epoll   # which is never ready for output, so that nobody spins on that
    return 1


# --- the end ----------------------------------------------------------------------------------------------------------

cdef int give_up(shm *p, int why) noexcept nogil:
    """The link is over, and says so to both others. What the device has is freed when it is gone."""
    p.ended = why
    p.base.state = LINK_GONE
    sys_hang_up(p.control)
    sys_hang_up(p.peer)
    p.checked = 0
    return finish(p, NS_MS)


cdef int finish(shm *p, ns_t now) noexcept nogil:
    """The device closes its end of the control socket last of all, or the kernel does that for it: then nobody reads
    our memory any more."""
    if p.device_running and (now - p.checked >= NS_MS or now < p.checked):
        p.checked = now
        if sys_hung_up(p.control):
            p.device_running = False
            shm_sender_clear(&p.out)
    return -ENODEV


cdef ns_t shm_deadline(link *l) noexcept nogil:
    cdef shm *p = <shm *>l
    return p.checked + NS_MS if p.ended and p.device_running else NS_NEVER


cdef void part_with_device(shm *p) noexcept nogil:
    """Let it send what it still has, and wait until it has ended."""
    if p.control >= 0:
        sys_hang_up(p.control)
    if p.device_pid > 0:
        sys_collect(p.device_pid, NS_SEC)
    elif p.device_thread:
        sys_thread_join(p.device_thread)
    p.device_pid = 0
    p.device_thread = 0
    p.device_running = False


cdef void shm_quiesce(link *l) noexcept nogil:
    cdef shm *p = <shm *>l
    if p.owner_pid != sys_getpid():
        return
    part_with_device(p)
    if shm_sender_reap(&p.out, l) < 0 and p.ended == SHM_FINE:
        p.ended = SHM_DEVICE_LIED
    shm_sender_clear(&p.out)


cdef void close_fd(int *fd) noexcept nogil:
    if fd[0] >= 0:
        sys_close(fd[0])
    fd[0] = -1


cdef void shm_close(link *l) noexcept nogil:
    cdef shm *p = <shm *>l
    shm_quiesce(l)
    if p.owner_pid == sys_getpid():
        if p.peer >= 0:
            sys_hang_up(p.peer)
        shm_sender_close(&p.out)
        shm_poster_close(&p.wanted)
    close_fd(&p.wanted.fd)
    close_fd(&p.control)
    close_fd(&p.peer)
    close_fd(&p.peer_bell)
    close_fd(&p.bell)
    close_fd(&p.irq)
    close_fd(&p.epoll)
    if p.own != NULL:
        region_unref(p.own)
    if p.face != NULL:
        region_unref(p.face)
    if p.room != NULL:
        room_unref(p.room)
    files_share(-1)
    free(p)


# --- the beginning ----------------------------------------------------------------------------------------------------

cdef int provide(shm *p, shm_options *o) noexcept nogil:
    cdef uint32_t i
    cdef int err = 0
    p.own = region_share(SHM_OWN, &err)
    if p.own != NULL:
        p.face = region_share(SHM_FACE, &err)
    if p.face != NULL:
        p.room = room_create(o.slots, &err)
    if p.room == NULL:
        return err
    shm_poster_init(&p.wanted, p.face, -1)
    for i in range(o.slots):
        p.ready[i] = o.slots - 1 - i
    p.nready = o.slots
    p.bell = sys_eventfd()
    p.irq = sys_eventfd()
    p.epoll = sys_epoll_create()
    if p.bell < 0 or p.irq < 0 or p.epoll < 0:
        return p.bell if p.bell < 0 else p.irq if p.irq < 0 else p.epoll
    ring_attach_region(&p.fill, p.face, SHM_AT_FILL, SHM_SLOTS, sizeof(shm_buffer), RING_PRODUCER)
    ring_attach_region(&p.inbox, p.face, SHM_AT_RX, SHM_SLOTS, sizeof(shm_packet), RING_CONSUMER)
    return shm_sender_init(&p.out, p.own, &o.limits)


cdef int shm_create(shm_options *o, link **made, shm_ends *ends) noexcept nogil:
    cdef shm *p = <shm *>calloc(1, sizeof(shm))
    cdef int err
    if p == NULL:
        return -ENOMEM
    files_share(1)
    link_init(&p.base, &OPS, o.layer, o.mtu, o.mac if o.layer == 2 else NULL)
    p.base.gso_max = o.gso_max
    p.base.caps = o.caps | CAP_ZEROCOPY_RX | CAP_NEED_WAKEUP
    p.base.max_sg = o.limits.max_sg
    if o.limits.max_sg > 1:
        p.base.caps |= CAP_GATHER
    p.owner_pid = sys_getpid()
    p.bell = p.irq = p.peer_bell = p.control = p.peer = p.epoll = p.wanted.fd = -1
    err = provide(p, o)
    if err < 0:
        shm_close(&p.base)
        return err
    ends.own, ends.face, ends.room, ends.bell, ends.irq = p.own.fd, p.face.fd, p.room.r.fd, p.bell, p.irq
    made[0] = &p.base
    return 0


cdef void shm_set_sinks(link *l, int fd) noexcept nogil:
    (<shm *>l).wanted.fd = fd


cdef int shm_start(link *l, int control, int peer, int peer_bell, int pid, uint64_t thread) noexcept nogil:
    cdef shm *p = <shm *>l
    cdef int e = sys_epoll_ctl(p.epoll, EPOLL_CTL_ADD, p.irq, EPOLLIN, 0)
    if e == 0:
        e = sys_epoll_ctl(p.epoll, EPOLL_CTL_ADD, control, EPOLLIN, 0)
    if e == 0:
        e = sys_epoll_ctl(p.epoll, EPOLL_CTL_ADD, peer, EPOLLIN, 0)
    if e == 0:
        e = shm_sender_start(&p.out, control, p.bell)
    if e < 0:
        return e
    p.control = control
    p.peer = peer
    p.peer_bell = peer_bell
    p.device_pid = pid
    p.device_thread = thread
    p.device_running = True
    # Whoever sleeps before `idle` has asked to be kicked, because packets are there at once, looks again.
    sys_eventfd_signal(p.irq)
    p.expected = 1
    return post(p)


cdef void shm_agree(link *l, uint32_t caps, uint32_t mtu, uint32_t gso_max) noexcept nogil:
    l.caps = caps | (l.caps & (CAP_GATHER | CAP_ZEROCOPY_RX | CAP_NEED_WAKEUP))
    l.mtu = mtu
    l.gso_max = gso_max


cdef void shm_get_stats(const link *l, shm_stats *s) noexcept nogil:
    cdef const shm *p = <const shm *>l
    memset(s, 0, sizeof(shm_stats))
    s.tx = p.out.n
    s.posted = p.wanted.n
    memcpy(s.device, p.own.base + SHM_AT_COUNTS, D_COUNT * sizeof(uint64_t))
    s.bad_slot, s.bad_extent, s.bad_facts = p.counts[0], p.counts[1], p.counts[2]
    s.lent = atomic_load32(&p.room.lent)
    s.in_flight = SHM_FLIGHTS - p.out.nfree
    s.ended = p.ended


OPS.kind = b"shm"
OPS.rx = shm_rx
OPS.tx = shm_tx
OPS.fds = shm_fds
OPS.pending = shm_pending
OPS.deadline = shm_deadline
OPS.post = shm_post
OPS.spare = shm_spare
OPS.unpost = shm_unpost
OPS.close = shm_close
