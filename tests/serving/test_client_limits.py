"""What one client may ask: counted by hand, and over real sockets until its sender gets through."""

import concurrent.futures
import contextlib
import time

import pytest
from gate import Gate
from servers import port_of, running

from d2_featcomp.serving import (
    CloudClient,
    CloudService,
    Sender,
    ServiceSettings,
    Spool,
    Tokens,
    client_limits,
    make_stream_id,
)
from d2_featcomp.serving.client_limits import ClientLimits, LimitedError

NORTH, SOUTH = "north-0123456789", "south-0123456789"


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_requests_at_once():
    limits = ClientLimits(ServiceSettings(client_requests=2))
    with limits.admit("a"), limits.admit("a"):
        with pytest.raises(LimitedError, match="2 bitstreams of this client"), limits.admit("a"):
            pass
        with limits.admit("b"):
            pass
    with limits.admit("a"), limits.admit("a"):
        pass


def test_bytes_at_once():
    limits = ClientLimits(ServiceSettings(client_bytes=100, max_bytes=100))
    with limits.admit("a") as first:
        first.add_bytes(60)
        with pytest.raises(LimitedError, match="100 bytes"), limits.admit("a") as second:
            second.add_bytes(30)
            second.add_bytes(11)
        with limits.admit("a") as third:  # those of the second are gone
            third.add_bytes(40)
        with limits.admit("b") as other:
            other.add_bytes(100)
    with limits.admit("a") as again:
        again.add_bytes(100)


def test_a_rate_and_when_to_come_again():
    clock = Clock()
    limits = ClientLimits(ServiceSettings(client_rate=4.0), clock)

    def ask(client="a"):
        with contextlib.suppress(LimitedError), limits.admit(client):
            return True
        return False

    assert [ask() for _ in range(5)] == [True] * 4 + [False]  # what a second allows, at once
    assert ask("b")
    clock.now += 0.25
    assert [ask(), ask()] == [True, False]
    clock.now += 1000
    assert [ask() for _ in range(5)] == [True] * 4 + [False]
    slow = ClientLimits(ServiceSettings(client_rate=0.1), clock)
    with slow.admit("a"):
        pass
    clock.now += 3
    with pytest.raises(LimitedError, match=r"0\.1 bitstreams a second") as told, slow.admit("a"):
        pass
    assert told.value.retry_after == 7


def test_clients_that_ask_nothing_are_forgotten(monkeypatch):
    monkeypatch.setattr(client_limits, "_MOST_CLIENTS", 3)
    limits = ClientLimits(ServiceSettings(client_requests=1))
    with limits.admit("a"):
        for name in "bcdefgh":
            with limits.admit(name):
                pass
        assert len(limits._shares) <= 3
        with pytest.raises(LimitedError), limits.admit("a"):
            pass


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="client_bytes is 99: it must not be below max_bytes, 100"):
        ServiceSettings(client_bytes=99, max_bytes=100)
    for wrong in ({"client_rate": 0.0}, {"client_requests": 0}, {"score_threshold": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ServiceSettings(**wrong)


@pytest.fixture
def serve(network, tmp_path):
    pytest.importorskip("fastapi_offline")
    pytest.importorskip("prometheus_client")
    pytest.importorskip("httpx")
    with contextlib.ExitStack() as stack:

        def start(gate=None, **settings):
            service = CloudService(
                gate or network, ServiceSettings(**settings), str(tmp_path / "results")
            )
            tokens = Tokens({NORTH: "north", SOUTH: "south"})
            return service, f"127.0.0.1:{port_of(stack.enter_context(running(service, tokens)))}"

        yield start


def test_one_client_cannot_fill_the_queue(serve, network, data):
    import httpx

    gate = Gate(network)
    service, address = serve(gate, client_requests=2, queue_size=64)

    def put(name, token):
        url = f"http://{address}/v1/bitstreams/{make_stream_id(name, data)}"
        return httpx.put(url, content=data, auth=("", token), timeout=60)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        try:
            first = [pool.submit(put, f"n{n}", NORTH) for n in range(2)]
            deadline = time.monotonic() + 60
            while service.metrics()["accepted"] < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            third = put("n3", NORTH)
            assert third.status_code == 429 and third.headers["retry-after"] == "1"
            assert third.json()["id"] == make_stream_id("n3", data)
            south = pool.submit(put, "s", SOUTH)
        finally:
            gate.open.set()
        assert [one.result().status_code for one in (*first, south)] == [200] * 3
    assert put("n3", NORTH).status_code == 200
    assert service.metrics()["limited"] == 1 and service.metrics()["busy"] == 0


def test_a_sender_waits_as_long_as_it_is_told(serve, data, tmp_path):
    """A rate of one in two seconds: what does not get through stays in the spool."""
    _, address = serve(client_rate=0.5)
    spool, pauses = Spool(str(tmp_path / "spool")), []
    identities = [spool.add(f"photo{n}", data) for n in range(2)]
    with CloudClient(address, token=NORTH, attempts=2, backoff=0.01, sleep=pauses.append) as client:
        sender = Sender(spool, client)
        sender.send_waiting()
        assert spool.waiting() == identities[1:] and sender.away_since is not None
        assert sender.refused == 0 and pauses and pauses[0] in (1, 2)
    with CloudClient(address, token=NORTH, backoff=0.01) as client:  # that really waits
        Sender(spool, client).send_waiting()
    assert spool.waiting() == []
