"""Taking back what was done about a loss that was none: the segments, or their ACKs, had only been late.

Three witnesses. An ACK that makes progress echoes a timestamp from before the first retransmission (Eifel, RFC 3522).
The peer reports every retransmission as a duplicate (DSACK, RFC 3708). After a time-out data is acknowledged that was
sent only once (F-RTO, RFC 5682; that one is in recovery). Then cwnd and ssthresh are what they were before (RFC 4015).
"""

from libc.stdint cimport uint32_t

from ustack._core.base.seq cimport seq_t
from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.scoreboard cimport scored

# The window is about to be reduced.
cdef void undo_begin(tcb *c) noexcept nogil
# n bytes are sent again.
cdef void undo_resent(tcb *c, uint32_t n) noexcept nogil
# The peer has reported n bytes up to `end` as a duplicate.
cdef void undo_dsack(tcb *c, seq_t end, uint32_t n) noexcept nogil
# Whether every retransmission since has been reported as a duplicate.
cdef bint undo_all_duplicates(const tcb *c) noexcept nogil
# Whether an ACK that made progress was for an original.
cdef bint undo_was_delayed(const tcb *c, const scored *s) noexcept nogil
# Restore the window.
cdef void undo_window(tcb *c, int why) noexcept nogil
# It cannot be undone any more.
cdef void undo_forget(tcb *c) noexcept nogil
