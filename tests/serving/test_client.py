"""What the client takes for an answer, against servers that really answer over HTTP."""

import contextlib
import gzip
import http.server
import json
import threading

import pytest
import torch

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.serving import (
    CloudClient,
    ForeignModelError,
    RefusedError,
    Sender,
    ServerFaultError,
    Spool,
    WrongServerError,
    make_stream_id,
)

pytest.importorskip("httpx")
HTML = b"<html><h1>Hotel Paradise</h1> log in</html>"


@pytest.fixture(scope="module")
def data(random_network):
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2)) * 255
    return random_network("msfc").edge_inference([{"image": image}])[0].to_bytes()


@contextlib.contextmanager
def answering(*answers):
    """A server that gives each answer, (status, body, headers), once, and the last one ever after.

    Yields its address and the list of requests, (path, headers, body).
    """
    left, requests = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            requests.append((self.path, self.headers, body))
            answer = left[0] if len(left) == 1 else left.pop(0)
            status, content, headers = answer(self.path) if callable(answer) else answer
            self.send_response(status)
            for key, value in {"Content-Length": len(content), **headers}.items():
                self.send_header(key, str(value))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


def as_json(status, /, **content):
    return status, json.dumps(content).encode(), {"Content-Type": "application/json"}


def result_for(data, **changed):
    """The answer of a service to whatever it is asked."""
    fingerprint = FeatureBitstream.from_bytes(data).fingerprint.hex()

    def answer(path):
        identity = path.rpartition("/")[2]
        return as_json(200, **{"id": identity, "fingerprint": fingerprint, **changed})

    return answer


STRANGE = {
    "json": as_json(200, status="ok"),
    "list": (200, b"[]", {}),
    "null": (200, b"null", {}),
    "login": (200, HTML, {"Content-Type": "text/html"}),
    "empty": (200, b"", {}),
    "created": as_json(201, id="photo"),
    "no compression": (200, b"plain", {"Content-Encoding": "gzip"}),
    "redirect": (302, HTML, {"Location": "http://login.example"}),
    "network login": (511, HTML, {}),
    "proxy's 400": (400, HTML, {}),
    "other service's 400": as_json(400, detail="unknown field"),
    "proxy's 413": (413, HTML, {}),
    "not found": as_json(404, detail="Not Found"),
}


@pytest.mark.parametrize("answer", STRANGE.values(), ids=STRANGE)
def test_other_services_are_told_apart(data, tmp_path, answer):
    spool = Spool(str(tmp_path / "spool"))
    identity = spool.add("photo", data)
    with (
        answering(answer) as (address, _),
        CloudClient(address, attempts=2, sleep=lambda _: None) as client,
    ):
        sender = Sender(spool, client, str(tmp_path))
        with pytest.raises(WrongServerError, match=f"{address}.*featcomp serve") as told:
            sender.send_waiting()
    assert "Hotel Paradise" in str(told.value) or answer[1] != HTML  # what it says
    assert "\n" not in str(told.value)
    assert spool.waiting() == [identity] and spool.read(identity) == data
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]  # no result


@pytest.mark.parametrize(
    "changed", [{"id": "other-0123456789abcdef"}, {"fingerprint": "00000000"}, {"fingerprint": None}]
)
def test_the_result_of_another_image_or_model_is_none(data, tmp_path, changed):
    spool = Spool(str(tmp_path))
    identity = spool.add("photo", data)
    with (
        answering(result_for(data, **changed)) as (address, _),
        CloudClient(address) as client,
        pytest.raises(WrongServerError, match="no answer to this bitstream"),
    ):
        Sender(spool, client).send(identity)
    assert spool.waiting() == [identity]


def test_an_answer_that_names_both_is_taken(data, tmp_path):
    spool = Spool(str(tmp_path / "spool"))
    identity = spool.add("photo", data)
    compressed = gzip.compress(result_for(data)(identity)[1])
    answer = (200, compressed, {"Content-Encoding": "gzip", "X-Cloud-Seconds": "soon"})
    with answering(answer) as (address, _), CloudClient(f"http://{address}/") as client:
        sender = Sender(spool, client, str(tmp_path))
        seconds = sender.send(identity)
    assert seconds != seconds and sender.sent == 1 and spool.waiting() == []  # a time that is none
    assert json.loads((tmp_path / f"{identity}.json").read_text())["id"] == identity


def test_a_login_page_on_the_way_loses_nothing(data, tmp_path):
    spool, told = Spool(str(tmp_path)), []
    first, second = (spool.add(name, data) for name in ("a", "b"))
    with (
        answering(result_for(data), (200, HTML, {}), result_for(data)) as (address, requests),
        CloudClient(address) as client,
    ):
        sender = Sender(spool, client, tell=told.append)
        sender.send_waiting()
        assert sender.away_since is not None and spool.waiting() == [second]
        assert len(told) == 1 and "Hotel Paradise" in told[0]
        sender.send_waiting()
    assert [path.rpartition("/")[2] for path, _, _ in requests] == [first, second, second]
    assert spool.waiting() == [] and sender.sent == 2


def test_the_rest_is_sent_when_one_model_is_foreign(data, tmp_path, monkeypatch):
    """The server has other weights: what they wrote is sent, all else waits, and is tried again."""
    spool, told = Spool(str(tmp_path)), []
    stream = FeatureBitstream.from_bytes(data)
    old = FeatureBitstream(**{**vars(stream), "fingerprint": b"else"}).to_bytes()
    waits = [spool.add(name, old) for name in ("a", "b", "c")]
    spool.add("d", data)

    def answer(path):
        identity = path.rpartition("/")[2]
        if identity in waits:
            return as_json(400, id=identity, reason="foreign model", detail="of another model")
        return result_for(data)(path)

    with answering(answer) as (address, requests), CloudClient(address) as client:
        with pytest.raises(ForeignModelError, match="400: of another model"):
            client.send(waits[0], old)
        sender = Sender(spool, client, tell=told.append)
        sender.send_waiting()
        sender.send_waiting()
        assert spool.waiting() == waits and sender.sent == 1 and sender.refused == 0
        assert len(requests) == 3  # the first one again, and no other of its model
        assert len(told) == 1 and "another model" in told[0] and b"else".hex() in told[0]
        monkeypatch.setattr("d2_featcomp.serving.sender.FOREIGN_PAUSE", 0.0)
        sender.send_waiting()
        assert len(requests) == 6


def test_what_one_model_left_does_not_hold_up_the_rest(data, tmp_path, monkeypatch):
    """After the server was away; and it is sent when the server can read it."""
    monkeypatch.setattr("d2_featcomp.serving.sender.TRY_AGAIN_AFTER", 0.0)
    spool = Spool(str(tmp_path))
    stream = FeatureBitstream.from_bytes(data)
    new = FeatureBitstream(**{**vars(stream), "fingerprint": b"else"}).to_bytes()
    old, away, takes_old = spool.add("a", data), [True], []

    def answer(path):
        if away:
            return 200, HTML, {}
        if old not in path:
            return result_for(new)(path)
        return (
            result_for(data)(path)
            if takes_old
            else as_json(400, id=old, reason="foreign model", detail="")
        )

    with (
        answering(answer) as (address, _),
        CloudClient(address) as client,
    ):
        sender = Sender(spool, client, tell=[].append)
        sender.sent = 1  # it has been a server before
        sender.send_new(spool.add("b", new))
        assert sender.away_since is not None
        away.clear()
        for name in ("c", "d"):
            sender.send_new(spool.add(name, new))
        assert spool.waiting() == [old] and sender.away_since is None
        takes_old.append(True)
        sender.send_new(spool.add("e", new))
        assert spool.waiting() == [old]  # it is not asked for each image
        monkeypatch.setattr("d2_featcomp.serving.sender.FOREIGN_PAUSE", 0.0)
        sender.send_new(spool.add("f", new))
        assert spool.waiting() == []


def test_refused_bitstreams_can_be_sent_again(data, tmp_path):
    spool, told = Spool(str(tmp_path)), []
    names = ["photo", "写真" * 30]
    waits = sorted(spool.add(name, data) for name in names)

    def refusal(path):
        return as_json(400, id=path.rpartition("/")[2], reason="bad", detail="no good")

    with answering(refusal) as (address, _), CloudClient(address) as client:
        Sender(spool, client, tell=told.append).send_waiting()
    assert spool.waiting() == [] and len(told) == 2 and "--requeue" in told[0]
    (reason, *_) = (tmp_path / "rejected").glob("*.txt")
    assert reason.read_text() == "400: no good\n"
    assert sorted(spool.requeue()) == sorted(spool.waiting()) == waits
    assert sorted(map(spool.name, waits)) == sorted(names)
    assert list((tmp_path / "rejected").iterdir()) == [] and spool.requeue() == []


def test_faults_and_busy_servers_are_tried_again(data):
    identity = make_stream_id("photo", data)
    pauses = []
    busy = (503, b"", {"Retry-After": "7"})
    with (
        answering(busy, (500, b"", {}), (502, HTML, {}), result_for(data)) as (address, requests),
        CloudClient(address, attempts=4, sleep=pauses.append) as client,
    ):
        assert client.send(identity, data)[0]["id"] == identity
    assert len(requests) == 4 and pauses[0] == 7 and 0.5 <= pauses[1] <= 1.5
    with (
        answering((502, HTML, {})) as (address, requests),
        CloudClient(address, attempts=3, sleep=lambda _: None) as client,
        pytest.raises(ServerFaultError, match=r"502: .*Hotel"),
    ):
        client.send(identity, data)
    assert len(requests) == 3
    with CloudClient("127.0.0.1:1", attempts=1) as client:  # where nobody is
        assert client.send(identity, data) is None


def test_a_name_that_the_id_has_no_room_for_is_sent_beside_it(data):
    long = "写真" * 30
    with answering(result_for(data)) as (address, requests), CloudClient(address) as client:
        client.send(make_stream_id("写", data), data, "写")
        client.send(make_stream_id(long, data), data, long)
    (_, short, _), (_, whole, _) = requests
    assert short["X-Image-Name"] is None
    assert whole["X-Image-Name"] == "%E5%86%99%E7%9C%9F" * 30  # of UTF-8


@pytest.mark.parametrize(
    "address",
    [
        *("host:abc", "::1:8000", "::1", "[::1", "[::1]:x", "host:", "host:0", "host:65536", ""),
        *(":8000", "http://", "ftp://host:80", "http//host:80", "http:/host:80", "ho st:80", "a;b:80"),
        "a:1:2",
    ],
)
def test_addresses_that_are_none(address):
    with pytest.raises(ValueError, match=r"no address of a server.*HOST:PORT.*brackets"):
        CloudClient(address)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("cloud.example:8000", "http://cloud.example:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("127.0.0.1:80", "http://127.0.0.1"),
        ("https://cloud.example/prefix", "https://cloud.example/prefix/"),
        ("cloud", "http://cloud"),
    ],
)
def test_addresses(address, url):
    with CloudClient(address) as client:
        assert str(client._client.base_url) == url


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"attempts": 0}, {"timeout": float("nan")}, {"timeout": float("inf")}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match="above 0"):
        CloudClient("a:1", **wrong)


def test_no_proxy_is_asked_for_this_machine(data, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    identity = make_stream_id("photo", data)
    with answering(result_for(data)) as (address, _):
        for given in (address, address.replace("127.0.0.1", "localhost")):
            with CloudClient(given, attempts=1) as client:
                assert client.send(identity, data) is not None, client.problem
    with CloudClient("cloud.example:80", attempts=1) as client:
        assert client.send(identity, data) is None and "refused" in client.problem


def test_a_refusal_says_why(data):
    identity = make_stream_id("photo", data)
    refusal = as_json(413, id=identity, reason="bad", detail=["a", {"list": "of things"}])
    with (
        answering(refusal) as (address, _),
        CloudClient(address) as client,
        pytest.raises(RefusedError, match=r"413: .*of things"),
    ):
        client.send(identity, data)
