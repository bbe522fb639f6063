"""Hosts of a simulated network that are no stacks: a program decides what they send."""

from __future__ import annotations

from typing import Any, Protocol


class Machine(Protocol):
    """What plays a host; ``Network.machine`` takes one. Instants are ns, packets are whole IP packets."""

    def receive(self, now_ns: int, packet: bytes) -> None:
        """A packet arrives."""

    def take(self) -> list[bytes]:
        """The packets that are to be sent now; they are taken once."""

    def deadline_ns(self) -> int | None:
        """When it wants to act by itself; None: only when something arrives."""

    def advance_to(self, now_ns: int) -> None:
        """Time has come to this; called before everything else at that instant."""


class MachineStack:
    """A Machine in the places of a host's stack and of its pipe."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.now_ns = 0

    def inject(self, packet: bytes, /) -> bool:
        """As Pipe.inject."""
        self.machine.receive(self.now_ns, packet)
        return True

    def drain(self) -> list[tuple[int, bytes]]:
        """As Pipe.drain."""
        return [(self.now_ns, packet) for packet in self.machine.take()]

    def deadline_ns(self) -> int | None:
        """As Stack.deadline_ns."""
        return self.machine.deadline_ns()

    def advance_to(self, now_ns: int) -> int:
        """As Stack.advance_to."""
        self.now_ns = now_ns
        self.machine.advance_to(now_ns)
        return now_ns

    def memory(self) -> dict[str, int]:
        """As Stack.memory: nothing of the pools is used."""
        return {"held": 0, "live": 0, "budget": 0}

    def sockets(self) -> list[dict[str, Any]]:
        """As Stack.sockets: none."""
        return []

    def close(self) -> None:
        """As Stack.close."""
