"""Random transfers over random bad networks: all of it determined by one seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from ustack import sim
from ustack.socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, socket

# Counters of what is dropped because a checksum, or a length that a flipped bit changed, is wrong.
BROKEN = ("ip.short", "ip.bad_version", "ip.bad_header", "ip.bad_checksum", "tcp.short", "tcp.bad_checksum")
MTUS = (88, 296, 576, 1280, 1500, 1500, 9000, 65535)
SHAPES = ("one way", "both ways", "half close", "simultaneous open", "simultaneous close", "ask and answer")
LIMIT = 20_000.0            # virtual seconds for one transfer


@dataclass
class Scenario:
    """One transfer: the shape of the conversation, the link, the buffers. Sizes in bytes, spans in seconds."""

    seed: int
    shape: str
    size: int
    answer: int
    chunk: int
    read: int
    sndbuf: int
    rcvbuf: int
    link: dict[str, Any]
    mtu: int
    rate: float | None
    outage: float


def draw(seed: int) -> Scenario:
    """The scenario that belongs to a seed."""
    dice = Random(f"scenario {seed}")
    bad = dice.choice((0.0, 0.3, 1.0))
    mtu = dice.choice(MTUS)
    most = min(mtu * 100, 200_000)
    sizes = (0, 1, dice.randrange(2000), dice.randrange(most), dice.randrange(most))
    return Scenario(
        seed=seed,
        shape=dice.choice(SHAPES),
        size=dice.choice(sizes),
        answer=dice.choice(sizes),
        chunk=dice.choice((7, 100, 1460, 8192, 70_000)),
        read=dice.choice((17, 1000, 65536, 65536)),
        sndbuf=dice.choice((0, 0, 4096, 20_000)),
        rcvbuf=dice.choice((0, 0, 2048, 20_000)),
        link={
            "loss": bad * dice.choice((0, 0.01, 0.1, 0.15)),
            "duplicate": bad * dice.choice((0, 0.02, 0.2)),
            "reorder": bad * dice.choice((0, 0.02, 0.3)),
            "corrupt": bad * dice.choice((0, 0.02, 0.1)),
            "delay": dice.choice((0, 0.0001, 0.01, 0.2)),
            "jitter": dice.choice((0, 0.001, 0.1)),
        },
        mtu=mtu,
        rate=dice.choice((None, None, 1e6, 1e8)),
        outage=dice.choice((0, 0, 0, 3 if bad else 12)),
    )


@dataclass
class Outcome:
    """What a scenario came to."""

    net: sim.Network
    flows: list[sim.Flow]
    cable: sim.Cable
    a: sim.Host
    b: sim.Host

    def corrupted_arrivals(self) -> int:
        """How often a packet with a flipped bit was delivered."""
        return sum(
            number * (2 if "duplicated" in fate else 1) for fate, number in self.cable.counts.items()
            if "corrupted" in fate)

    def broken(self) -> int:
        """How many packets the hosts dropped as broken."""
        return sum(host.stack.stats().get(name, 0) for host in (self.a, self.b) for name in BROKEN)


def play(scenario: Scenario, *, trace: bool = False) -> Outcome:
    """Run a scenario until its applications are done and the network is quiet. The caller closes ``net``."""
    net = sim.Network(scenario.seed, trace=trace)
    a, b = net.host("a", "10.0.0.1"), net.host("b", "10.0.0.2")
    cable = net.link(a, b, mtu=scenario.mtu, rate=scenario.rate, **scenario.link)
    there = sim.Flow(scenario.size, f"{scenario.seed}/there", scenario.chunk, scenario.read)
    back = sim.Flow(scenario.answer, f"{scenario.seed}/back", scenario.chunk, scenario.read)
    outcome = Outcome(net, [there], cable, a, b)
    try:
        play_shape(scenario, outcome, there, back)
        if scenario.outage:
            net.spawn(cut_for(cable, scenario.outage))
        net.run(limit=LIMIT)
        net.drain(limit=LIMIT)
    except BaseException as error:
        error.add_note(f"{scenario}: {outcome.flows}")
        net.close()
        raise
    return outcome


def cut_for(cable: sim.Cable, outage: float) -> sim.Steps[None]:
    yield from sim.sleep(0.3)
    cable.cut()
    yield from sim.sleep(outage)
    cable.mend()


def shrink(scenario: Scenario, sock: socket) -> socket:
    """Give a socket the scenario's buffers."""
    if scenario.sndbuf:
        sock.setsockopt(SOL_SOCKET, SO_SNDBUF, scenario.sndbuf)
    if scenario.rcvbuf:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, scenario.rcvbuf)
    return sock


def play_shape(scenario: Scenario, outcome: Outcome, there: sim.Flow, back: sim.Flow) -> None:
    net, a, b = outcome.net, outcome.a, outcome.b
    if scenario.shape == "simultaneous open":
        outcome.flows.append(back)
        one, other = shrink(scenario, a.socket()), shrink(scenario, b.socket())
        one.bind((a.address, 4000))
        other.bind((b.address, 4000))
        net.spawn(both_at_once(net, one, (b.address, 4000), there, back))
        net.spawn(both_at_once(net, other, (a.address, 4000), back, there))
        return
    if scenario.shape != "one way":
        outcome.flows.append(back)
    net.spawn(serve(scenario, net, shrink(scenario, b.listen(80)), there, back), "server")
    net.spawn(ask(scenario, net, shrink(scenario, a.socket()), (b.address, 80), there, back), "client")


def both_at_once(
    net: sim.Network, sock: socket, peer: tuple[str, int], out: sim.Flow, into: sim.Flow,
) -> sim.Steps[None]:
    with sock:
        yield from sim.connect(sock, peer)
        yield from together(net, out.send(sock), into.receive(sock))


def together(net: sim.Network, *parts: sim.Steps[None]) -> sim.Steps[None]:
    """Run several at once, and wait for all of them."""
    yield from sim.join(*[net.spawn(part) for part in parts])


def serve(
    scenario: Scenario, net: sim.Network, listener: socket, there: sim.Flow, back: sim.Flow,
) -> sim.Steps[None]:
    with listener:
        conn = yield from sim.accept(listener)
    with conn:
        if scenario.shape == "one way":
            yield from there.receive(conn)
        elif scenario.shape in ("both ways", "simultaneous close"):
            yield from together(net, there.receive(conn), back.send(conn))
        else:
            yield from there.receive(conn)
            yield from back.send(conn)


def ask(
    scenario: Scenario, net: sim.Network, sock: socket, address: tuple[str, int], there: sim.Flow, back: sim.Flow,
) -> sim.Steps[None]:
    with sock:
        yield from sim.connect(sock, address)
        if scenario.shape in ("both ways", "simultaneous close"):
            yield from together(net, there.send(sock), back.receive(sock))
        elif scenario.shape == "one way":
            yield from there.send(sock)
        else:
            yield from there.send(sock)
            yield from back.receive(sock)
