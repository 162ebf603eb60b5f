"""What connections may cost: the server on real sockets, with limits that tests can wait for."""

import contextlib
import logging
import os
import resource
import socket
import ssl
import time
import tracemalloc

import pytest
from gate import Gate
from servers import port_of, running

from d2_featcomp.codecs import CodedTensor, FeatureBitstream
from d2_featcomp.serving import CloudService, ServiceSettings, make_stream_id
from d2_featcomp.serving.http_server import _allow_files, _FewerLines

pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
MOST = 8
LIMITS = {"max_connections": MOST, "header_timeout": 0.5, "idle_timeout": 0.7, "receive_timeout": 1.0}


@pytest.fixture
def serve(network, tmp_path):
    """Starts a server with settings; returns its service and its port."""
    with contextlib.ExitStack() as stack:

        def start(gate=None, send_buffer=None, **settings):
            options = ServiceSettings(**{**LIMITS, **settings})
            service = CloudService(gate or network, options, str(tmp_path / "results"))
            listening = stack.enter_context(running(service))
            if send_buffer:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
            return service, port_of(listening)

        yield start


def connect(port, data=b"", timeout=30):
    client = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    client.sendall(data)
    return client


def received(client):
    """All that comes until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(2**16):
            found += part
    return found


def seconds_until_closed(client):
    start = time.monotonic()
    assert received(client) == b""
    return time.monotonic() - start


def put_head(identity, size):
    return (
        f"PUT /v1/bitstreams/{identity} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
    )


CERTIFICATES = ssl.create_default_context()  # no request needs them; each would read them


def healthy(port):
    with httpx.Client(verify=CERTIFICATES) as client:
        return client.get(f"http://127.0.0.1:{port}/healthz", timeout=30).json() == {"status": "ok"}


@pytest.mark.parametrize("start", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_must_arrive_in_time(serve, start):
    _, port = serve()
    with connect(port, start) as client:
        assert 0.3 < seconds_until_closed(client) < 5


def test_a_head_that_trickles_gains_no_time(serve):
    _, port = serve()
    start = time.monotonic()
    with connect(port, b"GET / HTTP/1.1\r\n") as client, contextlib.suppress(ConnectionError):
        while time.monotonic() - start < 20:
            client.sendall(b"a: b\r\n")
            time.sleep(0.05)
    assert time.monotonic() - start < 10


def test_an_idle_connection_is_closed(serve):
    _, port = serve()
    with connect(port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n") as client:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /he")  # and no more
        start = time.monotonic()
        received(client)
        assert time.monotonic() - start < 5


def test_who_does_not_read_is_closed(serve):
    _, port = serve(send_buffer=4096, answer_timeout=1.0)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(0.2)
    client.connect(("127.0.0.1", port))
    left = memoryview(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 1_000_000)  # of whole requests
    start = time.monotonic()
    with client, contextlib.suppress(ConnectionError):
        while left and time.monotonic() - start < 30:
            with contextlib.suppress(TimeoutError):
                left = left[client.send(left) :]
    assert left and time.monotonic() - start < 25


def test_idle_connections_give_way(serve, stream):
    _, port = serve(header_timeout=60.0, idle_timeout=60.0)
    data = stream.to_bytes()
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(connect(port, start))
            for start in (b"", b"PUT /v1/bitst") * (2 * MOST)  # four times as many as allowed
        ]
        start = time.monotonic()
        with httpx.Client() as client:
            url = f"http://127.0.0.1:{port}/v1/bitstreams/{make_stream_id('a', data)}"
            assert client.put(url, content=data, timeout=30).status_code == 200
        assert time.monotonic() - start < 20
        assert healthy(port)
        for client in idle[: len(idle) - MOST]:  # the oldest ones
            assert received(client) == b""


def test_connections_that_ask_something_stay(serve, stream):
    """So many requests that are under way: one more is told so, and all goes on after their time."""
    _, port = serve(receive_timeout=4.0)
    data = stream.to_bytes()
    head = put_head(make_stream_id("a", data), len(data))
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(port, head + data[:10])) for _ in range(MOST)]
        time.sleep(0.5)  # so that the server has read them
        with connect(port) as client:
            answer = received(client)
        assert b"too many connections" in answer and b"Retry-After: 1" in answer
        for client in slow:
            assert received(client).startswith(b"HTTP/1.1 408")
    assert healthy(port)


def test_noise_does_not_fill_the_log(serve, capfd):
    _, port = serve()
    for _ in range(50):
        with connect(port, b"noise\r\n\r\n") as client:
            assert received(client).startswith(b"HTTP/1.1 400")
    assert 1 <= capfd.readouterr().err.count("Invalid HTTP request") <= 10


def test_lines_that_were_not_logged_are_counted():
    fewer = _FewerLines()

    def passes(second, text="broken %s"):
        record = logging.LogRecord("asyncio", logging.ERROR, "", 0, text, ("pipe",), None)
        record.created = second
        return record.getMessage() if fewer.filter(record) else None

    assert [passes(n) for n in range(13)] == ["broken pipe"] * 10 + [None] * 3
    assert passes(13, "other %s") == "other pipe"
    assert passes(60) == "(3 more of these were not logged) broken pipe"
    assert passes(61) == "broken pipe"


def test_a_client_that_goes_away_leaves_no_traceback(serve, stream, capfd):
    _, port = serve()
    data = stream.to_bytes()
    for _ in range(5):
        with connect(port, put_head(make_stream_id("a", data), len(data)) + data[:10]):
            pass
    assert healthy(port)
    assert "Traceback" not in capfd.readouterr().err


def large(stream, fingerprint=None, size=2**20):
    """A bitstream of a megabyte that is whole, though its payload means nothing."""
    tensor = CodedTensor({"y": os.urandom(size)})
    fingerprint = fingerprint or stream.fingerprint
    changed = {"tensors": [tensor], "fingerprint": fingerprint}
    return FeatureBitstream(**{**vars(stream), **changed}).to_bytes()


def test_bitstreams_that_come_again_take_no_memory(serve, network, stream):
    gate = Gate(network)
    many = {"max_connections": 64, "client_requests": 64}
    service, port = serve(gate, **many, receive_timeout=30.0, answer_timeout=60.0)
    data = large(stream)
    request = put_head(make_stream_id("a", data), len(data)) + data
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port, request))]
        while not service.metrics()["accepted"]:
            time.sleep(0.01)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        clients += [stack.enter_context(connect(port, request)) for _ in range(40)]
        deadline = time.monotonic() + 30
        while service.metrics()["repeated"] < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert service.metrics()["repeated"] == 40
        assert tracemalloc.get_traced_memory()[0] < 10 * 2**20
        gate.open.set()
        for client in clients:  # its payload means nothing: all are told
            assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_foreign_bitstreams_do_not_wait(serve, network, stream):
    """They are refused while the network is busy with others, with an answer that tells why."""
    gate = Gate(network)
    service, port = serve(gate, queue_size=1)
    foreign = large(stream, fingerprint=b"else")
    with httpx.Client() as client:
        for name in ("a", "b", "c"):
            identity = make_stream_id(name, foreign)
            url = f"http://127.0.0.1:{port}/v1/bitstreams/{identity}"
            answer = client.put(url, content=foreign, timeout=30)
            assert answer.status_code == 400
            told = answer.json()
            assert told["id"] == identity and told["reason"] == "foreign model"
            assert "another model" in told["detail"]
    assert service.metrics()["queued"] == 0 and service.metrics()["refused"] == 3
    gate.open.set()


def test_waiting_bytes_are_counted(serve, network, stream):
    gate = Gate(network)
    data = [large(stream, size=2**20 + n) for n in range(3)]
    service, port = serve(gate, max_receiving=int(2.5 * 2**20), max_connections=64, answer_timeout=60.0)
    with contextlib.ExitStack() as stack:
        clients = []
        for number, one in enumerate(data[:2], start=1):
            head = put_head(make_stream_id("a", one), len(one))
            clients.append(stack.enter_context(connect(port, head + one)))
            while service.metrics()["accepted"] < number:
                time.sleep(0.01)
        head = put_head(make_stream_id("a", data[2]), len(data[2]))
        with connect(port, head + data[2]) as client:
            assert client.recv(100).startswith(b"HTTP/1.1 503")
        gate.open.set()
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 400")
        with connect(port, head + data[2]) as client:  # there is room again
            assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_files_that_may_be_open():
    soft, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 600), hard))
        assert _allow_files(100) == 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(soft, 600)
        assert _allow_files(500) == min(500, hard - 256)  # 500 + 128 + 128 > 600
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 756
        if hard != resource.RLIM_INFINITY:
            assert _allow_files(2 * hard) == hard - 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
