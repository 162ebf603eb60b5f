"""Who may use a server: files of tokens, and requests with and without one."""

import base64

import pytest
from servers import port_of, running

from d2_featcomp.serving import (
    AccessDeniedError,
    CloudClient,
    CloudService,
    Sender,
    ServiceSettings,
    Spool,
    TokenFile,
    Tokens,
    http_server,
    make_stream_id,
    read_tokens,
)
from d2_featcomp.serving.access import find_client, is_loopback

pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")
NORTH, OTHER, WRONG = "north-0123456789", "other-0123456789", "wrong-0123456789"


@pytest.fixture(scope="module")
def service(network, tmp_path_factory):
    return CloudService(network, ServiceSettings(), str(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def address(service):
    with running(service, Tokens({NORTH: "north", OTHER: None})) as listening:
        yield f"127.0.0.1:{port_of(listening)}"


def test_a_file_of_tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# who\n\nnorth\t{NORTH}  \n{OTHER}\n")
    assert read_tokens(str(path)) == {NORTH: "north", OTHER: None}


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "holds no token.*token_urlsafe"),
        ("# only\n", "holds no token"),
        ("a b c-secret-0123456789", "line 1 is neither"),
        ("\nsecrét-0123456789", "line 2 is neither"),
        ("secret-012345678", None),
        ("secret-01234567", "line 1 has a token of fewer than 16"),
        ("secret-012345678\na secret-012345678", "line 2 has a token that is there"),
    ],
)
def test_files_of_tokens_with_mistakes(tmp_path, text, words):
    path = tmp_path / "tokens"
    path.write_text(text, encoding="utf-8")
    if words is None:
        assert len(read_tokens(str(path))) == 1
        return
    with pytest.raises(ValueError, match=words) as told:
        read_tokens(str(path))
    assert "secr" not in str(told.value).replace("import secrets", "").replace("secrets.token", "")


def test_only_digests_of_tokens_are_kept():
    tokens = Tokens({NORTH: "north", OTHER: None})
    assert NORTH not in repr(vars(tokens))
    assert tokens.find(NORTH) == (True, "north") and tokens.find(OTHER) == (True, None)
    assert tokens.find(WRONG) == tokens.find("") == (False, None)


def test_tokens_change_while_a_server_runs(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("d2_featcomp.serving.access._READ_PERIOD", -1.0)
    caplog.set_level("INFO", logger="d2_featcomp")
    path = tmp_path / "tokens"
    path.write_text(f"north {NORTH}\n")
    tokens = TokenFile(str(path))
    assert tokens.find(NORTH) == (True, "north") and tokens.find(OTHER) == (False, None)
    assert not caplog.messages
    path.write_text(f"south {NORTH}\n{OTHER}\n")
    assert tokens.find(NORTH) == (True, "south") and tokens.find(OTHER) == (True, None)
    assert "holds 2 tokens now" in caplog.messages[-1] and len(caplog.messages) == 1
    path.write_text("too short\n")
    for _ in range(3):
        assert tokens.find(NORTH) == (True, "south")
    assert "line 1 has a token of fewer" in caplog.messages[-1] and len(caplog.messages) == 2
    path.unlink()
    assert tokens.find(NORTH) == (True, "south") and "No such file" in caplog.messages[-1]
    path.write_text(f"{OTHER}\n")
    assert tokens.find(NORTH) == (False, None) and tokens.find(OTHER) == (True, None)
    assert NORTH not in caplog.text and OTHER not in caplog.text


def test_a_file_of_tokens_is_not_read_all_the_time(tmp_path, monkeypatch):
    path = tmp_path / "tokens"
    path.write_text(f"{NORTH}\n")
    tokens = TokenFile(str(path))
    path.write_text(f"{OTHER}\n")
    monkeypatch.setattr("d2_featcomp.serving.access._READ_PERIOD", 1e9)
    assert tokens.find(NORTH) == (True, None)


@pytest.mark.parametrize(
    "host, found",
    [
        *(("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True)),
        *(("0.0.0.0", False), ("::", False), ("192.0.2.1", False)),
    ],
)
def test_hosts_that_only_this_machine_reaches(host, found):
    assert is_loopback(host) == found


def test_a_host_that_is_none():
    with pytest.raises(ValueError, match="no host"):
        is_loopback("a" * 70)


PATHS = ["/", "/v1/status", "/v1/model", "/metrics", "/docs", "/openapi.json", "/none", "//healthz"]


@pytest.mark.parametrize("path", [*PATHS, "/healthz/", "/static-offline-docs/swagger-ui.css"])
def test_all_but_health_needs_a_token(address, service, path):
    url = f"http://{address}{path}"
    before = service.metrics()["unauthorized"]
    with httpx.Client() as client:
        for headers in (
            {},
            {"Authorization": NORTH},
            {"Authorization": f"Bearer {WRONG}"},
            {"Authorization": "Basic ???"},
            {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
            {"Authorization": "Basic " + base64.b64encode(NORTH.encode()).decode()},
        ):
            answer = client.get(url, headers=headers)
            assert answer.status_code == 401 and "token" in answer.json()["detail"]
            challenges = answer.headers.get_list("www-authenticate")
            assert [one.split()[0] for one in challenges] == ["Bearer", "Basic"]
        known = {200: 0, 404: 0, 307: 0}
        for token in (NORTH, OTHER):
            assert client.get(url, headers={"Authorization": f"bearer  {token}"}).status_code in known
            assert client.get(url, auth=("anybody", token)).status_code in known
        assert client.get(f"http://{address}/healthz").json() == {"status": "ok"}
    assert service.metrics()["unauthorized"] == before + 6


def test_a_large_upload_without_a_token_is_told_why(address, service, caplog):
    caplog.set_level("INFO", logger="d2_featcomp")
    http_server._FEWER_LINES._seen.clear()
    before = service.metrics()
    large = bytes(2**22)
    url = f"http://{address}/v1/bitstreams/{make_stream_id('a', large)}"
    assert httpx.put(url, content=large, timeout=30).status_code == 401
    after = service.metrics()
    assert {name for name in after if after[name] != before[name]} == {"unauthorized"}
    told = [record.getMessage() for record in caplog.records if record.name == "d2_featcomp"]
    assert told == ["127.0.0.1: 401, no valid token"]


@pytest.mark.parametrize("token", [None, WRONG])
def test_an_edge_without_a_valid_token_keeps_its_bitstreams(address, data, tmp_path, token):
    spool = Spool(str(tmp_path))
    identity = spool.add("photo", data)
    with CloudClient(address, token=token) as client:
        sender = Sender(spool, client)
        with pytest.raises(AccessDeniedError, match="--token-file") as told:
            sender.send_waiting()
    assert spool.waiting() == [identity] and WRONG not in str(told.value)
    with CloudClient(address, token=NORTH) as client:
        Sender(spool, client).send_waiting()
    assert spool.waiting() == []
    rows = httpx.get(f"http://{address}/v1/status", auth=("", OTHER)).json()["clients"]
    assert "north" in [row["client"] for row in rows]


def test_what_a_client_is_called():
    assert find_client({"client": ("192.0.2.1", 80)}) == "192.0.2.1"
    assert find_client({"client": ("192.0.2.1", 80), "d2_featcomp.client": "north"}) == "north"
    assert find_client({"client": ("192.0.2.1", 80), "d2_featcomp.client": None}) == "192.0.2.1"
    assert find_client({"client": ("\n" + 100 * "a", 80)}) == "?" + 63 * "a"
    assert find_client({}) == "unknown"


def test_what_is_sent_in_the_clear():
    for address, private in (
        ("127.0.0.1:80", True),
        ("[::1]:80", True),
        ("192.0.2.1:80", False),
        ("https://192.0.2.1", True),
    ):
        with CloudClient(address) as client:
            assert client.is_private() == private
