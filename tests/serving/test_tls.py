"""TLS with certificates of our own: who is trusted, and what a handshake may take."""

import contextlib
import json
import re
import socket
import ssl
import time
from pathlib import Path

import certificates
import pytest
from servers import port_of, running

from d2_featcomp.serving import (
    ClientTls,
    CloudClient,
    CloudService,
    Sender,
    ServiceSettings,
    Spool,
    TlsFiles,
    WrongServerError,
)
from d2_featcomp.serving.transport import find_tls_problem, make_url

pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")
ROOT = Path(__file__).parents[2]
if not certificates.find_openssl():
    pytest.skip("the program openssl is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> path."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = certificates.Authority(folder), certificates.Authority(folder, "stranger")
    found = {"ca": authority.certificate, "stranger": stranger.certificate}
    for name, signer in (("server", authority), ("edge", authority), ("thief", stranger)):
        found[name], found[f"{name} key"] = signer.sign(name)
    return found


@pytest.fixture
def serve(network, tmp_path):
    with contextlib.ExitStack() as stack:

        def start(tls, **settings):
            service = CloudService(network, ServiceSettings(**settings), str(tmp_path / "results"))
            return port_of(stack.enter_context(running(service, tls=tls)))

        yield start


def send(spool, port, tls=None, scheme="https"):
    with CloudClient(
        f"{scheme}://127.0.0.1:{port}", tls=tls, attempts=2, sleep=lambda _: None
    ) as client:
        Sender(spool, client).send_waiting()


def test_a_server_with_a_certificate(serve, files, data, tmp_path, capsys):
    port = serve(TlsFiles(files["server"], files["server key"]))
    spool = Spool(str(tmp_path / "spool"))
    identity = spool.add("photo", data)
    for tls in (None, ClientTls(ca=files["stranger"])):
        with pytest.raises(WrongServerError, match=r"certificate is not trusted.*--ca-file"):
            send(spool, port, tls)
    send(spool, port, scheme="http")  # which it does not speak
    assert "Then give --connect https://" in capsys.readouterr().err
    assert spool.waiting() == [identity]
    send(spool, port, ClientTls(ca=files["ca"]))
    assert spool.waiting() == []


def test_a_server_without_tls_is_told_apart(serve, data, tmp_path):
    port = serve(None)
    spool = Spool(str(tmp_path / "spool"))
    spool.add("photo", data)
    with pytest.raises(
        WrongServerError, match=r"no TLS with.*answers without TLS: give --connect http://"
    ):
        send(spool, port)


def test_a_server_that_asks_for_certificates(serve, files, data, tmp_path, capsys):
    port = serve(TlsFiles(files["server"], files["server key"], files["ca"]))
    spool = Spool(str(tmp_path / "spool"))
    identity = spool.add("photo", data)
    for tls in (
        ClientTls(files["ca"]),
        ClientTls(files["ca"], files["thief"], files["thief key"]),
    ):
        send(spool, port, tls)
        assert "certificate, --client-cert?" in capsys.readouterr().err
    assert spool.waiting() == [identity]
    send(spool, port, ClientTls(files["ca"], files["edge"], files["edge key"]))
    assert spool.waiting() == []


def test_a_certificate_of_another_host(serve, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    authority = certificates.Authority(folder)
    cert, key = authority.sign("elsewhere", "DNS:elsewhere.example")
    port = serve(TlsFiles(cert, key))
    spool = Spool(str(tmp_path_factory.mktemp("spool")))
    spool.add("photo", data)
    with pytest.raises(
        WrongServerError, match=r"IP address mismatch.*--connect a name or address"
    ) as told:
        send(spool, port, ClientTls(authority.certificate))
    assert "--ca-file" not in str(told.value)


@pytest.mark.parametrize(
    "code, words",
    [
        *((10, "clock of this machine is wrong"), (9, "needs another one"), (64, "subjectAltName")),
        *((18, "--ca-file"), (20, "--ca-file")),
    ],
)
def test_what_to_do_about_a_certificate(code, words):
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "as OpenSSL says"
    outer = httpx.ConnectError("failed")
    outer.__cause__ = error
    assert words in find_tls_problem(outer) and "as OpenSSL says" in find_tls_problem(outer)


def test_the_health_check_of_the_image(serve, files, tmp_path):
    text = (ROOT / "docker" / "cloud.Dockerfile").read_text(encoding="utf-8")
    *_, code = json.loads(re.search(r"^HEALTHCHECK .*\n *CMD (.*)$", text, re.M)[1])
    for tls in (None, TlsFiles(files["server"], files["server key"])):
        port = serve(tls)
        exec(code.replace("8000", str(port)), {})
    port = serve(None)
    (tmp_path / "results").rename(tmp_path / "gone")
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        exec(code.replace("8000", str(port)), {})


def test_a_handshake_must_come_in_time(serve, files):
    """Before it, a connection is none that the limit of connections counts."""
    port = serve(TlsFiles(files["server"], files["server key"]), header_timeout=0.5)
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(20)
        ]
        idle[0].sendall(b"\x16\x03\x01")  # and no more
        start = time.monotonic()
        for client in idle:
            with contextlib.suppress(ConnectionError):
                assert client.recv(100) == b""
        assert time.monotonic() - start < 20
    context = ClientTls(files["ca"]).make_context()
    assert httpx.get(f"https://127.0.0.1:{port}/healthz", verify=context).status_code == 200


def test_old_versions_of_tls_are_refused(serve, files):
    port = serve(TlsFiles(files["server"], files["server key"]))
    context = ClientTls(files["ca"]).make_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://127.0.0.1:{port}/healthz", verify=context)


def test_files_that_do_not_fit(files, tmp_path):
    (tmp_path / "none.pem").write_text("nothing")
    none = str(tmp_path / "none.pem")
    nothing, missing = "holds no certificate", "private key is missing"
    for tls, words in (
        (TlsFiles(none), nothing),
        (TlsFiles(str(tmp_path / "missing.pem")), "No such file"),
        (TlsFiles(files["server"]), missing),
        (TlsFiles(files["server"], files["edge key"]), "key is of another certificate"),
        (TlsFiles(files["server"], files["server key"], none), nothing),
    ):
        with pytest.raises(ValueError, match=rf"no TLS with .*pem.*: .*{words}"):
            tls.check()
    for tls, words in (
        (ClientTls(none), nothing),
        (ClientTls(cert=none), nothing),
        (ClientTls(files["ca"], files["edge"]), missing),
    ):
        with pytest.raises(ValueError, match=rf"no TLS with .*pem.*: .*{words}"):
            tls.make_context()
    with pytest.raises(ValueError, match="--client-cert"):
        ClientTls(key=files["edge key"]).make_context()


def test_a_key_with_a_password(files, tmp_path):
    key = str(tmp_path / "locked.key")
    certificates.run("pkey", "-in", files["server key"], "-aes256", "-passout", "pass:a", "-out", key)
    with pytest.raises(ValueError, match=r"password.*openssl pkey"):
        TlsFiles(files["server"], key).check()


def test_certificates_go_with_https():
    tls = ClientTls(ca="ca.pem")
    assert make_url("cloud.example:8000", tls) == "https://cloud.example:8000"
    assert make_url("https://cloud.example", tls) == "https://cloud.example"
    with pytest.raises(ValueError, match="not encrypted"):
        make_url("http://cloud.example", tls)
