"""The message layer: VIs, registered memory, descriptors, completion queues, after VIPL 1.0 (the VIA Provider Library).

A VI is an end of a connection with two queues. A program registers memory, describes its messages and its receive
buffers in descriptors that lie there, posts them, and takes them back when they are done. The provider moves bytes from
the sender's memory straight into the buffer that the receiver has posted. VIs of one process are connected by loopback,
VIs of two processes over shared memory, where a message costs no system call while the other side looks.

docs/via.md says how a descriptor travels, and compares it with verbs and libfabric. Errors are ``ViaError`` with VIPL's
codes.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from ustack._core.py.via import (
    Buffer,
    CompletionQueue,
    Descriptor,
    Listener,
    Request,
    Vi,
    buffers,
    pair,
)
from ustack._core.py.via_nic import (
    Memory,
    Nic,
    Port,
    Ptag,
    ViaError,
    ViaTimeout,
    counter_meanings,
    pinned_bytes,
)
from ustack._viastream import Composition, Stream

__all__ = [
    "Buffer",
    "Code",
    "CompletionQueue",
    "Composition",
    "Control",
    "Descriptor",
    "Listener",
    "Memory",
    "Nic",
    "Port",
    "Ptag",
    "Reliability",
    "Request",
    "State",
    "Status",
    "Stream",
    "Vi",
    "ViaError",
    "ViaTimeout",
    "buffers",
    "counter_meanings",
    "pair",
    "pinned_bytes",
]


class Code(IntEnum):
    """VIPL's return codes: ``ViaError.code``."""

    SUCCESS = 0
    NOT_DONE = 1
    INVALID_PARAMETER = 2
    ERROR_RESOURCE = 3
    TIMEOUT = 4
    REJECT = 5
    INVALID_RELIABILITY_LEVEL = 6
    INVALID_MTU = 7
    INVALID_QOS = 8
    INVALID_PTAG = 9
    INVALID_RDMAREAD = 10
    DESCRIPTOR_ERROR = 11
    INVALID_STATE = 12
    ERROR_NAMESERVICE = 13
    NO_MATCH = 14
    NOT_REACHABLE = 15
    ERROR_NOT_SUPPORTED = 16


class State(IntEnum):
    """States of a VI."""

    IDLE = 0
    CONNECTED = 1
    CONNECT_PENDING = 2
    ERROR = 3


class Reliability(IntEnum):
    """UD loses and says nothing; RD breaks the connection; with RR the sender's descriptor says why."""

    UD = 1
    RD = 2
    RR = 4


class Control(IntFlag):
    """Control bits of a descriptor."""

    SENDRECV = 0
    RDMAWRITE = 1
    RDMAREAD = 2
    IMMEDIATE = 4
    QFENCE = 8


class Status(IntFlag):
    """Status bits of a descriptor that was given back."""

    DONE = 0x1
    FORMAT_ERROR = 0x2
    PROTECTION_ERROR = 0x4
    LENGTH_ERROR = 0x8
    PARTIAL_ERROR = 0x10
    DESC_FLUSHED_ERROR = 0x20
    TRANSPORT_ERROR = 0x40
    RDMA_PROT_ERROR = 0x80
    REMOTE_DESC_ERROR = 0x100
    OP_RECEIVE = 0x10000
    IMMEDIATE = 0x80000
