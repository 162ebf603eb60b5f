"""Measurements of codecs that others have written."""

import sys
import zlib

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from measuring import IMAGES, alone, same
from torch import nn

from d2_featcomp.arguments import import_modules, list_imported_files
from d2_featcomp.codecs import FEATURE_CODEC_REGISTRY, CodedTensor, FeatureCodec
from d2_featcomp.experiments import measure_settings, measured_networks


class Gains(FeatureCodec):
    """A trained factor for each channel, then symbols of 8 bits, by zlib."""

    name = "gains"
    bits = 8

    def __init__(self, channels):
        super().__init__()
        self.gains = nn.ParameterList(nn.Parameter(torch.ones(count, 1, 1)) for count in channels)

    @classmethod
    def from_config(cls, cfg, feature_split):
        if isinstance(feature_split, type):
            return cls([])
        return cls([shape[0] for shape in feature_split.reduced_shapes((256, 256))])

    def _gain(self, index):
        return self.gains[index] if len(self.gains) else 1.0

    def quantize(self, ys):
        restored = [(y * self._gain(i) * 100).round() / 100 / self._gain(i) for i, y in enumerate(ys)]
        return restored, [torch.full((len(y), 1, 1, 1), 0.01) for y in ys], {}

    def compress(self, ys):
        symbols = [
            (y * self._gain(i) * 100).round().clamp(-128, 127).to(torch.int8) for i, y in enumerate(ys)
        ]
        return [CodedTensor({"y": zlib.compress(each.numpy().tobytes())}) for each in symbols]

    def decompress(self, tensors, shapes, device="cpu"):
        found = []
        for index, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
            symbols = np.frombuffer(zlib.decompress(tensor.strings["y"]), np.int8).reshape(shape).copy()
            found.append(torch.from_numpy(symbols).float() / 100 / self._gain(index))
        return found

    def step_sizes(self, tensors, shapes, device="cpu"):
        return [torch.full((1, 1, 1), 0.01) for _ in tensors]


@pytest.fixture
def gains(msfc, root, tmp_path, monkeypatch):
    """A setting of that codec, with weights in which gains matter."""
    FEATURE_CODEC_REGISTRY.register(Gains)
    model = build_model(msfc("gains", 8))
    model.load_state_dict(torch.load(root / "msfc.pth", weights_only=True)["model"], strict=False)
    with torch.no_grad():
        model.feature_codec.gains[0].fill_(0.1)
    torch.save({"model": model.state_dict()}, tmp_path / "gains.pth")
    yield msfc("gains", 8, MODEL__WEIGHTS=str(tmp_path / "gains.pth"))
    FEATURE_CODEC_REGISTRY._obj_map.pop("gains")


def test_a_codec_is_measured_with_its_weights(gains, msfc, tmp_path, monkeypatch):
    monkeypatch.setattr(Gains, "has_weights", True)
    png = msfc("png", 4, MODEL__WEIGHTS=gains.MODEL.WEIGHTS)
    found = measure_settings({"png": png, "gains": gains}, str(tmp_path / "records"))
    same(found["gains"], alone(gains))
    same(found["png"], alone(png))


def test_a_codec_whose_weights_are_not_announced_is_refused(gains, tmp_path):
    with pytest.raises(ValueError, match=r"'gains' has parameters .* has_weights = True into .* Gains"):
        measure_settings({"gains": gains}, str(tmp_path / "records"))


def test_other_code_of_an_imported_module_is_measured_anew(msfc, tmp_path, monkeypatch):
    monkeypatch.setattr("d2_featcomp.arguments._IMPORTED", [])
    path = tmp_path / "own_module_of_a_test.py"
    path.write_text("LEVEL = 1\n")
    import_modules([str(path)])
    assert list_imported_files() == [str(path)]
    taken = []
    take = measured_networks.RecordedNetwork._take

    def counted(network, model, record):
        taken.append(record["position"])
        take(network, model, record)

    monkeypatch.setattr(measured_networks.RecordedNetwork, "_take", counted)
    settings, records = {"a": msfc("png", 4)}, str(tmp_path / "records")
    try:
        for text, times in ("LEVEL = 1\n", 1), ("LEVEL = 1\n", 1), ("LEVEL = 9\n", 2):
            path.write_text(text)
            measure_settings(settings, records)
            assert len(taken) == times * IMAGES
    finally:
        del sys.modules["own_module_of_a_test"]
