"""Edge and cloud as real processes: through files, and over the network."""

import concurrent.futures
import contextlib
import copy
import json
import os
import select
import signal
import socket
import time

import pytest
from deployed import IMAGES, call, free_port, start
from pycocotools.coco import COCO

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.serving import CloudClient, RefusedError, Spool, make_stream_id

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")


def without_name(result):
    """A result that tells neither what its image is called nor which server made it."""
    instances = [{**entry, "image_id": ""} for entry in result["instances"]]
    of_server = ("id", "name", "fingerprint", "maker")
    kept = {key: value for key, value in result.items() if key not in of_server}
    return {**kept, "image_id": "", "instances": instances}


def test_through_files(root, expected, tmp_path):
    status, _, errors = call(root, "edge", "--input", root / "photos", "--output", tmp_path / "out")
    assert status == 0, errors
    for name, (_, data) in expected.items():
        assert (tmp_path / "out" / f"{name}.d2fc").read_bytes() == data
    (tmp_path / "out" / "zz_damaged.d2fc").write_bytes(data[:-1] + b"?")
    more = ("--images", root / "photos", "--classes", "a,b,c,d,e,f")
    status, _, errors = call(
        root, "cloud", "--input", tmp_path / "out", "--output", tmp_path / "results", *more
    )
    assert status == 3 and "zz_damaged.d2fc: feature bitstream is damaged" in errors
    every = []
    for name, (result, _) in copy.deepcopy(expected).items():
        found = json.loads((tmp_path / "results" / f"{name}.json").read_text())
        for entry, named in zip(found["instances"], result["instances"], strict=True):
            assert entry.pop("category") == "abcdef"[entry["category_id"] - 1]
            named.pop("category")
        assert found == result and len(found["instances"]) == 3
        every += found["instances"]
        assert (tmp_path / "results" / f"{name}_found.png").stat().st_size > 1000
    assert len(json.loads((tmp_path / "results" / "results.json").read_text())) == len(every)


def test_over_the_network(root, expected, server, tmp_path):
    one = server()
    more = ("--connect", one.address, "--spool", tmp_path / "spool", "--output", tmp_path / "answers")
    link = ("--bandwidth", 8000, "--latency", 1, "--loss", 0.1)
    status, told, errors = call(root, "edge", "--input", root / "photos", *more, *link)
    assert status == 0, errors
    assert f"{IMAGES} sent, 0 refused, 0 waiting" in told and "| median" in told
    for name, (result, data) in expected.items():
        identity = make_stream_id(name, data)
        kept = json.loads((tmp_path / "results" / f"{identity}.json").read_text())
        answer = json.loads((tmp_path / "answers" / f"{identity}.json").read_text())
        assert kept == answer and without_name(kept) == without_name(result)
        assert (answer["id"], answer["name"]) == (identity, name)
        assert answer["fingerprint"] == FeatureBitstream.from_bytes(data).fingerprint.hex()
    assert one.metric("done_total") == IMAGES and one.metric("errors_total") == 0
    coco = COCO(str(tmp_path / "answers" / "images.json"))
    loaded = coco.loadRes(str(tmp_path / "answers" / "results.json"))
    assert len(loaded.anns) == 3 * IMAGES
    assert [image["name"] for image in coco.dataset["images"]] == sorted(expected)

    # Sent again, they are not computed again, and in the order of a client's choice.
    for name, (_, data) in reversed(expected.items()):
        assert one.put(make_stream_id(name, data), data).status_code == 200
    assert one.metric("done_total") == IMAGES and one.metric("repeated_total") == IMAGES
    log = one.stop()
    assert one.status == 0 and "Traceback" not in log


def test_a_server_that_is_killed_loses_nothing(root, expected, server, tmp_path):
    spool = tmp_path / "spool"
    to = free_port()
    more = ("--connect", f"127.0.0.1:{to}", "--spool", spool, "--attempts", "2", "--timeout", "5")
    status, told, _ = call(root, "edge", "--input", root / "photos", *more)  # nobody is there
    assert status == 3 and f"0 sent, 0 refused, {IMAGES} waiting" in told
    assert len(Spool(str(spool)).waiting()) == IMAGES

    first = server(port=to)
    edge = start(root, "edge", *more, "--attempts", "50")
    results = tmp_path / "results"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(
        name.endswith(".json") for name in os.listdir(results)
    ):
        time.sleep(0.005)
    first.stop(signal.SIGKILL)
    second = server(port=to)
    status, told, _ = edge.wait()
    assert status == 0 and "0 refused, 0 waiting" in told
    found = {name[:-5] for name in os.listdir(results) if name.endswith(".json")}
    assert found == {make_stream_id(name, data) for name, (_, data) in expected.items()}
    assert 0 < second.metric("done_total") <= IMAGES


@pytest.mark.parametrize("max_batch", [1, 8])
def test_eight_clients_get_their_own_results(expected, server, max_batch):
    one = server("MODEL.FEATCOMP.SERVER.MAX_BATCH", str(max_batch))

    def send(job):
        number, (name, (_, data)) = job
        identity = make_stream_id(f"{name}_{number}", data)
        with CloudClient(one.address, timeout=120) as client:
            answer, seconds = client.send(identity, data)
        return seconds >= 0 and answer["image_id"] == identity and without_name(answer)

    jobs = [(number, item) for number in range(8) for item in expected.items()]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, jobs))
    for (_, (_, (result, _))), answer in zip(jobs, answers, strict=True):
        if max_batch == 1:
            assert answer == without_name(result)
        else:  # equal but for rounding, by which a network that learned nothing finds other things
            assert all(answer[key] == result[key] for key in ("height", "width"))
    assert one.metric("done_total") == len(jobs)
    assert (one.metric("batches_total") == len(jobs)) == (max_batch == 1)


def test_five_times_what_it_can_do(expected, server):
    one = server("--queue", "2", "MODEL.FEATCOMP.SERVER.MAX_BATCH", "1")
    (_, data), *_ = expected.values()
    junk = os.urandom(2**20)
    answers, memory = [], []

    def flood(pool, start):
        jobs = [(f"flood{n}", data if n % 4 else junk) for n in range(start, start + 80)]
        answers.extend(pool.map(lambda job: one.put(make_stream_id(*job), job[1], client), jobs))
        memory.append(one.memory())

    deadline = time.monotonic() + 120
    with concurrent.futures.ThreadPoolExecutor(16) as pool, httpx.Client() as client:
        while len(memory) < 4 or 5 * one.metric("done_total") > len(answers):
            assert time.monotonic() < deadline
            flood(pool, len(answers))
            assert one.get("/healthz").status_code == 200
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 400, 503}
    busy = next(answer for answer in answers if answer.status_code == 503)
    assert busy.headers["retry-after"] == "1" and "busy" in busy.json()["detail"]
    assert one.metric("busy_total") == codes.count(503)
    assert one.metric("accepted_total") == one.metric("done_total") == codes.count(200)
    # The first flood fills the buffers; those after it need nothing more.
    assert memory[-1] < memory[0] + 40e6


def test_requests_that_arrive_take_bounded_memory(root, expected, server):
    from d2_featcomp.serving import ServiceSettings

    most = ServiceSettings.max_receiving
    of_client = ("--client-bytes", str(2 * most), "--client-requests", "64")
    one = server("--max-bytes", str(2**25), "--receive-timeout", "600", *of_client)
    ((name, (_, data)), *_) = expected.items()
    path = f"/v1/bitstreams/{make_stream_id(name, data)}"
    head = f"PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {2**25}\r\n\r\n"
    before = one.memory()
    with contextlib.ExitStack() as stack:
        waiting = []
        for _ in range(most // 2**25 + 4):  # each all but its last byte
            client = stack.enter_context(socket.create_connection(("127.0.0.1", one.port)))
            with contextlib.suppress(OSError):  # some are turned away
                client.sendall(head.encode() + bytes(2**25 - 1))
            waiting.append(client)
        # Which ones are turned away depends on whose bytes the server reads first.
        while len(waiting) > most // 2**25:
            answered, _, _ = select.select(waiting, [], [], 60)
            assert answered
            for client in answered:
                assert client.recv(100).startswith(b"HTTP/1.1 503")
                waiting.remove(client)
        assert one.memory() < before + 1.5 * most
        assert one.get("/healthz").status_code == 200
    deadline = time.monotonic() + 60
    while (answer := one.put(make_stream_id(name, data), data)).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert answer.status_code == 200


def test_a_stop_finishes_what_was_accepted(expected, server, tmp_path):
    one = server()
    (_, data), *_ = expected.values()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        sent = [pool.submit(one.put, make_stream_id(f"last{n}", data), data) for n in range(12)]
        deadline = time.monotonic() + 60
        while one.metric("accepted_total") < 12 and time.monotonic() < deadline:
            pass
        one.stop(signal.SIGTERM)
        assert {answer.result().status_code for answer in sent} == {200}
    assert one.status == 0
    assert sum(name.endswith(".json") for name in os.listdir(tmp_path / "results")) == 12


def test_bad_requests(root, expected, server):
    # Photographs of 64 x 96 and 72 x 96 pixels, 3 masks, and 16 bytes to paste one: 116 736 and 131 328.
    limits = ("--max-bytes", "100000", "--receive-timeout", "1", "--max-answer-bytes", "120000")
    one = server(*limits)
    (name, (_, data)), (second, (_, other)), *_ = expected.items()
    identity = make_stream_id(name, data)
    assert one.put(identity, other).status_code == 409
    answer = one.put(make_stream_id(second, other), other)
    assert answer.status_code == 400 and "may take 131328 bytes" in answer.json()["detail"]
    assert one.put("no_id", data).status_code == 400
    damaged = data[:-1] + b"?"
    answer = one.put(make_stream_id(name, damaged), damaged)
    assert answer.status_code == 400 and "damaged" in answer.json()["detail"]
    large = bytes(100001)
    assert one.put(make_stream_id(name, large), large).status_code == 413
    stream = FeatureBitstream.from_bytes(data)
    foreign = FeatureBitstream(**{**vars(stream), "fingerprint": b"else"}).to_bytes()
    answer = one.put(make_stream_id(name, foreign), foreign)
    assert answer.status_code == 400 and "another model" in answer.json()["detail"]
    # An oversized body of no declared length, a client that stops in the middle, one that says nothing.
    chunks = (bytes(60000) for _ in range(2))
    assert httpx.put(f"http://{one.address}/v1/bitstreams/{identity}", content=chunks).status_code == 413
    head = f"PUT /v1/bitstreams/{identity} HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", one.port)) as slow:
        slow.sendall(head + data[:10])
        slow.settimeout(30)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", one.port)):
        assert one.put(identity, data).status_code == 200

    with (
        CloudClient(f"http://{one.address}/elsewhere") as client,
        pytest.raises(ValueError, match="answers 404"),
    ):
        client.send(identity, data)
    with CloudClient(one.address) as client, pytest.raises(RefusedError, match="damaged"):
        client.send(make_stream_id(name, damaged), damaged)
