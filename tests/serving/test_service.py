"""The service under any order of uploads, damage and restarts; and its batches."""

import concurrent.futures
import json
import os
import tempfile
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_featcomp.codecs import BitstreamError, FeatureBitstream
from d2_featcomp.serving import BusyError, CloudService, ServiceSettings, result_of, stream_id

STREAMS = 4
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("upload"), st.integers(0, STREAMS - 1)),
        st.tuples(st.just("damaged"), st.integers(0, STREAMS - 1)),
        st.tuples(st.just("foreign id"), st.integers(0, STREAMS - 1)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def network(random_network):
    return random_network("msfc")


@pytest.fixture(scope="module")
def sent(network):
    """list of (id, bytes)."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for index in range(STREAMS):
        image = torch.rand(3, 32, 32 + 32 * (index % 2), generator=generator) * 255
        data = network.edge_inference([{"image": image}])[0].to_bytes()
        found.append((stream_id(f"image{index}", data), data))
    assert len({data for _, data in found}) > 1
    return found


@settings(max_examples=15, deadline=None)
@given(steps=STEPS, max_batch=st.integers(1, 4))
def test_any_order_of_uploads_and_restarts(network, sent, steps, max_batch):
    with tempfile.TemporaryDirectory() as folder:
        options = ServiceSettings(max_batch=max_batch, max_wait=0.001)
        services = [CloudService(network, options, folder)]
        futures, done = [], 0
        for step, index in steps:
            identity, data = sent[index]
            if step == "upload":
                futures.append((identity, services[-1].submit(identity, data)))
            elif step == "damaged":
                damaged = data[:-1] + bytes([data[-1] ^ 1])
                with pytest.raises(BitstreamError):
                    services[-1].submit(stream_id("image", damaged), damaged)
            elif step == "foreign id":
                with pytest.raises(FileExistsError):
                    services[-1].submit(identity, data + b"more")
            else:
                services[-1].stop()
                with pytest.raises(BusyError):
                    services[-1].submit(stream_id("late", data), data)
                services.append(CloudService(network, options, folder))
        services[-1].stop()
        done = sum(service.metrics()["done"] for service in services)
        ids = {identity for identity, _ in futures}
        assert done == len(ids)  # each computed once
        assert {name for name in os.listdir(folder) if name.endswith(".json")} == {
            f"{identity}.json" for identity in ids
        }
        for identity, future in futures:
            result, _ = future.result(timeout=0)
            with open(os.path.join(folder, f"{identity}.json"), encoding="utf-8") as file:
                assert json.load(file) == result and result["image_id"] == identity


class Gate:
    """Stands before a network, so that a test decides when it begins."""

    def __init__(self, network):
        self.network, self.open, self.batches = network, threading.Event(), []

    def fingerprint(self):
        return self.network.fingerprint()

    def decode(self, stream):
        assert self.open.wait(60)
        return self.network.decode(stream)

    def outputs_of_batch(self, batch, streams):
        self.batches.append([stream.sizes.padded for stream in streams])
        if len(self.batches) == 1 and len(streams) > 1:
            raise RuntimeError("too much at once")
        return self.network.outputs_of_batch(batch, streams)


def test_batches_hold_what_waits_together(network, sent, tmp_path):
    gate = Gate(network)
    service = CloudService(gate, ServiceSettings(max_batch=3, max_wait=0.2), str(tmp_path))
    (_, narrow), (_, wide), *_ = sent
    jobs = [(stream_id(f"n{n}", narrow), narrow) for n in range(4)]
    jobs[1:1] = [(stream_id(f"w{n}", wide), wide) for n in range(2)]
    futures = [service.submit(*job) for job in jobs]
    gate.open.set()
    results = [future.result(timeout=60)[0] for future in futures]
    service.stop()
    # The first batch fails as a whole: its bitstreams are then computed one by one.
    assert [len(batch) for batch in gate.batches] == [3, 1, 1, 1, 2, 1]
    assert all(len(set(batch)) == 1 for batch in gate.batches)
    metrics = service.metrics()
    assert metrics["batches"] == 3 and metrics["done"] == 6 and metrics["errors"] == 0
    for (identity, data), result in zip(jobs, results, strict=True):
        output = network.cloud_inference([FeatureBitstream.from_bytes(data)])[0]
        expected = result_of(identity, output)
        of_service = {"id", "name", "fingerprint", "maker"}
        assert result["id"] == identity and result.keys() - of_service == expected.keys()
        assert result["height"] == expected["height"] and result["width"] == expected["width"]


def test_one_that_cannot_be_decoded_does_not_harm_its_batch(network, sent, tmp_path):
    gate = Gate(network)
    gate.batches = [None]  # nothing fails
    service = CloudService(gate, ServiceSettings(max_wait=0.2), str(tmp_path))
    (identity, data), *_ = sent
    stream = FeatureBitstream.from_bytes(data)
    unfit = FeatureBitstream(**{**vars(stream), "split": "BaF"}).to_bytes()
    futures = [
        service.submit(stream_id("x", unfit), unfit),
        service.submit(identity, data),
    ]
    gate.open.set()
    with pytest.raises(BitstreamError, match="feature split"):
        futures[0].result(timeout=60)
    assert futures[1].result(timeout=60)[0]["image_id"] == identity
    service.stop()
    assert service.metrics()["errors"] == 1


def test_a_full_disk_is_told_to_the_client(network, sent, tmp_path):
    folder = tmp_path / "results"
    service = CloudService(network, ServiceSettings(), str(folder))
    folder.rmdir()  # as good as a full disk, and the same for every user
    with pytest.raises(OSError):
        service.submit(*sent[0]).result(timeout=60)
    service.stop()
    assert service.metrics()["errors"] == 1


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_wait": -1.0}, {"max_receiving": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServiceSettings(**wrong)


def test_many_at_once(network, sent, tmp_path):
    service = CloudService(network, ServiceSettings(queue_size=1000), str(tmp_path))
    jobs = [
        (stream_id(f"{thread}_{n}", sent[n % STREAMS][1]), sent[n % STREAMS][1])
        for thread in range(4)
        for n in range(10)
    ]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = list(pool.map(lambda job: service.submit(*job), jobs))
    for (identity, _), future in zip(jobs, futures, strict=True):
        assert future.result(timeout=60)[0]["image_id"] == identity
    service.stop()
    metrics = service.metrics()
    assert metrics["done"] == len(jobs) and metrics["batches"] < len(jobs)
