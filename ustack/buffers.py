"""The memory that packets travel in: regions, arenas, and message blocks with the STREAMS functions on them.

A message is a chain of blocks; a block (``Mblk``) is a window on storage that several blocks may share.
Blocks are cut, joined and shared without a copy; what is copied or summed is booked in the arena's ledger.
docs/buffers.md has the picture and the rules.
"""

from ustack._core.py.buffers import (
    M_DATA_ as M_DATA,
)
from ustack._core.py.buffers import (
    M_PROTO_ as M_PROTO,
)
from ustack._core.py.buffers import (
    Arena,
    Mblk,
    PoolStats,
    Region,
    default_arena,
)
from ustack._core.py.checksum import (
    checksum,
    checksum_add,
    checksum_kernel,
    checksum_partial,
    checksum_update16,
    checksum_update32,
    copy_checksum,
)
from ustack._core.py.streams import (
    adjmsg,
    alloc_header,
    allocb,
    copyb,
    copymsg,
    desballoc,
    dup_range,
    dupb,
    dupmsg,
    esballoc,
    freeb,
    freemsg,
    linkb,
    msgappend,
    msgbytes,
    msgconsume,
    msgcopyin,
    msgcopyout,
    msgdsize,
    msgpullup,
    msgsum,
    pullupmsg,
    rmvb,
    splitmsg,
    unlinkb,
)

__all__ = [
    "M_DATA",
    "M_PROTO",
    "Arena",
    "Mblk",
    "PoolStats",
    "Region",
    "adjmsg",
    "alloc_header",
    "allocb",
    "checksum",
    "checksum_add",
    "checksum_kernel",
    "checksum_partial",
    "checksum_update16",
    "checksum_update32",
    "copy_checksum",
    "copyb",
    "copymsg",
    "default_arena",
    "desballoc",
    "dup_range",
    "dupb",
    "dupmsg",
    "esballoc",
    "freeb",
    "freemsg",
    "linkb",
    "msgappend",
    "msgbytes",
    "msgconsume",
    "msgcopyin",
    "msgcopyout",
    "msgdsize",
    "msgpullup",
    "msgsum",
    "pullupmsg",
    "rmvb",
    "splitmsg",
    "unlinkb",
]
