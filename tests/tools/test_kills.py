"""Edge and cloud are killed at any moment: nothing is lost, and nothing is computed twice."""

import concurrent.futures
import json
import os
import random
import signal
import threading
import time

import pytest
from deployed import IMAGES, call, free_port, start

from d2_featcomp.serving import CloudClient, Spool, make_stream_id

pytest.importorskip("httpx")
pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
KILLS = [2, pytest.param(30, marks=pytest.mark.slow)]


def results_in(folder):
    """Name of each result file -> what tells whether it was written again."""
    found = {}
    for entry in os.scandir(folder):
        # Not the two that are of all of them together.
        if entry.name.endswith(".json") and entry.name not in ("images.json", "results.json"):
            about = entry.stat()
            found[entry.name[: -len(".json")]] = about.st_ino, about.st_mtime_ns
    return found


@pytest.mark.parametrize("kills", KILLS)
def test_of_the_server_in_the_middle_of_batches(expected, server, tmp_path, kills):
    folder, port = tmp_path / "results", free_port()
    ((_, data), *_) = expected.values()
    jobs = {make_stream_id(f"image{n}", data): data for n in range(20 + 8 * kills)}
    stopped = threading.Event()

    def send(job):
        with CloudClient(f"127.0.0.1:{port}", timeout=30, attempts=1, backoff=0.01) as client:
            while not stopped.is_set():
                if (answer := client.send(*job)) is not None:
                    return answer[0]
                time.sleep(0.02)

    one = server(port=port)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        try:
            answers = {identity: pool.submit(send, (identity, data)) for identity in jobs}
            written = {}
            for _ in range(kills):
                before = len(written)
                while len(results_in(folder)) < min(before + 4, len(jobs)):
                    time.sleep(0.001)
                one.stop(signal.SIGKILL)
                now = results_in(folder)
                assert all(now[name] == about for name, about in written.items())
                written = now
                one = server(port=port)
            answers = {identity: future.result(120) for identity, future in answers.items()}
        finally:
            stopped.set()
    assert len(written) < len(jobs)  # the last kill came before the end
    now = results_in(folder)
    assert now.keys() == jobs.keys() and all(now[name] == about for name, about in written.items())
    for identity, answer in answers.items():
        assert answer["id"] == identity
        assert json.loads((folder / f"{identity}.json").read_text()) == answer
    assert one.metric("done_total") == len(jobs) - len(written)


@pytest.mark.parametrize("kills", KILLS)
def test_of_the_edge(root, expected, server, tmp_path, kills):
    one = server()
    spool = tmp_path / "spool"
    more = ("--connect", one.address, "--spool", spool, "--output", tmp_path / "answers")
    delays = random.Random(0)
    for _ in range(kills):
        edge = start(root, "edge", "--input", root / "photos", *more)
        progress = delays.randrange(IMAGES)  # results after which it is killed, a little later
        deadline = time.monotonic() + 60
        while (
            edge.process.is_alive()
            and len(results_in(tmp_path / "results")) < progress
            and time.monotonic() < deadline
        ):
            time.sleep(0.001)
        time.sleep(delays.uniform(0.0, 0.5))
        edge.kill()
        waiting = Spool(str(spool)).waiting()
        assert set(waiting) <= {make_stream_id(name, data) for name, (_, data) in expected.items()}
        for identity in waiting:  # whole, whenever it was killed
            name = Spool(str(spool)).name(identity)
            assert Spool(str(spool)).read(identity) == expected[name][1]
    status, told, errors = call(root, "edge", "--input", root / "photos", *more)
    assert status == 0, errors
    assert "0 refused, 0 waiting" in told
    ids = {make_stream_id(name, data) for name, (_, data) in expected.items()}
    assert results_in(tmp_path / "results").keys() == results_in(tmp_path / "answers").keys() == ids
    assert one.metric("done_total") == IMAGES and one.metric("errors_total") == 0
    assert one.metric("refused_total") == 0
