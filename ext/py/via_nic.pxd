"""What the handles of the message layer have in common: the NIC with its lock, registered memory, waiting."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t

from ustack._core.base.types cimport atomic_swap32, spin_unlock
from ustack._core.mem.region cimport region
from ustack._core.via.shared cimport shared_port
from ustack._core.via.types cimport via_cq, via_listener, via_nic, via_queue, via_vi

cdef struct waiter:             # a thread that sleeps on a NIC
    waiter *next
    int fd                      # an eventfd of its own
    bint sends                  # also for descriptors that were sent

cdef struct condition:          # what a thread waits for: the one that is not NULL
    via_queue *queue
    via_cq *cq
    via_listener *listener
    via_vi *outcome             # of its connection request
    via_nic *any                # anything: its `completions` are no longer `seen`
    uint32_t seen
    bint sends                  # also that other processes have taken what was sent


@cython.final
cdef class Nic:
    cdef via_nic *n
    cdef int wake_fd            # other processes signal it
    cdef waiter *sleeping
    cdef waiter *spare
    cdef uint32_t told          # n.completions, when the sleepers were told last
    cdef int32_t inside         # threads that wait without the GIL: what they look at is not freed
    cdef bint wants_control     # an entry names memory that we have not been shown
    cdef uint32_t idle          # fruitless looks since the control sockets were looked at
    cdef int graves             # ports that are over and not freed yet
    cdef list ports             # Port handles, of processes that are attached
    cdef dict memories          # handle -> Memory
    cdef dict handles           # index of a VI -> Vi
    cdef public double busy_poll
    cdef object __weakref__


@cython.final
cdef class Ptag:
    cdef readonly Nic nic
    cdef uint32_t id


@cython.final
cdef class Memory:
    cdef readonly Nic nic
    cdef uint32_t handle        # 0 once it was deregistered
    cdef uint8_t *base
    cdef Py_ssize_t length
    cdef object owner
    cdef int fd                 # of the memory file it lies in, or -1
    cdef object view


@cython.final
cdef class Port:
    cdef readonly Nic nic
    cdef shared_port *p
    cdef object sock
    cdef bint over              # its connections are broken, and it waits to be freed
    cdef bint attended          # by some thread, just now

    cdef int greet(self) except -1
    cdef int join(self, region *mine, region *theirs, int wake_fd) except -1
    cdef int attend(self) except -1
    cdef int show(self) except -1
    cdef int hide(self, uint32_t handle) except -1
    cdef int listen(self) except -1
    cdef bint understand(self, bytes data, list fds) except -1
    cdef void last_look(self)
    cdef void end(self)
    cdef void dismantle(self)


# VIP code -> exception, except for VIP_SUCCESS.
cdef int check(int code, object what=*) except -1
cdef int fail(int code, object what=*) except -1
cdef int alive(Nic nic) except -1

# Hold the NIC. With the GIL; never across anything that runs Python.
cdef void hold(Nic nic) noexcept
# Let it go; wake who sleeps here or elsewhere, if there is reason.
cdef void release(Nic nic) noexcept nogil
# Take what has come in through all ports. Without holding it.
cdef void progress(Nic nic) noexcept nogil
# Whether progress would find something.
cdef bint has_work(Nic nic) noexcept nogil
# The same for who waits to receive.
cdef bint has_entries(Nic nic) noexcept nogil
# With the GIL, not holding it: what needs Python. Show memory, look at memory that others show, notice who has died.
cdef int attend(Nic nic) except -1
# One look at what has come in, as the non-blocking calls do it.
cdef int look(Nic nic) except -1
# Until the condition holds. VIP_SUCCESS, VIP_TIMEOUT. `timeout` None: for ever. Raises what a signal handler raises.
cdef int wait(Nic nic, condition *what, object timeout) except -1
