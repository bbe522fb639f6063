"""NICs, protection tags, registered memory, other processes, waiting: handles on the room ``via``. The queues:
``via``.
"""

import os
import resource
import select
import socket as _socket
import struct

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ustack._core.base.ledger cimport LR_COUNT, ledger_name
from ustack._core.base.types cimport NS_MS, NS_NEVER, atomic_load32, atomic_swap32, cpu_relax, ns_t, spin_unlock
from ustack._core.mem.pin cimport mem_pin, mem_pinned, mem_unpin
from ustack._core.mem.region cimport region, region_unref
from ustack._core.mem.share cimport region_import
from ustack._core.sys.eventfd cimport sys_eventfd, sys_eventfd_signal, sys_eventfd_take
from ustack._core.sys.io cimport sys_close
from ustack._core.sys.memory cimport PROT_READ, SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SHRINK, memfd_seal
from ustack._core.sys.poll cimport POLLIN, pollfd, sys_ppoll
from ustack._core.sys.thread cimport sys_yield
from ustack._core.via.cq cimport cq_has
from ustack._core.via.lane cimport LANE_BYTES, LANE_SLOTS, SLEEPS, SLEEPS_FOR_SENDS
from ustack._core.via.memory cimport memory_register, ptag_create, ptag_destroy
from ustack._core.via.nic cimport (
    nic_add_port, nic_create, nic_free, nic_remove_port, nic_take_event, via_code_meaning, via_code_name,
    via_count_meaning, via_count_name, via_event_name,
)
from ustack._core.via.queue cimport queue_has_done
from ustack._core.via.shared cimport (
    shared_close, shared_create, shared_free, shared_has_entry,
    shared_has_work, shared_lend, shared_port, shared_segment, shared_shown,
    shared_sleeps, shared_unlend,
)
from ustack._core.via.types cimport (
    PORT_WANTS_MEMORY, VC_KICKS, VIA_COUNT, VIA_CQ_ENTRIES_MAX, VIA_CQ_MAX, VIA_DEPTH_MAX, VIA_MEMORY_MAX,
    VIA_PORT_MAX, VIA_PTAG_MAX,
    VIA_TRANSFER_MAX, VIA_VI_MAX, VIP_ERROR_RESOURCE, VIP_INVALID_PARAMETER, VIP_INVALID_STATE,
    VIP_NOT_DONE, VIP_NOT_REACHABLE, VIP_SUCCESS, VIP_TIMEOUT, via_event, via_nic, via_port,
)
from ustack._core.via.vi cimport nic_deregister
from ustack._core.wire.via cimport DISCRIMINATOR_MAX, SEGMENTS_MAX

from ustack._core.py.direct cimport may_vanish
from ustack._core.py.buffers import Region

cdef enum:
    BUDGET = 64                 # entries of one port in one look
    SLEEPERS = 66               # descriptors that a sleeping thread looks at: its own, the NIC's, those of the ports
    SLICE_MS = 50               # a sleep is at most so long: then signals are looked at
    IDLE_LOOKS = 20000          # non-blocking calls that find nothing, until the control sockets are looked at

# Messages on the control socket: kind, handle, offset, length; with descriptors.
_CONTROL = struct.Struct("<IIQQ")
_HELLO, _LEND, _UNLEND = 0x56494131, 2, 3


class ViaError(Exception):
    """A call of the message layer failed: ``code`` is VIPL's return code, ``name`` how VIPL calls it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.name = code_name(code)


class ViaTimeout(ViaError, TimeoutError):
    """VIP_TIMEOUT: the time was over first."""


def code_name(code: int) -> str:
    """VIPL's name of a return code."""
    cdef const char *name = via_code_name(code)
    return name.decode() if name != NULL else f"code {code}"


cdef int fail(int code, object what=None) except -1:
    cdef const char *meaning = via_code_meaning(code)
    text = f"{code_name(code)}: {what or (meaning.decode() if meaning != NULL else '')}"
    raise (ViaTimeout if code == VIP_TIMEOUT else ViaError)(code, text)


cdef int check(int code, object what=None) except -1:
    return 0 if code == VIP_SUCCESS else fail(code, what)


cdef int alive(Nic nic) except -1:
    return fail(VIP_INVALID_STATE, "the NIC is closed") if nic.n == NULL else 0


cdef inline ns_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <ns_t>t.tv_sec * 1000000000 + t.tv_nsec


# --- the lock
# ---------------------------------------------------------------------------------------------------------

cdef void hold_slowly(via_nic *n) noexcept nogil:
    cdef int _k
    while atomic_swap32(&n.lock, 1):
        for _k in range(200):
            cpu_relax()
        sys_yield()


cdef void hold(Nic nic) noexcept:
    if atomic_swap32(&nic.n.lock, 1):
        with nogil:
            hold_slowly(nic.n)


cdef void release(Nic nic) noexcept nogil:
    cdef via_port *p = nic.n.ports
    cdef waiter *w
    while p != NULL:
        if p.owes_kick:
            p.owes_kick = False
            nic.n.counts[<int>VC_KICKS] += 1
            sys_eventfd_signal(p.wake_fd)
        p = p.next
    if nic.told != nic.n.completions:
        nic.told = nic.n.completions
        w = nic.sleeping
        while w != NULL:
            sys_eventfd_signal(w.fd)
            w = w.next
    spin_unlock(&nic.n.lock)


cdef void progress(Nic nic) noexcept nogil:
    cdef via_port *p
    hold_slowly(nic.n)
    p = nic.n.ports
    while p != NULL:
        if p.ops.poll(p, BUDGET) == PORT_WANTS_MEMORY:
            nic.wants_control = True
        p = p.next
    release(nic)


cdef bint has_work(Nic nic) noexcept nogil:
    cdef via_port *p = nic.n.ports
    while p != NULL:
        if shared_has_work(<shared_port *>p.state):
            return True
        p = p.next
    return False


cdef bint has_entries(Nic nic) noexcept nogil:
    cdef via_port *p = nic.n.ports
    while p != NULL:
        if shared_has_entry(<shared_port *>p.state):
            return True
        p = p.next
    return False


cdef bint wants_attention(Nic nic) noexcept nogil:
    """Whether something needs Python: memory to be shown, or to be looked at."""
    cdef via_port *p = nic.n.ports
    if nic.wants_control:
        return True
    while p != NULL:
        if p.wants_export:
            return True
        p = p.next
    return False


cdef int attend(Nic nic) except -1:
    nic.idle = 0
    while True:
        nic.wants_control = False
        for port in list(nic.ports):
            (<Port>port).attend()
        if nic.inside == 0:
            bury(nic)
        if not wants_attention(nic):
            return 0
        with nogil:
            progress(nic)


cdef int look(Nic nic) except -1:
    nic.inside += 1             # nobody closes it meanwhile
    try:
        return look_inside(nic)
    finally:
        leave(nic)


cdef int leave(Nic nic) except -1:
    nic.inside -= 1
    if nic.graves and nic.inside == 0:
        bury(nic)
    return 0


cdef int look_inside(Nic nic) except -1:
    if has_work(nic):
        with nogil:
            progress(nic)
    else:
        nic.idle += 1
    if wants_attention(nic):
        attend(nic)
        with nogil:
            progress(nic)
    elif nic.idle > IDLE_LOOKS:
        attend(nic)
    return 0


cdef int bury(Nic nic) except -1:
    """Free ports that are over. Nobody is looking at them without the GIL."""
    nic.graves = sum((<Port>p).over and (<Port>p).attended for p in nic.ports)
    for port in [p for p in nic.ports if (<Port>p).over and not (<Port>p).attended]:
        nic.ports.remove(port)
        (<Port>port).dismantle()
    return 0


# --- waiting
# ----------------------------------------------------------------------------------------------------------

cdef bint holds(condition *c) noexcept nogil:
    if c.queue != NULL:
        return queue_has_done(c.queue) or c.queue.head == c.queue.tail
    if c.cq != NULL:
        return cq_has(c.cq)
    if c.listener != NULL:
        return c.listener.head != c.listener.tail
    if c.any != NULL:
        return <uint32_t>atomic_load32(<int32_t *>&c.any.completions) != c.seen
    return c.outcome.outcome != VIP_NOT_DONE


cdef bint spin(Nic nic, condition *what, ns_t until) noexcept nogil:
    """Look until then; True if the condition holds."""
    cdef int k = 0
    cdef bint receives = (what.queue != NULL and what.queue.is_recv) or (what.any != NULL and not what.sends)
    while True:
        if holds(what):
            return True
        if has_entries(nic) if receives else has_work(nic):
            progress(nic)
            if nic.wants_control:
                return False
            continue
        cpu_relax()
        k += 1
        if k & 63 == 0 and now() >= until:
            return False


cdef void rest(Nic nic, condition *what, waiter *me, ns_t timeout) noexcept nogil:
    """Sleep until something comes, at most so long."""
    cdef pollfd fds[SLEEPERS]
    cdef uint64_t count
    cdef via_port *p
    cdef int n = 2
    cdef int k
    me.sends = what.sends or what.cq != NULL or (what.queue != NULL and not what.queue.is_recv)
    hold_slowly(nic.n)
    me.next = nic.sleeping
    nic.sleeping = me
    announce(nic)
    fds[0].fd = me.fd
    fds[1].fd = nic.wake_fd
    p = nic.n.ports
    while p != NULL and n < SLEEPERS:
        if not p.dead:
            fds[n].fd = p.socket_fd
            n += 1
        p = p.next
    spin_unlock(&nic.n.lock)
    for k in range(n):
        fds[k].events = POLLIN
    if not holds(what) and not has_work(nic):
        sys_ppoll(fds, n, timeout)
    hold_slowly(nic.n)
    unlist(nic, me)
    announce(nic)
    spin_unlock(&nic.n.lock)
    sys_eventfd_take(me.fd, &count)
    sys_eventfd_take(nic.wake_fd, &count)
    for k in range(2, n):
        if fds[k].revents:
            nic.wants_control = True


cdef void announce(Nic nic) noexcept nogil:
    """Tell the other processes what this one sleeps for."""
    cdef via_port *p = nic.n.ports
    cdef waiter *w = nic.sleeping
    cdef int how = SLEEPS if w != NULL else 0
    while w != NULL:
        if w.sends:
            how |= SLEEPS_FOR_SENDS
        w = w.next
    while p != NULL:
        shared_sleeps(<shared_port *>p.state, how)
        p = p.next


cdef void unlist(Nic nic, waiter *me) noexcept nogil:
    cdef waiter **at = &nic.sleeping
    while at[0] != me:
        at = &at[0].next
    at[0] = me.next


cdef waiter *enlist(Nic nic) except NULL:
    cdef waiter *w = nic.spare
    if w != NULL:
        nic.spare = w.next
        return w
    w = <waiter *>calloc(1, sizeof(waiter))
    if w == NULL:
        raise MemoryError
    w.fd = sys_eventfd()
    if w.fd < 0:
        number = -w.fd
        free(w)
        raise OSError(number, os.strerror(number))
    return w


cdef int wait_inside(Nic nic, condition *what, waiter *me, ns_t deadline) except -1:
    cdef ns_t began = now()
    cdef ns_t spins = <ns_t>(nic.busy_poll * 1e9)
    cdef ns_t until, t
    while True:
        t = now()
        until = t + SLICE_MS * NS_MS
        until = until if until < deadline else deadline
        with nogil:
            if t - began < spins:
                spin(nic, what, until if until < began + spins else began + spins)
            else:
                rest(nic, what, me, until - t)
            if has_work(nic):
                progress(nic)
        if holds(what):
            return VIP_SUCCESS
        PyErr_CheckSignals()
        attend(nic)
        alive(nic)
        if holds(what):
            return VIP_SUCCESS
        if now() >= deadline:
            return VIP_TIMEOUT


cdef int wait(Nic nic, condition *what, object timeout) except -1:
    cdef ns_t deadline = NS_NEVER
    cdef waiter *me
    if timeout is not None:
        if timeout < 0:
            raise ValueError("a timeout is a number of seconds from 0 on, or None")
        if timeout < 1e9:
            deadline = now() + <ns_t>(timeout * 1e9)
    me = enlist(nic)
    nic.inside += 1
    try:
        return wait_inside(nic, what, me, deadline)
    finally:
        me.next = nic.spare
        nic.spare = me
        leave(nic)


# --- NICs
# -------------------------------------------------------------------------------------------------------------

@cython.final
cdef class Nic:
    """A network interface of the message layer, in software: what VIPL's VipOpenNic gives.

    VIs of one NIC can be connected to each other; ``attach`` makes a way to the NIC of another process, over shared
    memory.
    ``busy_poll`` is how many seconds a waiting call looks at memory before it sleeps. A context manager. Threads may
    share it.
    """

    def __cinit__(self, *, busy_poll: float = 20e-6):
        if busy_poll < 0:
            raise ValueError("busy_poll is a number of seconds from 0 on")
        self.busy_poll = busy_poll
        self.ports = []
        self.memories = {}
        self.handles = {}
        self.wake_fd = sys_eventfd()
        if self.wake_fd < 0:
            raise OSError(-self.wake_fd, os.strerror(-self.wake_fd))
        self.n = nic_create()
        if self.n == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef waiter *w
        if self.n != NULL:
            nic_free(self.n)
        while self.spare != NULL:
            w = self.spare
            self.spare = w.next
            sys_close(w.fd)
            free(w)
        if self.wake_fd >= 0:
            sys_close(self.wake_fd)

    def __enter__(self) -> Nic:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Break all connections, release all memory. Not while a thread waits (VIP_ERROR_RESOURCE). May be called
        twice.
        """
        if self.n == NULL:
            return
        if self.inside:
            fail(VIP_ERROR_RESOURCE, "a thread waits on this NIC")
        for handle in list(self.handles.values()):
            handle._abandon()
        for port in self.ports:
            (<Port>port).end()
        bury(self)
        for memory in list(self.memories.values()):
            memory.deregister()
        self.handles.clear()
        nic_free(self.n)
        self.n = NULL

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.n == NULL

    def attributes(self) -> dict[str, object]:
        """What VipQueryNic tells: limits by VIPL's names. Sizes in bytes."""
        return {
            "Name": "ustack", "HardwareVersion": 0, "ProviderVersion": 1, "NicAddressLen": 0, "ThreadSafe": True,
            "MaxDiscriminatorLen": DISCRIMINATOR_MAX, "MaxRegisterBytes": (1 << 46),
            "MaxRegisterRegions": VIA_MEMORY_MAX,
            "MaxRegisterBlockBytes": (1 << 46), "MaxVI": VIA_VI_MAX, "MaxDescriptorsPerQueue": VIA_DEPTH_MAX,
            "MaxSegmentsPerDesc": SEGMENTS_MAX, "MaxCQ": VIA_CQ_MAX, "MaxCQEntries": VIA_CQ_ENTRIES_MAX,
            "MaxTransferSize": VIA_TRANSFER_MAX, "NativeMTU": VIA_TRANSFER_MAX, "MaxPtags": VIA_PTAG_MAX,
            "ReliabilityLevelSupport": 7, "RDMAReadSupport": 0, "RDMAWriteSupport": 0, "MaxPeers": VIA_PORT_MAX,
        }

    def ptag(self) -> Ptag:
        """A new protection tag (VipCreatePtag): VIs and memory work together only if they have the same.
        VIP_ERROR_RESOURCE.
        """
        cdef Ptag t = Ptag.__new__(Ptag)
        cdef int r
        alive(self)
        hold(self)
        r = ptag_create(self.n, &t.id)
        release(self)
        check(r, f"at most {VIA_PTAG_MAX} protection tags")
        t.nic = self
        return t

    def register(self, buffer: object, ptag: Ptag) -> Memory:
        """Register and pin writable memory (VipRegisterMem), of a Region or any other object with a buffer.

        The object cannot be resized meanwhile (BufferError). Memory of a ``Region`` can be sent from to other
        processes, which
        can then read it; its file is sealed against further writable mappings when that happens first.
        Raises VIP_ERROR_RESOURCE if it cannot be pinned (RLIMIT_MEMLOCK), VIP_INVALID_PTAG, VIP_INVALID_PARAMETER for
        a mapping of a file (which could be cut), BufferError for read-only memory.
        """
        alive(self)
        view = memoryview(buffer)
        if view.readonly:
            view.release()
            raise BufferError("memory is registered to be written to: this buffer is read-only")
        return enroll(self, view.cast("B") if view.nbytes else view, buffer, ptag)

    def allocate(self, length: int, ptag: Ptag) -> Memory:
        """Registered memory of its own, in a memory file: at least ``length`` bytes, whole pages."""
        alive(self)
        r = Region(length)
        return enroll(self, memoryview(r), r, ptag)

    def attach(self, sock: object, *, timeout: float = 5.0) -> Port:
        """A way to the NIC of another process: ``sock`` is an end of a connected UNIX socket (SOCK_SEQPACKET), taken
        over.

        The other process does the same with the other end. Raises VIP_NOT_REACHABLE if it does not within
        ``timeout`` seconds,
        VIP_ERROR_RESOURCE.
        """
        alive(self)
        return Port(self, sock, timeout)

    def errors(self) -> list[tuple[str, int]]:
        """Asynchronous errors since the last call: (VIPL's name, id of the VI or 0), oldest first."""
        cdef via_event e
        cdef bint there
        alive(self)
        look(self)
        found = []
        while True:
            hold(self)
            there = nic_take_event(self.n, &e)
            release(self)
            if not there:
                return found
            found.append((via_event_name(e.code).decode(), e.vi))

    def poll(self) -> None:
        """Take what has come in, look after other processes: for programs that do not call anything else for long."""
        alive(self)
        look(self)
        attend(self)

    def stats(self) -> dict[str, int]:
        """Counters that are not zero, by name."""
        alive(self)
        return {via_count_name(k).decode(): self.n.counts[k] for k in range(VIA_COUNT) if self.n.counts[k]}

    def ledger(self) -> dict[str, tuple[int, int]]:
        """Payload bytes that were moved: reason -> (bytes, calls). What a provider moved is ``device.rx``."""
        alive(self)
        return {ledger_name(k).decode(): (self.n.book.nbytes[k], self.n.book.ncalls[k])
                for k in range(LR_COUNT) if self.n.book.ncalls[k]}


def counter_meanings() -> dict[str, str]:
    """What the counters of ``Nic.stats`` mean."""
    return {via_count_name(k).decode(): via_count_meaning(k).decode() for k in range(VIA_COUNT)}


def pinned_bytes() -> int:
    """Bytes of this process that registrations keep locked in memory, each page counted once."""
    return mem_pinned()


@cython.final
cdef class Ptag:
    """A protection tag: made by ``Nic.ptag`` of the NIC ``nic``.

    Memory and descriptors of one tag cannot be used by VIs of another.
    """

    def __init__(self):
        raise TypeError("protection tags are made by Nic.ptag")

    def destroy(self) -> None:
        """Give it back (VipDestroyPtag). VIP_ERROR_RESOURCE while memory or a VI has it, VIP_INVALID_PTAG if it is
        gone.
        """
        cdef int r
        alive(self.nic)
        hold(self.nic)
        r = ptag_destroy(self.nic.n, self.id)
        release(self.nic)
        check(r, "memory or a VI has this protection tag" if r == VIP_ERROR_RESOURCE else None)


# --- registered memory
# ------------------------------------------------------------------------------------------------

cdef Memory enroll(Nic nic, object view, object owner, Ptag ptag):
    cdef Memory m = Memory.__new__(Memory)
    cdef int r
    cdef bint shared = isinstance(owner, Region)
    m.nic = nic
    m.view = view
    m.length = view.nbytes
    if m.length == 0:
        fail(VIP_INVALID_PARAMETER, "there is no memory of 0 bytes to register")
    m.base = address_of(view)
    m.fd = -1
    if shared:
        m.fd = owner.fileno()
    elif may_vanish(owner, m.base, m.length):
        fail(VIP_INVALID_PARAMETER, "a mapping of a file cannot be registered: its pages go when it is cut")
    r = mem_pin(m.base, m.length)
    if r < 0:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        fail(VIP_ERROR_RESOURCE,
             f"{m.length} bytes cannot be pinned ({os.strerror(-r)}); RLIMIT_MEMLOCK is {limit} bytes "
             f"(ulimit -l), of which {mem_pinned()} are in use here")
    hold(nic)
    r = memory_register(nic.n, m.base, m.length, ptag.id if ptag.nic is nic else 0, shared, 0, &m.handle)
    release(nic)
    if r != VIP_SUCCESS:
        mem_unpin(m.base, m.length)
        fail(r, f"at most {VIA_MEMORY_MAX} registrations" if r == VIP_ERROR_RESOURCE else None)
    m.owner = owner
    nic.memories[m.handle] = m
    return m


cdef uint8_t *address_of(object view) except NULL:
    cdef uint8_t[::1] bytes_of = view
    return &bytes_of[0]


@cython.final
cdef class Memory:
    """Registered memory of the NIC ``nic``: made by its ``register`` and ``allocate``. Pinned until ``deregister``."""

    def __init__(self):
        raise TypeError("memory is registered by Nic.register, or made by Nic.allocate")

    def __dealloc__(self):
        if self.handle:         # with its NIC, which nobody closed
            mem_unpin(self.base, self.length)

    def __len__(self) -> int:
        return self.length

    @property
    def id(self) -> int:
        """The 32-bit handle that data segments name it by; 0 once it was deregistered."""
        return self.handle

    @property
    def address(self) -> int:
        """Where it begins in this process."""
        return <uintptr_t>self.base

    @property
    def data(self) -> memoryview:
        """Its bytes. Raises VIP_INVALID_PARAMETER once it was deregistered."""
        if self.handle == 0:
            fail(VIP_INVALID_PARAMETER, "this memory was deregistered")
        return self.view

    @property
    def shareable(self) -> bool:
        """Whether messages can be sent from it to other processes: it lies in a memory file."""
        return self.fd >= 0

    def deregister(self) -> None:
        """Give it back (VipDeregisterMem): unpinned. Posted descriptors that use it fail with a protection error
        first.

        Nothing looks at the memory afterwards, here or in other processes. VIP_INVALID_PARAMETER if it is not
        registered.
        """
        cdef int r
        cdef uint32_t handle = self.handle
        alive(self.nic)
        hold(self.nic)
        r = nic_deregister(self.nic.n, handle)
        self.handle = 0
        release(self.nic)
        check(r, "this memory was deregistered already")
        for port in self.nic.ports:
            (<Port>port).hide(handle)
        self.nic.memories.pop(handle, None)
        mem_unpin(self.base, self.length)
        self.view = self.owner = None


def _patiently(sock, data, fd):
    """Send to a process that may be a second behind with reading; OSError if it is further."""
    try:
        _socket.send_fds(sock, [data], [fd])
    except BlockingIOError:
        select.select([], [sock], [], 1.0)
        _socket.send_fds(sock, [data], [fd])


# --- other processes
# --------------------------------------------------------------------------------------------------

@cython.final
cdef class Port:
    """A way to the NIC of another process: made by ``Nic.attach``. VIs are connected through it with
    ``Vi.connect``.
    """

    def __init__(self, nic: Nic, sock: object, timeout: float) -> None:
        if sock.family != _socket.AF_UNIX or sock.type != _socket.SOCK_SEQPACKET:
            raise ValueError("the NIC of another process is attached over a UNIX socket of SOCK_SEQPACKET")
        self.nic = nic
        self.over = True
        self.sock = sock
        sock.settimeout(timeout)
        try:
            self.greet()
        except BaseException:
            sock.close()
            raise
        sock.setblocking(False)
        self.over = False
        nic.ports.append(self)

    def __dealloc__(self):
        if self.p != NULL:
            shared_free(self.p)

    cdef int greet(self) except -1:
        """Exchange segments and eventfds with the other process."""
        cdef int err = 0
        cdef region *mine = shared_segment(&err)
        cdef region *theirs = NULL
        cdef int r
        if mine == NULL:
            raise OSError(-err, f"no memory file: {os.strerror(-err)}")
        fds = []
        try:
            r = memfd_seal(mine.fd, SEAL_FUTURE_WRITE)
            if r < 0:
                raise OSError(-r, f"no seal against writing: {os.strerror(-r)}")
            try:
                _socket.send_fds(self.sock, [_CONTROL.pack(_HELLO, 0, 0, LANE_BYTES)], [mine.fd, self.nic.wake_fd])
                data, fds, _flags, _peer = _socket.recv_fds(self.sock, _CONTROL.size, 2)
            except OSError as e:
                fail(VIP_NOT_REACHABLE, f"the other process: {e}")
            if len(data) != _CONTROL.size or len(fds) != 2 or _CONTROL.unpack(data)[0] != _HELLO:
                fail(VIP_NOT_REACHABLE, "the other end of the socket does not attach a NIC")
            theirs = region_import(fds[0], LANE_BYTES, PROT_READ, &err)
            if theirs == NULL:
                fail(VIP_NOT_REACHABLE, f"its memory file: {os.strerror(-err)}")
            del fds[0]
            self.join(mine, theirs, fds[0])
            fds.clear()
            mine = theirs = NULL
        finally:
            for fd in fds:
                os.close(fd)
            if mine != NULL:
                region_unref(mine)
            if theirs != NULL:
                region_unref(theirs)
        return 0

    cdef int join(self, region *mine, region *theirs, int wake_fd) except -1:
        cdef int r
        cdef shared_port *p = shared_create(mine, theirs)
        if p == NULL:
            fail(VIP_NOT_REACHABLE, "its memory file holds no lane of this version")
        p.port.wake_fd = wake_fd
        p.port.socket_fd = self.sock.fileno()
        hold(self.nic)
        r = nic_add_port(self.nic.n, &p.port)
        release(self.nic)
        if r != VIP_SUCCESS:
            free(p)
            fail(r, f"at most {VIA_PORT_MAX} other processes")
        self.p = p
        return 0

    cdef int attend(self) except -1:
        """Show and listen, one thread at a time: what a socket says in order is to be done in order."""
        if self.attended:
            with nogil:
                sys_yield()
            return 0
        self.attended = True
        try:
            self.show()
            self.listen()
        finally:
            self.attended = False
        return 0

    cdef int show(self) except -1:
        """Show the other process memory that a descriptor of ours names."""
        cdef Memory m
        cdef int r
        while self.p != NULL and not self.over and self.p.port.wants_export:
            m = self.nic.memories.get(self.p.port.export_handle)
            if m is not None:
                r = memfd_seal(m.fd, SEAL_SHRINK | SEAL_GROW | SEAL_FUTURE_WRITE)
                try:
                    if r < 0:
                        raise OSError(-r, os.strerror(-r))
                    _patiently(self.sock, _CONTROL.pack(_LEND, m.handle, 0, m.length), m.fd)
                except OSError:
                    self.end()
                    return 0
            hold(self.nic)
            shared_shown(self.p)
            release(self.nic)
        return 0

    cdef int hide(self, uint32_t handle) except -1:
        """Memory was deregistered: the other process need not map it any longer."""
        if self.over or self.p.shown[handle & (VIA_MEMORY_MAX - 1)] != handle:
            return 0
        self.p.shown[handle & (VIA_MEMORY_MAX - 1)] = 0
        try:
            self.sock.send(_CONTROL.pack(_UNLEND, handle, 0, 0), _socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass                # it maps it until something else takes its place
        except OSError:
            self.end()
        return 0

    cdef int listen(self) except -1:
        """What the other process shows or takes back; and whether it is there at all."""
        cdef uint32_t missing
        if not self.over and self.p.port.dead:
            self.end()
        while not self.over:
            fds = []
            missing = self.p.missing        # before it is looked whether that has been shown
            try:
                data, fds, _flags, _peer = _socket.recv_fds(self.sock, _CONTROL.size, 2, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                self.p.asked = missing
                return 0
            except OSError:
                data = b""
            if len(data) != _CONTROL.size or not self.understand(data, fds):
                self.last_look()
                self.end()
            for fd in fds:
                os.close(fd)
        return 0

    cdef bint understand(self, bytes data, list fds) except -1:
        cdef region *file
        cdef int err = 0
        cdef bint good
        kind, handle, offset, length = _CONTROL.unpack(data)
        if kind == _UNLEND:
            hold(self.nic)
            shared_unlend(self.p, handle)
            release(self.nic)
            return True
        if kind != _LEND or len(fds) != 1:
            return False
        file = region_import(fds[0], length if 0 < length < 1 << 46 else 1, PROT_READ, &err)
        if file == NULL:
            return False
        fds.clear()
        hold(self.nic)
        good = shared_lend(self.p, handle, file, offset, length)
        release(self.nic)
        if not good:
            region_unref(file)
        return good

    cdef void last_look(self):
        """What it has sent and taken before it went counts: it is all in its lane."""
        cdef int _k
        with nogil:
            hold_slowly(self.nic.n)
            for _k in range(LANE_SLOTS / BUDGET):
                if self.p.port.ops.poll(&self.p.port, BUDGET) < BUDGET:
                    break
            release(self.nic)

    cdef void end(self):
        """The other process is gone, or is no longer wanted."""
        if self.over:
            return
        self.over = True
        self.nic.graves += 1
        hold(self.nic)
        shared_close(self.p)
        release(self.nic)

    cdef void dismantle(self):
        cdef shared_port *p = self.p
        self.p = NULL
        hold(self.nic)
        nic_remove_port(self.nic.n, &p.port)
        release(self.nic)
        sys_close(p.port.wake_fd)
        shared_free(p)
        self.sock.close()

    @property
    def connected(self) -> bool:
        """Whether the other process is there, as far as is known."""
        return not self.over and not self.p.port.dead

    def close(self) -> None:
        """Break all connections to the other process. May be called twice."""
        if not self.over and self.nic.n != NULL:
            self.end()
            if self.nic.inside == 0:
                bury(self.nic)
