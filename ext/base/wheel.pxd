"""The timer wheel: intrusive timers of one engine, hierarchical, exact. Reads no clock; time comes in as an argument.

A timer is a member of the structure that it belongs to. Arming is O(1), stopping is O(1), firing is in the order of
expiry to within one tick (65.5 us) and never early.
"""

from libc.stdint cimport uint8_t, uint64_t

from ustack._core.base.types cimport ns_t

ctypedef void (*timer_fn)(void *arg, ns_t now) noexcept nogil

cdef struct timer:
    timer *next
    timer **pprev               # NULL while the timer is not armed
    ns_t expires
    timer_fn fn
    void *arg
    uint8_t level
    uint8_t slot

cdef enum:
    WHEEL_TICK_SHIFT = 16
    WHEEL_LEVELS = 8
    WHEEL_SLOTS = 64

cdef struct wheel:
    uint64_t tick               # ticks up to here have been looked at
    uint64_t used[WHEEL_LEVELS]
    timer *slots[WHEEL_LEVELS][WHEEL_SLOTS]
    uint64_t armed              # how many timers are armed
    ns_t deadline               # if `known`: what wheel_deadline found, and still finds
    bint known
    bint exact                  # it is a timer's; otherwise the beginning of a crowded slot:
    uint8_t level
    uint8_t slot

cdef void wheel_init(wheel *w, ns_t now) noexcept nogil
cdef void timer_init(timer *t, timer_fn fn, void *arg) noexcept nogil
cdef void timer_arm(wheel *w, timer *t, ns_t expires) noexcept nogil
cdef void timer_stop(wheel *w, timer *t) noexcept nogil
cdef int wheel_run(wheel *w, ns_t now) noexcept nogil
cdef ns_t wheel_deadline(wheel *w) noexcept nogil


cdef inline bint timer_armed(const timer *t) noexcept nogil:
    return t.pprev != NULL
