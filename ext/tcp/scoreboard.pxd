"""The scoreboard (RFC 6675, RFC 8985 5): what became of every byte in flight, and when it was sent last.

An ascending array of runs without gaps between them, from the oldest unacknowledged byte to the last one sent; never
tied to blocks of the send queue, nor to the packets that were made. What leaves in one verb of the engine leaves at one
instant, so that a burst of super-segments is one run, and a stream without losses costs a comparison per packet. SACK,
loss and retransmission cut runs. Two of them lie in the control block; memory for more is taken while it is needed.

Run i ends where run i + 1 begins, the last at `end`. At the bound neighbours are joined, which makes their times
coarser; what still finds no room is forgotten, which costs retransmissions and nothing else. What follows from all
this is decided in recovery and rack.
"""

from libc.stdint cimport uint32_t

from ustack._core.base.seq cimport seq_gt, seq_t
from ustack._core.base.types cimport ns_t
from ustack._core.tcp.block cimport interval, scoreboard, sent_run

cdef enum:
    # Fates; 0: sent once and in flight
    RUN_HELD = 1                # the peer has it (SACK); nothing else is known of it any more
    RUN_LOST = 2                # left the network, and has not been sent again since
    RUN_RESENT = 4              # was sent more than once

cdef enum:
    RUNS_MAX = 1024
    RUNS_SACK = RUNS_MAX - 128  # SACK alone gets no further: what is sent again needs room too

# What one ACK says, summed up over the runs that it delivers.
cdef struct scored:
    # to be filled in before
    ns_t now
    ns_t min_rtt                # a retransmission is not acknowledged sooner: the ACK was for the original
    bint has_echo
    uint32_t echo               # the timestamp echoed, as our clock had it
    seq_t recover               # whether originals below this were delivered is of interest
    seq_t highest               # delivered so far
    # the most recently sent run delivered (RFC 8985 RACK.segment); before: of former ACKs
    ns_t at
    seq_t end
    # the outcome
    uint32_t delivered          # bytes, each counted once
    bint original               # bytes below `recover` that were sent once
    bint reordered              # bytes that were sent once, and lie below what was delivered before

# The bytes [start, end) leave for the first time; start is the end so far. False: there is no room to remember it.
cdef bint board_sent(scoreboard *b, seq_t start, seq_t end, ns_t now) noexcept nogil
# The same for bytes on the board, that leave again.
cdef void board_resent(scoreboard *b, seq_t start, seq_t end, ns_t now) noexcept nogil
# Forget what lies below una.
cdef void board_ack(scoreboard *b, seq_t una, scored *s) noexcept nogil
# The peer holds [start, end), which lies on the board; returns how many bytes are news.
cdef uint32_t board_sack(scoreboard *b, seq_t start, seq_t end, scored *s) noexcept nogil
# Run i is lost, if it is in flight.
cdef void board_lose(scoreboard *b, int i) noexcept nogil
# What is in flight below `end` and was sent once is lost; returns how many bytes.
cdef uint32_t board_lose_below(scoreboard *b, seq_t end) noexcept nogil
# All that the peer does not hold is lost.
cdef void board_lose_all(scoreboard *b) noexcept nogil
# What the peer is said to hold it does not hold (RFC 2018 8).
cdef void board_renege(scoreboard *b) noexcept nogil
# Nothing is lost after all.
cdef void board_unlose(scoreboard *b) noexcept nogil
# The first lost run; False if there is none.
cdef bint board_lost(const scoreboard *b, interval *run) noexcept nogil
# How many separate intervals the peer holds, counted up to `most`.
cdef int board_held(const scoreboard *b, int most) noexcept nogil
# Forget everything and release the memory.
cdef void board_free(scoreboard *b) noexcept nogil


cdef inline sent_run *board_run(const scoreboard *b, int i) noexcept nogil:
    return (b.heap if b.heap != NULL else <sent_run *>b.few) + b.first + i


cdef inline seq_t board_end(const scoreboard *b, int i) noexcept nogil:
    """Where run i ends."""
    return board_run(b, i + 1).start if i + 1 < b.n else b.end


cdef inline bint in_flight(const sent_run *r) noexcept nogil:
    return not r.fate & (RUN_HELD | RUN_LOST)


cdef inline bint sent_after(ns_t at, seq_t end, ns_t other_at, seq_t other_end) noexcept nogil:
    """RFC 8985 5.2, RACK_sent_after."""
    return at > other_at or (at == other_at and seq_gt(end, other_end))
