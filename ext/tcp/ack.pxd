"""When received data is acknowledged (RFC 9293 3.8.6.3, RFC 5681 4.2): at once, in the next egress, or a little later.

Output is made once per verb, so a burst of in-order segments gets one ACK; out-of-order segments are answered one
by one, by ``input``, because the peer counts those answers. Where segments have been lost, ACKs get lost as well, and
one that stood for a whole window costs a time-out: there each second segment of a burst draws its own.
"""

from libc.stdint cimport uint32_t

from ustack._core.base.types cimport NS_MS, ns_t
from ustack._core.tcp.block cimport TF2_DIALOGUE, TF2_HEARD, tcb

cdef enum:
    DELACK_MS = 40              # Linux's least
    ANSWER_MS = 1               # in which a thread that slept answers
    QUICK_ACKS = 16             # the first segments, and those after a loss, are acknowledged at once
    WARY_SEGMENTS = 250         # after a loss
    LEAST_FULL = 536            # smaller segments are no evidence of the peer's segment size

# n bytes of in-order data have come.
cdef void ack_data(tcb *c, uint32_t n) noexcept nogil
# An ACK in the next egress.
cdef void ack_soon(tcb *c) noexcept nogil
# Something came out of order or twice: the network loses or reorders.
cdef void ack_loss(tcb *c) noexcept nogil
# A handshake is complete, or the peer's stream has ended: a thread that slept until then answers at once, as a rule,
# with data or with a FIN. Nobody slept: in the next egress.
cdef void ack_with_answer(tcb *c) noexcept nogil
# It sleeps again: there was no answer.
cdef void ack_unanswered(tcb *c) noexcept nogil
cdef void delack_fire(void *arg, ns_t now) noexcept nogil


cdef inline bint acks_at_once(const tcb *c) noexcept nogil:
    return c.quick != 0 and not c.flags2 & TF2_DIALOGUE


cdef inline void ack_interactive(tcb *c) noexcept nogil:
    """Data goes out. If it follows data that came just now, this is a dialogue, where delayed ACKs ride on answers."""
    if c.flags2 & TF2_HEARD:
        c.flags2 &= ~<uint32_t>TF2_HEARD
        if c.home.ctx.now - c.last_rcv < DELACK_MS * NS_MS:
            c.flags2 |= TF2_DIALOGUE
