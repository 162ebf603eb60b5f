"""featcomp serve and featcomp edge as processes: with tokens, TLS and a least score."""

import json
import os
import re
import signal
import socket
import time

import certificates
import processes
import pytest
from deployed import CONFIG, IMAGES, OPTS, arguments, call, free_port

from d2_featcomp.arguments import parse_arguments
from d2_featcomp.cli import serve
from d2_featcomp.cli.program import CommandParser
from d2_featcomp.serving import ClientTls

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
NORTH, READER, SOUTH = "north-0123456789", "reader-0123456789", "south-0123456789"


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"north {NORTH}\n{READER}\n")
    return path


MISTAKES = [
    ((), r"other machines can reach 0.0.0.0.*--token-file.*--allow-anonymous"),
    (("--token-file", "missing"), "missing"),
    (("--allow-anonymous", "--tls-key", "k.pem"), "go with --tls-cert"),
    (("--allow-anonymous", "--tls-cert", "missing.pem"), "no TLS with missing.pem"),
    (("--allow-anonymous", "--score-threshold", "2"), "from 0 to 1"),
]


@pytest.mark.parametrize("options, words", MISTAKES)
def test_it_says_what_is_missing(root, tmp_path, options, words):
    """Before it reads the weights, and makes anything."""
    parser = CommandParser()
    serve.add_arguments(parser)
    weights = ("--config-file", CONFIG, "--weights", str(tmp_path / "none.pth"), *OPTS)
    address = ("--address", "0.0.0.0:0", "--output", str(tmp_path / "results"))
    args = parse_arguments(parser, [*weights, *address, *options])
    with pytest.raises((ValueError, OSError), match=words):
        serve.run(args)
    assert not (tmp_path / "results").exists()


def test_a_port_that_is_taken_is_told(root, tmp_path):
    """Before the network is loaded, which takes long."""
    parser = CommandParser()
    serve.add_arguments(parser)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = ("--address", f"127.0.0.1:{taken.getsockname()[1]}", "--output", str(tmp_path / "new"))
        weights = ("--config-file", CONFIG, "--weights", str(tmp_path / "none.pth"), *OPTS)
        args = parse_arguments(parser, [*weights, *address])
        with pytest.raises(ValueError, match=r"no server can listen at 127.0.0.1:\d+ \(address already"):
            serve.run(args)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    """Before the network is loaded; permissions would not stop every user."""
    parser = CommandParser()
    serve.add_arguments(parser)
    (tmp_path / "file").touch()
    weights = ("--config-file", CONFIG, "--weights", str(tmp_path / "none.pth"), *OPTS)
    args = parse_arguments(parser, [*weights, "--address", "127.0.0.1:0"])
    for folder in (f"{tmp_path}/file/results", f"{tmp_path}/file", "/proc/self"):
        args.output = folder
        with pytest.raises(ValueError, match=rf"cannot be written into '{folder}' \([a-z ]+\): choose"):
            serve.run(args)


def test_a_server_for_anybody_is_refused(root, tmp_path):
    address = ("--serve", f"0.0.0.0:{free_port()}", "--output", tmp_path / "results")
    status, _, errors = call(root, "cloud", *address)
    assert status == 2 and re.search(MISTAKES[0][1], errors) and "Traceback" not in errors
    assert errors.count("\n") == 1


def start_server(root, tmp_path, *options):
    """The process, and its port."""
    port = free_port()
    more = ("--serve", f"0.0.0.0:{port}", "--output", tmp_path / "results", *options)
    return processes.start("tools/cloud.py", arguments(root, "cloud", *more), tmp_path / "server"), port


def test_tokens_and_certificates_between_processes(root, tokens, tmp_path):
    if not certificates.find_openssl():
        pytest.skip("the program openssl is not installed")
    authority = certificates.Authority(tmp_path)
    cert, key = authority.sign("server")
    edge_cert, edge_key = authority.sign("edge")
    running, port = start_server(
        *(root, tmp_path, "--token-file", tokens, "--tls-cert", cert, "--tls-key", key),
        *("--tls-client-ca", authority.certificate, "--client-rate", 5),
    )
    context = ClientTls(authority.certificate, edge_cert, edge_key).make_context()
    try:
        deadline = time.monotonic() + 120
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context) as client:
            while time.monotonic() < deadline and running.process.is_alive():
                try:
                    if client.get("/healthz").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.05)
            more = ("--connect", f"127.0.0.1:{port}", "--spool", tmp_path / "spool")
            trusted = ("--ca-file", authority.certificate, "--client-cert", edge_cert)
            trusted = (*trusted, "--client-key", edge_key)
            status, _, errors = call(root, "edge", "--input", root / "photos", *more, *trusted)
            assert status == 2 and "--token-file" in errors and "Traceback" not in errors
            status, told, errors = call(root, "edge", *more, *trusted, "--token-file", tokens)
            assert status == 0 and "0 refused, 0 waiting" in told, errors
            status, told, errors = call(
                *(root, "edge", "--input", root / "photos", *more, *trusted),
                *("--token-file", tokens, "--output", tmp_path / "answers"),
            )
            assert status == 0 and f"{IMAGES} sent, 0 refused, 0 waiting" in told, errors
            assert client.get("/v1/status").status_code == 401
            found = client.get("/v1/status", auth=("", READER)).json()
            tokens.write_text(f"south {SOUTH}\n")  # which is read again while the server runs
            while client.get("/v1/model", auth=("", SOUTH)).status_code == 401:
                assert time.monotonic() < deadline
                time.sleep(0.3)
            assert client.get("/v1/model", auth=("", NORTH)).status_code == 401
        (row,) = (row for row in found["clients"] if row["client"] == "north")
        assert row["results"] >= IMAGES and found["counts"]["done"] == IMAGES
    finally:
        os.kill(running.process.pid, signal.SIGTERM)
        status, told, errors = running.wait()
    assert status == 0 and not any(token in told + errors for token in (NORTH, READER, SOUTH))
    assert "takes bitstreams of model" in told and "127.0.0.1: 401, no valid token" in told
    assert "can be read on the way" not in errors


def test_a_server_for_anybody(root, tmp_path):
    running, port = start_server(root, tmp_path, "--allow-anonymous", "--score-threshold", "0.99")
    try:
        deadline = time.monotonic() + 120
        more = ("--connect", f"127.0.0.1:{port}", "--spool", tmp_path / "spool", "--attempts", 60)
        status, _, errors = call(
            root, "edge", "--input", root / "photos", *more, "--output", tmp_path / "answers"
        )
        assert status == 0 and time.monotonic() < deadline, errors
    finally:
        os.kill(running.process.pid, signal.SIGTERM)
        status, _, errors = running.wait()
    assert status == 0 and "without --tls-cert" in errors
    answers = [path for path in (tmp_path / "answers").iterdir() if "-" in path.name]
    assert len(answers) == IMAGES
    for path in answers:  # a network that learned nothing is sure of nothing
        assert json.loads(path.read_text())["instances"] == []


def test_a_least_score_in_files(root, expected, tmp_path):
    call(root, "edge", "--input", root / "photos", "--output", tmp_path / "out")
    scores = sorted(entry["score"] for result, _ in expected.values() for entry in result["instances"])
    least = scores[len(scores) // 2]
    more = ("--output", tmp_path / "results", "--score-threshold", repr(least - 1e-9))
    status, _, errors = call(root, "cloud", "--input", tmp_path / "out", *more)
    assert status == 0, errors
    found = []
    for name, (result, _) in expected.items():
        entries = json.loads((tmp_path / "results" / f"{name}.json").read_text())["instances"]
        assert len(entries) == sum(entry["score"] >= least for entry in result["instances"])
        found += entries
    assert 0 < len(found) < len(scores)
    assert len(json.loads((tmp_path / "results" / "results.json").read_text())) == len(found)
