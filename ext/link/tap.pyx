"""A TAP or TUN device: see tap.pxd."""

from libc.errno cimport EAGAIN, EFAULT, EMSGSIZE, ENOBUFS, ENOSYS
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ustack._core.base.codes cimport (
    CAP_GATHER, CAP_TSO4, CAP_TSO6, CAP_USO, LINK_DOWN, LINK_UP,
)
from ustack._core.base.ledger cimport LR_DEVICE_RX, LR_MISPLACED, ledger_book
from ustack._core.base.types cimport NS_MS, ns_t, unlikely
from ustack._core.link.burst cimport (
    RING_REFUSED, VNET_MAX, burst_create, burst_describe, burst_dropped, burst_free, burst_send, burst_sent,
    device_failed, tx_burst,
)
from ustack._core.link.link cimport link, link_init, link_ops
from ustack._core.link.vnet cimport VNET_LEN, vnet_decode, vnet_hdr
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport allocb, dblk, dblk_unref, freeb, freemsg, mblk, mblk_attach, msgappend
from ustack._core.mem.guarded cimport posting_lost
from ustack._core.mem.posting cimport posting
from ustack._core.mem.source cimport source
from ustack._core.sys.io cimport iovec, sys_close, sys_read, sys_readv, sys_writev

cdef enum:
    HEAD = 2048                 # the first piece of every frame, virtio header included
    HEADERS = 14 + 20 + 32      # Ethernet, IPv4, TCP with timestamps
    LINK_HEADER = 14 + 4        # Ethernet with a VLAN tag
    PAGE = 4096
    FRAME_MAX = 65535 + LINK_HEADER     # whatever the MTU is by now

cdef enum:
    # How many frames a call of rx reads. Where frames come alone (request and reply), a second read in the
    # same call would always find nothing: so after a lone frame one is read a call, until the call behind it
    # finds another at once.
    BURST = 0
    LONE = 1
    AGAIN = 2

cdef struct tap:
    link base
    int fd
    uint32_t vnet_len
    tx_burst *out
    dblk *head                  # what the next frame is read into
    dblk *big
    uint32_t head_len           # how much of a frame goes there
    bint small                  # no frame is longer than the head, as far as is known
    uint8_t pace                # BURST, LONE, AGAIN
    ns_t down_since             # 0: not down, or not yet looked at

cdef link_ops OPS


cdef void tap_close(link *l) noexcept nogil:
    cdef tap *t = <tap *>l
    dblk_unref(t.head)
    dblk_unref(t.big)
    burst_free(t.out)
    sys_close(t.fd)
    free(t)


cdef int tap_fds(link *l, int *fds, int max) noexcept nogil:
    if max < 1:
        return 0
    fds[0] = (<tap *>l).fd
    return 1


cdef bint draw(tap *t) noexcept nogil:
    """Have buffers for one frame; False without memory."""
    cdef source *src = t.base.src
    if t.head == NULL:
        t.head = src.take(src.owner, HEAD)
    if t.big == NULL and not t.small:
        t.big = src.take(src.owner, FRAME_MAX + VNET_MAX - HEAD + PAGE)
    return t.head != NULL and (t.big != NULL or t.small)


cdef inline uint8_t *big_start(tap *t) noexcept nogil:
    """Where the second piece goes: as far behind a page boundary as the payload read before it is long."""
    cdef size_t before = t.head_len - t.vnet_len - (HEADERS if t.base.layer == 2 else HEADERS - 14)
    cdef size_t at = (before - <size_t>t.big.base) % PAGE
    return t.big.base + at


cdef ssize_t read_frame(tap *t, uint8_t *start) noexcept nogil:
    """One frame into the head and, from ``start`` on, the large block."""
    cdef iovec v[2]
    t.base.stats.rx_calls += 1
    v[0].iov_base = t.head.base
    v[0].iov_len = t.head_len
    v[1].iov_base = start
    v[1].iov_len = FRAME_MAX + t.vnet_len - t.head_len
    return sys_readv(t.fd, v, 2)


cdef ssize_t read_small(tap *t) noexcept nogil:
    """One frame into the head alone. One that fills it was cut off: the device's MTU must have grown."""
    cdef ssize_t n = sys_read(t.fd, t.head.base, HEAD)
    t.base.stats.rx_calls += 1
    if unlikely(n == HEAD):
        t.small = False
        t.base.stats.rx_truncated += 1
        return -EMSGSIZE
    return n


# --- with a receive that waits for its payload
cdef inline bint is_wanted(const tap *t) noexcept nogil:
    """Whether a posted receive has room for as much as the head would take of a frame."""
    cdef const posting *p = t.base.posted
    return p != NULL and not t.small and p.header + p.room + t.vnet_len >= HEAD and p.header + t.vnet_len < HEAD


cdef mblk *take_posted(tap *t, mblk *m, uint8_t *where, size_t n) noexcept nogil:
    """n bytes of a frame, whose headers are in m, lie at `where`: leave them there, or move them to memory of ours."""
    cdef posting *p = t.base.posted
    cdef arena *mem = t.base.mem
    cdef mblk *own
    cdef size_t here
    cdef dblk *d = p.claim(p, m.rptr + t.vnet_len, m.pkt_len - t.vnet_len, where)
    if d != NULL:
        own = mblk_attach(mem, d)
        if own == NULL:
            return NULL
        own.rptr = where
        own.wptr = where + n
        m.cont = own
        return own
    p.missed(p)
    here = msgappend(t.base.book, LR_MISPLACED, m, where, n)
    if here == n:
        return m
    own = allocb(mem, n - here)
    if own != NULL:
        msgappend(t.base.book, LR_MISPLACED, own, where + here, n - here)
        m.cont = own
    return own


cdef mblk *receive_posted(tap *t, ssize_t *result) noexcept nogil:
    """As `receive`, with headers of the expected length in the head and payload where it is waited for."""
    cdef posting *p = t.base.posted
    cdef uint8_t *where = p.base
    cdef uint8_t *start = big_start(t)
    cdef size_t header = t.vnet_len + p.header
    cdef size_t room = p.room if p.room < FRAME_MAX else FRAME_MAX
    cdef iovec v[3]
    cdef mblk *m
    cdef mblk *last
    cdef ssize_t n
    t.base.stats.rx_calls += 1
    v[0].iov_base = t.head.base
    v[0].iov_len = header
    v[1].iov_base = where
    v[1].iov_len = room
    v[2].iov_base = start
    v[2].iov_len = FRAME_MAX + t.vnet_len - HEAD
    n = sys_readv(t.fd, v, 3)
    result[0] = n
    if unlikely(n == -EFAULT):
        posting_lost(p)         # and the frame, which the peer repeats
        t.base.stats.rx_truncated += 1
        result[0] = -EMSGSIZE
    if n < 0:
        return NULL
    m = mblk_attach(t.base.mem, t.head)
    t.head = NULL
    result[0] = -ENOBUFS
    if unlikely(m == NULL):
        return NULL
    m.wptr = m.rptr + (<size_t>n if <size_t>n < header else header)
    m.pkt_len = n
    last = m
    if <size_t>n > header:
        last = take_posted(t, m, where, <size_t>n - header if <size_t>n - header < room else room)
    if last != NULL and <size_t>n > header + room:
        last.cont = mblk_attach(t.base.mem, t.big)
        t.big = NULL
        last = last.cont
        if last != NULL:
            last.rptr = start
            last.wptr = start + (<size_t>n - header - room)
    if unlikely(last == NULL):
        freemsg(m)
        return NULL
    result[0] = n
    return m


cdef mblk *receive(tap *t, ssize_t *result) noexcept nogil:
    """One frame as a chain without facts; NULL and -errno (0: none there)."""
    cdef arena *mem = t.base.mem
    cdef mblk *m
    cdef mblk *rest
    cdef uint8_t *start = NULL if t.small else big_start(t)
    cdef ssize_t n = read_small(t) if t.small else read_frame(t, start)
    result[0] = n
    if n < 0:
        return NULL
    m = mblk_attach(mem, t.head)
    t.head = NULL
    if unlikely(m == NULL):
        result[0] = -ENOBUFS
        return NULL
    m.wptr = m.rptr + (n if n < t.head_len else t.head_len)
    if n > t.head_len:
        rest = mblk_attach(mem, t.big)
        t.big = NULL
        if unlikely(rest == NULL):
            freeb(m)
            result[0] = -ENOBUFS
            return NULL
        rest.rptr = start
        rest.wptr = start + (n - t.head_len)
        m.cont = rest
    m.pkt_len = n
    return m


cdef bint understand(tap *t, mblk *m) noexcept nogil:
    """Take the virtio header off and set the facts; False if it is impossible."""
    cdef vnet_hdr h
    if m.pkt_len < t.vnet_len:
        return False
    if t.vnet_len:
        memcpy(&h, m.rptr, VNET_LEN)
        m.rptr += t.vnet_len
        m.pkt_len -= t.vnet_len
        return vnet_decode(&h, m, t.base.caps) == 0
    return True


cdef int tap_rx(link *l, mblk **out, int max, ns_t now) noexcept nogil:
    cdef tap *t = <tap *>l
    cdef ssize_t r = 0
    cdef mblk *m
    cdef int n = 0, reads = 0, most = 1 if t.pace == LONE else max
    while n < most and reads < 2 * max:
        if not draw(t):
            l.stats.rx_nomem += 1       # the frame waits in the device's queue
            break
        reads += 1
        m = receive_posted(t, &r) if is_wanted(t) else receive(t, &r)
        if m == NULL:
            if r == -ENOBUFS:
                l.stats.rx_nomem += 1
            elif r != -EMSGSIZE:
                break
            continue
        ledger_book(l.book, LR_DEVICE_RX, m.pkt_len)
        if not understand(t, m):
            l.stats.rx_bad += 1
            freemsg(m)
            continue
        l.stats.rx_bytes += m.pkt_len
        out[n] = m
        n += 1
    l.stats.rx += n
    if n:
        l.state = LINK_UP
        t.pace = BURST if n > 1 else AGAIN if t.pace == LONE else LONE
    elif r < 0 and r != -EAGAIN:
        return device_failed(l, r)
    elif t.pace == AGAIN:
        t.pace = LONE
    if l.state == LINK_DOWN:
        try_again(t, now)
    return n


cdef void try_again(tap *t, ns_t now) noexcept nogil:
    """Reading tells nothing of whether the interface is up, only writing does: a moment later it may be tried."""
    if t.down_since == 0:
        t.down_since = now
    elif now - t.down_since >= 100 * NS_MS:
        t.down_since = 0
        t.base.state = LINK_UP


cdef int send_one(tap *t, mblk *m) noexcept nogil:
    """One packet by a call of its own: 1 if it is done with, 0 if the device is busy, -errno."""
    cdef link *dev = &t.base
    cdef tx_burst *b = t.out
    cdef ssize_t r
    cdef int e
    if unlikely(burst_describe(b, dev, &m, 1) == 0):
        burst_dropped(dev, m, 0)      # too large, or of too many pieces
        return 1
    dev.stats.tx_calls += 1
    r = sys_writev(t.fd, b.msg[0].msg_hdr.msg_iov, b.msg[0].msg_hdr.msg_iovlen)
    if unlikely(r < 0):
        if r == -EAGAIN or r == -ENOBUFS:
            dev.stats.tx_busy += 1
            return 0
        e = device_failed(dev, r)
        if e == 0:
            burst_dropped(dev, m, r)  # EINVAL and the like: this packet, not the device
        return e if e else 1
    dev.state = LINK_UP
    burst_sent(dev, m, t.vnet_len)
    return 1


cdef int tap_tx(link *l, mblk **pkts, int n, ns_t now) noexcept nogil:
    cdef tap *t = <tap *>l
    cdef int k, r, done = 0
    while done < n:
        r = -ENOSYS
        if n - done > 1 and t.out.state != RING_REFUSED:
            k = burst_describe(t.out, l, pkts + done, n - done)
            if k > 1:
                r = burst_send(t.out, l, pkts + done, k, t.fd, False)
        if r == -ENOSYS:
            r = send_one(t, pkts[done])
        if r < 0:
            return done if done else r
        if r == 0:
            break
        done += r
    return done


cdef link *tap_create(int fd, tap_options *o) noexcept nogil:
    cdef tap *t = <tap *>calloc(1, sizeof(tap))
    if t == NULL:
        return NULL
    link_init(&t.base, &OPS, o.layer, o.mtu, o.mac if o.layer == 2 else NULL)
    t.out = burst_create(o.vnet_len)
    if t.out == NULL:
        free(t)
        return NULL
    t.fd = fd
    t.vnet_len = o.vnet_len
    t.base.caps = o.caps | CAP_GATHER
    t.base.max_sg = TAP_MAX_SG
    if o.caps & (CAP_TSO4 | CAP_TSO6 | CAP_USO):
        t.base.gso_max = o.gso_max
    t.head_len = HEAD
    if o.split:
        t.head_len = o.vnet_len + (HEADERS if o.layer == 2 else HEADERS - 14)
    t.small = not o.split and t.base.gso_max + LINK_HEADER + o.vnet_len < HEAD
    return &t.base


OPS.kind = b"tap"
OPS.rx = tap_rx
OPS.tx = tap_tx
OPS.fds = tap_fds
OPS.close = tap_close
