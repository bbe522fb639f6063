"""AF_PACKET with mmap'd rings: see packet_ring.pxd. Receiving and the life of rings; transmit is in packet_tx."""

from libc.errno cimport ENETDOWN, ENODEV, ENOMEM
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove

from ustack._core.base.codes cimport (
    CAP_GATHER, CAP_RX_CSUM, CAP_TSO4, CAP_TSO6, CAP_USO, CAP_ZEROCOPY_RX, LINK_DOWN, LINK_GONE,
    LINK_UP,
)
from ustack._core.base.ledger cimport LR_DEVICE_RX, LR_RING_COPY, ledger_book
from ustack._core.base.types cimport (
    NS_MS, atomic_dec32, atomic_inc32, atomic_load32, atomic_store32, ns_t, unlikely,
)
from ustack._core.link.link cimport link, link_init, link_ops, link_stats
from ustack._core.link.packet_tx cimport RING_MAX_SG, RING_SLOT, packet_sender, sender_close, sender_init, sender_tx
from ustack._core.link.vnet cimport VNET_LEN, vnet_decode, vnet_hdr
from ustack._core.mem.mblk cimport DB_LENT, dblk, esballoc, freeb, mblk, mblk_attach, msgappend
from ustack._core.mem.source cimport source
from ustack._core.sys.io cimport sys_close
from ustack._core.sys.netdev cimport IFF_UP, sys_if_flags, sys_if_index
from ustack._core.sys.packet cimport (
    ETH_P_ALL, PACKET_FANOUT, PACKET_IGNORE_OUTGOING, PACKET_LOSS, PACKET_MR_PROMISC, PACKET_MR_UNICAST,
    PACKET_OUTGOING, PACKET_QDISC_BYPASS, PACKET_RESERVE, PACKET_RX_RING, PACKET_TX_RING, PACKET_VNET_HDR,
    TP_STATUS_KERNEL, TP_STATUS_LOSING, TP_STATUS_USER, TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID,
    TPACKET2_HDRLEN, sockaddr_ll, sys_packet_bind, sys_packet_drops, sys_packet_join,
    sys_packet_map, sys_packet_open, sys_packet_ring, sys_packet_set, sys_packet_unmap, sys_socket_error,
    sys_socket_sndbuf, tpacket2_hdr,
)

cdef enum:
    PAGE = 4096
    HEADERS = 20 + 32           # IPv4, TCP with timestamps
    # The network header of a frame is put at ALIGN(TPACKET2_HDRLEN + 16) + reserve + VNET_LEN (tpacket_rcv).
    RESERVE = PAGE - HEADERS - VNET_LEN - 80
    ADDRESS = 32                # of a slot: struct sockaddr_ll, at TPACKET_ALIGN(sizeof(struct tpacket2_hdr))
    COPY_BELOW = 4096           # a frame as short is copied: cheaper than a slot of 68 KB that is lent for long
    DATA_FRAME = 512            # shorter ones are acknowledgements and the like
    OLD_RINGS = 4
    KEPT = 2                    # the newest slot, and the one before it
    ROOM = 1280 * 1024          # bytes that may wait in it: more is no longer in a core's cache when it is read
    SNDBUF = 4 << 20
    RX_ALL = CAP_RX_CSUM | CAP_TSO4 | CAP_TSO6 | CAP_USO

cdef struct rx_slot:
    rx_ring *ring
    tpacket2_hdr *hdr
    int32_t lent                # cleared by whoever frees the block

cdef struct rx_ring:
    int fd
    uint8_t *map
    size_t length
    int slots
    int pos                     # the slot that the kernel fills next, as far as we have seen
    int tail                    # from here to pos: slots that are not given back, at least KEPT
    bint quiet                  # the newest of them, at pos - 1, is the kernel's all the same, so that nobody is woken
    int32_t refs                # the link and every lent slot
    rx_slot slot[1]

cdef struct packet_ring:
    link base
    ring_options o
    rx_ring *ring
    rx_ring *old[OLD_RINGS]     # rings that were replaced and still have slots lent
    # Sockets for rings to come, opened with the link: later we may be in another namespace, or have no privilege.
    int spare[OLD_RINGS]
    uint32_t replaced
    uint32_t usual              # bytes of a data frame, as an average of the last ones
    bint lend
    ns_t checked                # when the socket was last asked for errors
    ns_t retry                  # a replacement failed: not again before
    packet_sender out

cdef link_ops OPS


# --- the life of a ring -----------------------------------------------------------------------------------------------
cdef void ring_unref(rx_ring *r) noexcept nogil:
    if atomic_dec32(&r.refs) == 0:
        if r.map != NULL:
            sys_packet_unmap(r.map, r.length)
        free(r)


cdef void ring_close(rx_ring *r, int ifindex) noexcept nogil:
    """The link lets go. The mapping, and with it the socket, lives on while slots are lent."""
    sys_packet_bind(r.fd, ifindex, 0)
    sys_close(r.fd)
    ring_unref(r)


cdef int configure(rx_ring *r, ring_options *o) noexcept nogil:
    """All options in the order that the kernel demands; receiving begins with the bind at the end."""
    cdef int e
    cdef int fd = r.fd
    cdef int err = 0
    e = sys_packet_set(fd, PACKET_RESERVE, RESERVE)
    if e == 0:
        e = sys_packet_set(fd, PACKET_VNET_HDR, 1)
    if e == 0:
        e = sys_packet_set(fd, PACKET_LOSS, 1)      # a frame that is refused does not block a transmit ring
    if e == 0:
        e = sys_packet_ring(fd, PACKET_RX_RING, RING_SLOT, r.slots, RING_SLOT)
    if e == 0 and o.tx_slots:
        e = sys_packet_ring(fd, PACKET_TX_RING, RING_SLOT, o.tx_slots, RING_SLOT)
    if e < 0:
        return e
    r.map = <uint8_t *>sys_packet_map(fd, r.length, &err)
    if r.map == NULL:
        return err
    lay_out(r)
    if o.qdisc_bypass:
        sys_packet_set(fd, PACKET_QDISC_BYPASS, 1)
    sys_packet_set(fd, PACKET_IGNORE_OUTGOING, 1)   # before Linux 4.20: they are passed over in rx
    sys_socket_sndbuf(fd, SNDBUF)
    e = sys_packet_bind(fd, o.ifindex, ETH_P_ALL)
    if e < 0:
        return e
    if o.promiscuous or sys_packet_join(fd, o.ifindex, PACKET_MR_UNICAST, o.mac) < 0:
        e = sys_packet_join(fd, o.ifindex, PACKET_MR_PROMISC, NULL)
    if e == 0 and o.fanout >= 0:
        e = sys_packet_set(fd, PACKET_FANOUT, o.fanout)
    return e


cdef void lay_out(rx_ring *r) noexcept nogil:
    """Before anything is received: as if the last two slots had been."""
    cdef int i
    for i in range(r.slots):
        r.slot[i].ring = r
        r.slot[i].hdr = <tpacket2_hdr *>(r.map + <size_t>RING_SLOT * i)
    r.tail = r.slots - KEPT
    r.quiet = True
    to_us(r.slot[r.tail].hdr)


cdef rx_ring *ring_open(ring_options *o, int fd, int *err) noexcept nogil:
    """Make a ring on a socket that has none. The socket stays the caller's if that fails."""
    cdef int slots = o.rx_slots + KEPT
    cdef rx_ring *r = <rx_ring *>calloc(1, sizeof(rx_ring) + slots * sizeof(rx_slot))
    if r == NULL:
        err[0] = -ENOMEM
        return NULL
    r.refs = 1
    r.slots = slots
    r.length = <size_t>RING_SLOT * (slots + o.tx_slots)
    r.fd = fd
    err[0] = configure(r, o)
    if err[0] < 0:
        sys_packet_bind(fd, o.ifindex, 0)
        ring_unref(r)
        sys_packet_ring(fd, PACKET_RX_RING, 0, 0, 0)
        return NULL
    return r


cdef int empty_place(packet_ring *p) noexcept nogil:
    """Where another old ring could be put; -1: there are too many."""
    cdef int i
    for i in range(OLD_RINGS):
        if p.old[i] == NULL:
            return i
    return -1


cdef void sweep(packet_ring *p) noexcept nogil:
    """Take back the sockets of old rings that nobody holds any more; lend while another ring could be replaced."""
    cdef rx_ring *r
    cdef int i
    for i in range(OLD_RINGS):
        r = p.old[i]
        if r != NULL and atomic_load32(&r.refs) == 1:
            p.old[i] = NULL
            p.spare[i] = r.fd
            ring_unref(r)
            sys_packet_ring(p.spare[i], PACKET_RX_RING, 0, 0, 0)
    p.lend = p.o.lend and empty_place(p) >= 0


cdef void replace(packet_ring *p, ns_t now) noexcept nogil:
    """The kernel has come up to a slot that is still lent: go on with a new ring."""
    cdef rx_ring *fresh
    cdef int i, err = 0
    sweep(p)
    i = empty_place(p)
    if i < 0 or now < p.retry:
        return
    sys_packet_bind(p.ring.fd, p.o.ifindex, 0)
    fresh = ring_open(&p.o, p.spare[i], &err)
    if fresh == NULL:
        sys_packet_bind(p.ring.fd, p.o.ifindex, ETH_P_ALL)
        p.retry = now + 10 * NS_MS
        return
    p.spare[i] = -1
    p.old[i] = p.ring
    p.ring = fresh
    p.out.fd = fresh.fd
    p.replaced += 1
    p.lend = empty_place(p) >= 0


# --- receiving --------------------------------------------------------------------------------------------------------
cdef inline uint32_t status_of(const tpacket2_hdr *h) noexcept nogil:
    return <uint32_t>atomic_load32(<const int32_t *>&h.tp_status)


cdef inline void to_kernel(tpacket2_hdr *h) noexcept nogil:
    atomic_store32(<int32_t *>&h.tp_status, TP_STATUS_KERNEL)


cdef inline void to_us(tpacket2_hdr *h) noexcept nogil:
    atomic_store32(<int32_t *>&h.tp_status, TP_STATUS_USER)


cdef inline int after(const rx_ring *r, int i) noexcept nogil:
    return i + 1 if i + 1 < r.slots else 0


cdef inline int newest(const rx_ring *r) noexcept nogil:
    return (r.pos if r.pos else r.slots) - 1


cdef inline int held(const rx_ring *r) noexcept nogil:
    """How many slots are not given back."""
    return r.pos - r.tail if r.pos > r.tail else r.pos - r.tail + r.slots


cdef void give_back(rx_ring *r) noexcept nogil:
    """All slots before the first that is lent, but for the last two."""
    cdef int n = held(r) - KEPT
    while n > 0 and not atomic_load32(&r.slot[r.tail].lent):
        to_kernel(r.slot[r.tail].hdr)
        r.tail = after(r, r.tail)
        n -= 1


cdef inline void settle(rx_ring *r) noexcept nogil:
    """Everything that came is taken: nobody need be woken before the next frame."""
    give_back(r)
    if not r.quiet:
        to_kernel(r.slot[newest(r)].hdr)
        r.quiet = True


cdef void slot_free(void *arg) noexcept nogil:
    """The last reference to a lent slot is gone. From any thread."""
    cdef rx_slot *s = <rx_slot *>arg
    cdef rx_ring *r = s.ring
    atomic_store32(&s.lent, 0)
    ring_unref(r)


cdef bint may_lend(packet_ring *p, uint32_t length) noexcept nogil:
    return length >= COPY_BELOW and p.lend and held(p.ring) - KEPT < (p.ring.slots - KEPT) // 2


cdef mblk *lend(packet_ring *p, rx_slot *s, uint8_t *frame, uint32_t n) noexcept nogil:
    cdef mblk *m = esballoc(p.base.mem, frame, n, slot_free, s)
    if m == NULL:
        return NULL
    m.wptr += n
    m.dp.flags |= DB_LENT
    m.dp.truesize = RING_SLOT
    atomic_store32(&s.lent, 1)
    atomic_inc32(&p.ring.refs)
    return m


cdef mblk *copy(packet_ring *p, const uint8_t *frame, uint32_t n) noexcept nogil:
    cdef source *src = p.base.src
    cdef dblk *d = src.take(src.owner, n if n else 1)
    cdef mblk *m = mblk_attach(p.base.mem, d) if d != NULL else NULL
    if m != NULL:
        msgappend(p.base.book, LR_RING_COPY, m, frame, n)
    return m


cdef uint8_t *put_tag_back(tpacket2_hdr *h, uint8_t *frame, vnet_hdr *facts) noexcept nogil:
    """The kernel takes VLAN tags out of frames; without its tag a frame of a VLAN would pass as one of ours."""
    cdef uint32_t tci = h.tp_vlan_tci
    cdef uint32_t tpid = h.tp_vlan_tpid if h.tp_status & TP_STATUS_VLAN_TPID_VALID else 0x8100
    if tci & 0xFFF == 0:
        return frame                # priority only: it belongs to no VLAN
    memmove(frame - 4, frame, 12)
    frame -= 4
    frame[12] = tpid >> 8
    frame[13] = tpid & 0xFF
    frame[14] = tci >> 8
    frame[15] = tci & 0xFF
    if facts.flags:
        facts.csum_start += 4
    if facts.gso_type:
        facts.hdr_len += 4
    return frame


cdef mblk *receive(packet_ring *p, rx_slot *s, uint32_t status) noexcept nogil:
    """The packet in a slot, with its facts; NULL if there is none (counted)."""
    cdef link_stats *stats = &p.base.stats
    cdef tpacket2_hdr *h = s.hdr
    cdef uint8_t *frame = <uint8_t *>h + h.tp_mac
    cdef uint8_t *start = frame
    cdef uint32_t n = h.tp_snaplen
    cdef vnet_hdr facts
    cdef mblk *m = NULL
    if (<sockaddr_ll *>(<uint8_t *>h + ADDRESS)).sll_pkttype == PACKET_OUTGOING:
        pass
    elif n < h.tp_len:
        stats.rx_truncated += 1
    elif h.tp_mac < TPACKET2_HDRLEN + VNET_LEN or h.tp_mac + <size_t>n > RING_SLOT or n < 14:
        stats.rx_bad += 1
    else:
        memcpy(&facts, frame - VNET_LEN, VNET_LEN)
        if status & TP_STATUS_VLAN_VALID:
            start = put_tag_back(h, frame, &facts)
            n += frame - start
        m = lend(p, s, start, n) if may_lend(p, n) else copy(p, start, n)
        if m == NULL:
            stats.rx_nomem += 1
        else:
            m.pkt_len = n
            # What comes is the device's choice, whatever we asked for on transmit.
            if vnet_decode(&facts, m, RX_ALL) < 0:
                stats.rx_bad += 1
                freeb(m)
                m = NULL
    return m


cdef inline void note_length(packet_ring *p, uint32_t n) noexcept nogil:
    """A slot holds a frame, short or long: so the ring holds few bytes of short ones. A quarter of it is for others, or
    half, where half may be lent."""
    cdef int slots = p.ring.slots - KEPT
    if n >= DATA_FRAME:
        p.usual = p.usual - (p.usual >> 3) + (n >> 3)
        slots -= slots // 2 if p.lend and p.usual >= COPY_BELOW else slots // 4
        p.base.rx_room = min(<uint32_t>slots * p.usual, <uint32_t>ROOM)


cdef int packet_rx(link *l, mblk **out, int max, ns_t now) noexcept nogil:
    cdef packet_ring *p = <packet_ring *>l
    cdef rx_ring *r = p.ring
    cdef uint32_t status, drops
    cdef rx_slot *s
    cdef int n = 0, _i
    for _i in range(r.slots):
        if n >= max:
            break
        if held(r) == r.slots:
            give_back(r)
            if unlikely(held(r) == r.slots):
                replace(p, now)
                break
        s = &r.slot[r.pos]
        status = status_of(s.hdr)
        if not status & TP_STATUS_USER:
            break
        if r.quiet:
            to_us(r.slot[newest(r)].hdr)
            r.quiet = False
        if unlikely(status & TP_STATUS_LOSING) and sys_packet_drops(r.fd, &drops) == 0:
            l.stats.rx_overrun += drops
        out[n] = receive(p, s, status)
        r.pos = after(r, r.pos)
        if out[n] != NULL:
            note_length(p, out[n].pkt_len)
            l.stats.rx_bytes += out[n].pkt_len
            ledger_book(l.book, LR_DEVICE_RX, out[n].pkt_len)
            n += 1
    l.stats.rx += n
    settle(r)
    if n:
        l.state = LINK_UP
        return n
    return idle(p, now)


cdef int idle(packet_ring *p, ns_t now) noexcept nogil:
    """Nothing came. Once a millisecond at most: has the device gone down, come back, or vanished; was anything lost?"""
    cdef uint32_t drops
    cdef int e
    if now - p.checked >= NS_MS or now < p.checked:
        p.checked = now
        e = sys_socket_error(p.ring.fd)
        if sys_packet_drops(p.ring.fd, &drops) == 0:
            p.base.stats.rx_overrun += drops    # else the next frame tells, and there may be none
        p.base.stats.rx_calls += 1
        if e or p.base.state != LINK_UP:
            p.base.state = state_of_device(p)
        sweep(p)
    return 0 if p.base.state == LINK_UP else -ENETDOWN if p.base.state == LINK_DOWN else -ENODEV


cdef int state_of_device(packet_ring *p) noexcept nogil:
    if sys_if_index(p.ring.fd, p.o.name) != p.o.ifindex:
        # It is gone, or was renamed; under another name our frames would still pass.
        return LINK_GONE
    return LINK_UP if sys_if_flags(p.ring.fd, p.o.name) & IFF_UP else LINK_DOWN


cdef int packet_tx(link *l, mblk **pkts, int n, ns_t now) noexcept nogil:
    return sender_tx(&(<packet_ring *>l).out, l, pkts, n)


cdef int packet_pending(link *l) noexcept nogil:
    cdef rx_ring *r = (<packet_ring *>l).ring
    return held(r) < r.slots and status_of(r.slot[r.pos].hdr) & TP_STATUS_USER != 0


cdef int packet_fds(link *l, int *fds, int max) noexcept nogil:
    if max < 1:
        return 0
    fds[0] = (<packet_ring *>l).ring.fd
    return 1


cdef void packet_close(link *l) noexcept nogil:
    cdef packet_ring *p = <packet_ring *>l
    cdef int i
    sender_close(&p.out)
    if p.ring != NULL:
        ring_close(p.ring, p.o.ifindex)
    for i in range(OLD_RINGS):
        if p.old[i] != NULL:
            ring_close(p.old[i], p.o.ifindex)
        if p.spare[i] >= 0:
            sys_close(p.spare[i])
    free(p)


cdef int open_all(packet_ring *p) noexcept nogil:
    """The sockets, the first ring, the sender; -errno of what failed."""
    cdef int i, err = 0, fd = sys_packet_open()
    if fd < 0:
        return fd
    p.ring = ring_open(&p.o, fd, &err)
    if p.ring == NULL:
        sys_close(fd)
        return err
    for i in range(OLD_RINGS if p.o.lend else 0):
        p.spare[i] = sys_packet_open()
        if p.spare[i] < 0:
            return p.spare[i]
    return sender_init(&p.out, fd, p.ring.map + <size_t>RING_SLOT * p.ring.slots, p.o.tx_slots)


cdef int packet_ring_create(ring_options *o, link **made) noexcept nogil:
    cdef packet_ring *p = <packet_ring *>calloc(1, sizeof(packet_ring))
    cdef int i, err
    if p == NULL:
        return -ENOMEM
    p.o = o[0]
    if o.tx_slots or o.fanout >= 0:
        p.o.lend = False        # a ring that also sends, or is one of a group, cannot be replaced
    for i in range(OLD_RINGS):
        p.spare[i] = -1
    err = open_all(p)
    if err < 0:
        packet_close(&p.base)
        return err
    p.lend = p.o.lend
    link_init(&p.base, &OPS, 2, o.mtu, o.mac)
    p.base.caps = o.caps | CAP_RX_CSUM | CAP_GATHER | (CAP_ZEROCOPY_RX if p.lend else 0)
    p.base.max_sg = RING_MAX_SG
    p.usual = o.mtu
    note_length(p, o.mtu)
    if o.caps & (CAP_TSO4 | CAP_TSO6 | CAP_USO):
        p.base.gso_max = o.gso_max
    p.base.state = state_of_device(p)
    made[0] = &p.base
    return 0


cdef uint32_t packet_ring_replaced(const link *l) noexcept nogil:
    return (<const packet_ring *>l).replaced


cdef void packet_ring_extent(const link *l, void **base, size_t *length) noexcept nogil:
    cdef rx_ring *r = (<packet_ring *>l).ring
    base[0] = r.map
    length[0] = r.length


OPS.kind = b"packet_ring"
OPS.rx = packet_rx
OPS.tx = packet_tx
OPS.fds = packet_fds
OPS.pending = packet_pending
OPS.close = packet_close
