"""AF_XDP on one queue of a network device: frames in a UMEM, which is a region, and four rings of their numbers.

A chunk of the UMEM has one owner at a time, and the rings say who (Documentation/networking/af_xdp.rst):

       receiving:   ours --fill--> kernel --rx--> ours           sending:   ours --tx--> kernel --completion--> ours

A tiny program on the device, made and attached here, redirects the queue's frames to the socket: the kernel's own stack
sees none of them; those of other queues it does. The program goes with the link, however the link ends.

The kernel copies between its buffers and the UMEM, unless the device can do without (``zerocopy``): that is the device
copy. Frames are copied out of the UMEM and into it. A packet longer than a chunk has in several of them, where the
kernel takes such (``frags``). There are no offloads: checksums are made and checked here, segments cut here.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ustack._core.link.link cimport link
from ustack._core.sys.xdp cimport XDP_STATISTICS_COUNT

cdef enum:
    XDP_CHUNK = 4096
    XDP_ROOM = 4096 - 256       # of a chunk, bytes of a received frame: the kernel keeps headroom
    XDP_FRAMES = 65536          # chunks, at most
    XDP_FRAGS = 17              # chunks of a packet, at most

cdef enum:
    XDP_STEP_SOCKET = 1         # which step of making one failed
    XDP_STEP_UMEM = 2
    XDP_STEP_RINGS = 3
    XDP_STEP_BIND = 4
    XDP_STEP_PROGRAM = 5
    XDP_STEP_ATTACH = 6

cdef struct xdp_options:
    int ifindex
    char name[16]
    uint8_t mac[6]
    uint32_t queue
    uint32_t mtu
    uint32_t frames             # chunks for receiving, and as many for sending; a power of two
    uint32_t modes              # XDP_MODE_* to try, native first

cdef struct xdp_facts:
    uint32_t mode               # XDP_MODE_*: what was obtained
    bint zerocopy
    bint frags
    uint64_t kernel[XDP_STATISTICS_COUNT]
    uint64_t bad_desc           # received descriptors that cannot be
    uint32_t kernel_has         # chunks that the kernel has for sending

# 0, or -errno, and the step that failed in *step.
cdef int xdp_create(xdp_options *o, link **made, int *step) noexcept nogil
cdef void xdp_get_facts(const link *l, xdp_facts *f) noexcept nogil
