"""What keeps stacks going inside a trio run, and wakes the tasks that wait for their sockets. For ``ustack.trio``."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, cast

import trio
from trio.lowlevel import Abort, RunVar, Task

from ustack._stack import Stack
from ustack.socket import socket

T = TypeVar("T")

EV_IN = 1           # as poll(2) has them
EV_OUT = 4
_TROUBLE = 8 | 16   # POLLERR, POLLHUP


class _Pump:
    """What keeps one stack going in one trio run, and wakes the tasks that wait for its sockets."""

    def __init__(self, stack: Stack):
        self.stack = stack
        self.endpoints: weakref.WeakValueDictionary[int, Endpoint] = weakref.WeakValueDictionary()

    def dispatch(self) -> None:
        """Wake the tasks of the sockets on which something happened."""
        for token in self.stack._take_fired():
            endpoint = self.endpoints.get(token)
            if endpoint is not None:
                endpoint.wake()

    def touched(self) -> None:
        """Called after every call of a task's on a socket of this stack."""

    def wake_all(self) -> None:
        for endpoint in list(self.endpoints.values()):
            endpoint.wake()


class _RealPump(_Pump):
    """A stack on the machine's clock: its descriptor says when it wants to be polled."""

    async def run(self) -> None:
        fd = self.stack.fileno()
        try:
            while True:
                self.stack.poll()
                self.dispatch()
                await trio.lowlevel.wait_readable(fd)
        except OSError:
            if not _is_closed(self.stack):
                raise
        finally:
            self.stack._release_fileno()
            _owners.pop(self.stack, None)
            _pumps.get().pop(self.stack, None)
            self.wake_all()


class _VirtualPump(_Pump):
    """A stack on a VirtualClock: its time is trio's, counted from when it was first used."""

    def __init__(self, stack: Stack, timekeeper: _Timekeeper):
        super().__init__(stack)
        self.timekeeper = timekeeper
        self.offset = stack.now_ns() - round(trio.current_time() * 1e9)

    def touched(self) -> None:
        self.timekeeper.nudge()


class _Timekeeper:
    """Moves all virtual stacks of one trio run: what one sends, another has to be polled for."""

    def __init__(self) -> None:
        self.pumps: list[_VirtualPump] = []
        self.parked: Task | None = None
        self.again = False

    def nudge(self) -> None:
        self.again = True
        if self.parked is not None:
            task, self.parked = self.parked, None
            trio.lowlevel.reschedule(task)

    def turn(self) -> float:
        """Do what is due; returns trio's time of what comes next."""
        now = round(trio.current_time() * 1e9)
        following = math.inf
        for pump in list(self.pumps):
            try:
                pump.stack.advance_to(max(now + pump.offset, pump.stack.now_ns()))
                pump.dispatch()
            except OSError:
                if not _is_closed(pump.stack):
                    raise
                self.forget(pump)
        for pump in self.pumps:
            due = pump.stack.deadline_ns()
            if due is not None:
                following = min(following, (due - pump.offset) / 1e9)
        return following

    def forget(self, pump: _VirtualPump) -> None:
        self.pumps.remove(pump)
        _owners.pop(pump.stack, None)
        _pumps.get().pop(pump.stack, None)
        pump.wake_all()

    async def run(self) -> None:
        try:
            while True:
                self.again = False
                following = self.turn()
                if self.again or following <= trio.current_time():
                    await trio.lowlevel.checkpoint()
                    continue
                with trio.CancelScope(deadline=following):
                    self.parked = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._abort)
        finally:
            for pump in list(self.pumps):
                self.forget(pump)

    def _abort(self, _: object) -> Abort:
        self.parked = None
        return Abort.SUCCEEDED


_pumps: RunVar[dict[Stack, _Pump]] = RunVar("ustack.trio: the stacks that this run polls")
_timekeeper: RunVar[_Timekeeper] = RunVar("ustack.trio: what moves the virtual stacks of this run")
_owners: weakref.WeakKeyDictionary[Stack, object] = weakref.WeakKeyDictionary()


def _is_closed(stack: Stack) -> bool:
    try:
        stack.deadline_ns()
    except OSError:
        return True
    return False


def _pump_of(stack: Stack) -> _Pump:
    """The pump of a stack in this trio run, started if need be."""
    try:
        pumps = _pumps.get()
    except LookupError:
        pumps = {}
        _pumps.set(pumps)
    pump = pumps.get(stack)
    if pump is not None:
        return pump
    run = trio.lowlevel.current_trio_token()
    if _owners.setdefault(stack, run) is not run:
        raise RuntimeError("another trio run polls this stack: a stack belongs to one of them at a time")
    if stack.virtual:
        pumps[stack] = virtual = _VirtualPump(stack, _the_timekeeper())
        virtual.timekeeper.pumps.append(virtual)
        return virtual
    pumps[stack] = real = _RealPump(stack)
    trio.lowlevel.spawn_system_task(real.run, name=f"ustack.trio polls {stack!r}")
    return real


def _the_timekeeper() -> _Timekeeper:
    try:
        return _timekeeper.get()
    except LookupError:
        keeper = _Timekeeper()
        _timekeeper.set(keeper)
        trio.lowlevel.spawn_system_task(keeper.run, name="ustack.trio moves the virtual stacks")
        return keeper


class Endpoint:
    """A non-blocking socket and the tasks that wait for it: at most one to read, and one to write."""

    def __init__(self, sock: socket):
        sock.settimeout(0)
        self.sock = sock
        self.pump = _pump_of(cast(Stack, sock.stack))
        self.tasks: dict[int, Task] = {}
        self.pump.endpoints[sock._token()] = self

    def wake(self) -> None:
        """Something happened: reschedule who can go on, and stay on watch for the other."""
        waiting = 0
        for event in self.tasks:
            waiting |= event
        while waiting:
            try:
                holds = self.sock._watch(waiting)
            except OSError:
                holds = _TROUBLE
            if not holds:
                return
            for event in list(self.tasks):
                if holds & (event | _TROUBLE):
                    waiting &= ~event
                    trio.lowlevel.reschedule(self.tasks.pop(event))

    async def park(self, event: int) -> None:
        """Wait until `event` may hold (a checkpoint in any case). Raises OSError once the socket is closed."""
        if event in self.tasks:
            raise trio.BusyResourceError("another task is waiting for this socket")
        if self.sock._watch(event):
            await trio.lowlevel.checkpoint()
            return
        self.pump.touched()
        self.tasks[event] = trio.lowlevel.current_task()

        def abort(_: object) -> Abort:
            del self.tasks[event]
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def call(self, event: int, function: Callable[..., T], *args: Any) -> T:
        """Call a non-blocking method as soon as it can go through. Once it did, no cancellation takes that back."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            result = function(*args)
        except BlockingIOError:
            pass
        else:
            self.pump.touched()
            await trio.lowlevel.cancel_shielded_checkpoint()
            return result
        while True:
            await self.park(event)
            try:
                result = function(*args)
            except BlockingIOError:
                continue
            self.pump.touched()
            return result

    def close(self) -> None:
        """Close the socket; the tasks that wait for it find out."""
        self.sock.close()
        tasks, self.tasks = self.tasks, {}
        for task in tasks.values():
            trio.lowlevel.reschedule(task)
        self.pump.touched()


def socket_closed(sock: socket) -> bool:
    """Whether this end of it was closed, or its stack."""
    try:
        sock._events()
    except OSError:
        return True
    return False
