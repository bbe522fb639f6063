"""Congestion control in a network: flows share a bottleneck, and find the window of a long fat path."""

from __future__ import annotations

import pytest

from ustack import sim
from ustack.sim.apps import Flow

IPPROTO_TCP, TCP_CONGESTION = 6, 13
MBIT = 1e6


def flows(names: list[str], *, rate: float, delay: float, queue: int, loss: float = 0.0,
          seed: int = 1) -> tuple[sim.Network, list[Flow]]:
    """A bottleneck, and flows over it that have more to send than it carries."""
    net = sim.Network(seed, trace=False)
    a, b = net.host("a", "10.0.0.1"), net.host("b", "10.0.0.2")
    net.link(a, b, rate=rate, delay=delay, queue=queue, loss=loss)
    made = []
    for name in names:
        flow = net.flow(a, b, 1 << 30, options=[(IPPROTO_TCP, TCP_CONGESTION, name.encode())])  # type: ignore[list-item]
        flow.chunk = 65536
        made.append(flow)
    return net, made


def goodput(net: sim.Network, made: list[Flow], start: float, span: float) -> list[float]:
    """Bits per second of each flow, from `start` seconds on."""
    net.run(net.now_ns + round(start * 1e9))
    before = [flow.received for flow in made]
    net.run(net.now_ns + round(span * 1e9))
    return [(flow.received - n) * 8 / span for flow, n in zip(made, before, strict=True)]


@pytest.mark.parametrize("names", [["cubic", "cubic"], ["cubic", "reno"]])
def test_two_flows_share_a_bottleneck(names: list[str]) -> None:
    net, made = flows(names, rate=10 * MBIT, delay=0.01, queue=25)
    with net:
        rates = goodput(net, made, 4, 16)
    assert sum(rates) > 9 * MBIT
    assert min(rates) > sum(rates) / 4


def test_cubic_finds_the_window_of_a_long_fat_path() -> None:
    """100 ms, 100 Mbit/s, a fifth of a window's queue: after the loss that ends slow start NewReno needs minutes."""
    rates = {}
    for name in ("cubic", "reno"):
        net, made = flows([name], rate=100 * MBIT, delay=0.05, queue=200)
        with net:
            rates[name] = goodput(net, made, 2, 6)[0]
    assert rates["cubic"] > 85 * MBIT
    assert rates["cubic"] > 1.25 * rates["reno"]
