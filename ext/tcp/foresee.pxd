"""What a burst of packets is going to touch, asked for before it is touched: among very many connections neither the
bucket, nor the entry, nor the block, nor the socket of the next packet is in a cache, and each is found by the one
before it. Nothing depends on it but the time that it takes, so that a wrong guess about a packet does no harm.
"""

from libc.stddef cimport size_t

from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.tcp cimport tcp

# Ask for all of a structure at once.
cdef extern from * nogil:
    """
    static inline void fetch(const void *p, size_t n)
    {
        for (const char *line = (const char *)p, *end = line + n; line < end; line += 64)
            __builtin_prefetch(line);
    }
    """
    void fetch(const void *p, size_t n)

# n packets, with l3 bytes of link header in front, before they are given to the internet layer.
cdef void tcp_foresee(tcp *t, mblk **burst, int n, size_t l3) noexcept nogil
