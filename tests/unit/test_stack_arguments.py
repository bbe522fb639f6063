"""What ``Stack`` says to wrong arguments, and what becomes of a link whose interface is removed under connections."""

import gc
import ipaddress
import warnings

import pytest

import ustack


@pytest.mark.parametrize("arguments", [
    {"memory": "1M"}, {"clock": 5}, {"busy_poll": "long"}, {"seed": 1.5}, {"congestion": 5},
])
def test_wrong_types_are_named(arguments):
    name = next(iter(arguments))
    with warnings.catch_warnings():         # nothing was made: nothing is left unclosed
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match=name):
            ustack.Stack(**arguments)
        gc.collect()


@pytest.mark.parametrize("arguments", [
    {"memory": 1}, {"memory": 1 << 70}, {"busy_poll": -1}, {"busy_poll": float("nan")},
    {"congestion": "bbr"}, {"syn_cookies": "perhaps"}, {"syn_cookies": None},
])
def test_values_out_of_range_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ustack.Stack(**arguments)


@pytest.mark.parametrize(("addresses", "error"), [
    (b"10.0.0.1/24", TypeError), (5, TypeError), ([5], TypeError),
    ("10.0.0.1/33", ValueError), (["::1/129"], ValueError),
])
def test_a_link_with_a_wrong_address_stays_the_callers(addresses, error):
    with ustack.Pipe() as link, ustack.Stack() as net:
        with pytest.raises(error, match=r"10\.9\.0\.2/24"):
            net.add_interface(link, addresses=addresses)
        assert not link.attached
        face = net.add_interface(link, addresses=ipaddress.ip_interface("10.0.0.1/24"))
        assert face.addresses == ("10.0.0.1/24",)


def test_a_link_refused_by_a_closed_stack_can_be_given_to_another():
    with ustack.Pipe() as link:
        closed = ustack.Stack()
        closed.close()
        with pytest.raises(OSError, match="closed"):
            closed.add_interface(link)
        with ustack.Stack() as net:
            net.add_interface(link, addresses="10.0.0.1/24")


def test_a_route_that_is_not_there():
    with ustack.Stack() as net, pytest.raises(ValueError, match=r"no route 10\.0\.0\.0/8"):
        net.remove_route("10.0.0.0/8")


def test_ping_wants_a_sequence_number_of_16_bits():
    with ustack.Stack() as net, pytest.raises(ValueError, match="sequence"):
        net.ping("127.0.0.1", sequence=1 << 16)


def test_interfaces_are_made_by_stacks():
    with pytest.raises(TypeError, match="add_interface"):
        ustack.Interface()


def test_sending_after_the_interface_was_removed():
    """The path of a connection points to the interface; that it is gone is told by the generation of the routes."""
    near, far = ustack.pair()
    with ustack.Stack() as client, ustack.Stack() as server:
        client.add_interface(near, addresses="10.9.0.2/24")
        server.add_interface(far, addresses="10.9.0.1/24")
        with server.create_server(("10.9.0.1", 7)) as listener, client.create_connection(("10.9.0.1", 7)) as a:
            b, _ = listener.accept()
            with b:
                b.sendall(b"before")
                assert a.recv(6) == b"before"
                server.remove_interface(far)
                others = [ustack.Pipe() for _ in range(8)]      # to lie where the interface was
                for k, other in enumerate(others):
                    server.add_interface(other, addresses=f"10.{k}.0.1/24")
                b.setblocking(False)
                assert b.send(b"x" * 1000) == 1000
                for other in others:
                    server.remove_interface(other)
                assert b.send(b"x" * 1000) == 1000


def test_a_listener_is_listed_with_no_peer():
    with ustack.Stack() as net, net.create_server(("127.0.0.1", 7)):
        (row,) = net.sockets()
        assert (row["state"], row["local"], row["remote"]) == ("LISTEN", ("127.0.0.1", 7), ("0.0.0.0", 0))
