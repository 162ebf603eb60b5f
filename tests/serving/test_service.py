"""The service under any order of uploads, damage and restarts; and its batches."""

import concurrent.futures
import contextlib
import json
import os
import resource
import tempfile

import pytest
import torch
from gate import Gate
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_featcomp.codecs import BitstreamError, DecodeLimits, FeatureBitstream
from d2_featcomp.serving import (
    BusyError,
    CloudService,
    ForeignModelError,
    ServiceSettings,
    make_result,
    make_stream_id,
)
from d2_featcomp.serving.deployment import count_output_bytes_per_pixel

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
def sent(network):
    """list of (id, bytes)."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for index in range(STREAMS):
        image = torch.rand(3, 32, 32 + 32 * (index % 2), generator=generator) * 255
        data = network.edge_inference([{"image": image}])[0].to_bytes()
        found.append((make_stream_id(f"image{index}", data), data))
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
                    services[-1].submit(make_stream_id("image", damaged), damaged)
            elif step == "foreign id":
                with pytest.raises(FileExistsError):
                    services[-1].submit(identity, data + b"more")
            else:
                services[-1].stop()
                with pytest.raises(BusyError):
                    services[-1].submit(make_stream_id("late", data), data)
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


def test_batches_hold_what_waits_together(network, sent, tmp_path):
    gate = Gate(network, fails_first=True)
    service = CloudService(gate, ServiceSettings(max_batch=3, max_wait=0.2), str(tmp_path))
    (_, narrow), (_, wide), *_ = sent
    jobs = [(make_stream_id(f"n{n}", narrow), narrow) for n in range(4)]
    jobs[1:1] = [(make_stream_id(f"w{n}", wide), wide) for n in range(2)]
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
        expected = make_result(identity, output)
        of_service = {"id", "name", "fingerprint", "maker"}
        assert result["id"] == identity and result.keys() - of_service == expected.keys()
        assert result["height"] == expected["height"] and result["width"] == expected["width"]


def test_one_that_cannot_be_decoded_does_not_harm_its_batch(network, sent, tmp_path):
    gate = Gate(network)
    service = CloudService(gate, ServiceSettings(max_wait=0.2), str(tmp_path))
    (identity, data), *_ = sent
    stream = FeatureBitstream.from_bytes(data)
    unfit = FeatureBitstream(**{**vars(stream), "tensors": 2 * stream.tensors}).to_bytes()
    futures = [
        service.submit(make_stream_id("x", unfit), unfit),
        service.submit(identity, data),
    ]
    gate.open.set()
    with pytest.raises(BitstreamError, match="tensors"):
        futures[0].result(timeout=60)
    assert futures[1].result(timeout=60)[0]["image_id"] == identity
    service.stop()
    assert service.metrics()["errors"] == 1


def test_a_full_disk_is_told_to_the_client(network, sent, tmp_path, caplog):
    folder = tmp_path / "results"
    service = CloudService(network, ServiceSettings(), str(folder))
    folder.rmdir()  # as good as a full disk, and the same for every user
    with pytest.raises(OSError):
        service.submit(*sent[0]).result(timeout=60)
    service.stop()
    assert service.metrics()["errors"] == 1
    (record,) = (record for record in caplog.records if record.name == "d2_featcomp")
    assert str(folder / sent[0][0]) in record.getMessage() and not record.exc_info  # one line


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_wait": -1.0}, {"max_receiving": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServiceSettings(**wrong)


def test_many_at_once(network, sent, tmp_path):
    service = CloudService(network, ServiceSettings(queue_size=1000), str(tmp_path))
    jobs = [
        (make_stream_id(f"{thread}_{n}", sent[n % STREAMS][1]), sent[n % STREAMS][1])
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


def test_foreign_models_are_told_apart_at_once(network, sent, tmp_path):
    gate = Gate(network)  # closed: nothing is decoded
    service = CloudService(gate, ServiceSettings(), str(tmp_path))
    stream = FeatureBitstream.from_bytes(sent[0][1])
    foreign = FeatureBitstream(**{**vars(stream), "fingerprint": b"else"}).to_bytes()
    with pytest.raises(ForeignModelError, match=f"another model.*{b'else'.hex()}"):
        service.submit(make_stream_id("x", foreign), foreign)
    assert service.metrics()["queued"] == service.metrics()["accepted"] == 0
    service.stop()


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"3", b"{", b"", b"\xff", b'{"maker": "a", "maps": ["x"]}']
)
def test_a_result_file_that_is_none_is_computed_again(network, sent, tmp_path, content):
    identity, data = sent[0]
    path = tmp_path / f"{identity}.json"
    path.write_bytes(content)
    service = CloudService(network, ServiceSettings(), str(tmp_path), maker="a")
    assert not service.knows(identity) and service.repeat(identity) is None
    result, _ = service.submit(identity, data).result(timeout=60)
    assert result["id"] == identity and json.loads(path.read_text()) == result
    assert service.knows(identity)
    assert service.repeat(identity).result(timeout=0) == (result, 0.0)
    service.stop()
    assert service.metrics()["done"] == 1 and service.metrics()["repeated"] == 1


def test_a_result_whose_map_is_gone_is_computed_again(random_network, tmp_path):
    network = random_network("tasks")
    data = network.edge_inference([{"image": torch.zeros(3, 32, 32)}])[0].to_bytes()
    # As long as ids may be; its files have names that file systems take.
    identity = f"{'x' * 200}-{make_stream_id('', data)[-16:]}"
    service = CloudService(network, ServiceSettings(), str(tmp_path))
    first, _ = service.submit(identity, data).result(timeout=60)
    (tmp_path / f"{identity}_disparity.png").unlink()
    second, _ = service.submit(identity, data).result(timeout=60)
    service.stop()
    assert first == second and service.metrics()["done"] == 2
    assert len(list(tmp_path.iterdir())) == 4


@contextlib.contextmanager
def full_disk(size):
    """No file can grow beyond so many bytes, which writers see as they see a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_gets_full_and_empty_again(random_network, tmp_path, monkeypatch):
    monkeypatch.setattr("d2_featcomp.serving.result_folder._PROBE_PERIOD", -1.0)
    network = random_network("tasks")
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    data = network.edge_inference([{"image": image}])[0].to_bytes()
    folder = tmp_path / "results"
    service = CloudService(network, ServiceSettings(), str(folder))
    service.submit(make_stream_id("a", data), data).result(timeout=60)
    sizes = sorted(path.stat().st_size for path in folder.iterdir())
    before = sorted(folder.iterdir())
    assert service.folder.find_error() is None and len(sizes) == 4
    with full_disk(sizes[-1] - 1):  # the largest file does not fit, those before it do
        with pytest.raises(OSError):
            service.submit(make_stream_id("b", data), data).result(timeout=60)
        # There is room for a little: but not for what has just failed.
        assert isinstance(service.folder.find_error(), OSError)
        assert sorted(folder.iterdir()) == before
    assert service.folder.find_error() is None
    service.submit(make_stream_id("b", data), data).result(timeout=60)
    service.stop()
    assert len(list(folder.iterdir())) == 8


def test_a_folder_that_is_gone_is_no_health(network, tmp_path):
    folder = tmp_path / "results"
    service = CloudService(network, ServiceSettings(), str(folder))
    folder.rmdir()
    assert isinstance(service.folder.find_error(), FileNotFoundError)
    folder.mkdir()
    assert isinstance(service.folder.find_error(), FileNotFoundError)  # tried once a second
    service.stop()


def test_answers_have_a_budget(network, sent, tmp_path):
    """Original sizes of 32 x 32 and 32 x 64 pixels, 10 bytes each: 10 240 and 20 480 bytes."""
    folder = str(tmp_path)
    (narrow_id, narrow), (wide_id, wide), *_ = sent
    small = CloudService(network, ServiceSettings(max_answer_bytes=10240), folder, bytes_per_pixel=10)
    small.submit(narrow_id, narrow).result(timeout=60)
    with pytest.raises(BitstreamError, match=r"32 x 64 pixels may take 20480 bytes.*10240"):
        small.submit(wide_id, wide)
    small.stop()
    gate = Gate(network)
    options = ServiceSettings(max_answer_bytes=25000, max_batch=8, max_wait=0.2)
    service = CloudService(gate, options, folder, bytes_per_pixel=10)
    futures = [service.submit(make_stream_id(f"n{n}", narrow), narrow) for n in range(5)]
    gate.open.set()
    for future in futures:
        future.result(timeout=60)
    service.stop()
    assert [len(batch) for batch in gate.batches] == [2, 2, 1]


def test_what_a_pixel_of_an_answer_costs(configured):
    """As worked out by hand."""
    masks = configured("msfc")  # 100 masks of one byte, and 16 bytes to paste one
    assert masks.MODEL.MASK_ON and masks.TEST.DETECTIONS_PER_IMAGE == 100
    assert count_output_bytes_per_pixel(masks) == 116
    # By default all photographs that a bitstream may be of are answered.
    assert 116 * DecodeLimits().max_original_pixels <= ServiceSettings().max_answer_bytes
    assert count_output_bytes_per_pixel(configured("baf")) == 0  # boxes alone
    tasks = configured("tasks")  # float32 scores of each class and labels; four more maps of both
    classes = tasks.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert count_output_bytes_per_pixel(tasks) == 4 * classes + 8 + 4 * 12
    panoptic = configured(
        "msfc",
        "",
        *("MODEL.FEATCOMP.TASK_NETWORK", "PanopticFPN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54),
    )
    assert count_output_bytes_per_pixel(panoptic) == 116 + 4 * 54 + 8
    every = configured("msfc", "", "TEST.DETECTIONS_PER_IMAGE", -1, "MODEL.ROI_HEADS.NUM_CLASSES", 2)
    assert count_output_bytes_per_pixel(every) == 2 * every.MODEL.RPN.POST_NMS_TOPK_TEST + 16


def test_names(network, sent, tmp_path):
    """A result has its image's name: from the id, or from who sends it; text, whatever it was."""
    service = CloudService(network, ServiceSettings(), str(tmp_path))
    data = sent[0][1]
    long = "写真" * 60
    for name, told, kept in (
        ("写真", None, "写真"),
        (long, long, long),
        ("caf\udce9", None, "caf\ufffd"),
        ("a", "caf\udce9", "caf\ufffd"),
    ):
        identity = make_stream_id(name, data)
        result, _ = service.submit(identity, data, told).result(timeout=60)
        assert result["name"] == kept
        assert service.repeat(identity).result(timeout=60)[0] == result
        stored = json.loads((tmp_path / f"{identity}.json").read_text(encoding="utf-8"))
        assert stored == result
    service.stop()
