"""Streams of bytes over VIs: credits, ends, peers that lie, die, or speak by hand."""

import errno
import random
import socket
import textwrap

import pytest
from helpers import Background, in_thread
from peer import other_process
from streams import END, ERROR, GRANT, HELLO, PATIENCE, STOP, WORDS, by_hand, streams

from ustack import via

DATA = random.Random(3).randbytes(1_000_003)
WAYS = ["loopback", "shared"]


def read_all_into(got, stream):
    while part := stream.recv(1 << 20):
        got += part


def read_all(stream):
    got = bytearray()
    read_all_into(got, stream)
    return bytes(got)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("window", "piece"), [(16, 65536), (1, 1000), (2, 4096), (3, 997), (40, 64)])
def test_all_bytes_come_in_order_both_ways_at_once(way, window, piece):
    data = DATA[:min(len(DATA), piece * 700)]
    with streams(way, window=window, piece=piece) as (x, y):
        jobs = [Background(f, s) for s in (x, y) for f in (lambda s: (s.sendall(data), s.shutdown(1)), read_all)]
        results = [job.result(PATIENCE) for job in jobs]
        assert results[1] == results[3] == data
        assert x.vi.state == y.vi.state == via.State.CONNECTED
        assert "via.recvq_empty" not in x.vi.nic.stats() | y.vi.nic.stats()


@pytest.mark.parametrize("seed", range(6))
def test_no_word_or_message_is_ever_without_a_place(seed):
    """Ends with different windows that send and take at random; each has exactly the places that it has to have."""
    chance = random.Random(seed)
    with via.Nic() as nic:
        ptag = nic.ptag()
        x, y = (via.Stream(via.Vi(nic, ptag), window=chance.randint(1, 5), piece=chance.randint(1, 40))
                for _ in range(2))
        via.pair(x.vi, y.vi)
        sent, got = {x: bytearray(), y: bytearray()}, {x: bytearray(), y: bytearray()}
        x.settimeout(0)
        y.settimeout(0)
        for _ in range(800):
            one = chance.choice((x, y))
            try:
                if chance.random() < 0.5:
                    data = chance.randbytes(chance.randint(1, 60))
                    sent[one] += data[:one.send(data)]
                else:
                    got[one] += one.recv(chance.randint(1, 50))
            except BlockingIOError:
                continue
        for one, other in ((x, y), (y, x)):
            one.settimeout(PATIENCE)
            one.shutdown(socket.SHUT_WR)
            got[other] += read_all(other)
            assert got[other] == sent[one]
        assert nic.errors() == []


@pytest.mark.parametrize("way", WAYS)
def test_who_takes_nothing_holds_the_sender_up_at_its_window(way):
    with streams(way, window=3, piece=1000) as (x, y):
        y.settimeout(0)
        with pytest.raises(BlockingIOError):
            y.recv(1)                           # it greets
        for _ in range(3):
            assert x.send(bytes(5000)) == 1000
        x.settimeout(0.01)
        with pytest.raises(TimeoutError):
            x.send(b"x")
        x.settimeout(0)
        with pytest.raises(BlockingIOError):
            x.send(b"x")
        assert y.recv(5000) == bytes(1000)      # one of three is not half of the window
        y.settimeout(PATIENCE)
        with in_thread(y.recv, 5000):
            x.settimeout(PATIENCE)
            assert x.send(b"x") == 1


def test_a_part_of_a_message_waits_for_the_next_call():
    with streams() as (x, y):
        with in_thread(x.sendall, b"0123456789"):
            assert y.recv(4) == b"0123"
        into = bytearray(3)
        assert y.recv_into(into) == 3
        assert into == b"456"
        assert y.recv_into(bytearray()) == 0
        assert y.recv(100) == b"789"


def test_in_place_nothing_is_copied():
    with streams() as (x, y):
        nic = x.vi.nic

        def send():
            with x.compose() as message:
                message.data[:5] = b"hello"
                message.length = 5
            with x.compose() as message:
                pass                            # nothing of it
            x.shutdown(socket.SHUT_WR)

        with in_thread(send):
            with y.borrow() as view:
                assert bytes(view) == b"hello"
            with y.borrow() as view:
                assert view.nbytes == 0
        assert nic.ledger() == {"device.rx": (5, 1)}
        with pytest.raises(OSError, match="shut down") as caught, x.compose():
            pass
        assert caught.value.errno == errno.EPIPE


@pytest.mark.parametrize("way", WAYS)
def test_an_end_an_error_and_a_refusal_come_behind_what_was_sent(way):
    with streams(way) as (x, y):
        with in_thread(x.sendall, b"last words"):
            assert y.recv(5) == b"last "
        x.abort(errno.ENOSPC)
        assert y.recv(100) == b"words"
        with pytest.raises(OSError, match="the other end ended with: No space left") as caught:
            y.recv(1)
        assert caught.value.errno == errno.ENOSPC
        x.shutdown(socket.SHUT_RD)
        with pytest.raises(BrokenPipeError, match="takes no more"):
            y.sendall(bytes(100_000_000))
        with pytest.raises(BrokenPipeError, match="shut down"):
            x.send(b"more")
        assert x.vi.state == y.vi.state == via.State.CONNECTED


def hello(hand, window=4, piece=100):
    """What an honest end says first, and hears."""
    hand.say(HELLO, piece)
    hand.say(GRANT, window)


def heard(hand):
    return [hand.hear()[1] for _ in range(2)]


def test_a_program_may_speak_it_by_hand():
    with by_hand() as (x, hand):
        hello(hand)
        with in_thread(x.sendall, b"a" * 250):
            assert [hand.hear() for _ in range(5)] == [
                (b"", HELLO << 24 | 65536), (b"", GRANT << 24 | 16), (b"a" * 100, None), (b"a" * 100, None),
                (b"a" * 50, None)]
        hand.say(GRANT, 3)
        for k in range(16):
            hand.message(b"%d" % k)
        assert [x.recv(100) for _ in range(16)] == [b"%d" % k for k in range(16)]
        assert [hand.hear() for _ in range(2)] == [(b"", GRANT << 24 | 8)] * 2
        hand.say(END)
        assert x.recv(100) == b""
        x.shutdown(socket.SHUT_RDWR)
        assert [hand.hear()[1] >> 24 for _ in range(2)] == [END, STOP]


LIES = {
    "more than was granted": lambda h: [h.message(b"x") for _ in range(3)],
    "a word that is none": lambda h: h.say(77, 5),
    "a word with bytes": lambda h: h.message(b"x", END << 24),
    "a message without bytes": lambda h: h.message(b""),
    "a second hello": lambda h: h.say(HELLO, 100),
    "nothing granted": lambda h: h.say(GRANT, 0),
    "credits beyond the window": lambda h: h.say(GRANT, 1),
    "two ends": lambda h: (h.say(END), h.say(END)),
    "two refusals": lambda h: (h.say(STOP), h.say(STOP)),
    "bytes behind the end": lambda h: (h.say(END), h.message(b"x")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_peer_that_lies_is_told_and_ends_the_stream(lie):
    with by_hand(window=2, piece=64) as (x, hand):
        x.settimeout(0)
        hello(hand)
        with pytest.raises(BlockingIOError):
            x.recv(1)
        heard(hand)
        LIES[lie](hand)
        x.settimeout(PATIENCE)
        with pytest.raises(OSError, match="breaks the rules") as caught:  # noqa: PT012
            for _ in range(10):
                x.send(b"x")
                read_all(x)
        assert caught.value.errno == errno.EPROTO
        assert hand.hear() == (b"", ERROR << 24 | errno.EPROTO)
        for _ in range(3):
            with pytest.raises(OSError, match="breaks the rules"):
                x.send(b"x")


@pytest.mark.parametrize("first", [GRANT, 0])
def test_who_does_not_begin_with_its_name_lies(first):
    with by_hand() as (x, hand):
        hand.say(first, 5)
        with pytest.raises(OSError, match="breaks the rules"):
            x.recv(1)


@pytest.mark.parametrize("how", ["too many", "too long", "hangs up"])
def test_a_peer_that_breaks_the_connection(how):
    """What came before is received first."""
    with by_hand(window=2, piece=64) as (x, hand):
        hello(hand)
        x.settimeout(0)
        with pytest.raises(BlockingIOError):
            x.recv(1)
        x.settimeout(PATIENCE)
        hand.message(b"first")
        if how == "too many":
            for _ in range(2 + WORDS):
                hand.message(b"x")
        elif how == "too long":
            hand.message(bytes(65))
        else:
            hand.vi.disconnect()
        assert x.recv(100) == b"first"
        with pytest.raises(OSError, match=r"rules|lost its connection") as caught:
            read_all(x)
        assert caught.value.errno in (errno.EPROTO, errno.ECONNRESET)
        with pytest.raises(OSError, match=r"rules|lost its connection"):
            x.send(b"x")
        assert repr(x).startswith("<ustack.via.Stream broken")


def test_a_stream_over_buffers_that_the_program_has_posted():
    with via.Nic() as nic:
        ptag = nic.ptag()
        a, b = via.Vi(nic, ptag), via.Vi(nic, ptag)
        for vi in (a, b):
            for buffer in via.buffers(nic, ptag, 100, 3 + WORDS):
                vi.post_recv(buffer)
        via.pair(a, b)
        x, y = via.Stream.of(a), via.Stream.of(b)
        assert via.Stream.of(a) is x
        assert (x.window, x.piece, x.vi) == (3, 100, a)
        with in_thread(lambda: (x.sendall(DATA[:10_000]), x.shutdown(1))):
            assert read_all(y) == DATA[:10_000]


def test_a_vi_that_can_carry_none():
    with via.Nic() as nic:
        ptag = nic.ptag()
        with pytest.raises(ValueError, match="reliable"):
            via.Stream(via.Vi(nic, ptag, reliability=via.Reliability.UD))
        with pytest.raises(ValueError, match="completion queue"):
            via.Stream(via.Vi(nic, ptag, recv_cq=via.CompletionQueue(nic, 8)))
        a, b = via.Vi(nic, ptag), via.Vi(nic, ptag, depth=8)
        via.pair(a, b)
        with pytest.raises(ValueError, match="before it is connected"):
            via.Stream(a)
        a.disconnect()
        b.disconnect()
        for options in ({"window": 0}, {"window": 5}, {"piece": 0}, {"piece": 1 << 24}):
            with pytest.raises(ValueError, match="from 1"):
                via.Stream(b, **options)
        b.post_recv(via.buffers(nic, ptag, 100, 1)[0])
        with pytest.raises(ValueError, match="posted already"):
            via.Stream(b, window=5)
        with pytest.raises(ValueError, match="window"):
            via.Stream(b)
        x = via.Stream(a)
        with pytest.raises(ValueError, match="already"):
            via.Stream(a)
        with pytest.raises(OSError, match="not connected") as caught:
            x.send(b"x")
        assert caught.value.errno == errno.ENOTCONN
        with pytest.raises(ValueError, match="time-out"):
            x.settimeout(-1)
        assert x.gettimeout() is None


def test_one_at_a_time_for_each_direction():
    with streams() as (x, y):
        with in_thread(lambda: x.send(b"x")), y.borrow(), pytest.raises(OSError, match="already") as caught:
            y.recv(1)
        assert caught.value.errno == errno.EBUSY


@pytest.mark.parametrize("way", WAYS)
def test_closing_gives_everything_back_and_the_vi_can_be_connected_again(way):
    before = via.pinned_bytes()
    with streams(way) as (x, y):
        for _ in range(3):
            with in_thread(lambda x=x: (x.sendall(DATA[:300_000]), x.close())):
                assert read_all(y) == DATA[:300_000]
            y.close()
            y.close()
            assert x.vi.state == y.vi.state == via.State.IDLE
            with pytest.raises(OSError, match="closed"):
                y.send(b"x")
            assert via.pinned_bytes() == before
            if way == "shared":
                break
            x, y = via.Stream(x.vi), via.Stream(y.vi)
            via.pair(x.vi, y.vi)
        if way == "shared":
            x.vi.destroy()
            y.vi.destroy()


PEER = """
    import socket, sys
    from ustack import via

    nic = via.Nic()
    with via.Listener(nic, b"s") as listener:
        nic.attach(socket.socket(fileno=int(sys.argv[-1])))
        with via.Stream(via.Vi(nic, nic.ptag()), window=4, piece=5000) as stream:
            stream.settimeout(60)
            listener.wait(60).accept(stream.vi)
            while data := stream.recv(4096):
                stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            stream.flush()
            stream.recv(1)
"""


def test_two_processes_and_one_that_is_killed():
    """An echo; and what came before the end of the other process is received, then the error."""
    with via.Nic() as nic:
        for kill in (False, True):
            with other_process("-c", textwrap.dedent(PEER)) as (process, sock):
                x = via.Stream(via.Vi(nic, nic.ptag()), window=8, piece=3000)
                x.settimeout(PATIENCE)
                x.vi.connect(b"s", nic.attach(sock, timeout=PATIENCE), timeout=PATIENCE)
                sending = Background(x.sendall, DATA)
                got = bytearray()
                while len(got) < (200_000 if kill else len(DATA)):
                    got += x.recv(1 << 16)
                if kill:
                    process.kill()
                    with pytest.raises(ConnectionResetError):
                        read_all_into(got, x)
                    with pytest.raises(ConnectionResetError):
                        sending.result(PATIENCE)
                    assert DATA.startswith(bytes(got))
                else:
                    sending.result(PATIENCE)
                    x.shutdown(socket.SHUT_WR)
                    assert (bytes(got), x.recv(1)) == (DATA, b"")
                x.close()
