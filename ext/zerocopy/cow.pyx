"""Copy on write: see cow.pxd."""

from libc.errno cimport EBUSY
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ustack._core.base.types cimport cpu_relax
from ustack._core.sys.fault cimport (
    FAULT_MPROTECT, FAULT_NONE, FAULT_USERFAULTFD, fault_at_fork, fault_attend, fault_choose, fault_forked,
    fault_lift, fault_lock, fault_mechanism, fault_unlock)
from ustack._core.sys.memory cimport page_size
from ustack._core.zerocopy.cow_file cimport cow_file_any, cow_file_fault, cow_file_forked, cow_file_moved
from ustack._core.zerocopy.cow_plain cimport (
    cow_plain_any, cow_plain_break_all, cow_plain_fault, cow_plain_forked)
from ustack._core.zerocopy.gift cimport gift_any, gift_forget, gift_touched

cdef bint watching_forks = False


cdef int ask(void *page, bint met) noexcept nogil:
    cdef bint given
    cdef int r
    fault_lock()
    given = met and gift_touched(<uint8_t *>page)
    r = cow_file_fault(<uint8_t *>page)
    fault_unlock()
    if r == 0:
        r = cow_plain_fault(<uint8_t *>page, met)
    if r == 0 and given:
        fault_lock()
        fault_lift(page, page_size())
        fault_unlock()
        r = 1
    return r


cdef int answer(void *page) noexcept nogil:
    return ask(page, True)


cdef void moved(void *before, void *now, size_t n) noexcept nogil:
    fault_lock()
    cow_file_moved(<uint8_t *>before, <uint8_t *>now, n)
    fault_unlock()


# --- fork: the parent shares nothing with the application at that moment but memory files -----------------------------
cdef void before_fork() noexcept nogil:
    while True:
        cow_plain_break_all()
        fault_lock()
        if not cow_plain_any():
            gift_forget()
            return                  # with the lock, until after the fork


cdef void after_fork() noexcept nogil:
    fault_unlock()


cdef void in_child() noexcept nogil:
    fault_forked()
    cow_file_forked()
    cow_plain_forked()


cdef int choose(int how) noexcept nogil:
    cdef int r
    if how != FAULT_NONE:
        return fault_choose(how, answer, moved)
    r = fault_choose(FAULT_USERFAULTFD, answer, moved)
    return r if r > 0 else fault_choose(FAULT_MPROTECT, answer, moved)


cdef int cow_start(int how) noexcept nogil:
    global watching_forks
    cdef int r = fault_mechanism()
    cdef int e
    if r != FAULT_NONE and (how == FAULT_NONE or how == r):
        e = fault_attend()
        return r if e == 0 else e
    fault_lock()
    r = fault_mechanism()
    if r == FAULT_NONE or (how != FAULT_NONE and how != r):
        r = -EBUSY if cow_file_any() or cow_plain_any() or gift_any() else choose(how)
    if r > 0 and not watching_forks:
        watching_forks = fault_at_fork(before_fork, after_fork, in_child) == 0
    fault_unlock()
    if r > 0:
        e = fault_attend()
        r = r if e == 0 else e
    return r


cdef void cow_break(const void *addr, size_t n) noexcept nogil:
    cdef size_t page = page_size()
    cdef size_t at = <size_t>addr & ~(page - 1)
    if not (cow_file_any() or cow_plain_any()):
        return
    while at < <size_t>addr + n:
        while ask(<void *>at, False) < 0:
            cpu_relax()
        at += page
