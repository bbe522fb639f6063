"""A segment arrives (RFC 9293 3.10.7): found its connection, it goes through functions named after the steps.

    3.10.7.1  CLOSED                 arrives_closed
    3.10.7.2  LISTEN                 listen.arrives_listen
    3.10.7.3  SYN-SENT               arrives_syn_sent
    3.10.7.4  otherwise              arrives
        first    sequence number     check_sequence (PAWS before it: RFC 7323 5.3)
        second   RST                 check_reset (RFC 5961 3)
        fourth   SYN                 check_syn (RFC 5961 4)
        fifth    ACK                 acknowledge.check_ack (RFC 5961 5)
        sixth    URG                 urgent data stays in line, so there is nothing to do
        seventh  text                text.take_text
        eighth   FIN                 text.check_fin

Each step says whether the next one is to follow. The third, security, has no use on the Internet.
"""

from ustack._core.inet.inet cimport ip_packet
from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.arrival cimport arrival
from ustack._core.tcp.block cimport tcb

# The upcall of the internet layer.
cdef void tcp_input(void *proto, mblk *taken, const ip_packet *ip) noexcept nogil
# An ACK that tells an honest peer our numbers and an attacker nothing; limited per connection, where it answers
# segments without text, and globally at random (RFC 5961 7 and 10, CVE-2016-5696).
cdef void challenge(tcb *c) noexcept nogil
# What a segment with an acceptable ACK says of the peer's clock (RFC 7323 4.3).
cdef void update_ts_recent(tcb *c, const arrival *s) noexcept nogil
