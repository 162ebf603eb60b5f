"""Servers that accept and say nothing, or never come to an end: over real sockets."""

import contextlib
import socket
import threading
import time

import pytest

from d2_featcomp.serving import CloudClient, Sender, Spool, make_stream_id, sender

pytest.importorskip("httpx")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@contextlib.contextmanager
def speaking(speak):
    """A server that calls `speak(connection, ended)` for each request, and the event that ends it;
    yields its address and the list of the connections."""
    ended, connections, threads = threading.Event(), [], []

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(2**16)
            speak(connection, ended)

    def accept(listening):
        with contextlib.suppress(OSError):
            while True:
                connections.append(listening.accept()[0])
                threads.append(threading.Thread(target=answer, args=connections[-1:]))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, args=(listening,))
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", connections
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            for each in (thread, *threads):
                each.join()


def say_nothing(connection, ended):
    ended.wait()


def drip(text):
    """Says a text byte by byte, sooner than any single read of the tests ends, and then "a" for ever."""

    def speak(connection, ended):
        sent = 0
        while not ended.wait(0.05):
            connection.send(text[sent : sent + 1] or b"a")
            sent += 1

    return speak


def flood(connection, ended):
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not ended.is_set():
        connection.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")


@pytest.mark.parametrize("text", [HEAD, HEAD[:-2] + b"X-Long: "], ids=["body", "head"])
def test_an_answer_that_drips_ends(text):
    identity = make_stream_id("a", b"bytes")
    with speaking(drip(text)) as (address, _), CloudClient(address, timeout=0.5, attempts=1) as client:
        assert client.send(identity, b"bytes") is None
        assert "no whole answer within 0.5 s" in client.problem or "timed out" in client.problem


def test_an_answer_without_an_end(monkeypatch):
    monkeypatch.setattr("d2_featcomp.serving.client._MAX_ANSWER_BYTES", 2**22)
    identity = make_stream_id("a", b"bytes")
    with speaking(flood) as (address, _), CloudClient(address, attempts=1) as client:
        assert client.send(identity, b"bytes") is None
        assert f"more than {2**22} bytes" in client.problem


def test_adding_does_not_wait_for_a_server_that_says_nothing(tmp_path, monkeypatch):
    """After the first attempt: it has no end before the test's."""
    monkeypatch.setattr(sender, "TRY_AGAIN_AFTER", 0.0)
    monkeypatch.setattr(sender, "RETRY_GRACE", 0.0)
    spool = Spool(str(tmp_path))
    with speaking(say_nothing) as (address, connections):
        with CloudClient(address, timeout=0.2, sleep=pytest.fail) as client:
            told = Sender(spool, client, tell=[].append)
            told.send_new(spool.add("first", b"bytes"))
            assert told.away_since is not None and len(connections) == 1
        with CloudClient(address, timeout=600, sleep=pytest.fail) as told.client:
            for number in range(20):
                told.send_new(spool.add(f"more{number}", b"bytes"))
            assert len(spool.waiting()) == 21
            while len(connections) < 2:
                time.sleep(0.01)
            connections[1].shutdown(socket.SHUT_RDWR)  # the server goes away for good


def test_what_was_added_meanwhile_is_sent_when_the_server_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "TRY_AGAIN_AFTER", 0.0)
    back, entered = threading.Event(), threading.Event()

    class Client:
        problem, count = "away", 0

        def send(self, identity, data, name, patient=True):
            self.count += 1
            if self.count == 1:
                return None
            entered.set()
            assert back.wait(60)
            return {"id": identity}, 0.0

    monkeypatch.setattr(sender, "RETRY_GRACE", 0.0)
    spool = Spool(str(tmp_path))
    told = Sender(spool, Client(), tell=[].append)
    for name in ("a", "b", "c"):
        assert told.send_new(spool.add(name, b"bytes")) is None
    assert entered.wait(60) and len(spool.waiting()) == 3
    back.set()
    told.finish()
    assert spool.waiting() == [] and told.sent == 3


def test_what_the_attempts_raise_is_raised_to_who_adds(tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "TRY_AGAIN_AFTER", 0.0)
    spool = Spool(str(tmp_path))

    class Client:
        problem, answers = "away", [None]

        def send(self, identity, data, name, patient=True):
            if self.answers:
                return self.answers.pop()
            raise OSError("disk full")

    told = Sender(spool, Client(), tell=[].append)
    told.send_new(spool.add("a", b"bytes"))
    told.send_new(spool.add("b", b"bytes"))
    with pytest.raises(OSError, match="disk full"):
        told.finish()
    assert len(spool.waiting()) == 2
