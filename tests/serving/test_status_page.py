"""The page of a server in a browser: what it shows of several clients, live."""

import contextlib

import browser
import pytest
import torch
from servers import port_of, running

from d2_featcomp.serving import CloudClient, CloudService, ServiceSettings, Tokens, make_stream_id

pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")
if browser.find_programs() is None:
    pytest.skip("Chromium and chromedriver are not installed", allow_module_level=True)

TOKENS = {"north-0123456789": "north", "south-0123456789": "<b>south</b>"}
READER = "reader-0123456789"
LOADED = "[...document.images].filter(one => one.complete && one.naturalWidth).length"


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser.start_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def data(network):
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(2)) * 255
    return network.edge_inference([{"image": image}])[0].to_bytes()


@pytest.fixture
def port(network, tmp_path, monkeypatch):
    monkeypatch.setattr("d2_featcomp.serving.gallery.SHOWN_FOR", 0.5)
    service = CloudService(network, ServiceSettings(), str(tmp_path / "results"))
    with running(service, Tokens({**TOKENS, READER: None})) as listening:
        yield port_of(listening)


def send(port, token, *bitstreams):
    with CloudClient(f"127.0.0.1:{port}", token=token) as client:
        for name, data in bitstreams:
            with contextlib.suppress(ValueError):  # of a damaged one
                client.send(make_stream_id(name, data), data)


def texts(window, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map(one => one.innerText)"
    return window.run(script, selector)


def test_the_page_follows_what_happens(window, port, data):
    window.resize(1280, 1000)
    window.open(f"http://anybody:{READER}@127.0.0.1:{port}/")
    window.wait_for("document.getElementById('state').textContent === 'running'")
    assert "No result yet" in texts(window, "#results")[0]
    north, south = TOKENS
    send(port, north, ("one", data), ("two", data), ("bad", data[:-1]))
    send(port, south, ("<i>three</i>", data))
    window.wait_for("document.querySelectorAll('#results figure').length === 3")
    window.wait_for(f"{LOADED} === 3")
    assert sorted(texts(window, "figcaption b")) == ["<i>three</i>", "one", "two"]
    rows = [row.split("\t") for row in texts(window, "#clients tr")]
    found = {row[0]: (row[2], row[3]) for row in rows}
    assert found == {"north": ("2", "1"), "<b>south</b>": ("1", "0")}
    failure = texts(window, "#failures tr")[0]
    assert "north" in failure and "400" in failure and "damaged" in failure
    cards = " ".join(texts(window, "#cards"))
    assert "3 in all" in cards and "of 64" in cards
    # A client alone; and other pictures at another score.
    window.run("const m = document.getElementById('client'); m.value = 'north'; m.onchange()")
    assert sorted(texts(window, "figcaption b")) == ["one", "two"]
    slider = "const s = document.getElementById('threshold'); s.value = 0"
    window.run(f"{slider}; s.dispatchEvent(new Event('input'))")
    window.wait_for(f"[...document.images].every(one => one.src.endsWith('=0.00')) && {LOADED} === 2")
    assert window.errors() == []
    assert window.run("return document.querySelectorAll('main b i, main b b').length") == 0


@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_is_wider_than_the_window(window, port, data, width):
    send(port, next(iter(TOKENS)), (f"a_{'long' * 40}", data), ("bad", data[:-1]))
    window.resize(width, 800)
    window.open(f"http://anybody:{READER}@127.0.0.1:{port}/")
    window.wait_for("document.querySelectorAll('#results figure').length === 1")
    assert window.run("return document.documentElement.scrollWidth") <= width
    window.resize(1280, 1000)


def test_seconds_without_neighbours_are_dots(window, port):
    window.open(f"http://anybody:{READER}@127.0.0.1:{port}/")
    window.run("draw(document.getElementById('latency'), [[3, null, 3], [3, 3, null]], String, '')")
    dots = window.run("return [...document.querySelectorAll('#latency .dot')].map(one => one.outerHTML)")
    assert len(dots) == 1 and dots[0].count("h0") == 2 and "second" not in dots[0]


def test_light_and_dark(window, port):
    window.open(f"http://anybody:{READER}@127.0.0.1:{port}/")
    grounds = []
    for scheme in ("light", "dark"):
        window.prefer(scheme)
        grounds.append(window.run("return getComputedStyle(document.body).backgroundColor"))
    window.prefer("light")
    light, dark = (sum(map(int, ground[4:-1].split(","))) for ground in grounds)
    assert light > 600 and dark < 150


def test_a_server_that_goes_is_told(window, network, tmp_path):
    service = CloudService(network, ServiceSettings(), str(tmp_path))
    with running(service) as listening:
        window.open(f"http://127.0.0.1:{port_of(listening)}/")
        window.wait_for("document.getElementById('state').textContent === 'running'")
    window.wait_for("document.getElementById('state').textContent.includes('does not answer')")
    window.errors()  # of the requests that failed


def test_the_description_of_requests_is_shown(window, port):
    window.open(f"http://anybody:{READER}@127.0.0.1:{port}/")  # which tells the token
    window.open(f"http://127.0.0.1:{port}/docs")
    window.wait_for("document.querySelectorAll('.opblock').length === 7")
    assert "Authorize" in window.run("return document.body.innerText")
    assert window.errors() == []
