"""What a link is: a burst device with capabilities. The engine knows links by this structure, nothing else.

A concrete link embeds ``link`` as its first member and fills in ``ops``. Links know Ethernet or IP frames
only as bytes; what a link cannot do (checksums, segmentation) the stack has done before ``tx`` is called.

Threads: all functions of a link are called under its engine's lock, except ``close``.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack._core.base.codes cimport LINK_UP
from ustack._core.base.ledger cimport ledger
from ustack._core.base.types cimport ns_t
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk
from ustack._core.mem.posting cimport posting
from ustack._core.mem.source cimport source

cdef struct link_stats:
    uint64_t rx, tx, rx_bytes, tx_bytes
    uint64_t rx_nomem, rx_bad, rx_truncated, rx_overrun
    uint64_t tx_drop, tx_busy   # refused for good / times the device could not take more just now
    uint64_t rx_calls, tx_calls  # system calls
    uint64_t full               # packets refused because an in-memory queue was full

cdef struct link_ops:
    const char *kind            # "tap", "packet_ring", "pipe", "memory", "impair", "capture"
    # Up to `max` packets into out[]; each is a chain whose facts (pkt_len, csum, gso_*) are set. Returns how
    # many, 0 if there is nothing now, or -errno when the device is down (-ENETDOWN) or gone (-ENODEV).
    int (*rx)(link *l, mblk **out, int max, ns_t now) noexcept nogil
    # Sends pkts[0..n): takes (owns) as many as it returns; fewer than n means the device is busy; -errno as
    # above (then nothing was taken). A packet that the device refuses for good is freed, counted, and counts
    # as taken.
    int (*tx)(link *l, mblk **pkts, int n, ns_t now) noexcept nogil
    # File descriptors to sleep on: writes up to `max` into fds[], returns how many. NULL: none (in-memory
    # links).
    int (*fds)(link *l, int *fds, int max) noexcept nogil
    # Whether rx has something, without a system call: 1 yes, 0 no, -1 only rx can tell. NULL: -1.
    int (*pending)(link *l) noexcept nogil
    # When the link itself wants to be called again (delayed packets); NS_NEVER if not. NULL: never.
    ns_t (*deadline)(link *l) noexcept nogil
    # Ask to be told by the fds (POLLOUT) that tx can go on after it was busy; 0 turns that off. NULL: no
    # need.
    void (*want_tx)(link *l, bint on) noexcept nogil
    # For a link that tells its device ahead of time what `posted` says, instead of looking there for each packet:
    # `posted` was set: 0, or -errno if the device cannot do it. NULL: no need.
    int (*post)(link *l) noexcept nogil
    # From now on nothing is put below `end` in the memory of `posted`: 0, or -EAGAIN: the device is just writing.
    # `last`: it has been waited for long enough, and who does not give it back is no device any more.
    int (*spare)(link *l, const uint8_t *end, bint last) noexcept nogil
    # Nothing is put there any more, and what was has been received: 0, or -EAGAIN: receive, and ask again.
    int (*unpost)(link *l, bint last) noexcept nogil
    # Told that mem, src and book have been set. NULL: no need.
    void (*attached)(link *l) noexcept nogil
    # Releases everything. Called once, with no lock held.
    void (*close)(link *l) noexcept nogil

cdef struct link:
    const link_ops *ops
    uint32_t caps               # CAP_*
    uint8_t layer               # 2: Ethernet frames; 3: IP packets
    uint8_t state               # LINK_*
    uint8_t mac[6]              # layer 2: our address on it
    uint32_t mtu                # largest IP packet on the wire
    uint32_t gso_max            # largest IP packet it takes as a super-segment; == mtu without TSO
    uint16_t max_sg             # blocks a transmitted chain may have; 1: contiguous only
    uint32_t rx_room            # bytes, in packets as they come now, that may arrive unseen without loss; 0: no limit
    arena *mem                  # set when the engine attaches the link, with `src` and `book`
    source *src
    ledger *book
    posting *posted             # a receive that waits for its payload; links that can place it look here. NULL: none
    link_stats stats
    # Called by in-memory links when a packet becomes receivable, possibly from another thread: wakes a
    # sleeper.
    void (*notify)(void *arg) noexcept nogil
    void *notify_arg


cdef inline void link_init(link *l, const link_ops *ops, int layer, uint32_t mtu,
                           const uint8_t *mac) noexcept nogil:
    """A link in its plainest form: up, no capabilities, contiguous packets of at most the MTU."""
    cdef int i
    memset(l, 0, sizeof(link))
    l.ops = ops
    l.layer = layer
    l.state = LINK_UP
    l.mtu = l.gso_max = mtu
    l.max_sg = 1
    if mac != NULL:
        for i in range(6):
            l.mac[i] = mac[i]


cdef inline uint32_t link_header(const link *l) noexcept nogil:
    """Bytes in front of the IP packet."""
    return 14 if l.layer == 2 else 0


cdef inline bint link_fits(const link *l, const mblk *m) noexcept nogil:
    """Whether a packet is within the MTU, or the GSO limit if it is a super-segment."""
    return m.pkt_len <= (l.gso_max if m.gso_size else l.mtu) + link_header(l)


cdef inline void link_notify(link *l) noexcept nogil:
    if l.notify != NULL:
        l.notify(l.notify_arg)
