"""Segments on their way out: header, options, checksum, and the hand-over to the internet layer.

Whoever calls decides that a segment is to be sent; here is only how. Data goes as one packet up to c.gso_payload
bytes, its payload windows on the send queue, its checksum partial.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ip_is4
from ustack._core.base.seq cimport seq_t
from ustack._core.inet.inet cimport ip_packet
from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.tcp cimport tcp
from ustack._core.wire.tcp cimport tcp_header, tcp_options

# Send a segment with ACK, `flags`, and n bytes of payload (taken). 0 or -errno; the numbers of the block are the
# caller's to move.
cdef int seg_send(tcb *c, uint8_t flags, seq_t seq, mblk *taken, uint32_t n) noexcept nogil
# An ACK without data, with SACK blocks.
cdef int seg_ack(tcb *c) noexcept nogil
# An ACK without data that the peer must answer, because its number lies just below the window: a probe.
cdef int seg_probe(tcb *c) noexcept nogil
# Our SYN or, in SYN-RECEIVED, SYN-ACK.
cdef int seg_syn(tcb *c) noexcept nogil
# RST at snd_nxt (RFC 9293 3.10.7.4).
cdef void seg_reset(tcb *c) noexcept nogil
# RST in answer to a segment of `n` bytes of text that belongs to nothing (RFC 9293 3.10.7.1); never to an RST.
cdef void seg_reset_reply(tcp *t, const ip_packet *ip, const tcp_header *h, uint32_t n) noexcept nogil
# A segment without a connection: back where `ip` came from, with `listener`'s MSS, TTL and TOS unless that is NULL.
# 0 or -errno.
cdef int seg_reply(tcp *t, const ip_packet *ip, tcp_header *h, tcp_options *o, const tcb *listener) noexcept nogil
# Resolve the path to link.key.raddr and derive the segment sizes from it. 0 or -errno.
cdef int seg_open_path(tcb *c) noexcept nogil
# Segment sizes after a change of path MTU, of the peer's MSS, or of the options agreed.
cdef void seg_sizes(tcb *c) noexcept nogil
# Something was lost, perhaps for its length: an old kernel, or a ring with smaller slots, takes no packet longer than
# 65,535 bytes. From here on none of this connection is.
cdef void seg_usual(tcb *c) noexcept nogil
# How many packets the interface takes now.
cdef int seg_room(tcb *c) noexcept nogil


cdef inline uint16_t mss_default(const tcb *c) noexcept nogil:
    """RFC 9293 3.7.1: of a peer that says nothing; the path's addresses are known."""
    return 536 if ip_is4(&c.link.key.raddr) else 1220
