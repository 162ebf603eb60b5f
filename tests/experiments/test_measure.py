"""Many settings measured at once: the same results as one by one, and nothing done twice."""

import csv
import os
import shutil

import networks
import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model
from measuring import IMAGES, alone, configured, detections, same

from d2_featcomp.codecs import IMAGE_CODEC_REGISTRY
from d2_featcomp.codecs.images.still_image import PngCodec
from d2_featcomp.engine import setup_config
from d2_featcomp.evaluation import ImageMatches
from d2_featcomp.evaluation.average_precision import sample_average_precision
from d2_featcomp.experiments import evaluate, measure, measure_settings, measured_networks
from d2_featcomp.modeling import SplitInference

TASKS = {
    **networks.TINY_TASKS,
    "INPUT.MIN_SIZE_TEST": 48,
    "INPUT.MAX_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TEST": ("measured_multi_task_val",),
}


class Calls:
    """Counts what a network does."""

    def __init__(self, monkeypatch):
        self.count = {"edge_features": 0, "compute_outputs": 0}
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


def require_matches(settings, found):
    """Beside every setting lie the matches of its own results."""
    for name, cfg in settings.items():
        path = os.path.join(cfg.OUTPUT_DIR, "inference", "matches_bbox.npz")
        average = sample_average_precision(ImageMatches.load(path), resamples=1)[0]
        assert average == pytest.approx(found[name]["bbox"]["AP"]), name


def test_progress_bars_tell_how_many_there_are(msfc, monkeypatch):
    told = []
    bar = measured_networks.tqdm

    def note(*args, desc, **options):
        told.append(desc)
        return bar(*args, desc=desc, **options)

    monkeypatch.setattr(measured_networks, "tqdm", note)
    split, whole = msfc("raw", 2), msfc("raw", 2, "whole", MODEL__FEATCOMP__ENABLED=False)
    measure_settings({"split": split, "png": msfc("png", 2)})
    measure_settings({"split": split, "whole": whole})
    assert told == ["images", "network 1 of 2, images", "network 2 of 2, images"]


def test_a_data_set_is_needed():
    with pytest.raises(ValueError, match=r"DATASETS\.TEST names no data set"):
        evaluate(setup_config(networks.MSFC, ["MODEL.DEVICE", "cpu", "DATASETS.TEST", ()]))


def test_each_of_several_data_sets_keeps_the_rates_of_its_images(msfc):
    cfg = msfc("raw", 2, DATASETS__TEST=("measured_val", "measured_train"))
    found = evaluate(cfg)
    for dataset, count in (("measured_val", IMAGES), ("measured_train", 1)):
        path = os.path.join(cfg.OUTPUT_DIR, dataset, "inference", "feature_rates.csv")
        with open(path, newline="") as file:
            sizes = [int(row["bytes"]) for row in csv.DictReader(file)]
        assert len(sizes) == count
        assert found[dataset]["feature_rate"]["kB"] == pytest.approx(sum(sizes) / count / 1000)


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
        same(found[name], alone(cfg))
    assert found["png"]["bbox"] == found["jpegxl"]["bbox"] and "feature_rate" not in found["uncut"]
    assert found["png"]["feature_rate"] != found["jpegxl"]["feature_rate"]

    require_matches(settings, found)
    shutil.rmtree(settings["jpegxl"].OUTPUT_DIR)
    calls.take()
    assert measure_settings(settings, str(tmp_path / "records")) == found
    assert calls.take() == (0, 0)
    require_matches(settings, found)
    settings["jpegls"] = msfc("jpegls", 4)  # needs its bytes only
    more = measure_settings(settings, str(tmp_path / "records"))
    assert calls.take() == (IMAGES, 0)
    assert more["jpegls"]["bbox"] == found["png"]["bbox"]


def test_trained_codecs_share_the_work_of_others(msfc, root, tmp_path, monkeypatch):
    """The network is built with the codec whose weights it has; other weights are another network."""
    torch.manual_seed(1)
    weights = {}
    for bits in (2, 3):
        model = build_model(msfc("learned", bits))
        model.load_state_dict(torch.load(root / "msfc.pth", weights_only=True)["model"], strict=False)
        with torch.no_grad():
            model.feature_codec.context_models[0].head_bias.normal_(std=0.1)
        weights[bits] = str(tmp_path / f"{bits}.pth")
        torch.save({"model": model.state_dict()}, weights[bits])
    settings = {
        "png": msfc("png", 2, MODEL__WEIGHTS=weights[2]),
        "learned": msfc("learned", 2, MODEL__WEIGHTS=weights[2]),
        "other": msfc("learned", 3, MODEL__WEIGHTS=weights[3]),
    }
    calls = Calls(monkeypatch)
    found = measure_settings(settings, str(tmp_path / "records"))
    assert calls.take() == (2 * IMAGES, 2 * IMAGES)
    for name, cfg in settings.items():
        same(found[name], alone(cfg))
    assert found["png"]["bbox"] == found["learned"]["bbox"]
    assert found["png"]["feature_rate"] != found["learned"]["feature_rate"]


def test_rates_of_one_network_share_its_edge(msfc, root, tmp_path, monkeypatch):
    torch.manual_seed(1)
    model = build_model(msfc("variable_rate", 4))
    model.load_state_dict(torch.load(root / "msfc.pth", weights_only=True)["model"], strict=False)
    path = str(tmp_path / "variable.pth")
    torch.save({"model": model.state_dict()}, path)
    key = "MODEL__FEATCOMP__CODEC__"
    settings = {
        rate: msfc("variable_rate", 4, f"at{rate}", MODEL__WEIGHTS=path, **{f"{key}RATE": rate})
        for rate in (0, 0.5, 1)
    }
    settings["target"] = msfc("variable_rate", 4, "t", MODEL__WEIGHTS=path, **{f"{key}TARGET_KB": 0.1})
    settings["png"] = msfc("png", 4, "same", MODEL__WEIGHTS=path)
    calls = Calls(monkeypatch)
    found = measure_settings(settings, str(tmp_path / "records"))
    assert calls.take()[0] == IMAGES
    for name, cfg in settings.items():
        same(found[name], alone(cfg))


def test_answers_are_measured_as_bytes(msfc, tmp_path, monkeypatch):
    """Of the whole network, which runs once an image."""
    off, answers = {"MODEL__FEATCOMP__ENABLED": False}, "MODEL__FEATCOMP__ANSWERS__"
    settings = {"uncut": msfc("png", 4, "uncut", **off)}
    for score in ("0.0", "0.4", "1.0"):
        of_answers = {f"{answers}ENABLED": True, f"{answers}SCORE": score}
        settings[score] = msfc("png", 4, f"answers{score}", **off, **of_answers)
    calls, forward = [], GeneralizedRCNN.forward

    def counted(network, inputs):
        calls.append(len(inputs))
        return forward(network, inputs)

    monkeypatch.setattr(GeneralizedRCNN, "forward", counted)
    found = measure_settings(settings, str(tmp_path / "records"))
    assert calls == [1] * IMAGES
    assert found["0.0"]["bbox"]["AP"] == pytest.approx(found["uncut"]["bbox"]["AP"], abs=0.05)
    kb = [found[score]["feature_rate"]["kB"] for score in ("0.0", "0.4", "1.0")]
    assert kb[0] > kb[1] >= kb[2] and kb[2] < 0.05 and "feature_rate" not in found["uncut"]
    same(measure_settings(settings), found)  # nothing is kept, and nothing else comes out


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
        same(found[name], alone(cfg))
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


def test_a_codec_that_alters_symbols_is_evaluated_by_itself(msfc, tmp_path):
    class Lying(PngCodec):
        name = "lying"

        def _encode(self, samples):
            return super()._encode(samples & 0xFE)

    IMAGE_CODEC_REGISTRY.register(Lying)
    try:
        settings = {"honest": msfc("png", 4), "not so": msfc("lying", 4)}
        found = measure_settings(settings, str(tmp_path / "records"))
        for name, cfg in settings.items():
            same(found[name], alone(cfg))
        assert found["honest"]["feature_rate"] != found["not so"]["feature_rate"]
    finally:
        IMAGE_CODEC_REGISTRY._obj_map.pop("lying")


def test_other_versions_are_measured_anew(msfc, tmp_path, monkeypatch):
    settings, records = {"a": msfc("png", 4)}, str(tmp_path / "records")
    measure_settings(settings, records)
    versions = measure.describe_versions()
    assert versions["d2_featcomp"] and versions["torch"] and versions["imagecodecs"]
    monkeypatch.setattr(measure, "describe_versions", lambda: {**versions, "imagecodecs": "0"})
    calls = Calls(monkeypatch)
    measure_settings(settings, records)
    assert calls.take() == (IMAGES, IMAGES)


def test_keys_on_which_no_number_depends(msfc, tmp_path, monkeypatch):
    records = str(tmp_path / "records")
    first = measure_settings({"a": msfc("png", 4)}, records)
    calls = Calls(monkeypatch)
    more = {"SOLVER__MAX_ITER": 3, "VIS_PERIOD": 2, "INPUT__MIN_SIZE_TRAIN": (7,)}
    more["MODEL__FEATCOMP__LOSS_WEIGHTS"] = (("loss_mask", 2.0),)
    assert measure_settings({"a": msfc("png", 4, "elsewhere", **more)}, records) == first
    assert calls.take() == (0, 0)
    measure_settings({"a": msfc("png", 4, INPUT__MIN_SIZE_TEST=64)}, records)
    assert calls.take() == (IMAGES, IMAGES)


def test_symbols_that_agree_with_a_result_on_some_images_only(msfc, tmp_path, monkeypatch):
    """The second setting sends what the first does, but of the last image."""
    first, second = {"a": msfc("png", 4)}, {"b": msfc("raw", 4)}
    records = str(tmp_path / "records")
    measure_settings(first, records)
    decode, position = SplitInference.decode, []

    def changed(network, stream, codec=None):
        tensors = decode(network, stream, codec)
        if stream.codec == "raw":
            position.append(stream)
            if len(position) % IMAGES == 0:
                return [-x for x in tensors]
        return tensors

    calls = Calls(monkeypatch)
    monkeypatch.setattr(SplitInference, "decode", changed)
    other = measure_settings(second, records)["b"]
    # The last image's outputs in the first pass over the images; in the second those of the others, for
    # which the result of the first setting is not kept image by image.
    assert calls.take() == (IMAGES + IMAGES - 1, 1 + IMAGES - 1)
    position.clear()
    kept = detections(second["b"])
    same(other, alone(second["b"]))
    assert kept == detections(second["b"])  # which that wrote anew
    assert [a == b for a, b in zip(kept, detections(first["a"]), strict=True)] == [
        True,
        True,
        True,
        False,
    ]


def read_rates(cfg):
    with open(os.path.join(cfg.OUTPUT_DIR, "inference", "feature_rates.csv")) as file:
        return file.read()


def test_an_evaluator_of_which_nothing_is_known(msfc, tmp_path, monkeypatch):
    monkeypatch.setattr("d2_featcomp.experiments.measure.can_collect", lambda evaluator: False)
    settings = {"png": msfc("png", 4), "raw": msfc("raw", 4)}
    calls = Calls(monkeypatch)
    found = measure_settings(settings, str(tmp_path / "records"))
    assert calls.take() == (IMAGES, IMAGES)
    for name, cfg in settings.items():
        same(found[name], alone(cfg))
    calls.take()
    settings["png under another name"] = msfc("png", 4, "other")
    again = measure_settings(settings, str(tmp_path / "records"))
    assert calls.take() == (0, 0)
    same(again, {**found, "png under another name": found["png"]})
    rates = {name: read_rates(cfg) for name, cfg in settings.items()}
    assert rates["png"] == rates["png under another name"] != rates["raw"]
    same(
        measure_settings({"first": settings["png"], "second": msfc("png", 4, "third")}),
        {"first": found["png"], "second": found["png"]},
    )
    assert read_rates(msfc("png", 4, "third")) == rates["png"]


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
