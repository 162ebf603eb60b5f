"""The edge network in onnxruntime: the same symbols, at any size."""

import copy
import hashlib
import json
import os

import networks
import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from PIL import Image

from d2_featcomp import onnx_session
from d2_featcomp.codecs import FeatureBitstream, QuantizedFeatureCodec, build_image_codec
from d2_featcomp.deploy import OnnxEdge, check_onnx, export_onnx, onnx_export
from d2_featcomp.deploy.configuration import describe_network
from d2_featcomp.deploy.onnx_export import OnnxCheck
from d2_featcomp.deploy.onnx_int8 import _take_evenly, quantize_onnx
from d2_featcomp.images import read_picture

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def lively_network(random_network):
    """A function: name -> a network whose features vary: its batch norms have seen random images."""

    def build(name):
        network = random_network(name)
        networks.show_noise(network, [(64, 96), (96, 64)])
        return network

    return build


@pytest.mark.parametrize("name", ["msfc", "efficientnet", "baf", "tasks"])
def test_symbols_are_equal(lively_network, tmp_path, name):
    network = lively_network(name)
    sent = network.edge_features([{"image": torch.rand(3, 64, 96) * 255}])[0].tensors
    assert all(z.std() > 0.01 for z in sent)  # else nothing is compared
    path = str(tmp_path / "edge.onnx")
    found = export_onnx(network, path)
    assert check_onnx(network, path) == found
    assert found.largest < 1e-3 and found.differing == 0 and found.compared > 100
    assert found.on_border < 2e-3 * found.compared  # by the processor's own order of sums
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert properties["fingerprint"] == network.fingerprint().hex()
    assert properties["split"] == network.split_name
    assert properties["quantizer"] == network.feature_codec.quantizer


def test_what_lies_on_a_border_is_counted_apart():
    """Steps of 2/3, borders at -2/3, 0 and 2/3: two pairs of values lie on both sides of one by
    rounding, one pair by more."""
    codec = QuantizedFeatureCodec(image_codec=build_image_codec("raw", bits=2), quantizer="fixed")
    wanted = torch.tensor([[[1e-6, 0.1, 2 / 3 + 1e-6, 1.0, 0.01]]])
    values = torch.tensor([[[-1e-6, 0.2, 2 / 3 - 1e-6, 0.9999, -0.01]]])
    assert onnx_export._compare_symbols(wanted, values, codec) == (1, 2)
    assert onnx_export._compare_symbols(wanted, wanted, codec) == (0, 0)


def test_the_metadata_say_all_that_a_device_needs(random_network, configured, tmp_path):
    network, path = random_network("baf"), str(tmp_path / "edge.onnx")
    cfg = configured("baf", "weights.pth", "INPUT.MIN_SIZE_TEST", 48)
    export_onnx(network, path, describe_network(cfg, network, [{"id": 7, "name": "seven"}]))
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(found["input"]) == {
        "format": "RGB",
        "min_size": 48,
        "max_size": 256,
        "mean": [0.0, 0.0, 0.0],
        "std": [255.0, 255.0, 255.0],
        "padding": {"side": 256, "position": "middle", "value": 0.5},
    }
    assert json.loads(found["categories"]) == [{"id": 7, "name": "seven"}]
    assert (found["codec"], found["bits"], found["quantizer"]) == ("jpegxl", "6", "channel")
    config = yaml.safe_load(found["config"])
    assert config["MODEL"]["YOLOV3"]["ANCHORS"] == list(map(list, cfg.MODEL.YOLOV3.ANCHORS))
    assert config["MODEL"]["WEIGHTS"] == ""


def test_a_size_of_all_images_is_told_and_part_of_the_fingerprint(random_network, configured):
    size = "MODEL.FEATCOMP.INPUT_SIZE"
    told, prints = [], set()
    for value in ("()", "(48, 64)", "(64, 48)"):
        cfg = configured("msfc", "", size, value)
        torch.manual_seed(0)
        network = build_model(cfg).eval()
        about = describe_network(cfg, network, [])
        told.append({key: about["input"].get(key) for key in ("size", "min_size", "max_size")})
        prints.add(about["fingerprint"])
    assert told[1:] == [
        {"size": list(s), "min_size": None, "max_size": None} for s in ((48, 64), (64, 48))
    ]
    assert told[0] == {"size": None, "min_size": 192, "max_size": 256} and len(prints) == 3


def test_another_network_is_told_apart(random_network, tmp_path):
    export_onnx(random_network("msfc"), str(tmp_path / "edge.onnx"))
    assert check_onnx(random_network("msfc", seed=4), str(tmp_path / "edge.onnx")).differing > 0


def test_what_differs_is_not_kept(random_network, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "check_onnx", lambda *args: OnnxCheck(1.0, 5, 100, 0))
    with pytest.raises(ValueError, match="other symbols than PyTorch, 5 of 100"):
        export_onnx(random_network("msfc"), str(tmp_path / "edge.onnx"))
    assert not list(tmp_path.iterdir())


def test_an_operator_that_onnx_lacks_is_told(random_network, tmp_path, monkeypatch):
    network = random_network("msfc")
    monkeypatch.setattr(network.feature_split.encoder.activation, "forward", torch.special.i0e)
    with pytest.raises(ValueError, match=r"i0e.* is not supported: this network cannot be exported"):
        export_onnx(network, str(tmp_path / "edge.onnx"))
    assert not list(tmp_path.iterdir())


def test_values_of_32_bits_are_compared_too(random_network, tmp_path):
    export_onnx(random_network("msfc"), str(tmp_path / "edge.onnx"))
    for seed, differ in ((None, False), (4, True)):
        network = random_network("msfc") if seed is None else random_network("msfc", seed=seed)
        network.feature_codec = QuantizedFeatureCodec(image_codec=build_image_codec("raw", bits=32))
        found = check_onnx(network, str(tmp_path / "edge.onnx"))
        assert found.compared > 100 and bool(found.differing) == differ


def test_a_graph_of_one_size_is_refused(random_network, tmp_path):
    """As of a backbone that adds a map of a fixed size."""
    network, path = random_network("msfc"), str(tmp_path / "edge.onnx")
    export_onnx(network, path)
    model = onnx.load(path)
    size = onnx.numpy_helper.from_array(np.ones((1, 3, 64, 96), np.float32), "map")
    model.graph.initializer.append(size)
    for node in model.graph.node:
        node.input[:] = ["sum" if name == "image" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["image", "map"], ["sum"]))
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"onnxruntime cannot run .* pixels .*cannot be exported"):
        check_onnx(network, path)


def test_an_image_needs_no_network(configured, tmp_path):
    with pytest.raises(ValueError, match="codes the image"):
        export_onnx(build_model(configured("image")).eval(), str(tmp_path / "edge.onnx"))


def test_a_latent_without_bounds_from_averaged_levels(lively_network, tmp_path):
    """FCTM v1: ten bits in the tensor's own range, of which many more lie on a border than of two."""
    network, path = lively_network("fctm"), str(tmp_path / "edge.onnx")
    (y,) = network.edge_features([{"image": torch.rand(3, 64, 96) * 255}])[0].tensors
    assert y.std() > 0.01 and (y > 1).any()
    found = export_onnx(network, path)
    assert found.largest < 1e-3 and found.differing == 0 and found.compared > 80
    assert found.on_border < 0.05 * found.compared
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert (properties["quantizer"], properties["bits"], properties["split"]) == ("tensor", "10", "MSFC")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(network, folder of edge.onnx and of photographs)"""
    folder = tmp_path_factory.mktemp("exported")
    cfg = networks.config_of("msfc", "", "INPUT.MIN_SIZE_TEST", 64)
    network = networks.build(networks.MSFC, networks.listed(networks.TINY), 0, calm)
    export_onnx(network, str(folder / "edge.onnx"), describe_network(cfg, network, []))
    (folder / "photos").mkdir()
    for index in range(12):
        coarse = np.random.default_rng(index).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 64)).save(folder / "photos" / f"{index:02d}.png")
    return network, folder


@torch.no_grad()
def calm(network):
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
            module.train()
    torch.manual_seed(1)
    network.edge_features([{"image": torch.rand(3, 64, 96) * 255}])
    network.eval()


def test_int8(exported, monkeypatch):
    """Smaller, near, of the same fingerprint, decoded by the same cloud; its last layer is float32."""
    network, folder = exported
    path, output = (str(folder / name) for name in ("edge.onnx", "edge.int8.onnx"))
    found = quantize_onnx(path, output, str(folder / "photos"))
    assert found.images == 2 and found.compared == 2 * 4 * 8 * 12
    assert 0 < found.differing < 0.1 * found.compared
    assert abs(found.int8_bytes / found.float_bytes - 1) < 0.1
    assert os.path.getsize(output) < 0.6 * os.path.getsize(path)
    float32, int8 = onnx.load(path), onnx.load(output)
    about, more = ({entry.key: entry.value for entry in each.metadata_props} for each in (float32, int8))
    assert about == {key: more[key] for key in about} and more["precision"] == "int8"
    with open(path, "rb") as file:
        assert more["quantized_from"] == hashlib.sha256(file.read()).hexdigest()
    assert json.loads(more["calibration"]) == {"images": 10, "float_layers": 1, "weight_bits": 7}
    # So sums of two products with activations of 8 bits stay within 16 bits, on every processor.
    stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in int8.graph.initializer}
    matrices = [x for x in stored.values() if x.dtype == np.int8 and x.ndim > 1]
    assert matrices and max(np.abs(x.astype(int)).max() for x in matrices) <= 64
    weights = {entry.name: entry.data_type for entry in int8.graph.initializer}
    floats = [node for node in int8.graph.node if node.op_type == "Conv" and node.input[1] in weights]
    assert [node.name for node in floats] == ["/encoder/conv/Conv"]

    edge = OnnxEdge(output)
    picture = read_picture(str(folder / "photos" / "00.png"))
    stream = FeatureBitstream.from_bytes(edge.encode(edge.compute(picture)).to_bytes())
    (result,) = network.cloud_inference([stream])
    assert result["bitstream"].shapes == ((4, 8, 12),)
    assert not [name for name in os.listdir(folder) if name.startswith("tmp")]


def test_weights_of_eight_bits_are_told_where_they_overflow(exported, monkeypatch, caplog):
    folder = exported[1]
    output = str(folder / "edge.vnni.onnx")
    quantize_onnx(str(folder / "edge.onnx"), output, str(folder / "photos"), images=2, vnni=True)
    model = onnx.load(output)
    stored = [onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer]
    assert max(np.abs(x.astype(int)).max() for x in stored if x.dtype == np.int8 and x.ndim > 1) == 127
    for machine, vnni, told in (("x86_64", False, 1), ("x86_64", True, 0), ("aarch64", False, 0)):
        monkeypatch.setattr(onnx_session.platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(onnx_session, "has_vnni", lambda vnni=vnni: vnni)
        caplog.clear()
        OnnxEdge(str(folder / "edge.onnx"))
        assert not caplog.records
        OnnxEdge(output)
        assert [("without --vnni" in record.message) for record in caplog.records] == [True] * told
    # Files of earlier releases do not tell; their weights had 8 bits.
    assert onnx_session._weight_bits({"precision": "int8", "calibration": '{"images": 3}'}) == 8


def test_an_exported_edge_is_evaluated_in_a_network(exported):
    network, folder = copy.deepcopy(exported[0]), exported[1]
    record = {"image": torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(5)) * 255}
    (expected,) = network.edge_features([record])
    network.accelerate(str(folder / "edge.onnx"))
    (found,) = network.edge_features([record])
    assert found.sizes == expected.sizes and found.elements == expected.elements
    assert (found.tensors[0] - expected.tensors[0]).abs().max() < 2e-3
    assert len(network.compute_batch_features([record, record])) == 2
    assert network([record])[0]["bitstream"].fingerprint == network.fingerprint()
    copy.deepcopy(network).edge_features([record])
    other = random_of_seed(4)
    with pytest.raises(ValueError, match=r"edge\.onnx' is of network .*export it from these weights"):
        other.accelerate(str(folder / "edge.onnx"))
    with pytest.raises(ValueError, match=r"choose one of plain, .* or an edge\.onnx"):
        other.accelerate("quick")


def random_of_seed(seed):
    return networks.build(networks.MSFC, networks.listed(networks.TINY), seed)


def test_mistakes_of_calibration(exported, tmp_path):
    _, folder = exported
    with pytest.raises(FileNotFoundError, match="no images in"):
        quantize_onnx(str(folder / "edge.onnx"), str(tmp_path / "a.onnx"), str(tmp_path))
    with pytest.raises(ValueError, match="calibration takes images, not 0"):
        quantize_onnx(str(folder / "edge.onnx"), "a.onnx", str(folder / "photos"), images=0)


def test_calibration_images_are_taken_evenly():
    names = list(range(199))
    taken = _take_evenly(names, 100)
    assert len(set(taken)) == 100 and taken[0] == 0 and taken[-1] > 195
    assert _take_evenly(names[:7], 100) == names[:7] and _take_evenly(names, 1) == [0]
