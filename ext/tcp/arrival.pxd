"""A segment that has arrived, as a value: what the steps of input hand on to each other."""

from libc.stdint cimport uint32_t

from ustack._core.base.seq cimport seq_t
from ustack._core.inet.inet cimport ip_packet
from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.tcp cimport tcp
from ustack._core.wire.tcp cimport TH_FIN, TH_SYN, tcp_header, tcp_options

cdef struct arrival:
    tcp *t
    const ip_packet *ip
    tcp_header h
    tcp_options o
    mblk *m                     # rptr at the TCP header; NULL once the text has been taken
    uint32_t n                  # bytes of text
    uint32_t size               # of them in each segment on the wire


cdef inline uint32_t seg_len(const arrival *s) noexcept nogil:
    """SEG.LEN: text, and SYN and FIN."""
    return s.n + (1 if s.h.flags & TH_SYN else 0) + (1 if s.h.flags & TH_FIN else 0)


cdef inline seq_t seg_end(const arrival *s) noexcept nogil:
    return s.h.seq + seg_len(s)
