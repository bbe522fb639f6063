"""Making connections on one NIC: the states and the outcomes."""

import pytest
from helpers import in_thread

from ustack import via
from ustack.via import Reliability, State


@pytest.fixture
def nic():
    with via.Nic() as one:
        yield one


def test_a_request_is_accepted(nic):
    ptag = nic.ptag()
    client, server = via.Vi(nic, ptag), via.Vi(nic, ptag)
    assert (client.state, server.state) == (State.IDLE, State.IDLE)
    buffer, message = via.buffers(nic, ptag, 16, 2)
    server.post_recv(buffer)                                # legal before the connection
    with via.Listener(nic, b"service") as listener, in_thread(client.connect, b"service", None, 60) as connecting:
        request = listener.wait(60)
        assert client.state == State.CONNECT_PENDING
        assert request.attributes == {"ReliabilityLevel": 2, "MaxTransferSize": 1 << 20, "QoS": 0}
        with pytest.raises(via.ViaError, match="INVALID_STATE"):
            client.post_send(message)
        request.accept(server)
        connecting.result(60)
    assert (client.state, server.state) == (State.CONNECTED, State.CONNECTED)
    message.copy_in(b"first")
    client.post_send(message)
    assert bytes(server.recv_wait(60).data[:5]) == b"first"


@pytest.mark.parametrize(("attributes", "code"), [
    ({"reliability": Reliability.UD}, via.Code.INVALID_RELIABILITY_LEVEL),
    ({"max_transfer": 1000}, via.Code.INVALID_MTU), ({"qos": 1}, via.Code.INVALID_QOS),
])
def test_an_end_that_does_not_fit_is_refused_and_another_may_be_tried(nic, attributes, code):
    ptag = nic.ptag()
    client, unfit, fit = via.Vi(nic, ptag), via.Vi(nic, ptag, **attributes), via.Vi(nic, ptag)
    with via.Listener(nic, b"s") as listener, in_thread(client.connect, b"s", None, 60) as connecting:
        request = listener.wait(60)
        with pytest.raises(via.ViaError) as caught:
            request.accept(unfit)
        assert caught.value.code == code
        assert client.state == State.CONNECT_PENDING        # has heard nothing of it
        request.accept(fit)
        connecting.result(60)
        with pytest.raises(via.ViaError, match="INVALID_STATE"):
            request.accept(fit)


def test_nobody_waits(nic):
    client = via.Vi(nic, nic.ptag())
    with pytest.raises(via.ViaError) as caught:
        client.connect(b"nobody", timeout=60)
    assert caught.value.code == via.Code.NO_MATCH
    assert client.state == State.IDLE
    assert nic.stats()["via.no_match"] == 1


def outcome(client):
    """The code that a request ends with."""
    try:
        client.connect(b"s", timeout=60)
    except via.ViaError as e:
        return e.code
    return via.Code.SUCCESS


def test_a_request_is_rejected(nic):
    client = via.Vi(nic, nic.ptag())
    with via.Listener(nic, b"s") as listener, in_thread(outcome, client) as connecting:
        listener.wait(60).reject()
        assert connecting.result(60) == via.Code.REJECT
    assert client.state == State.IDLE


def test_nobody_answers_in_time_and_a_late_answer_finds_nobody(nic):
    ptag = nic.ptag()
    client, server = via.Vi(nic, ptag), via.Vi(nic, ptag)
    with via.Listener(nic, b"s") as listener:
        with pytest.raises(via.ViaTimeout):
            client.connect(b"s", timeout=0.01)
        assert client.state == State.IDLE
        listener.wait(60).accept(server)
        assert server.state == State.ERROR                  # was told at once that nobody is there
        assert client.state == State.IDLE
        assert nic.stats()["via.stale"] == 1


def test_a_closing_listener_refuses_who_waits(nic):
    client, listener = via.Vi(nic, nic.ptag()), via.Listener(nic, b"s")
    with in_thread(outcome, client) as connecting:
        while client.state != State.CONNECT_PENDING:
            pass
        listener.close()
        assert connecting.result(60) == via.Code.NO_MATCH
    with pytest.raises(via.ViaError, match="closed"):
        listener.wait(0)


def test_arguments_that_cannot_be(nic):
    client = via.Vi(nic, nic.ptag())
    for call in (
        lambda: client.connect(b"s", timeout=0), lambda: client.connect(b"x" * 33), lambda: client.connect(b""),
        lambda: via.Listener(nic, b""), lambda: via.Listener(nic, b"x" * 33),
    ):
        with pytest.raises(via.ViaError, match="INVALID_PARAMETER"):
            call()
    with via.Listener(nic, b"s"), pytest.raises(via.ViaError, match="taken"):
        via.Listener(nic, b"s")
    with pytest.raises(via.ViaError, match="INVALID_STATE"):
        client.disconnect()
    assert client.state == State.IDLE


def test_more_requests_than_wait_are_refused(nic):
    ptag = nic.ptag()
    with via.Listener(nic, b"s") as listener:
        for _ in range(64):
            with pytest.raises(via.ViaTimeout):
                via.Vi(nic, ptag, depth=1).connect(b"s", timeout=1e-9)
        with pytest.raises(via.ViaError) as caught:
            via.Vi(nic, ptag, depth=1).connect(b"s", timeout=60)
        assert caught.value.code == via.Code.REJECT
        assert nic.stats()["via.backlog_limit"] == 1
        assert listener.wait(0).attributes["ReliabilityLevel"] == Reliability.RD
