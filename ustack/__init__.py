"""A TCP/IP stack in user space: links, sockets, message blocks.

``Stack`` is a whole stack as a value; ``Tap``, ``PacketRing``, ``SharedMemory``, ``Pipe`` and ``pair`` are what it can
be attached to; ``ustack.socket`` stands in for the standard ``socket`` module.
"""

from ustack._core.py.bridge import Bridge as Bridge
from ustack._core.py.cow import CowBuffer as CowBuffer
from ustack._core.py.cow import cow_mechanism as cow_mechanism
from ustack._core.py.devices import PacketRing as PacketRing
from ustack._core.py.devices import Tap as Tap
from ustack._core.py.devices import Xdp as Xdp
from ustack._core.py.flip import FlipBuffer as FlipBuffer
from ustack._core.py.flip import ReceiveMapping as ReceiveMapping
from ustack._core.py.links import Link as Link
from ustack._core.py.links import pair as pair
from ustack._core.py.pagepipe import SPLICE_F_GIFT as SPLICE_F_GIFT
from ustack._core.py.pagepipe import SPLICE_F_MORE as SPLICE_F_MORE
from ustack._core.py.pagepipe import SPLICE_F_MOVE as SPLICE_F_MOVE
from ustack._core.py.pagepipe import SPLICE_F_NONBLOCK as SPLICE_F_NONBLOCK
from ustack._core.py.pagepipe import PagePipe as PagePipe
from ustack._core.py.pipe import Pipe as Pipe
from ustack._core.py.shm import SharedMemory as SharedMemory
from ustack._core.py.stack import Interface as Interface
from ustack._core.py.stack import VirtualClock as VirtualClock
from ustack._core.py.stack import counter_meanings as counter_meanings
from ustack._core.py.stack import ledger_meanings as ledger_meanings
from ustack._core.py.transfers import drop_file_windows as drop_file_windows
from ustack._core.py.wrappers import Capture as Capture
from ustack._core.py.wrappers import Impair as Impair
from ustack._direct import DIRECT_LEAST as DIRECT_LEAST
from ustack._direct import Completion as Completion
from ustack._direct import Registration as Registration
from ustack._direct import register as register
from ustack._rawfile import RawFile as RawFile
from ustack._splice import SPLICE_EOF as SPLICE_EOF
from ustack._splice import Splice as Splice
from ustack._splice import splice as splice
from ustack._splice import tee as tee
from ustack._stack import Stack as Stack

__version__ = "0.1.0"

__all__ = [
    "DIRECT_LEAST",
    "SPLICE_EOF",
    "SPLICE_F_GIFT",
    "SPLICE_F_MORE",
    "SPLICE_F_MOVE",
    "SPLICE_F_NONBLOCK",
    "Bridge",
    "Capture",
    "Completion",
    "CowBuffer",
    "FlipBuffer",
    "Impair",
    "Interface",
    "Link",
    "PacketRing",
    "PagePipe",
    "Pipe",
    "RawFile",
    "ReceiveMapping",
    "Registration",
    "SharedMemory",
    "Splice",
    "Stack",
    "Tap",
    "VirtualClock",
    "Xdp",
    "counter_meanings",
    "cow_mechanism",
    "drop_file_windows",
    "ledger_meanings",
    "pair",
    "register",
    "splice",
    "tee",
]
