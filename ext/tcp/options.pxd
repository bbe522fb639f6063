"""What a user may set and ask: TCPO_* options and tcp_info."""

from libc.stdint cimport int64_t

from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.tcp cimport tcp_info

# A new block's settings.
cdef void options_default(tcb *c) noexcept nogil
cdef int option_set(tcb *c, int option, int64_t value) noexcept nogil
cdef int option_get(tcb *c, int option, int64_t *value) noexcept nogil
cdef void info_fill(tcb *c, tcp_info *info) noexcept nogil
