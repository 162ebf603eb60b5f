"""The same service on Ray Serve: two replicas behind one address."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import yaml

from d2_featcomp.engine import export_sub_models
from d2_featcomp.serving import CloudClient, make_stream_id, ray_app

httpx = pytest.importorskip("httpx")
FILE = "projects/MSFC/deployment/ray_serve.yaml"


def test_the_arguments_are_checked():
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="give output, weights and"):
        ray_app({"weights": "cloud.pth"})
    with pytest.raises(ValueError, match="replicas"):
        ray_app({"weights": "b", "output": "c", "replica": 2})


def test_the_deployment_file_names_what_there_is():
    with open(FILE, encoding="utf-8") as file:
        (app,) = yaml.safe_load(file)["applications"]
    module, name = app["import_path"].split(":")
    assert module == "d2_featcomp.serving" and name == ray_app.__name__
    assert {"weights", "output"} < app["args"].keys()


@pytest.mark.slow
def test_two_replicas(random_network, configured, tmp_path):
    pytest.importorskip("ray")
    network = random_network("msfc")
    torch.save({"model": network.state_dict()}, tmp_path / "whole.pth")
    cfg = configured("msfc", tmp_path / "whole.pth")
    halves = export_sub_models(cfg, str(tmp_path))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(FILE, encoding="utf-8") as file:
        deployment = yaml.safe_load(file)
    deployment["http_options"]["port"] = port
    deployment["applications"][0]["args"].update(
        weights=halves["cloud"],
        output=str(tmp_path / "results"),
        cpus=0.5,
        opts="MODEL.FEATCOMP.SERVER.MAX_WAIT 20",
    )
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(deployment))
    run = "from ray.serve.scripts import cli; cli()"
    with (
        open(tmp_path / "log", "w") as log,
        subprocess.Popen(
            [sys.executable, "-c", run, "run", str(tmp_path / "serve.yaml")],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_for(process, port)
            send_all(network, port, tmp_path / "results")
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(process, port):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                return
        time.sleep(0.5)
    raise AssertionError("Ray Serve did not start")


def send_all(network, port, results):
    generator = torch.Generator().manual_seed(3)
    streams = [
        network.edge_inference([{"image": torch.rand(3, 64, side, generator=generator) * 255}])[0]
        for side in (64, 96, 128)
    ]
    jobs = [
        (make_stream_id(f"image{n}", data), data)
        for n, data in enumerate(stream.to_bytes() for stream in streams * 8)
    ]
    with (
        CloudClient(f"127.0.0.1:{port}", timeout=120) as client,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda job: client.send(*job)[0], jobs))
        again = list(pool.map(lambda job: client.send(*job)[0], jobs))
    for (identity, _), first, second in zip(jobs, answers, again, strict=True):
        assert first["image_id"] == identity and first == second
        assert json.loads((results / f"{identity}.json").read_text()) == first
    assert len(os.listdir(results)) == len(jobs)
    # Each replica tells its own count; asked often enough, both answer.
    counts = set()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and counts != {len(jobs) // 2} and len(counts) < 2:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        counts.add(int(float(re.search(r"^d2_featcomp_done_total (.+)$", text, re.M)[1])))
    assert min(counts) > 0 and (sum(counts) == len(jobs) or counts == {len(jobs) // 2})
