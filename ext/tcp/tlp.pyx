"""Tail loss probes: see tlp.pxd."""

from libc.stdint cimport uint32_t

from ustack._core.base.counters cimport C_TCP_TLP_PROBES, C_TCP_TLP_REPAIRED, count
from ustack._core.base.seq cimport seq_gt, seq_lt, seq_t
from ustack._core.base.types cimport NS_MS, NS_SEC, ns_t
from ustack._core.tcp.block cimport (
    CA_OPEN, TF2_PROBE_RESENT, TF2_PROBED, TF_SACK, fin_sent, flight, has, tcb,
)
from ustack._core.tcp.scoreboard cimport board_run

cdef enum:
    MAX_ACK_DELAY_MS = 200      # how long the peer may wait with the ACK of a single segment
    SLACK_MS = 2                # beyond a round trip; as Linux


cdef ns_t tlp_wait(const tcb *c, ns_t limit) noexcept nogil:
    cdef ns_t wait = NS_SEC
    if not has(c, TF_SACK) or c.ca_state != CA_OPEN or c.sb.n == 0 or c.flags2 & TF2_PROBED:
        return 0
    if c.srtt:
        wait = 2 * c.srtt
        if flight(c) <= c.snd_mss:
            wait += MAX_ACK_DELAY_MS * NS_MS
        elif wait < c.srtt + SLACK_MS * NS_MS:
            wait = c.srtt + SLACK_MS * NS_MS
    return limit if 0 < limit < wait else wait


cdef seq_t tlp_tail(const tcb *c) noexcept nogil:
    """What left in one verb was cut from its beginning on: so its last segment is the rest. A FIN behind full segments
    goes by itself."""
    cdef seq_t start = board_run(&c.sb, c.sb.n - 1).start
    cdef uint32_t fin = 1 if fin_sent(c) else 0
    cdef uint32_t n = c.snd_nxt - fin - start
    if n == 0:
        return start
    return start + (n - (1 - fin)) // c.snd_mss * c.snd_mss


cdef void tlp_sent(tcb *c, bint resent) noexcept nogil:
    count(&c.home.ctx.n, C_TCP_TLP_PROBES)
    c.probe_end = c.snd_nxt
    c.flags2 = (c.flags2 & ~<uint32_t>TF2_PROBE_RESENT) | TF2_PROBED | (TF2_PROBE_RESENT if resent else 0)


cdef bint tlp_ack(tcb *c, seq_t ack, bint plain, bint dsack, seq_t dsack_end) noexcept nogil:
    if not c.flags2 & TF2_PROBED or seq_lt(ack, c.probe_end):
        return False
    if not c.flags2 & TF2_PROBE_RESENT or (dsack and dsack_end == c.probe_end):
        c.flags2 &= ~<uint32_t>TF2_PROBED       # new data arrived, or both the original and the probe
    elif seq_gt(ack, c.probe_end):
        c.flags2 &= ~<uint32_t>TF2_PROBED       # one of the two did not: a loss, which the probe has repaired
        count(&c.home.ctx.n, C_TCP_TLP_REPAIRED)
        return True
    elif plain:
        c.flags2 &= ~<uint32_t>TF2_PROBED       # a second ACK of the same: both arrived
    return False
