"""What a server tells besides results: each address, asked over HTTP."""

import contextlib
import html.parser
import json
import os
import time
import urllib.parse

import pytest
import torch
from gate import Gate
from servers import port_of, running

from d2_featcomp import __version__
from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.serving import CloudService, ServiceSettings, Tokens, http_server, make_stream_id
from d2_featcomp.serving.activity import COUNTED

pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")
from prometheus_client.openmetrics.parser import (  # noqa: E402
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_metrics  # noqa: E402


@pytest.fixture(scope="module")
def stream(network):
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(2)) * 255
    return network.edge_inference([{"image": image}])[0]


@pytest.fixture
def serve(network, tmp_path):
    """Starts a server; returns its service and a client of it."""
    with contextlib.ExitStack() as stack:

        def start(gate=None, tokens=None, **settings):
            options, folder = ServiceSettings(**settings), str(tmp_path / "results")
            about = {"network": "GeneralizedRCNN", "split": "MSFC"}
            names = ["a", {"id": 7, "name": "b"}]
            service = CloudService(gate or network, options, folder, names, about=about)
            port = port_of(stack.enter_context(running(service, tokens)))
            client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
            return service, stack.enter_context(client)

        yield start


def put(client, name, data):
    return client.put(f"/v1/bitstreams/{make_stream_id(name, data)}", content=data)


def test_a_result_can_be_got_again(serve, network, stream):
    gate = Gate(network)
    service, client = serve(gate)
    data = stream.to_bytes()
    address = f"/v1/bitstreams/{make_stream_id('photo', data)}"
    answer = client.get(address)
    assert answer.status_code == 404 and answer.json()["id"] == make_stream_id("photo", data)
    service.submit(make_stream_id("photo", data), data)
    answer = client.get(address)
    assert answer.status_code == 202 and answer.headers["retry-after"] == "1"
    gate.open.set()
    result = put(client, "photo", data).json()
    answer = client.get(address)
    assert answer.status_code == 200 and answer.json() == result
    malformed = client.get("/v1/bitstreams/photo")
    assert malformed.status_code == 400 and "give NAME-DIGEST" in malformed.json()["detail"]
    assert client.get("/v1/bitstreams/..%2F..%2Fetc%2Fpasswd").status_code in (400, 404)


def test_the_status_tells_what_has_happened(serve, stream, caplog):
    caplog.set_level("INFO", logger="d2_featcomp")
    http_server._FEWER_LINES._seen.clear()
    _, client = serve()
    data = stream.to_bytes()
    result = put(client, "photo", data).json()
    assert put(client, "photo", data).json() == result
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    assert put(client, "damaged", damaged).status_code == 400
    (line,) = (record.getMessage() for record in caplog.records if record.name == "d2_featcomp")
    assert line.startswith(
        f"127.0.0.1, '{make_stream_id('damaged', damaged)}': 400, feature bitstream is"
    )
    found = client.get("/v1/status").json()
    assert found["status"] == "ok" and found["queue"] == {"queued": 0, "waiting_bytes": 0, "size": 64}
    assert {name: n for name, n in found["counts"].items() if n} == {
        "accepted": 1,
        "done": 1,
        "repeated": 1,
        "refused": 1,
        "batches": 1,
        "bytes": len(data),
    }
    (row,) = found["clients"]
    assert (row["client"], row["results"], row["failures"]) == ("127.0.0.1", 2, 1)
    (row,) = found["results"]
    assert row["id"] == result["id"] and row["bytes"] == len(data)
    assert row["instances"] == len(result["instances"])
    (failure,) = found["failures"]
    assert failure["code"] == 400 and "damaged" in failure["detail"]
    picture = client.get(f"/v1/bitstreams/{result['id']}/picture?threshold=0")
    assert picture.headers["content-type"] == "image/webp" and picture.content[:4] == b"RIFF"
    for query, code in (("threshold=2", 422), ("threshold=x", 422), ("threshold=nan", 422)):
        assert client.get(f"/v1/bitstreams/{result['id']}/picture?{query}").status_code == code
    assert client.get("/v1/bitstreams/none/picture").status_code == 404


def test_the_model(serve, stream):
    service, client = serve(score_threshold=0.25)
    found = client.get("/v1/model").json()
    assert found["fingerprint"] == stream.fingerprint.hex() == service.about["fingerprint"]
    assert found["classes"] == ["a", "b"] and found["version"] == __version__
    assert found["split"] == "MSFC" and found["score_threshold"] == 0.25


def read_samples(families):
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("openmetrics", [False, True])
def test_metrics_as_prometheus_reads_them(serve, stream, openmetrics):
    _, client = serve()
    data = stream.to_bytes()
    put(client, "photo", data)
    put(client, "damaged", data[:-1])
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"} if openmetrics else {}
    answer = client.get("/metrics", headers=headers)
    kind = "application/openmetrics-text" if openmetrics else "text/plain"
    assert answer.headers["content-type"].startswith(kind)
    families = list((read_openmetrics if openmetrics else read_metrics)(answer.text))
    assert all(family.documentation for family in families)
    own = {family.name: family.type for family in families if family.name.startswith("d2_featcomp")}
    assert {f"d2_featcomp_{name}" for name in COUNTED} <= own.keys()
    assert own["d2_featcomp_latency_seconds"] == "histogram" and own["d2_featcomp_queued"] == "gauge"
    samples = read_samples(families)
    assert samples["d2_featcomp_done_total", ()] == samples["d2_featcomp_refused_total", ()] == 1
    for name in ("latency_seconds", "cloud_seconds", "bitstream_bytes", "batch_size"):
        buckets = [v for (key, _), v in samples.items() if key == f"d2_featcomp_{name}_bucket"]
        assert buckets == sorted(buckets) and buckets[-1] == 1
        assert samples[f"d2_featcomp_{name}_count", ()] == 1
    assert samples["d2_featcomp_bitstream_bytes_sum", ()] == len(data)
    requests = {
        labels: v for (name, labels), v in samples.items() if name == "d2_featcomp_requests_total"
    }
    who = ("client", "127.0.0.1")
    assert requests == {(who, ("code", "200")): 1, (who, ("code", "400")): 1}
    (about,) = (dict(labels) for name, labels in samples if name == "d2_featcomp_model_info")
    assert about["fingerprint"] == stream.fingerprint.hex()
    assert any(name == "process_resident_memory_bytes" for name, _ in samples)


class Addresses(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href")]


def test_the_documents_need_no_other_server(serve):
    _, client = serve(tokens=Tokens({"secret-0123456789": None}))
    client.auth = ("", "secret-0123456789")
    text = client.get("/docs").text
    found = [address for address in Addresses(text).found if not address.startswith("data:")]
    assert len(found) >= 2
    for address in found:
        assert urllib.parse.urlsplit(address).netloc == "" and client.get(address).status_code == 200
    described = client.get("/openapi.json").json()
    methods = {(path, method) for path, of in described["paths"].items() for method in of}
    one = "/v1/bitstreams/{identity}"
    assert methods == {
        *((one, "put"), (one, "get"), (f"{one}/picture", "get"), ("/healthz", "get")),
        *(("/v1/status", "get"), ("/v1/model", "get"), ("/metrics", "get")),
    }
    upload = described["paths"][one]["put"]
    assert "application/octet-stream" in upload["requestBody"]["content"]
    assert {"200", "400", "409", "413", "429", "503", "504"} <= upload["responses"].keys()
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    page = client.get("/")
    assert Addresses(page.text).found and all(
        not address.startswith(("http", "//", "/")) for address in Addresses(page.text).found
    )
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_errors_tell_nothing_of_the_machine(serve, network, stream, tmp_path):
    class Broken(Gate):
        def decode(self, stream):
            raise RuntimeError(f"no memory at {tmp_path}")

    _, client = serve(Broken(network))
    data = stream.to_bytes()
    foreign = FeatureBitstream(**{**vars(stream), "fingerprint": b"else"}).to_bytes()
    answers = [
        put(client, "broken", data),
        put(client, "foreign", foreign),
        put(client, "damaged", data[:-1]),
        client.put("/v1/bitstreams/none", content=data),
        client.get("/none"),
        client.post("/v1/status"),
        client.get("/static-offline-docs/../../setup.py"),
    ]
    os.rename(tmp_path / "results", tmp_path / "gone")
    answers.append(client.get("/healthz"))
    codes = [answer.status_code for answer in answers]
    assert codes == [500, 400, 400, 400, 404, 405, 404, 503]
    for answer in answers:
        told = json.dumps([answer.text, *answer.headers.multi_items()])
        assert "/" not in answer.text and "Traceback" not in told and "uvicorn" not in told.lower()
        assert str(tmp_path) not in told and "memory" not in told


def test_status_and_health_tell_the_same(serve, tmp_path):
    service, client = serve()

    def ask():
        return client.get("/healthz"), client.get("/v1/status").json()

    health, status = ask()
    assert (health.status_code, health.json()["status"], status["status"]) == (200, "ok", "ok")
    os.rename(tmp_path / "results", tmp_path / "gone")
    service.folder._probed = float("-inf")  # else it is tried once a second
    health, status = ask()
    assert health.status_code == 503 and health.json() == {
        "status": "failing",
        "detail": "results cannot be written: No such file or directory",
    }
    assert status.items() >= health.json().items()
    service.stop()
    health, status = ask()
    assert health.status_code == 503 and health.json() == {"status": "stopping"}
    assert status["status"] == "stopping"


def test_pictures_do_not_stop_the_answers(serve, network, stream, monkeypatch):
    """While one is drawn, for as long as it takes, bitstreams are answered."""
    from d2_featcomp.serving import gallery

    drawn = []

    def slow(*arguments):
        drawn.append(time.monotonic())
        time.sleep(2)
        raise ValueError("never")

    monkeypatch.setattr(gallery, "draw_on_features", slow)
    _, client = serve()
    data = stream.to_bytes()
    result = put(client, "photo", data).json()
    client.get("/v1/status")
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.Client(base_url=client.base_url, timeout=0.2) as impatient,
    ):
        impatient.get(f"/v1/bitstreams/{result['id']}/picture")
    assert put(client, "second", data).status_code == 200
    assert len(drawn) == 1
    answer = client.get(f"/v1/bitstreams/{result['id']}/picture")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "3"
