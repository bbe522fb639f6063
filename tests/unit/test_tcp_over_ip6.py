"""The scripts of TCP once more, over IPv6: what connects, moves data and closes does so whatever carries it.

The scripts know nothing of it: their addresses stand for IPv6 ones, links are larger by what the header is.
"""

from collections.abc import Iterator

import pytest
import tcp_script
import test_tcp_close
import test_tcp_data
import test_tcp_handshake

from ustack._core.py.probe_tcp import speak

# Not these.
OTHERWISE = {
    "test_mss_option": "without an MSS option it is 1220 (RFC 9293 3.7.1): see below",
    "test_ports_run_out": "it takes long, and the ports know nothing of addresses",
}

for module in (test_tcp_handshake, test_tcp_data, test_tcp_close):
    for name, value in vars(module).items():
        if name.startswith("test_") and callable(value) and name not in OTHERWISE:
            globals()[name.replace("test_", f"{module.__name__}_", 1)] = value


@pytest.fixture(autouse=True)
def over_ip6() -> Iterator[None]:
    speak(6)
    tcp_script.VERSION = 6
    yield
    tcp_script.VERSION = 4
    speak(4)


@pytest.mark.parametrize(("mss", "size"), [(None, 1220), (0, 1220), (1, 48), (48, 48), (100, 100), (9000, 1460)])
def test_mss_option(mss: int | None, size: int):
    p = tcp_script.established(mss=mss)
    p.conn.send(b"x" * 4000)
    p.recv("A", length=size)
