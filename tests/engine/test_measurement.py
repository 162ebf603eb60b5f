"""Many settings measured at once: the same results as one by one, and nothing done twice."""

import json
import os

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from d2_featcomp.codecs import IMAGE_CODEC_REGISTRY
from d2_featcomp.codecs.images.still_image import PngCodec
from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.engine import evaluate, measure_settings, setup_config
from d2_featcomp.modeling import SplitInference

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.FEATCOMP.SSFC.CHANNELS": 4,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 10,
    "INPUT.MIN_SIZE_TEST": 96,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TEST": ("measured_val",),
    "SEED": 3,
}
TASKS = {
    "MODEL.RESNETS.DEPTH": 18,
    "INPUT.MIN_SIZE_TEST": 48,
    "INPUT.MAX_SIZE_TEST": 64,
    "MODEL.DEVICE": "cpu",
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TEST": ("measured_multi_task_val",),
}
IMAGES = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    register_scenes("measured", str(folder / "scenes"), procedural_recipe({"train": 1, "val": IMAGES}))
    DatasetCatalog.get("measured_val")
    for name, config, settings in (
        ("msfc", "configs/quick/msfc_R18.yaml", TINY),
        ("tasks", "configs/quick/mtl_R34.yaml", TASKS),
    ):
        torch.manual_seed(0)
        state = build_model(configured(config, settings)).state_dict()
        torch.save({"model": state}, folder / f"{name}.pth")
    return folder


def configured(config, settings, **more):
    keyed = {key.replace("__", "."): value for key, value in more.items()}
    return setup_config(config, [part for item in {**settings, **keyed}.items() for part in item])


@pytest.fixture
def msfc(root, tmp_path):
    def make(codec, bits, name="", **more):
        return configured(
            "configs/quick/msfc_R18.yaml",
            TINY,
            MODEL__FEATCOMP__CODEC__NAME=codec,
            MODEL__FEATCOMP__CODEC__BITS=bits,
            OUTPUT_DIR=str(tmp_path / (name or f"{codec}{bits}")),
            **{"MODEL__WEIGHTS": str(root / "msfc.pth"), **more},
        )

    return make


def same(found, expected):
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True, default=float)


class Calls:
    """Counts what a network does."""

    def __init__(self, monkeypatch):
        self.count = {"edge_features": 0, "outputs_of": 0}
        for name in self.count:
            self._wrap(monkeypatch, name, getattr(SplitInference, name))

    def _wrap(self, monkeypatch, name, method):
        def counted(network, *args):
            self.count[name] += 1
            return method(network, *args)

        monkeypatch.setattr(SplitInference, name, counted)

    def take(self):
        taken = tuple(self.count.values())
        self.count.update(dict.fromkeys(self.count, 0))
        return taken


def test_results_are_those_of_single_evaluations_and_work_is_shared(msfc, tmp_path, monkeypatch):
    settings = {
        "png": msfc("png", 4),
        "jpegxl": msfc("jpegxl", 4),
        "raw": msfc("raw", 4),
        "coarse": msfc("png", 2),
        "jpeg": msfc("jpeg", 8),
        "uncut": msfc("png", 4, "uncut", MODEL__FEATCOMP__ENABLED=False),
    }
    calls = Calls(monkeypatch)
    told = []
    found = measure_settings(settings, str(tmp_path / "records"), lambda *args: told.append(args))
    # One edge pass an image; a cloud pass for lossless n = 4, n = 2, and JPEG.
    assert calls.take() == (IMAGES, 3 * IMAGES)
    assert list(found) == list(settings) and dict(told) == found
    for name, cfg in settings.items():
        same(found[name], evaluate(cfg))
    assert found["png"]["bbox"] == found["jpegxl"]["bbox"] and "feature_rate" not in found["uncut"]
    assert found["png"]["feature_rate"] != found["jpegxl"]["feature_rate"]

    calls.take()
    assert measure_settings(settings, str(tmp_path / "records")) == found
    assert calls.take() == (0, 0)
    settings["jpegls"] = msfc("jpegls", 4)  # needs its bytes only
    more = measure_settings(settings, str(tmp_path / "records"))
    assert calls.take() == (IMAGES, 0)
    assert more["jpegls"]["bbox"] == found["png"]["bbox"]


def test_several_tasks(root, tmp_path):
    settings = {
        quality: configured(
            "configs/quick/mtl_R34.yaml",
            TASKS,
            MODEL__WEIGHTS=str(root / "tasks.pth"),
            MODEL__FEATCOMP__CODEC__NAME="jpeg",
            MODEL__FEATCOMP__CODEC__QUALITY=quality,
            OUTPUT_DIR=str(tmp_path / str(quality)),
        )
        for quality in (90, 20)
    }
    found = measure_settings(settings, str(tmp_path / "records"))
    for name, cfg in settings.items():
        same(found[name], evaluate(cfg))
    assert found[90]["reconstruction"]["PSNR"] != found[20]["reconstruction"]["PSNR"]


def test_an_interruption_costs_no_image_twice(msfc, tmp_path, monkeypatch):
    settings = {"png": msfc("png", 4), "jpeg": msfc("jpeg", 8)}
    expected = measure_settings(settings, str(tmp_path / "whole"))
    edge, calls = SplitInference.edge_features, []

    def fail_at_the_third(network, batch):
        calls.append(batch[0]["image_id"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return edge(network, batch)

    records = tmp_path / "records"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SplitInference, "edge_features", fail_at_the_third)
        measure_settings(settings, str(records))
    for name in os.listdir(records):  # as if it had been stopped while it wrote
        with open(records / name, "ab") as file:
            file.write(b'2\t{"_rows":[{"__ki')
    counted = Calls(monkeypatch)
    assert measure_settings(settings, str(records)) == expected
    assert counted.take() == (IMAGES - 2, 2 * (IMAGES - 2))


def test_another_network_is_measured_anew(msfc, root, tmp_path):
    records = str(tmp_path / "records")
    first = measure_settings({"a": msfc("png", 4)}, records)["a"]
    state = torch.load(root / "msfc.pth", weights_only=True)["model"]
    state["roi_heads.box_predictor.cls_score.bias"] += 3 * torch.arange(7.0)
    state["feature_split.encoder.conv.weight"] *= 0
    torch.save({"model": state}, tmp_path / "other.pth")
    second = measure_settings({"a": msfc("png", 4, MODEL__WEIGHTS=str(tmp_path / "other.pth"))}, records)
    assert second["a"]["feature_rate"]["kB"] < first["feature_rate"]["kB"]


def test_a_codec_that_claims_to_be_lossless_is_found_out(msfc, tmp_path):
    class Lying(PngCodec):
        name = "lying"

        def _encode(self, samples):
            return super()._encode(samples & 0xFE)

    IMAGE_CODEC_REGISTRY.register(Lying)
    try:
        settings = {"honest": msfc("png", 4), "not so": msfc("lying", 4)}
        with pytest.raises(ValueError, match=r"honest and not so .* 'lying' is not lossless"):
            measure_settings(settings, str(tmp_path / "records"))
    finally:
        IMAGE_CODEC_REGISTRY._obj_map.pop("lying")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"DATASETS__TEST": ()}, "must name one data set"),
        ({"DATASETS__TEST": ("nowhere",)}, "unknown data sets"),
        ({"MODEL__WEIGHTS": "nowhere.pth"}, "no checkpoint 'nowhere.pth'"),
    ],
)
def test_errors_come_before_work(msfc, tmp_path, more, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        measure_settings({"a": msfc("png", 4, **more)}, str(tmp_path / "records"))
    assert not os.path.exists(tmp_path / "records")
