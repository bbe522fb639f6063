"""A link that records its packets: see capture.pxd."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from ustack._core.base.codes cimport CSUM_PARTIAL
from ustack._core.base.ledger cimport LR_COPYB
from ustack._core.base.types cimport NS_SEC, ns_t, spin_lock, spin_unlock
from ustack._core.link.around cimport around, around_init, around_ops, around_sync, knowledge
from ustack._core.link.link cimport link, link_ops
from ustack._core.mem.mblk cimport dupmsg, freemsg, mblk, msgcopyout
from ustack._core.sys.io cimport sys_close, sys_write

cdef enum:
    BUFFER = 1 << 20
    SECTION_HEADER = 0x0A0D0D0A
    INTERFACE = 1
    ENHANCED_PACKET = 6
    LINKTYPE_ETHERNET = 1
    LINKTYPE_RAW = 101
    INBOUND = 1
    OUTBOUND = 2
    OPT_FLAGS = 2
    OPT_TSRESOL = 9
    EPB_EXTRA = 44              # bytes of a packet block besides the packet: header 28, flags 8, end 4, length 4
    BURST = 64

cdef struct capture:
    around a
    capture_stats n
    int fd
    uint32_t snaplen
    int64_t epoch
    ns_t written                # when the buffer was last written
    int32_t lock                # of the buffer: flush may come from any thread
    size_t used
    uint8_t *buffer

cdef link_ops OWN, WITH_FDS, WITHOUT_FDS


# --- the file
# -------------------------------------------------------------------------------------------------
cdef void write_out(capture *c) noexcept nogil:
    cdef size_t done = 0
    cdef ssize_t r
    while done < c.used and c.n.error == 0:
        r = sys_write(c.fd, c.buffer + done, c.used - done)
        if r < 0:
            c.n.error = r
        else:
            done += r
    c.used = 0


cdef inline void put32(capture *c, uint32_t v) noexcept nogil:
    memcpy(c.buffer + c.used, &v, 4)
    c.used += 4


cdef inline void put16(capture *c, uint16_t v) noexcept nogil:
    memcpy(c.buffer + c.used, &v, 2)
    c.used += 2


cdef void begin(capture *c) noexcept nogil:
    """Section header and the one interface; all in the host's byte order, which the magic number tells."""
    put32(c, SECTION_HEADER)
    put32(c, 28)
    put32(c, 0x1A2B3C4D)
    put16(c, 1)
    put16(c, 0)
    put32(c, <uint32_t>0xFFFFFFFF)      # length of the section: not told
    put32(c, <uint32_t>0xFFFFFFFF)
    put32(c, 28)
    put32(c, INTERFACE)
    put32(c, 32)
    put16(c, LINKTYPE_ETHERNET if c.a.base.layer == 2 else LINKTYPE_RAW)
    put16(c, 0)
    put32(c, c.snaplen)
    put16(c, OPT_TSRESOL)
    put16(c, 1)
    put32(c, 9)                         # nanoseconds; one byte and padding
    put32(c, 0)                         # end of options
    put32(c, 32)


cdef void append(capture *c, const mblk *m, ns_t now, int direction) noexcept nogil:
    cdef uint32_t n = m.pkt_len if m.pkt_len < c.snaplen else c.snaplen
    cdef uint32_t padded = (n + 3) & ~<uint32_t>3
    cdef uint64_t t = <uint64_t>(now + c.epoch)
    if c.used + padded + EPB_EXTRA > BUFFER:
        write_out(c)
        c.written = now
    put32(c, ENHANCED_PACKET)
    put32(c, padded + EPB_EXTRA)
    put32(c, 0)
    put32(c, <uint32_t>(t >> 32))
    put32(c, <uint32_t>t)
    put32(c, n)
    put32(c, m.pkt_len)
    msgcopyout(NULL, LR_COPYB, m, 0, c.buffer + c.used, n)
    memset(c.buffer + c.used + n, 0, padded - n)
    c.used += padded
    put16(c, OPT_FLAGS)
    put16(c, 4)
    put32(c, direction)
    put32(c, 0)
    put32(c, padded + EPB_EXTRA)
    c.n.packets += 1
    c.n.nbytes += n


# --- packets
# --------------------------------------------------------------------------------------------------
cdef void record(capture *c, mblk *taken, ns_t now, int direction) noexcept nogil:
    """Record windows on a packet that has gone its way."""
    cdef mblk *m = taken
    if m.csum == CSUM_PARTIAL:
        # In a copy of its own: nobody else may see the checksum filled in.
        m = c.a.know.flatten(c.a.know.arg, &c.a.base, m)
        if m == NULL:
            c.n.missed += 1
            return
        c.a.know.complete(c.a.know.arg, &c.a.base, m)
    spin_lock(&c.lock)
    append(c, m, now, direction)
    spin_unlock(&c.lock)
    freemsg(m)


cdef int capture_rx(link *l, mblk **out, int max, ns_t now) noexcept nogil:
    cdef capture *c = <capture *>l
    cdef link *inner = c.a.inner
    cdef mblk *twin
    cdef int i, n = inner.ops.rx(inner, out, max, now)
    around_sync(&c.a)
    for i in range(n):
        l.stats.rx += 1
        l.stats.rx_bytes += out[i].pkt_len
        twin = dupmsg(l.mem, out[i])
        if twin != NULL:
            record(c, twin, now, INBOUND)
        else:
            c.n.missed += 1
    if n <= 0 and c.used and now - c.written > NS_SEC:
        c.written = now
        capture_flush(l)
    return n


cdef int capture_tx(link *l, mblk **pkts, int n, ns_t now) noexcept nogil:
    cdef capture *c = <capture *>l
    cdef link *inner = c.a.inner
    cdef mblk *twin[BURST]
    cdef int i, taken
    if n > BURST:
        n = BURST
    for i in range(n):
        twin[i] = dupmsg(l.mem, pkts[i])
    taken = inner.ops.tx(inner, pkts, n, now)
    around_sync(&c.a)
    for i in range(n):
        if i >= taken:
            freemsg(twin[i])
        elif twin[i] == NULL:
            c.n.missed += 1
        else:
            l.stats.tx += 1
            l.stats.tx_bytes += twin[i].pkt_len
            record(c, twin[i], now, OUTBOUND)
    return taken


cdef void capture_flush(link *l) noexcept nogil:
    cdef capture *c = <capture *>l
    spin_lock(&c.lock)
    write_out(c)
    spin_unlock(&c.lock)


cdef void capture_close(link *l) noexcept nogil:
    cdef capture *c = <capture *>l
    c.a.inner.notify = NULL
    write_out(c)
    sys_close(c.fd)
    free(c.buffer)
    free(c)


cdef link *capture_create(link *inner, int fd, uint32_t snaplen, int64_t epoch,
                          const knowledge *know) noexcept nogil:
    cdef capture *c = <capture *>calloc(1, sizeof(capture))
    if c == NULL:
        return NULL
    c.buffer = <uint8_t *>malloc(BUFFER)
    if c.buffer == NULL:
        free(c)
        return NULL
    around_init(&c.a, inner, &WITH_FDS if inner.ops.fds != NULL else &WITHOUT_FDS, know)
    c.fd = fd
    c.snaplen = snaplen
    c.epoch = epoch
    begin(c)
    write_out(c)
    return &c.a.base


cdef capture_stats *capture_figures(link *l) noexcept nogil:
    return &(<capture *>l).n


OWN.kind = b"capture"
OWN.rx = capture_rx
OWN.tx = capture_tx
OWN.close = capture_close
around_ops(&WITH_FDS, &WITHOUT_FDS, &OWN)
