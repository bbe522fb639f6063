"""The TCP control block (RFC 9293 3.3.1): the one structure that sender, receiver and timers are functions over."""

from libc.stdint cimport uint32_t

from ustack._core.base.ready cimport ready

cdef struct tcb:
    tcb *all_next
    ready rdy
