"""A TAP or TUN device: frames to and from the kernel's own stack through one descriptor.

With a virtio header in front of every packet, checksums are left to whoever needs them and super-segments pass whole:
those that are sent may be longer (gso_max) than the 64 KB that the kernel sends. Received frames land in two pieces: a
head of 2 KB, which small frames never leave, and, for what is longer, a large block that is used again until a frame
needed it. The read into the large block starts where payload behind the usual headers (Ethernet, IPv4, TCP with
timestamps) would be page-aligned had it begun there, so that from its second page on the payload is: whole pages of it
can be remapped.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.link.link cimport link

cdef enum:
    TAP_MAX_SG = 64

cdef struct tap_options:
    uint8_t layer               # 2: TAP, 3: TUN
    uint32_t mtu
    uint32_t caps               # CAP_* that the device has granted
    uint32_t gso_max            # the longest super-segment that the kernel behind it takes
    uint16_t vnet_len           # bytes of virtio header: 0 (none), 10 or 12
    bint split                  # header split: read the usual headers alone, and payload to a page boundary
    uint8_t mac[6]

# Takes the descriptor, attached and non-blocking, on success. NULL without memory.
cdef link *tap_create(int fd, tap_options *o) noexcept nogil
