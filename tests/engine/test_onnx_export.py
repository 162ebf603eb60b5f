"""The edge network in onnxruntime: the same symbols, at any size."""

import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp.engine import check_onnx, export_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", ["msfc", "baf", "tasks"])
def test_symbols_are_equal(random_network, tmp_path, name):
    network = random_network(name)
    path = str(tmp_path / "edge.onnx")
    export_onnx(network, path)
    largest, differing, compared = check_onnx(network, path)
    assert largest < 1e-4 and differing == 0 and compared > 100
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert properties["fingerprint"] == network.fingerprint().hex()
    assert properties["split"] == network.feature_split.name
    assert properties["quantizer"] == network.feature_codec.quantizer


def test_images_need_no_padding(random_network, tmp_path):
    network = random_network("msfc")
    export_onnx(network, str(tmp_path / "edge.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "edge.onnx"))
    for size in ((33, 65), (64, 64), (1, 200)):
        image = torch.rand(3, *size) * 255
        (found,) = session.run(None, {"image": image.numpy()})
        expected = network.edge_features([{"image": image}])[0].tensors[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def test_another_network_is_told_apart(random_network, tmp_path):
    export_onnx(random_network("msfc"), str(tmp_path / "edge.onnx"))
    _, differing, _ = check_onnx(random_network("msfc", seed=4), str(tmp_path / "edge.onnx"))
    assert differing > 0


def test_an_image_needs_no_network(configured, tmp_path):
    with pytest.raises(ValueError, match="sends the image"):
        export_onnx(build_model(configured("image")).eval(), str(tmp_path / "edge.onnx"))
