"""A TAP or TUN device: see tap.pxd."""

from libc.errno cimport EAGAIN, EFAULT, ENETDOWN, ENOBUFS, ENODEV, ENOMEM
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.codes cimport (
    CAP_GATHER, CAP_TSO4, CAP_TSO6, CAP_USO, LINK_DOWN, LINK_GONE, LINK_UP,
)
from ustack._core.base.ledger cimport LR_DEVICE_RX, LR_DEVICE_TX, ledger_book
from ustack._core.base.types cimport NS_MS, ns_t, unlikely
from ustack._core.link.link cimport link, link_fits, link_init, link_ops
from ustack._core.link.vnet cimport VNET_LEN, vnet_decode, vnet_encode, vnet_hdr
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport dblk, dblk_unref, freeb, freemsg, mark_broken, mblk, mblk_attach, mblk_len
from ustack._core.mem.source cimport source
from ustack._core.sys.io cimport iovec, sys_close, sys_readv, sys_writev

cdef extern from "<errno.h>" nogil:
    enum:
        EBADFD, EIO, ENXIO

cdef enum:
    HEAD = 2048                 # the first piece of every frame, virtio header included
    HEADERS = 14 + 20 + 32      # Ethernet, IPv4, TCP with timestamps
    PAGE = 4096
    VNET_MAX = 12
    FRAME_MAX = 65535 + 14 + 4  # whatever the MTU is by now: an IP packet, Ethernet, a VLAN tag

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
    dblk *head                  # what the next frame is read into
    dblk *big
    uint8_t pace                # BURST, LONE, AGAIN
    ns_t down_since             # 0: not down, or not yet looked at

cdef link_ops OPS


cdef void tap_close(link *l) noexcept nogil:
    cdef tap *t = <tap *>l
    dblk_unref(t.head)
    dblk_unref(t.big)
    sys_close(t.fd)
    free(t)


cdef int tap_fds(link *l, int *fds, int max) noexcept nogil:
    if max < 1:
        return 0
    fds[0] = (<tap *>l).fd
    return 1


cdef int failed(link *l, int e) noexcept nogil:
    """What an error of the device means for the link: the result of rx or tx."""
    if e == -EIO or e == -ENETDOWN:
        l.state = LINK_DOWN     # TUN refuses writes while the interface is not up
        return -ENETDOWN
    if e == -EBADFD or e == -ENODEV or e == -ENXIO:
        l.state = LINK_GONE
        return -ENODEV
    return 0


cdef bint draw(tap *t) noexcept nogil:
    """Have buffers for one frame; False without memory."""
    cdef source *src = t.base.src
    if t.head == NULL:
        t.head = src.take(src.owner, HEAD)
    if t.big == NULL:
        t.big = src.take(src.owner, FRAME_MAX + VNET_MAX - HEAD + PAGE)
    return t.head != NULL and t.big != NULL


cdef inline uint8_t *big_start(tap *t) noexcept nogil:
    """Where the second piece goes: as far behind a page boundary as the payload read before it is long."""
    cdef size_t before = HEAD - t.vnet_len - (HEADERS if t.base.layer == 2 else HEADERS - 14)
    cdef size_t at = (before - <size_t>t.big.base) % PAGE
    return t.big.base + at


cdef mblk *receive(tap *t, ssize_t *result) noexcept nogil:
    """One frame as a chain without facts; NULL and -errno (0: none there)."""
    cdef iovec v[2]
    cdef arena *mem = t.base.mem
    cdef mblk *m
    cdef mblk *rest
    cdef uint8_t *start = big_start(t)
    cdef ssize_t n
    v[0].iov_base = t.head.base
    v[0].iov_len = HEAD
    v[1].iov_base = start
    v[1].iov_len = FRAME_MAX + t.vnet_len - HEAD
    n = sys_readv(t.fd, v, 2)
    t.base.stats.rx_calls += 1
    result[0] = n
    if n < 0:
        return NULL
    m = mblk_attach(mem, t.head)
    t.head = NULL
    if unlikely(m == NULL):
        result[0] = -ENOBUFS
        return NULL
    m.wptr = m.rptr + (n if n < HEAD else HEAD)
    if n > HEAD:
        rest = mblk_attach(mem, t.big)
        t.big = NULL
        if unlikely(rest == NULL):
            freeb(m)
            result[0] = -ENOBUFS
            return NULL
        rest.rptr = start
        rest.wptr = start + (n - HEAD)
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
        m = receive(t, &r)
        if m == NULL:
            if r != -ENOBUFS:
                break
            l.stats.rx_nomem += 1
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
        return failed(l, r)
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


cdef ssize_t transmit(tap *t, mblk *m) noexcept nogil:
    """One frame, in one call."""
    cdef iovec v[TAP_MAX_SG + 1]
    cdef uint8_t header[VNET_MAX]
    cdef int n = 0
    if t.vnet_len:
        memset(header, 0, VNET_MAX)
        vnet_encode(<vnet_hdr *>header, m)
        v[0].iov_base = header
        v[0].iov_len = t.vnet_len
        n = 1
    while m != NULL:
        if n > TAP_MAX_SG:
            return -ENOMEM
        if mblk_len(m):
            v[n].iov_base = m.rptr
            v[n].iov_len = mblk_len(m)
            n += 1
        m = m.cont
    t.base.stats.tx_calls += 1
    return sys_writev(t.fd, v, n)


cdef int tap_tx(link *l, mblk **pkts, int n, ns_t now) noexcept nogil:
    cdef tap *t = <tap *>l
    cdef ssize_t r
    cdef int i, e
    for i in range(n):
        if unlikely(not link_fits(l, pkts[i])):
            l.stats.tx_drop += 1
            freemsg(pkts[i])
            continue
        r = transmit(t, pkts[i])
        if unlikely(r < 0):
            if r == -EAGAIN or r == -ENOBUFS:
                l.stats.tx_busy += 1
                return i
            e = failed(l, r)
            if e:
                return i if i else e
            l.stats.tx_drop += 1        # EINVAL and the like: this packet, not the device
            if r == -EFAULT:
                mark_broken(pkts[i])
        else:
            l.state = LINK_UP
            l.stats.tx += 1
            l.stats.tx_bytes += pkts[i].pkt_len
            ledger_book(l.book, LR_DEVICE_TX, r)
        freemsg(pkts[i])
    return n


cdef link *tap_create(int fd, tap_options *o) noexcept nogil:
    cdef tap *t = <tap *>calloc(1, sizeof(tap))
    if t == NULL:
        return NULL
    link_init(&t.base, &OPS, o.layer, o.mtu, o.mac if o.layer == 2 else NULL)
    t.fd = fd
    t.vnet_len = o.vnet_len
    t.base.caps = o.caps | CAP_GATHER
    t.base.max_sg = TAP_MAX_SG
    if o.caps & (CAP_TSO4 | CAP_TSO6 | CAP_USO):
        t.base.gso_max = 65535
    return &t.base


OPS.kind = b"tap"
OPS.rx = tap_rx
OPS.tx = tap_tx
OPS.fds = tap_fds
OPS.close = tap_close
