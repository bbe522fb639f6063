"""AF_PACKET on a network device, received from an mmap'd ring (TPACKET_V2): no call per packet or burst.

The ring's slots are 68 KB, so that super-frames fit, and few, so that they stay in the cache. A slot's
content begins where the payload behind the usual headers (Ethernet, IPv4, TCP with timestamps) is
page-aligned. Slots are lent: a long frame becomes an external block, marked DB_LENT and charged with the
whole slot, until its last reference is gone, in whatever thread. The kernel fills slots in order only, and drops
frames (counted: rx_overrun) while the next one is not its own. Hence:

* Slots are given back in order, by the thread that receives: those before the first that is still lent.
* The socket polls readable as long as the newest slot is not the kernel's. So that one is the kernel's at once, even if
  it is lent; it is safe because the slot before it is kept, over which the kernel does not step. As soon as the next
  frame has come, it is taken back. Two slots more than were asked for are there for this.
* A frame is copied (LR_RING_COPY) instead of lent when it is short, and when half of the slots are not given back.
* When the kernel comes up to a slot that is still lent (somebody does not read), a new ring takes the place of the
  old, whose mapping stays until the last of its slots is let go. With four old rings about, nothing is
  lent; nor is it by rings that share a device (fanout) or send through slots of their own.

The device must not carry our address: the kernel, which sees the same frames, would answer them too.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from ustack._core.link.link cimport link

cdef struct ring_options:
    int ifindex
    char name[16]
    uint32_t mtu
    uint32_t caps               # CAP_* wished for on transmit: TX_CSUM, TSO4, TSO6, USO
    uint32_t gso_max            # the longest super-segment that the device takes
    int rx_slots
    int tx_slots                # 0: transmit by sendmmsg; else through an mmap'd ring of so many slots
    int32_t fanout              # PACKET_FANOUT argument (group, type << 16); -1: none
    bint promiscuous
    bint qdisc_bypass
    bint lend                   # whether slots are ever lent
    uint8_t mac[6]

# 0, or -errno of the step that failed.
cdef int packet_ring_create(ring_options *o, link **made) noexcept nogil
# How many times a new ring had to take the place of one whose slots were not let go.
cdef uint32_t packet_ring_replaced(const link *l) noexcept nogil
# Where the ring is mapped, for proofs that a pointer lies in it.
cdef void packet_ring_extent(const link *l, void **base, size_t *length) noexcept nogil
