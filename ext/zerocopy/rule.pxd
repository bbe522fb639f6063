"""The rule by which a device knows the packets of a posted receive: which bits of the headers are fixed. The device
compares bytes; what they mean is known here."""

from ustack._core.base.addr cimport flow
from ustack._core.base.seq cimport seq_t
from ustack._core.mem.posting cimport posting_rule

# For segments of a connection that comes in under `key`, with `link_header` bytes in front of IP and `header` in front
# of the payload, the stream position `origin` being the first byte of the memory.
cdef void posting_rule_make(posting_rule *r, const flow *key, size_t link_header, size_t header,
                            seq_t origin) noexcept nogil
