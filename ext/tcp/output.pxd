"""What is to be sent now, once per verb: lost data, new data, FIN, and if nothing carried it, the ACK that is due.

Windows, the silly window rules and Nagle decide how much; ``segment`` says how.
"""

from ustack._core.tcp.block cimport tcb

# Make the output of one connection. False: its interface is full, and there is more.
cdef bint output(tcb *c) noexcept nogil
