"""The edge network in onnxruntime: the same symbols, at any size."""

import pytest
from detectron2.modeling import build_model

from d2_featcomp.deploy import check_onnx, export_onnx, onnx_export

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", ["msfc", "baf", "tasks"])
def test_symbols_are_equal(random_network, tmp_path, name):
    network = random_network(name)
    path = str(tmp_path / "edge.onnx")
    largest, differing, compared = export_onnx(network, path)
    assert check_onnx(network, path) == (largest, differing, compared)
    assert largest < 1e-4 and differing == 0 and compared > 100
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert properties["fingerprint"] == network.fingerprint().hex()
    assert properties["split"] == network.feature_split.name
    assert properties["quantizer"] == network.feature_codec.quantizer


def test_another_network_is_told_apart(random_network, tmp_path):
    export_onnx(random_network("msfc"), str(tmp_path / "edge.onnx"))
    _, differing, _ = check_onnx(random_network("msfc", seed=4), str(tmp_path / "edge.onnx"))
    assert differing > 0


def test_what_differs_is_not_kept(random_network, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "check_onnx", lambda *args: (1.0, 5, 100))
    with pytest.raises(ValueError, match="other symbols than PyTorch, 5 of 100"):
        export_onnx(random_network("msfc"), str(tmp_path / "edge.onnx"))
    assert not list(tmp_path.iterdir())


def test_an_image_needs_no_network(configured, tmp_path):
    with pytest.raises(ValueError, match="sends the image"):
        export_onnx(build_model(configured("image")).eval(), str(tmp_path / "edge.onnx"))
